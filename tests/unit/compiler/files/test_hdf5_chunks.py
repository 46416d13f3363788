"""What the chunks of HDF5 data sets unpack to, before HDF5 unpacks them."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5g, h5p, h5s, h5t, h5z

from resformer.compiler.files.hdf5_gate import check_hdf5
from resformer.errors import FileFormatError
from resformer.models.limits import raised

VALUES = np.arange(1000, dtype=np.float32)


def write(path: Path, chunk: bytes | None = None, **options: Any) -> None:
    """A file of a data set, one chunk of which is replaced."""
    with h5py.File(path, "w") as file:
        made = file.create_dataset("x", data=VALUES, **options)
        if chunk is not None:
            made.id.write_direct_chunk((0,), chunk)


def check(path: Path) -> None:
    with h5py.File(path) as file:
        check_hdf5(file, path.stat().st_size)


@pytest.mark.parametrize("chunks", [(1000,), (300,), (1,)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf"},
        {"compression": "lzf", "shuffle": True, "fletcher32": True},
        {"fletcher32": True},
    ],
    ids=str,
)
def test_what_writers_write_passes(tmp_path: Path, options: dict[str, Any], chunks: tuple[int, ...]) -> None:
    write(tmp_path / "x.h5", chunks=chunks, **options)
    check(tmp_path / "x.h5")


@pytest.mark.parametrize("size", [4001, 2**24])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_chunk_that_unpacks_to_more_is_refused(tmp_path: Path, size: int, shuffle: bool) -> None:
    """The limit is 4 bytes above the chunk's size, which leaves room for a checksum."""
    write(tmp_path / "x.h5", zlib.compress(bytes(size + 4)), chunks=(1000,), compression="gzip", shuffle=shuffle)
    with pytest.raises(FileFormatError, match="/x: damaged: a chunk unpacks to more than its 4004 bytes"):
        check(tmp_path / "x.h5")


def test_a_chunk_that_is_no_gzip_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "x.h5", b"no gzip", chunks=(1000,), compression="gzip")
    with pytest.raises(FileFormatError, match="/x: damaged"):
        check(tmp_path / "x.h5")


@pytest.mark.parametrize("size", [3996, 3999, 4001, 2**18])
def test_a_chunk_of_lzf_that_unpacks_to_another_size_is_refused(tmp_path: Path, size: int) -> None:
    write(tmp_path / "x.h5", lzf_zeros(4000), chunks=(1000,), compression="lzf")
    check(tmp_path / "x.h5")
    write(tmp_path / "x.h5", lzf_zeros(size), chunks=(1000,), compression="lzf")
    with pytest.raises(FileFormatError, match="/x: damaged: a chunk unpacks to"):
        check(tmp_path / "x.h5")


def lzf_zeros(size: int) -> bytes:
    """Zeros as LZF packs them: a first zero as it is, then repetitions of it."""
    packed = bytearray([0, 0])
    for done in range(1, size, 264):
        length = min(264, size - done)
        if length < 3:
            packed += bytes([length - 1]) + bytes(length)
        elif length < 9:
            packed += bytes([length - 2 << 5, 0])
        else:
            packed += bytes([7 << 5, length - 9, 0])
    return bytes(packed)


@pytest.mark.parametrize("end", [b"\xe0", b"\xe0\xff", b"\x20", b"\x3f\xff"], ids=bytes.hex)
def test_a_chunk_that_is_no_lzf_is_refused(tmp_path: Path, end: bytes) -> None:
    write(tmp_path / "x.h5", lzf_zeros(1000) + end, chunks=(1000,), compression="lzf")
    with pytest.raises(FileFormatError, match="/x: damaged: LZF"):
        check(tmp_path / "x.h5")


def test_lzf_that_is_to_unpack_into_another_size_is_refused(tmp_path: Path) -> None:
    """The filter takes as much memory as it is told, and HDF5 reads a whole chunk from that memory."""
    path = tmp_path / "x.h5"
    write(path, chunks=(1000,), compression="lzf")
    content = path.read_bytes()
    told = (4000).to_bytes(4, "little") + bytes(4)  # the last value of the filter, and its padding
    assert content.count(told) == 1
    path.write_bytes(content.replace(told, (16).to_bytes(4, "little") + bytes(4)))
    with pytest.raises(FileFormatError, match="/x: damaged: LZF is to unpack into another size than 4000"):
        check(path)


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"shuffle": True}, {"fletcher32": True}], ids=str)
@pytest.mark.parametrize("size", [1, 3, 3999])
def test_a_chunk_that_unpacks_to_less_is_refused(tmp_path: Path, options: dict[str, Any], size: int) -> None:
    """HDF5 would read on behind the data: whatever memory holds there, or until the process dies."""
    chunk = zlib.compress(bytes(size)) if "compression" in options else bytes(size)
    write(tmp_path / "x.h5", chunk, chunks=(1000,), **options)
    with pytest.raises(FileFormatError, match="/x: damaged: a chunk unpacks to"):
        check(tmp_path / "x.h5")


def test_a_short_chunk_without_its_filter_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        made = file.create_dataset("x", data=VALUES, chunks=(1000,), compression="gzip")
        made.id.write_direct_chunk((0,), bytes(16), 1)
    with pytest.raises(FileFormatError, match="/x: damaged: a chunk unpacks to 16 bytes of 4000"):
        check(tmp_path / "x.h5")


def raw(path: Path, filters: list[int], chunk: int, count: int = 10) -> None:
    """A file of a data set that h5py's usual functions cannot make."""
    with h5py.File(path, "w") as file:
        made = h5p.create(h5p.DATASET_CREATE)
        made.set_chunk((chunk,))
        for _ in filters:
            made.set_deflate(1)
        space = h5s.create_simple((count,), (h5s.UNLIMITED,))
        h5d.create(file.id, b"x", h5t.NATIVE_FLOAT, space, made)
        if chunk < 2**20:
            file["x"][:] = 1


def test_a_filter_twice_is_refused(tmp_path: Path) -> None:
    raw(tmp_path / "x.h5", [h5z.FILTER_DEFLATE] * 2, 10)
    with pytest.raises(FileFormatError, match="/x: is compressed twice by filter 1"):
        check(tmp_path / "x.h5")


def test_a_chunk_far_larger_than_its_data_set_is_refused(tmp_path: Path) -> None:
    raw(tmp_path / "x.h5", [], 2**27)
    with pytest.raises(FileFormatError, match="/x: is stored in chunks that are 536870872 bytes larger than it"):
        check(tmp_path / "x.h5")


def test_too_many_chunks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.h5", chunks=(1,), compression="gzip")
    monkeypatch.setattr("resformer.compiler.files.hdf5_chunks.MOST_CHUNKS", 999)
    with pytest.raises(FileFormatError, match="/x: is stored in 1000 chunks or more"):
        check(tmp_path / "x.h5")


def test_a_chunk_that_says_it_is_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    """HDF5 makes room for the chunk before it reads: 2 GiB here."""
    path = tmp_path / "x.h5"
    write(path, chunks=(1000,), compression="gzip")
    with h5py.File(path) as file:
        stored = file["x"].id.get_chunk_info(0).size
    content = path.read_bytes()
    entry = stored.to_bytes(4, "little") + bytes(4 + 8)  # in the index: size, filters left out, offset
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry, (2**31 - 1).to_bytes(4, "little") + bytes(4 + 8)))
    with pytest.raises(FileFormatError, match="/x: damaged: a chunk of 2147483647 bytes in a file of"):
        check(path)


def test_long_names_inside_long_names_are_refused(tmp_path: Path) -> None:
    """Each object keeps its whole name: the names of 32 nested groups, of 1000 characters each, took gigabytes."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_group("/".join(["a" * 1000] * 6))
    with pytest.raises(FileFormatError, match=r"names of 5005 characters together, the limit is 4096.*--limits 2$"):
        check(tmp_path / "x.h5")
    with raised(2):
        check(tmp_path / "x.h5")


@pytest.mark.parametrize("inside", [False, True])
def test_a_compressed_list_of_links_is_refused(tmp_path: Path, inside: bool) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        made = h5p.create(h5p.GROUP_CREATE)
        filters = h5p.PropDCID(made.id)
        filters.locked = True
        filters.set_deflate(1)
        h5g.create(file.create_group("a").id if inside else file.id, b"x", gcpl=made)
    with pytest.raises(FileFormatError, match="x: its list of what it holds is compressed"):
        check(tmp_path / "x.h5")
