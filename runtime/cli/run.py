"""``resformer-run``: run a build on samples, and estimate what that costs on a chip."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from resformer.compiler.atomic import write_atomically
from resformer.compiler.chips.chip import PACKAGED
from resformer.compiler.ir.summary import counted
from resformer.compiler.progress import Progress
from resformer.runtime.cli.inputs import read_given, show_notices
from resformer.runtime.cli.outputs import add_json_option, check_outputs, chip_file, terminal_for, write_result
from resformer.runtime.cli.running import add_running_options, check_running_usage
from resformer.runtime.cli.stream import check_stream_usage, run_stream
from resformer.runtime.cli.terminal import (
    DONE,
    Parser,
    Terminal,
    UsageError,
    check_writable,
    positive_int,
    run_shared,
    suggest_opening,
)
from resformer.runtime.run.processes import Processes
from resformer.runtime.units import COMPARED, quantity

if TYPE_CHECKING:
    from resformer.compiler.chips.chip import Chip
    from resformer.compiler.ir.program import Scheduled
    from resformer.compiler.ir.trace import SpikeTrain
    from resformer.compiler.placement.place import Placement
    from resformer.runtime.cost.cost import Cost
    from resformer.runtime.given import GivenBuild
    from resformer.runtime.run.infer import Inference, Record


def main(argv: Sequence[str] | None = None) -> int:
    """Run inference, alone or as one of several processes; returns the exit status."""
    return run_shared(_parser(), argv, _run)


def _parser() -> Parser:
    parser = Parser(
        prog="resformer-run",
        description="Run a compiled network on samples, in simulation.",
        epilog="OUT.npz holds logits (N, T, classes), predictions (N,) and logits_int. It also holds the files' names "
        "(N,) if the input is a folder, and the classes' names if the build holds them. With --record-spikes, it "
        "holds for each population 'spikes/NAME' (numpy.packbits of the flattened spikes) and 'shape/NAME' (T, N, "
        "...), or 'counts/NAME' (T, N, ...) if the population's neurons send counts. "
        "resformer.load_spikes('OUT.npz') returns spikes and counts as (N, T, ...), in the order of logits and "
        "samples. Several processes can share the samples, each on a GPU of its own: torchrun "
        "--nproc-per-node 2 --no-python resformer-run ... Exit status: 0 done, 1 failed, 2 wrong usage.",
    )
    add_running_options(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.npz", help="file to write the results to")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="run a long recording, or frames (steps, C, H, W) as .npy, in chunks; the memory needed does not depend "
        "on the length",
    )
    parser.add_argument("--record-spikes", action="store_true", help="also write every spike to OUT.npz")
    parser.add_argument(
        "--cost", action="store_true", help="count synaptic operations, and estimate energy and time on the chip"
    )
    parser.add_argument(
        "--chip",
        metavar=f"{{{','.join(PACKAGED)},FILE.yaml}}",
        help="with --cost or --report: estimate for another chip than the build was placed on, or with other constants",
    )
    parser.add_argument(
        "--spread",
        type=positive_int,
        nargs="?",
        const=0,
        metavar="CHIPS",
        help="with --cost: give the slowest layers the idle cores of CHIPS chips (without CHIPS: of the chips in use), "
        "and show what that layout costs",
    )
    add_json_option(parser, "R.json", "with --cost: file to write the cost to")
    parser.add_argument(
        "--report", type=Path, metavar="FILE.html", help="page to write; it shows the build and this run"
    )
    parser.add_quiet_option(parser, "a summary of one line, errors and warnings")
    return parser


def _run(arguments: argparse.Namespace, processes: Processes) -> int:
    _check_usage(arguments, processes)
    if arguments.stream:
        return run_stream(arguments)
    terminal = terminal_for(arguments, leads=processes.leads)
    with terminal.progress() as update:
        update("reading", 0, 0)
        from resformer.runtime.given import describe_run

        given = read_given(arguments, arguments.build)
        bounds = processes.share(len(given.samples))
        chip = _chip(arguments)
        placement = _placement(arguments, given, chip) if arguments.cost else None
        result = _infer(arguments, processes, given, bounds, update)
    if result is None:
        return DONE
    result = describe_run(result, given)
    if arguments.output is not None:
        spikes = result.spikes if arguments.record_spikes else {}
        write_atomically(arguments.output, lambda file: _save(result, spikes, given.names, file))
    if arguments.report is not None:
        from resformer.runtime.page.content import as_shown, run_shown
        from resformer.runtime.page.write import write_page

        seen, cost = run_shown(given, result, arguments.backend, chip)
        write_page((as_shown(given.build, run=seen, cost=cost),), arguments.report)
    if placement is not None:
        _cost(terminal, arguments, given.program, result, placement)
    _show_notices(terminal, given, result)
    terminal.wrote(*filter(None, (arguments.output, arguments.report)))
    suggest_opening(terminal, arguments.report)
    _summarize(terminal, arguments, processes, given, result)
    return DONE


def _check_usage(arguments: argparse.Namespace, processes: Processes) -> None:
    """Find out before any work is done that the work would be in vain.

    Raises:
        UsageError: Options contradict each other.
        OSError: An output cannot be written.
    """
    if arguments.stream:
        check_stream_usage(arguments, processes)
    if arguments.record_spikes and arguments.output is None:
        raise UsageError("--record-spikes: say with -o where to write the spikes")
    needs_cost = [name for name in ("json", "spread") if getattr(arguments, name) is not None]
    if needs_cost and not arguments.cost:
        raise UsageError(f"--{needs_cost[0]}: goes with --cost")
    if arguments.spread is not None and arguments.report is not None:
        raise UsageError("--spread: not with --report, whose page shows the build's own layout; leave one out")
    if arguments.chip is not None and not _counts_cost(arguments):
        raise UsageError("--chip: goes with --cost or --report")
    written = {"-o": arguments.output, "--json": arguments.json, "--report": arguments.report}
    check_outputs(written, [arguments.input, arguments.labels, chip_file(arguments.chip)], [arguments.build])
    check_running_usage(arguments, arguments.output if processes.leads else None)
    if processes.leads:
        for path in filter(None, (arguments.json, arguments.report)):
            check_writable(path)


def _counts_cost(arguments: argparse.Namespace) -> bool:
    """Whether a cost is shown, for which every spike must be counted."""
    return arguments.cost or arguments.report is not None


def _record(arguments: argparse.Namespace) -> Record | None:
    """What the run records of spikes; a cost alone needs only counts, so that any number of samples fits in memory."""
    from resformer.runtime.page.observe import SPIKES_SHOWN
    from resformer.runtime.run.infer import Record

    if arguments.record_spikes:
        return Record(counts=_counts_cost(arguments))
    if not _counts_cost(arguments):
        return None
    return Record(kept=0 if arguments.report is None else SPIKES_SHOWN, counts=True)


def _infer(
    arguments: argparse.Namespace, processes: Processes, given: GivenBuild, bounds: tuple[int, int], update: Progress
) -> Inference | None:
    """Run this process's samples, and gather the results of all processes.

    Args:
        arguments: The parsed arguments.
        processes: The processes that share the samples.
        given: The build, and all samples.
        bounds: The first index and the past-the-last index of this process's samples.
        update: Called with the progress of the run.

    Returns:
        The results of all samples; None in a process that does not lead.

    Raises:
        ResformerError: The samples do not fit in memory, or the backend failed.
    """
    from resformer.compiler.backends import open_backend
    from resformer.runtime.run.infer import (
        conclude,
        infer_part,
        require_room_for_batch,
        require_room_for_spikes,
        samples_at_once,
    )

    program, samples = given.program, given.samples
    record = _record(arguments)
    batch_size = arguments.batch_size or samples_at_once(program, arguments.backend, record=bool(record))
    require_room_for_batch(program, arguments.backend, min(batch_size, bounds[1] - bounds[0]))
    if record:
        require_room_for_spikes(program, record.kept_of(len(samples)))
    runner = open_backend(
        arguments.backend,
        stock_models=arguments.stock_models,
        device=processes.device(arguments.device),
        batch_size=arguments.batch_size,
        self_check=arguments.self_check,
    )
    started = time.perf_counter()

    def show(done: float, total: float) -> None:
        speed = done / (time.perf_counter() - started)
        update(f"running in {arguments.backend}, {done:.0f} of {total:.0f}, {speed:.3g} images/s", done, total)

    part = infer_part(
        program, samples, runner, bounds=bounds, batch_size=batch_size, record=record or False, progress=show
    )
    update("gathering", 0, 0)
    parts = processes.gather(part)
    return None if parts is None else conclude(program, parts, time.perf_counter() - started)


def _chip(arguments: argparse.Namespace) -> Chip | None:
    """The chip that was asked for; None for the one that the build was placed on."""
    from resformer.compiler.chips.chip import load_chip

    return None if arguments.chip is None else load_chip(arguments.chip)


def _placement(arguments: argparse.Namespace, given: GivenBuild, chip: Chip | None) -> Placement:
    """The build's layout on a chip; with ``--spread``, the layout with the fewest cores, from which to spread.

    Raises:
        CapacityError: ``--spread`` names too few or too many chips, or the network takes too many cores.
    """
    from resformer.compiler.placement.place import place
    from resformer.runtime.cost.layout import chips_to_use
    from resformer.runtime.cost.placed import placed

    placement = placed(given.build, given.program, chip)
    if arguments.spread is not None:
        placement = place(given.program, placement.chip)
        chips_to_use(placement, arguments.spread or None)
    return placement


def _cost(
    terminal: Terminal, arguments: argparse.Namespace, program: Scheduled, result: Inference, placement: Placement
) -> None:
    """Estimate what the run costs, print it and write it."""
    from resformer.compiler.placement.activity import activity
    from resformer.runtime.cost.cost import estimate, layer_rows, sop_rows, to_json, total_rows

    assert result.events is not None, "they are counted for a cost"
    done = activity(program, result.events)
    cost = fewest = estimate(program, done, placement)
    if arguments.spread is not None:
        from resformer.runtime.cost.layout import spread

        cost = spread(program, done, fewest, arguments.spread or None)
    terminal.table("Synaptic operations", *sop_rows(cost))
    terminal.table(f"On {placement.chip.name}, a sample", *layer_rows(cost))
    if cost.layout is not None:
        from resformer.runtime.cost.tables import layout_rows

        terminal.table(f"Layouts, activity {cost.layout['activity']}", *layout_rows(cost.layout))
    if arguments.spread is not None:
        before, after = fewest.placement.cores, cost.placement.cores
        terminal.line(
            f"spread: {before:,} to {after:,} cores, "
            f"a step of {_seconds(fewest)} to {_seconds(cost)}, {_joules(fewest)} to {_joules(cost)} a sample"
        )
    terminal.table("Cost of a sample", ("what", "value"), total_rows(cost))
    if arguments.json is not None:
        write_result(terminal, arguments.json, to_json(cost))


def _seconds(cost: Cost) -> str:
    return quantity(cost.step_ns * 1e-9, "s", COMPARED)


def _joules(cost: Cost) -> str:
    return quantity(cost.energy_mj * 1e-3, "J", COMPARED)


def _save(result: Inference, spikes: Mapping[str, SpikeTrain], names: Sequence[str] | None, file: IO[Any]) -> None:
    import numpy as np

    from resformer.compiler.ir.trace import CountTrain
    from resformer.runtime.run.recorded import COUNTS, RESULT_FORMAT_VERSION, SHAPE, SPIKES

    arrays: dict[str, Any] = {
        "format_version": np.array(RESULT_FORMAT_VERSION),
        "logits": result.logits,
        "predictions": result.predictions,
        "logits_int": result.logits_int,
    }
    if names is not None:
        arrays["names"] = np.array(names)
    if result.classes is not None:
        arrays["classes"] = np.array(result.classes)
    for name, train in spikes.items():
        if isinstance(train, CountTrain):
            arrays[f"{COUNTS}{name}"] = train.values()
            continue
        arrays[f"{SPIKES}{name}"] = train.packed
        arrays[f"{SHAPE}{name}"] = np.array(train.shape, dtype=np.int64)
    np.savez(file, **arrays)


def _summarize(
    terminal: Terminal, arguments: argparse.Namespace, processes: Processes, given: GivenBuild, result: Inference
) -> None:
    """Print what inference found."""
    import numpy as np

    from resformer.compiler.samples.preprocessing import NO_PREPROCESSING
    from resformer.runtime.run.infer import predictions_in_words, saturated_in_words

    count = len(result.predictions)
    histogram = np.bincount(result.predictions, minlength=given.program.output.shape[0])
    where = arguments.backend + (f", {processes.count} processes" if processes.count > 1 else "")
    rows = [
        ("samples", f"{count}, {result.logits.shape[1]} steps each"),
        ("speed", f"{count / result.seconds:.3g} images/s ({result.seconds:.1f} s in {where})"),
        ("predictions", predictions_in_words(histogram, given.classes)),
    ]
    rows.append(
        ("accuracy", f"absent: {result.accuracy_absent}" if result.accuracy is None else f"{result.accuracy:.2%}")
    )
    if given.preprocessing != NO_PREPROCESSING:
        rows.append(("preprocessing", str(given.preprocessing)))
    rows.append(("input values clipped", f"{result.clipped:,}"))
    saturated = saturated_in_words(given.program, result.saturated, result.uncounted, arguments.backend)
    rows.append(("values saturated", saturated))
    terminal.table(f"{arguments.build} on {arguments.input.name}", ("what", "value"), rows)
    if terminal.quiet:
        accuracy = "" if result.accuracy is None else f", accuracy {result.accuracy:.2%}"
        terminal.verdict(f"{counted(count, 'sample')} in {where}{accuracy}")


def _show_notices(terminal: Terminal, given: GivenBuild, result: Inference) -> None:
    """Print what a reader should know about the samples and their run."""
    show_notices(terminal, given)
    for note in result.notes:
        terminal.line(f"note: {note}")
    for each in result.to_know:
        terminal.warning(each, style="yellow")
