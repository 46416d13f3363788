"""AEDAT 4, as DV records it: packets of FlatBuffers, compressed by LZ4 or Zstandard or not at all.

The FlatBuffers are read here, and each offset is checked to lie inside the buffer before it is used. The libraries
``lz4`` and ``zstandard`` undo the compression. Layout: docs.inivation.com, "AEDAT 4.0".
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO
from xml.etree import ElementTree

import numpy as np

from resformer.compiler.samples.events.stream import AT_ONCE, COPY_AGAIN, EventFile, Events
from resformer.errors import BackendMissingError, FileFormatError, InputError
from resformer.models.boundary import brief
from resformer.models.limits import (
    EVENT_EXPANSION_SHARE,
    LARGEST_EVENT_PACKET,
    LARGEST_UNPACKED,
    allowed,
    quote,
    require_within,
)

MAGIC = b"#!AER-DAT4.0\r\n"
LARGEST_HEADER = 2**20
"""The most bytes of a file's header, which describes its streams."""
NONE, LZ4, ZSTD = (0,), (1, 2), (3, 4)
"""The numbers of the kinds of compression; the second number of a kind stands for stronger compression."""
LARGEST_WINDOW = 2**27
"""The most bytes that Zstandard may look back, which is Zstandard's own default limit."""
EVENT = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("on", "u1"), ("", "V3")])
EVENTS = "EVTS"
"""The type identifier of a stream of events, and of each of its packets."""


class Aedat4File(EventFile):
    """``.aedat4``."""

    named = "AEDAT 4 file"

    def _read_header(self, file: BinaryIO) -> None:
        if file.read(len(MAGIC)) != MAGIC:
            raise FileFormatError(f"no {self.named}: it does not begin with {MAGIC.decode().strip()}; {COPY_AGAIN}")
        header = _Table(_sized(file, LARGEST_HEADER, "its header has {} bytes"))
        self._compression = header.number(0, "<i", 0)
        if self._compression not in (*NONE, *LZ4, *ZSTD):
            raise FileFormatError(f"its compression is {self._compression}, none that AEDAT 4 knows; {COPY_AGAIN}")
        if self._compression in LZ4 + ZSTD:
            package = "lz4" if self._compression in LZ4 else "zstandard"
            try:
                __import__(f"{package}.frame" if package == "lz4" else package)
            except ImportError:
                raise BackendMissingError(
                    f"{self.path}: is compressed, and reading it needs {package}; pip install 'resformer[events]'"
                ) from None
        self._end = header.number(1, "<q", -1)
        self._begin = file.tell()
        self._stream = self._find_stream(header.text(2))

    def _find_stream(self, description: str) -> int:
        """The number of the first stream of events; also sets ``size`` if the stream states it, and ``notes``."""
        if "<!" in description:
            raise FileFormatError(f"its description declares a document type; {COPY_AGAIN}")
        found = []
        # without a document type, XML can neither name other files nor expand entities
        for node in ElementTree.fromstring(description).iter("node"):  # noqa: S314
            said = {each.get("key"): each.text or "" for each in node.findall("attr")}
            if said.get("typeIdentifier") == EVENTS and (node.get("name") or "").isdecimal():
                found.append(node)
        if not found:
            raise InputError(f"{self.path}: holds no stream of events; record one")
        number = int(found[0].get("name") or 0)
        # only the first stream: going through streams nested in each other would take quadratic time
        said = {each.get("key"): each.text or "" for each in found[0].iter("attr")}
        if len(found) > 1:
            self.notes = (f"{self.path}: of its {len(found)} streams of events, the first is read, {number}",)
        width, height = said.get("sizeX", ""), said.get("sizeY", "")
        if width.isdecimal() and height.isdecimal() and 0 < int(width[:5]) < 2**15 and 0 < int(height[:5]) < 2**15:
            self.size = int(width[:5]), int(height[:5])
        return number

    def _read(self, file: BinaryIO) -> Iterator[Events]:
        length, unpacked = file.seek(0, io.SEEK_END), 0
        end = length if self._end < 0 else self._end
        file.seek(self._begin)
        while file.tell() < end:
            stream, size = struct.unpack("<ii", file.read(8))
            if not 0 <= size <= length - file.tell():
                raise FileFormatError(
                    f"truncated: a packet of {size} bytes, of which there are {length - file.tell()}; {COPY_AGAIN}"
                )
            if stream != self._stream:
                file.seek(size, io.SEEK_CUR)
                continue
            require_within(size, LARGEST_EVENT_PACKET, "a packet has {} bytes")
            records = self._events(file.read(size))
            unpacked += records.nbytes
            require_within(
                unpacked - allowed(EVENT_EXPANSION_SHARE) * length,
                LARGEST_UNPACKED,
                f"its events are {{}} bytes larger than {allowed(EVENT_EXPANSION_SHARE)} times the file",
            )
            for first in range(0, len(records), AT_ONCE):
                some = records[first : first + AT_ONCE]
                yield Events(some["t"].copy(), some["x"].astype(np.int64), some["y"].astype(np.int64), some["on"] > 0)

    def _events(self, packed: bytes) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """A packet's events."""
        content = self._unpacked(packed)
        (size,) = struct.unpack_from("<I", content)
        if size > len(content) - 4 or content[8:12] != EVENTS.encode():
            raise FileFormatError(
                f"a packet of {quote(content[8:12].decode('latin-1'))} among the events; {COPY_AGAIN}"
            )
        return _Table(content[4 : 4 + size]).structs(0, EVENT)

    def _unpacked(self, packed: bytes) -> bytes:
        """Unpack a packet, to ``LARGEST_EVENT_PACKET`` bytes at most."""
        limit = allowed(LARGEST_EVENT_PACKET)
        if self._compression in NONE:
            return packed
        if self._compression in LZ4:
            import lz4.frame

            unpacking = lz4.frame.LZ4FrameDecompressor()
            content = bytes(unpacking.decompress(packed, limit + 1))
            complete = unpacking.eof
        else:
            import zstandard

            unpacker = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
            try:
                with unpacker.stream_reader(io.BytesIO(packed)) as reader:
                    content = reader.read(limit + 1)
            except zstandard.ZstdError as error:
                raise FileFormatError(
                    f"a packet's compressed bytes are damaged ({brief(error)}); {COPY_AGAIN}"
                ) from error
            complete = True
        require_within(len(content), LARGEST_EVENT_PACKET, "a packet has {} bytes or more when unpacked")
        if not complete:
            raise FileFormatError(f"a packet's compressed bytes end too early; {COPY_AGAIN}")
        return content


def _sized(file: BinaryIO, largest: int, what: str) -> bytes:
    """Read the bytes behind a 32-bit number that states how many they are."""
    (size,) = struct.unpack("<I", file.read(4))
    require_within(size, largest, what)
    content = file.read(size)
    if len(content) < size:
        raise FileFormatError(f"truncated: ends within its header; {COPY_AGAIN}")
    return content


class _Table:
    """The root table of a FlatBuffer.

    Args:
        content: The buffer. If it is damaged, ``struct.error`` is raised or wrong values are read.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        (self._at,) = self._unpack("<I", 0)
        (back,) = self._unpack("<i", self._at)
        self._places = self._at - back
        (self._places_size,) = self._unpack("<H", self._places)

    def _unpack(self, form: str, at: int) -> tuple[int, ...]:
        if at < 0:
            raise FileFormatError(f"a table points before its beginning; {COPY_AGAIN}")
        return struct.unpack_from(form, self._content, at)

    def _field(self, index: int) -> int | None:
        """The offset of a field in the buffer; None if the table leaves it out."""
        if 4 + 2 * index + 2 > self._places_size:
            return None
        (place,) = self._unpack("<H", self._places + 4 + 2 * index)
        return self._at + place if place else None

    def number(self, index: int, form: str, default: int) -> int:
        """A field that is a number."""
        at = self._field(index)
        return default if at is None else self._unpack(form, at)[0]

    def _vector(self, index: int, size: int) -> tuple[int, int]:
        """The offset of the elements of a field that is a vector, and their number."""
        at = self._field(index)
        if at is None:
            return 0, 0
        begin = at + self._unpack("<I", at)[0]
        (count,) = self._unpack("<I", begin)
        if begin + 4 + count * size > len(self._content):
            raise FileFormatError(f"a table states {count} elements, more than there are; {COPY_AGAIN}")
        return begin + 4, count

    def text(self, index: int) -> str:
        """A field that is a text."""
        begin, count = self._vector(index, 1)
        return self._content[begin : begin + count].decode()

    def structs(self, index: int, dtype: np.dtype[np.void]) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """A field that is a vector of structures."""
        begin, count = self._vector(index, dtype.itemsize)
        return np.frombuffer(self._content, dtype, count, begin)
