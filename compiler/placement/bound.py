"""A lower bound on the step time in the model, over all ways to cut the populations and to place the cores.

The bound lets each population choose its way by itself. Sending is counted as though every reader were cut in the way
that takes the fewest messages; links and the longest way of a message take no time. So each population has a table:
the cores that each way takes, and the time of its slowest core at each step. A vector of step times is possible only if
the fewest cores that keep to it, summed over the populations, are no more than are allowed. Branch and bound over boxes
of such vectors seeks the least mean; the open boxes give a valid lower bound at every moment.
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
"""The most boxes that the search looks at."""
AT_ONCE = 64
"""Boxes that are halved together, in arrays."""
PRECISION = 0.002
"""The search ends when the best open box is as narrow as this, relative to its lower bound."""
HALVINGS = 40
"""Halvings in the bisection of a single step's time."""
NEVER = np.iinfo(np.int64).max // 2**16
"""The number of cores that stands for "impossible"; sums over the populations stay within 64 bits."""


@dataclass(frozen=True, eq=False)
class Table:
    """The ways among which a population chooses; ways that another one dominates are left out.

    Attributes:
        cores: The cores that each way takes, (ways,).
        busy_ns: The longest term of each way's cores at each step, (ways, T).
        fan_outs: For each connection, the fewest cores that receive a message in any way, (connections,).
    """

    cores: Int64Array
    busy_ns: FloatArray
    fan_outs: FloatArray


def tables_of(ways: Sequence[Ways]) -> tuple[Table, ...]:
    """The table of each population, if its readers are cut at best; it holds all ways if none keeps to the limits."""
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
    """The fewest cores that keep to each target, (vectors,), for targets of (vectors, T); ``NEVER`` if none do."""
    total = np.zeros(len(targets), dtype=np.int64)
    for table in tables:
        keeps = (table.busy_ns[None] <= targets[:, None]).all(axis=2)
        total += np.where(keeps, table.cores, NEVER).min(axis=1)
    return np.minimum(total, NEVER)


def least_busy_ns(tables: Sequence[Table], cores: int, known: FloatArray) -> float:
    """A lower bound on the mean time of the slowest part of a step, in ns, over all layouts on ``cores`` cores.

    Args:
        tables: The tables of all populations.
        cores: The most cores that a layout may take.
        known: The times of the slowest part in a known layout, (T,); the bound is never above their mean.
    """
    best, steps = float(known.mean()), len(known)
    largest: FloatArray = np.max([table.busy_ns.max(axis=0) for table in tables], axis=0)
    low = np.array([_least_alone(tables, cores, largest, step) for step in range(steps)])
    # in a vector with a better mean, a step is at most what the best sum leaves when all other steps are at their least
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
    """Cut each box in two, across the step in which it is widest."""
    index, axis = np.arange(len(lows)), (highs - lows).argmax(axis=1)
    middle = (lows[index, axis] + highs[index, axis]) / 2
    upper, lower = lows.copy(), highs.copy()
    upper[index, axis], lower[index, axis] = middle, middle
    return np.concatenate([lows, upper]), np.concatenate([lower, highs])


def _least_alone(tables: Sequence[Table], cores: int, largest: FloatArray, step: int) -> float:
    """A lower bound on the time of one step, in ns, if all other steps may last as long as they like."""
    low, high = 0.0, float(largest[step])
    for _ in range(HALVINGS):
        target = largest.copy()
        target[step] = (low + high) / 2
        if fewest_cores(tables, target[None])[0] <= cores:
            high = float(target[step])
        else:
            low = float(target[step])
    return low
