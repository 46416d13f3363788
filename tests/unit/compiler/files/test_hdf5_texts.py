"""The lengths of texts in HDF5 files, without the texts."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

from resformer.compiler.files.hdf5_gate import check_hdf5
from resformer.compiler.files.hdf5_texts import Texts
from resformer.errors import FileFormatError

TEXTS = [["a", "four"], ["é", ""], ["twelve" * 2, "b"]]
LENGTHS = [1, 4, 2, 0, 12, 1]


def lengths(path: Path) -> Any:
    with h5py.File(path) as file, path.open("rb") as opened:
        return Texts(file, opened, path.stat().st_size).lengths("x", file["x"].id)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (3, 2)},
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("in_front", [0, 1024])
def test_they_are_those_of_the_texts(tmp_path: Path, options: dict[str, Any], in_front: int) -> None:
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=in_front) as file:
        file.create_dataset("x", data=np.array(TEXTS, h5py.string_dtype()), **options)
    assert lengths(tmp_path / "x.h5").tolist() == LENGTHS


def test_they_are_found_in_each_chunk(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=np.array(TEXTS, h5py.string_dtype()), chunks=(2, 1), compression="gzip")
    assert sorted(lengths(tmp_path / "x.h5").tolist()) == sorted([*LENGTHS, 0, 0])


def test_one_text_and_those_that_were_never_written_have_theirs(tmp_path: Path) -> None:
    for data, found in (({"data": "four"}, [4]), ({"shape": (3,), "dtype": h5py.string_dtype()}, [])):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file.create_dataset("x", **data)
        assert lengths(tmp_path / "x.h5").tolist() == found


def test_a_length_in_a_compressed_chunk_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        made = file.create_dataset("x", data=np.array(["a", "b"], h5py.string_dtype()), compression="gzip")
        data = bytearray(zlib.decompress(made.id.read_direct_chunk((0,))[1]))
        data[16:20] = b"\xff" * 4
        made.id.write_direct_chunk((0,), zlib.compress(bytes(data)))
    with h5py.File(path) as file, pytest.raises(FileFormatError, match="/x: damaged: states a text of 4294967295"):
        check_hdf5(file, path.stat().st_size)


def test_what_stands_for_missing_texts_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (3,), h5py.string_dtype(), fillvalue="a")
    with pytest.raises(FileFormatError, match="states a text for those that are missing"):
        lengths(tmp_path / "x.h5")


def test_texts_among_the_records_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        made = h5p.create(h5p.DATASET_CREATE)
        made.set_layout(h5d.COMPACT)
        kind = h5t.py_create(h5py.string_dtype(), logical=True)
        h5d.create(file.id, b"x", kind, h5s.create_simple((2,)), made)
        file["x"][...] = ["a", "b"]
    with pytest.raises(FileFormatError, match="its texts lie among the file's own records"):
        lengths(tmp_path / "x.h5")


def test_many_texts_are_together_within_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resformer.compiler.files.hdf5_gate.LARGEST_TEXTS", 1000)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for each in "ab":
            file.create_dataset(each, data="x" * 600)
    with h5py.File(path) as file, pytest.raises(FileFormatError, match=r"/b: with it, texts have 1200 bytes"):
        check_hdf5(file, path.stat().st_size)


def damaged_heap(path: Path, at: int, data: bytes) -> None:
    """A file of two texts; bytes of its heap, from ``at`` on, are others."""
    with h5py.File(path, "w") as file:
        file["x"] = np.array(["a", "four"], h5py.string_dtype())
    content = bytearray(path.read_bytes())
    at += content.index(b"GCOL")
    content[at : at + len(data)] = data
    path.write_bytes(content)


def test_a_heap_as_it_is_written_is_walked_through(tmp_path: Path) -> None:
    """16 bytes of header; then each text behind 16 of its own, the last first."""
    damaged_heap(tmp_path / "x.h5", 16 + 16, b"p")
    with h5py.File(tmp_path / "x.h5") as file:
        check_hdf5(file, (tmp_path / "x.h5").stat().st_size)
        assert file["x"].asstr()[:].tolist() == ["a", "pour"]


@pytest.mark.parametrize(
    ("at", "data", "told"),
    [
        (0, b"XX", "its texts are not where it says"),
        (4, b"\x02", "its texts are not where it says"),
        (8, (8).to_bytes(8, "little"), "its texts lie in 8 bytes of a smaller file"),
        (8, (2**40).to_bytes(8, "little"), "its texts lie in 1099511627776 bytes of a smaller file"),
        (8, (6000).to_bytes(8, "little"), "its texts end with the file"),
        (16, bytes(16), "a text of 0 bytes leads nowhere"),  # HDF5 stays there for ever
        (24, (2**63).to_bytes(8, "little"), "a text of 9223372036854775808 bytes leads nowhere"),
        (24, (2**64 - 1).to_bytes(8, "little"), "a text of 18446744073709551615 bytes leads nowhere"),
        (24, (5000).to_bytes(8, "little"), "a text of 5000 bytes leads nowhere"),
    ],
)
def test_a_heap_that_cannot_be_walked_through_is_refused(tmp_path: Path, at: int, data: bytes, told: str) -> None:
    path = tmp_path / "x.h5"
    damaged_heap(path, at, data)
    with h5py.File(path) as file, pytest.raises(FileFormatError, match=f"/x: damaged: {told}"):
        check_hdf5(file, path.stat().st_size)
