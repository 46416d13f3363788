"""Two convolutions, one after the other, as one convolution, in float64; the passes that merge synapses share this."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.arrays import Shape
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.primitives import pair, undilated, window_of
from resformer.compiler.ir.shapes import output_shape
from resformer.compiler.ir.window import Window
from resformer.errors import UnsupportedError

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Synapse:
    """A convolution of what one node sends.

    Attributes:
        source: The name of the node that it reads.
        weight: (C_out, C_in / groups, K_h, K_w).
        bias: (C_out,).
        stride: (rows, columns).
        padding: Zeros around the input, (rows, columns).
        groups: Blocks of channels that do not mix.
        size: The input's (H, W).
        name: The layer that gives it its name: the last one with weights of its own, or "".
    """

    source: str
    weight: Float64Array
    bias: Float64Array
    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int
    size: tuple[int, int]
    name: str

    @property
    def identity(self) -> bool:
        """Whether it passes on its input unchanged."""
        plain = self.weight.shape[1:] == (1, 1, 1) and self.stride == (1, 1) and self.padding == (0, 0)
        return plain and self.groups == len(self.weight) and bool((self.weight == 1).all() and not self.bias.any())

    @property
    def window(self) -> Window:
        """The window that each of its targets reads."""
        rows, columns = self.weight.shape[2:]
        return Window((rows, columns), self.stride, self.padding)

    @property
    def shape(self) -> Shape:
        """The shape of its output, (C_out, H, W)."""
        return output_shape(self.op(), [(self.weight.shape[1] * self.groups, *self.size)])

    def op(self) -> nir.Conv2d:
        """The convolution as a node of its own."""
        return nir.Conv2d(
            input_shape=self.size,
            weight=self.weight,
            stride=self.stride,
            padding=self.padding,
            dilation=(1, 1),
            groups=self.groups,
            bias=self.bias,
        )


def per_channel(source: str, gain: Float64Array, bias: Float64Array, shape: Shape) -> Synapse:
    """The synapse that multiplies each channel by a number and adds another."""
    weight = np.asarray(gain, dtype=np.float64).reshape(-1, 1, 1, 1)
    return Synapse(source, weight, bias, (1, 1), (0, 0), len(weight), (shape[1], shape[2]), "")


def passing_on(source: str, shape: Shape) -> Synapse:
    """The synapse that passes on a value of shape ``shape`` unchanged."""
    return per_channel(source, np.ones(shape[0]), np.zeros(shape[0]), shape)


def of_windows(node: Node[nir.NIRNode], shape: Shape) -> Synapse | None:
    """A convolution, sum pool or average pool as a convolution of a value of shape ``shape``; None for other nodes."""
    op, size = node.op, (shape[1], shape[2])
    if isinstance(op, nir.Conv2d):
        window, weight = window_of(op), undilated(op.weight, pair(op.dilation))
        return Synapse("", weight, op.bias, window.stride, window.padding, int(op.groups), size, node.name)
    if isinstance(op, nir.AvgPool2d | nir.SumPool2d):
        window, channels = window_of(op), shape[0]
        share = 1.0 / window.area if isinstance(op, nir.AvgPool2d) else 1.0
        weight = np.full((channels, 1, *window.kernel), share)
        return Synapse("", weight, np.zeros(channels), window.stride, window.padding, channels, size, "")
    return None


def after(name: str, first: Synapse, second: Synapse) -> Synapse:
    """One convolution that does what two do, one after the other.

    Raises:
        UnsupportedError: No single one does: the second pads with zeros where the first would not make zeros.
    """
    if first.identity:
        return replace(second, source=first.source)
    exact_padding = not first.bias.any() and all(
        _sees_nothing_beyond(first, second.padding[axis], axis) for axis in range(2)
    )
    if any(second.padding) and not exact_padding:
        raise UnsupportedError(
            f"{name}: pads what {first.name or first.source} makes without neurons between; where the padding is, both "
            "are no single convolution: put neurons between them, or remove the bias or the padding"
        )
    a, b = dense(first), dense(second)
    (stride_h, stride_w), (kernel_h, kernel_w) = first.stride, a.shape[2:]
    reached = (first.window.reach(axis, 0, b.shape[2 + axis] - 1) for axis in range(2))
    rows, columns = (high - low for low, high in reached)
    weight = np.zeros((len(b), a.shape[1], rows, columns))
    for row, column in np.ndindex(*b.shape[2:]):
        top, left = row * stride_h, column * stride_w
        part = np.tensordot(b[:, :, row, column], a, axes=(1, 0))
        weight[:, :, top : top + kernel_h, left : left + kernel_w] += part
    groups = math.gcd(first.groups, second.groups)
    return Synapse(
        source=first.source,
        weight=grouped(weight, groups),
        bias=second.bias + b.sum(axis=(2, 3)) @ first.bias,
        stride=(first.stride[0] * second.stride[0], first.stride[1] * second.stride[1]),
        padding=(
            first.padding[0] + second.padding[0] * first.stride[0],
            first.padding[1] + second.padding[1] * first.stride[1],
        ),
        groups=groups,
        size=first.size,
        name=second.name or first.name,
    )


def _sees_nothing_beyond(first: Synapse, padding: int, axis: int) -> bool:
    """Whether the first one's windows just beyond its output, where the second one sees zeros, hold only zeros."""
    if not padding:
        return True
    targets = first.shape[1 + axis]
    _, before = first.window.reach(axis, -1, -1)
    behind, _ = first.window.reach(axis, targets, targets)
    return before <= 0 and behind >= first.size[axis]


def dense(synapse: Synapse) -> Float64Array:
    """Weights with the zeros between groups written out, (C_out, C_in, K_h, K_w)."""
    outputs, taken, *kernel = synapse.weight.shape
    weight = np.zeros((outputs, taken * synapse.groups, *kernel))
    for group, rows in enumerate(np.split(np.arange(outputs), synapse.groups)):
        weight[rows, group * taken : (group + 1) * taken] = synapse.weight[rows]
    return weight


def grouped(weight: Float64Array, groups: int) -> Float64Array:
    """The blocks of each group in weights that are zero elsewhere, (C_out, C_in / groups, K_h, K_w)."""
    taken = weight.shape[1] // groups
    blocks = np.split(weight, groups)
    return np.concatenate([block[:, group * taken : (group + 1) * taken] for group, block in enumerate(blocks)])
