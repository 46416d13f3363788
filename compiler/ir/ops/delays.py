"""Operations that delay a value: those of the network, and those of the schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from resformer.compiler.ir.arrays import Int32Array, Int64Array, Shape, require
from resformer.compiler.ir.interval import Interval
from resformer.compiler.ir.ops.base import Carried, Op, Outcome, one_input, same_scale
from resformer.compiler.ir.ops.formats import Shapes, Whole, integers, per_neuron
from resformer.compiler.ir.ops.synapses import COUNT_MAX
from resformer.compiler.ir.signal import Signal, SignalKind


@dataclass(frozen=True, eq=False)
class SampleDelay(Op):
    """A delay of the network, unlike :class:`Delay`: what neurons send arrives some steps later within their sample.

    Before that, zeros arrive; what would arrive after the sample's last step is lost.

    Attributes:
        steps: The number of steps, with the population's number of axes; each axis has the population's size, or one
            for all.
    """

    steps: Annotated[Int32Array, integers(np.int32, per_neuron, low=0)]

    events_pass: ClassVar[bool] = True

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``."""
        return one_input(inputs)

    def kind_made(self, inputs: Sequence[Signal]) -> SignalKind | None:
        """See ``Op``."""
        return inputs[0].kind if inputs else None

    def check_signals(self, inputs: Sequence[Signal]) -> None:
        """See ``Op``."""
        (sent,) = inputs
        require(sent.kind is not SignalKind.CURRENT, "delays a current, which nothing sends")
        same_scale(self.signal, inputs)

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """See ``Op``."""
        return inputs[0]

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:  # noqa: ARG002
        """See ``Op``; what neurons send lacks no bias."""
        require(not inputs[0].any(), "delays a current")
        return Carried(self, np.zeros_like(inputs[0]))

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        (x,) = inputs
        delayed = np.zeros_like(x)
        for steps in np.unique(self.steps).tolist():
            if steps < len(x):
                late = delayed[steps:]
                np.copyto(late, x[: len(x) - steps], where=self.steps == steps)
        return Outcome(delayed)


@dataclass(frozen=True, eq=False)
class Delay(Op):
    """A delay of the schedule: it sends what it received some steps ago, and zeros before that.

    It moves all steps of a sample alike, so on whole samples it is the identity.

    Attributes:
        steps: The number of steps, at least one.
    """

    steps: Annotated[int, Whole(1, COUNT_MAX)]

    is_view: ClassVar[bool] = True
    events_pass: ClassVar[bool] = True
    holds_bounds: ClassVar[bool] = True

    @property
    def hop(self) -> int:  # type: ignore[override] # each its own, where a class has one for all
        """See ``Op``."""
        return self.steps

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``."""
        return one_input(inputs)

    def check_fields(self) -> None:
        """See ``Op``."""
        require(self.steps >= 1, f"delays by {self.steps} steps")
        super().check_fields()

    def kind_made(self, inputs: Sequence[Signal]) -> SignalKind | None:
        """See ``Op``."""
        return inputs[0].kind if inputs else None

    def check_signals(self, inputs: Sequence[Signal]) -> None:
        """See ``Op``."""
        same_scale(self.signal, inputs)

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """See ``Op``."""
        return inputs[0]

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        return Outcome(inputs[0])
