"""Prophesee's files: ``.dat``, and ``.raw`` of EVT 2 and EVT 3.

Each file begins with a header of lines of text that start with a percent sign. Layouts: docs.prophesee.ai, "File
formats" and "Data encoding".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from resformer.compiler.samples.events.stream import (
    AT_ONCE,
    COPY_AGAIN,
    EventFile,
    Events,
    Int64Array,
    Unwrapped,
    fixed_size,
    held,
)
from resformer.errors import FileFormatError, UnsupportedError
from resformer.models.limits import quote

LONGEST_LINE, MOST_LINES = 2**12, 2**10
"""The most bytes of a line of a header, and the most lines of a header."""
LARGEST_SIDE = 2**14
"""The largest width and height in pixels: all that the format with the longest addresses can address."""
SIZE = re.compile(r"geometry\s+(\d{1,5})x(\d{1,5})", re.IGNORECASE)
WIDTH, HEIGHT = (re.compile(rf"\b{name}(?:\s*=\s*|\s+)(\d{{1,5}})", re.IGNORECASE) for name in ("width", "height"))
VERSION = re.compile(r"\bevt\s*(\d(?:[._]\d)?)", re.IGNORECASE)

DAT_EVENT = np.dtype([("t", "<u4"), ("place", "<u4")])
WORDS_AT_ONCE = AT_ONCE // 4
"""The number of words of EVT 3 that are read together: one word can hold twelve events."""
UNKNOWN_COLUMN = -(2**32)
"""A first column so far to the left that the vectors that are read together cannot move it to a valid column."""


def read_lines(file: BinaryIO) -> tuple[str, ...]:
    """Read the lines of a header, without their percent signs; the file's position is then behind them.

    Raises:
        FileFormatError: The header has no end within the limits.
    """
    lines: list[str] = []
    while True:
        begin = file.tell()
        if file.read(1) != b"%":
            file.seek(begin)
            return tuple(lines)
        line = file.readline(LONGEST_LINE)
        if not line.endswith(b"\n") or len(lines) >= MOST_LINES:
            raise FileFormatError(f"its header has no end within {MOST_LINES} lines of {LONGEST_LINE} bytes")
        lines.append(line.decode("latin-1").strip())
        if lines[-1].lower() == "end":
            return tuple(lines)


def stated_size(lines: tuple[str, ...]) -> tuple[int, int] | None:
    """(width, height) of the sensor if a header states both; otherwise None."""
    text = "\n".join(lines)
    if found := SIZE.search(text):
        size = int(found[1]), int(found[2])
    else:
        width, height = WIDTH.search(text), HEIGHT.search(text)
        if width is None or height is None:
            return None
        size = int(width[1]), int(height[1])
    if not all(0 < each <= LARGEST_SIDE for each in size):
        raise FileFormatError(f"its header states a sensor of {size[0]} x {size[1]} pixels; {COPY_AGAIN}")
    return size


class DatFile(EventFile):
    """``.dat``: eight bytes an event."""

    named = "Prophesee .dat file"

    def _read_header(self, file: BinaryIO) -> None:
        lines = read_lines(file)
        self.size = stated_size(lines)
        kind = file.read(2)
        if not lines or len(kind) < 2:
            raise FileFormatError(f"no {self.named}: it begins with no header; {COPY_AGAIN}")
        if kind[1] != DAT_EVENT.itemsize:
            raise FileFormatError(
                f"its events have {kind[1]} bytes, where those of a change of brightness have {DAT_EVENT.itemsize}; "
                "name a file of such events"
            )
        self._begin = file.tell()

    def _read(self, file: BinaryIO) -> Iterator[Events]:
        file.seek(self._begin)
        time = Unwrapped(2**32)
        for records in fixed_size(file, DAT_EVENT):
            place = records["place"].astype(np.int64)
            on = (place >> 28 & 0xF) > 0
            yield Events(time(records["t"].astype(np.int64)), place & 0x3FFF, place >> 14 & 0x3FFF, on)


class RawFile(EventFile):
    """``.raw`` of EVT 2 or EVT 3."""

    named = "Prophesee .raw file"

    def _read_header(self, file: BinaryIO) -> None:
        lines = read_lines(file)
        self._begin = file.tell()
        self.size = stated_size(lines)
        found = VERSION.search("\n".join(lines))
        if found is None:
            raise FileFormatError(f"no {self.named}: its header names no version of EVT; {COPY_AGAIN}")
        version = found[1].replace("_", ".").removesuffix(".0")
        if version not in DECODERS:
            raise UnsupportedError(
                f"{self.path}: is of EVT {quote(found[1])}, the compiler reads EVT {' and '.join(DECODERS)}; convert "
                "it with Prophesee's metavision_file_to_dat"
            )
        self._decode = DECODERS[version]

    def _read(self, file: BinaryIO) -> Iterator[Events]:
        file.seek(self._begin)
        yield from self._decode(file)


def _evt2(file: BinaryIO) -> Iterator[Events]:
    """Words of 32 bits: an event with the low 6 bits of its time, or the high 28 bits for the events that follow."""
    time, high = Unwrapped(2**28), -1
    for words in fixed_size(file, "<u4"):
        kind = words >> 28
        is_high = kind == 8
        given = np.zeros(len(words), dtype=np.int64)
        given[is_high] = time((words[is_high] & 0xFFFFFFF).astype(np.int64))
        highs = held(given, is_high, high)
        high = int(highs[-1])
        # events before the first high bits have no time
        is_event = (kind <= 1) & (highs >= 0)
        events = words[is_event].astype(np.int64)
        yield Events(
            highs[is_event] << 6 | events >> 22 & 0x3F, events >> 11 & 0x7FF, events & 0x7FF, kind[is_event] == 1
        )


def _evt3(file: BinaryIO) -> Iterator[Events]:
    """Words of 16 bits: each sets a row, a first column or a part of the time, or holds events at columns."""
    high = Unwrapped(2**12)
    base = low = row = -1
    column, rising = UNKNOWN_COLUMN, 0
    for words in fixed_size(file, "<u2", WORDS_AT_ONCE):
        kind, content = words >> 12, (words & 0xFFF).astype(np.int64)
        is_high, is_low, is_row, is_base = (kind == number for number in (8, 6, 0, 3))
        given = np.zeros(len(words), dtype=np.int64)
        given[is_high] = high(content[is_high])
        bases = held(given, is_high, base)
        # after a high part, the low part is zero until a new one comes
        lows = held(np.where(is_high, 0, content), is_high | is_low, low)
        rows = held(content & 0x7FF, is_row, row)
        ons = held(content >> 11, is_base, rising)
        # each vector of 12 or 8 columns moves the first column of the next vector by as many
        wide = np.where(kind == 4, 12, np.where(kind == 5, 8, 0))
        ahead = np.cumsum(wide) - wide
        columns = held((content & 0x7FF) - ahead, is_base, column) + ahead
        known = (bases >= 0) & (rows >= 0)
        base, low, row, rising = int(bases[-1]), int(lows[-1]), int(rows[-1]), int(ons[-1])
        column = int(columns[-1] + wide[-1]) if columns[-1] >= 0 else UNKNOWN_COLUMN

        single = np.flatnonzero((kind == 2) & known)
        vectors = np.flatnonzero((wide > 0) & known & (columns >= 0))
        bits = content[vectors, None] >> np.arange(12) & (np.arange(12) < wide[vectors, None])
        which, shift = np.nonzero(bits & 1)
        word = np.concatenate([single, vectors[which]])
        x = np.concatenate([content[single] & 0x7FF, columns[vectors[which]] + shift])
        on = np.concatenate([content[single] >> 11, ons[vectors[which]]]) > 0
        order = np.argsort(word, kind="stable")
        word = word[order]
        time: Int64Array = (bases[word] << 12) + np.maximum(lows[word], 0)
        yield Events(time, x[order], rows[word], on[order])


Decoder = Callable[[BinaryIO], Iterator[Events]]
DECODERS: dict[str, Decoder] = {"2": _evt2, "3": _evt3}
"""The decoders, by version of EVT."""
