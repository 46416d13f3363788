"""Terminals of a given width, and a check of the tables that are printed on them."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

Table = tuple[str, Sequence[str], Sequence[Sequence[Any]]]
"""A title, headings and rows, as ``Terminal.table`` is given them."""
ELLIPSIS = "…"
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@contextlib.contextmanager
def on_terminal(width: int, monkeypatch: pytest.MonkeyPatch, term: str = "xterm") -> Iterator[list[str]]:
    """Let standard output be a terminal of a width.

    Yields:
        A list: empty at first; after the context, its one element is the text of all that was printed.
    """
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    chunks: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while chunk := os.read(master, 2**16):
                chunks.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    printed: list[str] = []
    with monkeypatch.context() as patch:
        patch.setenv("TERM", term)
        for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
            patch.delenv(name, raising=False)
        try:
            with os.fdopen(slave, "w", encoding="utf-8") as stream:
                patch.setattr(sys, "stdout", stream)
                yield printed
        finally:
            reader.join()
            os.close(master)
    printed.append(b"".join(chunks).decode().replace("\r\n", "\n"))


def plain(text: str) -> str:
    """A text without its colour codes."""
    return CODES.sub("", text)


def require_table(text: str, table: Table, width: int) -> None:
    """Require that a printed table fits the width and holds every number and word of the table, each in its row."""
    title, headings, rows = table
    lines = plain(text).splitlines()
    for line in lines:
        assert len(line) <= width or len(line.split()) == 1, line
    assert " ".join(lines).split()[: len(title.split())] == title.split()
    first = next((index for index, line in enumerate(lines) if line.startswith(f"  {headings[0].strip()}: ")), None)
    if first is not None:
        assert _blocks(lines[first:]) == [
            {
                heading.strip(): " ".join(str(cell).split())
                for heading, cell in zip(headings, row, strict=True)
                if str(cell)
            }
            for row in rows
        ]
        return
    found = _rows(lines, headings, rows)
    for row, words in zip(rows, found, strict=True):
        lacking = Counter(word for cell in row for word in str(cell).split())
        lacking.subtract(words)
        for word in [word for word in words if ELLIPSIS in word]:
            head, tail = word.split(ELLIPSIS)
            (whole,) = {
                each for each, count in lacking.items() if count > 0 and each.startswith(head) and each.endswith(tail)
            }
            assert not whole[0].isdigit(), "a number was cut"
            lacking.subtract([whole])
            lacking[word] += 1
        assert not +lacking, row
        assert not -lacking, row


def _blocks(lines: Sequence[str]) -> list[dict[str, str]]:
    """The content of a table printed in blocks: for each row, the value under each heading."""
    found: list[dict[str, str]] = []
    heading = ""
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if indent in (2, 4):
            heading, _, value = line.strip().partition(": ")
            found += [{}] if indent == 2 else []
            found[-1][heading] = value
        else:
            found[-1][heading] += f" {line.strip()}"
    return [{heading: " ".join(value.split()) for heading, value in row.items()} for row in found]


def _rows(lines: Sequence[str], headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[list[str]]:
    """The words of each row; a row begins with the line that holds its name and the first words of its numbers."""
    starts: list[int] = []
    for row in rows:
        numbers = [
            str(cell).split()[0] for heading, cell in zip(headings, row, strict=True) if heading[0] == " " and str(cell)
        ]
        start, name = starts[-1] + 1 if starts else 1, str(row[0]).split()[0]
        while not (_begins(lines[start], name) and _holds(lines[start].split(), numbers)):
            start += 1
            assert start < len(lines), f"{row} is not there"
        starts.append(start)
    ends = [*starts[1:], len(lines)]
    return [
        [word for line in lines[start:end] for word in line.split()] for start, end in zip(starts, ends, strict=True)
    ]


def _begins(line: str, name: str) -> bool:
    """Whether a line begins with a name, whole or cut."""
    if not line.startswith("  ") or line[2:3] == " ":
        return False
    head, cut, tail = line.split()[0].partition(ELLIPSIS)
    return name == head if not cut else name.startswith(head) and name.endswith(tail)


def _holds(words: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the wanted words are among the words, in the same order."""
    remaining = iter(words)
    return all(word in remaining for word in wanted)
