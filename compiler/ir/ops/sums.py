"""The input and output of a program, sums, maxima, relays and flattening."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.arrays import Float64Array, Int32Array, Int64Array, Shape, require
from resformer.compiler.ir.interval import INT32_MAX, Interval, largest
from resformer.compiler.ir.ops.arithmetic import per_channel, windows
from resformer.compiler.ir.ops.base import Carried, Op, Outcome, one_input, same_scale
from resformer.compiler.ir.ops.formats import Array, RowsAndColumns, Shapes, Whole, integers, per_element
from resformer.compiler.ir.ops.formats import per_channel as a_value_each
from resformer.compiler.ir.ops.synapses import COUNT_MAX
from resformer.compiler.ir.signal import Signal, SignalKind
from resformer.compiler.ir.window import Pair, Window
from resformer.compiler.target import LOIHI
from resformer.errors import RangeError


@dataclass(frozen=True, eq=False)
class Input(Op):
    """Samples encoded as integers: the same frame each step, or one frame for each step."""

    holds_bounds: ClassVar[bool] = True

    def check_shapes(self, shapes: Shapes) -> None:
        """See ``Op``; only its node says what its shape is."""
        require(not shapes.inputs, f"takes no input, not {len(shapes.inputs)}")

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """See ``Op``; the bounds of its signal, which ``encode`` enforces."""
        require(self.signal.bounds is not None, "its range is not known")
        assert self.signal.bounds is not None
        return Interval.between(*self.signal.bounds)

    def sums(self, inputs: Sequence[int], shapes: Shapes) -> int:  # noqa: ARG002
        """See ``Op``."""
        return INT32_MAX + 1 if self.signal.bounds is None else max(map(abs, self.signal.bounds))

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:  # noqa: ARG002
        """See ``Op``."""
        return Carried(self, np.zeros(shapes.output[0], dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Output(Op):
    """Logits of each step; the prediction is their mean over T.

    Attributes:
        divisor: The area of an average pool, which need not be a power of two: the real logit is
            a / (2^k * divisor) + bias.
        bias: What the biases before the output add to each logit, real numbers, (classes,).
    """

    divisor: Annotated[int, Whole(1, COUNT_MAX)]
    bias: Annotated[Float64Array, Array({np.float64: None}, per_element)]

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``."""
        return one_input(inputs)

    def check_fields(self) -> None:
        """See ``Op``."""
        require(self.divisor >= 1, f"divisor is {self.divisor}")
        super().check_fields()

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """See ``Op``."""
        return inputs[0]

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:
        """See ``Op``; the bias becomes a bias of the logits, in real numbers."""
        unit = 2.0**-self.signal.scale_exp / self.divisor
        none = np.zeros(shapes.output[0], dtype=np.int64)
        return Carried(replace(self, bias=self.bias + inputs[0] * unit), none)

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        return Outcome(inputs[0])


@dataclass(frozen=True, eq=False)
class Add(Op):
    """The sum of its inputs; for currents it costs nothing, because neurons sum their inputs."""

    events_pass: ClassVar[bool] = True
    accumulator: ClassVar[int | None] = LOIHI.accumulator_max

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``."""
        return added_shape(inputs)

    def check_signals(self, inputs: Sequence[Signal]) -> None:
        """See ``Op``."""
        same_scale(self.signal, inputs)

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """See ``Op``."""
        first, *others = inputs
        low, high = first.low, first.high
        for each in others:
            low, high = low + each.low, high + each.high
        return Interval(low, high)

    def sums(self, inputs: Sequence[int], shapes: Shapes) -> int:  # noqa: ARG002
        """See ``Op``."""
        return sum(inputs)

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:  # noqa: ARG002
        """See ``Op``."""
        return Carried(self, np.sum(np.stack(inputs), axis=0))

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        return Outcome(sum(inputs[1:], start=inputs[0]))


def added_shape(inputs: Sequence[Shape]) -> Shape:
    """The shape that all summands have.

    Raises:
        InvariantError: The shapes differ, or there are fewer than two.
    """
    require(len(inputs) >= 2, f"adds two inputs or more, not {len(inputs)}")
    require(len(set(inputs)) == 1, f"cannot add shapes {', '.join(map(str, inputs))}")
    return inputs[0]


@dataclass(frozen=True, eq=False)
class MaxPool2d(Op):
    """Maxima over windows; padding never wins.

    Attributes:
        kernel_size: (rows, columns).
        stride: The distance between windows, (rows, columns).
        padding: Padding around the input, (rows, columns).
    """

    kernel_size: Annotated[Pair, RowsAndColumns()]
    stride: Annotated[Pair, RowsAndColumns()]
    padding: Annotated[Pair, RowsAndColumns()]

    recorded: ClassVar[bool] = True
    events_pass: ClassVar[bool] = True

    @property
    def window(self) -> Window:
        """The window that each target reads."""
        return Window(self.kernel_size, self.stride, self.padding)

    @property
    def around(self) -> tuple[int, int, int, int]:
        """How many rows and columns windows reach beyond the input: (top, bottom, left, right)."""
        (rows, columns), (below, right) = self.padding, self.window.beyond
        return rows, rows + below, columns, columns + right

    def windows(self) -> tuple[Window, ...]:
        """See ``Op``."""
        return (self.window,)

    def terms(self, shapes: Shapes) -> int:  # noqa: ARG002
        """See ``Op``."""
        return self.window.area

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``."""
        channels, *size = one_input(inputs, axes=3)
        return channels, *self.window.targets(tuple(size))

    def check_signals(self, inputs: Sequence[Signal]) -> None:
        """See ``Op``."""
        same_scale(self.signal, inputs)

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """See ``Op``."""
        return inputs[0]

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:  # noqa: ARG002
        """See ``Op``; a constant added to all values of a window is added to their maximum."""
        return Carried(self, inputs[0])

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        (x,) = inputs
        top, bottom, left, right = self.around
        edges = [(0, 0)] * (x.ndim - 2) + [(top, bottom), (left, right)]
        padded = np.pad(x, edges, constant_values=np.iinfo(np.int64).min)
        return Outcome(windows(padded, self.window).max(axis=(-2, -1)))


@dataclass(frozen=True, eq=False)
class CeilMaxPool2d(MaxPool2d):
    """Maxima over windows that reach below and right of the padding, where nothing wins either.

    Attributes:
        beyond: How many rows and columns the last windows reach beyond the padding.
    """

    beyond: Annotated[Pair, RowsAndColumns()]

    @property
    def window(self) -> Window:
        """The window that each target reads."""
        return Window(self.kernel_size, self.stride, self.padding, beyond=self.beyond)


@dataclass(frozen=True, eq=False)
class Relay(Op):
    """A residual relay: neurons of ours that sum their inputs, add a bias, saturate and send the result on.

    Attributes:
        bias: (C,), in units of the sum's integers.
        limit: The result is clipped to [-limit, limit], and each clip is counted.
        shift: Before it is clipped, the sum is divided by 2^shift and rounded, so the output's scale is coarser by
            ``shift`` bits.
    """

    bias: Annotated[Int32Array, integers(np.int32, a_value_each)]
    limit: Annotated[int, Whole(0, LOIHI.graded_max)]
    shift: Annotated[int, Whole(0, LOIHI.graded_max.bit_length())] = 0

    makes: ClassVar[SignalKind | None] = SignalKind.GRADED
    clips: ClassVar[bool] = True
    recorded: ClassVar[bool] = True
    events_pass: ClassVar[bool] = True
    holds_bounds: ClassVar[bool] = True

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``."""
        return one_input(inputs)

    def check_signals(self, inputs: Sequence[Signal]) -> None:
        """See ``Op``."""
        for each in inputs:
            require(
                each.scale_exp == self.signal.scale_exp + self.shift,
                f"scale 2^{self.signal.scale_exp} reads 2^{each.scale_exp} shifted by {self.shift}",
            )

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """See ``Op``."""
        low, high = (fixedpoint.shift_right(each + self.bias, self.shift) for each in (inputs[0].low, inputs[0].high))
        return Interval(np.minimum(low, 0), np.maximum(high, 0)).clip(self.limit)

    def sums(self, inputs: Sequence[int], shapes: Shapes) -> int:  # noqa: ARG002
        """See ``Op``."""
        return min((inputs[0] + largest(self.bias) + (1 << self.shift >> 1)) >> self.shift, self.limit)

    def may_clip(self, inputs: Sequence[Signal], timesteps: int) -> bool:  # noqa: ARG002
        """See ``Op``."""
        low, high = known_bounds(inputs[0])
        sums = np.array([low + int(self.bias.min()), high + int(self.bias.max())])
        return bool((np.abs(fixedpoint.shift_right(sums, self.shift)) > self.limit).any())

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:
        """See ``Op``; before biases are placed, there are only relays that shift."""
        if not self.shift:
            return super().carry_bias(inputs, shapes)
        bias = self.bias + inputs[0]
        if largest(bias) > INT32_MAX:
            raise RangeError(
                f"its bias becomes {largest(bias)}, the limit is {INT32_MAX}; normalise the layers of the last stage"
            )
        return Carried(replace(self, bias=bias.astype(np.int32)), np.zeros_like(inputs[0]))

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        (x,) = inputs
        total = x + per_channel(self.bias, x.ndim - 2)
        return Outcome(*fixedpoint.saturate(fixedpoint.shift_right(total, self.shift), self.limit))

    def facts(self) -> dict[str, Any]:
        """See ``Op``."""
        return {"limit": self.limit, "bias": [int(self.bias.min()), int(self.bias.max())], "shift": self.shift}


def known_bounds(signal: Signal) -> tuple[int, int]:
    """A signal's bounds.

    Raises:
        InvariantError: Range analysis has not run.
    """
    require(signal.bounds is not None, "bound_ranges has not run")
    assert signal.bounds is not None
    return signal.bounds


@dataclass(frozen=True, eq=False)
class Flatten(Op):
    """Reshape (C, H, W) to (C * H * W,), in this order."""

    is_view: ClassVar[bool] = True
    events_pass: ClassVar[bool] = True
    holds_bounds: ClassVar[bool] = True

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``."""
        return (math.prod(one_input(inputs)),)

    def kind_made(self, inputs: Sequence[Signal]) -> SignalKind | None:
        """See ``Op``."""
        return inputs[0].kind if inputs else None

    def check_signals(self, inputs: Sequence[Signal]) -> None:
        """See ``Op``."""
        same_scale(self.signal, inputs)

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:
        """See ``Op``."""
        repeat = shapes.output[0] // inputs[0].low.size
        return Interval(np.repeat(inputs[0].low, repeat), np.repeat(inputs[0].high, repeat))

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:
        """See ``Op``."""
        return Carried(self, np.repeat(inputs[0], math.prod(shapes.inputs[0][1:])))

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        (x,) = inputs
        return Outcome(x.reshape(*x.shape[:2], -1))
