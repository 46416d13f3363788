"""Spikformer: its architecture as plain data, and the network that the data describes.

Source: Zhou et al., "Spikformer: When Spiking Neural Network Meets Transformer", ICLR 2023 (arXiv 2209.15425), and the
authors' code, ``cifar10/model.py``, ``imagenet/model.py`` and ``cifar10dvs/model.py`` in github.com/ZK-Zhou/spikformer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import nn

from resformer.models.zoo.parts import (
    ColumnArchitecture,
    ColumnNetwork,
    PointwiseKind,
    SpikingMLP,
    SpikingSelfAttention,
    Units,
    check_choice,
    check_positive,
    convolution,
    lif,
    max_pool,
    unused_norm,
)

Layout = Literal["cifar", "imagenet", "dvs"]


class Kinds(NamedTuple):
    """How one of the authors' folders writes its 1x1 convolutions, and the scale of its attention.

    Attributes:
        attention: the shape of the weights of q, k, v and the projection.
        mlp: the shape of the weights of the MLP.
        scale: the attention's scale.
        pooling: a digit for each of the stem's first four units: 1 if a max-pool follows it, else 0.
        num_heads: attention heads of the networks that the authors train.
    """

    attention: PointwiseKind
    mlp: PointwiseKind
    scale: float
    pooling: str
    num_heads: int


LAYOUTS: Mapping[Layout, Kinds] = MappingProxyType(
    {
        "cifar": Kinds("linear", "linear", 0.125, "0011", 12),
        "imagenet": Kinds("conv1d", "conv2d", 0.125, "1111", 8),
        "dvs": Kinds("conv1d", "conv1d", 0.25, "1111", 16),
    }
)
"""The authors' three folders, each of which writes the network in its own way."""


@dataclass(frozen=True, kw_only=True)
class SpikformerArchitecture(ColumnArchitecture):
    """Everything about a Spikformer but T and the image size.

    No tensor tells the number of heads, nor the stem's pooling.

    Attributes:
        layout: the authors' folder whose names, shapes and attention's scale are used.
        pooling: a digit for each of the stem's first four units: 1 if a max-pool follows it, else 0; the layout's if
            not given.
        positions: in ``dvs``, the number of tokens of the position embedding, which is stored but never used.

    Raises:
        UnsupportedError: where the fields contradict each other.
    """

    layout: Layout = "cifar"
    pooling: str = ""
    positions: int = 64

    def __post_init__(self) -> None:
        check_choice(Layout, layout=self.layout)
        if not self.pooling:
            object.__setattr__(self, "pooling", self.kinds.pooling)
        super().__post_init__()
        check_positive(positions=self.positions)

    @property
    def kinds(self) -> Kinds:
        """The ``Kinds`` of the layout."""
        return LAYOUTS[self.layout]


class SpikingPatchSplitting(Units):
    """The stem: four units of 3x3 convolutions with max-pools, and a fifth unit that is added to the fourth's result.

    Source: the authors' ``SPS``.

    Args:
        in_channels: channels of the input.
        embed_dims: channels of the result, a multiple of 8.
        pooling: a digit for each of the first four units: 1 if it pools, here after its neuron, else 0.
        neurons: makes a population; it is called five times.
    """

    UNITS = ("proj_{}", "proj_{}1", "proj_{}2", "proj_{}3")

    def __init__(
        self, in_channels: int, embed_dims: int, pooling: str, *, neurons: Callable[[], nn.Module] = lif
    ) -> None:
        super().__init__()
        self.pooling = pooling
        channels = in_channels
        for index, unit in enumerate(self.UNITS):
            width = embed_dims >> (3 - index)
            self.add_unit(unit, convolution(channels, width), width, neurons())
            channels = width
        self.pool = max_pool()
        self.add_unit("rpe_{}", convolution(embed_dims, embed_dims), embed_dims, neurons())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return sums of spikes, (T, N, embed_dims, H', W'), for images (T, N, C, H, W)."""
        for unit, pooled in zip(self.UNITS, self.pooling, strict=True):
            x = self.fire(unit, self.weigh(unit, x))
            if pooled == "1":
                x = self.pool(x)
        return self.fire("rpe_{}", self.weigh("rpe_{}", x)) + x


class SpikformerBlock(nn.Module):
    """Attention and MLP, each adding its spikes to the stream (authors' ``Block``)."""

    def __init__(self, net: SpikformerArchitecture) -> None:
        super().__init__()
        channels = net.embed_dims
        self.norm1 = unused_norm(channels)
        self.attn = SpikingSelfAttention(
            channels, num_heads=net.num_heads, kind=net.kinds.attention, scale=net.kinds.scale
        )
        self.norm2 = unused_norm(channels)
        self.mlp = SpikingMLP(channels, channels * net.mlp_ratio, kind=net.kinds.mlp, neuron_first=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform x, (T, N, C, H, W), sums of spikes; the result has the same shape."""
        x = x + self.attn(x)
        added: torch.Tensor = self.mlp(x)
        return x + added


class Spikformer(ColumnNetwork):
    """A Spikformer whose state dict has the authors' names and shapes; see ``Classifier`` for input and result."""

    def __init__(self, architecture: SpikformerArchitecture, *, timesteps: int = 4) -> None:
        super().__init__(timesteps=timesteps)
        self.architecture = net = architecture
        self.patch_embed = SpikingPatchSplitting(net.in_channels, net.embed_dims, net.pooling)
        self.block = nn.ModuleList(SpikformerBlock(net) for _ in range(net.depth))
        if net.layout == "dvs":
            # these two exist so that the authors' checkpoints load; the authors' forward never uses them
            self.pos_embed = nn.Parameter(torch.zeros(1, net.positions, net.embed_dims))
            self.norm = unused_norm(net.embed_dims)
        self.head = nn.Linear(net.embed_dims, net.num_classes)

    def readout(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the logits, (N, classes), for the mean over T of (T, N, embed_dims)."""
        logits: torch.Tensor = self.head(pooled.mean(0))
        return logits
