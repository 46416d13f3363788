"""Threads that share one sample: each loop's rows are cut into as many parts as there are threads.

What Python does between loops is done once, and each thread lists and gathers what its own rows read. Threads that
share by channels, block by block, would all do that for all rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

ResultT = TypeVar("ResultT")


class Team:
    """So many threads, of which the caller's is one.

    Args:
        count: How many.
        helpers: Where the others are; one of its threads may be the caller's.
    """

    def __init__(self, count: int = 1, helpers: Executor | None = None) -> None:
        self._count, self._helpers = count if helpers is not None else 1, helpers

    def share(self, rows: int, part: Callable[[int, int], ResultT]) -> list[ResultT]:
        """What each part of some rows makes, in order.

        Args:
            rows: How many.
            part: Does those from the first number up to the second, which it leaves out.
        """
        count = max(min(self._count, rows), 1)
        bounds = [rows * index // count for index in range(count + 1)]
        (_, mine), *parts = itertools.pairwise(bounds)
        others = [self._helpers.submit(part, *each) for each in parts if self._helpers is not None]
        try:
            made = part(0, mine)
        finally:
            rest = [other.result() for other in others]
        return [made, *rest]


ALONE = Team()
