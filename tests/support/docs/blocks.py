"""The fenced blocks of a page: what a reader is told to type, and what it prints.

A comment right above a block says what is special about it. Readers do not see it:

    <!-- not run: REASON -->      the block cannot be run here, for this reason
    <!-- exit status: 1 -->       its last command, or its program, ends with this status
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
RUN = ("console", "python")
"""Languages of blocks that are run."""
WRITTEN = ("yaml", "python", "text")
"""Languages of blocks that are written to a file where their title names one."""
SHOWN = ("text", "yaml", "json", "mermaid")
"""Languages of blocks that only show something."""

_FENCE = re.compile(r"^(?P<indent> {0,3})(?P<ticks>`{3,})(?P<info>.*)$")
_TITLE = re.compile(r'title="([^"]+)"')
_MARK = re.compile(r"^<!--\s*(not run|exit status):\s*(.+?)\s*-->$")
_ITEM = re.compile(r"^\s*([-*+]|\d+\.)\s")


@dataclass(frozen=True)
class Command:
    """A line that a reader types.

    Attributes:
        text: What follows the prompt, continued lines joined.
        shown: The lines that the page shows below it.
    """

    text: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: The file.
        line: Where its text begins, counted from 1.
        language: The first word behind the fence.
        title: The file that it shows, if it names one.
        text: All between the fences.
        reason: Why it is not run, if it says so.
        status: The exit status that its last command must have.
    """

    page: Path
    line: int
    language: str
    title: str | None
    text: str
    reason: str | None = None
    status: int = 0

    @property
    def where(self) -> str:
        """The page and the line, as editors write them: ``page:line``."""
        return f"{name_of(self.page)}:{self.line}"

    @property
    def runs(self) -> bool:
        """Whether it is run; a block that shows a file is written to that file instead."""
        return self.language in RUN and self.title is None and self.reason is None

    @property
    def commands(self) -> tuple[Command, ...]:
        """The commands of a console block.

        Raises:
            ValueError: The block begins with something else than a command.
        """
        found: list[tuple[list[str], list[str]]] = []
        continued = False
        for line in self.text.splitlines():
            if continued:
                found[-1][0].append(line.removeprefix("> ").strip())
            elif line.startswith("$ "):
                found.append(([line[2:].strip()], []))
            elif not found:
                raise ValueError(f"{self.where}: a console block begins with '$ ', not with {line!r}")
            else:
                found[-1][1].append(line)
                continue
            continued = line.rstrip().endswith("\\")
        return tuple(
            Command(" ".join(part.removesuffix("\\").strip() for part in typed), tuple(shown)) for typed, shown in found
        )


def name_of(page: Path) -> str:
    """A page's path in the project."""
    return str(page.relative_to(ROOT)) if ROOT in page.parents else page.name


def pages() -> tuple[Path, ...]:
    """All pages of the project that readers are pointed to, in order."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    return (*top, *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md")))


def blocks(page: Path) -> tuple[Block, ...]:
    """The fenced blocks of a page, in order.

    Raises:
        ValueError: A block is not closed.
    """
    return tuple(_blocks(page, page.read_text(encoding="utf-8").splitlines()))


def _blocks(page: Path, lines: list[str]) -> Iterator[Block]:
    mark: re.Match[str] | None = None
    index = 0
    while index < len(lines):
        line = lines[index]
        fence = _FENCE.match(line)
        if fence is None:
            if line.strip():
                mark = _MARK.match(line.strip())
            index += 1
            continue
        start = index + 1
        end = next((i for i in range(start, len(lines)) if lines[i].strip() == fence["ticks"]), None)
        if end is None:
            raise ValueError(f"{name_of(page)}:{start}: a block is not closed")
        indent = len(fence["indent"])
        language, _, info = fence["info"].strip().partition(" ")
        title = _TITLE.search(info)
        yield Block(
            page,
            start + 1,
            language,
            None if title is None else title[1],
            "".join(f"{each[indent:]}\n" for each in lines[start:end]),
            reason=mark[2] if mark is not None and mark[1] == "not run" else None,
            status=int(mark[2]) if mark is not None and mark[1] == "exit status" else 0,
        )
        mark = None
        index = end + 1


def indented(page: Path) -> list[str]:
    """The places of a page's blocks that are indented instead of fenced, and so name no language."""
    found = []
    inside, listed, empty = False, False, True
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if _FENCE.match(line.lstrip()) and line.lstrip().startswith("```"):
            inside = not inside
        elif not inside and line.strip():
            if empty and not listed and line.startswith("    "):
                found.append(f"{name_of(page)}:{number}")
            if not line.startswith(" "):
                listed = bool(_ITEM.match(line)) or line.startswith(("!!!", "???"))
        empty = not line.strip()
    return found
