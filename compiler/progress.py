"""The callback by which long-running work reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, float, float], None]
"""Called with (the stage, how much of it is done, the total); a total of 0 where it is not known."""


def no_progress(_stage: str, _done: float, _total: float) -> None:
    """A progress callback that does nothing."""
