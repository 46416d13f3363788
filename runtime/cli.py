"""``resformer-run`` and ``resformer-verify``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from resformer.compiler.backends import BACKENDS
from resformer.compiler.terminal import (
    DONE,
    FAILED,
    Parser,
    Terminal,
    UsageError,
    check_writable,
    positive_int,
    run_command,
    size_of,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from resformer.compiler.build import Build
    from resformer.compiler.ir.program import Program
    from resformer.compiler.samples import Samples
    from resformer.runtime.run import Inference

DEFAULT_BACKEND = "lava"
RESULT_FORMAT_VERSION = 1


def run_main(argv: Sequence[str] | None = None) -> int:
    """Run inference; returns the exit status."""
    return run_command(_run_parser(), argv, _run)


def verify_main(argv: Sequence[str] | None = None) -> int:
    """Verify a build; returns the exit status: 0 equivalent, 1 not."""
    return run_command(_verify_parser(), argv, _verify)


def _run_parser() -> Parser:
    parser = Parser(
        prog="resformer-run",
        description="Run a compiled SpikingResformer on images, in simulation.",
        epilog="OUT.npz holds logits (N, T, classes), predictions (N,), logits_int, and with --record-spikes, for each "
        "LIF population, 'spikes/NAME' (numpy.packbits of the flattened spikes) and 'shape/NAME' (T, N, ...). "
        "Exit status: 0 done, 1 failed, 2 wrong usage.",
    )
    _add_common(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.npz", help="file to write the results to")
    parser.add_argument("--record-spikes", action="store_true", help="write every spike to the output as well")
    parser.add_argument(
        "--batch-size", type=positive_int, metavar="B", help="samples run together (default: what fits in memory)"
    )
    return parser


def _verify_parser() -> Parser:
    parser = Parser(
        prog="resformer-verify",
        description="Compare a compiled SpikingResformer with its checkpoint, spike for spike.",
        epilog="Exit status: 0 equivalent, 1 failed or not equivalent, 2 wrong usage.",
    )
    _add_common(parser)
    parser.add_argument(
        "--model",
        type=Path,
        metavar="MODEL",
        help="the checkpoint that was compiled; without it, E1 and E4 are not run",
    )
    parser.add_argument("--json", type=Path, metavar="R.json", help="file to write the results to")
    return parser


def _add_common(parser: Parser) -> None:
    parser.add_argument("build", type=Path, metavar="BUILD", help="folder that resformer-compile wrote")
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="X.npy",
        help="images (N, C, H, W) or event frames (N, T, C, H, W), .npy or .npz; uint8 images are divided by 255",
    )
    parser.add_argument("--backend", choices=tuple(BACKENDS), default=DEFAULT_BACKEND, help="(default: %(default)s)")
    parser.add_argument("--samples", type=positive_int, metavar="N", help="use the first N samples only")
    parser.add_argument("--labels", type=Path, metavar="L.npy", help="true classes (N,), to measure accuracy")
    parser.add_argument(
        "--stock-models", action="store_true", help="lava: use only Lava's own process models, many times slower"
    )


def _check_usage(arguments: argparse.Namespace, output: Path | None) -> None:
    """Find out before any work is done that it would be in vain.

    Raises:
        UsageError: Options contradict each other.
        OSError: The output cannot be written.
    """
    if arguments.stock_models and not BACKENDS[arguments.backend].has_stock_models:
        raise UsageError(f"--stock-models: the backend {arguments.backend} has none")
    if output is not None:
        check_writable(output)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.record_spikes and arguments.output is None:
        raise UsageError("--record-spikes: say with -o where to write the spikes")
    _check_usage(arguments, arguments.output)
    terminal = Terminal()
    with terminal.progress() as update:
        update("reading", 0, 0)
        from resformer.compiler.backends import open_backend
        from resformer.runtime.run import infer, samples_at_once

        build, program, samples, labels = _read(arguments)
        runner = open_backend(arguments.backend, stock_models=arguments.stock_models)
        result = infer(
            program,
            samples,
            runner,
            batch_size=arguments.batch_size
            or samples_at_once(program, arguments.backend, record=arguments.record_spikes),
            record=arguments.record_spikes,
            progress=lambda done, total: update(f"running in {arguments.backend}", done, total),
        )
    if arguments.output is not None:
        _write_atomically(arguments.output, "wb", lambda file: _save(result, file))
    _summarize(
        terminal,
        arguments,
        result,
        labels,
        classes=program.output.shape[0],
        may_saturate=build.report["may_saturate"],
    )
    return DONE


def _verify(arguments: argparse.Namespace) -> int:
    _check_usage(arguments, arguments.json)
    terminal = Terminal()
    with terminal.progress() as update:
        update("starting", 0, 0)
        from resformer.runtime.report import check_rows, facts, layer_rows, to_json
        from resformer.runtime.verify import verify

        build, program, samples, labels = _read(arguments)
        result = verify(
            build,
            samples,
            program,
            backend=arguments.backend,
            model=arguments.model,
            labels=labels,
            stock_models=arguments.stock_models,
            update=update,
        )
    if arguments.json is not None:
        text = json.dumps(to_json(result), indent=2, allow_nan=False) + "\n"
        _write_atomically(arguments.json, "w", lambda file: file.write(text))
    terminal.table("Mismatched spikes by population", *layer_rows(result))
    terminal.table(f"{arguments.build}, {result.samples} samples, {result.timesteps} steps", *check_rows(result))
    for line in facts(result):
        terminal.line(line)
    terminal.line(
        "EQUIVALENT" if result.equivalent else "NOT EQUIVALENT", style="green" if result.equivalent else "red"
    )
    return DONE if result.equivalent else FAILED


def _read(arguments: argparse.Namespace) -> tuple[Build, Program, Samples, npt.NDArray[np.int64] | None]:
    """The build, its program, the samples and their labels.

    Raises:
        ResformerError: One of them is damaged, or they do not fit each other.
    """
    from resformer.compiler.build import read_build
    from resformer.compiler.samples import check_labels, check_samples, read_array
    from resformer.errors import InputError

    build = read_build(arguments.build)
    program = build.program()
    images = read_array(arguments.input)
    count = arguments.samples
    if count is not None and images.ndim and count > len(images):
        raise InputError(f"{arguments.input}: holds {len(images)} samples, fewer than --samples {count}; ask for fewer")
    labels = None
    if arguments.labels is not None:
        classes = program.output.shape[0]
        found = read_array(arguments.labels, "labels")
        labels = check_labels(found, len(images) if images.ndim else 0, classes, str(arguments.labels))[:count]
    return (
        build,
        program,
        check_samples(images[:count] if images.ndim else images, program, str(arguments.input)),
        labels,
    )


def _save(result: Inference, file: IO[Any]) -> None:
    import numpy as np

    arrays: dict[str, Any] = {
        "format_version": np.array(RESULT_FORMAT_VERSION),
        "logits": result.logits,
        "predictions": result.predictions,
        "logits_int": result.logits_int,
    }
    for name, train in result.spikes.items():
        arrays[f"spikes/{name}"] = train.packed
        arrays[f"shape/{name}"] = np.array(train.shape, dtype=np.int64)
    np.savez(file, **arrays)


def _write_atomically(path: Path, mode: str, write: Callable[[IO[Any]], object]) -> None:
    """Write a file that appears complete or not at all.

    Raises:
        OSError: It cannot be written.
    """
    path = path.resolve()
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        with partial.open(mode) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno or 0, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _summarize(
    terminal: Terminal,
    arguments: argparse.Namespace,
    result: Inference,
    labels: npt.NDArray[np.int64] | None,
    *,
    classes: int,
    may_saturate: Sequence[str],
) -> None:
    """Print what inference found."""
    import numpy as np

    count = len(result.predictions)
    histogram = np.bincount(result.predictions, minlength=classes)
    most = np.argsort(-histogram, kind="stable")[:10]
    rows = [
        ("samples", f"{count}, {result.logits.shape[1]} steps each"),
        ("speed", f"{count / result.seconds:.3g} images/s ({result.seconds:.1f} s in {arguments.backend})"),
        ("predictions", ", ".join(f"class {each}: {histogram[each]}" for each in most if histogram[each])),
    ]
    if labels is not None:
        rows.append(("accuracy", f"{np.mean(result.predictions == labels):.2%}"))
    rows.append(("input values clipped", f"{result.clipped:,}"))
    saturated = ", ".join(f"{name} {count:,}" for name, count in result.saturated.items())
    uncounted = sum(name in result.uncounted for name in may_saturate)
    note = f"; {arguments.backend} does not count clipped potentials ({uncounted} populations)" if uncounted else ""
    rows.append(("values saturated", (saturated or "0") + note))
    if arguments.output is not None:
        rows.append(("written", f"{arguments.output} ({size_of(arguments.output)})"))
    terminal.table(f"{arguments.build} on {arguments.input.name}", ("what", "value"), rows)
