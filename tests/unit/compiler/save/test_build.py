"""Build folders: whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resformer.compiler.chips.chip import DEFAULT, load_chip
from resformer.compiler.files.build import Build, check_replaceable, read_build
from resformer.compiler.files.digest import sha256
from resformer.compiler.pipeline import Compilation, CompileOptions, compile_checkpoint
from resformer.compiler.placement.place import place
from resformer.compiler.save import build
from resformer.compiler.save.build import write_build
from resformer.errors import FileFormatError
from resformer.models.checkpoint import save_checkpoint
from resformer.models.spikingresformer import SpikingResformer
from support.compare import first_difference


@pytest.fixture(scope="module")
def compilation(make_model: Callable[..., SpikingResformer], tmp_path_factory: pytest.TempPathFactory) -> Compilation:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_checkpoint(make_model(), path)
    return compile_checkpoint(path, OPTIONS)


OPTIONS = CompileOptions(image_size=16)


def write(compilation: Compilation, directory: Path, *targets: str) -> Build:
    files = write_build(compilation, directory, targets or ("lava",), OPTIONS)
    assert sorted(files) == sorted(directory.iterdir())
    return read_build(directory)


def test_what_is_read_is_what_was_written(compilation: Compilation, tmp_path: Path) -> None:
    found = write(compilation, tmp_path / "b")
    assert first_difference(found.program(), compilation.program) is None
    assert first_difference(found.network(), compilation.folded) is None
    assert found.report["source"] == {"file": "model.pt", "sha256": sha256(compilation.source.path)}


def test_equal_compilations_make_equal_builds(compilation: Compilation, tmp_path: Path) -> None:
    first, second = (write(compilation, tmp_path / name).directory for name in "ab")
    for path in first.iterdir():
        if path.name != "program.safetensors":  # safetensors orders its metadata anew each time
            assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_a_build_without_a_program_says_how_to_get_one(compilation: Compilation, tmp_path: Path) -> None:
    found = write(compilation, tmp_path / "b", "nir")
    with pytest.raises(FileFormatError, match=r"compiled for nir.*--target lava"):
        found.program()


def test_files_are_as_private_as_the_user_wants(compilation: Compilation, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        directory = write(compilation, tmp_path / "b").directory
    finally:
        os.umask(before)
    assert directory.stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o640}


@pytest.mark.parametrize("name", ["network.nir", "program.safetensors", "quantized.pt", "report.json"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("a bug")])
def test_a_failure_at_any_file_leaves_nothing_or_the_older_build(
    compilation: Compilation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException
) -> None:
    older = write(compilation, tmp_path / "older").directory
    content = {path.name: path.read_bytes() for path in older.iterdir()}
    original = build.write_synced

    def fail(writer: Callable[[Path], None], path: Path, shown: Path) -> None:
        original(writer, path, shown)
        if path.name == name:
            raise error

    monkeypatch.setattr(build, "write_synced", fail)
    for directory in (older, tmp_path / "new"):
        with pytest.raises(type(error)):
            write_build(compilation, directory, ("lava",), OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["older"]
    assert {path.name: path.read_bytes() for path in older.iterdir()} == content


def test_a_rename_that_fails_brings_the_older_build_back(
    compilation: Compilation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = write(compilation, tmp_path / "b", "nir").directory
    original = Path.rename

    def fail(path: Path, target: Any) -> Path:
        if path.name.endswith(".new"):
            raise OSError(5, "Input/output error")
        return original(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_build(compilation, older, ("lava",), OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert read_build(older).report["targets"] == ["nir"]


def test_a_build_behind_a_link_is_replaced_and_the_link_stays(compilation: Compilation, tmp_path: Path) -> None:
    write(compilation, tmp_path / "b", "nir")
    (tmp_path / "link").symlink_to("b")
    write_build(compilation, tmp_path / "link", ("lava",), OPTIONS)
    assert (tmp_path / "link").is_symlink()
    assert read_build(tmp_path / "b").report["targets"] == ["lava"]


def places(report: Any) -> list[tuple[Any, ...]]:
    """The places of the keys that every report has."""
    found: list[tuple[Any, ...]] = [(key,) for key in report]
    found += [(name, key) for name in ("source", "options", "input", "totals", "placement") for key in report[name]]
    found += [("architecture", key) for key in ("neuron", "planes", "num_heads", "stem")]
    for index, node in enumerate(report["nodes"]):
        found += [("nodes", index, key) for key in node if all(key in each for each in report["nodes"])]
        found += [("nodes", index, "signal", key) for key in node["signal"]]
        if node["op"] in ("Conv2d", "Dense"):
            found += [("nodes", index, key) for key in ("weight_bits", "weight_exp", "synapses", "sqnr_db")]
    return found


def in_words(where: tuple[Any, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in where)[1:]


@pytest.mark.parametrize("damage", ["absent", "text"])
def test_a_report_that_lacks_a_key_is_refused_and_replaced(
    compilation: Compilation, tmp_path: Path, damage: str
) -> None:
    placed = replace(compilation, placement=place(compilation.program, load_chip(DEFAULT)))
    directory = write(placed, tmp_path / "b").directory
    path = directory / "report.json"
    whole = path.read_text()
    objects = ("source", "options", "architecture", "input", "totals", "placement", "nodes", "signal")
    for where in places(json.loads(whole)):
        report = owner = json.loads(whole)
        for key in where[:-1]:
            owner = owner[key]
        if damage == "absent":
            del owner[where[-1]]
        elif where[-1] in objects:
            owner[where[-1]] = "text"
        else:
            continue
        path.write_text(json.dumps(report))
        with pytest.raises(FileFormatError) as error:
            read_build(directory)
        if where[-1] in ("format", "format_version"):
            continue
        assert f"{path}: damaged ('{in_words(where)}" in str(error.value)
        check_replaceable(directory)


def test_only_builds_and_empty_folders_are_replaced(compilation: Compilation, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_replaceable(tmp_path / "empty")
    check_replaceable(tmp_path / "absent")
    check_replaceable(write(compilation, tmp_path / "b").directory)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.json").write_text('{"format": "someone-elses"}')
    for path in (tmp_path / "other", tmp_path / "other" / "report.json"):
        with pytest.raises(FileFormatError):
            check_replaceable(path)
        with pytest.raises(FileFormatError):
            write_build(compilation, path, ("nir",), OPTIONS)
    assert (tmp_path / "other" / "report.json").read_text() == '{"format": "someone-elses"}'
