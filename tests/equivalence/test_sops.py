"""SOPs equal those of the authors' ``SOPMonitor`` definition, counted with hooks on SpikingJelly, to the last unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

import resformer
from resformer.compiler.placement.activity import measure
from resformer.models.checkpoint import save_checkpoint
from resformer.models.spikingresformer import VARIANTS, Architecture, SpikingResformer
from resformer.runtime.run.encode import decode, encode
from resformer.runtime.verify.module_sides import module_sides
from support.modules import SEWResNet, SpikingVGG, calibrated, integrate_and_fire
from support.sop_monitor import count_sops

TI = {each.name: getattr(VARIANTS["ti"], each.name) for each in dataclasses.fields(Architecture)} | {"image_size": 64}
"""SpikingResformer-Ti for 64 x 64 pixels; benchmarks/sops.py counts it at 224 x 224."""

MNIST = Path(__file__).parents[2] / "examples" / "mnist"


def compare(path: Path, images: npt.NDArray[Any]) -> None:
    counted = count_sops(path, images)
    assert counted.ours == counted.monitor
    assert sum(map(sum, counted.monitor.values())) > 0


@pytest.mark.parametrize(
    ("fields", "frames"),
    [
        ({}, False),
        ({"stem": "imagenet", "in_channels": 3}, False),
        ({"neuron": "PLIF", "stem": "conv3x3"}, True),
        ({"planes": (8,), "blocks": (("DSSA", "GWFFN"),), "num_heads": (2,), "patch_sizes": (4,)}, False),
        (TI, False),
    ],
)
def test_random_networks(
    make_model: Callable[..., SpikingResformer], tmp_path: Path, fields: dict[str, Any], frames: bool
) -> None:
    if len(fields.get("planes", ())) == 1:
        fields |= {"ffn_ratios": (3,), "ffn_convs": (1,), "group_sizes": (4,)}
    model = make_model(**fields)
    path = tmp_path / "model.pt"
    save_checkpoint(model, path)
    steps = (model.timesteps,) if frames else ()
    shape = (2, *steps, model.architecture.in_channels, model.image_size, model.image_size)
    compare(path, np.random.default_rng(5).random(shape))


def test_mnist() -> None:
    compare(MNIST / "spikingresformer_mnist.pt", np.load(MNIST / "test_images.npy")[:2] / 255)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: SEWResNet((4, 6), (2, 1), integrate_and_fire), (4, 2, 3, 12, 12)),
        (lambda: SpikingVGG((4, "M", 6, "A", 8), integrate_and_fire), (2, 3, 16, 16)),
    ],
)
def test_modules_whose_layers_read_counts(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    """Compared with counts by hooks on the module; each value that is not zero is one event."""
    example = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    compiled = resformer.compile(calibrated(make(), example), example, "sim")
    samples = (example if example.dim() == 4 else example.transpose(0, 1)).numpy()
    found = measure(compiled.program, compiled.run(samples, record=True).spikes).sops

    quantized = module_sides(compiled.compilation, compiled.quantized_state()).quantized
    assert quantized is not None
    expected: dict[str, float] = {}

    def hook(name: str) -> Callable[..., None]:
        def count(module: Any, inputs: Any, _output: Any) -> None:
            events = (inputs[0] != 0).double()
            ones = torch.ones_like(module.weight)
            if isinstance(module, nn.Linear):
                total = torch.nn.functional.linear(events, ones)
            else:
                merged = events.flatten(0, -4)
                total = torch.nn.functional.conv2d(merged, ones, None, module.stride, module.padding)
            expected[name] = float(total.sum())

        return count

    for name, module in quantized.model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(hook(name))
    quantized.run(
        decode(encode(samples.astype(np.float64), compiled.program).values, compiled.program), lambda *_: None
    )
    layers = list(expected)[1:-1]
    assert {name: float(found[name].sum()) for name in layers} == {name: expected[name] for name in layers}
    assert found.keys() == set(layers)
    assert all(expected[name] > 0 for name in layers)
