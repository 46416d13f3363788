"""Options that name samples, and functions that read those samples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resformer.runtime.cli.event_options import RECORDINGS, add_event_options, check_event_usage, event_binning
from resformer.runtime.cli.sample_options import check_preprocessing_usage, require_file, run_preprocessing
from resformer.runtime.cli.terminal import UsageError, positive_int

if TYPE_CHECKING:
    from resformer.compiler.ir.program import Scheduled
    from resformer.runtime.cli.terminal import Terminal
    from resformer.runtime.given import Given, GivenBuild, Held
    from resformer.runtime.page.content import Shown


def add_input_options(parser: argparse._ActionsContainer, *, required: bool = True) -> None:
    """Add options that name samples; ``add_preprocessing_options`` adds those that say what is done to them."""
    parser.add_argument(
        "--input",
        type=Path,
        required=required,
        metavar="X",
        help="a folder of images or recordings; or images (N, C, H, W) or event frames (N, T, C, H, W) as .npy or "
        f".npz; or a recording of an event camera ({RECORDINGS}). Pixels of 8 bits are divided by 255",
    )
    parser.add_argument(
        "--samples",
        type=positive_int,
        metavar="N",
        help="use only the first N samples; from a folder with a folder for each class, use the first of each class, "
        "N in all",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="L.npy",
        help="true classes (N,), to measure accuracy (default: the folders' names, if each class has a folder)",
    )
    add_event_options(parser)


def check_input_usage(arguments: argparse.Namespace, *others: Path) -> None:
    """Find out before any work is done that the options of the input contradict each other.

    Args:
        arguments: The parsed arguments.
        others: Samples besides the input that are read in the same way.

    Raises:
        UsageError: The options contradict each other.
        OSError: There is no such input.
    """
    check_preprocessing_usage(arguments, arguments.input, *others)
    check_event_usage(arguments, arguments.input, *others)
    if arguments.labels is not None:
        require_file(arguments.labels)


def require_input(arguments: argparse.Namespace, *others: str, needed: str = "--input") -> None:
    """Refuse options that say something about samples if there are no samples.

    Args:
        arguments: The parsed arguments.
        others: Options to refuse besides ``--samples`` and ``--labels``, under their names in ``arguments``.
        needed: The option that they need, for the message.

    Raises:
        UsageError: One of them was given.
    """
    for name in ("samples", "labels", *others):
        if getattr(arguments, name) not in (None, False, []):
            raise UsageError(f"--{name}: goes with {needed}")


def read_samples(arguments: argparse.Namespace, program: Scheduled, held: Held) -> Given:
    """The samples that the options name.

    Args:
        arguments: The parsed arguments.
        program: The program that the samples must fit.
        held: What the program's build holds about samples.

    Raises:
        ResformerError: The samples are damaged, or do not fit the program.
    """
    from resformer.runtime import given

    return given.read_given(
        arguments.input,
        program,
        samples=arguments.samples,
        labels=arguments.labels,
        held=held,
        preprocessing=run_preprocessing(arguments, held.preprocessing),
        binning=event_binning(arguments),
    )


def show_notices(terminal: Terminal, given: Given) -> None:
    """Print what a reader should know about how samples were read, a line each."""
    for line in given.warnings:
        terminal.warning(line)
    for line in given.notes:
        terminal.line(f"note: {line}")


def show_run_notices(terminal: Terminal, shown: Sequence[Shown]) -> None:
    """Print what a reader should know about the runs that a page shows and about their samples, each line once."""
    runs = [each.run for each in shown if each.run is not None]
    for line in dict.fromkeys(line for run in runs for line in run["warnings"]):
        terminal.warning(line)
    for line in dict.fromkeys(line for run in runs for line in run["notes"]):
        terminal.line(f"note: {line}")


def read_given(arguments: argparse.Namespace, directory: Path) -> GivenBuild:
    """A build, and the samples that the options name.

    Raises:
        ResformerError: The build or the samples are damaged, or do not fit each other.
    """
    from resformer.compiler.files.build import read_build
    from resformer.runtime.given import GivenBuild, Held

    build = read_build(directory)
    program = build.program()
    return GivenBuild(**vars(read_samples(arguments, program, Held.by(build.report))), build=build, program=program)
