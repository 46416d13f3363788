"""The loads of the mesh's links; messages go along their row first, then along their column (XY routing)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resformer.compiler.placement.mapping import Edge, Link
from resformer.compiler.placement.place import Placed, Placement
from resformer.compiler.placement.tiling import Reader, fan_out
from resformer.compiler.placement.traffic import shared_parts

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Mesh:
    """The places of a placement's cores in the mesh.

    Rows and columns in which no core lies are left out: the links between two neighbouring kept rows or columns all
    carry the same messages.

    Attributes:
        placement: The placement.
        places: The column and row of each core, counted among the kept ones, (cores, 2).
        rows: The number of kept rows.
        columns: The number of kept columns.
    """

    placement: Placement
    places: Int64Array
    rows: int
    columns: int

    @classmethod
    def of(cls, placement: Placement) -> Mesh:
        """The mesh of a placement."""
        places = placement.positions
        ranks = [np.unique(places[:, axis], return_inverse=True) for axis in range(2)]
        columns, rows = (len(kept) for kept, _ in ranks)
        return cls(placement, np.stack([rank for _, rank in ranks], axis=-1).astype(np.int64), rows, columns)

    def none(self) -> Loads:
        """Links that carry nothing."""
        return Loads(np.zeros((2, self.rows, self.columns)), np.zeros((2, self.columns, self.rows)))

    def carry(self, edge: Edge, reader: Placed) -> Loads:
        """The load of each link if every neuron that a connection reads sends one message.

        A convolution's messages go to the cores that read the sender's place. For other connections, every pair of
        cores is taken to exchange equally many messages.
        """
        sender = self.placement.by_name[edge.source]
        starts, ends = (self.places[each.first_core : each.first_core + each.cores] for each in (sender, reader))
        if edge.link is Link.CONVOLUTION:
            total = self.none()
            for sending, reading, weights in shared_parts(edge, sender, reader):
                total = total.plus(self._pairs(starts[sending], ends[reading], weights))
            return total
        copies = fan_out(Reader(edge, reader.tiling), sender.population.shape)
        each = sender.population.neurons / sender.cores * copies / reader.cores
        return self._all_pairs(starts, ends).times(each)

    def _pairs(self, starts: Int64Array, ends: Int64Array, weights: FloatArray) -> Loads:
        """Loads of messages between pairs of places, (pairs, 2); the weight of a pair is its number of messages."""
        return Loads(
            _crossings(starts[:, 1], starts[:, 0], ends[:, 0], weights, (self.rows, self.columns)),
            _crossings(ends[:, 0], starts[:, 1], ends[:, 1], weights, (self.columns, self.rows)),
        )

    def _all_pairs(self, starts: Int64Array, ends: Int64Array) -> Loads:
        """Loads of one message from each start to each end, computed without looking at each pair."""
        sending, reading = (self._counts(each) for each in (starts, ends))
        # (rows, columns): senders of a row at each column or before it; (columns,): readers at each column or before it
        before, read_before = sending.cumsum(axis=1), reading.sum(axis=0).cumsum()
        after, read_after = sending.sum(axis=1, keepdims=True) - before, len(ends) - read_before
        along_rows = np.stack([before * read_after, after * read_before])
        # (rows,): senders at each row or before it; (columns, rows): readers of a column at each row or before it
        sent_before, before = sending.sum(axis=1).cumsum(), reading.T.cumsum(axis=1)
        sent_after, after = len(starts) - sent_before, reading.T.sum(axis=1, keepdims=True) - before
        return Loads(along_rows, np.stack([sent_before * after, sent_after * before]))

    def _counts(self, places: Int64Array) -> FloatArray:
        """The number of the given places that lie on each tile, (rows, columns)."""
        flat = np.bincount(places[:, 1] * self.columns + places[:, 0], minlength=self.rows * self.columns)
        return flat.reshape(self.rows, self.columns).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Loads:
    """The messages that cross from each tile to the next one of its row or column, in both directions.

    Attributes:
        along_rows: East and west, (2, rows, columns).
        along_columns: South and north, (2, columns, rows).
    """

    along_rows: FloatArray
    along_columns: FloatArray

    def plus(self, other: Loads) -> Loads:
        """The sum of both loads."""
        return Loads(self.along_rows + other.along_rows, self.along_columns + other.along_columns)

    def times(self, factor: float) -> Loads:
        """The loads multiplied by a factor."""
        return Loads(self.along_rows * factor, self.along_columns * factor)


def _crossings(
    lines: Int64Array, first: Int64Array, last: Int64Array, weights: FloatArray, size: tuple[int, int]
) -> FloatArray:
    """The messages that cross between neighbours of each line, to higher and to lower places, (2, lines, places)."""
    count, length = size
    found = np.zeros((2, count * length))
    for direction, chosen in enumerate((last > first, last < first)):
        at = lines[chosen] * length
        low, high = np.minimum(first, last)[chosen], np.maximum(first, last)[chosen]
        for places, sign in ((at + low, 1.0), (at + high, -1.0)):
            found[direction] += sign * np.bincount(places, weights=weights[chosen], minlength=count * length)
    crossing: FloatArray = found.reshape(2, count, length).cumsum(axis=2)
    return crossing
