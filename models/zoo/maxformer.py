"""Max-Former: its architecture as plain data, and the network that the data describes.

Source: Fang et al., "Spiking Neural Networks Need High-Frequency Information", NeurIPS 2025 (arXiv 2505.18608), and the
authors' code, ``max_former.py``, ``embedding_hub.py`` and ``mixer_hub.py`` of the folders ``cifar10-100``, ``imagenet``
and ``event`` in github.com/bic-L/MaxFormer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import nn

from resformer.models.zoo.parts import (
    PyramidArchitecture,
    PyramidNetwork,
    ResidualMLP,
    SpikingSelfAttention,
    Units,
    batch_norm,
    check_choice,
    check_heads,
    convolution,
    lif,
    max_pool,
)

Layout = Literal["cifar", "imagenet", "event"]

Mixer = Literal["identity", "3", "5", "7", "attention"]
"""What mixes pixels in a stage's blocks: nothing, a depthwise convolution of that edge, or self-attention."""


class Step(NamedTuple):
    """One convolution of an embedding.

    Attributes:
        name: the name of its module.
        narrowing: the embedding's channels divided by those of this convolution.
        edge: edge of the kernel, in pixels.
        stride: in pixels.
        pools: whether a max-pool follows its normalisation.
    """

    name: str
    narrowing: int = 1
    edge: int = 3
    stride: int = 1
    pools: bool = False


class Embedding(NamedTuple):
    """The plan of an embedding, which turns currents into currents.

    Attributes:
        first: a convolution of the input as it is; None if neurons come first.
        steps: neurons and convolutions, one after the other.
        shortcut: a convolution whose currents are added at the end.
        branch: the index of the step whose spikes the shortcut reads; None if the shortcut's own neurons read what the
            first step's neurons read.
    """

    first: Step | None
    steps: tuple[Step, ...]
    shortcut: Step
    branch: int | None


FIRST = "proj"
"""The name of a first convolution whose parts lie in the embedding itself, as ``proj_conv`` and ``proj_bn``."""

HALVING = Embedding(
    first=None,
    steps=(Step("max_embed1", pools=True), Step("embed1")),
    shortcut=Step("max_embed2", edge=1, pools=True),
    branch=0,
)
"""The embedding between stages (authors' ``Embed_Max``)."""


class Kinds(NamedTuple):
    """How one of the authors' folders writes the network.

    Attributes:
        stem: the embedding of the first stage; the other stages have ``HALVING``.
        mixers: the mixer of each stage.
    """

    stem: Embedding
    mixers: tuple[Mixer, ...]


LAYOUTS: Mapping[Layout, Kinds] = MappingProxyType(
    {
        "cifar": Kinds(
            Embedding(Step(FIRST, 2), (Step("embed1"),), Step("embed2", edge=1), None), ("identity", "3", "attention")
        ),
        "imagenet": Kinds(
            Embedding(
                Step("embed1", 2, stride=2),
                (Step("embed2", stride=2), Step("embed3")),
                Step("embed4", edge=1, stride=2),
                0,
            ),
            ("7", "5", "attention"),
        ),
        "event": Kinds(
            Embedding(
                Step(FIRST, 8),
                (
                    Step("max_embed1", 4, pools=True),
                    Step("max_embed2", 2, pools=True),
                    Step("max_embed3", pools=True),
                ),
                Step("embed1", edge=1, stride=4),
                1,
            ),
            ("3", "attention"),
        ),
    }
)
"""How each of the authors' folders writes the network."""

MIXER_NAMES: Mapping[Mixer, str] = MappingProxyType({"3": "conv", "5": "conv", "7": "conv5"})
"""What the authors call a mixer's convolution; that of 7x7 is called ``conv5``."""


@dataclass(frozen=True, kw_only=True)
class MaxFormerArchitecture(PyramidArchitecture):
    """Everything about a Max-Former but T and the image size.

    No tensor tells the number of heads.

    Attributes:
        depths: number of blocks of each stage; there are three stages, or two in ``event``.
        num_heads: attention heads of the last stage.

    Raises:
        UnsupportedError: where the fields contradict each other.
    """

    layout: Layout = "cifar"

    def __post_init__(self) -> None:
        check_choice(Layout, layout=self.layout)
        first = self.kinds.stem.first
        self.check_stages(len(self.kinds.mixers), first.narrowing if first else 1)
        check_heads(self.embed_dims, self.num_heads)

    @property
    def kinds(self) -> Kinds:
        """The ``Kinds`` of the layout."""
        return LAYOUTS[self.layout]


class SpikingConvolution(Units):
    """Neurons, a convolution, its normalisation, and perhaps a max-pool (authors' ``Embed`` and ``Max_Embed``)."""

    def __init__(self, in_channels: int, out_channels: int, step: Step) -> None:
        super().__init__()
        self.add_unit(
            "embed_{}", convolution(in_channels, out_channels, step.edge, stride=step.stride), out_channels, lif()
        )
        self.pool = max_pool() if step.pools else nn.Identity()

    def spikes(self, currents: torch.Tensor) -> torch.Tensor:
        """Return what the neurons make of currents, (T, N, C, H, W)."""
        return self.fire("embed_{}", currents)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return currents, (T, N, C', H', W'), of x, (T, N, C, H, W): spikes, or the network's input."""
        currents: torch.Tensor = self.pool(self.weigh("embed_{}", x))
        return currents


class CurrentEmbedding(Units):
    """The embedding that changes currents to a stage's channels and size, with a shortcut; see ``Embedding``."""

    def __init__(self, in_channels: int, channels: int, plan: Embedding) -> None:
        super().__init__()
        self.plan = plan
        before = in_channels
        if plan.first is not None:
            width = channels // plan.first.narrowing
            if plan.first.name == FIRST:
                self.add_unit("proj_{}", convolution(before, width), width, None)
            else:
                self.add_module(plan.first.name, SpikingConvolution(before, width, plan.first))
            before = width
        shortcut_from = before
        for index, step in enumerate(plan.steps):
            width = channels // step.narrowing
            if index == plan.branch:
                shortcut_from = before
            self.add_module(step.name, SpikingConvolution(before, width, step))
            before = width
        self.add_module(plan.shortcut.name, SpikingConvolution(shortcut_from, channels, plan.shortcut))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return currents, (T, N, channels, H', W'), for x, (T, N, C, H, W): currents, or the network's input."""
        if self.plan.first is not None:
            x = self.weigh("proj_{}", x) if self.plan.first.name == FIRST else getattr(self, self.plan.first.name)(x)
        shortcut: SpikingConvolution = getattr(self, self.plan.shortcut.name)
        skipped = shortcut.spikes(x) if self.plan.branch is None else x
        for index, step in enumerate(self.plan.steps):
            convolved: SpikingConvolution = getattr(self, step.name)
            spikes = convolved.spikes(x)
            if index == self.plan.branch:
                skipped = spikes
            x = convolved(spikes)
        added: torch.Tensor = shortcut(skipped)
        return x + added


class DepthwiseMixer(nn.Module):
    """Neurons and a depthwise convolution with biases (authors' ``Mixer_DWC3``, ``Mixer_DWC5``, ``Mixer_DWC7``)."""

    def __init__(self, channels: int, kind: Mixer) -> None:
        super().__init__()
        self.names = tuple(MIXER_NAMES[kind] + suffix for suffix in ("_neuron", "", "_bn"))
        neurons, conv, norm = self.names
        self.add_module(conv, convolution(channels, channels, int(kind), groups=channels, bias=True))
        self.add_module(norm, batch_norm(channels))
        self.add_module(neurons, lif())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix pixels of x, (T, N, C, H, W), currents; the result is what the block adds to x."""
        for name in self.names:
            x = getattr(self, name)(x)
        return x


class MaxFormerBlock(nn.Module):
    """A mixer, if there is one, and an MLP, each adding its currents to the stream (authors' ``Block_…``)."""

    def __init__(self, net: MaxFormerArchitecture, channels: int, kind: Mixer) -> None:
        super().__init__()
        self.mixer_name = "attn" if kind == "attention" else "mixer"
        if kind == "attention":
            mixer: nn.Module = SpikingSelfAttention(
                channels, num_heads=net.num_heads, kind="conv1d", neuron_before="x_lif"
            )
        else:
            mixer = nn.Identity() if kind == "identity" else DepthwiseMixer(channels, kind)
        self.add_module(self.mixer_name, mixer)
        self.mixes = kind != "identity"
        self.mlp = ResidualMLP(channels, channels * net.mlp_ratio)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform x, (T, N, C, H, W), currents; the result has the same shape."""
        if self.mixes:
            x = getattr(self, self.mixer_name)(x) + x
        result: torch.Tensor = self.mlp(x)
        return result


class MaxFormer(PyramidNetwork):
    """A Max-Former whose state dict has the authors' names and shapes; see ``Classifier`` for input and result.

    The neurons before the classifier get the mean of each map of currents.
    """

    def __init__(self, architecture: MaxFormerArchitecture, *, timesteps: int = 4) -> None:
        super().__init__(timesteps=timesteps)
        self.architecture = net = architecture
        channels = net.in_channels
        for stage, (width, kind) in enumerate(zip(net.widths, net.kinds.mixers, strict=True)):
            plan = HALVING if stage else net.kinds.stem
            self.add_stage(
                CurrentEmbedding(channels, width, plan),
                (MaxFormerBlock(net, width, kind) for _ in range(net.depths[stage])),
            )
            channels = width
        self.head_lif = lif()
        self.head = nn.Linear(net.embed_dims, net.num_classes)

    def readout(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the logits, (N, classes), for (T, N, embed_dims), averaged over T where the authors do it."""
        spikes = self.head_lif(pooled)
        per_step = self.architecture.layout == "imagenet"
        logits: torch.Tensor = self.head(spikes).mean(0) if per_step else self.head(spikes.mean(0))
        return logits
