"""Tables as lines of text: as wide as a terminal at most, and without the loss of a digit.

Where a table is too wide, texts are wrapped at blanks, headings too, and names, which have none, are cut in the middle.
Where that is not enough, each row becomes a block of lines, ``heading: value``.
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
"""Columns below which no name is cut."""
TEXT_LEAST = 9
"""Columns below which no text is wrapped."""
LONGEST_WORD = 24
"""Of the last column, words that are longer reach beyond the edge, where the terminal goes on below."""
HIGHEST = 4
"""Lines of a cell, from which on a table of several columns is easier to read as blocks."""
ELLIPSIS = "…"
_WORD = re.compile(
    r"\d[\d,]*(?: x \d[\d,]*)+\S*|\d[\d.,]* (?:[kMGT] \w+|[pnµumkMGT]?[JsWB]\b|[KMGT]iB\b)\S*"
    r"|\(\S+ to \S+\)\S*|\S+"
)
"""What is not divided between lines: a shape, a quantity with its unit, an interval, any other word."""
_NUMBER = re.compile(r"[-+]?[\d.,]*\d[\d.,]*(e[-+]?\d+)?\s?%?")


class Kind(Enum):
    """What a column may do where there is no room for it."""

    NUMBER = "keep all of its width"
    NAME = "be cut in the middle"
    TEXT = "be wrapped"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: Its heading.
        kind: What it may do where there is no room.
        right: Whether it is set to the right.
        cells: One a row.
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
        """How wide its longest cell is."""
        return max(map(columns_of, self.cells), default=0)

    @property
    def natural(self) -> int:
        """How wide it would be."""
        return max(self.content, columns_of(self.heading))

    @property
    def least(self) -> int:
        """How narrow it may be."""
        words = max(map(columns_of, self.heading.split()), default=0)
        if self.kind is Kind.NUMBER:
            return max(words, self.content)
        if self.kind is Kind.NAME:
            return max(words, min(self.content, NAME_LEAST))
        longest = max((columns_of(word) for cell in self.cells for word in _WORD.findall(cell)), default=0)
        return max(words, min(self.content, TEXT_LEAST), min(longest, LONGEST_WORD) if self.last else longest)

    def lines(self, width: int, ellipsis: str) -> list[list[str]]:
        """Each cell as lines of at most a width."""
        if self.kind is Kind.NAME:
            return [[cell] for cell in cut_apart(self.cells, width, ellipsis)]
        if self.kind is Kind.TEXT:
            return [wrapped(cell, width) for cell in self.cells]
        return [[cell] for cell in self.cells]


@dataclass(frozen=True)
class Layout:
    """A table as lines.

    Attributes:
        headings: Lines of the headings; none above blocks, where each value has its own.
        body: Lines of the rows.
    """

    headings: Sequence[str]
    body: Sequence[str]


def lay_out(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None, ellipsis: str = ELLIPSIS
) -> Layout:
    """Lay a table out.

    Args:
        headings: One a column; those that begin with a space are of numbers, which are set to the right.
        rows: Texts, one a column.
        width: Columns of the terminal; None where lines may have any width, and everything stays whole.
        ellipsis: What stands for the part of a name that is cut out.
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
    """Names in at most a width, with an ellipsis for what is cut out of their middle.

    Where that would make two names the same, it is cut out as near to the middle as leaves them different.
    """
    room = max(width - len(ellipsis), 0)
    for tail in sorted(range(room + 1), key=lambda each: abs(2 * each - room)):
        cut = [_cut(name, width, tail, ellipsis) for name in names]
        if len(set(cut)) == len(set(names)):
            return cut
    return [_cut(name, width, room // 2, ellipsis) for name in names]


def _cut(name: str, width: int, tail: int, ellipsis: str) -> str:
    """A name in at most a width, of which an end of a width is kept."""
    if columns_of(name) <= width:
        return name
    end = _beginning(name[::-1], tail)[::-1]
    return _beginning(name, width - len(ellipsis) - columns_of(end)) + ellipsis + end


def wrapped(text: str, width: int, first: int | None = None) -> list[str]:
    """A text in lines of at most a width, but for words that are longer: those stay whole, and so does any number.

    Args:
        text: The text.
        width: Columns of a line.
        first: Columns of the first line, if it may be longer.
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
    """A sentence wrapped to a width; all lines but the first are indented. What fits stays as it is."""
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
    """Columns of the terminal that a table of these columns takes."""
    return len(MARGIN) + sum(widths) + len(GAP) * (len(widths) - 1)


def _fit(columns: Sequence[Column], width: int) -> list[int] | None:
    """How wide each column is in a table of a width; None if even the least is too much."""
    widths = [column.least for column in columns]
    spare = width - _total(widths)
    if spare < 0:
        return None
    # names first, since nothing of a text is lost, and of a heading least is gained
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
    """Whether different names stay different, and no cell is a tower beside the others."""
    if column.kind is Kind.NAME:
        return len({cell[0] for cell in cells}) == len(set(column.cells))
    return column.alone or max(map(len, cells), default=0) <= HIGHEST


def _heading_lines(column: Column, width: int) -> list[str]:
    return [column.heading] if columns_of(column.heading) <= width else wrapped(column.heading, width)


def _side_by_side(cells: Sequence[Sequence[str]], columns: Sequence[Column], widths: Sequence[int]) -> Iterator[str]:
    """The lines of a row whose cells are lines themselves."""
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
    """Each row as lines, ``heading: value``, the first of them to the left of the others."""
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
    """As much of a text as takes no more than a width."""
    taken = 0
    for index, letter in enumerate(text):
        taken += columns_of(letter)
        if taken > width:
            return text[:index]
    return text
