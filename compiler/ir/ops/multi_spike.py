"""Neurons that fire several spikes a step: Sinabs' integrate-and-fire."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.arrays import Int32Array, Int64Array, Shape, require
from resformer.compiler.ir.interval import Interval
from resformer.compiler.ir.ops.base import Carried, Op, Outcome, one_input, weighted_input
from resformer.compiler.ir.ops.formats import Shapes, Whole, integers, per_neuron
from resformer.compiler.ir.ops.neurons import STATES, gathered, spans
from resformer.compiler.ir.ops.sums import known_bounds
from resformer.compiler.ir.signal import Signal, SignalKind
from resformer.compiler.target import LOIHI

MOST_SPIKES = 255
"""The largest count of a step, which fits eight bits of a graded spike."""


@dataclass(frozen=True, eq=False)
class MultiSpikeIF(Op):
    """Neurons that do not leak, and send how often they fire in a step as one graded spike; reset every T steps.

    The potential v is zero before the first step. In a step with input a, v gains 64 a and the bias, and saturates at
    the target's ``v_max``. The count s is v // (64 vth), but not below zero and no more than ``max_spikes``. Then v
    loses 64 vth s and is raised to ``floor`` if it is below. Arrays have shapes as in ``CubaLIF``.

    Attributes:
        vth: Threshold mantissas: one spike for each whole vth * 64 in v, a tie included.
        floor: The smallest potential that a step leaves, in 1/64 of the input.
        bias: Added to the potential each step, in 1/64 of the input.
        max_spikes: The largest count of a step.
    """

    vth: Annotated[Int32Array, integers(np.int32, per_neuron, 1, LOIHI.vth_mantissa_max)]
    floor: Annotated[Int32Array, integers(np.int32, per_neuron, -LOIHI.v_max, 0)]
    bias: Annotated[Int32Array, STATES]
    max_spikes: Annotated[int, Whole(1, MOST_SPIKES)]

    makes: ClassVar[SignalKind | None] = SignalKind.GRADED
    clips: ClassVar[bool] = True
    recorded: ClassVar[bool] = True
    holds_bounds: ClassVar[bool] = True

    def parameters(self) -> fixedpoint.MultiSpikeParameters:
        """The parameters for ``fixedpoint.multi_spike_step``, to be broadcast against (..., *shape)."""
        vth, floor, bias = (each.astype(np.int64) for each in (self.vth, self.floor, self.bias))
        return fixedpoint.MultiSpikeParameters(vth, floor, bias, self.max_spikes)

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``."""
        return one_input(inputs)

    def check_signals(self, inputs: Sequence[Signal]) -> None:
        """See ``Op``."""
        (current,) = inputs
        require(self.signal.scale_exp == 0, f"sends counts at scale 2^{self.signal.scale_exp}, not 2^0")
        weighted_input(current, LOIHI.accumulator_max)

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """See ``Op``."""
        return Interval.between(0, self.max_spikes)

    def sums(self, inputs: Sequence[int], shapes: Shapes) -> int:  # noqa: ARG002
        """See ``Op``."""
        return self.max_spikes

    def may_clip(self, inputs: Sequence[Signal], timesteps: int) -> bool:
        """See ``Op``; it tries the largest and the smallest input in every step."""
        own = self.parameters()
        low, high = known_bounds(inputs[0])
        threshold = own.vth << LOIHI.a_shift
        # a count that is rounded up leaves a potential down to half a threshold below zero
        least = 0 if own.rounding is fixedpoint.Rounding.DOWN else np.maximum(-(threshold // 2), own.floor)
        # a step leaves less than a threshold, or what the largest input leaves after the largest count of spikes
        for bound, further, left in ((low, np.minimum, least), (high, np.maximum, threshold)):
            v = np.zeros((), dtype=np.int64)
            for _ in range(timesteps):
                step = fixedpoint.multi_spike_step(v, np.asarray(bound), own)
                if step.clipped:
                    return True
                v = further(step.v, left)
        return False

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:
        """See ``Op``."""
        return Carried(replace(self, bias=gathered(self.bias, inputs[0], shapes)), np.zeros_like(inputs[0]))

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        (a,) = inputs
        counts, clipped = np.empty_like(a), 0
        for step, made in enumerate(self.steps(a)):
            counts[step] = made.counts
            clipped += made.clipped
        return Outcome(counts, clipped)

    def steps(self, a: Int64Array) -> Iterator[fixedpoint.MultiSpikeStep]:
        """Each step of one sample or several, given their input, (T, N, ...)."""
        own, v = self.parameters(), np.zeros(a.shape[1:], dtype=np.int64)
        for now in a:
            made = fixedpoint.multi_spike_step(v, now, own)
            v = made.v
            yield made

    def facts(self) -> dict[str, Any]:
        """See ``Op``."""
        return spans(self, ("vth", "floor", "bias")) | {"max_spikes": self.max_spikes}
