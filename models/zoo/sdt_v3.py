"""Spike-driven Transformer v3: integer neurons, whose values are levels, in the frame of Meta-SpikeFormer.

Source: Yao et al., "Scaling Spike-driven Transformer with Efficient Spike Firing Approximation Training", TPAMI 2025
(arXiv 2411.16061), and the authors' code, ``SDT_V3/Classification/Model_Base/models.py`` in
github.com/BICLab/Spike-Driven-Transformer-V3.
"""

from dataclasses import dataclass

import torch
from torch import nn

from resformer.models.zoo.meta_spikeformer import MLP_RATIO, WIDENING, MetaArchitecture, MetaFrame
from resformer.models.zoo.parts import (
    SpikeAttention,
    SpikingMLP,
    batch_norm,
    check_positive,
    convolution,
)

VALUE_WIDENING = 4
"""Channels of the attention's values, divided by those of queries and keys."""


@dataclass(frozen=True, kw_only=True)
class SDTV3Architecture(MetaArchitecture):
    """Everything about a Spike-driven Transformer v3 but T and the image size.

    No tensor tells the number of heads or the levels.

    Attributes:
        levels: D, the largest number of spikes that one value of a neuron stands for.
    """

    levels: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(levels=self.levels)


class LevelNeuron(nn.Module):
    """The integer neuron I-LIF without memory: x is clamped to 0 .. D, rounded half to even, and divided by a norm.

    On hardware, level n is n spikes. In training, the gradient passes where x lies within 0 .. D.

    Args:
        levels: D.
        norm: the divisor; D in all but the last population.
    """

    def __init__(self, levels: int, *, norm: int) -> None:
        super().__init__()
        self.levels = levels
        self.norm = norm

    def extra_repr(self) -> str:
        """The arguments that ``print`` shows."""
        return f"levels={self.levels}, norm={self.norm}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return levels for currents of any shape."""
        clamped = torch.clamp(x, min=0, max=self.levels)
        rounded = torch.round(clamped)
        if self.training:
            rounded = clamped + (rounded - clamped).detach()
        return rounded / self.norm


class LevelUnit(nn.Sequential):
    """A convolution and its normalisation (authors' ``nn.Sequential`` of the two)."""

    def __init__(self, in_channels: int, channels: int, edge: int = 1, *, groups: int = 1) -> None:
        super().__init__(convolution(in_channels, channels, edge, groups=groups), batch_norm(channels))


class LevelSeparable(nn.Module):
    """A 1x1, a depthwise and a 1x1 convolution, each after neurons (authors' ``SepConv_Spike``)."""

    def __init__(self, channels: int, edge: int, levels: int) -> None:
        super().__init__()
        hidden = channels * WIDENING
        self.spike1 = LevelNeuron(levels, norm=levels)
        self.pwconv1 = LevelUnit(channels, hidden)
        self.spike2 = LevelNeuron(levels, norm=levels)
        self.dwconv = LevelUnit(hidden, hidden, edge, groups=hidden)
        self.spike3 = LevelNeuron(levels, norm=levels)
        self.pwconv2 = LevelUnit(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the block adds to x, (T, N, C, H, W), currents."""
        hidden = self.dwconv(self.spike2(self.pwconv1(self.spike1(x))))
        currents: torch.Tensor = self.pwconv2(self.spike3(hidden))
        return currents


class LevelAttention(nn.Module):
    """Attention over levels; v has four times as many channels as q and k (authors' ``MS_Attention_linear``)."""

    def __init__(self, channels: int, *, num_heads: int, levels: int) -> None:
        super().__init__()
        self.head_spike = LevelNeuron(levels, norm=levels)
        for name, width in (("q", channels), ("k", channels), ("v", channels * VALUE_WIDENING)):
            self.add_module(f"{name}_conv", LevelUnit(channels, width))
            self.add_module(f"{name}_spike", LevelNeuron(levels, norm=levels))
        self.attention = SpikeAttention(num_heads, (channels // num_heads) ** -0.5 * 2)
        self.attn_spike = LevelNeuron(levels, norm=levels)
        self.proj_conv = LevelUnit(channels * VALUE_WIDENING, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over x, (T, N, C, H, W), currents; the result is what the block adds to x."""
        given = self.head_spike(x)
        q, k, v = (getattr(self, f"{name}_spike")(getattr(self, f"{name}_conv")(given)) for name in "qkv")
        projected: torch.Tensor = self.proj_conv(self.attn_spike(self.attention(q, k, v)))
        return projected


class LevelBlock(nn.Module):
    """A separable convolution of 3x3, attention and an MLP, each added to the stream (``MS_Block_Spike_SepConv``)."""

    def __init__(self, channels: int, *, num_heads: int, levels: int) -> None:
        super().__init__()
        self.conv = LevelSeparable(channels, 3, levels)
        self.attn = LevelAttention(channels, num_heads=num_heads, levels=levels)
        self.mlp = SpikingMLP(
            channels,
            channels * MLP_RATIO,
            kind="conv1d",
            neuron_first=True,
            neurons=lambda: LevelNeuron(levels, norm=levels),
            neuron_word="spike",
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform x, (T, N, C, H, W), currents; the result has the same shape."""
        for part in (self.conv, self.attn, self.mlp):
            x = x + part(x)
        return x


class SpikeDrivenTransformerV3(MetaFrame):
    """A Spike-driven Transformer v3 with the authors' names and shapes; see ``Classifier`` for input and result.

    Its neurons have no memory and the authors' T is 1: levels stand for the spikes of D steps.
    """

    def __init__(self, architecture: SDTV3Architecture, *, timesteps: int = 1) -> None:
        self.levels = architecture.levels
        super().__init__(architecture, timesteps=timesteps, word="spike")
        self.spike = LevelNeuron(self.levels, norm=1)

    def neurons(self) -> nn.Module:
        """Return neurons whose levels are divided by D."""
        return LevelNeuron(self.levels, norm=self.levels)

    def separable(self, channels: int) -> nn.Module:
        """Return a separable convolution of 7x7."""
        return LevelSeparable(channels, 7, self.levels)

    def block(self, channels: int) -> nn.Module:
        """Return a transformer block with attention over levels."""
        return LevelBlock(channels, num_heads=self.architecture.num_heads, levels=self.levels)

    def readout(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the logits, (N, classes), for (T, N, C'): the mean over T of each step's logits."""
        logits: torch.Tensor = self.head(self.spike(pooled)).mean(0)
        return logits
