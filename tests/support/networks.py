"""Small networks, programs that the compiler made of them, and samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from spikingjelly.activation_based import functional
from torch import nn

from resformer.compiler.ir.program import Program
from resformer.compiler.pipeline import compile_checkpoint
from resformer.models.checkpoint import save_checkpoint
from resformer.models.spikingresformer import Architecture, SpikingResformer


def compiled(model: SpikingResformer, folder: Path) -> Program:
    """What the compiler makes of a network."""
    path = folder / "model.pt"
    save_checkpoint(model, path)
    return compile_checkpoint(path).program


def images(program: Program, count: int, steps: int | None = None) -> npt.NDArray[np.int32]:
    """Random samples, (count, C, H, W); with ``steps``, other values at each step, (count, steps, C, H, W)."""
    rng = np.random.default_rng(count)
    frames = () if steps is None else (steps,)
    high = program.input.op.signal.high
    assert high is not None
    largest = 4 if program.metadata.get("input") == "frames" else high
    return rng.integers(0, largest, (count, *frames, *program.input.shape)).astype(np.int32)


def with_input_range(program: Program, samples: npt.NDArray[np.int32]) -> Program:
    """The program with the samples' range as its input's range; without a range, backends must expect any int32."""
    node = program.input
    signal = replace(node.op.signal, low=int(samples.min(initial=0)), high=int(samples.max(initial=0)))
    return replace(program, nodes=(replace(node, op=replace(node.op, signal=signal)), *program.nodes[1:]))


def make_model(*, seed: int = 0, timesteps: int = 4, image_size: int = 0, **fields: Any) -> SpikingResformer:
    """A small random network in eval mode, float64, whose populations all fire now and then.

    Args:
        seed: The seed of the weights.
        timesteps: T.
        image_size: The edge of the images; 0 for the least that suits the stem.
        fields: Fields of ``Architecture`` that replace the small ones.
    """
    small = {
        "planes": (8, 12),
        "blocks": (("DSSA", "GWFFN"), ("DSSA", "GWFFN")),
        "num_heads": (1, 2),
        "patch_sizes": (2, 1),
        "ffn_ratios": (2, 2),
        "ffn_convs": (1, 2),
        "group_sizes": (4, 6),
        "in_channels": 2,
        "num_classes": 5,
    }
    architecture = Architecture(**(small | fields))
    image_size = image_size or (16 if architecture.stem == "imagenet" else 8)
    torch.manual_seed(seed)
    model = SpikingResformer(architecture, timesteps=timesteps, image_size=image_size).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, 0.0, 1.5)
            module.momentum = 1.0  # one batch sets the running statistics
    for name, parameter in model.named_parameters():
        if name.endswith(".w"):
            nn.init.uniform_(parameter, -0.5, 1.5)
    model.train()
    with torch.no_grad():
        model(torch.rand(8, architecture.in_channels, image_size, image_size, dtype=torch.float64))
    functional.reset_net(model)
    return model.eval()
