"""Parts that several families of spiking vision networks share.

Every tensor between modules is (T, N, C, H, W): steps, samples, channels, height, width. Where the authors of a family
use tokens, (T, N, L, C) or (T, N, C, L), the modules here use maps of the same values, with H W = L. Only a layer whose
weights have the shape for tokens turns its input into tokens.

A convolution, its batch normalisation and its neuron lie side by side in the authors' modules, under names such as
``q_conv``, ``q_bn`` and ``q_lif``. ``Units`` adds and runs such a unit by its pattern, ``q_{}``.
"""

import abc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import nn

from resformer.errors import InputError, UnsupportedError

NeuronKind = Literal["LIF", "PLIF"]

PointwiseKind = Literal["linear", "conv1d", "conv2d"]
"""Which of PyTorch's layers mixes the channels of each pixel: it decides the shape of the weights, and nothing else."""

ATTENTION_THRESHOLD = 0.5
"""The threshold of the neurons after an attention, whose currents are counts times a power of two."""


def lif(*, v_threshold: float = 1.0, tau: float = 2.0, kind: NeuronKind = "LIF") -> nn.Module:
    """Return the neuron of all transformers here: hard reset to 0, decayed input, ``v += (x - v) / tau``, fires at >=.

    A PLIF learns ``w``, with ``tau = 1 / sigmoid(w)``; its tau starts at the given one.
    """
    common = {
        "v_threshold": v_threshold,
        "v_reset": 0.0,
        "decay_input": True,
        "surrogate_function": surrogate.Sigmoid(),
        "detach_reset": True,
        "step_mode": "m",
    }
    made: nn.Module = (
        neuron.LIFNode(tau=tau, **common) if kind == "LIF" else neuron.ParametricLIFNode(init_tau=tau, **common)
    )
    return made


def convolution(
    in_channels: int,
    out_channels: int,
    edge: int = 3,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    bias: bool = False,
) -> nn.Module:
    """Return a convolution over (T, N, C, H, W); the default padding keeps the size for an odd edge and stride 1."""
    padding = edge // 2 if padding is None else padding
    return layer.Conv2d(  # type: ignore[no-any-return]
        in_channels, out_channels, edge, stride=stride, padding=padding, groups=groups, bias=bias, step_mode="m"
    )


def batch_norm(channels: int) -> nn.Module:
    """Return the batch normalisation of (T, N, C, H, W) over channels, T and N taken together as the batch."""
    return layer.BatchNorm2d(channels, step_mode="m")  # type: ignore[no-any-return]


def max_pool() -> nn.Module:
    """Return the max-pool that halves a map: 3x3, stride 2, padding 1."""
    return layer.MaxPool2d(kernel_size=3, stride=2, padding=1, step_mode="m")  # type: ignore[no-any-return]


class TokenLinear(nn.Linear):
    """A 1x1 convolution whose weights are a linear layer's, (out, in)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix the channels of x: (T, N, in, H, W) gives (T, N, out, H, W)."""
        mixed = F.linear(x.flatten(3).transpose(2, 3), self.weight, self.bias)
        return mixed.transpose(2, 3).reshape(*x.shape[:2], self.out_features, *x.shape[3:])


class TokenConv1d(nn.Conv1d):
    """A 1x1 convolution whose weights are those of a convolution over tokens, (out, in, 1)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix the channels of x: (T, N, in, H, W) gives (T, N, out, H, W)."""
        mixed = super().forward(x.flatten(3).flatten(0, 1))
        return mixed.reshape(*x.shape[:2], self.out_channels, *x.shape[3:])


def pointwise(kind: PointwiseKind, in_channels: int, out_channels: int, *, bias: bool) -> nn.Module:
    """Return a 1x1 convolution over (T, N, C, H, W) whose weights have the shape of ``kind``."""
    if kind == "linear":
        return TokenLinear(in_channels, out_channels, bias=bias)
    if kind == "conv1d":
        return TokenConv1d(in_channels, out_channels, kernel_size=1, bias=bias)
    return convolution(in_channels, out_channels, 1, bias=bias)


class Units(nn.Module):
    """A module whose convolutions, batch normalisations and neurons lie side by side, a unit of three under a pattern.

    The unit ``proj_{}1`` has the parts ``proj_conv1``, ``proj_bn1`` and ``proj_lif1``.

    Args:
        conv_word: the authors' word for the convolution, in names.
        neuron_word: the authors' word for the neuron, in names.
    """

    def __init__(self, *, conv_word: str = "conv", neuron_word: str = "lif") -> None:
        super().__init__()
        self.conv_word = conv_word
        self.neuron_word = neuron_word

    def add_unit(self, unit: str, conv: nn.Module, channels: int, spiking: nn.Module | None) -> None:
        """Add a convolution with ``channels`` outputs, its batch normalisation, and a neuron unless that is None."""
        self.add_module(unit.format(self.conv_word), conv)
        self.add_module(unit.format("bn"), batch_norm(channels))
        if spiking is not None:
            self.add_module(unit.format(self.neuron_word), spiking)

    def weigh(self, unit: str, x: torch.Tensor) -> torch.Tensor:
        """Return the unit's currents: x, (T, N, C, H, W), convolved and normalised."""
        conv, norm = (getattr(self, unit.format(word)) for word in (self.conv_word, "bn"))
        currents: torch.Tensor = norm(conv(x))
        return currents

    def fire(self, unit: str, currents: torch.Tensor) -> torch.Tensor:
        """Return the spikes of the unit's neurons, of the currents' shape."""
        spikes: torch.Tensor = getattr(self, unit.format(self.neuron_word))(currents)
        return spikes


class SpikingMLP(Units):
    """Two units of 1x1 convolutions with biases: to ``hidden`` channels, and back.

    Args:
        channels: C of the input and the result.
        hidden: channels between.
        kind: the shape of the weights.
        neuron_first: whether a unit's neuron stands before its convolution, so that the result is a current, or
            behind its normalisation, so that the result is spikes.
        prefix: the beginning of the units' names: ``fc`` or ``mlp``.
        neurons: makes a population; it is called twice.
        neuron_word: the authors' word for the neuron, in names.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        kind: PointwiseKind,
        neuron_first: bool,
        prefix: str = "fc",
        neurons: Callable[[], nn.Module] = lif,
        neuron_word: str = "lif",
    ) -> None:
        super().__init__(conv_word="linear" if kind == "linear" else "conv", neuron_word=neuron_word)
        self.neuron_first = neuron_first
        self.widen, self.narrow = f"{prefix}1_{{}}", f"{prefix}2_{{}}"
        self.add_unit(self.widen, pointwise(kind, channels, hidden, bias=True), hidden, neurons())
        self.add_unit(self.narrow, pointwise(kind, hidden, channels, bias=True), channels, neurons())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform x, (T, N, C, H, W), into what the block adds to it, of the same shape."""
        if self.neuron_first:
            hidden = self.weigh(self.widen, self.fire(self.widen, x))
            return self.weigh(self.narrow, self.fire(self.narrow, hidden))
        hidden = self.fire(self.widen, self.weigh(self.widen, x))
        return self.fire(self.narrow, self.weigh(self.narrow, hidden))


class ResidualMLP(SpikingMLP):
    """A ``SpikingMLP`` on currents with a residual of its own: around both units, or around each if widths are equal.

    Source: ``MS_MLP_Conv`` of github.com/BICLab/Spike-Driven-Transformer and ``S_MLP`` of github.com/bic-L/MaxFormer.
    """

    def __init__(self, channels: int, hidden: int, *, neurons: Callable[[], nn.Module] = lif) -> None:
        super().__init__(channels, hidden, kind="conv2d", neuron_first=True, neurons=neurons)
        self.adds_between = channels == hidden

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform x, (T, N, C, H, W), a stream of currents; the result has the same shape."""
        hidden = self.weigh(self.widen, self.fire(self.widen, x))
        if self.adds_between:
            hidden = x = x + hidden
        return self.weigh(self.narrow, self.fire(self.narrow, hidden)) + x


def tokens(x: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Return maps, (T, N, C, H, W), as the tokens of each head, (T, N, heads, H W, C / heads)."""
    steps, samples, channels, height, width = x.shape
    return x.reshape(steps, samples, num_heads, channels // num_heads, height * width).transpose(3, 4)


def maps(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return the tokens of each head, (T, N, heads, H W, C / heads), as maps, (T, N, C, H, W), of the size (H, W)."""
    steps, samples, num_heads, _, channels = x.shape
    return x.transpose(3, 4).reshape(steps, samples, num_heads * channels, *size)


class SpikeAttention(nn.Module):
    """Attention by counts: each head computes scale (q k^T) v from spikes, which is an integer times the scale.

    It holds no parameters. It is a module so that a compiler, or a hook that counts operations, can find it. The order
    of the two products is free, as both are exact; the one taken is cheaper if a head has more tokens than channels.

    Args:
        num_heads: the number of heads, which divides the channels.
        scale: a constant factor.
    """

    def __init__(self, num_heads: int, scale: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = scale

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return the attention's currents.

        Args:
            q: spikes, (T, N, C, H, W).
            k: spikes of the same shape.
            v: spikes, (T, N, C', H, W); the result has their shape.
        """
        queries, keys, values = (tokens(each, self.num_heads) for each in (q, k, v))
        result = torch.matmul(queries, torch.matmul(keys.transpose(3, 4), values)) * self.scale
        return maps(result, v.shape[3:])


class SpikingSelfAttention(Units):
    """Spiking self-attention: q, k and v by units of 1x1 convolutions, ``SpikeAttention``, neurons, a projection.

    Args:
        channels: C.
        num_heads: the number of heads, which divides C.
        kind: the shape of the weights.
        scale: the attention's scale.
        neuron_before: the name of a neuron that turns the input into spikes; the result is then a current. None: the
            input is a sum of spikes and is used as it is, and a neuron after the projection turns the result into
            spikes.
        tau: tau of all neurons, in steps.

    Raises:
        UnsupportedError: where the heads do not divide the channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        kind: PointwiseKind,
        scale: float = 0.125,
        neuron_before: str | None = None,
        tau: float = 2.0,
    ) -> None:
        super().__init__(conv_word="linear" if kind == "linear" else "conv")
        check_heads(channels, num_heads)
        self.neuron_before = neuron_before
        if neuron_before is not None:
            self.add_module(neuron_before, lif(tau=tau))
        for unit in ("q_{}", "k_{}", "v_{}"):
            # linear layers have biases, as PyTorch makes them; the authors turn those of convolutions off
            self.add_unit(unit, pointwise(kind, channels, channels, bias=kind == "linear"), channels, lif(tau=tau))
        self.attention = SpikeAttention(num_heads, scale)
        self.attn_lif = lif(v_threshold=ATTENTION_THRESHOLD, tau=tau)
        self.add_unit(
            "proj_{}",
            pointwise(kind, channels, channels, bias=True),
            channels,
            lif(tau=tau) if neuron_before is None else None,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over x, (T, N, C, H, W); the result is what the block adds to it, of the same shape."""
        if self.neuron_before is not None:
            x = getattr(self, self.neuron_before)(x)
        q, k, v = (self.fire(unit, self.weigh(unit, x)) for unit in ("q_{}", "k_{}", "v_{}"))
        projected = self.weigh("proj_{}", self.attn_lif(self.attention(q, k, v)))
        return self.fire("proj_{}", projected) if self.neuron_before is None else projected


class Classifier(nn.Module, abc.ABC):
    """A network from images to logits: stages, a mean over each map, perhaps a neuron, and a linear layer.

    Neurons keep their membrane potential between calls: call ``functional.reset_net(model)`` of
    ``spikingjelly.activation_based`` before each batch.

    Args:
        timesteps: T, how often an image is presented; event frames bring their own T.

    Raises:
        UnsupportedError: where T is less than 1.
    """

    architecture: Any
    """The network as plain data, of its family's own class."""

    def __init__(self, *, timesteps: int) -> None:
        super().__init__()
        if timesteps < 1:
            raise UnsupportedError(f"timesteps is {timesteps}: must be at least 1")
        self.timesteps = timesteps

    @abc.abstractmethod
    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the stages make of x, (T, N, C, H, W): (T, N, C', H', W')."""

    @abc.abstractmethod
    def readout(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the logits, (N, classes), for the means of all maps, (T, N, C')."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, (N, classes), averaged over T.

        Args:
            x: images, (N, C, H, W), each presented T times, or frames of events, (T, N, C, H, W).

        Raises:
            InputError: where x has another number of axes.
        """
        if x.dim() == 4:
            x = x.unsqueeze(0).repeat(self.timesteps, 1, 1, 1, 1)
        elif x.dim() != 5:
            raise InputError(f"the input has shape {tuple(x.shape)}: give (N, C, H, W) or (T, N, C, H, W)")
        return self.readout(self.features(x).flatten(3).mean(3))


@dataclass(frozen=True, kw_only=True)
class ColumnArchitecture:
    """The architecture of a network whose blocks all have one width: everything but T and the image size.

    Attributes:
        embed_dims: channels of the blocks, a multiple of 8.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden channels of the MLP divided by ``embed_dims``.
        in_channels: channels of the input.
        num_classes: number of logits.
        pooling: four digits, one for each of four of the stem's units: 1 if the unit pools, else 0.

    Raises:
        UnsupportedError: where the fields contradict each other.
    """

    embed_dims: int
    depth: int
    num_heads: int
    mlp_ratio: int = 4
    in_channels: int = 3
    num_classes: int = 10
    pooling: str

    def __post_init__(self) -> None:
        check_positive(
            depth=self.depth, mlp_ratio=self.mlp_ratio, in_channels=self.in_channels, num_classes=self.num_classes
        )
        check_divisible(self.embed_dims, 8)
        check_heads(self.embed_dims, self.num_heads)
        check_pooling(self.pooling)


class ColumnNetwork(Classifier):
    """A stem, ``patch_embed``, followed by blocks of the same width, ``block``."""

    patch_embed: nn.Module
    block: nn.ModuleList

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the last block makes of x, (T, N, C, H, W): (T, N, embed_dims, H', W')."""
        x = self.patch_embed(x)
        for block in self.block:
            x = block(x)
        return x


@dataclass(frozen=True, kw_only=True)
class PyramidArchitecture:
    """The architecture of a network whose stages double the channels: everything but T and the image size.

    Attributes:
        embed_dims: channels of the last stage; each stage has half as many channels as the next.
        depths: number of blocks of each stage.
        num_heads: attention heads.
        mlp_ratio: hidden channels of an MLP divided by the channels of its stage.
        in_channels: channels of the input.
        num_classes: number of logits.
        layout: the folder of the authors' code whose way of writing the network is followed.
    """

    embed_dims: int
    depths: tuple[int, ...]
    num_heads: int
    mlp_ratio: int = 4
    in_channels: int = 3
    num_classes: int = 10
    layout: str

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dims >> later for later in reversed(range(len(self.depths))))

    def check_stages(self, stages: int, narrowing: int) -> None:
        """Refuse fields that contradict each other or the layout; each family checks the heads itself.

        Args:
            stages: the layout's number of stages.
            narrowing: the first stage's channels divided by those of the stem's first convolution.

        Raises:
            UnsupportedError: a field is not acceptable; the message names it.
        """
        if len(self.depths) != stages:
            raise UnsupportedError(f"depths are {self.depths}: layout {self.layout} has {stages} stages")
        check_positive(mlp_ratio=self.mlp_ratio, in_channels=self.in_channels, num_classes=self.num_classes)
        for depth in self.depths:
            check_positive(depth=depth)
        check_divisible(self.embed_dims, 2 ** (stages - 1) * narrowing)


class PyramidNetwork(Classifier):
    """Stages, one after the other: ``patch_embed1``, the blocks of ``stage1``, ``patch_embed2``, and so on."""

    def __init__(self, *, timesteps: int) -> None:
        super().__init__(timesteps=timesteps)
        self.stages = 0

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the last block makes of x, (T, N, C, H, W): (T, N, embed_dims, H', W')."""
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"patch_embed{stage}")(x)
            for block in getattr(self, f"stage{stage}"):
                x = block(x)
        return x

    def add_stage(self, embedding: nn.Module, blocks: Iterable[nn.Module]) -> None:
        """Add a stage after those that were added before."""
        self.stages += 1
        self.add_module(f"patch_embed{self.stages}", embedding)
        self.add_module(f"stage{self.stages}", nn.ModuleList(blocks))


def unused_norm(channels: int) -> nn.LayerNorm:
    """Return a layer normalisation that no data passes; it exists so that the authors' checkpoints load."""
    return nn.LayerNorm(channels)


def check_choice(choices: object, **values: str) -> None:
    """Refuse a word of an architecture that is not among those of a ``Literal``.

    Args:
        choices: the ``Literal``.
        values: the words, by the names of their fields.

    Raises:
        UnsupportedError: a word is not allowed; the message names the first such field, and the allowed words.
    """
    for name, value in values.items():
        if value not in get_args(choices):
            raise UnsupportedError(f"{name} is {value!r}: must be one of {', '.join(get_args(choices))}")


def check_heads(channels: int, num_heads: int) -> None:
    """Refuse a number of heads that does not divide the channels.

    Raises:
        UnsupportedError: the message names both numbers.
    """
    if num_heads < 1 or channels % num_heads:
        raise UnsupportedError(f"{channels} channels cannot be split evenly into {num_heads} heads")


def check_positive(**values: int) -> None:
    """Refuse numbers of an architecture that are less than 1.

    Raises:
        UnsupportedError: the message names the first such number.
    """
    for name, value in values.items():
        if value < 1:
            raise UnsupportedError(f"{name} is {value}: must be at least 1")


def check_divisible(channels: int, divisor: int) -> None:
    """Refuse a number of channels that is no multiple of ``divisor``, by which a family's stages divide it.

    Raises:
        UnsupportedError: the message names both numbers.
    """
    if channels < 1 or channels % divisor:
        raise UnsupportedError(f"embed_dims is {channels}: must be a multiple of {divisor}, by which stages divide it")


def check_pooling(pooling: str) -> None:
    """Refuse a pooling that is not four digits of 0 and 1.

    Raises:
        UnsupportedError: the message names it.
    """
    if len(pooling) != 4 or set(pooling) - {"0", "1"}:
        raise UnsupportedError(f"pooling is {pooling!r}: must be a 0 or a 1 for each of the stem's four units")
