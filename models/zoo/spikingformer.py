"""Spikingformer: its architecture as plain data, and the network that the data describes.

Source: Zhou et al., "Spikingformer: Spike-driven Residual Learning for Transformer-based Spiking Neural Network"
(arXiv 2304.11954), and the authors' code, ``cifar10/model.py``, ``imagenet/model.py``, ``cifar10-dvs/model.py`` and
``dvs128-gesture/model.py`` in github.com/zhouchenlin2096/Spikingformer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import nn

from resformer.errors import UnsupportedError
from resformer.models.zoo.parts import (
    ColumnArchitecture,
    ColumnNetwork,
    SpikingMLP,
    SpikingSelfAttention,
    Units,
    check_choice,
    convolution,
    lif,
    max_pool,
    unused_norm,
)

Layout = Literal["cifar", "imagenet"]


class Kinds(NamedTuple):
    """How one of the authors' folders names the units of its stem, and where the stem pools.

    Attributes:
        units: the patterns of the five units' names.
        pooling: a digit for each of the stem's last four units: 1 if a max-pool stands before its convolution, else 0.
        num_heads: attention heads of the networks that the authors train.
    """

    units: tuple[str, ...]
    pooling: str
    num_heads: int


LAYOUTS: Mapping[Layout, Kinds] = MappingProxyType(
    {
        "cifar": Kinds(("block0_{}", "block1_{}", "block2_{}", "block3_{}", "block4_{}"), "0011", 12),
        "imagenet": Kinds(("proj_{}", "proj1_{}", "proj2_{}", "proj3_{}", "proj4_{}"), "1111", 8),
    }
)
"""The authors' two ways of writing the stem; their networks for event data are written in the second way."""

EVENT_TAU = 1.5
"""Tau of the neurons in the authors' networks for event data, in steps."""


@dataclass(frozen=True, kw_only=True)
class SpikingformerArchitecture(ColumnArchitecture):
    """Everything about a Spikingformer but T and the image size.

    No tensor tells the number of heads, the stem's pooling, nor tau.

    Attributes:
        layout: the way of the authors' two in which the stem is written.
        pooling: a digit for each of the stem's last four units: 1 if a max-pool stands before its convolution, else 0;
            the layout's if not given.
        tau: tau of all neurons, in steps.

    Raises:
        UnsupportedError: where the fields contradict each other.
    """

    layout: Layout = "cifar"
    pooling: str = ""
    tau: float = 2.0

    def __post_init__(self) -> None:
        check_choice(Layout, layout=self.layout)
        if not self.pooling:
            object.__setattr__(self, "pooling", self.kinds.pooling)
        super().__post_init__()
        if not self.tau > 1:
            raise UnsupportedError(f"tau is {self.tau:g}: must be more than 1 step")

    @property
    def kinds(self) -> Kinds:
        """The ``Kinds`` of the layout."""
        return LAYOUTS[self.layout]


class SpikingTokenizer(Units):
    """The stem: a 3x3 convolution, then four units of a neuron, perhaps a max-pool, and a 3x3 convolution.

    Source: the authors' ``SpikingTokenizer``.
    """

    def __init__(self, net: SpikingformerArchitecture) -> None:
        super().__init__()
        self.units = net.kinds.units
        self.pooling = net.pooling
        channels = net.in_channels
        for index, unit in enumerate(self.units):
            width = net.embed_dims >> max(0, 3 - index)
            self.add_unit(unit, convolution(channels, width), width, lif(tau=net.tau) if index else None)
            channels = width
        self.pool = max_pool()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return currents, (T, N, embed_dims, H', W'), for images (T, N, C, H, W)."""
        x = self.weigh(self.units[0], x)
        for unit, pooled in zip(self.units[1:], self.pooling, strict=True):
            x = self.fire(unit, x)
            if pooled == "1":
                x = self.pool(x)
            x = self.weigh(unit, x)
        return x


class SpikingformerBlock(nn.Module):
    """Attention and MLP, each adding its currents to the stream (authors' ``SpikingTransformer``)."""

    def __init__(self, net: SpikingformerArchitecture) -> None:
        super().__init__()
        channels = net.embed_dims
        self.norm1 = unused_norm(channels)
        self.attn = SpikingSelfAttention(
            channels, num_heads=net.num_heads, kind="conv1d", neuron_before="proj_lif", tau=net.tau
        )
        self.norm2 = unused_norm(channels)
        self.mlp = SpikingMLP(
            channels,
            channels * net.mlp_ratio,
            kind="conv2d",
            neuron_first=True,
            prefix="mlp",
            neurons=partial(lif, tau=net.tau),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform x, (T, N, C, H, W), currents; the result has the same shape."""
        x = x + self.attn(x)
        added: torch.Tensor = self.mlp(x)
        return x + added


class Spikingformer(ColumnNetwork):
    """A Spikingformer whose state dict has the authors' names and shapes; see ``Classifier`` for input and result.

    Its classifier reads currents, not spikes: no neuron stands between the last block and the head.
    """

    def __init__(self, architecture: SpikingformerArchitecture, *, timesteps: int = 4) -> None:
        super().__init__(timesteps=timesteps)
        self.architecture = net = architecture
        self.patch_embed = SpikingTokenizer(net)
        self.block = nn.ModuleList(SpikingformerBlock(net) for _ in range(net.depth))
        self.head = nn.Linear(net.embed_dims, net.num_classes)

    def readout(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the logits, (N, classes), for the mean over T of (T, N, embed_dims)."""
        logits: torch.Tensor = self.head(pooled.mean(0))
        return logits
