"""Events in arrays: ``.npy`` of records, ``.npz`` and ``.h5`` with arrays of t, x, y and p.

Times are microseconds where they are whole numbers, and seconds where they are floating point. A polarity above 0 is a
pixel that grew brighter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import h5py
import numpy as np
import numpy.typing as npt

from resformer.compiler.files.hdf5_gate import check_hdf5
from resformer.compiler.files.hdf5_heaps import REWRITE
from resformer.compiler.samples.events.stream import AT_ONCE, EventFile, Events, Int64Array
from resformer.compiler.samples.numpy_files import member_names, open_array, open_records
from resformer.errors import FileFormatError
from resformer.models.limits import quote

NAMES: Mapping[str, tuple[str, ...]] = {
    "t": ("t", "ts", "time", "timestamp", "timestamps"),
    "x": ("x", "xs"),
    "y": ("y", "ys"),
    "p": ("p", "ps", "on", "pol", "polarity", "polarities"),
}
"""The names that a field may have, by its meaning."""
COLUMNS = ("t", "x", "y", "p")
"""The columns of an array (N, 4), in the order in which v2e writes them."""
MICROSECONDS = 1e6
LARGEST_WHOLE = 2**62
"""The largest magnitude of a whole number: it fits 64 bits even if it was rounded to float64."""
SAY = "give one-dimensional arrays t, x, y and p of equal length"

Column: TypeAlias = "npt.NDArray[Any] | h5py.Dataset"


def find_fields(names: tuple[str, ...]) -> dict[str, str] | None:
    """The names of the fields of times, columns, rows and polarities, by meaning; None if one is missing."""
    lower = {name.lower(): name for name in reversed(names)}
    found = {meaning: next((lower[each] for each in said if each in lower), None) for meaning, said in NAMES.items()}
    fields = {meaning: name for meaning, name in found.items() if name is not None}
    return fields if len(fields) == len(NAMES) else None


class NumpyFile(EventFile):
    """``.npy`` of records, or ``.npz`` of four arrays."""

    named = "NumPy file of events"

    def _read_header(self, file: BinaryIO) -> None:
        if file.read(2) == b"PK":
            names = member_names(self.path)
            fields = self._fields(names)
            self._columns: dict[str, Column] = {key: open_array(self.path, name) for key, name in fields.items()}
        else:
            records = open_records(self.path)
            fields = self._fields(records.dtype.names or ())
            self._columns = {key: records[name] for key, name in fields.items()}
        _check_columns(self._columns)
        self.in_seconds = self._columns["t"].dtype.kind == "f"

    def _fields(self, names: tuple[str, ...]) -> dict[str, str]:
        fields = find_fields(names)
        if fields is None:
            raise FileFormatError(f"holds {', '.join(map(quote, names[:10]))}, no events; {SAY}")
        return fields

    def _read(self, file: BinaryIO) -> Iterator[Events]:  # noqa: ARG002 # mapped already
        yield from _in_blocks(self, self._columns)


class Hdf5File(EventFile):
    """``.h5``: a group that holds four arrays t, x, y and p, or an array (N, 4) of these."""

    named = "HDF5 file of events"

    def _read_header(self, file: BinaryIO) -> None:  # noqa: ARG002 # HDF5 opens it by its name
        with h5py.File(self.path, "r") as opened:
            _check_gate(opened, self.path)
            columns = _find_columns(opened)
            _check_columns(columns)
            self.in_seconds = columns["t"].dtype.kind == "f"

    def _read(self, file: BinaryIO) -> Iterator[Events]:  # noqa: ARG002 # likewise
        with h5py.File(self.path, "r") as opened:
            _check_gate(opened, self.path)
            columns = _find_columns(opened)
            _check_columns(columns)
            yield from _in_blocks(self, columns)


def _check_gate(file: h5py.File, path: Path) -> None:
    """Check a whole file before its first value is read; the gate's advice, which is about networks, is replaced."""
    try:
        check_hdf5(file, path.stat().st_size)
    except FileFormatError as error:
        raise FileFormatError(str(error).replace(REWRITE, "write the events again")) from error


class _ColumnOf:
    """One column of an array (N, 4) in a file, which is read a slice at a time."""

    def __init__(self, table: h5py.Dataset, index: int) -> None:
        self._table, self._index = table, index
        self.dtype, self.shape, self.ndim = table.dtype, table.shape[:1], 1

    def __getitem__(self, some: slice) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = self._table[some, self._index]
        return found


def _find_columns(group: h5py.Group) -> dict[str, Any]:
    """The four arrays of the first group that holds them, outer groups first, or else of the first array (N, 4)."""
    tables = []
    todo = [group]
    while todo:
        inside = todo.pop(0)
        items = dict(inside.items())
        arrays = {name: item for name, item in items.items() if isinstance(item, h5py.Dataset) and item.ndim == 1}
        fields = find_fields(tuple(arrays))
        if fields is not None:
            return {meaning: arrays[name] for meaning, name in fields.items()}
        tables += [
            item for item in items.values() if isinstance(item, h5py.Dataset) and item.shape[1:] == (len(COLUMNS),)
        ]
        todo += [item for item in items.values() if isinstance(item, h5py.Group)]
    if not tables:
        raise FileFormatError(f"holds no events; {SAY}, in one group")
    return {name: _ColumnOf(tables[0], index) for index, name in enumerate(COLUMNS)}


def _check_columns(columns: Mapping[str, Any]) -> None:
    """Refuse columns that are not one-dimensional arrays of numbers, all of one length."""
    shapes = {column.shape for column in columns.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1:
        said = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
        raise FileFormatError(f"its events have the shapes {said}; {SAY}")
    for name, column in columns.items():
        kinds = "iuf" if name == "t" else "iufb"
        if column.dtype.kind not in kinds or column.dtype.itemsize > 8:
            raise FileFormatError(f"its {name} are of the type {column.dtype}, no numbers of up to 8 bytes; {SAY}")


def _in_blocks(file: EventFile, columns: Mapping[str, Any]) -> Iterator[Events]:
    """The events of four columns, some at a time; the file's ``polarities`` are kept up to date."""
    count = columns["t"].shape[0]
    for first in range(0, count, AT_ONCE):
        t, x, y, p = (np.asarray(columns[name][first : first + AT_ONCE]) for name in COLUMNS)
        least, most = file.polarities or (math.inf, -math.inf)
        file.polarities = min(least, float(p.min())), max(most, float(p.max()))
        yield Events(_times(t, first), _whole(x, "x", first), _whole(y, "y", first), p > 0)


def _times(values: npt.NDArray[Any], first: int) -> Int64Array:
    """Times in microseconds."""
    if values.dtype.kind == "f":
        values = np.rint(values.astype(np.float64) * MICROSECONDS)
    return _whole(values, "t", first)


def _whole(values: npt.NDArray[Any], name: str, first: int) -> Int64Array:
    """Whole numbers of any type as int64.

    Raises:
        FileFormatError: A value is not a whole number, or too large.
    """
    with np.errstate(invalid="ignore"):
        good = np.abs(values.astype(np.float64)) <= LARGEST_WHOLE
        if values.dtype.kind == "f":
            good &= values == np.rint(values)
    if not good.all():
        index = int(np.argmin(good))
        raise FileFormatError(f"{name} of event {first + index} is {float(values[index]):g}, no whole number; {SAY}")
    whole: Int64Array = values.astype(np.int64)
    return whole
