"""``resformer-report``: a page that shows a build, or compares several."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from resformer.compiler.chips.chip import PACKAGED
from resformer.compiler.progress import Progress
from resformer.runtime.cli.event_options import check_event_usage
from resformer.runtime.cli.inputs import (
    add_input_options,
    check_input_usage,
    read_samples,
    require_input,
    show_run_notices,
)
from resformer.runtime.cli.outputs import check_outputs, chip_file
from resformer.runtime.cli.sample_options import PREPROCESSING, add_run_preprocessing_options
from resformer.runtime.cli.terminal import (
    DONE,
    Parser,
    Terminal,
    UsageError,
    check_writable,
    run_command,
    suggest_opening,
)

if TYPE_CHECKING:
    from resformer.runtime.page.content import Shown

ONE_A_BUILD = MappingProxyType(
    {
        "verify": (
            "R.json",
            "what resformer-verify --json wrote; for several builds, repeat the option once for each, in their order",
        ),
        "cost": (
            "C.json",
            "what resformer-run --cost --json wrote; one for each build (default: estimated from a run of --input)",
        ),
        "model": (
            "MODEL",
            "with --input: what was compiled, to draw where the build's spikes differ from its own; one for each build",
        ),
    }
)
"""Options that name one file for each build: the placeholder in the help, and what the file is."""


MOST_DIGITS = 10
"""A number in a neuron's index must have fewer digits: no population is that large."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; returns the exit status."""
    return run_command(_parser(), argv, _report)


def _parser() -> Parser:
    parser = Parser(
        prog="resformer-report",
        description="Show a build, or compare several, on one page that opens without the internet.",
        epilog="Without --input, the page shows only what the builds themselves hold, and says what is missing. Exit "
        "status: 0 done, 1 failed, 2 wrong usage.",
    )
    parser.add_argument(
        "builds",
        type=Path,
        nargs="+",
        metavar="BUILD",
        help="folder that resformer-compile wrote; several folders are compared",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="report.html", help="page to write")
    add_input_options(parser, required=False)
    add_run_preprocessing_options(parser)
    for name, (metavar, meaning) in ONE_A_BUILD.items():
        parser.add_argument(f"--{name}", type=Path, action="append", default=[], metavar=metavar, help=meaning)
    parser.add_argument(
        "--trace",
        type=_neuron,
        action="append",
        default=[],
        metavar="NAME:INDEX",
        help="with --input: also show the membrane trace of this neuron, such as layers.0.1.up.0:3,0,5. NAME is its "
        "population. INDEX is its channel, row and column, or its place in the population; repeatable (default: only a "
        "few neurons of each population that are worth a look)",
    )
    parser.add_argument(
        "--chip",
        metavar=f"{{{','.join(PACKAGED)},FILE.yaml}}",
        help="with --input and without --cost: estimate the cost for another chip than the builds were placed on, or "
        "with other constants",
    )
    parser.add_quiet_option(parser, "errors and warnings")
    return parser


def _neuron(text: str) -> tuple[str, tuple[int, ...] | int]:
    """An argument type: a population and one of its neurons.

    Raises:
        ArgumentTypeError: The text is not NAME:INDEX.
    """
    name, _, index = text.rpartition(":")
    parts = index.split(",")
    if not name or not all(part.isascii() and part.isdigit() and len(part) < MOST_DIGITS for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:INDEX, such as layers.0.1.up.0:3,0,5")
    numbers = tuple(map(int, parts))
    return name, numbers if len(numbers) > 1 else numbers[0]


def _check_usage(arguments: argparse.Namespace) -> None:
    """Find out before any work is done that the arguments contradict each other.

    Raises:
        UsageError: They contradict each other.
        OSError: The page cannot be written.
    """
    builds = len(arguments.builds)
    for name in ONE_A_BUILD:
        given = getattr(arguments, name)
        if given and len(given) != builds:
            raise UsageError(f"--{name}: {len(given)} files for {builds} builds; give one each, in their order")
    if arguments.chip is not None and arguments.cost:
        raise UsageError("--chip: not with --cost, whose files name their chips; leave one out")
    if arguments.input is None:
        require_input(arguments, *PREPROCESSING, "preprocessing", "chip", "model", "trace")
        check_event_usage(arguments)
    else:
        check_input_usage(arguments)
    others = (*arguments.verify, *arguments.cost, *arguments.model)
    read = (arguments.input, arguments.labels, chip_file(arguments.chip), *others)
    check_outputs({"-o": arguments.output}, read, arguments.builds)
    check_writable(arguments.output)


def _report(arguments: argparse.Namespace) -> int:
    _check_usage(arguments)
    terminal = Terminal(quiet=arguments.quiet)
    with terminal.progress() as update:
        update("reading", 0, 0)
        from resformer.runtime.page.write import write_page

        shown = tuple(_shown(arguments, index, update) for index in range(len(arguments.builds)))
        update("writing", 0, 0)
        write_page(shown, arguments.output)
    show_run_notices(terminal, shown)
    terminal.wrote(arguments.output)
    suggest_opening(terminal, arguments.output)
    if len(arguments.builds) == 1:
        _suggest_more(terminal, arguments)
    return DONE


def _suggest_more(terminal: Terminal, arguments: argparse.Namespace) -> None:
    """Suggest commands for the build: what it costs, and what other weight widths would do."""
    given = "IMAGES.npy" if arguments.input is None else shlex.quote(str(arguments.input))
    terminal.suggest(f"resformer-run {shlex.quote(str(arguments.builds[0]))} --input {given} --backend sim --cost")
    if arguments.model:
        model = shlex.quote(str(arguments.model[0]))
        terminal.suggest(f"resformer-compile {model} --sweep weight-bits=4,6,8 --input {given} --samples 32")


def _shown(arguments: argparse.Namespace, index: int, update: Progress) -> Shown:
    """What the page shows of one build; the build is run if there is an input."""
    from resformer.compiler.files import cost as costs
    from resformer.compiler.files import verification as verifications
    from resformer.runtime.compiled import load
    from resformer.runtime.page.content import SAMPLES, read_result

    verification = read_result(arguments.verify[index], verifications.FORMAT) if arguments.verify else None
    cost = read_result(arguments.cost[index], costs.FORMAT) if arguments.cost else None
    compiled = load(arguments.builds[index], arguments.model[index] if arguments.model else None)
    given = verified = None
    if arguments.input is not None:
        whole = read_samples(arguments, compiled.program, compiled.held)
        given = whole.first(SAMPLES) if arguments.samples is None else whole
        verified = None if verification is None else whole.first(verification["samples"])
    return compiled.shown(
        given,
        verification=verification,
        cost=cost,
        chip=arguments.chip,
        verified=verified,
        traced=arguments.trace,
        progress=update,
    )
