"""What no layout can go below: a bound of the model over all ways to cut, however the cores then lie.

A layout is taken apart into what each population must choose by itself. Sending is counted as though every reader were
cut in the way that takes the fewest messages, links as though they carried nothing, and the longest way as none, so
each population has a table: the cores that a way takes, and what they do at each step. A vector of step times can be
had only if the fewest cores of all populations whose ways keep to it are no more than are allowed. The least mean of
such a vector is sought by branch and bound in boxes of vectors; what the open boxes leave possible is a bound at every
moment.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resformer.compiler.placement.ways import Ways, undominated

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

BOXES = 60_000
"""The most boxes that are looked at."""
AT_ONCE = 64
"""Boxes that are looked at together."""
PRECISION = 0.002
"""The search ends when the best open box is as narrow as this, relative to its step."""
HALVINGS = 40
"""Of a bisection of one step."""
NEVER = np.iinfo(np.int64).max // 2**16
"""Cores of a population that cannot keep to a vector, such that sums of them do not leave 64 bits."""


@dataclass(frozen=True, eq=False)
class Table:
    """What a population can choose at best, better ways left alone.

    Attributes:
        cores: (ways,).
        busy_ns: (ways, T).
        fan_outs: Of each connection, the fewest cores that receive a message, in any way, (connections,).
    """

    cores: Int64Array
    busy_ns: FloatArray
    fan_outs: FloatArray


def tables_of(ways: Sequence[Ways]) -> tuple[Table, ...]:
    """The table of each population, as its readers at best allow; if none of its ways keeps to the limits, of all."""
    tables: dict[int, Table] = {}
    for number in reversed(range(len(ways))):
        each = ways[number]
        copies = [float(tables[read.reader].fan_outs[read.index]) for read in each.reads]
        usable = each.fits(copies)
        if not usable.any():
            usable = np.ones_like(usable)
        busy, cores = each.busy_ns(copies)[usable], each.cores[usable]
        kept = undominated(np.column_stack([cores, busy]))
        least = each.fan_outs[:, usable].min(axis=1, initial=np.inf)
        tables[number] = Table(cores[kept], busy[kept], least)
    return tuple(tables[number] for number in range(len(ways)))


def fewest_cores(tables: Sequence[Table], targets: FloatArray) -> Int64Array:
    """The fewest cores whose steps last no longer than each of some vectors, (vectors, T); ``NEVER`` if none do."""
    total = np.zeros(len(targets), dtype=np.int64)
    for table in tables:
        keeps = (table.busy_ns[None] <= targets[:, None]).all(axis=2)
        total += np.where(keeps, table.cores, NEVER).min(axis=1)
    return np.minimum(total, NEVER)


def least_busy_ns(tables: Sequence[Table], cores: int, known: FloatArray) -> float:
    """The mean over a sample's steps of the slowest part, below which no layout of so many cores can go.

    Args:
        tables: Of all populations.
        cores: The most that may be taken.
        known: The steps of a layout that there is, (T,): where its mean is the least, it is the bound.
    """
    best, steps = float(known.mean()), len(known)
    largest: FloatArray = np.max([table.busy_ns.max(axis=0) for table in tables], axis=0)
    low = np.array([_least_alone(tables, cores, largest, step) for step in range(steps)])
    # of a vector that is better than the known one, no step is longer than all others at their least allow
    high = np.minimum(largest, np.maximum(best * steps - (low.sum() - low), low))
    if low.mean() >= best:
        return best
    order = itertools.count()
    open_boxes = [(float(low.mean()), next(order), low, high)]
    looked_at = 0
    while open_boxes and looked_at < BOXES:
        bound, _, low, high = open_boxes[0]
        if bound >= best or (high - low).mean() <= PRECISION * bound:
            break
        parts = [heapq.heappop(open_boxes) for _ in range(min(AT_ONCE, len(open_boxes)))]
        lows, highs = _halved(np.array([part[2] for part in parts]), np.array([part[3] for part in parts]))
        looked_at += len(lows)
        keeps = (fewest_cores(tables, highs) <= cores) & (lows.mean(axis=1) < best)
        for index in np.flatnonzero(keeps):
            heapq.heappush(open_boxes, (float(lows[index].mean()), next(order), lows[index], highs[index]))
    return min(best, open_boxes[0][0]) if open_boxes else best


def _halved(lows: FloatArray, highs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Each box in two, cut across the step in which it is widest."""
    index, axis = np.arange(len(lows)), (highs - lows).argmax(axis=1)
    middle = (lows[index, axis] + highs[index, axis]) / 2
    upper, lower = lows.copy(), highs.copy()
    upper[index, axis], lower[index, axis] = middle, middle
    return np.concatenate([lows, upper]), np.concatenate([lower, highs])


def _least_alone(tables: Sequence[Table], cores: int, largest: FloatArray, step: int) -> float:
    """What one step takes at least if all others may last as long as they like."""
    low, high = 0.0, float(largest[step])
    for _ in range(HALVINGS):
        target = largest.copy()
        target[step] = (low + high) / 2
        if fewest_cores(tables, target[None])[0] <= cores:
            high = float(target[step])
        else:
            low = float(target[step])
    return low
