"""Threads that share one sample: the rows of each loop are cut into as many parts as there are threads.

The Python code between loops runs once, and each thread lists and gathers only the spikes that its own rows read.
Threads that share a sample by blocks of channels would each list and gather the spikes of all rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

ResultT = TypeVar("ResultT")


class Team:
    """A group of threads that share one sample's work; the calling thread is one of them.

    Args:
        count: The number of threads.
        helpers: The pool that runs the other threads' parts; the calling thread may belong to it. None: there are no
            other threads.
    """

    def __init__(self, count: int = 1, helpers: Executor | None = None) -> None:
        self._count, self._helpers = count if helpers is not None else 1, helpers

    def share(self, rows: int, part: Callable[[int, int], ResultT]) -> list[ResultT]:
        """Cut rows into one part for each thread, and return the parts' results in order.

        Args:
            rows: The number of rows.
            part: Computes the rows from its first argument up to its second, which is excluded.
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
