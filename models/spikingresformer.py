"""SpikingResformer itself: its architecture as plain data, and the network that the data describes.

Source: arXiv 2403.14302, table 1, and the authors' ``models/spikingresformer.py``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

import torch
from spikingjelly.activation_based import layer
from torch import nn

from resformer.errors import InputError, UnsupportedError
from resformer.models.layers import DSSA, GWFFN, BatchNorm, Downsample, NeuronKind

BlockKind = Literal["DSSA", "GWFFN"]
StemKind = Literal["imagenet", "conv3x3"]
Rounding = Literal["floor", "ceil"]


class Stem(NamedTuple):
    """What lies before the first stage: a convolution, its batch normalisation, and perhaps a 3x3 max-pool of stride 2.

    Attributes:
        edge: edge of the convolution's kernel, in pixels.
        stride: stride of the convolution.
        pool: whether there is a max-pool.
    """

    edge: int
    stride: int
    pool: bool


PUBLISHED_STEMS: Mapping[StemKind, Stem] = MappingProxyType(
    {"imagenet": Stem(edge=7, stride=2, pool=True), "conv3x3": Stem(edge=3, stride=1, pool=False)}
)
"""The stems that the authors use; the kernel's edge tells them apart."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything about a SpikingResformer except T and the image size.

    Most fields follow from the shapes of its tensors. No tensor tells the stem's stride and pool, nor an IF from an
    LIF; the authors' choices are the defaults. No tensor depends on T or the image size.

    Attributes:
        planes: channels of each stage.
        blocks: the kinds of each stage's blocks, in order.
        num_heads: attention heads of each stage (1 where a stage has no DSSA).
        patch_sizes: DSSA's patch edge of each stage (1 where a stage has no DSSA).
        ffn_ratios: inner channels of each stage's GWFFN, divided by planes (1 where a stage has no GWFFN).
        ffn_convs: number of grouped 3x3 convolutions in each stage's GWFFN (1 where a stage has no GWFFN).
        group_sizes: channels in a group of those convolutions (1 where a stage has no GWFFN).
        in_channels: channels of the input.
        num_classes: number of logits.
        stem: ``imagenet`` is 7x7 of stride 2, BN, 3x3 max-pool of stride 2; ``conv3x3`` is 3x3 of stride 1, BN.
        neuron: which neuron every population is.
        stem_stride: stride of the stem's convolution if it differs from that of ``stem``; else None.
        stem_pool: whether the max-pool follows, if that differs from ``stem``; else None. ``stem_layout`` has the
            values in either case.

    Raises:
        UnsupportedError: where the fields contradict each other.
    """

    planes: tuple[int, ...]
    blocks: tuple[tuple[BlockKind, ...], ...]
    num_heads: tuple[int, ...]
    patch_sizes: tuple[int, ...]
    ffn_ratios: tuple[int, ...]
    ffn_convs: tuple[int, ...]
    group_sizes: tuple[int, ...]
    in_channels: int = 3
    num_classes: int = 1000
    stem: StemKind = "imagenet"
    neuron: NeuronKind = "LIF"
    stem_stride: int | None = None
    stem_pool: bool | None = None

    @property
    def stem_layout(self) -> Stem:
        """The stem in numbers."""
        published = PUBLISHED_STEMS[self.stem]
        return Stem(
            published.edge,
            published.stride if self.stem_stride is None else self.stem_stride,
            published.pool if self.stem_pool is None else self.stem_pool,
        )

    def __post_init__(self) -> None:
        per_stage = ("planes", "blocks", "num_heads", "patch_sizes", "ffn_ratios", "ffn_convs", "group_sizes")
        lengths = {name: len(getattr(self, name)) for name in per_stage}
        if not self.planes or len(set(lengths.values())) != 1:
            raise UnsupportedError(f"every stage needs one value of each, but the lengths are {lengths}")
        for name, kinds in (("stem", StemKind), ("neuron", NeuronKind)):
            if getattr(self, name) not in get_args(kinds):
                raise UnsupportedError(
                    f"{name} is {getattr(self, name)!r}: must be one of {', '.join(get_args(kinds))}"
                )
        if self.in_channels < 1 or self.num_classes < 1:
            raise UnsupportedError(
                f"in_channels {self.in_channels} and num_classes {self.num_classes}: each must be at least 1"
            )
        stem = self.stem_layout
        if not 1 <= stem.stride <= stem.edge:
            raise UnsupportedError(
                f"stem_stride is {stem.stride}: must be 1 to {stem.edge}, the edge of the stem's kernel, or pixels are "
                "left out"
            )
        # each network has one description: values that are those of the published stem become None
        published = PUBLISHED_STEMS[self.stem]
        if stem.stride == published.stride:
            object.__setattr__(self, "stem_stride", None)
        if stem.pool == published.pool:
            object.__setattr__(self, "stem_pool", None)
        for stage in range(len(self.planes)):
            self._check_stage(stage)

    def _check_stage(self, stage: int) -> None:
        where = f"stage {stage}"
        for name in ("planes", "num_heads", "patch_sizes", "ffn_ratios", "ffn_convs", "group_sizes"):
            if getattr(self, name)[stage] < 1:
                raise UnsupportedError(f"{where}: {name} is {getattr(self, name)[stage]}: must be at least 1")
        if not self.blocks[stage]:
            raise UnsupportedError(f"{where} has no blocks: each stage needs a DSSA or a GWFFN")
        for kind in self.blocks[stage]:
            if kind not in get_args(BlockKind):
                raise UnsupportedError(f"{where}: block {kind!r} is unknown: blocks are DSSA or GWFFN")
        planes, heads, group_size = self.planes[stage], self.num_heads[stage], self.group_sizes[stage]
        if planes % heads:
            raise UnsupportedError(f"{where}: {planes} planes cannot be split evenly into {heads} heads")
        inner = planes * self.ffn_ratios[stage]
        if inner % group_size:
            raise UnsupportedError(f"{where}: {inner} inner channels cannot be split into groups of {group_size}")


def _three_stages(
    planes: tuple[int, int, int],
    num_heads: tuple[int, int, int],
    *,
    group_size: int = 64,
    num_classes: int = 1000,
    stem: StemKind = "imagenet",
    neuron: NeuronKind = "LIF",
) -> Architecture:
    """Return the layout that all published variants share: 1, 2 and 3 pairs of blocks, patches of 4, 2 and 1."""
    return Architecture(
        planes=planes,
        blocks=(("DSSA", "GWFFN"), ("DSSA", "GWFFN") * 2, ("DSSA", "GWFFN") * 3),
        num_heads=num_heads,
        patch_sizes=(4, 2, 1),
        ffn_ratios=(4, 4, 4),
        ffn_convs=(1, 1, 1),
        group_sizes=(group_size,) * 3,
        num_classes=num_classes,
        stem=stem,
        neuron=neuron,
    )


VARIANTS = MappingProxyType(
    {
        "ti": _three_stages((64, 192, 384), (1, 3, 6)),
        "s": _three_stages((64, 256, 512), (1, 4, 8)),
        "m": _three_stages((64, 384, 768), (1, 6, 12)),
        "l": _three_stages((128, 512, 1024), (2, 8, 16)),
        "cifar": _three_stages((64, 192, 384), (1, 3, 6), num_classes=10, stem="conv3x3"),
        "dvsg": _three_stages((32, 96, 192), (1, 3, 6), group_size=32, num_classes=11, stem="conv3x3", neuron="PLIF"),
    }
)
"""The authors' variants by name, with the number of classes that they train each for."""

LARGEST_IMAGE_SIZE = 4096
"""The largest edge of an image, in pixels: each neuron has parameters, and those of far larger images do not fit into
memory."""


def _check_filled(architecture: Architecture, image_size: int, rounding: Rounding | None) -> None:
    """Check that patches fill each stage's feature map.

    A convolution or pool of stride 2 here gives ceil(n / 2) pixels, so sizes are always rounded up, whatever the
    rounding by which ``patch_counts`` counts.

    Raises:
        UnsupportedError: where a stage's size is not divisible by its patch size, or the image is too large. The sizes
            that the message recommends work with ``rounding``, or with both roundings if that is None.
    """
    if image_size > LARGEST_IMAGE_SIZE:
        raise UnsupportedError(f"image size {image_size}: the limit is {LARGEST_IMAGE_SIZE}; choose a smaller one")
    sizes = _sizes(architecture, image_size, "ceil")
    for stage, (size, patch_size) in enumerate(zip(sizes, architecture.patch_sizes, strict=True)):
        if size < 1 or size % patch_size:
            raise UnsupportedError(
                f"image size {image_size}: stage {stage} is {size}x{size}, which patches of {patch_size}x{patch_size} "
                f"do not fill; {_advice(architecture, image_size, rounding)}"
            )


def patch_counts(architecture: Architecture, image_size: int, rounding: Rounding | None) -> tuple[int, ...]:
    """Return L of each stage: the number of patches by which DSSA scales its attention.

    The authors' class is told the image size and halves it by ``n // 2``, while its convolutions make ceil(n / 2)
    pixels. Where a size is odd at such a step, the authors' L is smaller than the real number of patches. A network
    that was trained with that L needs it at inference.

    Args:
        architecture: the network's.
        image_size: edge of the square input, in pixels.
        rounding: ``floor`` for the authors' L, ``ceil`` for the real number of patches; None if both must agree.

    Raises:
        UnsupportedError: where patches do not fill a stage, L would be 0, or no rounding is given and the two differ.
    """
    _check_filled(architecture, image_size, rounding)
    floor, ceil = (_counts(architecture, image_size, each) for each in ("floor", "ceil"))
    for stage in _attentive(architecture):
        if rounding is None and floor[stage] != ceil[stage]:
            raise UnsupportedError(
                f"image size {image_size}: stage {stage} has {ceil[stage]} patches, but the authors' class, which "
                f"rounds sizes down, scales its attention as if there were {floor[stage]}, and no tensor tells which "
                "the network was trained with; say feature rounding floor (as they do) or ceil, or choose a size where "
                f"both agree: {_advice(architecture, image_size, None)}"
            )
        if rounding == "floor" and floor[stage] < 1:
            raise UnsupportedError(
                f"image size {image_size}: stage {stage} has no patch where sizes are rounded down; "
                f"{_advice(architecture, image_size, rounding)}"
            )
    return floor if rounding == "floor" else ceil


def nearest_image_sizes(architecture: Architecture, image_size: int, rounding: Rounding | None) -> tuple[int, ...]:
    """Return the image edges, in pixels, next to ``image_size`` at which the network can be built: up to two.

    Args:
        architecture: the network's.
        image_size: the edge asked for; the results are the next smaller one, and the next one of at least this edge.
        rounding: see ``patch_counts``.
    """
    start = min(max(image_size, 1), LARGEST_IMAGE_SIZE)
    below = (size for size in range(start - 1, 0, -1) if _works(architecture, size, rounding))
    above = (size for size in range(start, LARGEST_IMAGE_SIZE + 1) if _works(architecture, size, rounding))
    return tuple(size for size in (next(below, None), next(above, None)) if size is not None)


def smallest_image_size(architecture: Architecture) -> int:
    """Return an image edge, in pixels, whose multiples all give each stage whole patches, with either rounding."""
    stem = architecture.stem_layout
    stem_stride = stem.stride * (2 if stem.pool else 1)
    return (stem_stride << (len(architecture.planes) - 1)) * math.lcm(*architecture.patch_sizes)


def _sizes(architecture: Architecture, image_size: int, rounding: Rounding) -> tuple[int, ...]:
    """The edge of each stage's feature map, with divisions rounded by ``rounding``."""
    stem = architecture.stem_layout

    def divided(size: int, stride: int) -> int:
        return size // stride if rounding == "floor" else -(-size // stride)

    size = divided(image_size, stem.stride)
    if stem.pool:
        size = divided(size, 2)
    sizes = [size]
    for _ in architecture.planes[1:]:
        sizes.append(divided(sizes[-1], 2))
    return tuple(sizes)


def _counts(architecture: Architecture, image_size: int, rounding: Rounding) -> tuple[int, ...]:
    """The number of whole patches of each stage."""
    sizes = _sizes(architecture, image_size, rounding)
    return tuple((size // patch) ** 2 for size, patch in zip(sizes, architecture.patch_sizes, strict=True))


def _attentive(architecture: Architecture) -> list[int]:
    """The stages that have a DSSA; the others do not use L."""
    return [stage for stage, blocks in enumerate(architecture.blocks) if "DSSA" in blocks]


def _works(architecture: Architecture, image_size: int, rounding: Rounding | None) -> bool:
    """Whether ``patch_counts`` returns without an error."""
    sizes = _sizes(architecture, image_size, "ceil")
    if any(size < 1 or size % patch for size, patch in zip(sizes, architecture.patch_sizes, strict=True)):
        return False
    floor, ceil = (_counts(architecture, image_size, each) for each in ("floor", "ceil"))
    stages = _attentive(architecture)
    if rounding is None:
        return all(floor[stage] == ceil[stage] for stage in stages)
    return rounding == "ceil" or all(floor[stage] >= 1 for stage in stages)


def _advice(architecture: Architecture, image_size: int, rounding: Rounding | None) -> str:
    """Advice on which image sizes to take instead, for the end of a message."""
    nearest = nearest_image_sizes(architecture, image_size, rounding)
    if not nearest:
        return f"no size up to {LARGEST_IMAGE_SIZE} fits this network"
    smallest = smallest_image_size(architecture)
    multiples = f", as does every multiple of {smallest} up to {LARGEST_IMAGE_SIZE}"
    return (
        f"{' and '.join(map(str, nearest))} work{'s' if len(nearest) == 1 else ''}"
        f"{multiples if smallest <= LARGEST_IMAGE_SIZE else ''}"
    )


class SpikingResformer(nn.Module):
    """A SpikingResformer whose state dict has the authors' names and shapes.

    The neurons keep their membrane potential between calls: call ``functional.reset_net(model)`` of
    ``spikingjelly.activation_based`` before each batch. In training mode each call also updates batch statistics and
    DSSA's firing rates, which a new network holds as zero: it cannot infer before it has trained one batch.

    Args:
        architecture: what the tensors' shapes tell.
        timesteps: T, how often an image is presented; event data bring their own T.
        image_size: edge of the square input, in pixels.
        feature_rounding: how DSSA's number of patches is counted, see ``patch_counts``.
        assumptions: the choices that nobody stated, a sentence each; they are only kept, so that callers can print
            them.

    Raises:
        UnsupportedError: where a stage's size is not divisible by its patch size, or ``feature_rounding`` is None and
            matters.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        timesteps: int,
        image_size: int,
        feature_rounding: Rounding | None = "ceil",
        assumptions: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        if feature_rounding not in (None, *get_args(Rounding)):
            raise UnsupportedError(
                f"feature_rounding is {feature_rounding!r}: must be one of {', '.join(get_args(Rounding))}"
            )
        if timesteps < 1:
            raise UnsupportedError(f"timesteps is {timesteps}: must be at least 1")
        self.architecture = architecture
        self.timesteps = timesteps
        self.image_size = image_size
        self.feature_rounding = feature_rounding
        self.assumptions = assumptions

        self.prologue = self._stem()
        self.layers = nn.Sequential(
            *(
                self._stage(stage, patches)
                for stage, patches in enumerate(patch_counts(architecture, image_size, feature_rounding))
            )
        )
        self.avgpool = layer.AdaptiveAvgPool2d((1, 1), step_mode="m")
        self.classifier = layer.Linear(architecture.planes[-1], architecture.num_classes, bias=False, step_mode="m")
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)

    def _stem(self) -> nn.Sequential:
        in_channels, planes = self.architecture.in_channels, self.architecture.planes[0]
        stem = self.architecture.stem_layout
        conv = layer.Conv2d(
            in_channels,
            planes,
            kernel_size=stem.edge,
            stride=stem.stride,
            padding=stem.edge // 2,
            bias=False,
            step_mode="m",
        )
        pool = (layer.MaxPool2d(kernel_size=3, stride=2, padding=1, step_mode="m"),) if stem.pool else ()
        return nn.Sequential(conv, BatchNorm(planes), *pool)

    def _stage(self, stage: int, patches: int) -> nn.Sequential:
        """Return one stage, whose attention is scaled for ``patches`` patches."""
        net = self.architecture
        planes, patch_size = net.planes[stage], net.patch_sizes[stage]
        modules: list[nn.Module] = []
        if stage > 0:
            modules.append(Downsample(net.planes[stage - 1], planes, neuron_kind=net.neuron))
        for kind in net.blocks[stage]:
            if kind == "DSSA":
                modules.append(
                    DSSA(
                        planes,
                        num_heads=net.num_heads[stage],
                        num_patches=patches,
                        patch_size=patch_size,
                        neuron_kind=net.neuron,
                    )
                )
            else:
                modules.append(
                    GWFFN(
                        planes,
                        ratio=net.ffn_ratios[stage],
                        num_convs=net.ffn_convs[stage],
                        group_size=net.group_sizes[stage],
                        neuron_kind=net.neuron,
                    )
                )
        return nn.Sequential(*modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of every step, (T, N, classes); the prediction is their mean over T.

        Args:
            x: images (N, C, H, W), each presented T times, or event frames (N, T, C, H, W).

        Raises:
            InputError: where x has another shape than the network was built for.
        """
        channels, size = self.architecture.in_channels, self.image_size
        if x.dim() not in (4, 5) or tuple(x.shape[-3:]) != (channels, size, size):
            raise InputError(
                f"the input has shape {tuple(x.shape)}: this network takes (N, {channels}, {size}, {size}) or "
                f"(N, T, {channels}, {size}, {size}); resize the input, or build the network for its size"
            )
        # The stem's real values are the same at every step; it is run T times all the same, as the hardware will.
        x = x.unsqueeze(0).repeat(self.timesteps, 1, 1, 1, 1) if x.dim() == 4 else x.transpose(0, 1)
        features = self.avgpool(self.layers(self.prologue(x)))
        logits: torch.Tensor = self.classifier(torch.flatten(features, 2))
        return logits
