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
from resformer.compiler.files.hdf5_texts import reference_size, text_lengths
from resformer.errors import FileFormatError

TEXTS = [["a", "four"], ["é", ""], ["twelve" * 2, "b"]]
LENGTHS = [1, 4, 2, 0, 12, 1]


def lengths(path: Path) -> Any:
    with h5py.File(path) as file, path.open("rb") as opened:
        return text_lengths("x", file["x"].id, opened, reference_size(file))


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
