"""What the commands share."""

from __future__ import annotations

import io
import os
import sys
import warnings
from pathlib import Path

import pytest

from resformer.compiler.ir.summary import counted
from resformer.errors import RangeError, ResformerWarning, SampleWarning
from resformer.runtime.cli.terminal import Parser, Terminal, UsageError, check_writable, run_command, size_of
from resformer.runtime.run.processes import Processes


def run(error: BaseException | None) -> int:
    def command(_arguments: object) -> int:
        if error is not None:
            raise error
        return 0

    return run_command(Parser(prog="prog"), [], command)


def test_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    noted = RangeError("node: value, limit; remedy")
    noted.__notes__ = ["in the pass x"]  # type: ignore[attr-defined]
    cases: list[tuple[BaseException | None, int, str]] = [
        (None, 0, ""),
        (RangeError("two\nlines"), 1, "prog: error: two lines\n"),
        (noted, 1, "prog: error: node: value, limit; remedy (in the pass x)\n"),
        (UsageError("a and b"), 2, "prog: error: a and b (see prog --help)\n"),
        (OSError(28, "No space left on device", "/x/y"), 1, "prog: error: /x/y: No space left on device\n"),
        (OSError("strange"), 1, "prog: error: strange\n"),
        (KeyboardInterrupt(), 130, "prog: error: interrupted\n"),
    ]
    for error, status, err in cases:
        assert run(error) == status
        assert capsys.readouterr() == ("", err)


@pytest.mark.parametrize(("arguments", "warns"), [([], True), (["--quiet"], True), ([], False)])
def test_warnings_of_samples_are_one_line_and_told_once(
    capsys: pytest.CaptureFixture[str], arguments: list[str], warns: bool
) -> None:
    parser = Parser(prog="prog")
    parser.add_argument("--quiet", action="store_true")

    def command(_arguments: object) -> int:
        for message in ("two\nlines", "two\nlines", "another"):
            warnings.warn(message, SampleWarning, stacklevel=1)
        warnings.warn("what a command prints itself", ResformerWarning, stacklevel=1)
        return 0

    assert run_command(parser, arguments, command, Processes(rank=0 if warns else 1)) == 0
    told = "" if not warns else "prog: warning: two lines\nprog: warning: another\n"
    assert capsys.readouterr() == ("", told)


def test_a_reader_that_left_is_no_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "dup2", lambda *_descriptors: None)
    assert run(BrokenPipeError()) == 1
    assert capsys.readouterr().err == ""


def test_tables_are_plain_lines_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    long = "x" * 300
    Terminal().table("Title", ("name", " count"), [("[bold]a[/bold]", 5), (long, 1234)])
    title, heading, first, second = stream.getvalue().splitlines()
    assert title == "Title"
    assert heading == "  " + "name".ljust(300) + "  count"
    assert first == "  " + "[bold]a[/bold]".ljust(300) + "      5"
    assert second == f"  {long}   1234"


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(quiet=True)
    terminal.line("a")
    terminal.table("b", ("c",), [("d",)])
    with terminal.progress() as update:
        update("e", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_progress_is_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal().progress() as update:
        update("working", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_writable(tmp_path: Path) -> None:
    check_writable(tmp_path / "new")
    check_writable(tmp_path / "none" / "none" / "new")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(IsADirectoryError):
        check_writable(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=f"{tmp_path}/file'"):
        check_writable(tmp_path / "file" / "none" / "new")


def test_a_folder_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # os.access is replaced, since no folder refuses root, and containers run as root
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    with pytest.raises(PermissionError, match=f"{tmp_path}'"):
        check_writable(tmp_path / "none" / "new")


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (1024, "1.00 KiB"), (2_345_678, "2.24 MiB")])
def test_sizes(tmp_path: Path, size: int, text: str) -> None:
    (tmp_path / "f").write_bytes(bytes(size))
    assert size_of(tmp_path / "f") == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 cores"), (1, "1 core"), (5122, "5,122 cores")])
def test_counts(number: int, text: str) -> None:
    assert counted(number, "core") == text
