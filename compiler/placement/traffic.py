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
"""The number of pairs of cores whose distances are held in memory together."""


@dataclass(frozen=True)
class Route:
    """The way of a message on one connection, on average over the neurons that send.

    Attributes:
        fan_out: Cores that receive the message.
        hops_east_west: Tiles that a copy of the message crosses along rows.
        hops_north_south: Tiles that a copy of the message crosses along columns.
        longest_ns: The time of the farthest copy.
    """

    fan_out: float
    hops_east_west: float
    hops_north_south: float
    longest_ns: float


def route(placement: Placement, edge: Edge, reader: Placed) -> Route:
    """The way of a connection's messages.

    A convolution's messages go to the cores that read the sender's place. For other connections, every pair of cores is
    taken to exchange equally many messages.
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
    """The ways between all pairs of cores, computed without looking at each pair.

    Args:
        starts: The places of the senders, (senders, 2).
        ends: The places of the readers, (readers, 2).
        nanoseconds: Time of a hop along each axis, (2,).

    Returns:
        The number of pairs, the sum of their hops along each axis, and the time of the longest way.
    """
    hops = []
    # floats, since sums for a malicious chip file may leave 64 bits; those of real chips are below 2^53, so exact
    for axis in range(2):
        sending, ordered = starts[:, axis].astype(np.float64), np.sort(ends[:, axis]).astype(np.float64)
        sums = np.concatenate([[0], np.cumsum(ordered)])
        # for each sender: the number of readers on one side of it, and on the other
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
    """The ways between the pairs of cores that share neurons, each weighted by the number of neurons that they share.

    Args:
        shared: Channels, rows and columns that tiles share, as :func:`_shared` returns them.
        starts: The places of the senders, (senders, 2).
        ends: The places of the readers, (readers, 2).
        nanoseconds: Time of a hop along each axis, (2,).

    Returns:
        The sum of the weights, the weighted sum of hops along each axis, and the time of the longest way.
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

    Yields:
        Of some pairs, the number of the sender's core, that of the reader's core, and how many neurons of the sender's
        core the reader's core reads, (pairs,) each.
    """
    for sending, reading, weights in _pairs_of(_shared(edge, sender, reader)):
        yield sending, reading, weights.astype(np.float64)


def _pairs_of(shared: tuple[Int64Array, Int64Array, Int64Array]) -> Iterator[tuple[Int64Array, Int64Array, Int64Array]]:
    """The pairs as :func:`shared_parts` yields them, from the arrays that :func:`_shared` returned."""
    channels, rows, columns = shared
    (row, row_read), (column, column_read) = np.nonzero(rows), np.nonzero(columns)
    plane_weights = np.multiply.outer(rows[row, row_read], columns[column, column_read]).ravel()
    # the core numbers of a plane's pairs, counted within the cores of one tile of channels
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
    """How many channels, rows and columns of each of the sender's tiles each of the reader's tiles reads.

    Returns:
        One array for each axis, (the sender's tiles along the axis, the reader's tiles along the axis).
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
