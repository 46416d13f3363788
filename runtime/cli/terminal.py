"""What the commands share: one-line errors, exit statuses, and printing, which is plain text off a terminal.

Nothing heavy is imported before arguments are parsed, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import math
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from resformer._version import __version__
from resformer.compiler.atomic import is_stream, resolved
from resformer.compiler.progress import Progress, no_progress
from resformer.errors import ResformerError, ResformerWarning, SampleWarning
from resformer.models.limits import LONGEST_MESSAGE, cut, printable, raised
from resformer.runtime.cli.completion import SHELLS, PrintCompletion
from resformer.runtime.cli.process import (
    OUTPUT,
    Ended,
    drop_output,
    ended_by_signals,
    named_output,
    together,
    whole_process,
)
from resformer.runtime.cli.progress import is_terminal, progress
from resformer.runtime.cli.tables import ELLIPSIS, hanging, lay_out
from resformer.runtime.run.processes import Processes, from_environment
from resformer.runtime.units import size

DONE = 0
FAILED = 1
WRONG_USAGE = 2
SIGNALLED = 128
"""The exit status of a process that a signal ended is this plus the signal's number, as in shells."""
INTERRUPTED = SIGNALLED + signal.SIGINT
USUAL_COLUMNS = 80
"""The assumed width of a terminal that does not tell its width."""
INDENT = "  "
"""Indent of all lines of a wrapped sentence but the first."""
PLAIN = {"µ": "u", "…": "..."}
"""Characters of our texts that an encoding may lack, and what is written instead."""
STANDARD_OUTPUT = Path("-")
"""As the file of ``--json``, it means standard output, to which nothing else is then written."""


class UsageError(Exception):
    """Arguments are wrong or contradict each other: printed in one line, with the exit status of wrong usage."""


class Parser(argparse.ArgumentParser):
    """An argument parser with one-line errors and the options that all commands have.

    Args:
        prog: The command's name.
        description: What the command does, in a sentence.
        epilog: The end of its help.
    """

    def __init__(self, prog: str, description: str | None = None, epilog: str | None = None) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog)
        self.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
        self.add_argument(
            "--limits",
            type=_factor,
            default=1.0,
            metavar="TIMES",
            help="for large files that you trust: multiply the limits on what a file may declare and hold, and on the "
            "memory that it may take (default: 1)",
        )
        self.add_argument(
            "--print-completion",
            action=PrintCompletion,
            metavar=f"{{{','.join(SHELLS)}}}",
            help="print a script that makes this shell complete the command's options and files, and do nothing else",
        )

    def add_quiet_option(self, group: argparse._ActionsContainer, printed: str) -> None:
        """Add ``--quiet``.

        Args:
            group: The group of options in which the help lists it.
            printed: What is still printed, for the help.
        """
        group.add_argument("--quiet", action="store_true", help=f"print nothing but {printed}")

    def error(self, message: str) -> NoReturn:
        """Raise the error, rather than print it and exit.

        Raises:
            UsageError: Always.
        """
        raise UsageError(message)


def run_command(
    parser: Parser,
    argv: Sequence[str] | None,
    command: Callable[[argparse.Namespace], int],
    processes: Processes | None = None,
    *,
    shares: Callable[[argparse.Namespace], bool] = lambda _arguments: True,
) -> int:
    """Parse arguments and run a command; expected errors become lines on the error stream and an exit status.

    Each different ``SampleWarning`` becomes one line on the error stream, too, even with ``--quiet``.

    Args:
        parser: The parser of the command's arguments.
        argv: The arguments to parse; None: the process's own arguments.
        command: The command; it returns the exit status.
        processes: The processes that share the command's work: rank 0 prints warnings, and the first that fails prints
            its error. None: this process alone.
        shares: Whether the processes share the work that these arguments ask for; otherwise each does all of it.

    Returns:
        The exit status.
    """
    processes = processes or Processes()

    def complain(message: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{parser.prog}: error: {_one_line(message)}\n")
            sys.stderr.flush()

    with whole_process() as closed, together(processes):
        try:
            if "stdout" in closed:
                raise OSError(errno.EBADF, "is closed; redirect it, to /dev/null if nothing is to be told", OUTPUT)
            with ended_by_signals():
                arguments = parser.parse_args(argv)
                processes = processes if shares(arguments) else Processes()
                processes.start(complain)
                with raised(arguments.limits), _one_line_warnings(parser, shown=processes.leads):
                    status = command(arguments)
                with named_output():
                    sys.stdout.flush()
            processes.leave(status)
        except SystemExit as exit_:  # after --help
            return exit_.code if isinstance(exit_.code, int) else WRONG_USAGE
        except (KeyboardInterrupt, UsageError, ResformerError, OSError, MemoryError, ImportError) as error:
            if isinstance(error, ImportError) and os.strerror(errno.EMFILE) not in str(error):
                raise
            output_ended = isinstance(error, BrokenPipeError) and error.filename is None
            drop_output()
            if output_ended:
                # the reader of our output closed the pipe
                return FAILED
            messages, status = _explain(parser, processes.cause(error) if isinstance(error, Ended) else error)
            if processes.claim_failure():
                for message in messages:
                    complain(message)
            processes.leave(status)
    return status


def run_shared(
    parser: Parser,
    argv: Sequence[str] | None,
    command: Callable[[argparse.Namespace, Processes], int],
    *,
    shares: Callable[[argparse.Namespace], bool] = lambda _arguments: True,
) -> int:
    """As :func:`run_command`, for a command whose work is shared by the processes that ``torchrun`` starts.

    Args:
        parser: The parser of the command's arguments.
        argv: The arguments to parse; None: the process's own arguments.
        command: The command; it takes these processes, too, and returns the exit status.
        shares: Whether the processes share the work that these arguments ask for; otherwise each does all of it.

    Returns:
        The exit status.
    """
    processes = from_environment()
    return run_command(parser, argv, lambda arguments: command(arguments, processes), processes, shares=shares)


@contextlib.contextmanager
def _one_line_warnings(parser: Parser, *, shown: bool) -> Iterator[None]:
    """Print each different ``SampleWarning`` in one line, if ``shown``; commands print all our other warnings."""
    told: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResformerWarning)
        warnings.simplefilter("always", SampleWarning)
        show = warnings.showwarning

        def tell(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, SampleWarning):
                show(message, category, *where, **more)
            elif shown and str(message) not in told:
                told.add(str(message))
                sys.stderr.write(f"{parser.prog}: warning: {_one_line(str(message))}\n")

        warnings.showwarning = tell
        yield


def _one_line(text: str) -> str:
    """A message on one line, made safe to print because names in it may come from files."""
    return cut(printable(" ".join(text.split())), LONGEST_MESSAGE)


def _explain(parser: Parser, error: BaseException) -> tuple[tuple[str, ...], int]:
    """The lines to print for an error, and the exit status."""
    if isinstance(error, Ended):
        return ("terminated" if error.number == signal.SIGTERM else "interrupted",), SIGNALLED + error.number
    if isinstance(error, KeyboardInterrupt):
        return ("interrupted",), INTERRUPTED
    if isinstance(error, ImportError):
        return (f"{error}; raise the limit on open files (ulimit -n)",), FAILED
    if isinstance(error, UsageError):
        return (f"{error} (see {parser.prog} --help)",), WRONG_USAGE
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        return (f"{where}{error.strerror or error}",), FAILED
    if isinstance(error, MemoryError):
        return ("out of memory; give fewer samples or a smaller --batch-size",), FAILED
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    findings = error.findings if isinstance(error, ResformerError) else (str(error),)
    return tuple(f"{finding}{notes}" for finding in findings), FAILED


def positive_int(text: str) -> int:
    """An argument type: a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def seed(text: str) -> int:
    """An argument type: a whole number from 0 to 2^63 - 1."""
    digits = text.lstrip("0")
    if not (text.isascii() and text.isdigit()) or int(digits[:20] or 0) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(digits or 0)


def _factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 1 <= factor < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return factor


def names(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """An argument type: names from a list, separated by commas."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in choices:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(choices)}")
        return chosen

    return parse


class Terminal:
    """Prints lines and tables: fitted to a terminal, in colours; elsewhere, as plain lines that are never wrapped.

    Args:
        quiet: Print only the verdict, and warnings on the error stream.
        on_stderr: Print to the error stream, because standard output is reserved for other output.
    """

    def __init__(self, *, quiet: bool = False, on_stderr: bool = False) -> None:
        self.quiet = quiet
        self._on_stderr = on_stderr
        self._begun = False

    def line(self, text: str = "", *, style: str | None = None) -> None:
        """Print one line, wrapped at blanks on a terminal; a text of several lines is printed as it is."""
        if not self.quiet:
            self._print(self._wrapped(text), style)

    def verdict(self, text: str, *, style: str | None = None) -> None:
        """Print a line of the command's answer, even with ``quiet``."""
        self._print(self._wrapped(text), style)

    def warning(self, text: str, *, style: str | None = None) -> None:
        """Print a warning of one line; with ``quiet``, on the error stream."""
        if self.quiet:
            sys.stderr.write(f"warning: {_one_line(text)}\n")
        else:
            self.line(f"warning: {text}", style=style)

    def wrote(self, *paths: Path) -> None:
        """Name files that were written, with their sizes, a line each; devices and pipes are left out."""
        for path in paths:
            if not self.quiet and not is_stream(path) and path != STANDARD_OUTPUT:
                self._print(f"wrote {path} ({size_of(path)})")

    def suggest(self, *commands: str) -> None:
        """Suggest what to do next: commands that can be copied, a line each."""
        for command in commands:
            if not self.quiet:
                self._print(f"next: {command}")

    def table(self, title: str, headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table; a heading that begins with a space marks a column of numbers, aligned right."""
        if self.quiet:
            return
        width = self._width
        cells = [[cut(printable(str(cell)), LONGEST_MESSAGE) for cell in row] for row in rows]
        laid = lay_out(headings, cells, width, ELLIPSIS if _can_show(self._stream, ELLIPSIS) else "...")
        if self._begun and width is not None:
            self._print("")
        self._print(self._wrapped(title), "bold")
        if laid.headings:
            self._print("\n".join(laid.headings), "dim")
        if laid.body:
            self._print("\n".join(laid.body))

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show progress on the error stream, unless ``quiet``."""
        if self.quiet:
            yield no_progress
            return
        with progress() as update:
            yield update

    @property
    def _stream(self) -> IO[str]:
        return sys.stderr if self._on_stderr else sys.stdout

    @property
    def _width(self) -> int | None:
        """The terminal's width in columns; None if there is no terminal, so that lines may have any width."""
        stream = self._stream
        if not is_terminal(stream):
            return None
        wanted = os.environ.get("COLUMNS", "")
        if wanted.isascii() and wanted.isdigit() and int(wanted) > 0:
            return int(wanted)
        with contextlib.suppress(OSError, ValueError):
            return os.get_terminal_size(stream.fileno()).columns or USUAL_COLUMNS
        return USUAL_COLUMNS

    def _wrapped(self, text: str) -> str:
        width = self._width
        return text if width is None or "\n" in text else hanging(text, width, INDENT)

    def _print(self, text: str, style: str | None = None) -> None:
        from rich.console import Console

        self._begun = True
        stream = self._stream
        lines = "\n".join(map(printable, text.split("\n")))  # names come from files
        for letter, plain in PLAIN.items():
            if letter in lines and not _can_show(stream, letter):
                lines = lines.replace(letter, plain)
        console = Console(file=stream)
        with contextlib.nullcontext() if self._on_stderr else named_output():
            console.print(lines, style=style, markup=False, highlight=False, soft_wrap=True)


def _can_show(stream: IO[str], text: str) -> bool:
    """Whether a stream's encoding has all characters of a text."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def suggest_opening(terminal: Terminal, page: Path | None) -> None:
    """Suggest opening the page that was written, if there is one."""
    if page is not None and not is_stream(page):
        terminal.suggest(f"open {shlex.quote(str(page))} in a browser")


def check_writable(path: Path) -> None:
    """Find out before any work is done that a file cannot be written.

    Raises:
        OSError: The file's folder cannot be made or written to, or the path is a folder.
    """
    if is_stream(path) or path == STANDARD_OUTPUT:
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # missing folders are made when the file is written
    folder = next(each for each in resolved(path).parents if each.exists())
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def size_of(path: Path) -> str:
    """A file's size in words, such as "12.4 KiB"."""
    return size(path.stat().st_size)
