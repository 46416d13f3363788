"""The signal that travels along an edge of a program: its kind, its scale and its bounds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt


class SignalKind(Enum):
    """The kind of signal that travels along an edge."""

    SPIKE = "spike"
    """0 or 1 each step: Loihi's binary spike."""
    GRADED = "graded"
    """An integer payload sent by a neuron of ours."""
    CURRENT = "current"
    """A sum of weighted inputs on its way to a neuron."""


@dataclass(frozen=True)
class Signal:
    """The type of an operation's output.

    Attributes:
        kind: Spike, graded spike or current.
        scale_exp: k; the integer a stands for the real number a / 2^k.
        low: The smallest integer that can occur, or None before range analysis.
        high: The largest integer that can occur, or None before range analysis.
    """

    kind: SignalKind
    scale_exp: int
    low: int | None = None
    high: int | None = None

    @property
    def bits(self) -> int | None:
        """Width in two's complement (1 for a spike), or None before range analysis."""
        if self.kind is SignalKind.SPIKE:
            return 1
        if self.low is None or self.high is None:
            return None
        return 1 + max((~self.low).bit_length() if self.low < 0 else 0, self.high.bit_length())

    def integers(self, real: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int32], int]:
        """The integers of real numbers x: rint(x * 2^k), clipped to the bounds; and how many were clipped."""
        assert self.low is not None
        assert self.high is not None
        rounded = np.rint(real * 2.0**self.scale_exp)
        clipped = np.clip(rounded, self.low, self.high)
        return clipped.astype(np.int32), int(np.count_nonzero(clipped != rounded))

    @property
    def bounds(self) -> tuple[int, int] | None:
        """The bounds, or None before range analysis."""
        return None if self.low is None or self.high is None else (self.low, self.high)


SPIKE = Signal(SignalKind.SPIKE, scale_exp=0, low=0, high=1)
