"""How many cores a message goes to, and how far it travels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resformer.compiler.placement.mapping import Edge, Link
from resformer.compiler.placement.place import Placed, Placement, tile_positions
from resformer.compiler.placement.tiling import Reader, fan_out

Int64Array = npt.NDArray[np.int64]


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
    shared = _shared(edge, sender, reader) if edge.link is Link.CONVOLUTION else np.ones((sender.cores, reader.cores))
    total = shared.sum()
    starts = tile_positions(placement.chip, np.arange(sender.cores) + sender.first_core)
    ends = tile_positions(placement.chip, np.arange(reader.cores) + reader.first_core)
    distance = np.abs(starts[:, None] - ends[None])
    east_west, north_south = ((distance[..., axis] * shared).sum() / total for axis in range(2))
    times = distance[..., 0] * chip.hop_east_west_ns + distance[..., 1] * chip.hop_north_south_ns
    return Route(
        fan_out=fan_out(Reader(edge, reader.tiling), sender.population.shape),
        hops_east_west=float(east_west),
        hops_north_south=float(north_south),
        longest_ns=float(times[shared > 0].max()),
    )


def _shared(edge: Edge, sender: Placed, reader: Placed) -> npt.NDArray[np.float64]:
    """Neurons of each of the sender's cores that each of the reader's cores reads, (senders, readers)."""
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
    shared: npt.NDArray[np.float64] = np.einsum("ax,by,cz->abcxyz", channels, rows, columns, dtype=np.float64)
    return shared.reshape(sender.cores, reader.cores)
