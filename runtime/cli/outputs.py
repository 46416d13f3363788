"""Outputs of a command: none may overwrite an input, another output, or a file of a build."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from resformer.compiler.atomic import is_inside, is_stream, resolved, write_json
from resformer.runtime.cli.process import named_output
from resformer.runtime.cli.terminal import STANDARD_OUTPUT, Terminal, UsageError


def add_json_option(group: argparse._ActionsContainer, metavar: str, what: str) -> None:
    """Add ``--json``.

    Args:
        group: The group of options in which the help lists it.
        metavar: What stands for the file in the help.
        what: What is written, for the help.
    """
    group.add_argument(
        "--json",
        type=Path,
        metavar=metavar,
        help=f"{what}; - means standard output, which then holds nothing else (all output for people goes to standard "
        "error)",
    )


def terminal_for(arguments: argparse.Namespace, *, leads: bool = True) -> Terminal:
    """The terminal that a command prints to.

    Args:
        arguments: The arguments of a command with ``--quiet`` and ``--json``.
        leads: Whether this process is the one of several that prints.
    """
    return Terminal(quiet=arguments.quiet or not leads, on_stderr=arguments.json == STANDARD_OUTPUT)


def write_result(terminal: Terminal, path: Path, content: Any) -> None:
    """Write the result that ``--json`` asks for, and name the file.

    Raises:
        OSError: The result cannot be written.
    """
    if path != STANDARD_OUTPUT:
        write_json(path, content)
        terminal.wrote(path)
        return
    with named_output():
        sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")
        sys.stdout.flush()


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[object], builds: Iterable[Path] = ()) -> None:
    """Find out before any work is done that an output would overwrite something that is needed.

    Outputs to devices and pipes are always allowed. Files in an input's folder must not be overwritten, but new files
    may be written there.

    Args:
        outputs: Files to write, by their options; None for an option that was not given.
        inputs: Files and folders that are read; values that are not paths are ignored.
        builds: Folders of builds that are read or written.

    Raises:
        UsageError: An output would overwrite an input, another output, or a file of a build.
    """
    from resformer.compiler.files.build import FILES

    paths = [each for each in inputs if isinstance(each, Path)]
    given = {
        option: path
        for option, path in outputs.items()
        if path is not None and path != STANDARD_OUTPUT and not is_stream(path)
    }
    for option, path in given.items():
        for other, another in given.items():
            if option < other and _is_same(path, another):
                raise UsageError(f"{option}: {path} is what {other} writes; name another file")
        for each in paths:
            if path.exists() and (_is_same(path, each) or is_inside(path, each)):
                raise UsageError(f"{option}: {path} is read as input; name another file")
        for build in builds:
            if path.name in FILES and _is_same(path.parent, build):
                raise UsageError(f"{option}: {path} is a file of the build itself; name another file")


def chip_file(chip: str | None) -> Path | None:
    """The file that ``--chip`` names; None if it names no file, such as a packaged chip."""
    return Path(chip) if chip is not None and Path(chip).is_file() else None


def _is_same(path: Path, other: Path) -> bool:
    """Whether two paths lead to the same file or folder; it need not exist."""
    if path.exists() and other.exists():
        return path.samefile(other)
    return resolved(path) == resolved(other)
