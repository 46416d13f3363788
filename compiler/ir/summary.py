"""What objects say of themselves in a Python shell and in a notebook: a title and a few rows."""

from __future__ import annotations

import html
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

Summary: TypeAlias = tuple[str, Sequence[tuple[str, str]]]
"""A title, and rows of (name, value)."""
Rows: TypeAlias = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Headings and rows of a table; a heading that begins with a space marks a column of numbers."""

WIDTH = 100
"""Columns of a summary as text."""
LINES_MAX = 20
"""Lines of a summary as text, its title included."""
LISTED = 3
"""How many names of a long list are shown."""
ROWS_MAX = 100
"""Rows of a table in a notebook."""

# All colours are the page's own except the edge's, which is visible on white and on black; the text says the same.
_CELL = "text-align: left; vertical-align: top"
_NUMBER = "text-align: right"
_CAPTION = "caption-side: top; text-align: left; color: inherit; font-weight: bold; padding: 0.2em 0.8em"
_TABLE = "color: inherit; border-collapse: separate; border-spacing: 0.8em 0.1em"
_EDGES = {None: "#8c8c8c", True: "#2da44e", False: "#cf222e"}


class Summarized(ABC):
    """A class whose objects print as a summary; a dataclass must be made with ``repr=False``."""

    @abstractmethod
    def summary(self) -> Summary:
        """A title, and rows of (name, value)."""

    def sound(self) -> bool | None:
        """Whether the summary is good news; None if it is neither good nor bad."""
        return None

    def details(self) -> tuple[str, Rows] | None:
        """A title and a table that a notebook shows folded; None if there are no details."""
        return None

    def __repr__(self) -> str:
        return as_text(self.summary())

    def _repr_html_(self) -> str:
        return as_html(self.summary(), self.sound(), self.details())


def as_text(summary: Summary) -> str:
    """A summary as lines, at most :data:`LINES_MAX`; long values are wrapped."""
    title, rows = summary
    indent = 4 + max((len(what) for what, _ in rows), default=0)
    lines = [title]
    for what, value in rows:
        wrapped = textwrap.wrap(value, max(WIDTH - indent, 20)) or [""]
        lines.append(f"  {what}".ljust(indent) + wrapped[0])
        lines += [" " * indent + each for each in wrapped[1:]]
    if len(lines) > LINES_MAX:
        lines[LINES_MAX - 1 :] = ["  ..."]
    return "\n".join(lines)


def as_html(summary: Summary, sound: bool | None = None, details: tuple[str, Rows] | None = None) -> str:
    """A summary as an HTML table, with its details folded below; all texts are escaped.

    The table has the colours of the page around it, light or dark, and needs neither a style sheet nor a script.

    Args:
        summary: The title and the rows.
        sound: Whether the summary is good news, which decides the colour of the edge.
        details: A title and a table, of which at most :data:`ROWS_MAX` rows are shown.
    """
    title, rows = summary
    cells = "".join(
        f'<tr><th scope="row" style="{_CELL}">{html.escape(what)}</th>'
        f'<td style="{_CELL}">{html.escape(value)}</td></tr>'
        for what, value in rows
    )
    more = "" if details is None else _folded(*details)
    return (
        f'<div style="border-left: 4px solid {_EDGES[sound]}; overflow-x: auto">'
        f'<table style="{_TABLE}"><caption style="{_CAPTION}">{html.escape(title)}</caption>'
        f"<tbody>{cells}</tbody></table>{more}</div>"
    )


def _folded(title: str, rows: Rows) -> str:
    """A table that opens at a click or a key."""
    headings, lines = rows
    styles = [_NUMBER if heading.startswith(" ") else _CELL for heading in headings]
    head = "".join(
        f'<th scope="col" style="{style}">{html.escape(heading.strip())}</th>'
        for heading, style in zip(headings, styles, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row" style="{style}">{html.escape(cell)}</th>'
            if column == 0
            else f'<td style="{style}">{html.escape(cell)}</td>'
            for column, (cell, style) in enumerate(zip(line, styles, strict=True))
        )
        + "</tr>"
        for line in lines[:ROWS_MAX]
    )
    left = f"<p>and {counted(len(lines) - ROWS_MAX, 'row')} more</p>" if len(lines) > ROWS_MAX else ""
    return (
        f"<details><summary>{html.escape(title)}</summary>"
        f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{left}</details>'
    )


def counted(number: int, noun: str) -> str:
    """A number of things: "1 chip", "5,122 cores"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def ordinal(number: int) -> str:
    """A place in a row: "1st", "12th", "23rd"."""
    tens, ones = divmod(number % 100, 10)
    return f"{number:,}{'th' if tens == 1 else {1: 'st', 2: 'nd', 3: 'rd'}.get(ones, 'th')}"


def sizes(shape: Sequence[int]) -> str:
    """A shape: "3 x 224 x 224"."""
    return " x ".join(map(str, shape))


def listed(names: Sequence[str], shown: int = LISTED) -> str:
    """Names, with the rest of a long list as a number: "a, b, c and 7 more"."""
    if len(names) <= shown + 1:  # "and 1 more" takes the room of the name itself
        return ", ".join(names)
    return f"{', '.join(names[:shown])} and {len(names) - shown} more"
