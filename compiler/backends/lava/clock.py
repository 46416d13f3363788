"""Where in its sample a process is."""

from __future__ import annotations

from typing import NamedTuple


class SampleClock(NamedTuple):
    """When a process's samples begin, by Lava's count of steps: at ``offset`` and every ``interval`` steps from there.

    Attributes:
        interval: T, ``reset_interval`` of Lava's ``LIFReset``.
        offset: Less than T, its ``reset_offset``.
    """

    interval: int
    offset: int

    def step(self, time_step: int) -> int:
        """How many steps ago the present sample began."""
        return (time_step - self.offset) % self.interval

    def begins(self, time_step: int) -> bool:
        """Whether a sample begins, and what its predecessor left must go."""
        return self.step(time_step) == 0
