"""The page of a sweep: a Pareto plot, and a table beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resformer._version import __version__
from resformer.compiler.atomic import write_text
from resformer.runtime.page.write import page

FORMAT = "resformer-sweep-page"
FORMAT_VERSION = 1

STYLES = ("page.css", "print.css", "choice.css", "sweep.css")
SCRIPTS = ("dom.js", "numbers.js", "pointing.js", "charts.js", "frame.js", "choice.js", "pareto.js", "sweep.js")
"""In this order: each script uses those before it."""


def write_sweep_page(
    sweep: Mapping[str, Any], *, pages: Sequence[str | None], told: Mapping[str, Sequence[str]], path: Path
) -> None:
    """Write the page of a sweep.

    Args:
        sweep: What ``--table`` writes as JSON: the page shows its numbers and no others.
        pages: The path of each point's page, relative to this page; None for a point without a page.
        told: Sentences that a reader should know, under ``warnings`` and ``notes``.
        path: The file to write.

    Raises:
        OSError: The file cannot be written.
    """
    data = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "sweep": sweep,
        "pages": list(pages),
        "told": {kind: list(lines) for kind, lines in told.items()},
    }
    title = f"{sweep['model']}, {len(sweep['points'])} ways"
    write_text(path, page(data, title, styles=STYLES, scripts=SCRIPTS))
