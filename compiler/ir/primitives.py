"""The nodes that NIR lacks; ``ir.ported`` registers them with NIR, so that ``nir.read`` returns them.

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
"""NIR's shapes of inputs or outputs, by port; None where neighbouring nodes decide them."""

InputKind: TypeAlias = Literal["static", "frames"]
"""The values of ``input`` in a graph's metadata: "static" samples are real numbers, "frames" are counts of events."""


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
    """Maxima over windows that reach ``beyond`` rows below the padding and columns right of it; padding never wins."""

    beyond: IntArray


@dataclass(eq=False)
class SpikeMatMul(nir.NIRNode):
    """One of the two products of Dual Spike Self-Attention (arXiv 2403.14302, equations 8 to 11).

    Inputs, in this order: y, real, of shape (channels, h, w), and spikes. y's channels are split into heads. Then, if
    ``part`` is "y1" or "y2", each head uses only the first or the second half of its channels. With d channels used by
    a head and n = h * w, each head computes

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

    Both states are zero before the first step. A step with input x computes:

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
"""The parameters of :class:`DiscreteCubaLIF` that have one value for each neuron."""


@dataclass(eq=False)
class RecurrentCubaLIF(DiscreteCubaLIF):
    """Neurons in steps with synapses onto themselves: to the input they add W s + bias; s are the spikes of a step ago.

    The sum is the x of :class:`DiscreteCubaLIF`. Before a sample's first step s is zero. W is a convolution of stride
    one that keeps the population's shape, (C, H, W); (F,) counts as (F, 1, 1).
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
    """Neurons in steps that do not leak and may fire several spikes in each step: Sinabs' IAF.

    The state v is zero before the first step. A step with input x computes:

        v <- v + x
        s = floor(v / v_threshold), but not below zero and no more than max_spikes
        v <- max(v - s * v_threshold, v_floor)

    The output is s. Arrays have the population's shape.
    """

    v_threshold: Float64Array
    v_floor: Float64Array
    max_spikes: int

    def __post_init__(self) -> None:
        self.max_spikes = int(self.max_spikes)
        self.input_type, self.output_type = _untyped()


PER_MULTI_SPIKE = ("v_threshold", "v_floor")
"""The parameters of :class:`MultiSpikeIF` that have one value for each neuron."""


@dataclass(eq=False)
class IntegerLIF(MultiSpikeIF):
    """Neurons of levels: I-LIF of SpikeYOLO and of Spike-driven Transformer v3; the latter has no memory.

    The state v is zero before the first step. A step with input x computes:

        v <- v * (1 - mem_decay) + x
        s = round(v / v_threshold), but not below zero and no more than max_spikes
        v <- max(v - s * v_threshold, v_floor)

    The output is s. Half way between two whole numbers, s is the even one if ``even`` is set, otherwise the larger.
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

    Both states are zero before the first step. A step with input x computes:

        u <- u * (1 - syn_decay) + gain * x
        v <- v * (1 - mem_decay) + u

    The output is the potential v + v_leak. Arrays have the population's shape.
    """

    syn_decay: Float64Array
    mem_decay: Float64Array
    gain: Float64Array
    v_leak: Float64Array

    def __post_init__(self) -> None:
        self.input_type, self.output_type = _untyped()


@dataclass(eq=False)
class SampleDelay(nir.NIRNode):
    """NIR's Delay in steps: what a neuron sends arrives ``steps`` steps later; ``steps`` has the population's shape.

    Before that, zeros arrive; what would arrive after a sample's last step is lost.
    """

    steps: IntArray

    def __post_init__(self) -> None:
        self.input_type, self.output_type = _untyped()


@dataclass(eq=False)
class SpikeGate(nir.NIRNode):
    """Neurons without memory, which fire depending only on the spikes that reach them in a step.

    A gate has two or more inputs, which are spikes. ``kind`` says where it fires:

    - "and": where all inputs fire, a b;
    - "or": where any input fires, 1 - (1 - a) (1 - b);
    - "iand": where the first input fires and no other does, a (1 - b).

    The output has the shape of the largest input, with C channels. The other inputs have this shape too, or are spread
    over it: each of C / m channels stands for m channels in a row, and a single row, or a single column, stands for
    all. So (heads, H, W) masks all channels of a head alike, and (C, 1, 1) all positions.
    """

    kind: str

    def __post_init__(self) -> None:
        self.input_type, self.output_type = _untyped()


GATE_KINDS = ("and", "or", "iand")
"""The values of ``kind`` of a :class:`SpikeGate`."""


@dataclass(eq=False)
class SpikeAttention(nir.NIRNode):
    """Attention of counts: both products of Spikformer's self-attention, which has no softmax.

    Inputs, in this order, are spikes, or counts of them (:class:`MultiSpikeIF`): q of shape (heads * d, H, W), k of
    (heads * d, h, w) and v of (heads * e, h, w). Tokens are the positions of a map, and channels are split into heads.
    With a row for each token, each head computes 2^-shift (q k^T) v; the output has the shape (heads * e, H, W).
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
    """PyTorch's pool of this name: averages over windows, maybe of several sizes, that make an image of ``size``.

    The frontend of modules makes it; ``merge_chains`` makes it part of the linear layer that reads it.
    """

    size: tuple[int, int]

    def __post_init__(self) -> None:
        self.size = pair(self.size)
        self.input_type, self.output_type = _untyped()

    def shares(self, axis: int, have: int) -> Float64Array:
        """The weights by which each row (axis 0) or column of the result averages those of the source, (size, have)."""
        want = self.size[axis]
        shares = np.zeros((want, have))
        for index in range(want):
            first, last = index * have // want, -(-(index + 1) * have // want)
            shares[index, first:last] = 1.0 / (last - first)
        return shares


def own_targets(shares: Float64Array) -> list[int] | None:
    """For each row (or column) of a source, one of the result that is a copy of it; None if any has no copy."""
    alone = (shares == 1.0) & (np.count_nonzero(shares, axis=1) == 1)[:, None]
    return [int(each) for each in alone.argmax(axis=0)] if alone.any(axis=0).all() else None


@dataclass(eq=False)
class EdgeAvgPool2d(AdaptiveAvgPool2d):
    """Averages over windows that reach beyond the image; each sum is divided by the number of positions that count.

    Attributes:
        kernel_size: (rows, columns).
        stride: The distance between windows, (rows, columns).
        padding: Zeros around the image, (rows, columns).
        counts_padding: Whether padding counts; what ceil_mode adds behind the padding never does.
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
"""The types of neurons at the float level that fire; gates are not among them."""

SingleSpike: TypeAlias = "nir.LIF | nir.IF | nir.CubaLIF | DiscreteCubaLIF"
"""The type of neurons that fire at most once a step."""

Neurons: TypeAlias = "SingleSpike | MultiSpikeIF"
"""The type of neurons that fire; :class:`RecurrentCubaLIF` is a :class:`DiscreteCubaLIF`."""

Layer: TypeAlias = "nir.Conv2d | nir.Linear | nir.Affine"
"""The type of layers with weights and without neurons."""

POOL_AREA = "pool_area"
"""In a convolution's metadata: what its weights were divided by, because it reads a pool's sum in place of its mean. In
the metadata of neurons: what their thresholds were multiplied by, for the same reason."""

LEVEL_NORM = "level_norm"
"""In a layer's metadata: what its weights were divided by, because it reads levels in place of levels divided by it."""

SCALED_BY, UNIT = "scaled_by", "unit"
"""In a scale's metadata: the module's buffer that it is computed from, and the buffer's value for which it is one."""

BIAS_SHARES = "bias_shares"
"""In a layer's metadata: what its bias was divided by, because its module adds the bias once to a sum over steps."""

CONCATENATED = "concatenated"
"""In the metadata of an ``Add`` that stands for a concatenation, and of each layer that it adds, which puts one of the
values in its place. A layer's entry is the first channel of that place."""

INSIDE = "inside"
"""In a convolution's metadata: which rows and columns of its kernel are its layer's, "start:stop:step,start:stop:step".
The others are zeros, which are there because the layer pads one side more than the other."""

FIXED = "fixed"
"""In the metadata of nodes whose numbers the module's code states or computes, so that no layer holds them."""

MERGED = "merged"
"""In a layer's metadata: the layers that it was made of, which follow each other without neurons between."""

HELD_BIAS = "held_bias"
"""In a convolution's metadata: that its layer has a bias of its own; NIR's convolutions always have one."""


def half_rows(channels: int, num_heads: int, part: str) -> IntArray:
    """The channels of DSSA's projection W that hold y1 or y2, head by head."""
    by_head = np.arange(channels).reshape(num_heads, 2, channels // (2 * num_heads))
    return by_head[:, ("y1", "y2").index(part)].reshape(-1)


def rows_name(layer: str, start: int, count: int) -> str:
    """The name of a layer that makes only ``count`` consecutive channels of a layer's output, from ``start`` on."""
    return f"{layer}.rows{start}to{start + count}"


def rows_of(name: str) -> tuple[str, range] | None:
    """The inverse of :func:`rows_name`: the layer, and the channels that are made; None for other names."""
    found = re.fullmatch(r"(.+)\.rows(\d+)to(\d+)", name)
    return None if found is None else (found[1], range(int(found[2]), int(found[3])))


SPREAD = "spread"
"""In the metadata of a linear layer whose module enlarges the image before it: the enlarged size, and for each row and
each column of the image one of the enlarged image that is a copy of it, "ROWSxCOLUMNS;row,row;column,column"."""


def spread_of(op: nir.NIRNode) -> tuple[tuple[int, int], list[int], list[int]] | None:
    """The size, rows and columns that ``SPREAD`` states of a layer; None for layers without it."""
    stated = op.metadata.get(SPREAD)
    if stated is None:
        return None
    size, rows, columns = str(stated).split(";")
    height, width = map(int, size.split("x"))
    return (height, width), [int(each) for each in rows.split(",")], [int(each) for each in columns.split(",")]


def spread(op: nir.NIRNode, weight: Float64Array) -> Float64Array:
    """A layer's weights as its module holds them: zero except at the rows and columns that ``SPREAD`` names."""
    found = spread_of(op)
    if found is None:
        return weight
    (height, width), rows, columns = found
    held = weight.reshape(len(weight), -1, len(rows), len(columns))
    wide = np.zeros((*held.shape[:2], height, width))
    wide[:, :, np.array(rows)[:, None], columns] = held
    return wide


COLUMNS = "columns"
"""In the metadata of recurrent neurons: the part of a layer (:func:`columns_name`) with their recurrent weights."""
SHARED = "shared"
"""In the metadata of recurrent neurons: the layers that hold the recurrent weights, if they weigh the input too or are
several."""


def columns_name(layer: str, start: int, count: int) -> str:
    """The name of a layer that weighs only ``count`` consecutive channels of a layer's input, from ``start`` on."""
    return f"{layer}.columns{start}to{start + count}"


def columns_of(name: str) -> tuple[str, slice] | None:
    """The inverse of :func:`columns_name`: the layer, and the channels that are weighed; None for other names."""
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
    """An array of one value that takes no memory, for a parameter that is the same for a whole population."""
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
    """The operation of a node that is known to be a layer with weights and without neurons."""
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
    """The window that each target of a convolution, or of a pool, reads."""
    if isinstance(op, nir.Conv2d):
        rows, columns = op.weight.shape[2:]
        return Window((rows, columns), pair(op.stride), pair(op.padding), pair(op.dilation))
    beyond = pair(op.beyond) if isinstance(op, CeilMaxPool2d) else (0, 0)
    return Window(pair(op.kernel_size), pair(op.stride), pair(op.padding), beyond=beyond)


def undilated(weight: Float64Array, dilation: tuple[int, int]) -> Float64Array:
    """Weights with the zeros between dilated taps written out, for a dilation of one."""
    rows, columns = weight.shape[2:]
    spread = np.zeros((*weight.shape[:2], *Window((rows, columns), dilation=dilation).span))
    spread[:, :, :: dilation[0], :: dilation[1]] = weight
    return spread


def _untyped() -> tuple[Types, Types]:
    """NIR's way to say that a node's shapes follow from its neighbours."""
    return {"input": None}, {"output": None}
