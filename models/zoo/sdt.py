"""Spike-driven Transformer (v1): its architecture as plain data, and the network that the data describes.

Source: Yao et al., "Spike-driven Transformer", NeurIPS 2023 (arXiv 2307.01694), and the authors' code,
``model/spikeformer.py``, ``module/sps.py`` and ``module/ms_conv.py`` in github.com/BICLab/Spike-Driven-Transformer.
"""

from dataclasses import dataclass
from functools import partial

import torch
from spikingjelly.activation_based import layer
from torch import nn

from resformer.models.zoo.parts import (
    ATTENTION_THRESHOLD,
    ColumnArchitecture,
    ColumnNetwork,
    NeuronKind,
    ResidualMLP,
    Units,
    check_choice,
    lif,
    maps,
    pointwise,
    tokens,
)
from resformer.models.zoo.spikformer import SpikingPatchSplitting


@dataclass(frozen=True, kw_only=True)
class SDTArchitecture(ColumnArchitecture):
    """Everything about a Spike-driven Transformer but T and the image size.

    No tensor tells the stem's pooling, nor whether spikes are pooled in the attention. A tensor tells the number of
    heads, which changes nothing unless spikes are pooled: each channel is summed by itself.

    Attributes:
        num_heads: attention heads; only the shape of a matrix that is never used, ``talking_heads``, tells the number.
        pooling: the authors' ``pooling_stat``: a digit for each of the stem's first four units, 1 if the unit pools.
        pools_attention: the authors' ``dvs_mode``: whether 3x3 max-pools of stride 1 follow k, v, their product and
            the attention's result. As in the authors' code, the last two pool over a head's tokens and channels.
        neuron: which neuron every population is.

    Raises:
        UnsupportedError: where the fields contradict each other.
    """

    pooling: str = "0011"
    pools_attention: bool = False
    neuron: NeuronKind = "LIF"

    def __post_init__(self) -> None:
        check_choice(NeuronKind, neuron=self.neuron)
        super().__post_init__()


class MembranePatchSplitting(SpikingPatchSplitting):
    """The stem: Spikformer's, except that the fourth unit pools before its neuron and the fifth unit adds currents.

    The fifth unit's neuron is never used, but with PLIF neurons the state dict holds its ``w``. Source: the authors'
    ``MS_SPS``.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return currents, (T, N, embed_dims, H', W'), for images (T, N, C, H, W)."""
        *spiking, last = zip(self.UNITS, self.pooling, strict=True)
        for unit, pooled in spiking:
            x = self.fire(unit, self.weigh(unit, x))
            if pooled == "1":
                x = self.pool(x)
        unit, pooled = last
        currents = self.weigh(unit, x)
        if pooled == "1":
            currents = self.pool(currents)
        return self.weigh("rpe_{}", self.fire(unit, currents)) + currents


class SDSA(Units):
    """Spike-Driven Self-Attention (paper section 3.3, authors' ``MS_SSA_Conv``): masks and sums, no product of numbers.

    Each channel counts the pixels at which both k and v fire, and a neuron reads the count. Where the neuron fires, q's
    spikes pass.
    """

    def __init__(self, net: SDTArchitecture) -> None:
        super().__init__()
        channels = net.embed_dims
        self.shortcut_lif = lif(kind=net.neuron)
        for unit in ("q_{}", "k_{}", "v_{}"):
            self.add_unit(unit, pointwise("conv2d", channels, channels, bias=False), channels, lif(kind=net.neuron))
        self.talking_heads_lif = lif(v_threshold=ATTENTION_THRESHOLD, kind=net.neuron)
        self.add_unit("proj_{}", pointwise("conv2d", channels, channels, bias=True), channels, None)
        self.num_heads = net.num_heads
        self.pools = net.pools_attention
        self.pool = layer.MaxPool2d(kernel_size=3, stride=1, padding=1, step_mode="m")
        # these two exist so that the authors' checkpoints load; the authors' forward never uses them
        self.talking_heads = nn.Conv1d(net.num_heads, net.num_heads, kernel_size=1, bias=False)
        self.attn_lif = lif(v_threshold=ATTENTION_THRESHOLD, kind=net.neuron)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over x, (T, N, C, H, W), currents; the result is what the block adds to x."""
        spikes = self.shortcut_lif(x)
        q, k, v = (self.fire(unit, self.weigh(unit, spikes)) for unit in ("q_{}", "k_{}", "v_{}"))
        if self.pools:
            k, v = self.pool(k), self.pool(v)
        mask = self.talking_heads_lif(self._pool_tokens(k * v).sum((3, 4), keepdim=True))
        return self.weigh("proj_{}", self._pool_tokens(q * mask))

    def _pool_tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Pool x, (T, N, C, H, W), over the tokens and channels of each head, if this attention pools."""
        if not self.pools:
            return x
        # the authors' pool gets (T, N, heads, L, C / heads) and takes the last two axes for rows and columns
        pooled: torch.Tensor = self.pool(tokens(x, self.num_heads))
        return maps(pooled, x.shape[3:])


class SDTBlock(nn.Module):
    """Attention and MLP on a stream of currents (authors' ``MS_Block_Conv``)."""

    def __init__(self, net: SDTArchitecture) -> None:
        super().__init__()
        self.attn = SDSA(net)
        self.mlp = ResidualMLP(net.embed_dims, net.embed_dims * net.mlp_ratio, neurons=partial(lif, kind=net.neuron))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform x, (T, N, C, H, W); the result has the same shape."""
        result: torch.Tensor = self.mlp(self.attn(x) + x)
        return result


class SpikeDrivenTransformer(ColumnNetwork):
    """A Spike-driven Transformer with the authors' names and shapes; see ``Classifier`` for input and result.

    The neurons before the classifier get the mean of each map of currents.
    """

    def __init__(self, architecture: SDTArchitecture, *, timesteps: int = 4) -> None:
        super().__init__(timesteps=timesteps)
        self.architecture = net = architecture
        self.patch_embed = MembranePatchSplitting(
            net.in_channels, net.embed_dims, net.pooling, neurons=partial(lif, kind=net.neuron)
        )
        self.block = nn.ModuleList(SDTBlock(net) for _ in range(net.depth))
        self.head_lif = lif(kind=net.neuron)
        self.head = nn.Linear(net.embed_dims, net.num_classes)

    def readout(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the logits, (N, classes), for (T, N, embed_dims): the mean over T of each step's logits."""
        logits: torch.Tensor = self.head(self.head_lif(pooled)).mean(0)
        return logits
