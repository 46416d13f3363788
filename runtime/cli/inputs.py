"""What the commands are given to run: a build and samples, read and checked."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from resformer.runtime.cli.sample_options import check_preprocessing_usage, preprocessing, require_file
from resformer.runtime.cli.terminal import UsageError, positive_int

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from resformer.compiler.files.build import Build
    from resformer.compiler.ir.program import Program
    from resformer.compiler.samples.arrays import Samples


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
    """Options that name samples; ``add_preprocessing_options`` has those that say how to read them."""
    parser.add_argument(
        "--input",
        type=Path,
        required=required,
        metavar="X",
        help="a folder of images; or images (N, C, H, W) or event frames (N, T, C, H, W) as .npy or .npz; pixels of 8 "
        "bits are divided by 255",
    )
    parser.add_argument("--samples", type=positive_int, metavar="N", help="use the first N samples only")
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="L.npy",
        help="true classes (N,), to measure accuracy (default: the folder it is in, if there is one a class)",
    )


def check_input_usage(arguments: argparse.Namespace, *others: Path) -> None:
    """Find out before any work is done that the options of the input contradict each other.

    Args:
        arguments: Parsed.
        others: Samples besides the input that are read in the same way.

    Raises:
        UsageError: They do.
        OSError: There is no such input.
    """
    check_preprocessing_usage(arguments, arguments.input, *others)
    if arguments.labels is not None:
        require_file(arguments.labels)


def require_input(arguments: argparse.Namespace, *others: str, needed: str = "--input") -> None:
    """Refuse options of samples where there are none.

    Args:
        arguments: Parsed.
        others: Further options than ``--samples`` and ``--labels``, under their names in ``arguments``.
        needed: What they go with.

    Raises:
        UsageError: One was given.
    """
    for name in ("samples", "labels", *others):
        if getattr(arguments, name) not in (None, False, []):
            raise UsageError(f"--{name}: goes with {needed}")


def read_given(arguments: argparse.Namespace, directory: Path) -> Given:
    """The build, its program, the samples and what is known of them.

    Raises:
        ResformerError: One of them is damaged, or they do not fit each other.
    """
    from resformer.compiler.files.build import read_build

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
    from resformer.compiler.samples.arrays import check_labels, check_samples, read_array
    from resformer.compiler.samples.images import open_image_folder

    wanted, classes = arguments.samples, program.output.shape[0]
    how = preprocessing(arguments)
    samples: Samples
    names = labels = None
    if arguments.input.is_dir():
        folder = open_image_folder(arguments.input, program, resize=how.resize)
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
    normalized = how.normalized(samples, program.input.shape[0])
    return normalized, names, None if labels is None else labels[:wanted]


def _require_enough(arguments: argparse.Namespace, count: int) -> None:
    from resformer.errors import InputError

    if arguments.samples is not None and arguments.samples > count:
        raise InputError(
            f"{arguments.input}: holds {count} samples, fewer than --samples {arguments.samples}; ask for fewer"
        )
