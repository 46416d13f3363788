"""Gates of spikes: neurons without memory, which weigh each input by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from resformer.compiler.ir.arrays import Int64Array, Shape, require
from resformer.compiler.ir.interval import Interval
from resformer.compiler.ir.ops.base import Carried, Op, Outcome
from resformer.compiler.ir.ops.formats import Shapes
from resformer.compiler.ir.ops.sums import added_shape
from resformer.compiler.ir.signal import Signal, SignalKind


@dataclass(frozen=True, eq=False)
class SpikeAnd(Op):
    """Neurons without memory that fire where all of their inputs do: their sum exceeds their count less one half."""

    makes: ClassVar[SignalKind | None] = SignalKind.SPIKE
    fires: ClassVar[bool] = True
    recorded: ClassVar[bool] = True
    holds_bounds: ClassVar[bool] = True

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``."""
        return added_shape(inputs)

    def check_signals(self, inputs: Sequence[Signal]) -> None:
        """See ``Op``."""
        for each in inputs:
            require(each.kind is SignalKind.SPIKE, f"reads a {each.kind.value}, where it takes spikes")

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """See ``Op``."""
        return Interval.between(0, 1)

    def sums(self, inputs: Sequence[int], shapes: Shapes) -> int:  # noqa: ARG002
        """See ``Op``."""
        return 1

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:  # noqa: ARG002
        """See ``Op``; spikes lack nothing."""
        require(not any(each.any() for each in inputs), "reads a current")
        return Carried(self, np.zeros_like(inputs[0]))

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        return Outcome((np.sum(np.stack(inputs), axis=0) == len(inputs)).astype(np.int64))

    def connections(self, shapes: Shapes, index_bits: int) -> int | None:  # noqa: ARG002
        """See ``Op``; one synapse for each neuron and input."""
        return len(shapes.inputs) * math.prod(shapes.output)
