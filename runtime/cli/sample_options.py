"""Options of the commands that say how samples are read."""

from __future__ import annotations

import argparse
import errno
import math
from pathlib import Path
from typing import TYPE_CHECKING

from resformer.runtime.cli.terminal import UsageError

if TYPE_CHECKING:
    from resformer.compiler.samples.preprocessing import Preprocessing

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's training images, by channel (RGB), as torchvision has them."""
PREPROCESSING = ("resize", "normalize", "mean", "std")
"""The options, under their names in the parsed arguments."""
BUILD, NONE = "build", "none"
"""Values of ``--preprocessing``: apply all that the build holds, or nothing."""


def add_preprocessing_options(parser: argparse._ActionsContainer) -> None:
    """Add options that say what is done to samples before the network takes them."""
    resized = "folder of images: scale the shorter side to 256/224 of the network's input, and keep the middle"
    parser.add_argument("--resize", action="store_true", help=resized)
    _add_normalizing_options(parser)


def add_run_preprocessing_options(parser: argparse._ActionsContainer) -> None:
    """Add options of a run; each overrules one step of the build's preprocessing of samples."""
    resized = (
        "folder of images: scale the shorter side to 256/224 of the network's input, and keep the middle (default: as "
        "the build does)"
    )
    parser.add_argument("--resize", action=argparse.BooleanOptionalAction, help=resized)
    _add_normalizing_options(parser)
    parser.add_argument(
        "--preprocessing",
        choices=(BUILD, NONE),
        help="do the build's preprocessing (build), or none of it (none), whatever the samples are (default: do it, "
        "but not for an array of floating-point images with a negative value if the build's mean is above 0, because "
        "these are normalized already)",
    )


def _add_normalizing_options(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--mean",
        type=_numbers,
        metavar="M,M,M",
        help="subtract this from the samples: one number, or one for each channel",
    )
    parser.add_argument(
        "--std",
        type=_numbers,
        metavar="S,S,S",
        help="divide the samples by this, after --mean: one number, or one for each channel",
    )
    parser.add_argument(
        "--normalize", choices=("imagenet",), help="use ImageNet's mean and standard deviation for --mean and --std"
    )


def check_preprocessing_usage(arguments: argparse.Namespace, *paths: Path) -> None:
    """Find out before any work is done that the options contradict each other or the samples.

    Args:
        arguments: The parsed arguments.
        paths: The paths of the samples.

    Raises:
        UsageError: The options contradict each other or the samples.
        OSError: There are no such samples.
    """
    for path in paths:
        require_file(path)
    if arguments.resize and paths and all(path.is_file() for path in paths):
        raise UsageError(f"--resize: {paths[0]} is no folder of images, and arrays are taken as they are")
    if arguments.normalize is not None and (arguments.mean is not None or arguments.std is not None):
        raise UsageError("--normalize: has a mean and a deviation of its own; leave out --mean and --std")
    others = [f"--{name}" for name in PREPROCESSING if getattr(arguments, name) not in (None, False)]
    if getattr(arguments, "preprocessing", None) == BUILD and others:
        raise UsageError(f"--preprocessing {BUILD}: does all that the build holds; leave out {', '.join(others)}")
    if arguments.std is not None and min(arguments.std) <= 0:
        raise UsageError(f"--std: {min(arguments.std):g} is not above 0")


def require_file(path: Path) -> None:
    """Find out before any work is done that a file or a folder is not there.

    Raises:
        OSError: It is not there.
    """
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))


def mean_and_std(arguments: argparse.Namespace) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """The mean that is subtracted from samples and what they are then divided by; None for what no option gives."""
    if arguments.normalize is not None:
        return IMAGENET_MEAN, IMAGENET_STD
    return arguments.mean, arguments.std


def run_preprocessing(arguments: argparse.Namespace, held: Preprocessing) -> Preprocessing | None:
    """The preprocessing that a run's options choose.

    Args:
        arguments: The parsed arguments.
        held: The build's preprocessing, which is kept where no option overrules it.

    Returns:
        What is done to the samples, of whatever kind they are; None if no option is given, so that the build decides.
    """
    from resformer.compiler.samples.preprocessing import Preprocessing

    mean, std = mean_and_std(arguments)
    if arguments.preprocessing is None and arguments.resize is None and mean is None and std is None:
        return None
    start = Preprocessing() if arguments.preprocessing == NONE else held
    return Preprocessing(
        start.resize if arguments.resize is None else arguments.resize,
        start.mean if mean is None else mean,
        start.std if std is None else std,
    )


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in text.split(","))
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number, nor several separated by commas")
    return numbers
