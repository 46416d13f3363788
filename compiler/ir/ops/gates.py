"""Gates of spikes: neurons without memory, which weigh each input by one or by minus one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from resformer.compiler.ir.arrays import Int8Array, Int64Array, Shape, require
from resformer.compiler.ir.interval import Interval
from resformer.compiler.ir.ops.base import Carried, Op, Outcome
from resformer.compiler.ir.ops.formats import Shapes, Whole, integers
from resformer.compiler.ir.ops.synapses import COUNT_MAX
from resformer.compiler.ir.signal import SPIKE, Signal, SignalKind


def per_input(name: str, held: Shape, shapes: Shapes) -> None:
    """A value for each input."""
    count = len(shapes.inputs)
    require(held == (count,), f"{name} of shape {held} does not fit {count} inputs")


@dataclass(frozen=True, eq=False)
class SpikeGate(Op):
    """Neurons without memory that fire where the weighted sum of the spikes of a step exceeds a threshold.

    The largest input has the output's shape; ``gated_shape`` says how the others are spread over it.

    Attributes:
        weight: What a spike of each input adds: 1 or -1.
        vth: The threshold: n - 1 for AND of n inputs, 0 for OR and IAND. IAND's weights are -1 after the first.
    """

    weight: Annotated[Int8Array, integers(np.int8, per_input, -1, 1)]
    vth: Annotated[int, Whole(0, COUNT_MAX)]

    makes: ClassVar[SignalKind | None] = SignalKind.SPIKE
    fires: ClassVar[bool] = True
    recorded: ClassVar[bool] = True
    holds_bounds: ClassVar[bool] = True

    @classmethod
    def of(cls, kind: str, inputs: int) -> SpikeGate:
        """The gate of a kind that ``primitives.SpikeGate`` names: "and", "or" or "iand".

        Raises:
            InvariantError: There is no such kind.
        """
        require(kind in ("and", "or", "iand"), f"no gate of kind {kind!r}")
        weight = np.ones(inputs, dtype=np.int8)
        if kind == "iand":
            weight[1:] = -1
        return cls(SPIKE, weight, inputs - 1 if kind == "and" else 0)

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``."""
        return gated_shape(inputs)

    def check_fields(self) -> None:
        """See ``Op``."""
        super().check_fields()
        require(bool(self.weight.all()), "weight holds 0: an input that nothing depends on")

    def check_signals(self, inputs: Sequence[Signal]) -> None:
        """See ``Op``."""
        require_spikes(inputs)

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """See ``Op``; nothing fires if even the largest sum does not exceed the threshold."""
        most = sum(int(each.high.max()) for weight, each in zip(self.weight, inputs, strict=True) if weight > 0)
        return Interval.between(0, int(most > self.vth))

    def sums(self, inputs: Sequence[int], shapes: Shapes) -> int:  # noqa: ARG002
        """See ``Op``."""
        return 1

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:
        """See ``Op``; spikes lack no bias."""
        require(not any(each.any() for each in inputs), "reads a current")
        return Carried(self, np.zeros(shapes.output[0], dtype=np.int64))

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        channels = max(each.shape[2] for each in inputs)
        total = np.zeros((), dtype=np.int64)
        for weight, spikes in zip(self.weight, inputs, strict=True):
            total = total + int(weight) * spikes.repeat(channels // spikes.shape[2], axis=2)
        return Outcome((total > self.vth).astype(np.int64))

    def connections(self, shapes: Shapes, index_bits: int) -> int | None:  # noqa: ARG002
        """See ``Op``; one synapse for each neuron and input."""
        return len(shapes.inputs) * math.prod(shapes.output)

    def facts(self) -> dict[str, Any]:
        """See ``Op``."""
        return {"gate": self.kind, "vth": self.vth}

    @property
    def kind(self) -> str:
        """The kind of gate, as :meth:`of` names it; "threshold" for any other gate."""
        adds = self.weight > 0
        if adds.all():
            return {len(adds) - 1: "and", 0: "or"}.get(self.vth, "threshold")
        return "iand" if adds[0] and not adds[1:].any() and not self.vth else "threshold"


def gated_shape(inputs: Sequence[Shape]) -> Shape:
    """The shape of a gate's output: that of its largest input, over which the others are spread.

    If the largest input has C channels and another has C / m, each channel of the other stands for m channels in a row.
    A single row, or a single column, stands for all.

    Raises:
        InvariantError: There are fewer than two inputs, or one cannot be spread so.
    """
    require(len(inputs) >= 2, f"takes two inputs or more, not {len(inputs)}")
    shape = max(inputs, key=math.prod)
    channels, *size = shape
    for each in inputs:
        spread = len(each) == len(shape) and channels % each[0] == 0
        spread = spread and all(given in (1, wanted) for given, wanted in zip(each[1:], size, strict=True))
        require(spread, f"cannot spread an input of shape {each} over {shape}")
    return shape


def require_spikes(inputs: Sequence[Signal]) -> None:
    """See that all of an operation's inputs are spikes, or maxima of spikes, which are 0 or 1 as well.

    Raises:
        InvariantError: An input is neither.
    """
    for each in inputs:
        maxima = each.kind is SignalKind.GRADED and each.scale_exp == 0 and each.bounds == (0, 1)
        require(each.kind is SignalKind.SPIKE or maxima, f"reads a {each.kind.value}, where it takes spikes")
