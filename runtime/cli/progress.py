"""Progress on the error stream: a bar on a terminal; elsewhere (CI, Slurm, notebooks), a line every few seconds."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO

from resformer.compiler.progress import Progress, no_progress
from resformer.models.limits import printable

FIRST_SECONDS = 2.0
"""Work that ends sooner prints no line of progress where there is no terminal."""
EVERY_SECONDS = 5.0
SWITCH = "RESFORMER_PROGRESS"
"""An environment variable: ``off`` prints no lines where there is no terminal, so that logs hold results alone."""
NOTEBOOK = "JPY_PARENT_PID"
"""An environment variable that Jupyter sets: commands started there have a terminal that cannot move its cursor."""
PLAIN_TERMINALS = ("dumb", "unknown")
"""Values of ``TERM`` of terminals that can print text but not move the cursor."""


def is_terminal(stream: IO[str]) -> bool:
    """Whether a stream is written to a terminal, whose lines have a width."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # the stream is closed
        return False


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Show progress on the error stream; a bar on a terminal is removed at the end."""
    stream = sys.stderr
    draws = is_terminal(stream) and os.environ.get("TERM") not in PLAIN_TERMINALS and NOTEBOOK not in os.environ
    if not draws and os.environ.get(SWITCH) == "off":
        yield no_progress
        return
    with _bar(stream) if draws else _lines(stream) as update:
        yield update


@contextlib.contextmanager
def _bar(stream: IO[str]) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as ProgressBar

    console = Console(file=stream)
    spinner = "line" if console.options.ascii_only else "dots"
    columns = (SpinnerColumn(spinner), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with ProgressBar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def update(what: str, done: float, total: float) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        yield update


@contextlib.contextmanager
def _lines(stream: IO[str]) -> Iterator[Progress]:
    """Print progress from a separate thread, so that stages that report nothing for minutes are still named."""
    started, ended = time.monotonic(), threading.Event()
    last: list[tuple[str, float, float]] = []

    def update(what: str, done: float, total: float) -> None:
        last[:] = [(what, done, total)]

    def tell() -> None:
        wait = FIRST_SECONDS
        while not ended.wait(wait):
            wait = EVERY_SECONDS
            for what, done, total in last[-1:]:
                _write(stream, f"[{_clock(time.monotonic() - started)}] {_line(what, done, total)}\n")

    thread = threading.Thread(target=tell, name="progress", daemon=True)
    thread.start()
    try:
        yield update
    finally:
        ended.set()
        thread.join()


def _line(what: str, done: float, total: float) -> str:
    share = f", {done / total:.0%}" if total else ""
    return f"{printable(what)}{share}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _write(stream: IO[str], text: str) -> None:
    """Write to the stream's file descriptor, past the stream's lock: the process may be forked at any moment."""
    with contextlib.suppress(OSError, ValueError):
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError, AttributeError):  # a stream in memory
            stream.write(text)
            return
        os.write(descriptor, text.encode(getattr(stream, "encoding", None) or "utf-8", "backslashreplace"))
