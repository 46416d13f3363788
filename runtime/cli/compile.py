"""``resformer-compile``: compiling, and the options that may also run the result, ``--report`` and ``--sweep``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from resformer.compiler.atomic import resolved, write_json, write_text
from resformer.runtime.cli.compile_options import NO_CHIP, check_unsearched, compile_build, compile_parser
from resformer.runtime.cli.event_options import check_event_usage, event_binning
from resformer.runtime.cli.inputs import add_input_options, check_input_usage, require_input, show_run_notices
from resformer.runtime.cli.outputs import check_outputs, chip_file, terminal_for, write_result
from resformer.runtime.cli.sample_options import PREPROCESSING, check_preprocessing_usage
from resformer.runtime.cli.terminal import (
    DONE,
    FAILED,
    Parser,
    Terminal,
    UsageError,
    check_writable,
    run_shared,
    suggest_opening,
)
from resformer.runtime.run.processes import Processes

NOT_SWEPT = (
    *("help", "version", "limits", "print_completion", "model", "target", "output", "check", "json", "dump_after"),
    *("quiet", "classes"),
    *PREPROCESSING,
)
"""Arguments that a sweep cannot vary, because they are no choice about the network."""
FLAG_VALUES = {"no": False, "yes": True}
TABLES = (".json", ".csv")


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, or sweep, whose combinations several processes can share; returns the exit status."""
    return run_shared(_parser(), argv, _compile, shares=lambda arguments: arguments.sweep is not None)


def _parser() -> Parser:
    parser = compile_parser()
    more = parser.add_argument_group("what to show of it")
    more.add_argument(
        "--sweep",
        nargs="+",
        type=_axis,
        metavar="OPTION=V,V",
        help="compile once for each combination of values, such as --sweep weight-bits=4,8 timesteps=2,4, and print "
        "one table; with --report, also write a page with a Pareto plot. No build is written. The exit status is 1 if "
        "a combination fails. Several processes can share the combinations: torchrun --nproc-per-node 2 --no-python "
        "resformer-compile ...",
    )
    more.add_argument(
        "--table",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="with --sweep: file to write the table to, .json or .csv; repeatable",
    )
    more.add_argument(
        "--report",
        type=Path,
        metavar="FILE.html",
        help="page to write; it shows the build. With --sweep, it shows all combinations, and a folder beside it holds "
        "a page for each of them",
    )
    group = parser.add_argument_group("with --sweep or --report: samples to run in sim (default: none)")
    add_input_options(group, required=False)
    return parser


def _compile(arguments: argparse.Namespace, processes: Processes) -> int:
    if arguments.input is None:
        require_input(arguments)
        check_preprocessing_usage(arguments, *filter(None, (arguments.calibration,)))
        check_event_usage(arguments, arguments.calibration)
    elif arguments.sweep is None and arguments.report is None:
        raise UsageError("--input: goes with --sweep or --report")
    elif arguments.sweep is None and set(arguments.target) == {"nir"}:
        raise UsageError("--input: --target nir writes no program to run; add --target sim, or leave out --input")
    else:
        check_input_usage(arguments, *filter(None, (arguments.calibration,)))
    samples = (arguments.calibration, arguments.input, arguments.labels)
    read = [arguments.model, *samples, chip_file(arguments.chip)]
    written = {"--json": arguments.json, "--report": arguments.report}
    tables = {f"--table {path}": path for path in arguments.table}
    check_outputs({**written, **tables}, read, filter(None, (arguments.output,)))
    if arguments.sweep is not None:
        return _sweep(arguments, processes)
    if arguments.output is not None:
        from resformer.compiler.files.build import check_replaceable

        check_replaceable(arguments.output, filter(None, read))
    if arguments.table:
        raise UsageError("--table: goes with --sweep")
    if arguments.report is None:
        return compile_build(arguments)
    if arguments.check:
        raise UsageError("--report: shows a build, and --check writes none")
    check_writable(arguments.report)
    if arguments.output is not None and resolved(arguments.report) == resolved(arguments.output):
        raise UsageError(f"--report: {arguments.report} is the build's folder; name a file, such as report.html in it")
    status = compile_build(arguments, lambda terminal: _report(arguments, terminal))
    suggest_opening(Terminal(quiet=arguments.quiet), arguments.report)
    return status


def _report(arguments: argparse.Namespace, terminal: Terminal) -> None:
    """Write the page of the build that was just written."""
    from resformer.runtime.compiled import load
    from resformer.runtime.page.content import SAMPLES
    from resformer.runtime.page.write import write_page

    given = None
    with terminal.progress() as update:
        compiled = load(arguments.output, arguments.model)
        if arguments.input is not None:
            given = compiled.read(
                arguments.input, samples=arguments.samples, labels=arguments.labels, binning=event_binning(arguments)
            )
            given = given if arguments.samples else given.first(SAMPLES)
        shown = compiled.shown(given, progress=update)
        write_page((shown,), arguments.report)
    show_run_notices(terminal, [shown])
    terminal.wrote(arguments.report)


def _sweep(arguments: argparse.Namespace, processes: Processes) -> int:
    """Compile, place and run every combination; print and write the table."""
    for name in ("target", "output", "check", "dump_after"):
        if getattr(arguments, name):
            raise UsageError(f"--{name.replace('_', '-')}: not with --sweep, which writes no build")
    axes = _axes(arguments.sweep)
    precisions = {arguments.precision, *(text for text, _, _ in axes.get("precision", ()))}
    if "auto" not in precisions and (arguments.synapse_budget is not None or "synapse-budget" in axes):
        raise UsageError("--synapse-budget: goes with --precision auto")
    if {arguments.optimize, *(text for text, _, _ in axes.get("optimize", ()))} == {"cores"}:
        check_unsearched(arguments, axes)
    for path in arguments.table:
        if path.suffix not in TABLES:
            raise UsageError(f"--table: {path} ends in neither {' nor '.join(TABLES)}")
    if processes.leads:
        for path in (*arguments.table, *filter(None, (arguments.json,))):
            check_writable(path)
    pages = None if arguments.report is None else arguments.report.parent / f"{arguments.report.stem}-points"
    if arguments.report is not None and pages is not None and processes.leads:
        check_writable(arguments.report)
        check_writable(pages / "page.html")
    terminal = terminal_for(arguments, leads=processes.leads)
    with terminal.progress() as update:
        update("starting", 0, 0)
        from resformer.runtime.cli import sweep

        points = sweep.run(arguments, axes, update, processes, pages)
        sweep.require_any(points)
        failed = [point for point in points if point.error is not None]
        if not processes.leads:
            return FAILED if failed else DONE
        for path in arguments.table:
            if path.suffix == ".csv":
                write_text(path, sweep.to_csv(points))
            else:
                write_json(path, sweep.to_json(points, arguments))
        if arguments.report is not None and pages is not None:
            from resformer.runtime.page.sweep import write_sweep_page

            write_sweep_page(
                sweep.to_json(points, arguments),
                pages=sweep.links(points, pages),
                told={kind: sweep.told(points, kind) for kind in sweep.TOLD},
                path=arguments.report,
            )
    for line in sweep.told(points, "notes"):
        terminal.line(f"note: {line}")
    for line in sweep.told(points, "warnings"):
        terminal.warning(line)
    terminal.wrote(*arguments.table)
    if pages is not None and arguments.report is not None:
        terminal.wrote(*(pages / point.page for point in points if point.page is not None), arguments.report)
    if arguments.json is not None:
        write_result(terminal, arguments.json, sweep.to_json(points, arguments))
    terminal.table(f"{arguments.model.name}, {len(points)} ways", *sweep.rows(points))
    for point in failed:
        terminal.line(f"{point.title}: {point.error}", style="red")
    suggest_opening(terminal, arguments.report)
    return FAILED if failed else DONE


def _axis(text: str) -> str:
    if "=" not in text:
        # argparse takes all arguments after --sweep for its values
        raise argparse.ArgumentTypeError(f"{text!r} is not OPTION=V,V; if it is MODEL, name it before --sweep")
    return text


def _axes(texts: Sequence[str]) -> dict[str, list[tuple[str, str, object]]]:
    """The options that vary, with their values, each as (text, the argument's name, value).

    Raises:
        UsageError: An option or a value does not exist, or is there twice.
    """
    parser = compile_parser()
    actions = {
        text.removeprefix("--"): action
        for action in parser._actions
        for text in action.option_strings
        if text.startswith("--") and action.dest not in NOT_SWEPT and not _negates(action, text)
    }
    axes: dict[str, list[tuple[str, str, object]]] = {}
    for text in texts:
        key, _, values = text.partition("=")
        key = key.removeprefix("--")
        if key not in actions:
            raise UsageError(f"--sweep: there is no option {key!r} to vary; there are {', '.join(sorted(actions))}")
        if key in axes:
            raise UsageError(f"--sweep: {key} is there twice; name its values together, {key}=V,V")
        given = values.split(",")
        if "" in given or len(set(given)) != len(given):
            raise UsageError(f"--sweep: {text}: write different values, {key}=V,V")
        axes[key] = [(each, actions[key].dest, _value(parser, actions[key], key, each)) for each in given]
    return axes


def _negates(action: argparse.Action, text: str) -> bool:
    """Whether an option is the ``--no-`` form of another, which has both values: ``--no-stem-pool``."""
    return isinstance(action, argparse.BooleanOptionalAction) and text.startswith("--no-")


def _value(parser: Parser, action: argparse.Action, key: str, text: str) -> object:
    """The value of an option, parsed from text.

    Raises:
        UsageError: There is no such value.
    """
    if action.nargs == 0:
        if text not in FLAG_VALUES:
            raise UsageError(f"--sweep: {key}={text}: is {' or '.join(FLAG_VALUES)}")
        return FLAG_VALUES[text]
    try:
        found: object = getattr(parser.parse_args(["MODEL", f"--{key}={text}"]), action.dest)
    except UsageError as error:
        raise UsageError(f"--sweep: {error}") from error
    if key == "chip" and found != NO_CHIP:
        from resformer.compiler.chips.chip import load_chip

        load_chip(str(found))
    return found
