"""The networks, weights and inputs on which our zoo is held against its authors' code.

Everything follows from names and shapes alone, so that ``compare_zoo.py``, which runs the authors' code, and
``test_zoo.py``, which does not, arrive at the same network.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import neuron
from torch import nn

from resformer.models.zoo.maxformer import MaxFormerArchitecture
from resformer.models.zoo.meta_spikeformer import MetaSpikeFormerArchitecture
from resformer.models.zoo.names import FamilyName
from resformer.models.zoo.qkformer import QKFormerArchitecture
from resformer.models.zoo.recognise import ZooArchitecture
from resformer.models.zoo.sdt import SDTArchitecture
from resformer.models.zoo.sdt_v3 import LevelNeuron, SDTV3Architecture
from resformer.models.zoo.sew_resnet import SEWResNetArchitecture
from resformer.models.zoo.spikformer import SpikformerArchitecture
from resformer.models.zoo.spikingformer import SpikingformerArchitecture


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network of a family.

    Attributes:
        family: of the network.
        name: of the case; the folder of the authors' repository where that has several.
        architecture: of ours.
        size: edge of the input, in pixels.
        timesteps: T.
        frames: whether the input has an image a step, (T, 1, C, H, W), rather than one, (1, C, H, W).
    """

    family: FamilyName
    name: str
    architecture: ZooArchitecture
    size: int
    timesteps: int = 4
    frames: bool = False


def _spikformer() -> list[Case]:
    make = SpikformerArchitecture
    return [
        Case(family="spikformer", name="cifar10", architecture=make(embed_dims=48, depth=2, num_heads=3), size=32),
        Case(
            family="spikformer",
            name="cifar10 ratio 2",
            architecture=make(embed_dims=32, depth=1, num_heads=4, mlp_ratio=2),
            size=24,
        ),
        Case(
            family="spikformer",
            name="imagenet",
            architecture=make(embed_dims=64, depth=2, num_heads=8, num_classes=20, layout="imagenet"),
            size=64,
        ),
        Case(
            family="spikformer",
            name="cifar10dvs",
            architecture=make(embed_dims=32, depth=2, num_heads=4, in_channels=2, layout="dvs"),
            size=128,
            frames=True,
        ),
    ]


def _spikingformer() -> list[Case]:
    make = SpikingformerArchitecture
    images = {
        "cifar10": (make(embed_dims=48, depth=2, num_heads=3), 32),
        "cifar100": (make(embed_dims=32, depth=1, num_heads=4, mlp_ratio=2, num_classes=100), 24),
        "imagenet": (make(embed_dims=64, depth=2, num_heads=8, layout="imagenet"), 64),
    }
    events = {"cifar10-dvs": 10, "dvs128-gesture": 11}
    return [
        *(
            Case(family="spikingformer", name=name, architecture=architecture, size=size)
            for name, (architecture, size) in images.items()
        ),
        *(
            Case(
                family="spikingformer",
                name=name,
                architecture=make(
                    embed_dims=32,
                    depth=2,
                    num_heads=4,
                    in_channels=2,
                    num_classes=classes,
                    layout="imagenet",
                    tau=1.5,
                ),
                size=128,
                frames=True,
            )
            for name, classes in events.items()
        ),
    ]


def _qkformer() -> list[Case]:
    make = QKFormerArchitecture
    wide = make(embed_dims=96, depths=(1, 1, 1), num_heads=8, mlp_ratio=2, num_classes=100)
    event = make(embed_dims=64, depths=(1, 1), num_heads=16, in_channels=2, layout="dvs", mlp_ratio=1)
    networks = {
        "cifar10": (make(embed_dims=64, depths=(1, 1, 2), num_heads=8), 32),
        "cifar100": (wide, 24),
        "imagenet": (make(embed_dims=64, depths=(1, 2, 2), num_heads=4, layout="imagenet"), 64),
        "cifar10-dvs": (event, 64),
        "dvs128-gesture": (make(embed_dims=32, depths=(1, 1), num_heads=16, in_channels=2, layout="dvs"), 64),
    }
    return [
        Case(family="qkformer", name=name, architecture=net, size=size, frames=net.in_channels == 2)
        for name, (net, size) in networks.items()
    ]


def _sdt() -> list[Case]:
    make = SDTArchitecture
    networks = {
        "cifar": (make(embed_dims=48, depth=2, num_heads=4), 32),
        "imagenet": (make(embed_dims=64, depth=2, num_heads=8, num_classes=200, pooling="1111"), 64),
        "gesture": (make(embed_dims=32, depth=2, num_heads=8, in_channels=2, num_classes=11, pooling="0111"), 64),
        "cifar10-dvs": (make(embed_dims=32, depth=2, num_heads=8, in_channels=2, pools_attention=True), 32),
        "plif": (make(embed_dims=32, depth=1, num_heads=2, neuron="PLIF"), 32),
        "equal widths": (make(embed_dims=32, depth=2, num_heads=2, mlp_ratio=1), 32),
    }
    return [
        Case(family="sdt", name=name, architecture=net, size=size, frames=net.in_channels == 2)
        for name, (net, size) in networks.items()
    ]


def _sew_resnet() -> list[Case]:
    make = SEWResNetArchitecture  # the authors fix the widths, so these are as wide as theirs
    networks = (
        make(block="basic", depths=(2, 2, 2, 2), connect="ADD", num_classes=20),
        make(block="basic", depths=(1, 2, 1, 1), connect="AND", num_classes=20),
        make(block="basic", depths=(1, 1, 2, 1), connect="IAND", num_classes=20),
        make(block="bottleneck", depths=(1, 2, 1, 1), connect="ADD", num_classes=20),
        make(block="bottleneck", depths=(1, 1, 1, 1), connect="AND", num_classes=20),
        make(block="bottleneck", depths=(1, 1, 1, 2), connect="IAND", num_classes=20),
    )
    return [Case(family="sew_resnet", name=f"{net.block} {net.connect}", architecture=net, size=32) for net in networks]


def _meta_spikeformer() -> list[Case]:
    make = MetaSpikeFormerArchitecture
    distilled = make(embed_dims=(8, 16, 24, 40), num_heads=4, in_channels=1, num_classes=11, distilled=True)
    return [
        Case(
            family="meta_spikeformer",
            name="four steps",
            architecture=make(embed_dims=(16, 32, 48, 64), num_classes=20),
            size=64,
        ),
        Case(family="meta_spikeformer", name="distilled", architecture=distilled, size=64, timesteps=2),
    ]


def _maxformer() -> list[Case]:
    make = MaxFormerArchitecture  # the authors fix depths and heads
    networks = {
        "cifar10-100": (make(embed_dims=64, depths=(1, 1, 2), num_heads=8), 32),
        "imagenet": (make(embed_dims=128, depths=(1, 2, 7), num_heads=2, layout="imagenet"), 64),
        "event": (make(embed_dims=64, depths=(1, 1), num_heads=16, in_channels=2, layout="event"), 64),
    }
    return [
        Case(family="maxformer", name=name, architecture=net, size=size, frames=net.in_channels == 2)
        for name, (net, size) in networks.items()
    ]


def _sdt_v3() -> list[Case]:
    make = SDTV3Architecture
    networks = {
        "scale of a power of two": make(embed_dims=(16, 32, 32, 128), num_classes=20),
        "scale of 12 channels": make(embed_dims=(8, 16, 24, 48), num_heads=2, num_classes=10),
    }
    return [Case(family="sdt_v3", name=name, architecture=net, size=64, timesteps=1) for name, net in networks.items()]


CASES = (
    *_spikformer(),
    *_spikingformer(),
    *_qkformer(),
    *_sdt(),
    *_sew_resnet(),
    *_meta_spikeformer(),
    *_maxformer(),
    *_sdt_v3(),
)


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> torch.Tensor:
    """Return float64 numbers in [low, high) that depend on the name and the shape only."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return torch.tensor(low + (high - low) * np.random.default_rng(seed).random(shape), dtype=torch.float64)


def weights(template: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a value for each tensor, such that populations fire now and then, and no two values are alike."""

    def value(name: str, tensor: torch.Tensor) -> torch.Tensor:
        shape, module = tuple(tensor.shape), name.rpartition(".")[0]
        if name.endswith("num_batches_tracked"):
            return tensor
        if name.endswith("running_mean"):
            return uniform(name, shape, -0.2, 0.2)
        if name.endswith("running_var"):
            return uniform(name, shape, 0.7, 1.3)
        if name.endswith(".w"):  # tau is 1 / sigmoid(w): from 1.6 to 2.6
            return uniform(name, shape, -0.5, 0.5)
        if f"{module}.running_mean" in template:
            return uniform(name, shape, 0.8, 2.0) if name.endswith("weight") else uniform(name, shape, -0.2, 0.7)
        limit = math.sqrt(3 / (math.prod(shape[1:]) * 0.2)) if len(shape) > 1 else 0.2
        return uniform(name, shape, -limit, limit)

    return {name: value(name, tensor) for name, tensor in template.items()}


def network_input(case: Case) -> torch.Tensor:
    """Return the case's input, float64: (1, C, H, W), or (T, 1, C, H, W) of frames."""
    shape: tuple[int, ...] = (1, case.architecture.in_channels, case.size, case.size)
    if case.frames:
        shape = (case.timesteps, *shape)
    return uniform(f"input of {case.name}", shape, 0.0, 1.5)


def record(
    model: nn.Module, kinds: tuple[type[nn.Module], ...] = (neuron.BaseNode, LevelNeuron)
) -> dict[str, torch.Tensor]:
    """Keep what each population emits, by its name, as of the latest call."""
    emitted: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            module.register_forward_hook(
                lambda _module, _inputs, output, name=name: emitted.__setitem__(name, output.detach().clone())
            )
    return emitted


def vectors(
    state: Mapping[str, torch.Tensor], emitted: Mapping[str, torch.Tensor], logits: torch.Tensor
) -> dict[str, Any]:
    """Return what is kept of a case: tensors and populations counted and hashed, and the logits.

    Args:
        state: the network's state dict.
        emitted: what each population emitted, (T, 1, ...), as ``record`` keeps it of ours.
        logits: (1, classes).
    """
    shapes = hashlib.sha256(repr(sorted((name, tuple(each.shape)) for name, each in state.items())).encode())
    values = hashlib.sha256()
    for name in sorted(emitted):
        values.update(name.encode() + (emitted[name] + 0.0).contiguous().numpy().tobytes())
    return {
        "tensors": [len(state), shapes.hexdigest()[:16]],
        "fired": [sum(int(each.count_nonzero()) for each in emitted.values()), values.hexdigest()[:16]],
        "populations": len(emitted),
        "logits": logits.flatten()[:8].tolist(),
    }
