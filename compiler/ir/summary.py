"""What objects say of themselves in a Python shell and in a notebook: a title and a few rows."""

from __future__ import annotations

import html
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

Summary: TypeAlias = tuple[str, Sequence[tuple[str, str]]]
"""A title, and rows of (what, value)."""

WIDTH = 100
"""Columns of a summary as text."""
LINES_MAX = 20
"""Lines of a summary as text, its title included."""
LISTED = 3
"""How many of a list of names are told."""


class Summarized(ABC):
    """A class whose objects print as a summary; a dataclass must be made with ``repr=False``."""

    @abstractmethod
    def summary(self) -> Summary:
        """A title, and rows of (what, value)."""

    def __repr__(self) -> str:
        return as_text(self.summary())

    def _repr_html_(self) -> str:
        return as_html(self.summary())


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


def as_html(summary: Summary) -> str:
    """A summary as a table; nothing in it is taken for HTML."""
    title, rows = summary
    cells = "".join(f"<tr><th>{html.escape(what)}</th><td>{html.escape(value)}</td></tr>" for what, value in rows)
    return f"<table><caption>{html.escape(title)}</caption>{cells}</table>"


def counted(number: int, noun: str) -> str:
    """A number of things: "1 chip", "5,122 cores"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def sizes(shape: Sequence[int]) -> str:
    """A shape: "3 x 224 x 224"."""
    return " x ".join(map(str, shape))


def listed(names: Sequence[str], shown: int = LISTED) -> str:
    """Names, the last of a long list as their number: "a, b, c and 7 more"."""
    if len(names) <= shown + 1:  # "and 1 more" takes the room of the name itself
        return ", ".join(names)
    return f"{', '.join(names[:shown])} and {len(names) - shown} more"
