"""What is given to run: samples in memory or in files, read and checked against a program."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from resformer.compiler.files.build import Build
from resformer.compiler.ir.program import Scheduled
from resformer.compiler.quantize.plan import SCALE_EXP_MAX
from resformer.compiler.samples.arrays import Samples, as_array, check_labels, check_samples, read_array
from resformer.compiler.samples.files import Preprocessing
from resformer.compiler.samples.images import open_image_folder
from resformer.compiler.samples.rounding import rounding_cost, rounding_warning
from resformer.errors import InputError, SampleWarning

if TYPE_CHECKING:
    import torch

GivenT = TypeVar("GivenT", bound="Given")

NO_PREPROCESSING = Preprocessing()


@dataclass(frozen=True, eq=False)
class Given:
    """Samples that fit a program, and what is known of them.

    Attributes:
        samples: What to run.
        names: The samples' file names, if they have any.
        labels: (N,), their classes, if they are known.
    """

    samples: Samples
    names: tuple[str, ...] | None
    labels: npt.NDArray[np.int64] | None

    def first(self: GivenT, count: int) -> GivenT:
        """The first ``count`` samples, or all if there are fewer."""
        count = min(count, len(self.samples))
        return replace(
            self,
            samples=_First(self.samples, count),
            names=None if self.names is None else self.names[:count],
            labels=None if self.labels is None else self.labels[:count],
        )


@dataclass(frozen=True, eq=False)
class GivenBuild(Given):
    """A build, and samples that fit its program.

    Attributes:
        build: The build.
        program: The build's.
    """

    build: Build
    program: Scheduled


@dataclass(frozen=True, eq=False)
class _First:
    """The first ``count`` of other samples."""

    samples: Samples
    count: int

    def __len__(self) -> int:
        return self.count

    def real(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float64]:
        """The values of some samples."""
        return self.samples.real(start, self.count if stop is None else min(stop, self.count))


Images: TypeAlias = "npt.ArrayLike | torch.Tensor | str | Path | Given"
"""Samples: an array or a tensor (N, C, H, W), one image for all steps, (N, T, C, H, W), a frame for each step, or
(N, F); a path to such an array (.npy, .npz) or to a folder of images; or what :func:`read_given` returned."""
Labels: TypeAlias = "npt.ArrayLike | str | Path | None"
"""True classes (N,): whole numbers, or a path to them (.npy, .npz)."""


def read_given(
    images: Images,
    program: Scheduled,
    *,
    samples: int | None = None,
    labels: Labels = None,
    preprocessing: Preprocessing = NO_PREPROCESSING,
) -> Given:
    """Samples and their classes, checked against a program.

    Args:
        images: See :data:`Images`. Pixels of 8 bits are divided by 255.
        program: What they must fit.
        samples: Take the first N only; None: all.
        labels: See :data:`Labels`; None: of a folder with one folder a class those classes, else unknown.
        preprocessing: What is done to samples that were not read before.

    Raises:
        ResformerError: They are damaged, do not fit the program, or there are fewer than ``samples``.
    """
    if isinstance(images, Given):
        if samples is not None:
            _require_enough("samples", len(images.samples), samples)
        given = images if samples is None else images.first(samples)
        return given if labels is None else replace(given, labels=_labels(labels, len(given.samples), program))
    source, names, known = "samples", None, None
    found: Samples
    if isinstance(images, str | Path):
        images = Path(images)
        source = str(images)
    if isinstance(images, Path) and images.is_dir():
        folder = open_image_folder(images, program, resize=preprocessing.resize)
        count = len(folder)
        _require_enough(source, count, samples)
        known = folder.labels(program.output.shape[0])
        found = folder = folder.first(samples or count)
        folder.check()
        names = folder.names
    else:
        array = read_array(images) if isinstance(images, Path) else as_array(images, source)
        count = len(array) if array.ndim else 0
        if array.ndim:
            _require_enough(source, count, samples)
        found = check_samples(array[:samples] if array.ndim else array, program, source)
    if labels is not None:
        known = _labels(labels, count, program)
    normalized = preprocessing.normalized(found, program.input.shape[0])
    # of image files, whose pixels the usual steps are made for, each is decoded only once
    if names is None or program.input.op.signal.scale_exp == 0:
        warn_of_rounding(normalized, program, source)
    return Given(normalized, names, None if known is None else known[:samples])


def warn_of_rounding(samples: Samples, program: Scheduled, source: str) -> None:
    """Warn where encoding loses much of samples, as a program of whole counts does of fractional frames.

    Args:
        samples: As the program's network is given them.
        program: What encodes them.
        source: What messages call them.
    """
    warning = rounding_warning(rounding_cost(samples, program.input.op.signal.scale_exp), source, SCALE_EXP_MAX)
    if warning is not None:
        warnings.warn(warning, SampleWarning, stacklevel=2)


def _labels(labels: Any, count: int, program: Scheduled) -> npt.NDArray[np.int64]:
    named = isinstance(labels, str | Path)
    array = read_array(Path(labels), "labels") if named else as_array(labels, "labels")
    return check_labels(array, count, program.output.shape[0], str(labels) if named else "labels")


def _require_enough(source: str, count: int, wanted: int | None) -> None:
    if wanted is not None and wanted < 1:
        raise InputError(f"samples: {wanted} is not a whole number of at least 1; ask for more")
    if wanted is not None and wanted > count:
        raise InputError(f"{source}: holds {count} samples, fewer than --samples {wanted}; ask for fewer")
