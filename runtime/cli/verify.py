"""``resformer-verify``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resformer.compiler.atomic import write_json
from resformer.compiler.ir.summary import counted
from resformer.compiler.progress import Progress
from resformer.runtime.cli.inputs import read_given
from resformer.runtime.cli.outputs import check_outputs
from resformer.runtime.cli.running import add_running_options, check_running_usage
from resformer.runtime.cli.terminal import DONE, FAILED, Parser, Terminal, UsageError, check_writable, run_command
from resformer.runtime.run.processes import from_environment

if TYPE_CHECKING:
    from resformer.runtime.given import GivenBuild
    from resformer.runtime.verify.result import Verification

PLOT_SUFFIXES = (".png", ".svg", ".pdf")


def main(argv: Sequence[str] | None = None) -> int:
    """Verify a build; returns the exit status: 0 equivalent, 1 not."""
    return run_command(_parser(), argv, _verify)


def _parser() -> Parser:
    parser = Parser(
        prog="resformer-verify",
        description="Compare a compiled SpikingResformer with its checkpoint, spike for spike.",
        epilog="Exit status: 0 equivalent, 1 failed or not equivalent, 2 wrong usage.",
    )
    add_running_options(parser)
    parser.add_argument(
        "--model",
        type=Path,
        metavar="MODEL",
        help="the checkpoint that was compiled; without it, E1 and E4 are not run",
    )
    parser.add_argument(
        "--local",
        action="store_true",
        help="feed each layer the original's inputs, and say which one to blame for what quantization changed",
    )
    parser.add_argument(
        "--local-plot",
        type=_plot_path,
        metavar="P.png",
        help=f"file to draw that in as well, {_either(PLOT_SUFFIXES)} (needs matplotlib)",
    )
    parser.add_argument("--json", type=Path, metavar="R.json", help="file to write the results to")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE.html",
        help="page to write that shows the build, these results, and a run of the first samples",
    )
    return parser


def _plot_path(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {_either(PLOT_SUFFIXES)}")
    return path


def _either(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _verify(arguments: argparse.Namespace) -> int:
    local = arguments.local or arguments.local_plot is not None
    _check_usage(arguments, local=local)
    terminal = Terminal()
    with terminal.progress() as update:
        update("starting", 0, 0)
        from resformer.runtime.verify.as_json import to_json
        from resformer.runtime.verify.local_plot import plot_local, require_matplotlib
        from resformer.runtime.verify.verify import Comparing, verify

        if arguments.local_plot is not None:
            require_matplotlib()
        given = read_given(arguments, arguments.build)
        result = verify(
            given.build,
            given.samples,
            given.program,
            Comparing(
                backend=arguments.backend,
                labels=given.labels,
                stock_models=arguments.stock_models,
                device=arguments.device,
                batch_size=arguments.batch_size,
                self_check=arguments.self_check,
                update=update,
            ),
            model=arguments.model,
            local=local,
        )
        if arguments.report is not None:
            _write_page(arguments, given, result, update)
    if arguments.local_plot is not None:
        plot_local(result.local, arguments.local_plot)
    if arguments.json is not None:
        write_json(arguments.json, to_json(result))
    _show(terminal, arguments, result)
    return DONE if result.equivalent else FAILED


def _check_usage(arguments: argparse.Namespace, *, local: bool) -> None:
    """Find out before any work is done that it would be in vain.

    Raises:
        UsageError: Options contradict each other, or several processes were started.
        OSError: An output cannot be written.
    """
    if from_environment().count > 1:
        raise UsageError("start one process: only resformer-run shares its samples among several")
    written = {"--json": arguments.json, "--report": arguments.report, "--local-plot": arguments.local_plot}
    check_outputs(written, [arguments.input, arguments.labels, arguments.model], [arguments.build])
    check_running_usage(arguments, arguments.json)
    if local and arguments.model is None:
        raise UsageError("--local: compares with the original; name it with --model")
    if arguments.local_plot is not None:
        check_writable(arguments.local_plot)
    if arguments.report is not None:
        check_writable(arguments.report)


def _write_page(arguments: argparse.Namespace, given: GivenBuild, result: Verification, update: Progress) -> None:
    """Write the page of the build and the results, and of a run of the first samples."""
    from resformer.runtime.page.content import SAMPLES, as_shown, run_and_show
    from resformer.runtime.page.write import write_page
    from resformer.runtime.verify.as_json import to_json

    seen, cost = run_and_show(given.first(SAMPLES), model=arguments.model, update=update)
    write_page((as_shown(given.build, verification=to_json(result), run=seen, cost=cost),), arguments.report)


def _show(terminal: Terminal, arguments: argparse.Namespace, result: Verification) -> None:
    """Print what verification found, the verdict last."""
    from resformer.runtime.verify.tables import blame, check_rows, facts, layer_rows, local_rows

    terminal.table("Mismatched spikes by population", *layer_rows(result))
    samples, steps = counted(result.samples, "sample"), counted(result.timesteps, "step")
    terminal.table(f"{arguments.build}, {samples}, {steps}", *check_rows(result))
    if result.local:
        terminal.table("Each layer alone, fed the original's inputs, the worst first", *local_rows(result))
        terminal.line(blame(result))
    for line in facts(result):
        terminal.line(line)
    terminal.line(
        "EQUIVALENT" if result.equivalent else "NOT EQUIVALENT", style="green" if result.equivalent else "red"
    )
