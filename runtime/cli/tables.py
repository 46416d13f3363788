"""Tables as lines of text, at most as wide as a terminal, and never with a digit lost.

In a table that is too wide, texts and headings are wrapped at blanks, and names, which have no blanks, are cut in the
middle. If that is not enough, each row becomes a block of lines, ``heading: value``.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

MARGIN = "  "
GAP = "  "
NAME_LEAST = 12
"""The least width to which a name is cut, in columns of the terminal."""
TEXT_LEAST = 9
"""The least width to which a text is wrapped, in columns of the terminal."""
LONGEST_WORD = 24
"""Longer words do not widen the last column of a table: they may reach past the edge, where the terminal wraps them."""
HIGHEST = 4
"""The most lines of a cell; with higher cells, a table of more than two columns becomes blocks."""
ELLIPSIS = "…"
_WORD = re.compile(
    r"\d[\d,]*(?: x \d[\d,]*)+\S*|\d[\d.,]* (?:[kMGT] \w+|[pnµumkMGT]?[JsWB]\b|[KMGT]iB\b)\S*"
    r"|\(\S+ to \S+\)\S*|\S+"
)
"""Text that is never divided between lines: a shape, a quantity with its unit, an interval, any other word."""
_NUMBER = re.compile(r"[-+]?[\d.,]*\d[\d.,]*(e[-+]?\d+)?\s?%?")


class Kind(Enum):
    """What may happen to a column that has no room; the values complete "it may"."""

    NUMBER = "keep all of its width"
    NAME = "be cut in the middle"
    TEXT = "be wrapped"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: Its heading.
        kind: What may happen to it if there is no room.
        right: Whether it is aligned right.
        cells: The texts of its cells, one for each row.
        last: Whether it is the last one.
        alone: Whether there is at most one other column.
    """

    heading: str
    kind: Kind
    right: bool
    cells: Sequence[str]
    last: bool
    alone: bool

    @property
    def content(self) -> int:
        """The width of its longest cell."""
        return max(map(columns_of, self.cells), default=0)

    @property
    def natural(self) -> int:
        """Its width if there is room."""
        return max(self.content, columns_of(self.heading))

    @property
    def least(self) -> int:
        """Its least width."""
        words = max(map(columns_of, self.heading.split()), default=0)
        if self.kind is Kind.NUMBER:
            return max(words, self.content)
        if self.kind is Kind.NAME:
            return max(words, min(self.content, NAME_LEAST))
        longest = max((columns_of(word) for cell in self.cells for word in _WORD.findall(cell)), default=0)
        return max(words, min(self.content, TEXT_LEAST), min(longest, LONGEST_WORD) if self.last else longest)

    def lines(self, width: int, ellipsis: str) -> list[list[str]]:
        """The lines of each cell, fitted to a width."""
        if self.kind is Kind.NAME:
            return [[cell] for cell in cut_apart(self.cells, width, ellipsis)]
        if self.kind is Kind.TEXT:
            return [wrapped(cell, width) for cell in self.cells]
        return [[cell] for cell in self.cells]


@dataclass(frozen=True)
class Layout:
    """A table as lines.

    Attributes:
        headings: The lines of the headings; none above blocks, which have a heading before each value.
        body: The lines of the rows.
    """

    headings: Sequence[str]
    body: Sequence[str]


def lay_out(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None, ellipsis: str = ELLIPSIS
) -> Layout:
    """Lay a table out.

    Args:
        headings: One for each column; a heading that begins with a space marks a column of numbers, aligned right.
        rows: The cells of each row, one text for each column.
        width: The terminal's width in columns; None: lines may have any width, so nothing is wrapped or cut.
        ellipsis: What replaces the part of a name that is cut out.
    """
    columns = [
        _column(heading, [row[index] for row in rows], last=index == len(headings) - 1, alone=len(headings) <= 2)
        for index, heading in enumerate(headings)
    ]
    widths = [column.natural for column in columns]
    cells = [[[cell] for cell in column.cells] for column in columns]
    if width is not None and _total(widths) > width:
        narrow = _fit(columns, width)
        if narrow is None:
            return Layout([], list(_blocks(columns, width)))
        widths = narrow
        cells = [column.lines(each, ellipsis) for column, each in zip(columns, widths, strict=True)]
        if not all(map(_is_readable, columns, cells)):
            return Layout([], list(_blocks(columns, width)))
    top = [_heading_lines(column, each) for column, each in zip(columns, widths, strict=True)]
    height = max(map(len, top), default=0)
    top = [[""] * (height - len(each)) + each for each in top]
    body = [
        line
        for index in range(len(rows))
        for line in _side_by_side([column[index] for column in cells], columns, widths)
    ]
    return Layout(list(_side_by_side(top, columns, widths)), body)


def columns_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut_apart(names: Sequence[str], width: int, ellipsis: str = ELLIPSIS) -> list[str]:
    """Names cut to a width, with an ellipsis in place of their middle.

    If that would make two names equal, the cut moves away from the middle, but no further than keeps them different.
    """
    room = max(width - len(ellipsis), 0)
    for tail in sorted(range(room + 1), key=lambda each: abs(2 * each - room)):
        cut = [_cut(name, width, tail, ellipsis) for name in names]
        if len(set(cut)) == len(set(names)):
            return cut
    return [_cut(name, width, room // 2, ellipsis) for name in names]


def _cut(name: str, width: int, tail: int, ellipsis: str) -> str:
    """A name cut to a width, of which the last ``tail`` columns are kept."""
    if columns_of(name) <= width:
        return name
    end = _beginning(name[::-1], tail)[::-1]
    return _beginning(name, width - len(ellipsis) - columns_of(end)) + ellipsis + end


def wrapped(text: str, width: int, first: int | None = None) -> list[str]:
    """A text in lines of at most a width; longer words, and all numbers, stay whole.

    Args:
        text: The text.
        width: The width of a line, in columns.
        first: The width of the first line, if it may be wider.
    """
    lines: list[str] = []
    for word in _WORD.findall(text):
        room = first if first is not None and len(lines) == 1 else width
        if lines and columns_of(lines[-1]) + 1 + columns_of(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]


def hanging(text: str, width: int, indent: str) -> str:
    """A sentence wrapped to a width, with all lines but the first indented; a sentence that fits is unchanged."""
    if columns_of(text) <= width:
        return text
    first, *others = wrapped(text, width - len(indent), width)
    lead = text[: len(text) - len(text.lstrip())]
    return "\n".join([lead + first, *(textwrap.indent(each, indent) for each in others)])


def _column(heading: str, cells: Sequence[str], *, last: bool, alone: bool) -> Column:
    right = heading.startswith(" ")
    if any(len(_WORD.findall(cell)) > 1 for cell in cells):
        kind = Kind.TEXT
    elif right or any(_NUMBER.fullmatch(cell) or len(cell.split()) > 1 for cell in cells):
        kind = Kind.NUMBER
    else:
        kind = Kind.NAME
    return Column(heading.strip(), kind, right, cells, last, alone)


def _total(widths: Sequence[int]) -> int:
    """The width of a table whose columns have these widths."""
    return len(MARGIN) + sum(widths) + len(GAP) * (len(widths) - 1)


def _fit(columns: Sequence[Column], width: int) -> list[int] | None:
    """The width of each column in a table of a given width; None if even the least widths do not fit."""
    widths = [column.least for column in columns]
    spare = width - _total(widths)
    if spare < 0:
        return None
    # names first: wrapped texts lose nothing; numbers last: only their headings gain
    order: tuple[Callable[[Column], bool], ...] = (
        lambda column: column.kind is Kind.NAME,
        lambda column: column.kind is Kind.TEXT and not column.last,
        lambda column: column.kind is Kind.TEXT,
        lambda column: column.kind is Kind.NUMBER,
    )
    for wanted in order:
        while spare:
            lacking = [
                index for index, column in enumerate(columns) if wanted(column) and widths[index] < column.natural
            ]
            if not lacking:
                break
            narrowest = min(lacking, key=lambda index: widths[index])
            widths[narrowest] += 1
            spare -= 1
    return widths


def _is_readable(column: Column, cells: Sequence[Sequence[str]]) -> bool:
    """Whether different names stay different, and no cell has too many lines."""
    if column.kind is Kind.NAME:
        return len({cell[0] for cell in cells}) == len(set(column.cells))
    return column.alone or max(map(len, cells), default=0) <= HIGHEST


def _heading_lines(column: Column, width: int) -> list[str]:
    return [column.heading] if columns_of(column.heading) <= width else wrapped(column.heading, width)


def _side_by_side(cells: Sequence[Sequence[str]], columns: Sequence[Column], widths: Sequence[int]) -> Iterator[str]:
    """The lines of a row whose cells may have several lines each."""
    for index in range(max(map(len, cells), default=0)):
        parts = [lines[index] if index < len(lines) else "" for lines in cells]
        aligned = (
            _padding(part, width) + part if column.right else part + _padding(part, width)
            for part, column, width in zip(parts, columns, widths, strict=True)
        )
        yield (MARGIN + GAP.join(aligned)).rstrip()


def _padding(text: str, width: int) -> str:
    return " " * (width - columns_of(text))


def _blocks(columns: Sequence[Column], width: int) -> Iterator[str]:
    """Each row as lines, ``heading: value``; the first line of a row is indented less than the others."""
    for index in range(len(columns[0].cells) if columns else 0):
        for place, column in enumerate(columns):
            indent = MARGIN if place == 0 else MARGIN * 2
            if column.cells[index]:
                text = f"{column.heading}: {column.cells[index]}"
                room = width - len(indent)
                first, *others = wrapped(text, room - len(MARGIN) * 2, room)
                yield indent + first
                yield from (indent + MARGIN * 2 + each for each in others)


def _beginning(text: str, width: int) -> str:
    """The longest beginning of a text that fits in a width."""
    taken = 0
    for index, letter in enumerate(text):
        taken += columns_of(letter)
        if taken > width:
            return text[:index]
    return text
