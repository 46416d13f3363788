"""The stated lengths of the texts of an HDF5 data set, read before HDF5 takes memory for the texts.

A text of variable length is stored as a reference of a few bytes: its length (4 bytes), the address of its heap, and
its number in that heap (4 bytes). HDF5 takes as much memory as the length states, and only then looks for the text. So
the references are read here as plain bytes, and the heaps that they point to are walked through.
"""

from __future__ import annotations

import math
from typing import BinaryIO

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5d, h5p, h5z

from resformer.compiler.files.hdf5_chunks import stored_chunks, unpacked
from resformer.compiler.files.hdf5_heaps import REWRITE, Heaps
from resformer.errors import FileFormatError
from resformer.models.limits import MOST_TEXTS, require_within

LENGTH_BYTES, NUMBER_BYTES = 4, 4
"""Bytes of the length and of the number in a reference; the address lies between them."""
USER_DEFINED = 2
"""HDF5's code for a fill value that the file itself states."""


class Texts:
    """The texts of variable length of a file, whose references are read as plain bytes.

    Args:
        file: The file, open for reading.
        opened: The same file, open for reading bytes.
        size: The size of the file, in bytes.

    Attributes:
        reference: The size of a reference to a text, in bytes; files differ in the size of an address.
    """

    def __init__(self, file: h5py.File, opened: BinaryIO, size: int) -> None:
        place, length = file.id.get_create_plist().get_sizes()
        self.reference = LENGTH_BYTES + int(place) + NUMBER_BYTES
        self._opened = opened
        self._heaps = Heaps(opened, int(file.userblock_size), size, int(length))

    def lengths(self, shown: str, dataset: h5d.DatasetID) -> npt.NDArray[np.int64]:
        """The lengths that a data set states for its texts, in bytes, also in the unused parts of chunks at its edges.

        Args:
            shown: The data set, as messages call it.
            dataset: A data set of at most ``MOST_TEXTS`` texts of variable length, stored in the file itself.

        Raises:
            FileFormatError: The texts are stored in a way that no writer uses, or their heaps cannot be walked through.
        """
        references = self._references(shown, dataset)
        lengths = np.ascontiguousarray(references[:, :LENGTH_BYTES]).view("<u4").reshape(len(references))
        for place in {bytes(each) for each in references[lengths > 0, LENGTH_BYTES:-NUMBER_BYTES]}:
            self._heaps.check(shown, int.from_bytes(place, "little"))
        return lengths.astype(np.int64)

    def _references(self, shown: str, dataset: h5d.DatasetID) -> npt.NDArray[np.uint8]:
        """The references of a data set, (texts, ``self.reference``), as bytes."""
        made, size = dataset.get_create_plist(), self.reference
        if made.fill_value_defined() == USER_DEFINED:
            raise FileFormatError(f"{shown}: states a text for those that are missing; {REWRITE}")
        if not dataset.get_storage_size():
            return np.zeros((0, size), dtype=np.uint8)
        if made.get_layout() == h5d.CHUNKED:
            return _of_chunks(shown, dataset, made, size)
        place, count = dataset.get_offset(), math.prod(dataset.shape)
        if place is None:
            raise FileFormatError(f"{shown}: its texts lie among the file's own records; {REWRITE}")
        self._opened.seek(place)
        return _split(shown, self._opened.read(count * size), count, size)


def _of_chunks(shown: str, dataset: h5d.DatasetID, made: h5p.PropDCID, size: int) -> npt.NDArray[np.uint8]:
    """The references of a data set that is stored in chunks, (texts, size)."""
    if h5z.FILTER_LZF in (made.get_filter(index)[0] for index in range(made.get_nfilters())):
        raise FileFormatError(f"{shown}: texts compressed by LZF; {REWRITE} with gzip")
    count, references = math.prod(made.get_chunk()), [np.zeros((0, size), dtype=np.uint8)]
    for number, (mask, data) in enumerate(stored_chunks(shown, dataset), 1):
        require_within(count * number, MOST_TEXTS, f"{shown}: is stored in chunks of {{}} texts together")
        references.append(_split(shown, unpacked(shown, data, made, mask, count * size), count, size))
    return np.concatenate(references)


def _split(shown: str, data: bytes, count: int, size: int) -> npt.NDArray[np.uint8]:
    """The first ``count`` references of ``size`` bytes in some data, (count, size)."""
    if len(data) < count * size:
        raise FileFormatError(f"{shown}: damaged: it states {count} texts and holds fewer; {REWRITE}")
    return np.frombuffer(data[: count * size], np.uint8).reshape(count, size)
