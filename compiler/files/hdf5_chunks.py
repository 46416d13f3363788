"""Checks of the compressed chunks of an HDF5 data set, before HDF5 unpacks them.

HDF5 takes as much memory as a compressed chunk yields, whatever the data set declares: 2 MB of gzip can become 2 GB of
zeros. If a chunk yields too little, HDF5 reads past the end of its buffer: it returns other memory of the process, or
crashes. So each compressed chunk is unpacked here first, with a limit on its size, and must yield exactly the bytes of
a chunk.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import numpy as np
from h5py import h5d, h5i, h5p, h5z

from resformer.errors import FileFormatError
from resformer.models.limits import LARGEST_EXPANSION, MOST_CHUNKS, allowed, require_within

FILTERS = frozenset({h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_LZF})
"""The filters that h5py itself brings; for any other filter, HDF5 would look for a plug-in and run it."""
LZF_SIZE = 2
"""The index, among the values of LZF's filter, of the size of the buffer that it unpacks into, in bytes."""
LZF_LITERALS = 32
"""A control byte below this number begins a run of literal bytes; any other begins a repetition of earlier bytes."""
LZF_LONG = 7
"""The largest length, less 2, that a control byte states for a repetition; one more byte then adds to the length."""
CHECKSUM_BYTES = 4
REWRITE = "write it again with gzip or without"


def check_chunks(shown: str, dataset: h5d.DatasetID, item: int) -> None:
    """Refuse a data set whose chunks are far larger than the data set, or unpack to another size than that of a chunk.

    Args:
        shown: The data set, as messages call it.
        dataset: The data set, stored in chunks.
        item: The size in the file of a value, or of a reference to a text, in bytes.

    Raises:
        FileFormatError: It has such a chunk, a filter that h5py does not bring, or a filter twice.
    """
    made = dataset.get_create_plist()
    filters = [made.get_filter(index)[0] for index in range(made.get_nfilters())]
    for number in filters:
        if number not in FILTERS:
            raise FileFormatError(f"{shown}: is compressed by filter {number}; {REWRITE}")
        if filters.count(number) > 1:
            raise FileFormatError(f"{shown}: is compressed twice by filter {number}; {REWRITE}")
    size = math.prod(made.get_chunk()) * item
    require_within(
        size - math.prod(dataset.shape) * item,
        LARGEST_EXPANSION,
        f"{shown}: is stored in chunks that are {{}} bytes larger than it",
    )
    if filters:
        for mask, data in stored_chunks(shown, dataset):
            unpacked(shown, data, made, mask, size)


def stored_chunks(shown: str, dataset: h5d.DatasetID) -> Iterator[tuple[int, bytes]]:
    """Each chunk that the file holds: the filters that were skipped for it, one bit a filter, and its bytes.

    Raises:
        FileFormatError: There are more than ``MOST_CHUNKS`` chunks, or a chunk's stated size exceeds the file's.
    """
    places: list[tuple[int, ...]] = []
    largest = 0

    def take(chunk: h5d.StoreInfo) -> bool | None:
        nonlocal largest
        places.append(chunk.chunk_offset)
        largest = max(largest, chunk.size)
        return len(places) > allowed(MOST_CHUNKS) or None

    dataset.chunk_iter(take)
    require_within(len(places), MOST_CHUNKS, f"{shown}: is stored in {{}} chunks or more")
    if largest > (whole := int(h5i.get_file_id(dataset).get_filesize())):
        raise FileFormatError(f"{shown}: damaged: a chunk of {largest} bytes in a file of {whole}; {REWRITE}")
    for place in places:
        mask, data = dataset.read_direct_chunk(place)
        yield mask, bytes(data)


def unpacked(shown: str, data: bytes, made: h5p.PropDCID, mask: int, size: int) -> bytes:
    """Undo the filters of a chunk, except those that were skipped for it.

    Args:
        shown: The data set, as messages call it.
        data: The bytes of the chunk in the file.
        made: The data set's creation properties, which list its filters.
        mask: The filters that were skipped for this chunk, one bit a filter.
        size: The size of a whole unpacked chunk, in bytes.

    Returns:
        The values of the chunk, ``size`` bytes.

    Raises:
        FileFormatError: The chunk is damaged, or unpacks to another size.
    """
    for index in reversed(range(made.get_nfilters())):
        number, _, values, _ = made.get_filter(index)
        if mask >> index & 1:
            continue
        if number == h5z.FILTER_DEFLATE:
            data = _inflated(shown, data, size + CHECKSUM_BYTES)
        elif number == h5z.FILTER_SHUFFLE:
            width = max(int(values[0]), 1) if values else 1
            whole = len(data) - len(data) % width
            data = np.frombuffer(data[:whole], np.uint8).reshape(width, -1).T.tobytes() + data[whole:]
        elif number == h5z.FILTER_FLETCHER32:
            data = data[:-CHECKSUM_BYTES]
        else:
            if len(values) <= LZF_SIZE or int(values[LZF_SIZE]) != size:
                raise FileFormatError(f"{shown}: damaged: LZF is to unpack into another size than {size}; {REWRITE}")
            data = _expanded(shown, data, size + CHECKSUM_BYTES)
    if len(data) != size:
        raise FileFormatError(f"{shown}: damaged: a chunk unpacks to {len(data)} bytes of {size}; {REWRITE}")
    return data


def _inflated(shown: str, data: bytes, size: int) -> bytes:
    """Unpack bytes that gzip's algorithm packed, to ``size`` bytes at most."""
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(data, size)
        more = inflater.unconsumed_tail and inflater.decompress(inflater.unconsumed_tail, 1)
    except zlib.error as error:
        raise FileFormatError(f"{shown}: damaged ({error}); {REWRITE}") from error
    if more:
        raise FileFormatError(f"{shown}: damaged: a chunk unpacks to more than its {size} bytes; {REWRITE}")
    return inflated


def _expanded(shown: str, data: bytes, size: int) -> bytes:
    """Unpack bytes that LZF packed, to ``size`` bytes at most."""
    made, at = bytearray(), 0
    try:
        while at < len(data):
            control = data[at]
            at += 1
            if control < LZF_LITERALS:
                made += data[at : at + control + 1]
                at += control + 1
            else:
                length = control >> 5
                if length == LZF_LONG:
                    length += data[at]
                    at += 1
                back = ((control & 31) << 8) + data[at] + 1
                at += 1
                if back > len(made):
                    raise FileFormatError(f"{shown}: damaged: LZF repeats what is not there; {REWRITE}")
                repeated = made[-back:][: length + 2]
                # a repetition longer than `back` repeats bytes that it has itself written
                made += (repeated * (length + 2))[: length + 2]
            if len(made) > size:
                raise FileFormatError(f"{shown}: damaged: a chunk unpacks to more than its {size} bytes; {REWRITE}")
    except IndexError as error:
        raise FileFormatError(f"{shown}: damaged: LZF ends too early; {REWRITE}") from error
    return bytes(made)
