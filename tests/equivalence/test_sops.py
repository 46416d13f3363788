"""SOPs equal those of the authors' ``SOPMonitor`` definition, counted with hooks on SpikingJelly, to the last unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from resformer.models.checkpoint import save_checkpoint
from resformer.models.spikingresformer import VARIANTS, Architecture, SpikingResformer
from support.sop_monitor import count_sops

TI = {each.name: getattr(VARIANTS["ti"], each.name) for each in dataclasses.fields(Architecture)} | {"image_size": 64}
"""SpikingResformer-Ti but for its size; at 224 x 224, benchmarks/sops.py counts it."""

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
