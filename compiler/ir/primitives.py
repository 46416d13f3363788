"""NIR nodes for what NIR lacks; ``ir.ported`` registers them with NIR, so that ``nir.read`` returns them.

Array shapes follow NIR: kernel sizes, strides and paddings are (rows, columns).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

import nir
import nir.ir
import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.arrays import InvariantError
from resformer.compiler.ir.window import Window

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

Types: TypeAlias = "dict[str, IntArray | None]"
"""NIR's shapes of inputs or outputs, by port; None where neighbours decide them."""

InputKind: TypeAlias = Literal["static", "frames"]
"""What a graph's metadata say under ``input``: samples are real numbers, or counts of events."""


@dataclass(eq=False)
class BatchNorm2d(nir.NIRNode):
    """Batch normalisation at inference: (x - running_mean) / sqrt(running_var + eps) * weight + bias, per channel."""

    weight: Float64Array
    bias: Float64Array
    running_mean: Float64Array
    running_var: Float64Array
    eps: float

    def __post_init__(self) -> None:
        self.input_type, self.output_type = _untyped()


@dataclass(eq=False)
class MaxPool2d(nir.NIRNode):
    """Maxima over windows; padding never wins."""

    kernel_size: IntArray
    stride: IntArray
    padding: IntArray

    def __post_init__(self) -> None:
        self.input_type, self.output_type = _untyped()


@dataclass(eq=False)
class CeilMaxPool2d(MaxPool2d):
    """The same with windows that reach ``beyond`` rows below and columns right of the padding."""

    beyond: IntArray


@dataclass(eq=False)
class SpikeMatMul(nir.NIRNode):
    """One of the two products of Dual Spike Self-Attention (arXiv 2403.14302, equations 8 to 11).

    Inputs, in this order: y, real, of shape (channels, h, w), and spikes. y's channels are split into heads first and
    then, if ``part`` is "y1" or "y2", the head's first or second half of them is used. With d channels a head and
    n = h * w, each head computes

    - y^T x, of shape (n, H * W), if ``transpose``: spikes x of shape (heads * d, H, W), output (heads, n, H * W);
    - y s otherwise: spikes s of shape (heads, n, H * W), output (heads * d, H, W).
    """

    num_heads: int
    transpose: bool
    part: str

    def __post_init__(self) -> None:
        self.num_heads, self.transpose = int(self.num_heads), bool(self.transpose)
        self.input_type, self.output_type = _untyped()


@dataclass(eq=False)
class Add(nir.NIRNode):
    """A named junction: the sum of its inputs, left to right, as NIR sums the edges that meet at any node."""

    def __post_init__(self) -> None:
        self.input_type, self.output_type = _untyped()


@dataclass(eq=False)
class DiscreteCubaLIF(nir.NIRNode):
    """Neurons in steps: what NIR's IF, LIF and CubaLIF become for a given dt, however they reset (``ir.neurons``).

    Of the input x of a step, both states zero before the first:

        u <- u * (1 - syn_decay) + x
        v <- v * (1 - mem_decay) + u + v_bias
        spike where v > v_threshold (or >=: ``fires_at`` among the metadata), and then
        v <- v - v_drop if soft_reset, else 0

    Where their metadata say ``reset: prompt``, a neuron whose v of the last step exceeds v_threshold fires only above
    v_threshold + v_drop. Arrays have the population's shape.
    """

    syn_decay: Float64Array
    mem_decay: Float64Array
    v_threshold: Float64Array
    v_bias: Float64Array
    v_drop: Float64Array
    soft_reset: bool

    def __post_init__(self) -> None:
        self.soft_reset = bool(self.soft_reset)
        self.input_type, self.output_type = _untyped()


PER_NEURON = ("syn_decay", "mem_decay", "v_threshold", "v_bias", "v_drop")
"""The parameters of :class:`DiscreteCubaLIF` that each neuron has."""


@dataclass(eq=False)
class RecurrentCubaLIF(DiscreteCubaLIF):
    """The same neurons with synapses onto themselves: x is the input and W s + bias, s being the spikes of a step ago.

    Before a sample's first step nothing fired. W is a convolution of stride one that keeps the population's shape,
    (C, H, W), or (F,), which counts as (F, 1, 1).
    """

    weight: Float64Array
    bias: Float64Array
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.padding, self.dilation = pair(self.padding), pair(self.dilation)
        self.groups = int(self.groups)

    def synapses(self) -> nir.Conv2d:
        """The recurrent synapses as a node of their own."""
        return nir.Conv2d(
            input_shape=None,
            weight=self.weight,
            stride=(1, 1),
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            bias=self.bias,
        )


@dataclass(eq=False)
class MultiSpikeIF(nir.NIRNode):
    """Neurons in steps that do not leak and may fire several spikes in each: Sinabs' IAF.

    Of the input x of a step, v zero before the first:

        v <- v + x
        s = floor(v / v_threshold), but not below zero and no more than max_spikes
        v <- max(v - s * v_threshold, v_floor)

    They make s. Arrays have the population's shape.
    """

    v_threshold: Float64Array
    v_floor: Float64Array
    max_spikes: int

    def __post_init__(self) -> None:
        self.max_spikes = int(self.max_spikes)
        self.input_type, self.output_type = _untyped()


PER_MULTI_SPIKE = ("v_threshold", "v_floor")
"""The parameters of :class:`MultiSpikeIF` that each neuron has."""


@dataclass(eq=False)
class IntegerLIF(MultiSpikeIF):
    """Neurons of levels: I-LIF of SpikeYOLO and of Spike-driven Transformer v3, which has no memory.

    Of the input x of a step, v zero before the first:

        v <- v * (1 - mem_decay) + x
        s = round(v / v_threshold), but not below zero and no more than max_spikes
        v <- max(v - s * v_threshold, v_floor)

    They make s. Half way between two numbers, s is the even one, or else the larger.
    """

    mem_decay: float
    even: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mem_decay, self.even = float(self.mem_decay), bool(self.even)


PER_INTEGRATOR = ("syn_decay", "mem_decay", "gain", "v_leak")
"""The parameters of :class:`DiscreteCubaLI`."""


@dataclass(eq=False)
class DiscreteCubaLI(nir.NIRNode):
    """Neurons in steps that do not fire: what NIR's I, LI and CubaLI become for a given dt.

    Of the input x of a step, both states zero before the first, they make v + v_leak, their potential:

        u <- u * (1 - syn_decay) + gain * x
        v <- v * (1 - mem_decay) + u

    Arrays have the population's shape.
    """

    syn_decay: Float64Array
    mem_decay: Float64Array
    gain: Float64Array
    v_leak: Float64Array

    def __post_init__(self) -> None:
        self.input_type, self.output_type = _untyped()


@dataclass(eq=False)
class SampleDelay(nir.NIRNode):
    """NIR's Delay in steps: what each neuron sends arrives as many steps later as ``steps``, of the population's shape.

    Before that, zeros arrive; what would arrive after a sample's last step never does.
    """

    steps: IntArray

    def __post_init__(self) -> None:
        self.input_type, self.output_type = _untyped()


@dataclass(eq=False)
class SpikeGate(nir.NIRNode):
    """Neurons without memory, which fire where the spikes that reach them in a step ask for it.

    Its inputs, two or more, are spikes. ``kind`` says where it fires:

    - "and": where all inputs do, a b;
    - "or": where any does, 1 - (1 - a) (1 - b);
    - "iand": where the first does and no other, a (1 - b).

    The output has the shape of the largest input. The others have it too, or are spread over it: of C channels, each of
    C / m stands for m in turn, and a single row, or a single column, for all. So (heads, H, W) masks each head's
    channels alike, and (C, 1, 1) all positions.
    """

    kind: str

    def __post_init__(self) -> None:
        self.input_type, self.output_type = _untyped()


GATE_KINDS = ("and", "or", "iand")
"""What a :class:`SpikeGate` may be."""


@dataclass(eq=False)
class SpikeAttention(nir.NIRNode):
    """Attention of counts: both products of Spikformer's self-attention, which has no softmax.

    Inputs, in this order, are spikes, or counts of them (:class:`MultiSpikeIF`): q of shape (heads * d, H, W), k of
    (heads * d, h, w) and v of (heads * e, h, w), whose tokens are the positions of a map and whose channels are split
    into heads. Each head makes, of its share of the channels and as rows of tokens, 2^-shift (q k^T) v: the output has
    the shape (heads * e, H, W).
    """

    num_heads: int
    shift: int

    def __post_init__(self) -> None:
        self.num_heads, self.shift = int(self.num_heads), int(self.shift)
        self.input_type, self.output_type = _untyped()


ATTENTION_SHIFT_MAX = 16
"""The largest ``shift`` of a :class:`SpikeAttention`."""


@dataclass(eq=False)
class AdaptiveAvgPool2d(nir.NIRNode):
    """Averages over windows of several sizes, as PyTorch's of that name chooses them for an image of ``size``.

    The frontend of modules makes it; ``merge_chains`` makes it part of the linear layer that reads it.
    """

    size: tuple[int, int]

    def __post_init__(self) -> None:
        self.size = pair(self.size)
        self.input_type, self.output_type = _untyped()

    def shares(self, axis: int, have: int) -> Float64Array:
        """What each row (axis 0) or column of the result is of those of the source, (size, have)."""
        want = self.size[axis]
        shares = np.zeros((want, have))
        for index in range(want):
            first, last = index * have // want, -(-(index + 1) * have // want)
            shares[index, first:last] = 1.0 / (last - first)
        return shares


def own_targets(shares: Float64Array) -> list[int] | None:
    """For each row (or column) of a source, one of the result that is that alone; None where one has none."""
    alone = (shares == 1.0) & (np.count_nonzero(shares, axis=1) == 1)[:, None]
    return [int(each) for each in alone.argmax(axis=0)] if alone.any(axis=0).all() else None


@dataclass(eq=False)
class EdgeAvgPool2d(AdaptiveAvgPool2d):
    """Averages over windows that reach beyond the image, divided by how much of them is counted.

    Attributes:
        kernel_size: (rows, columns), as are the two that follow.
        stride: Between windows.
        padding: Around the image.
        counts_padding: Whether a divisor counts padding, which never is what ceil_mode adds behind it.
    """

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    counts_padding: bool

    def shares(self, axis: int, have: int) -> Float64Array:
        """See ``AdaptiveAvgPool2d``."""
        shares = np.zeros((self.size[axis], have))
        for index in range(self.size[axis]):
            first = index * self.stride[axis] - self.padding[axis]
            last = min(first + self.kernel_size[axis], have + self.padding[axis])
            inside = slice(max(first, 0), min(last, have))
            shares[index, inside] = 1.0 / (last - first if self.counts_padding else inside.stop - inside.start)
        return shares


EXTENSIONS: tuple[type[nir.NIRNode], ...] = (
    BatchNorm2d,
    MaxPool2d,
    CeilMaxPool2d,
    SpikeMatMul,
    Add,
    DiscreteCubaLIF,
    RecurrentCubaLIF,
    MultiSpikeIF,
    IntegerLIF,
    DiscreteCubaLI,
    SampleDelay,
    SpikeGate,
    SpikeAttention,
)

NEURONS = (nir.LIF, nir.IF, nir.CubaLIF, DiscreteCubaLIF, RecurrentCubaLIF, MultiSpikeIF)
"""What fires at the float level."""

SingleSpike: TypeAlias = "nir.LIF | nir.IF | nir.CubaLIF | DiscreteCubaLIF"
"""The type of what fires once a step at most."""

Neurons: TypeAlias = "SingleSpike | MultiSpikeIF"
"""The type of what fires; :class:`RecurrentCubaLIF` is a :class:`DiscreteCubaLIF`."""

Layer: TypeAlias = "nir.Conv2d | nir.Linear | nir.Affine"
"""The type of what only weighs what it reads."""

POOL_AREA = "pool_area"
"""In a convolution's metadata: what its weights were divided by, since it reads a sum in place of a pool's mean; in
neurons': what their thresholds were multiplied by."""

LEVEL_NORM = "level_norm"
"""In a layer's metadata: what its weights were divided by, since it reads levels in place of what divides them."""

SCALED_BY, UNIT = "scaled_by", "unit"
"""In a scale's metadata: the buffer of the module that it is computed from, and its value that makes the scale one."""

BIAS_SHARES = "bias_shares"
"""In a layer's metadata: into how many its biases were divided, as its module adds it to a sum over so many steps."""

CONCATENATED = "concatenated"
"""In the metadata of a sum that stands for values side by side, and of each layer that puts one there: its first
channel."""

INSIDE = "inside"
"""In a convolution's metadata: which rows and columns of its kernel are its layer's, "start:stop:step,start:stop:step";
the others are zeros, since the layer pads one side more than the other."""

FIXED = "fixed"
"""In the metadata of what the code states as numbers, which no layer holds; and of weights that it computes."""

MERGED = "merged"
"""In a layer's metadata: the layers that it was made of, which follow each other without neurons between."""

HELD_BIAS = "held_bias"
"""In a convolution's metadata: that its layer has a bias of its own, which NIR's always have."""


def half_rows(channels: int, num_heads: int, part: str) -> IntArray:
    """The channels of W that hold y1 or y2, head by head."""
    by_head = np.arange(channels).reshape(num_heads, 2, channels // (2 * num_heads))
    return by_head[:, ("y1", "y2").index(part)].reshape(-1)


def rows_name(layer: str, start: int, count: int) -> str:
    """What a layer is called that makes some channels in a row of another's."""
    return f"{layer}.rows{start}to{start + count}"


def rows_of(name: str) -> tuple[str, range] | None:
    """The layer of which a layer makes some channels alone, and which; None of all others."""
    found = re.fullmatch(r"(.+)\.rows(\d+)to(\d+)", name)
    return None if found is None else (found[1], range(int(found[2]), int(found[3])))


SPREAD = "spread"
"""In the metadata of a linear layer that reads what its module enlarges first: the enlarged size, and of it the rows
and the columns that are one of the image's own, "ROWSxCOLUMNS;row,row;column,column"."""


def spread_of(op: nir.NIRNode) -> tuple[tuple[int, int], list[int], list[int]] | None:
    """What ``SPREAD`` says of a layer; None of all others."""
    stated = op.metadata.get(SPREAD)
    if stated is None:
        return None
    size, rows, columns = str(stated).split(";")
    height, width = map(int, size.split("x"))
    return (height, width), [int(each) for each in rows.split(",")], [int(each) for each in columns.split(",")]


def spread(op: nir.NIRNode, weight: Float64Array) -> Float64Array:
    """A layer's weights as its module holds them: zero but where an enlarged pixel is one of the image's own."""
    found = spread_of(op)
    if found is None:
        return weight
    (height, width), rows, columns = found
    held = weight.reshape(len(weight), -1, len(rows), len(columns))
    wide = np.zeros((*held.shape[:2], height, width))
    wide[:, :, np.array(rows)[:, None], columns] = held
    return wide


COLUMNS = "columns"
"""In the metadata of recurrent neurons: the columns of a layer that their synapses onto themselves are."""
SHARED = "shared"
"""The same where layers weigh what comes in, too, or are several: which."""


def columns_name(layer: str, start: int, count: int) -> str:
    """What a layer is called that weighs some of the channels that another reads."""
    return f"{layer}.columns{start}to{start + count}"


def columns_of(name: str) -> tuple[str, slice] | None:
    """The layer of which a layer weighs some channels alone, and which; None of all others."""
    found = re.fullmatch(r"(.+)\.columns(\d+)to(\d+)", name)
    return None if found is None else (found[1], slice(int(found[2]), int(found[3])))


def inside(op: nir.NIRNode) -> tuple[slice, slice]:
    """Which rows and columns of a convolution's kernel are its layer's own."""
    where = op.metadata.get(INSIDE)
    if where is None:
        return slice(None), slice(None)
    down, right = (slice(*map(int, each.split(":"))) for each in str(where).split(","))
    return down, right


def constant(value: float, shape: tuple[int, ...]) -> Float64Array:
    """An array of one value that takes no memory: how a whole population's parameters are held."""
    return np.broadcast_to(np.float64(value), shape)


def collapse(array: npt.NDArray[np.float64]) -> Float64Array:
    """The array with each broadcast axis cut to length one, so that work on :func:`constant` arrays stays small."""
    return array[tuple(slice(None) if stride else slice(0, 1) for stride in array.strides)]


def as_neurons(op: nir.NIRNode) -> Neurons:
    """The operation of a node that is known to fire."""
    if not isinstance(op, NEURONS):
        raise InvariantError(f"{type(op).__name__} does not fire")
    return op


def as_layer(op: nir.NIRNode) -> Layer:
    """The operation of a node that is known to be a layer with weights, and no neurons."""
    if not isinstance(op, nir.Conv2d | nir.Linear | nir.Affine):
        raise InvariantError(f"{type(op).__name__} is no layer")
    return op


def as_weighted(op: nir.NIRNode) -> Layer | RecurrentCubaLIF:
    """The operation of a node that is known to have weights; neurons may have some of their own."""
    return op if isinstance(op, RecurrentCubaLIF) else as_layer(op)


def bias_of(op: Layer | RecurrentCubaLIF) -> Float64Array:
    """The bias of each output, (C_out,); zeros where there is none."""
    return np.zeros(len(op.weight)) if isinstance(op, nir.Linear) else op.bias


def with_weight(layer: Layer, *, weight: Float64Array, bias: Float64Array) -> nir.Conv2d | nir.Affine:
    """The same layer with other weights and a bias."""
    if not isinstance(layer, nir.Conv2d):
        return nir.Affine(weight, bias, metadata=dict(layer.metadata))
    return nir.Conv2d(
        input_shape=layer.input_shape,
        weight=weight,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        bias=bias,
        metadata=dict(layer.metadata),
    )


def pair(value: npt.ArrayLike) -> tuple[int, int]:
    """NIR's int, pair or array as (rows, columns)."""
    rows, columns = np.broadcast_to(np.asarray(value, dtype=np.int64), 2).tolist()
    return rows, columns


def window_of(op: nir.Conv2d | nir.AvgPool2d | nir.SumPool2d | MaxPool2d) -> Window:
    """What each target of a convolution, or of a pool, reads."""
    if isinstance(op, nir.Conv2d):
        rows, columns = op.weight.shape[2:]
        return Window((rows, columns), pair(op.stride), pair(op.padding), pair(op.dilation))
    beyond = pair(op.beyond) if isinstance(op, CeilMaxPool2d) else (0, 0)
    return Window(pair(op.kernel_size), pair(op.stride), pair(op.padding), beyond=beyond)


def undilated(weight: Float64Array, dilation: tuple[int, int]) -> Float64Array:
    """Weights with the zeros between dilated taps."""
    rows, columns = weight.shape[2:]
    spread = np.zeros((*weight.shape[:2], *Window((rows, columns), dilation=dilation).span))
    spread[:, :, :: dilation[0], :: dilation[1]] = weight
    return spread


def _untyped() -> tuple[Types, Types]:
    """NIR's way to say that a node's shapes follow from its neighbours."""
    return {"input": None}, {"output": None}
