"""How many cores a message goes to, and how far it travels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resformer.compiler.placement.mapping import Edge, Link
from resformer.compiler.placement.place import Placed, Placement
from resformer.compiler.placement.tiling import Reader, fan_out

Int64Array = npt.NDArray[np.int64]

PAIRS_AT_ONCE = 2**18
"""Of cores, whose distances are held in memory together."""


@dataclass(frozen=True)
class Route:
    """What becomes of a message on one connection, on average over the neurons that send.

    Attributes:
        fan_out: Cores that receive it.
        hops_east_west: Tiles that a copy of it crosses along rows.
        hops_north_south: Along columns.
        longest_ns: The time of the farthest copy.
    """

    fan_out: float
    hops_east_west: float
    hops_north_south: float
    longest_ns: float


def route(placement: Placement, edge: Edge, reader: Placed) -> Route:
    """The way of a connection's messages.

    Convolutions send to the cores that read the sender's place; all others as though every pair of cores talked alike.
    """
    chip, sender = placement.chip, placement.by_name[edge.source]
    starts, ends = (placement.positions[each.first_core : each.first_core + each.cores] for each in (sender, reader))
    nanoseconds = np.array([chip.hop_east_west_ns, chip.hop_north_south_ns])
    if edge.link is Link.CONVOLUTION:
        total, hops, longest = _among_readers(_shared(edge, sender, reader), starts, ends, nanoseconds)
    else:
        total, hops, longest = _among_all(starts, ends, nanoseconds)
    return Route(
        fan_out=fan_out(Reader(edge, reader.tiling), sender.population.shape),
        hops_east_west=float(hops[0] / total),
        hops_north_south=float(hops[1] / total),
        longest_ns=longest,
    )


def _among_all(
    starts: Int64Array, ends: Int64Array, nanoseconds: npt.NDArray[np.float64]
) -> tuple[int, list[float], float]:
    """The ways between all pairs of cores, without looking at each.

    Args:
        starts: Where senders are, (senders, 2).
        ends: Where readers are, (readers, 2).
        nanoseconds: Time of a hop along each axis, (2,).

    Returns:
        The number of pairs, the sum of their hops along each axis, and the time of the longest way.
    """
    hops = []
    # in floats, since sums over a hostile chip's mesh may leave 64 bits; an honest one's are far below 2^53, and exact
    for axis in range(2):
        sending, ordered = starts[:, axis].astype(np.float64), np.sort(ends[:, axis]).astype(np.float64)
        sums = np.concatenate([[0], np.cumsum(ordered)])
        # of each sender: the readers on one side of it, and the others
        before = np.searchsorted(ordered, sending)
        behind = len(ordered) - before
        distances = sending * (before - behind) + sums[-1] - 2 * sums[before]
        hops.append(float(distances.sum()))
    # |x| + |y| is the largest of the four sums +-x +-y
    longest = 0.0
    for sign in (1, -1):
        along_starts, along_ends = (each @ (nanoseconds * (1, sign)) for each in (starts, ends))
        for start, end in (
            (along_starts.argmax(), along_ends.argmin()),
            (along_starts.argmin(), along_ends.argmax()),
        ):
            longest = max(longest, float(_times(np.abs(starts[start] - ends[end]), nanoseconds)))
    return len(starts) * len(ends), hops, longest


def _among_readers(
    shared: tuple[Int64Array, Int64Array, Int64Array],
    starts: Int64Array,
    ends: Int64Array,
    nanoseconds: npt.NDArray[np.float64],
) -> tuple[int, list[float], float]:
    """The ways between the pairs of cores that share something, each as often as it shares neurons.

    Args:
        shared: Channels, rows and columns that tiles share, as :func:`_shared` returns them.
        starts: As in :func:`_among_all`.
        ends: Likewise.
        nanoseconds: Likewise.

    Returns:
        Likewise, pairs and hops being weighted.
    """
    total, hops, longest = 0, [0.0, 0.0], 0.0
    for sending, reading, weights in _pairs_of(shared):
        distance = np.abs(starts[sending] - ends[reading])
        total += int(weights.sum())
        for axis in range(2):
            hops[axis] += float(weights @ distance[:, axis].astype(np.float64))
        longest = max(longest, float(_times(distance, nanoseconds).max()))
    return total, hops, longest


def shared_parts(
    edge: Edge, sender: Placed, reader: Placed
) -> Iterator[tuple[Int64Array, Int64Array, npt.NDArray[np.float64]]]:
    """The pairs of cores between which a convolution's messages go, some at a time.

    Returns:
        The numbers of the sender's cores and of the reader's, and how many neurons of the one the other reads.
    """
    for sending, reading, weights in _pairs_of(_shared(edge, sender, reader)):
        yield sending, reading, weights.astype(np.float64)


def _pairs_of(shared: tuple[Int64Array, Int64Array, Int64Array]) -> Iterator[tuple[Int64Array, Int64Array, Int64Array]]:
    """As :func:`shared_parts`, of what :func:`_shared` returned."""
    channels, rows, columns = shared
    (row, row_read), (column, column_read) = np.nonzero(rows), np.nonzero(columns)
    plane_weights = np.multiply.outer(rows[row, row_read], columns[column, column_read]).ravel()
    # where the pairs of a plane are, within the cores of one tile of channels
    plane_sending = np.add.outer(row * columns.shape[0], column).ravel()
    plane_reading = np.add.outer(row_read * columns.shape[1], column_read).ravel()
    planes = rows.shape[0] * columns.shape[0], rows.shape[1] * columns.shape[1]
    channel, channel_read = np.nonzero(channels)
    depth = channels[channel, channel_read]
    for plane in _parts(len(plane_weights), PAIRS_AT_ONCE):
        for part in _parts(len(channel), max(PAIRS_AT_ONCE // len(plane_weights), 1)):
            yield (
                np.add.outer(channel[part] * planes[0], plane_sending[plane]).ravel(),
                np.add.outer(channel_read[part] * planes[1], plane_reading[plane]).ravel(),
                np.multiply.outer(depth[part], plane_weights[plane]).ravel(),
            )


def _parts(size: int, largest: int) -> list[slice]:
    return [slice(first, first + largest) for first in range(0, size, largest)]


def _times(distance: Int64Array, nanoseconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    times: npt.NDArray[np.float64] = distance[..., 0] * nanoseconds[0] + distance[..., 1] * nanoseconds[1]
    return times


def _shared(edge: Edge, sender: Placed, reader: Placed) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Channels, rows and columns of each of the sender's tiles that each of the reader's tiles reads.

    Returns:
        One array an axis, (the sender's tiles along it, the reader's).
    """
    source, target = sender.population.shape, reader.population.shape
    per_group, source_per_group = target[0] // edge.groups, source[0] // edge.groups
    axes = []
    for axis in range(3):
        first = np.arange(reader.tiling.counts[axis]) * reader.tiling.tile[axis]
        last = np.minimum(first + reader.tiling.tile[axis], target[axis])
        if axis == 0:
            low, high = first // per_group * source_per_group, -(-last // per_group) * source_per_group
        else:
            low, high = edge.window.reach(axis - 1, first, last - 1)
        starts = np.arange(sender.tiling.counts[axis]) * sender.tiling.tile[axis]
        ends = np.minimum(starts + sender.tiling.tile[axis], source[axis])
        axes.append(np.maximum(np.minimum(ends[:, None], high) - np.maximum(starts[:, None], low), 0))
    channels, rows, columns = axes
    return channels, rows, columns
