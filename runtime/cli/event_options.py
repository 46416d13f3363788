"""Options that say how a recording of an event camera becomes frames."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from resformer.runtime.cli.terminal import UsageError, positive_int

if TYPE_CHECKING:
    from resformer.compiler.samples.events.frames import Binning

OPTIONS = ("bin_ms", "bin_events", "split_by", "sensor_size", "pool", "keep_middle")
"""The options, under their names in the parsed arguments."""
LONGEST_BIN = 1e9
"""The longest frame, in milliseconds: eleven days."""
RECORDINGS = ".aedat4, .raw, .dat, .bin, .h5, .hdf5, or events in .npy or .npz"
"""How names of recordings end. Spelled out here, because the formats' modules need NumPy and ``--help`` must not."""


def add_event_options(parser: argparse._ActionsContainer) -> None:
    """Add the options of a recording."""
    parser.add_argument(
        "--bin-ms",
        type=_milliseconds,
        metavar="MS",
        help="recording of an event camera: length of a frame in milliseconds; every T frames make a sample "
        "(default: the whole recording is one sample of T frames)",
    )
    parser.add_argument(
        "--bin-events",
        type=positive_int,
        metavar="N",
        help="recording: number of events in a frame; every T frames make a sample (default: as for --bin-ms)",
    )
    parser.add_argument(
        "--split-by",
        choices=("time", "number"),
        help="recording that is one sample: its frames are equally long (time), or hold equally many events (number) "
        "(default: time)",
    )
    parser.add_argument(
        "--sensor-size",
        type=_size,
        metavar="WIDTHxHEIGHT",
        help="recording: size of the sensor in pixels (default: as the file says)",
    )
    parser.add_argument("--pool", type=positive_int, metavar="K", help="recording: count K x K pixels as one")
    parser.add_argument(
        "--keep-middle",
        action="store_true",
        help="recording: if the sensor is larger than the network's input, keep its middle; if it is smaller, "
        "surround it with pixels without events",
    )


def event_binning(arguments: argparse.Namespace) -> Binning | None:
    """How recordings become frames; None if no option says how.

    Raises:
        InputError: Options contradict each other.
    """
    from resformer.compiler.samples.events.frames import Binning

    if not _given(arguments):
        return None
    return Binning(
        split=arguments.split_by or "time",
        bin_us=arguments.bin_ms,
        bin_events=arguments.bin_events,
        sensor=arguments.sensor_size,
        pool=arguments.pool or 1,
        keep_middle=arguments.keep_middle,
    )


def check_event_usage(arguments: argparse.Namespace, *paths: Path | None) -> None:
    """Find out before any work is done that the options contradict each other, or that there is no recording.

    Args:
        arguments: The parsed arguments.
        paths: The paths of all samples.

    Raises:
        UsageError: The options contradict each other, or there is no recording.
    """
    given = _given(arguments)
    if not given:
        return
    if len({"bin_ms", "bin_events", "split_by"}.intersection(given)) > 1:
        raise UsageError(f"{_option(given[0])}: --bin-ms, --bin-events and --split-by exclude each other; give one")
    from resformer.compiler.samples.events.formats import is_event_file

    if not any(path is not None and (path.is_dir() or is_event_file(path)) for path in paths):
        raise UsageError(f"{_option(given[0])}: goes with a recording of an event camera ({RECORDINGS})")


def _given(arguments: argparse.Namespace) -> list[str]:
    return [name for name in OPTIONS if getattr(arguments, name, None) not in (None, False)]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _milliseconds(text: str) -> int:
    """An argument in milliseconds, as microseconds."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 1e-3 <= number <= LONGEST_BIN:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0.001 to {LONGEST_BIN:g}")
    return round(number * 1000)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text, re.ASCII)
    if found is None or "0" in (found[1].lstrip("0") or "0", found[2].lstrip("0") or "0"):
        raise argparse.ArgumentTypeError(f"{text!r} is no WIDTHxHEIGHT, such as 640x480")
    return int(found[1]), int(found[2])
