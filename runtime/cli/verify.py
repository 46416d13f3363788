"""``resformer-verify``: compare a build with the network that it was compiled from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resformer.compiler.ir.summary import counted
from resformer.compiler.progress import Progress
from resformer.errors import InputError
from resformer.runtime.cli.inputs import read_given
from resformer.runtime.cli.outputs import add_json_option, check_outputs, terminal_for, write_result
from resformer.runtime.cli.running import add_running_options, check_running_usage
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

if TYPE_CHECKING:
    from resformer.runtime.given import GivenBuild
    from resformer.runtime.verify.limits import Limits
    from resformer.runtime.verify.result import Verification

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
LIMITS = {"--min-agreement": "min_agreement", "--max-accuracy-drop": "max_accuracy_drop"}
"""Options that set limits on accuracy, with their names in the parsed arguments."""


def main(argv: Sequence[str] | None = None) -> int:
    """Verify a build, alone or as one of several processes; exit status 0 if equivalent and accurate enough, else 1."""
    return run_shared(_parser(), argv, _verify)


def _parser() -> Parser:
    parser = Parser(
        prog="resformer-verify",
        description="Compare a compiled network with the original, spike for spike.",
        epilog="The last three lines are the verdict: whether the spikes are the same (E1 to E3), what became of "
        "accuracy, and what to know about both. Several processes can share the samples, each on a GPU of its own: "
        "torchrun --nproc-per-node 2 --no-python resformer-verify ... Exit status: 0 equivalent and as accurate as "
        "demanded, 1 failed, not equivalent, or less accurate than demanded, 2 wrong usage.",
    )
    add_running_options(parser)
    parser.add_argument(
        "--model",
        type=Path,
        metavar="MODEL",
        help="the original: the checkpoint, .nir file or .net file that was compiled; without it, the checks E1 and E4 "
        "are not run",
    )
    parser.add_argument(
        "--model-code",
        type=_reference,
        metavar="PACKAGE.MODULE:FUNCTION",
        help="take your own network, not resformer's, for the left side of E1: FUNCTION takes no arguments and returns "
        "the network. The current folder is searched first. MODEL's weights are loaded into the network. The code is "
        "imported and run, so name only code that you trust",
    )
    parser.add_argument(
        "--local",
        action="store_true",
        help="with --model: feed each layer the inputs that it has in the original, and say which layer to blame for "
        "what quantization changed",
    )
    parser.add_argument(
        "--local-plot",
        type=_plot_path,
        metavar="P.png",
        help="with --model: do what --local does, and draw the result in this file, "
        f"{_either(PLOT_SUFFIXES)} (needs matplotlib)",
    )
    parser.add_argument(
        "--min-agreement",
        type=_share,
        metavar="SHARE",
        help="with --model: exit with 1 if a smaller share of the samples than this has the same top-1 class as in the "
        "original: 0 to 1, such as 0.9 for 90 percent",
    )
    parser.add_argument(
        "--max-accuracy-drop",
        type=_share,
        metavar="SHARE",
        help="with --model and labels: exit with 1 if accuracy drops by more than this share of the samples: 0 to less "
        "than 1, such as 0.01 for one point",
    )
    add_json_option(parser, "R.json", "file to write the results to")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE.html",
        help="page to write; it shows the build, these results, and a run of the first samples",
    )
    parser.add_quiet_option(parser, "the verdict, errors and warnings")
    return parser


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 0.9") from None


def _plot_path(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {_either(PLOT_SUFFIXES)}")
    return path


def _reference(text: str) -> str:
    module, colon, function = text.partition(":")
    names = [*module.split("."), *function.split(".")]
    if not colon or not all(name.isidentifier() for name in names):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form package.module:function")
    return text


def _either(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _verify(arguments: argparse.Namespace, processes: Processes) -> int:
    local = arguments.local or arguments.local_plot is not None
    limits = _limits(arguments)
    _check_usage(arguments, processes, local=local)
    terminal = terminal_for(arguments, leads=processes.leads)
    with terminal.progress() as update:
        update("starting", 0, 0)
        from resformer.runtime.given import describe_verification
        from resformer.runtime.verify.local_plot import plot_local, require_matplotlib
        from resformer.runtime.verify.verify import Comparing, verify

        if arguments.local_plot is not None:
            require_matplotlib()
        given = read_given(arguments, arguments.build)
        processes.share(len(given.samples))
        if limits.max_accuracy_drop is not None and given.labels is None:
            raise UsageError("--max-accuracy-drop: there are no labels to measure accuracy by; give --labels")
        user = None
        if arguments.model_code is not None:
            from resformer.runtime.verify.user_code import load_user_module
            from resformer.runtime.verify.user_network import user_network

            update("importing your code", 0, 0)
            module = load_user_module(arguments.model_code, arguments.model, given.build)
            user = user_network(module, given.program, called=arguments.model_code)
        result = verify(
            given.build,
            given.samples,
            given.program,
            Comparing(
                backend=arguments.backend,
                labels=given.labels,
                stock_models=arguments.stock_models,
                device=processes.device(arguments.device),
                batch_size=arguments.batch_size,
                self_check=arguments.self_check,
                limits=limits,
                update=update,
                processes=processes,
            ),
            model=arguments.model,
            local=local,
            user=user,
        )
        result = describe_verification(result, given)
        if not processes.leads:
            return DONE if result.passed else FAILED
        if arguments.report is not None:
            _write_page(arguments, given, result, update)
    if arguments.local_plot is not None:
        plot_local(result.local, arguments.local_plot)
    _show(terminal, arguments, result)
    return DONE if result.passed else FAILED


def _limits(arguments: argparse.Namespace) -> Limits:
    """The limits on accuracy that the arguments set.

    Raises:
        UsageError: A number is out of its range.
    """
    from resformer.runtime.verify.limits import Limits

    try:
        return Limits(**{name: getattr(arguments, name) for name in LIMITS.values()})
    except InputError as error:
        name, _, message = str(error).partition(": ")
        raise UsageError(f"--{name.replace('_', '-')}: {message}") from error


def _check_usage(arguments: argparse.Namespace, processes: Processes, *, local: bool) -> None:
    """Find out before any work is done that the work would be in vain.

    Raises:
        UsageError: Options contradict each other.
        OSError: An output cannot be written.
    """
    written = {"--json": arguments.json, "--report": arguments.report, "--local-plot": arguments.local_plot}
    check_outputs(written, [arguments.input, arguments.labels, arguments.model], [arguments.build])
    check_running_usage(arguments, arguments.json if processes.leads else None)
    if arguments.model_code is not None and arguments.model is None:
        raise UsageError("--model-code: needs the weights that your code is compared with; name them with --model")
    if local and arguments.model is None:
        raise UsageError("--local: compares with the original; name it with --model")
    for option, name in LIMITS.items():
        if getattr(arguments, name) is not None and arguments.model is None:
            raise UsageError(f"{option}: compares with the original; name it with --model")
    if processes.leads:
        for path in filter(None, (arguments.local_plot, arguments.report)):
            check_writable(path)


def _write_page(arguments: argparse.Namespace, given: GivenBuild, result: Verification, update: Progress) -> None:
    """Write the page that shows the build, the results, and a run of the first samples."""
    from resformer.runtime.page.content import SAMPLES, as_shown, run_and_show
    from resformer.runtime.page.write import write_page
    from resformer.runtime.verify.as_json import to_json

    weights_alone = arguments.model_code is not None and (given.build.from_nir or given.build.from_module)
    model = None if weights_alone else arguments.model
    seen, cost = run_and_show(given.first(SAMPLES), model=model, update=update)
    shown = as_shown(given.build, verification=to_json(result), run=seen, cost=cost, verified=given)
    write_page((shown,), arguments.report)


def _show(terminal: Terminal, arguments: argparse.Namespace, result: Verification) -> None:
    """Print and write what verification found; the verdict comes last."""
    from resformer.runtime.verify.as_json import to_json
    from resformer.runtime.verify.result import layer_rows
    from resformer.runtime.verify.tables import blame, check_rows, facts, local_rows

    terminal.table("Mismatched spikes by population", *layer_rows(result))
    samples, steps = counted(result.samples, "sample"), counted(result.timesteps, "step")
    terminal.table(f"{arguments.build}, {samples}, {steps}", *check_rows(result))
    if result.local:
        terminal.table("Each layer alone, fed the original's inputs, the worst first", *local_rows(result))
        terminal.line(blame(result))
    for line in facts(result):
        terminal.line(line)
    if arguments.json is not None:
        write_result(terminal, arguments.json, to_json(result))
    terminal.wrote(*filter(None, (arguments.local_plot, arguments.report)))
    suggest_opening(terminal, arguments.report)
    same_spikes, accuracy, known = result.verdict
    # equal spikes prove nothing if the network never fires
    proves = "green" if any(result.fired.values()) else "yellow"
    terminal.verdict(same_spikes, style=proves if result.equivalent else "red")
    terminal.verdict(accuracy, style="red" if result.equivalent and not result.passed else None)
    terminal.verdict(known, style="yellow" if result.doubts else None)
