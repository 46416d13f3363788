"""Builds replace only files that we wrote: no compile, report or kill loses a file of anybody else's."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resformer.compiler import atomic
from resformer.compiler.atomic import OWNED, OWNER, exchange, write_atomically, write_text
from resformer.compiler.files.build import FILES, check_replaceable, read_build
from resformer.compiler.files.digest import sha256
from resformer.compiler.files.report import Report
from resformer.compiler.pipeline import Compilation, CompileOptions, compile_checkpoint
from resformer.compiler.save.build import write_build
from resformer.errors import FileFormatError, InputError
from resformer.runtime.cli.compile import main as compile_main
from resformer.runtime.cli.report import main as report_main
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.origin import InMemory
from support.builds import Tiny

Capture = pytest.CaptureFixture[str]
OPTIONS = CompileOptions(image_size=16)


@pytest.fixture(scope="module")
def compilation(tiny: Tiny) -> Compilation:
    return compile_checkpoint(tiny.model, OPTIONS)


class Killed(BaseException):
    """Stands for SIGKILL: raised at a change of a file and at every later one, so that nothing more changes."""


CHANGES = frozenset({"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"})
_left: list[int] = []
"""How many more changes of files the process makes before it counts as killed; empty: it is not killed."""


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _left and (event in CHANGES or (event == "open" and f"/{OWNER}" in str(arguments[0]))):
        if _left[0] <= 0:
            raise Killed
        _left[0] -= 1


sys.addaudithook(_hook)


@contextmanager
def killed_after(changes: int | None) -> Iterator[None]:
    """Let no file change after some changes, as if this process had been killed; None: let all changes happen."""
    if changes is not None:
        _left.append(changes)
    try:
        yield
    except Killed:
        pass
    finally:
        _left.clear()


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".new")]


def test_a_recompile_keeps_what_is_not_a_builds(compilation: Compilation, tmp_path: Path) -> None:
    build = tmp_path / "b"
    write_build(compilation, build, ["onnx"], OPTIONS)
    (build / "data" / "deep").mkdir(parents=True)
    (build / "data" / "deep" / "x.npy").write_bytes(b"x")
    (build / "notes.txt").write_text("mine")
    (build / ".hidden").write_text("mine too")
    (build / "link").symlink_to("nowhere")
    os.mkfifo(build / "pipe")
    os.link(build / "notes.txt", tmp_path / "second name")
    build.chmod(0o700)
    write_build(compilation, build, ["nir"], OPTIONS)
    assert {path.name for path in build.iterdir()} == {
        *("network.nir", "quantized.nir", "report.json"),
        *("data", "notes.txt", ".hidden", "link", "pipe"),
    }
    assert (build / "data" / "deep" / "x.npy").read_bytes() == b"x"
    assert (build / "notes.txt").samefile(tmp_path / "second name")
    assert (build / "link").is_symlink()
    assert build.stat().st_mode & 0o777 == 0o700
    assert read_build(build).report["targets"] == ["nir"]
    assert {path.name for path in tmp_path.iterdir()} == {"b", "second name"}


def changed(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "mine").touch()


@pytest.mark.parametrize("change", [changed, linked, a_folder])
def test_a_file_of_a_builds_name_that_was_changed_is_the_users(
    compilation: Compilation, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    build = tmp_path / "b"
    write_build(compilation, build, ["lava"], OPTIONS)
    change(build / "quantized.pt")
    before = sorted(tmp_path.rglob("*"))
    for call in (check_replaceable, lambda path: write_build(compilation, path, ["lava"], OPTIONS)):
        with pytest.raises(FileFormatError, match=r"quantized\.pt: is not as resformer wrote it, so it is left alone"):
            call(build)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_builds_file_that_it_did_not_have_is_the_users(compilation: Compilation, tmp_path: Path) -> None:
    write_build(compilation, tmp_path / "b", ["nir"], OPTIONS)
    (tmp_path / "b" / "quantized.pt").write_bytes(b"fine-tuned")
    with pytest.raises(FileFormatError, match=r"quantized\.pt: is not as resformer wrote it"):
        write_build(compilation, tmp_path / "b", ["lava"], OPTIONS)
    assert (tmp_path / "b" / "quantized.pt").read_bytes() == b"fine-tuned"


USERS = ("notes.txt", "report.html", "data/x", "quantized.pt", "network.onnx")
ACTIONS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(USERS), st.integers(0, 3)),
    st.tuples(st.just("remove"), st.sampled_from(USERS), st.just(0)),
    st.tuples(st.just("compile"), st.sampled_from(("nir", "lava")), st.none() | st.integers(0, 20)),
    st.tuples(st.just("report"), st.just("page.html"), st.none() | st.integers(0, 6)),
)


@settings(max_examples=8)
@given(st.lists(ACTIONS, max_size=8))
def test_no_sequence_loses_a_file(
    compilation: Compilation, tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, str, int | None]]
) -> None:
    folder = tmp_path_factory.mktemp("sequence")
    build = folder / "b"
    mine: dict[Path, bytes] = {}

    def check(*, at_its_place: bool) -> None:
        found = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
        for path, content in mine.items():
            assert content in found, path
            if at_its_place:
                assert path.read_bytes() == content
        if at_its_place and (build / "report.json").exists():
            for name, digest in read_build(build).report["files"].items():
                assert build / name in mine or sha256(build / name) == digest
            assert not {build / name for name in FILES} & {*build.iterdir()} - {*mine, *read_build(build).files}

    for what, name, number in [("compile", "nir", None), *actions]:
        if what == "put":
            (build / name).parent.mkdir(parents=True, exist_ok=True)
            mine[build / name] = f"{name} {number} of mine".encode()
            (build / name).write_bytes(mine[build / name])
        elif what == "remove" and build / name in mine:
            (build / name).unlink(missing_ok=True)
            del mine[build / name]
        elif what == "compile":
            # it refuses where a file of the user's has a name of a build's file
            with suppress(FileFormatError), killed_after(number):
                write_build(compilation, build, [name], OPTIONS)
        elif what == "report":
            with killed_after(number):
                write_text(build / name, "a page of ours")
        check(at_its_place=number is None)
        if number is not None and what == "compile":
            # the next command tidies up what the killed one left, whether it writes or refuses
            with suppress(FileFormatError):
                check_replaceable(build)
            check(at_its_place=True)
            assert not hidden(folder)


def assert_whole(build: Path) -> Report:
    report = read_build(build).report
    assert all(sha256(build / name) == digest for name, digest in report["files"].items())
    return report


def test_two_folders_change_places(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / name).touch()
    (tmp_path / "a" / "sub" / "deep").touch()
    before = {path: sorted(each.name for each in path.rglob("*")) for path in tmp_path.iterdir()}
    exchanged = exchange(tmp_path / "a", tmp_path / "b")
    names = ("b", "a") if exchanged else ("a", "b")
    for name, now in zip(("a", "b"), names, strict=True):
        assert sorted(each.name for each in (tmp_path / now).rglob("*")) == before[tmp_path / name]
    if sys.platform == "linux":
        assert exchanged or not hasattr(ctypes.CDLL(None), "renameat2")
    assert not exchange(tmp_path / "a", tmp_path / "absent")
    assert (tmp_path / "a").is_dir()


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_build_that_is_killed_at_any_change_is_the_older_or_the_newer_one(
    compilation: Compilation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    """Where folders can change places in one step, this holds even before the next command tidies up."""
    build = tmp_path / "b"
    if not can_exchange:
        monkeypatch.setattr("resformer.compiler.files.build.exchange", lambda _path, _other: False)
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    at_once = can_exchange and exchange(tmp_path / "x", tmp_path / "y")
    write_build(compilation, build, ["nir"], OPTIONS)
    (build / "notes.txt").write_text("mine")
    deaths = 0
    for changes in range(100):
        with killed_after(changes):
            write_build(compilation, build, ["lava"], OPTIONS)
            break
        deaths += 1
        if at_once:
            assert_whole(build)
        check_replaceable(build)
        report = assert_whole(build)
        assert {path.name for path in build.iterdir()} == {*report["files"], "report.json", "notes.txt"}
        assert not hidden(tmp_path)
    assert deaths > 8


def test_a_network_in_memory_leaves_nothing_for_long(
    compilation: Compilation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    origin = InMemory(compilation, OPTIONS, ("sim",))
    with killed_after(6), origin.build():
        raise AssertionError("it is killed as it is written")
    (left,) = hidden(tmp_path)
    with origin.build() as build:
        (mine,) = hidden(tmp_path)
        assert mine != left
        assert build.directory.is_relative_to(tmp_path / mine)
        assert (tmp_path / mine).stat().st_mode & 0o077 == 0
        build.program()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="a system with users")
def test_another_users_folder_is_not_reaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder where everybody may write, that user could meanwhile put a link in its place."""
    with killed_after(4):
        write_text(tmp_path / "o", "killed")
    mine = os.getuid()
    for user, left in ((mine + 1, 1), (mine, 0)):
        monkeypatch.setattr("os.getuid", lambda user=user: user)
        write_text(tmp_path / "o", "new")
        assert len(hidden(tmp_path)) == left


def test_only_folders_of_ours_whose_process_is_dead_are_reaped(tmp_path: Path) -> None:
    output = tmp_path / "o"
    with killed_after(4):
        write_text(output, "killed")
    (dead,) = hidden(tmp_path)
    strangers = [tmp_path / f".o.{index:08x}.new" for index in range(4)]
    strangers[0].write_text("a file")
    strangers[1].mkdir()
    (strangers[1] / "mine").touch()
    (strangers[2] / "sub").mkdir(parents=True)
    (strangers[2] / OWNER).write_text("not our words")
    strangers[3].symlink_to(strangers[2])
    (tmp_path / ".other.00000000.new").mkdir()
    (tmp_path / ".other.00000000.new" / OWNER).write_bytes(OWNED)

    def write(file: object) -> None:
        assert not (tmp_path / dead).exists()
        (mine,) = set(hidden(tmp_path)) - {path.name for path in strangers} - {".other.00000000.new"}
        write_text(output, "another process would do so now")
        assert (tmp_path / mine).exists(), "it was taken for abandoned"

    write_atomically(output, write)
    assert sorted(hidden(tmp_path)) == sorted([*(path.name for path in strangers), ".other.00000000.new"])
    assert strangers[2].joinpath("sub").is_dir()


def test_a_system_without_locks_reaps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(95, "Operation not supported")

    with killed_after(4):
        write_text(tmp_path / "o", "killed")
    monkeypatch.setattr(atomic.fcntl, "flock", refuse)
    write_text(tmp_path / "o", "new")
    assert (tmp_path / "o").read_text() == "new"
    assert len(hidden(tmp_path)) == 1


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("where", ["inside", "deep", "by a link", "link to it", "hard link", "the folder itself"])
def test_an_input_in_the_build_is_refused(tiny: Tiny, tmp_path: Path, capsys: Capture, where: str) -> None:
    build = tiny.copied_build(tmp_path)
    model = build / ("data/model.pt" if where == "deep" else "model.pt")
    model.parent.mkdir(exist_ok=True)
    model.write_bytes(tiny.model.read_bytes())
    given = {"inside": model, "deep": model, "the folder itself": build}.get(where, tmp_path / "given.pt")
    if where == "by a link":
        given.symlink_to(model)
    elif where == "link to it":
        (tmp_path / "again").symlink_to(build)
        given = tmp_path / "again" / "model.pt"
    elif where == "hard link":
        os.link(model, given)
    before = snapshot(tmp_path)
    target = ["--target", "lava", "-o", str(build), *tiny.arguments]
    others = [] if where == "the folder itself" else [[str(given), *target]]
    if where == "hard link":
        with pytest.raises(InputError, match="which the build replaces"):
            check_replaceable(build, [given])
    for command in (*others, [str(tiny.model), "--calibration", str(given), *target]):
        assert compile_main(command) == 1
        said = capsys.readouterr()
        assert f"{given}: is in {build}, which the build replaces; name another folder" in said.err
        assert said.err.count("\n") == 1
    assert snapshot(tmp_path) == before


def test_an_input_beside_the_build_is_not_in_it(tiny: Tiny, tmp_path: Path) -> None:
    build = tiny.copied_build(tmp_path)
    for path in (tmp_path / "build.pt", build / ".." / "x.pt", tmp_path / "none", tmp_path):
        check_replaceable(build, [path])


def test_outputs_take_no_inputs_place(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    build = tiny.copied_build(tmp_path)
    images, labels = tmp_path / "x.npy", tmp_path / "y.npy"
    images.write_bytes(tiny.images.read_bytes())
    labels.write_bytes(tiny.labels.read_bytes())
    (tmp_path / "link.npy").symlink_to(images)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(b"an image")
    model = tmp_path / "model.pt"
    model.write_bytes(tiny.model.read_bytes())
    chip = tmp_path / "chip.yaml"
    chip.write_text("extends: loihi2\nname: mine\n")
    before = snapshot(tmp_path)
    given = [str(build), "--input", str(images), "--labels", str(labels)]
    folder = [str(build), "--input", str(tmp_path / "folder")]
    compiling = [str(model), "--target", "lava", "-o", str(tmp_path / "new")]
    same = str(tmp_path / "same")
    cases: list[tuple[Callable[[list[str]], int], list[str], str]] = [
        (run_main, [*given, "-o", str(images)], "-o"),
        (run_main, [*given, "-o", str(tmp_path / "link.npy")], "-o"),
        (run_main, [*given, "--report", str(labels)], "--report"),
        (run_main, [*given, "-o", str(build / "program.safetensors")], "-o"),
        (run_main, [*folder, "-o", str(tmp_path / "folder" / "a.png")], "-o"),
        (run_main, [*given, "--cost", "--json", same, "--report", same], "--json"),
        (run_main, [*given, "--cost", "--chip", str(chip), "--json", str(chip)], "--json"),
        (verify_main, [*given, "--model", str(model), "--json", str(model)], "--json"),
        (verify_main, [*given, "--json", str(build / "report.json")], "--json"),
        (report_main, [str(build), "--verify", str(labels), "-o", str(labels)], "-o"),
        (compile_main, [str(model), "--check", "--json", str(model)], "--json"),
        (compile_main, [*compiling, "--report", str(tmp_path / "new" / "report.json")], "--report"),
        (compile_main, [str(model), "--sweep", "weight-bits=4", "--table", str(tmp_path / "model.pt")], "--table"),
    ]
    for command, arguments, option in cases:
        assert command(arguments) == 2, arguments
        said = capsys.readouterr()
        assert f": error: {option}" in said.err
        assert "name another file" in said.err
        assert (said.out, said.err.count("\n")) == ("", 1)
    assert snapshot(tmp_path) == before


def test_outputs_that_are_no_paths_are_named(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "loop").symlink_to("loop")
    given = [str(tiny.build), "--input", str(tiny.images)]
    compiling = [str(tiny.model), "--target", "lava", *tiny.arguments]
    for name, says in (("loop", "symbolic links"), ("loop/x", "symbolic links"), ("a\0b", "Invalid argument")):
        for command, arguments in (
            (run_main, [*given, "-o"]),
            (run_main, [*given, "--cost", "--json"]),
            (verify_main, [*given, "--report"]),
            (report_main, [str(tiny.build), "-o"]),
            (compile_main, [*compiling, "-o"]),
            (compile_main, [*compiling, "-o", str(tmp_path / "new"), "--report"]),
        ):
            assert command([*arguments, str(tmp_path / name)]) == 1
            said = capsys.readouterr()
            assert says in said.err
            assert (said.out, said.err.count("\n")) == ("", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_a_page_in_the_build_may_be_written_again(tiny: Tiny, tmp_path: Path) -> None:
    build = tmp_path / "b"
    command = [str(tiny.model), "--target", "lava", "-o", str(build), *tiny.arguments, "--quiet"]
    for _ in range(2):
        assert compile_main([*command, "--report", str(build / "report.html")]) == 0
    assert report_main([str(build), "-o", str(build / "report.html")]) == 0
    assert compile_main(command) == 0
    assert (build / "report.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_chip_in_the_build_is_refused_but_for_a_packaged_ones_name(
    tiny: Tiny, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = tiny.copied_build(tmp_path)
    (build / "chip.yaml").write_text("extends: loihi2\nname: mine\n")
    command = [str(tiny.model), "--target", "lava", "-o", str(build), *tiny.arguments]
    assert compile_main([*command, "--chip", str(build / "chip.yaml")]) == 1
    assert "chip.yaml: is in" in capsys.readouterr().err
    (build / "data").mkdir()
    monkeypatch.chdir(build / "data")
    assert compile_main([*command, "--chip", "loihi2"]) == 0


def test_the_current_folder_is_not_replaced(
    tiny: Tiny, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it were, the shell would be left in a folder that is gone."""
    monkeypatch.chdir(tmp_path)
    for output in (".", str(tmp_path)):
        assert compile_main([str(tiny.model), "--target", "lava", "-o", output, *tiny.arguments]) == 1
        assert f"{output}: is the current folder, which a build replaces" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
