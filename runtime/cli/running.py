"""Options that ``resformer-run`` and ``resformer-verify`` share: what runs, on which samples, in which backend."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from resformer.compiler.backends import BACKENDS, CPU
from resformer.runtime.cli.inputs import add_input_options, check_input_usage
from resformer.runtime.cli.sample_options import add_run_preprocessing_options
from resformer.runtime.cli.terminal import Parser, UsageError, check_writable, positive_int

DEFAULT_BACKEND = "lava"


def add_running_options(parser: Parser) -> None:
    """Add the build, its samples, and the options that say how a backend runs them."""
    parser.add_argument("build", type=Path, metavar="BUILD", help="folder that resformer-compile wrote")
    add_input_options(parser)
    add_run_preprocessing_options(parser)
    parser.add_argument(
        "--backend", choices=tuple(BACKENDS), default=DEFAULT_BACKEND, help="what runs the build (default: %(default)s)"
    )
    parser.add_argument(
        "--device",
        type=_device,
        default=CPU,
        metavar="{cpu,cuda,cuda:N}",
        help="sim: the CPU or GPU to run on (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        metavar="B",
        help="number of samples that run together (default: as many as fit in memory)",
    )
    parser.add_argument(
        "--stock-models", action="store_true", help="lava: use only Lava's own process models; many times slower"
    )
    parser.add_argument(
        "--self-check", action="store_true", help="sim: check every product of the run; three to four times slower"
    )


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither cpu, nor cuda, nor cuda:N")
    return text


def check_running_usage(arguments: argparse.Namespace, output: Path | None) -> None:
    """Find out before any work is done that the work would be in vain.

    Args:
        arguments: The parsed arguments.
        output: The file to write, if there is one.

    Raises:
        UsageError: Options contradict each other.
        OSError: The output cannot be written.
    """
    if arguments.stock_models and not BACKENDS[arguments.backend].has_stock_models:
        raise UsageError(f"--stock-models: the backend {arguments.backend} has none")
    if arguments.device != CPU and not BACKENDS[arguments.backend].has_devices:
        raise UsageError(
            f"--device {arguments.device}: {arguments.backend} runs on the CPU alone; choose --backend sim"
        )
    if arguments.self_check and not BACKENDS[arguments.backend].has_self_check:
        raise UsageError(f"--self-check: {arguments.backend} cannot check itself; choose --backend sim")
    check_input_usage(arguments)
    if output is not None:
        check_writable(output)
