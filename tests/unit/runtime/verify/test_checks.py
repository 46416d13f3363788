"""The parts of the four checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from resformer.compiler.files.build import read_build
from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.ops import LIF, Conv2d, Dense, Relay
from resformer.compiler.ir.program import real_weight
from resformer.compiler.samples.arrays import ArraySamples
from resformer.models.checkpoint import load_checkpoint
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.verify.checks import before_spikes, check_batch, differing_weights, recorded_names
from resformer.runtime.verify.conclude import logit_tolerance
from resformer.runtime.verify.sides import load_sides
from resformer.runtime.verify.torch_network import TorchNetwork, open_checkpoint
from support.builds import Tiny, program_of


def test_all_but_the_readout_comes_before_spikes(tiny: Tiny) -> None:
    program = program_of(tiny.build)
    after = {node.name for node in program} - before_spikes(program)
    assert {"avgpool", "flatten", "classifier", "output"} <= after
    assert not any(isinstance(program[name].op, LIF) for name in after)
    last_residual = "layers.1.2.add"
    assert all(
        name.startswith((last_residual, "avgpool", "flatten", "classifier", "output", "layers.1.2.down.1"))
        for name in after
    ), after


def test_neurons_and_logits_are_recorded(tiny: Tiny) -> None:
    program = program_of(tiny.build)
    names = recorded_names(program)
    assert set(program.lif_names) < set(names)
    assert {"prologue.2", "layers.0.0.matmul1", "layers.0.0.matmul2", "output"} < set(names)
    assert len(set(names)) == len(names)


def test_weights_are_compared_one_by_one(tiny: Tiny) -> None:
    program, state = program_of(tiny.build), dict(load_checkpoint(tiny.build / "quantized.pt").state)
    counts = differing_weights(program, state)
    synapses = [node for node in program if isinstance(node.op, Conv2d | Dense)]
    assert counts == {node.name: (node.op.weight.size, 0) for node in synapses}
    for name in ("layers.0.0.W.weight", "classifier.weight"):
        state[name] = state[name].clone()
        state[name].view(-1)[-1] += 2.0**-40
    counts = differing_weights(program, state)
    # the last row of W is the last head's y2
    assert {name for name, (_, wrong) in counts.items() if wrong} == {"layers.0.0.W.y2", "classifier"}
    assert sum(wrong for _, wrong in counts.values()) == 2


def test_the_tolerance_of_logits_is_far_below_one_weight(tiny: Tiny) -> None:
    program = program_of(tiny.build)
    weight = np.abs(real_weight(program, "classifier"))
    assert 0 < logit_tolerance(program) < weight[weight > 0].min() / 100


@pytest.mark.parametrize(("name", "area"), [("avgpool", 1), ("layers.1.2.add", 4)])
def test_a_relay_that_shifts_widens_the_tolerance_by_its_rounding(tiny: Tiny, name: str, area: int) -> None:
    """Half a unit in each of the values that the pool behind the relay, 2x2, adds up."""
    program = program_of(tiny.build)
    relay = next(node for node in program if isinstance(node.op, Relay) and node.name == f"{name}.relay")
    signal = replace(relay.op.signal, scale_exp=relay.op.signal.scale_exp - 3)
    edit = program.edit()
    edit.set_op(relay.name, replace(relay.op, shift=3, signal=signal))
    rounding = 0.5 * 2.0**-signal.scale_exp * area / 4
    row = np.abs(real_weight(program, "classifier")).sum(axis=1).max()
    expected = logit_tolerance(program) + 2 * rounding * row
    assert logit_tolerance(edit.finish()) == pytest.approx(expected)


def test_potentials_are_those_of_the_neurons(make_model: Callable[..., SpikingResformer]) -> None:
    for neuron in ("LIF", "PLIF"):
        network = TorchNetwork(make_model(neuron=neuron))
        name = "layers.0.0.activation_in"
        seen: dict[str, list[np.ndarray]] = {}

        def keep(layer: str, currents: torch.Tensor, spikes: torch.Tensor, seen: dict = seen) -> None:
            seen[layer] = [currents.numpy().copy(), spikes.numpy().copy()]

        samples = np.random.default_rng(1).random((2, 4, 2, 16, 16))
        network.run(samples, keep)
        currents, spikes = seen[name]
        assert 0 < spikes.mean() < 1
        for neuron_index in np.ndindex(1, 3, 2, 2):
            index = (slice(None), *neuron_index)
            flat = int(np.ravel_multi_index(neuron_index[1:], currents.shape[2:]))
            potentials = network.potentials(name, flat, currents[:, :1])
            np.testing.assert_array_equal(potentials >= 1, spikes[index] == 1)


def test_a_copied_network_keeps_its_own_potentials(tiny: Tiny) -> None:
    network = open_checkpoint(tiny.model, timesteps=4, image_size=16)
    twin = network.copy()
    assert twin.neurons.keys() == network.neurons.keys()
    assert all(twin.neurons[name] is not neuron for name, neuron in network.neurons.items())


def test_a_graph_that_a_pass_left_as_it_was_is_run_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    build, program, ran = read_build(tiny.build), program_of(tiny.build), list[int]()
    sides = load_sides(build, program, tiny.model)
    one, other = (sides.graphs[stage] for stage in ("import", "fold_batchnorm"))
    run = float_interpreter.run

    def counted(graph: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        ran.append(id(graph))
        return run(graph, *arguments, **options)

    monkeypatch.setattr(float_interpreter, "run", counted)
    stages = {"import": one, "nothing": one.edit().finish(), "fold_batchnorm": other, "again": other.edit().finish()}
    # a graph whose neurons fire far less, behind a graph that equals the import's
    quiet = one.edit()
    neurons = next(node for node in one if node.name in program.lif_names)
    quiet.set_op(neurons.name, replace(neurons.op, v_threshold=neurons.op.v_threshold * 4))
    stages["quiet"] = quiet.finish()
    samples = ArraySamples(np.load(tiny.images)[:1], counts=False)
    tally = check_batch(replace(sides, graphs=stages), samples, 0, 1, None)
    assert ran == [id(stages[name]) for name in ("import", "fold_batchnorm", "quiet")]
    assert len({comparison.total for comparison in tally.float_graph.values()}) == 1
    wrong = {stage: comparison.wrong for stage, comparison in tally.float_graph.items()}
    assert wrong.pop("quiet") > 0
    assert set(wrong.values()) == {0}
