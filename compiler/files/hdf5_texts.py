"""How long the texts of an HDF5 data set say that they are, before HDF5 makes room for them.

A text of any length is stored as a reference of a few bytes: its length (4 bytes), where it lies, and its number there.
HDF5 takes as much memory as the length says, and only then looks whether there is such a text. So the references are
read here as plain bytes.
"""

from __future__ import annotations

import math
import zlib
from typing import BinaryIO

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5d, h5p, h5z

from resformer.errors import FileFormatError
from resformer.models.limits import MOST_TEXTS, require_within

LENGTH_BYTES, NUMBER_BYTES = 4, 4
"""Of a reference, beside the place."""
USER_DEFINED = 2
"""What HDF5 calls a fill value that a file states."""


def reference_size(file: h5py.File) -> int:
    """Bytes of a reference to a text: files differ in those of a place."""
    place, _ = file.id.get_create_plist().get_sizes()
    return LENGTH_BYTES + int(place) + NUMBER_BYTES


def text_lengths(shown: str, dataset: h5d.DatasetID, opened: BinaryIO, size: int) -> npt.NDArray[np.int64]:
    """The lengths that a data set states for its texts, in bytes; those of an edge that is cut off included.

    Args:
        shown: The data set, as messages call it.
        dataset: Of texts of variable length, no more of them than ``MOST_TEXTS``, and within the file.
        opened: The file.
        size: Bytes of a reference.

    Raises:
        FileFormatError: They are stored as no writer stores texts.
    """
    made = dataset.get_create_plist()
    if made.fill_value_defined() == USER_DEFINED:
        raise FileFormatError(f"{shown}: states a text for those that are missing; write the network again")
    if not dataset.get_storage_size():
        return np.zeros(0, dtype=np.int64)
    if made.get_layout() == h5d.CHUNKED:
        return _of_chunks(shown, dataset, made, size)
    place, count = dataset.get_offset(), math.prod(dataset.shape)
    if place is None:
        raise FileFormatError(f"{shown}: its texts lie among the file's own records; write the network again")
    opened.seek(place)
    return _lengths(shown, opened.read(count * size), count, size)


def _of_chunks(shown: str, dataset: h5d.DatasetID, made: h5p.PropDCID, size: int) -> npt.NDArray[np.int64]:
    """Those of a data set that is stored in pieces."""
    count = math.prod(made.get_chunk())
    places: list[tuple[int, ...]] = []
    dataset.chunk_iter(lambda chunk: places.append(chunk.chunk_offset))
    require_within(count * len(places), MOST_TEXTS, f"{shown}: is stored in pieces of {{}} texts together")
    lengths = [np.zeros(0, dtype=np.int64)]
    for place in places:
        mask, data = dataset.read_direct_chunk(place)
        lengths.append(_lengths(shown, _unfiltered(shown, bytes(data), made, mask, count * size), count, size))
    return np.concatenate(lengths)


def _unfiltered(shown: str, data: bytes, made: h5p.PropDCID, mask: int, size: int) -> bytes:
    """A chunk as it was before the filters that the mask does not leave out."""
    for index in reversed(range(made.get_nfilters())):
        number, _, values, _ = made.get_filter(index)
        if mask >> index & 1:
            continue
        if number == h5z.FILTER_DEFLATE:
            try:
                data = zlib.decompressobj().decompress(data, size)
            except zlib.error as error:
                raise FileFormatError(f"{shown}: damaged ({error}); write the network again") from error
        elif number == h5z.FILTER_SHUFFLE:
            width = max(int(values[0]), 1) if values else 1
            whole = len(data) - len(data) % width
            data = np.frombuffer(data[:whole], np.uint8).reshape(width, -1).T.tobytes() + data[whole:]
        else:
            raise FileFormatError(f"{shown}: texts compressed by filter {number}; write the network again with gzip")
    return data


def _lengths(shown: str, data: bytes, count: int, size: int) -> npt.NDArray[np.int64]:
    """The lengths in so many references."""
    if len(data) < count * size:
        raise FileFormatError(f"{shown}: damaged: it states {count} texts and holds fewer; write the network again")
    references = np.frombuffer(data[: count * size], np.uint8).reshape(count, size)
    lengths = np.ascontiguousarray(references[:, :LENGTH_BYTES]).view("<u4").reshape(count)
    return lengths.astype(np.int64)
