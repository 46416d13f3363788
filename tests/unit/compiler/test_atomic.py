"""Files that appear whole or not at all, and devices and pipes, which no file may replace."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from resformer.compiler.atomic import write_atomically, write_json, write_text
from resformer.runtime.cli.terminal import check_writable


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    write_json(path, {"a": 1})
    assert path.read_text(encoding="utf-8") == '{\n  "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_folders_above_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    with pytest.raises(OSError, match=f"{path}/c"):
        write_text(path / "c" / "file", "new")


def test_what_of_a_name_is_no_text_stays_readable(tmp_path: Path) -> None:
    write_text(tmp_path / "file", f"caf\u00e9 {os.fsdecode(bytes([255]))}")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "caf\u00e9 \\udcff"


@pytest.mark.parametrize("named", [lambda path: path, lambda path: path.with_name("link")], ids=["itself", "by a link"])
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path, named: Callable[[Path], Path]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    before = sorted(tmp_path.iterdir())
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_writable(named(pipe))
        write_text(named(pipe), "text")
        assert os.read(reader, 100) == b"text"
        # writers of archives need to seek
        write_atomically(named(pipe), lambda file: (file.seek(3), file.write(b"x")))
        assert os.read(reader, 100) == b"\0\0\0x"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(tmp_path.iterdir()) == before
