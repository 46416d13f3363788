"""What the commands are given to run: a build and samples, read and checked."""

from __future__ import annotations

import argparse
import errno
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from resformer.compiler.terminal import UsageError, positive_int

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from resformer.compiler.build import Build
    from resformer.compiler.ir.program import Program
    from resformer.compiler.samples import Samples

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""Of ImageNet's training images in RGB, as torchvision has them."""


@dataclass(frozen=True, eq=False)
class Given:
    """What the user named, read and checked.

    Attributes:
        build: The build.
        program: The build's.
        samples: What to run.
        names: The samples' file names, if they have any.
        labels: (N,), their classes, if they are known.
    """

    build: Build
    program: Program
    samples: Samples
    names: tuple[str, ...] | None
    labels: npt.NDArray[np.int64] | None

    def first(self, count: int) -> Given:
        """The first so many samples, or all if there are fewer."""
        count = min(count, len(self.samples))
        return replace(
            self,
            samples=_First(self.samples, count),
            names=None if self.names is None else self.names[:count],
            labels=None if self.labels is None else self.labels[:count],
        )


@dataclass(frozen=True, eq=False)
class _First:
    """The first so many of other samples."""

    samples: Samples
    count: int

    def __len__(self) -> int:
        return self.count

    def real(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float64]:
        """The values of some samples."""
        return self.samples.real(start, self.count if stop is None else min(stop, self.count))


def add_input_options(parser: argparse._ActionsContainer, *, required: bool = True) -> None:
    """Options that name samples and say how to read them."""
    parser.add_argument(
        "--input",
        type=Path,
        required=required,
        metavar="X",
        help="a folder of images; or images (N, C, H, W) or event frames (N, T, C, H, W) as .npy or .npz; pixels of 8 "
        "bits are divided by 255",
    )
    parser.add_argument(
        "--resize",
        action="store_true",
        help="of a folder: bring the shorter side to 256/224 of the network's input, and keep the middle",
    )
    parser.add_argument(
        "--mean", type=_numbers, metavar="M,M,M", help="subtracted from the input, one number, or one a channel"
    )
    parser.add_argument(
        "--std", type=_numbers, metavar="S,S,S", help="what the input is divided by after that, likewise"
    )
    parser.add_argument("--normalize", choices=("imagenet",), help="subtract and divide by ImageNet's own")
    parser.add_argument("--samples", type=positive_int, metavar="N", help="use the first N samples only")
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="L.npy",
        help="true classes (N,), to measure accuracy (default: the folder it is in, if there is one a class)",
    )


def check_input_usage(arguments: argparse.Namespace) -> None:
    """Find out before any work is done that the options of the input contradict each other.

    Raises:
        UsageError: They do.
        OSError: There is no such input.
    """
    for path in filter(None, (arguments.input, arguments.labels)):
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    if arguments.resize and arguments.input.is_file():
        raise UsageError(f"--resize: {arguments.input} is no folder of images, and arrays are taken as they are")
    if arguments.normalize is not None:
        if arguments.mean is not None or arguments.std is not None:
            raise UsageError("--normalize: has a mean and a deviation of its own; leave out --mean and --std")
        arguments.mean, arguments.std = IMAGENET_MEAN, IMAGENET_STD
    if arguments.std is not None and min(arguments.std) <= 0:
        raise UsageError(f"--std: {min(arguments.std):g} is not above 0")


def require_input(arguments: argparse.Namespace, *others: str) -> None:
    """Refuse options of the input where there is none.

    Args:
        arguments: Parsed.
        others: Further options, under their names in ``arguments``, that need an input.

    Raises:
        UsageError: One was given.
    """
    for name in ("samples", "labels", "resize", "normalize", "mean", "std", *others):
        if getattr(arguments, name) not in (None, False, []):
            raise UsageError(f"--{name}: goes with --input")


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number, nor several separated by commas")
    return numbers


def read_given(arguments: argparse.Namespace, directory: Path) -> Given:
    """The build, its program, the samples and what is known of them.

    Raises:
        ResformerError: One of them is damaged, or they do not fit each other.
    """
    from resformer.compiler.build import read_build

    build = read_build(directory)
    program = build.program()
    return Given(build, program, *read_samples(arguments, program))


def read_samples(
    arguments: argparse.Namespace, program: Program
) -> tuple[Samples, tuple[str, ...] | None, npt.NDArray[np.int64] | None]:
    """The samples, their files' names and their classes; None for those that are not known.

    Raises:
        ResformerError: They are damaged, or do not fit the program.
    """
    from resformer.compiler.samples import check_labels, check_samples, read_array
    from resformer.runtime.image_folder import open_image_folder

    wanted, classes = arguments.samples, program.output.shape[0]
    samples: Samples
    names = labels = None
    if arguments.input.is_dir():
        folder = open_image_folder(arguments.input, program, resize=arguments.resize)
        count = len(folder)
        _require_enough(arguments, count)
        labels = folder.labels(classes)
        samples = folder = folder.first(wanted or count)
        folder.check()
        names = folder.names
    else:
        images = read_array(arguments.input)
        count = len(images) if images.ndim else 0
        if images.ndim:
            _require_enough(arguments, count)
        samples = check_samples(images[:wanted] if images.ndim else images, program, str(arguments.input))
    if arguments.labels is not None:
        labels = check_labels(read_array(arguments.labels, "labels"), count, classes, str(arguments.labels))
    normalized = _normalized(samples, arguments, program.input.shape[0])
    return normalized, names, None if labels is None else labels[:wanted]


def _require_enough(arguments: argparse.Namespace, count: int) -> None:
    from resformer.errors import InputError

    if arguments.samples is not None and arguments.samples > count:
        raise InputError(
            f"{arguments.input}: holds {count} samples, fewer than --samples {arguments.samples}; ask for fewer"
        )


def _normalized(samples: Samples, arguments: argparse.Namespace, channels: int) -> Samples:
    """Samples less the mean and divided by the deviation that were asked for.

    Raises:
        InputError: There is not one number a channel.
    """
    import numpy as np

    from resformer.errors import InputError
    from resformer.runtime.encode import Normalized

    if arguments.mean is None and arguments.std is None:
        return samples
    for option, numbers in (("mean", arguments.mean), ("std", arguments.std)):
        if numbers is not None and len(numbers) not in (1, channels):
            raise InputError(f"--{option}: {len(numbers)} numbers for {channels} channels; give one, or one a channel")
    mean, std = (np.array(numbers).reshape(-1, 1, 1) for numbers in (arguments.mean or [0.0], arguments.std or [1.0]))
    return Normalized(samples, mean, std)
