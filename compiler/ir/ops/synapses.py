"""Synapses: weighted sums of what was received one step ago."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.arrays import Int8Array, Int32Array, Int64Array, Shape, WeightArray, require
from resformer.compiler.ir.interval import Interval, largest
from resformer.compiler.ir.ops.arithmetic import convolve, matmul, windows
from resformer.compiler.ir.ops.base import Carried, Op, Outcome, one_input
from resformer.compiler.ir.ops.formats import (
    Array,
    RowsAndColumns,
    Shapes,
    Whole,
    as_the_weights,
    integers,
    per_channel,
)
from resformer.compiler.ir.signal import SignalKind
from resformer.compiler.ir.storage import stored_share
from resformer.compiler.ir.window import Pair, Window
from resformer.compiler.target import LOIHI

WEIGHT_MAX = 2 ** (LOIHI.weight_bits_max - 1) - 1
"""Largest magnitude of a weight's mantissa; the most negative value of its width is not used."""
STACKED_MAX = 2 ** (LOIHI.stacked_bits_max - 1) - 1
"""Largest magnitude of a mantissa that is still to be split into two synapses."""
COUNT_MAX = 2**40
"""A limit for counts and sizes in a program, far above any that occurs."""


def an_exponent_each(name: str, held: Shape, shapes: Shapes) -> None:
    """(C,): an exponent for each output channel."""
    require(held == shapes.output[:1], f"{name} has shape {held}, not one exponent for each output channel")


SYNAPTIC_WEIGHTS = integers(np.int8, as_the_weights, -WEIGHT_MAX, WEIGHT_MAX)
"""Mantissas that one synapse holds."""
WIDE_WEIGHTS = Array({**SYNAPTIC_WEIGHTS.dtypes, np.int16: (-STACKED_MAX, STACKED_MAX)}, as_the_weights)
"""Mantissas that one synapse holds, or that are still to be split into two synapses."""
EXPONENTS = integers(np.int8, an_exponent_each, 0, LOIHI.weight_exp_max)
BIASES = integers(np.int32, per_channel)


@dataclass(frozen=True, eq=False)
class Synapses(Op):
    """Base of the operations that weigh and sum what neurons send."""

    makes: ClassVar[SignalKind | None] = SignalKind.CURRENT
    hop: ClassVar[int] = 1
    is_synapse: ClassVar[bool] = True


@dataclass(frozen=True, eq=False)
class Conv2d(Synapses):
    """Synapses shared over space.

    Attributes:
        weight: (C_out, C_in / groups, K_h, K_w); applied as a correlation, as in PyTorch. Mantissas of more than 8
            bits are int16, until ``stack_synapses`` has run.
        weight_exp: (C_out,), an exponent per output channel.
        bias: (C_out,), in units of the output's integers; zero once ``place_biases`` has run.
        stride: Distance between windows, (rows, columns).
        padding: Zeros around the input, (rows, columns).
        dilation: Distance between the kernel's taps, (rows, columns).
        groups: Blocks of channels that do not mix.
    """

    weight: Annotated[WeightArray, WIDE_WEIGHTS]
    weight_exp: Annotated[Int8Array, EXPONENTS]
    bias: Annotated[Int32Array, BIASES]
    stride: Annotated[Pair, RowsAndColumns()]
    padding: Annotated[Pair, RowsAndColumns()]
    dilation: Annotated[Pair, RowsAndColumns()]
    groups: Annotated[int, Whole(1, COUNT_MAX)]

    counts_operations: ClassVar[bool] = True
    accumulator: ClassVar[int | None] = LOIHI.accumulator_max

    @property
    def window(self) -> Window:
        """The window that each target reads."""
        rows, columns = self.weight.shape[2:]
        return Window((rows, columns), self.stride, self.padding, self.dilation)

    @property
    def whole_weight(self) -> Int32Array:
        """mantissa * 2^exponent, of the mantissas' shape."""
        return fixedpoint.scale_weight(self.weight, self.weight_exp)

    def windows(self) -> tuple[Window, ...]:
        """See ``Op``."""
        return (self.window,)

    def terms(self, shapes: Shapes) -> int:  # noqa: ARG002
        """See ``Op``."""
        return int(self.weight.shape[1]) * self.window.area

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``."""
        channels, *size = one_input(inputs, axes=3)
        require(self.weight.ndim >= 2, f"weight of shape {self.weight.shape} is not (C_out, C_in, rows, columns)")
        outputs, per_group, *kernel = self.weight.shape
        groups = self.groups
        require(channels == per_group * groups, f"weights for {per_group} x {groups} channels, but {channels} come in")
        require(outputs % groups == 0, f"{outputs} output channels do not split into {groups} groups")
        require(self.bias.shape == (outputs,), f"bias of shape {self.bias.shape} does not fit {outputs} channels")
        require(len(kernel) == 2, f"a kernel of {len(kernel)} axes, not 2")
        return outputs, *self.window.targets(tuple(size))

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """See ``Op``."""
        require(not self.bias.any(), "place_biases has not run")
        return inputs[0].weighted(self.whole_weight.astype(np.int64), self.groups)

    def sums(self, inputs: Sequence[int], shapes: Shapes) -> int:  # noqa: ARG002
        """See ``Op``."""
        return largest_row(self.whole_weight) * inputs[0] + largest(self.bias)

    def input_limit(self) -> int | None:
        """See ``Op``."""
        return LOIHI.accumulator_max // max(largest_row(self.whole_weight), 1)

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:  # noqa: ARG002
        """See ``Op``; its input lacks no bias (:meth:`takes_bias`)."""
        return Carried(replace(self, bias=np.zeros_like(self.bias)), self.bias.astype(np.int64))

    def takes_bias(self, bias: Int64Array) -> bool:
        """See ``Op``; only a bias of zero, because padding would make the result of any other vary over space."""
        return not bias.any()

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        (x,) = inputs
        return Outcome(convolve(x, self.whole_weight, self.window, self.groups) + self.bias[:, None, None])

    def operations(self, events: Int64Array, shapes: Shapes) -> Int64Array:
        """See ``Op``; a synapse that falls into the padding is not counted."""
        rows, columns = (
            self.window.readers(axis, events.shape[1 + axis], shapes.output[1 + axis]) for axis in range(2)
        )
        weights: Int64Array = np.einsum("trc,r,c->t", events, rows, columns)
        return weights * (shapes.output[0] // self.groups)

    def operations_not_zero(self, events: Int64Array, shapes: Shapes) -> Int64Array:
        """What :meth:`operations` counts, but only for weights that are not zero, (T,).

        Args:
            events: The number of events that each neuron of the input sends, (T, channels, rows, columns).
            shapes: The shapes of the input and the output.
        """
        outputs, per_group, *kernel = self.weight.shape
        grouped = (self.weight != 0).reshape(self.groups, outputs // self.groups, per_group, *kernel)
        # for each input channel and tap, how many output channels have a weight that is not zero
        targets = np.count_nonzero(grouped, axis=1).reshape(-1, *kernel)
        total = np.zeros(len(events), dtype=np.int64)
        taps = [self._through_taps(axis, events.shape[2 + axis], shapes.output[1 + axis]) for axis in range(2)]
        for row, rows in enumerate(taps[0]):
            along = events[:, :, rows].sum(axis=2, dtype=np.int64)
            for column, columns in enumerate(taps[1]):
                total += along[:, :, columns].sum(axis=2) @ targets[:, row, column]
        return total

    def _through_taps(self, axis: int, source: int, targets: int) -> list[Int64Array]:
        """For each tap along an axis, the rows (axis 0) or columns of the source that targets read through it."""
        read = self.window.reads(axis, targets)
        return [each[(each >= 0) & (each < source)] for each in read.T]

    def connections(self, shapes: Shapes, index_bits: int) -> int | None:
        """See ``Op``."""
        sparse = stored_share(self.weight, index_bits) < 1
        stored = self.weight != 0 if sparse else np.ones_like(self.weight, dtype=np.bool_)
        source = shapes.inputs[0]
        rows, columns = (self.window.inside(axis, source[1 + axis], shapes.output[1 + axis]) for axis in range(2))
        return int(np.einsum("oirc,r,c->", stored, rows, columns, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Dense(Synapses):
    """All-to-all synapses.

    Attributes:
        weight: (F_out, F_in).
        weight_exp: One exponent for all, as Lava's Dense has.
        bias: (F_out,), as in :class:`Conv2d`.
    """

    weight: Annotated[Int8Array, SYNAPTIC_WEIGHTS]
    weight_exp: Annotated[int, Whole(0, LOIHI.weight_exp_max)]
    bias: Annotated[Int32Array, BIASES]

    counts_operations: ClassVar[bool] = True
    accumulator: ClassVar[int | None] = LOIHI.dense_sum_max

    @property
    def whole_weight(self) -> Int32Array:
        """mantissa * 2^exponent, of the mantissas' shape."""
        return fixedpoint.scale_weight(self.weight, self.weight_exp)

    def terms(self, shapes: Shapes) -> int:  # noqa: ARG002
        """See ``Op``."""
        return int(self.weight.shape[1])

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``."""
        (features,) = one_input(inputs, axes=1)
        require(self.weight.ndim == 2, f"weight of shape {self.weight.shape} is not (F_out, F_in)")
        outputs, taken = self.weight.shape
        require(features == taken, f"weights for {taken} features, but {features} come in")
        require(self.bias.shape == (outputs,), f"bias does not fit {outputs} outputs")
        return (outputs,)

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """See ``Op``."""
        require(not self.bias.any(), "place_biases has not run")
        return inputs[0].weighted(self.whole_weight.astype(np.int64))

    def sums(self, inputs: Sequence[int], shapes: Shapes) -> int:  # noqa: ARG002
        """See ``Op``."""
        return largest_row(self.whole_weight) * inputs[0] + largest(self.bias)

    def input_limit(self) -> int | None:
        """See ``Op``."""
        return LOIHI.dense_sum_max // max(largest_row(self.whole_weight), 1)

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:  # noqa: ARG002
        """See ``Op``; its output lacks its own bias and what its weights make of the bias that its input lacks."""
        lacking = self.bias.astype(np.int64) + self.whole_weight.astype(np.int64) @ inputs[0]
        return Carried(replace(self, bias=np.zeros_like(self.bias)), lacking)

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        (x,) = inputs
        return Outcome(matmul(x, self.whole_weight.T) + self.bias)

    def operations(self, events: Int64Array, shapes: Shapes) -> Int64Array:
        """See ``Op``."""
        total: Int64Array = events.sum(axis=(1, 2))
        return total * shapes.output[0]

    def operations_not_zero(self, events: Int64Array, shapes: Shapes) -> Int64Array:  # noqa: ARG002
        """See :meth:`Conv2d.operations_not_zero`."""
        total: Int64Array = events.reshape(len(events), -1) @ np.count_nonzero(self.weight, axis=0)
        return total

    def connections(self, shapes: Shapes, index_bits: int) -> int | None:  # noqa: ARG002
        """See ``Op``; weights of zero are stored too."""
        return self.weight.size


@dataclass(frozen=True, eq=False)
class SumPool2d(Synapses):
    """Sums over windows, by synapses of weight one.

    Attributes:
        kernel_size: (rows, columns).
        stride: The distance between windows, (rows, columns).
    """

    kernel_size: Annotated[Pair, RowsAndColumns()]
    stride: Annotated[Pair, RowsAndColumns()]

    events_pass: ClassVar[bool] = True
    accumulator: ClassVar[int | None] = LOIHI.accumulator_max

    @property
    def window(self) -> Window:
        """The window that each target reads."""
        return Window(self.kernel_size, self.stride)

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

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """See ``Op``."""
        return inputs[0].times(self.window.area)

    def sums(self, inputs: Sequence[int], shapes: Shapes) -> int:  # noqa: ARG002
        """See ``Op``."""
        return inputs[0] * self.window.area

    def input_limit(self) -> int | None:
        """See ``Op``."""
        return LOIHI.accumulator_max // self.window.area

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:  # noqa: ARG002
        """See ``Op``."""
        return Carried(self, inputs[0] * self.window.area)

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        (x,) = inputs
        return Outcome(windows(x, self.window).sum(axis=(-2, -1)))

    def connections(self, shapes: Shapes, index_bits: int) -> int | None:  # noqa: ARG002
        """See ``Op``."""
        return int(np.prod(shapes.output)) * self.window.area


def largest_row(whole_weight: Int32Array) -> int:
    """The largest sum of the magnitudes of one output's weights, as a Python integer, which does not overflow."""
    rows = np.abs(whole_weight.astype(np.int64)).reshape(len(whole_weight), -1)
    return int(rows.sum(axis=1).max())
