"""Counts the steps of the present sample."""

from __future__ import annotations

from typing import NamedTuple


class SampleClock(NamedTuple):
    """When samples begin at a process, in Lava's count of steps: at ``offset`` and every ``interval`` steps from there.

    Attributes:
        interval: T; the ``reset_interval`` of Lava's ``LIFReset``.
        offset: A number less than T; the ``reset_offset`` of Lava's ``LIFReset``.
    """

    interval: int
    offset: int

    def step(self, time_step: int) -> int:
        """How many steps ago the present sample began."""
        return (time_step - self.offset) % self.interval

    def begins(self, time_step: int) -> bool:
        """Whether a sample begins at this step, so that the state left by the previous sample must be cleared."""
        return self.step(time_step) == 0
