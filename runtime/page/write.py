"""The page as one HTML file that holds its template, styles, scripts and data, and loads nothing from elsewhere."""

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
"""In this order: where styles contradict each other, the later one wins."""
SHARED = ("dom.js", "numbers.js", "colours.js", "pointing.js", "view.js", "charts.js", "frame.js")
"""Scripts that all sections use."""
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
"""Scripts of the page's sections, one file each."""
SCRIPTS = (*SHARED, *SECTIONS, "page.js")
"""In this order: each script uses those before it."""


def write_page(shown: tuple[Shown, ...], path: Path) -> None:
    """Write the page of one build, or the one that compares several.

    Raises:
        OSError: The page cannot be written.
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
        title: The window's title.
        styles: The names of its style sheets, in this order.
        scripts: The names of its scripts, in this order.
    """
    parts = {
        "title": html.escape(title),
        "style": "".join(map(_asset, styles)),
        "data": embedded(data),
        "script": "".join(map(_asset, scripts)),
    }
    text = _asset(TEMPLATE)
    # split once, so that no @@ inside a part is taken for a placeholder
    pieces = text.split("@@")
    return "".join(parts[piece] if index % 2 else piece for index, piece in enumerate(pieces))


def embedded(data: Mapping[str, Any]) -> str:
    """Data as JSON for a script element: no text in it can end that element or open another."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return resources.files("resformer.runtime.page").joinpath("assets", name).read_text(encoding="utf-8")
