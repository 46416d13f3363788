"""Writers of event files, one for each format."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

AEDAT4_MAGIC = b"#!AER-DAT4.0\r\n"


class Recording(NamedTuple):
    """Events as four arrays, (n,): microseconds, columns, rows, and whether the pixel grew brighter."""

    t: npt.NDArray[np.int64]
    x: npt.NDArray[np.int64]
    y: npt.NDArray[np.int64]
    on: npt.NDArray[np.bool_]


def some_events(
    count: int = 3000, size: tuple[int, int] = (34, 34), duration: int = 90_000, seed: int = 0
) -> Recording:
    """Random events, in the order of their times."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, duration, count))
    return Recording(t, rng.integers(0, size[0], count), rng.integers(0, size[1], count), rng.random(count) < 0.5)


def write_dat(path: Path, events: Recording, header: str = "% Width 34\n% Height 34\n") -> None:
    """Prophesee's DAT format, version 2."""
    place = events.x | events.y << 14 | events.on.astype(np.int64) << 28
    records = np.stack([events.t % 2**32, place], axis=1).astype("<u4")
    path.write_bytes(f"% Data file containing CD events.\n{header}".encode() + b"\x0c\x08" + records.tobytes())


def write_evt2(path: Path, events: Recording, header: str = "% geometry 34x34\n") -> None:
    """EVT 2.0: words of 32 bits, among them the high part of the time wherever it changes."""
    words, high = [], -1
    for t, x, y, on in zip(*events, strict=True):
        if t >> 6 != high:
            high = int(t) >> 6
            words.append(8 << 28 | high & 0xFFFFFFF)
        words.append(int(on) << 28 | (int(t) & 0x3F) << 22 | int(x) << 11 | int(y))
    path.write_bytes(f"% evt 2.0\n{header}% end\n".encode() + np.array(words, "<u4").tobytes())


def write_evt3(path: Path, events: Recording, header: str = "% format EVT3;height=34;width=34\n") -> None:
    """EVT 3.0: words of 16 bits; every other run of events of one row and time is vectors of 12 or 8 columns."""
    if len(events.x) and not 0 <= np.min(events.x) <= np.max(events.x) < 1 << 11:
        raise ValueError("columns of EVT 3 have 11 bits")
    words, high, low, vectors = [], -1, -1, False
    start, count = 0, len(events.t)
    while start < count:
        stop = start + 1
        same = (events.t[start], events.y[start], events.on[start])
        while (
            stop < count
            and (events.t[stop], events.y[stop], events.on[stop]) == same
            and events.x[stop] > events.x[stop - 1]
        ):
            stop += 1
        t, y, on = int(same[0]), int(same[1]), int(same[2])
        if t >> 12 != high:
            high, low = t >> 12, -1
            words.append(8 << 12 | high & 0xFFF)
        if t & 0xFFF != low:
            low = t & 0xFFF
            words.append(6 << 12 | low)
        words.append(y)
        if vectors:
            first = int(events.x[start])
            words.append(3 << 12 | on << 11 | first)
            columns = {int(each) - first for each in events.x[start:stop]}
            at, wide = 0, 12
            while at <= max(columns):
                words.append((4 if wide == 12 else 5) << 12 | sum(1 << i for i in range(wide) if at + i in columns))
                at, wide = at + wide, 20 - wide
        else:
            words += [2 << 12 | on << 11 | int(x) for x in events.x[start:stop]]
        start, vectors = stop, not vectors
    path.write_bytes(f"% evt 3.0\n{header}".encode() + np.array(words, "<u2").tobytes())


MOST_OVERFLOWS = 1 << 20
"""The most records in a file that only say that 8,192 microseconds are over."""


def write_nmnist(path: Path, events: Recording) -> None:
    """N-MNIST's format: five bytes an event, and a record in row 240 every 8,192 microseconds.

    Raises:
        ValueError: The recording is longer than two hours: its file would hold little but records of row 240.
    """
    if len(events.t) and int(np.max(events.t)) >> 13 > MOST_OVERFLOWS:
        raise ValueError(f"{np.max(events.t)} microseconds are too long for a file of N-MNIST's")
    rows, overflows = [], 0
    for t, x, y, on in zip(*events, strict=True):
        while int(t) - 2**13 * overflows >= 2**13:
            rows.append((0, 240, 0, 0, 0))
            overflows += 1
        rest = int(t) - 2**13 * overflows
        rows.append((int(x), int(y), int(on) << 7 | rest >> 16, rest >> 8 & 0xFF, rest & 0xFF))
    path.write_bytes(np.array(rows, "u1").tobytes())


def write_npy(path: Path, events: Recording) -> None:
    """A structured array, as tonic stores events."""
    records = np.zeros(len(events.t), dtype=[("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "?")])
    records["x"], records["y"], records["t"], records["p"] = events.x, events.y, events.t, events.on
    np.save(path, records)


def write_npz(path: Path, events: Recording) -> None:
    """Four arrays, as SpikingJelly stores events."""
    np.savez(path, t=events.t, x=events.x, y=events.y, p=events.on.astype(np.int64))


def write_h5(path: Path, events: Recording) -> None:
    """A group of four arrays; times in seconds, polarities of -1 and 1."""
    with h5py.File(path, "w") as file:
        group = file.create_group("events")
        group.create_dataset("ts", data=events.t / 1e6)
        group.create_dataset("xs", data=events.x.astype(np.uint16), compression="gzip")
        group.create_dataset("ys", data=events.y.astype(np.uint16))
        group.create_dataset("ps", data=np.where(events.on, 1, -1).astype(np.int8))


def write_h5_table(path: Path, events: Recording) -> None:
    """An array (N, 4), as v2e stores events."""
    table = np.stack([events.t, events.x, events.y, events.on], axis=1).astype(np.uint32)
    with h5py.File(path, "w") as file:
        file.create_dataset("events", data=table)


def write_aedat4(
    path: Path, events: Recording, compression: int = 0, packet: int = 700, stated: int | None = None
) -> None:
    """DV's AEDAT 4: a header, then packets of events, each followed by a packet of another stream.

    Args:
        path: The file.
        events: What it holds.
        compression: How the packets are compressed: 0 not, 1 or 2 by LZ4, 3 or 4 by Zstandard.
        packet: The most events of a packet.
        stated: The compression that the header states; None for the true one.
    """
    sensor = '<attr key="sizeX">34</attr><attr key="sizeY">34</attr>'
    described = "".join(
        f'<node name="{index}" path="/"><attr key="typeIdentifier" type="string">{kind}</attr>'
        f'<node name="info" path="/">{sensor}</node></node>'
        for index, kind in enumerate(("FRME", "EVTS"))
    )
    text = f'<dv version="2.0"><node name="outInfo" path="/">{described}</node></dv>'.encode()
    parts = [AEDAT4_MAGIC, aedat4_header(compression if stated is None else stated, text)]
    for first in range(0, len(events.t), packet):
        some = slice(first, first + packet)
        records = np.zeros(
            len(events.t[some]), dtype=[("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("on", "u1"), ("", "V3")]
        )
        records["t"], records["x"], records["y"], records["on"] = (each[some] for each in events)
        content = _compressed(_packet(records.tobytes(), len(records)), compression)
        parts.append(struct.pack("<ii", 1, len(content)) + content)
        parts.append(struct.pack("<ii", 0, 5) + b"frame")
    path.write_bytes(b"".join(parts))


def _compressed(content: bytes, compression: int) -> bytes:
    if compression in (1, 2):
        import lz4.frame

        return bytes(lz4.frame.compress(content))
    if compression in (3, 4):
        import zstandard

        return zstandard.ZstdCompressor().compress(content)
    return content


def aedat4_header(compression: int, text: bytes) -> bytes:
    """The header's FlatBuffer: a table of a 32-bit number, a 64-bit number and a text."""
    fields = struct.pack("<HHHHH", 10, 24, 4, 8, 16)  # sizes, then where each field lies
    table = struct.pack("<iiqi", 0, compression, -1, 4) + b"\0" * 4
    return _buffer(b"IOHE", fields, table, struct.pack("<I", len(text)) + text + b"\0", at=16)


def _packet(records: bytes, count: int) -> bytes:
    """A packet's FlatBuffer: a table of one vector of structures."""
    fields = struct.pack("<HHH", 6, 8, 4)
    return _buffer(b"EVTS", fields, struct.pack("<ii", 0, 4), struct.pack("<I", count) + records, at=4)


def _buffer(name: bytes, fields: bytes, table: bytes, behind: bytes, at: int) -> bytes:
    """A FlatBuffer with its size in front: the root's offset, the name, the fields' offsets, the table and its data.

    Args:
        name: The four bytes that name the kind of content.
        fields: The offsets of the table's fields.
        table: The table; its first four bytes are overwritten by the distance to ``fields``.
        behind: The data that the last field points to.
        at: The offset of the last field in the table.
    """
    begin = 8 + len(fields) + -(8 + len(fields)) % 8
    made = bytearray(table)
    made[:4] = struct.pack("<i", begin - 8)
    made[at : at + 4] = struct.pack("<I", len(table) - at)
    content = (struct.pack("<I", begin) + name + fields).ljust(begin, b"\0") + bytes(made) + behind
    return struct.pack("<I", len(content)) + content


WRITERS: Mapping[str, Callable[[Path, Recording], None]] = {
    "events.dat": write_dat,
    "evt2.raw": write_evt2,
    "evt3.raw": write_evt3,
    "events.bin": write_nmnist,
    "events.npy": write_npy,
    "events.npz": write_npz,
    "events.h5": write_h5,
    "table.hdf5": write_h5_table,
    "events.aedat4": write_aedat4,
}
"""The writer of each format, by a file name of that format."""
