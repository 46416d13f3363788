"""Meta-SpikeFormer (Spike-driven Transformer v2), and the frame of four stages that v3 shares with it.

Source: Yao et al., "Spike-driven Transformer V2: Meta Spiking Neural Network Architecture Inspiring the Design of
Next-generation Neuromorphic Chips", ICLR 2024 (arXiv 2404.03663), and the authors' code, ``classification/models.py``
in github.com/BICLab/Spike-Driven-Transformer-V2.
"""

import abc
from dataclasses import dataclass

import torch
from torch import nn

from resformer.errors import UnsupportedError
from resformer.models.layers import BatchNorm
from resformer.models.zoo.parts import (
    ATTENTION_THRESHOLD,
    Classifier,
    SpikeAttention,
    SpikingMLP,
    Units,
    batch_norm,
    check_heads,
    check_positive,
    convolution,
    lif,
)

MLP_RATIO = 4
"""Hidden channels of convolution blocks and MLPs divided by their channels; the authors' code assumes 4 in places."""

WIDENING = 2
"""Hidden channels of separable convolutions divided by their channels."""


@dataclass(frozen=True, kw_only=True)
class MetaArchitecture:
    """The architecture of the authors' second and third networks: everything but T and the image size.

    No tensor tells the number of heads.

    Attributes:
        embed_dims: channels of the four stages; the first stage begins with half of its channels.
        depths: number of transformer blocks of the last two stages.
        num_heads: attention heads.
        in_channels: channels of the input.
        num_classes: number of logits.

    Raises:
        UnsupportedError: where the fields contradict each other.
    """

    embed_dims: tuple[int, int, int, int]
    depths: tuple[int, int] = (6, 2)
    num_heads: int = 8
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        if len(self.embed_dims) != 4 or len(self.depths) != 2:
            raise UnsupportedError(
                f"embed_dims are {self.embed_dims} and depths {self.depths}: there are four stages, and transformer "
                "blocks in the last two"
            )
        for width in self.embed_dims:
            check_positive(embed_dims=width)
        for depth in self.depths:
            check_positive(depth=depth)
        check_positive(in_channels=self.in_channels, num_classes=self.num_classes)
        if self.embed_dims[0] % 2:
            raise UnsupportedError(f"embed_dims begin with {self.embed_dims[0]}: must be even, as half comes first")
        for width in self.embed_dims[2:]:
            check_heads(width, self.num_heads)


@dataclass(frozen=True, kw_only=True)
class MetaSpikeFormerArchitecture(MetaArchitecture):
    """Everything about a Meta-SpikeFormer but T and the image size.

    Attributes:
        distilled: whether a second classifier, trained on another network's logits, is averaged with the first.
    """

    distilled: bool = False


class Downsampling(Units):
    """Neurons, except at the network's input, a convolution with a bias and its normalisation (``MS_DownSampling``)."""

    def __init__(
        self, in_channels: int, channels: int, *, edge: int = 3, stride: int = 2, neurons: nn.Module | None, word: str
    ) -> None:
        super().__init__(neuron_word=word)
        self.spiking = neurons is not None
        self.add_unit(
            "encode_{}", convolution(in_channels, channels, edge, stride=stride, bias=True), channels, neurons
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return currents for x, (T, N, C, H, W): currents, or the network's input."""
        return self.weigh("encode_{}", self.fire("encode_{}", x) if self.spiking else x)


class ConvolutionBlock(Units):
    """A separable convolution, then two 3x3 convolutions, each part with a residual (authors' ``MS_ConvBlock``)."""

    def __init__(self, channels: int, separable: nn.Module, neurons: tuple[nn.Module, nn.Module], word: str) -> None:
        super().__init__(neuron_word=word)
        hidden = channels * MLP_RATIO
        self.Conv = separable
        self.add_unit("{}1", convolution(channels, hidden), hidden, neurons[0])
        self.add_unit("{}2", convolution(hidden, channels), channels, neurons[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform x, (T, N, C, H, W), currents; the result has the same shape."""
        x = self.Conv(x) + x
        hidden = self.weigh("{}1", self.fire("{}1", x))
        return x + self.weigh("{}2", self.fire("{}2", hidden))


class MetaFrame(Classifier):
    """Two stages of convolution blocks, two stages of transformer blocks, then neurons and a classifier.

    Args:
        architecture: the widths and depths.
        timesteps: T.
        word: the authors' word for neurons, in names.
    """

    def __init__(self, architecture: MetaArchitecture, *, timesteps: int, word: str) -> None:
        super().__init__(timesteps=timesteps)
        self.architecture = net = architecture
        first, *others = net.embed_dims
        half = first // 2
        self.downsample1_1 = Downsampling(net.in_channels, half, edge=7, neurons=None, word=word)
        self.ConvBlock1_1 = nn.ModuleList([self._convolution_block(half, word)])
        self.downsample1_2 = Downsampling(half, first, neurons=self.neurons(), word=word)
        self.ConvBlock1_2 = nn.ModuleList([self._convolution_block(first, word)])
        second, third, fourth = others
        self.downsample2 = Downsampling(first, second, neurons=self.neurons(), word=word)
        self.ConvBlock2_1 = nn.ModuleList([self._convolution_block(second, word)])
        self.ConvBlock2_2 = nn.ModuleList([self._convolution_block(second, word)])
        self.downsample3 = Downsampling(second, third, neurons=self.neurons(), word=word)
        self.block3 = nn.ModuleList(self.block(third) for _ in range(net.depths[0]))
        self.downsample4 = Downsampling(third, fourth, stride=1, neurons=self.neurons(), word=word)
        self.block4 = nn.ModuleList(self.block(fourth) for _ in range(net.depths[1]))
        self.head = nn.Linear(fourth, net.num_classes)

    @abc.abstractmethod
    def neurons(self) -> nn.Module:
        """Return a new population."""

    @abc.abstractmethod
    def separable(self, channels: int) -> nn.Module:
        """Return a convolution block's separable convolution."""

    @abc.abstractmethod
    def block(self, channels: int) -> nn.Module:
        """Return a transformer block."""

    def _convolution_block(self, channels: int, word: str) -> ConvolutionBlock:
        return ConvolutionBlock(channels, self.separable(channels), (self.neurons(), self.neurons()), word)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return currents, (T, N, C', H / 16, W / 16), for x, (T, N, C, H, W)."""
        for name in (
            *("downsample1_1", "ConvBlock1_1", "downsample1_2", "ConvBlock1_2"),
            *("downsample2", "ConvBlock2_1", "ConvBlock2_2", "downsample3", "block3", "downsample4", "block4"),
        ):
            module = getattr(self, name)
            for each in module if isinstance(module, nn.ModuleList) else (module,):
                x = each(x)
        return x


class SeparableConvolution(Units):
    """Two 1x1 convolutions with a depthwise 7x7 convolution between them (authors' ``SepConv``)."""

    def __init__(self, channels: int) -> None:
        super().__init__(conv_word="pwconv")
        hidden = channels * WIDENING
        self.add_unit("{}1", convolution(channels, hidden, 1), hidden, lif())
        self.dwconv = convolution(hidden, hidden, 7, groups=hidden)
        self.add_unit("{}2", convolution(hidden, channels, 1), channels, lif())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the block adds to x, (T, N, C, H, W), currents."""
        hidden = self.weigh("{}1", self.fire("{}1", x))
        return self.weigh("{}2", self.dwconv(self.fire("{}2", hidden)))


def rep_conv(channels: int) -> nn.Sequential:
    """Return a linear chain in place of a 3x3 convolution: 1x1, normalisation, depthwise 3x3, 1x1, two normalisations.

    Source: the authors' ``RepConv`` and the normalisation after it. Their code pads the input of the 3x3 convolution
    with what the first normalisation makes of 0. Here the input of the 1x1 convolution, which has no bias, is padded
    with 0; the 3x3 convolution then reads the same numbers, and no layer is needed for the padding.
    """
    body = nn.Sequential(
        convolution(channels, channels, 1, padding=1),
        BatchNorm(channels),
        nn.Sequential(
            convolution(channels, channels, 3, padding=0, groups=channels),
            convolution(channels, channels, 1),
            batch_norm(channels),
        ),
    )
    holder = nn.Sequential()
    holder.add_module("body", body)
    return nn.Sequential(holder, batch_norm(channels))


class RepAttention(nn.Module):
    """Spiking self-attention by re-parametrizable convolutions (authors' ``MS_Attention_RepConv_qkv_id``)."""

    def __init__(self, channels: int, *, num_heads: int) -> None:
        super().__init__()
        self.head_lif = lif()
        for name in "qkv":
            self.add_module(f"{name}_conv", rep_conv(channels))
            self.add_module(f"{name}_lif", lif())
        self.attention = SpikeAttention(num_heads, 0.125)
        self.attn_lif = lif(v_threshold=ATTENTION_THRESHOLD)
        self.proj_conv = rep_conv(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over x, (T, N, C, H, W), currents; the result is what the block adds to x."""
        spikes = self.head_lif(x)
        q, k, v = (getattr(self, f"{name}_lif")(getattr(self, f"{name}_conv")(spikes)) for name in "qkv")
        projected: torch.Tensor = self.proj_conv(self.attn_lif(self.attention(q, k, v)))
        return projected


class MetaBlock(nn.Module):
    """Attention and MLP, each adding its currents to the stream (authors' ``MS_Block``)."""

    def __init__(self, channels: int, *, num_heads: int) -> None:
        super().__init__()
        self.attn = RepAttention(channels, num_heads=num_heads)
        self.mlp = SpikingMLP(channels, channels * MLP_RATIO, kind="conv1d", neuron_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform x, (T, N, C, H, W), currents; the result has the same shape."""
        x = x + self.attn(x)
        added: torch.Tensor = self.mlp(x)
        return x + added


class MetaSpikeFormer(MetaFrame):
    """A Meta-SpikeFormer whose state dict has the authors' names and shapes; see ``Classifier`` for input and result.

    The neurons before the classifier get the mean of each map of currents.
    """

    def __init__(self, architecture: MetaSpikeFormerArchitecture, *, timesteps: int = 4) -> None:
        super().__init__(architecture, timesteps=timesteps, word="lif")
        self.lif = lif()
        self.head_kd = (
            nn.Linear(architecture.embed_dims[3], architecture.num_classes) if architecture.distilled else None
        )

    def neurons(self) -> nn.Module:
        """Return LIF neurons of threshold 1."""
        return lif()

    def separable(self, channels: int) -> nn.Module:
        """Return a separable convolution of 7x7."""
        return SeparableConvolution(channels)

    def block(self, channels: int) -> nn.Module:
        """Return a block of attention by re-parametrizable convolutions."""
        return MetaBlock(channels, num_heads=self.architecture.num_heads)

    def readout(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the logits, (N, classes), for (T, N, C'): the mean over T of each step's logits."""
        spikes = self.lif(pooled)
        logits: torch.Tensor = self.head(spikes).mean(0)
        if self.head_kd is not None:
            logits = (logits + self.head_kd(spikes).mean(0)) / 2
        return logits
