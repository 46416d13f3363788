"""SpikingResformer itself: its architecture as plain data, and the network that the data describes.

Source: arXiv 2403.14302, table 1, and the authors' ``models/spikingresformer.py``.
"""

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import torch
from spikingjelly.activation_based import layer
from torch import nn

from resformer.errors import InputError, UnsupportedError
from resformer.models.layers import DSSA, GWFFN, BatchNorm, Downsample, NeuronKind, conv3x3

BlockKind = Literal["DSSA", "GWFFN"]
StemKind = Literal["imagenet", "conv3x3"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything about a SpikingResformer that the shapes of its tensors tell, and nothing else.

    The number of steps and the image size are not in it: no tensor depends on them.

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
"""Edge, in pixels; there is a parameter for each neuron, and far beyond this they do not fit into memory."""


def stage_sizes(architecture: Architecture, image_size: int) -> tuple[int, ...]:
    """Return the edge of each stage's feature map, in pixels, for a square image of edge ``image_size``.

    A convolution or pool of stride 2 here gives ceil(n / 2), and that is what is computed. The authors' code uses
    floor(n / 2) for the number of patches, L: the two agree wherever the size is even at every such step, which holds
    for every size that they publish.

    Raises:
        UnsupportedError: where a stage's size is not divisible by its patch size, or the image is too large.
    """
    if image_size > LARGEST_IMAGE_SIZE:
        raise UnsupportedError(f"image size {image_size}: the limit is {LARGEST_IMAGE_SIZE}; choose a smaller one")
    size = image_size
    if architecture.stem == "imagenet":
        size = math.ceil(math.ceil(size / 2) / 2)
    sizes: list[int] = []
    for stage, patch_size in enumerate(architecture.patch_sizes):
        if stage > 0:
            size = math.ceil(size / 2)
        if size < 1 or size % patch_size:
            raise UnsupportedError(
                f"image size {image_size}: stage {stage} is {size}x{size}, which patches of {patch_size}x{patch_size} "
                f"do not fill; use a multiple of {smallest_image_size(architecture)}"
            )
        sizes.append(size)
    return tuple(sizes)


def smallest_image_size(architecture: Architecture) -> int:
    """Return an image edge, in pixels, of which every multiple gives each stage whole patches."""
    stem_stride = 4 if architecture.stem == "imagenet" else 1
    return (stem_stride << (len(architecture.planes) - 1)) * math.lcm(*architecture.patch_sizes)


class SpikingResformer(nn.Module):
    """A SpikingResformer whose state dict has the authors' names and shapes.

    The neurons keep their membrane potential between calls: call ``functional.reset_net(model)`` of
    ``spikingjelly.activation_based`` before each batch. In training mode each call also updates batch statistics and
    DSSA's firing rates, which a new network holds as zero: it cannot infer before it has trained one batch.

    Args:
        architecture: what the tensors' shapes tell.
        timesteps: T, how often an image is presented; event data bring their own T.
        image_size: edge of the square input, in pixels.

    Raises:
        UnsupportedError: where a stage's size is not divisible by its patch size.
    """

    def __init__(self, architecture: Architecture, *, timesteps: int, image_size: int) -> None:
        super().__init__()
        if timesteps < 1:
            raise UnsupportedError(f"timesteps is {timesteps}: must be at least 1")
        self.architecture = architecture
        self.timesteps = timesteps
        self.image_size = image_size

        self.prologue = self._stem()
        self.layers = nn.Sequential(
            *(self._stage(stage, size) for stage, size in enumerate(stage_sizes(architecture, image_size)))
        )
        self.avgpool = layer.AdaptiveAvgPool2d((1, 1), step_mode="m")
        self.classifier = layer.Linear(architecture.planes[-1], architecture.num_classes, bias=False, step_mode="m")
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)

    def _stem(self) -> nn.Sequential:
        in_channels, planes = self.architecture.in_channels, self.architecture.planes[0]
        if self.architecture.stem == "conv3x3":
            return nn.Sequential(conv3x3(in_channels, planes), BatchNorm(planes))
        return nn.Sequential(
            layer.Conv2d(in_channels, planes, kernel_size=7, stride=2, padding=3, bias=False, step_mode="m"),
            BatchNorm(planes),
            layer.MaxPool2d(kernel_size=3, stride=2, padding=1, step_mode="m"),
        )

    def _stage(self, stage: int, size: int) -> nn.Sequential:
        """Return one stage, whose feature maps are size x size pixels."""
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
                        num_patches=(size // patch_size) ** 2,
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
