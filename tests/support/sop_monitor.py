"""SOPs as the authors' ``SOPMonitor`` defines them, counted with hooks on SpikingJelly, without our counting code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional
from torch import nn

from resformer.compiler.backends import open_backend
from resformer.compiler.export.checkpoint import quantized_state
from resformer.compiler.ir.trace import SpikeTrain
from resformer.compiler.pipeline import compile_checkpoint
from resformer.compiler.placement.activity import measure
from resformer.models.layers import SpikeMatMul
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.run.encode import decode, encode
from resformer.runtime.verify.torch_network import TorchNetwork

Counts = dict[str, list[int]]
"""SOPs of each layer at each step."""


@dataclass(frozen=True)
class SopComparison:
    """Both counts, summed over the samples.

    Attributes:
        ours: From the program's spikes, by ``resformer.compiler.placement.activity``.
        monitor: By hooks on SpikingJelly.
        same_spikes: How many places of spikes were compared between the two networks; 0 where decays are rounded.
    """

    ours: Counts
    monitor: Counts
    same_spikes: int


def hooked_sops(model: SpikingResformer, samples: npt.NDArray[np.float64]) -> Counts:
    """SOPs of each module at each step, summed over samples: outputs with all weights and real operands set to one."""
    found: Counts = {}

    def convolution(name: str, module: nn.Conv2d) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: Any, _output: Any) -> None:
            (x,) = inputs
            assert ((x == 0) | (x == 1)).all(), name
            ones = torch.ones_like(module.weight)
            found[name] = [
                int(F.conv2d(step, ones, None, module.stride, module.padding, module.dilation, module.groups).sum())
                for step in x
            ]

        return hook

    def product(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: Any, _output: Any) -> None:
            real, spikes = inputs
            found[name] = [int(each.sum()) for each in torch.matmul(torch.ones_like(real), spikes)]

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and not name.startswith("prologue"):
            module.register_forward_hook(convolution(name, module))
        elif isinstance(module, SpikeMatMul):
            module.register_forward_hook(product(name))
    with torch.no_grad():
        functional.reset_net(model)
        model(torch.from_numpy(samples))
    return found


def count_sops(path: Path, images: npt.NDArray[Any]) -> SopComparison:
    """Count a checkpoint's SOPs on images in both ways.

    Args:
        path: The checkpoint.
        images: (N, C, H, W) or (N, T, C, H, W), real.
    """
    compilation = compile_checkpoint(path)
    program, architecture = compilation.program, compilation.source.architecture
    assert architecture is not None
    encoded = encode(images.astype(np.float64), program).values
    twin = SpikingResformer(architecture, timesteps=program.timesteps, image_size=compilation.source.image_size)
    twin.double().load_state_dict(quantized_state(compilation.quantized), strict=True)
    network, spikes = TorchNetwork(twin.eval()), {}
    inputs = decode(encoded, program)
    network.run(inputs, lambda name, _currents, fired: spikes.update({name: SpikeTrain.pack(fired.numpy())}))
    same = 0
    if program.is_dyadic:
        recorded = open_backend("sim")(program, encoded, record=True).spikes
        for name, train in spikes.items():
            assert recorded[name].mismatches(train) == 0, name
            same += train.size
        spikes = dict(recorded)
    # PLIF's decay is rounded in the program, so the spikes may differ: then SpikingJelly's own are counted
    activity = measure(program, spikes)

    # the program's two halves of W are one convolution in SpikingJelly
    counted: dict[str, npt.NDArray[np.int64]] = {}
    for name, steps in activity.sops.items():
        key = name.removesuffix(".y1").removesuffix(".y2")
        counted[key] = counted.get(key, np.zeros_like(steps)) + steps
    ours = {name: steps.tolist() for name, steps in counted.items()}
    assert activity.sops_per_sample == sum(map(sum, ours.values())) / len(images)
    return SopComparison(ours, hooked_sops(twin, inputs), same)
