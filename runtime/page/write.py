"""The page as a file: a template, its style and its scripts, and the data, all in one and nothing from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from resformer.compiler.atomic import write_text
from resformer.runtime.page.content import Shown, page_data

TEMPLATE = "page.html"
STYLES = ("page.css", "answers.css", "choice.css", "membranes.css", "classes.css", "chip.css", "print.css")
"""In this order: the last has the last word."""
SHARED = ("dom.js", "numbers.js", "colours.js", "pointing.js", "view.js", "charts.js", "frame.js")
"""What all sections use."""
SECTIONS = (
    "answers.js",
    "know.js",
    "headline.js",
    "pipeline.js",
    "layers.js",
    "activity.js",
    "attention.js",
    "margins.js",
    "choice.js",
    "membranes.js",
    "equivalence.js",
    "classes.js",
    "quantization.js",
    "chip.js",
    "cost.js",
    "sources.js",
    "compare.js",
)
"""A file each."""
SCRIPTS = (*SHARED, *SECTIONS, "page.js")
"""In this order: each uses those before it."""


def write_page(shown: tuple[Shown, ...], path: Path) -> None:
    """Write the page of one build, or the one that compares several.

    Raises:
        OSError: It cannot be written.
    """
    data = page_data(shown)
    title = " · ".join(build["name"] for build in data["builds"])
    write_text(path, page(data, title))


def page(
    data: Mapping[str, Any], title: str, *, styles: Sequence[str] = STYLES, scripts: Sequence[str] = SCRIPTS
) -> str:
    """A page as text.

    Args:
        data: What its scripts draw.
        title: Of the window.
        styles: Its assets, in this order.
        scripts: Likewise.
    """
    parts = {
        "title": html.escape(title),
        "style": "".join(map(_asset, styles)),
        "data": embedded(data),
        "script": "".join(map(_asset, scripts)),
    }
    text = _asset(TEMPLATE)
    # one split, so that nothing in a part is taken for a mark
    pieces = text.split("@@")
    return "".join(parts[piece] if index % 2 else piece for index, piece in enumerate(pieces))


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that stands in a script element: no text in it can end that element or open another."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return resources.files("resformer.runtime.page").joinpath("assets", name).read_text(encoding="utf-8")
