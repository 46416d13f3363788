"""The potentials on both sides of the place where two runs first differ."""

from __future__ import annotations

import numpy as np
import torch
from spikingjelly.activation_based import neuron

from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import Input
from resformer.compiler.ir.signal import Signal, SignalKind
from resformer.compiler.samples.arrays import ArraySamples
from resformer.runtime.run.trace import ElementPosition
from resformer.runtime.verify.diverge import backend_divergence
from resformer.runtime.verify.torch_network import TorchNetwork
from support.program_builder import ProgramBuilder


def test_a_potential_over_a_threshold_of_nothing_is_told_as_it_is() -> None:
    net = ProgramBuilder((2, 3, 3))
    net.nodes["input"] = Node("input", Input(Signal(SignalKind.GRADED, 0, -16, 16)), (), (2, 3, 3))
    spikes = net.lif("spikes", net.conv("conv", "input", 2), vth=0)
    net.conv("last", spikes, 2)
    samples = ArraySamples(net.samples(1).astype(np.float64), counts=False)
    found = backend_divergence(ElementPosition(0, 2, 0, (1, 0, 2)), "spikes", net.finish(), "sim", samples)
    side, _ = found.sides
    assert side.integer is not None
    assert side.potential == side.integer != 0


def test_a_module_whose_threshold_is_zero_tells_its_potentials() -> None:
    network = TorchNetwork(torch.nn.Sequential(neuron.IFNode(v_threshold=0.0, v_reset=-1.0, step_mode="m")).eval())
    currents = np.array([0.25, 0.5, 0.75])[:, None, None]
    np.testing.assert_array_equal(network.potentials("0", 0, currents), [-0.75, -0.25, 0.5])
