"""QKFormer: its architecture as plain data, and the network that the data describes.

Source: Zhou et al., "QKFormer: Hierarchical Spiking Transformer using Q-K Attention", NeurIPS 2024 (arXiv 2403.16552),
and the authors' code, ``cifar10/model.py``, ``imagenet/qkformer.py``, ``cifar10-dvs/model.py`` and
``dvs128-gesture/model.py`` in github.com/zhouchenlin2096/QKFormer.

The authors' code gives T and the batch to the attention's last neuron as one axis, so that a sample's result depends on
the samples before it in the batch. The code here keeps the samples apart: it computes what the authors' code computes
for a batch of one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import nn

from resformer.models.zoo.parts import (
    ATTENTION_THRESHOLD,
    PyramidArchitecture,
    PyramidNetwork,
    SpikingMLP,
    SpikingSelfAttention,
    Units,
    check_choice,
    check_heads,
    convolution,
    lif,
    max_pool,
    pointwise,
)

Layout = Literal["cifar", "imagenet", "dvs"]


class Step(NamedTuple):
    """One unit of a patch embedding.

    Attributes:
        unit: the pattern of the names of its parts.
        narrowing: the embedding's channels divided by the unit's.
        pools: whether a max-pool stands between its normalisation and its neuron.
    """

    unit: str
    narrowing: int
    pools: bool = False


class Kinds(NamedTuple):
    """How one of the authors' folders writes the network.

    Attributes:
        stem: the units of the first patch embedding.
        branch: the number of the stem's units before the shortcut branches off.
        between: the units of the later patch embeddings.
        token_stages: the number of stages with Q-K token attention; one stage with spiking self-attention follows.
        attention: the name of the attention in the last stage's blocks.
        mlp: the prefix of the MLP's units.
    """

    stem: tuple[Step, ...]
    branch: int
    between: tuple[Step, ...]
    token_stages: int
    attention: str
    mlp: str


LAYOUTS: Mapping[Layout, Kinds] = MappingProxyType(
    {
        "cifar": Kinds(
            stem=(Step("proj_{}", 2), Step("proj1_{}", 1)),
            branch=1,
            between=(Step("proj3_{}", 1), Step("proj4_{}", 1, pools=True)),
            token_stages=2,
            attention="ssa",
            mlp="mlp",
        ),
        "imagenet": Kinds(
            stem=(Step("proj_{}", 2, pools=True), Step("proj1_{}", 1, pools=True), Step("proj2_{}", 1)),
            branch=1,
            between=(Step("proj3_{}", 1, pools=True), Step("proj4_{}", 1)),
            token_stages=2,
            attention="attn",
            mlp="fc",
        ),
        "dvs": Kinds(
            stem=(
                Step("proj_{}", 8),
                Step("proj1_{}", 4, pools=True),
                Step("proj2_{}", 2, pools=True),
                Step("proj3_{}", 1, pools=True),
            ),
            branch=2,
            between=(Step("proj_{}", 1), Step("proj4_{}", 1, pools=True)),
            token_stages=1,
            attention="ssa",
            mlp="mlp",
        ),
    }
)
"""How each of the authors' folders writes the network; the two folders for event data write the same one."""


@dataclass(frozen=True, kw_only=True)
class QKFormerArchitecture(PyramidArchitecture):
    """Everything about a QKFormer but T and the image size.

    No tensor tells the number of heads.

    Attributes:
        depths: number of blocks of each stage; there are three stages, or two in ``dvs``.
        num_heads: attention heads of every stage.

    Raises:
        UnsupportedError: where the fields contradict each other.
    """

    layout: Layout = "cifar"

    def __post_init__(self) -> None:
        check_choice(Layout, layout=self.layout)
        self.check_stages(self.kinds.token_stages + 1, self.kinds.stem[0].narrowing)
        for channels in self.widths:
            check_heads(channels, self.num_heads)

    @property
    def kinds(self) -> Kinds:
        """The ``Kinds`` of the layout."""
        return LAYOUTS[self.layout]


class PatchEmbedding(Units):
    """Units of 3x3 convolutions, and a shortcut of one 1x1 convolution whose stride matches the units' pooling.

    Source: the authors' ``PatchEmbedInit`` and ``PatchEmbeddingStage``.

    Args:
        in_channels: channels of the input.
        channels: channels of the result.
        steps: the units.
        branch: the number of units before the shortcut branches off.
    """

    def __init__(self, in_channels: int, channels: int, steps: tuple[Step, ...], branch: int) -> None:
        super().__init__()
        self.steps = steps
        self.branch = branch
        widths = [in_channels, *(channels // step.narrowing for step in steps)]
        for step, before, width in zip(steps, widths, widths[1:], strict=False):
            self.add_unit(step.unit, convolution(before, width), width, lif())
        self.pool = max_pool()
        stride = 2 ** sum(step.pools for step in steps[branch:])
        self.add_unit("proj_res_{}", convolution(widths[branch], channels, 1, stride=stride), channels, lif())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return sums of spikes, (T, N, channels, H', W'), for x, (T, N, C, H, W)."""
        skipped = x
        for index, step in enumerate(self.steps):
            if index == self.branch:
                skipped = x
            currents = self.weigh(step.unit, x)
            x = self.fire(step.unit, self.pool(currents) if step.pools else currents)
        return x + self.fire("proj_res_{}", self.weigh("proj_res_{}", skipped))


class QKTokenAttention(Units):
    """Q-K token attention (paper section 3.2, authors' ``Token_QK_Attention``): q's spikes decide where k's pass.

    Each head counts q's spikes over its channels at each pixel, and a neuron reads the count. Where the neuron fires,
    k's spikes pass.

    Args:
        channels: C.
        num_heads: the number of heads, which divides C.
    """

    def __init__(self, channels: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        for unit in ("q_{}", "k_{}"):
            self.add_unit(unit, pointwise("conv1d", channels, channels, bias=False), channels, lif())
        self.attn_lif = lif(v_threshold=ATTENTION_THRESHOLD)
        self.add_unit("proj_{}", pointwise("conv1d", channels, channels, bias=True), channels, lif())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over x, (T, N, C, H, W); the result is spikes, which the block adds to x."""
        steps, samples, channels, height, width = x.shape
        heads = (steps, samples, self.num_heads, channels // self.num_heads, height * width)
        q, k = (self.fire(unit, self.weigh(unit, x)).reshape(heads) for unit in ("q_{}", "k_{}"))
        mask = self.attn_lif(q.sum(3, keepdim=True))
        passed = (mask * k).reshape(x.shape)
        return self.fire("proj_{}", self.weigh("proj_{}", passed))


class QKFormerBlock(nn.Module):
    """An attention, under the authors' name for it, and an MLP, each adding its spikes to the stream."""

    def __init__(self, name: str, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.attention_name = name
        self.add_module(name, attention)
        self.mlp = mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform x, (T, N, C, H, W), sums of spikes; the result has the same shape."""
        x = x + getattr(self, self.attention_name)(x)
        added: torch.Tensor = self.mlp(x)
        return x + added


class QKFormer(PyramidNetwork):
    """A QKFormer whose state dict has the authors' names and shapes; see ``Classifier`` for input and result."""

    def __init__(self, architecture: QKFormerArchitecture, *, timesteps: int = 4) -> None:
        super().__init__(timesteps=timesteps)
        self.architecture = net = architecture
        channels = net.in_channels
        for stage, width in enumerate(net.widths):
            steps, branch = (net.kinds.between, 0) if stage else (net.kinds.stem, net.kinds.branch)
            self.add_stage(
                PatchEmbedding(channels, width, steps, branch),
                (self._block(stage, width) for _ in range(net.depths[stage])),
            )
            channels = width
        self.head = nn.Linear(net.embed_dims, net.num_classes)

    def _block(self, stage: int, channels: int) -> QKFormerBlock:
        net = self.architecture
        mlp = SpikingMLP(channels, channels * net.mlp_ratio, kind="conv2d", neuron_first=False, prefix=net.kinds.mlp)
        if stage < net.kinds.token_stages:
            return QKFormerBlock("tssa", QKTokenAttention(channels, num_heads=net.num_heads), mlp)
        attention = SpikingSelfAttention(channels, num_heads=net.num_heads, kind="conv1d")
        return QKFormerBlock(net.kinds.attention, attention, mlp)

    def readout(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the logits, (N, classes), for the mean over T of (T, N, embed_dims)."""
        logits: torch.Tensor = self.head(pooled.mean(0))
        return logits
