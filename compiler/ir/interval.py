"""How large integers can get: intervals per channel, and bounds on partial sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.arrays import Int64Array

EXACT_IN_FLOAT32 = 2**24
"""float32 holds every integer whose magnitude is below this."""
EXACT_IN_FLOAT64 = 2**53
INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Interval:
    """The bounds of a node's output, for each channel or for all; they include zero, since padding is zero.

    Attributes:
        low: The smallest value, (C,), or (1,) for all channels.
        high: The largest value, (C,), or (1,) for all channels.
    """

    low: Int64Array
    high: Int64Array

    @classmethod
    def between(cls, low: int, high: int) -> Interval:
        """One interval for all channels."""
        return cls(np.array([min(low, 0)], dtype=np.int64), np.array([max(high, 0)], dtype=np.int64))

    @property
    def magnitude(self) -> int:
        """The largest magnitude in any channel."""
        return int(max(-self.low.min(), self.high.max()))

    def clip(self, limit: int) -> Interval:
        """The interval after saturation at a limit."""
        return Interval(np.clip(self.low, -limit, limit), np.clip(self.high, -limit, limit))

    def times(self, factor: int) -> Interval:
        """The interval after multiplication by a factor that is not negative."""
        return Interval(self.low * factor, self.high * factor)

    def plus(self, bias: npt.NDArray[np.integer[Any]]) -> Interval:
        """The interval after a bias, one for each channel, is added."""
        return Interval(np.minimum(self.low + bias, 0), np.maximum(self.high + bias, 0))

    def weighted(self, weight: Int64Array, groups: int = 1) -> Interval:
        """Bounds on sums of weight * x for any x within this interval, which includes zero (padding).

        Args:
            weight: (C_out, C / groups, ...).
            groups: Blocks of channels that do not mix.
        """
        outputs, per_group = weight.shape[:2]
        group = np.arange(outputs) // (outputs // groups)
        channels = group[:, None] * per_group + np.arange(per_group)
        low, high = (np.broadcast_to(each, groups * per_group)[channels] for each in (self.low, self.high))
        # all taps of a channel read the same interval: their weights are added first, (C_out, C / groups)
        taps = tuple(range(2, weight.ndim))
        positive, negative = np.maximum(weight, 0).sum(taps), np.minimum(weight, 0).sum(taps)
        return Interval((positive * low + negative * high).sum(1), (positive * high + negative * low).sum(1))


class Magnitude(NamedTuple):
    """Bounds on one node's output.

    Attributes:
        value: What range analysis proved of the output itself, or ``sums`` where it has not run.
        sums: A bound on every partial sum too, in whatever order a kernel adds: it sums the bounds of all terms.
    """

    value: int
    sums: int


def largest(values: npt.NDArray[np.integer[Any]]) -> int:
    """The largest magnitude among integers; they may include the most negative value of their type."""
    return int(np.abs(values.astype(np.int64)).max(initial=0))
