"""Samples to run, in memory or in files, read and checked against a program."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from resformer.compiler.files.build import Build
from resformer.compiler.files.report import Report
from resformer.compiler.ir.graph import NETX
from resformer.compiler.ir.program import Scheduled
from resformer.compiler.quantize.plan import SCALE_EXP_MAX
from resformer.compiler.samples.arrays import Samples, as_array, check_labels, check_samples, read_array
from resformer.compiler.samples.classes import Indices, first_of_each, listed
from resformer.compiler.samples.events.folder import EventFolder, open_folder
from resformer.compiler.samples.events.formats import is_event_file, open_events
from resformer.compiler.samples.events.frames import WHOLE, Binning, bin_events, stream_frames
from resformer.compiler.samples.preprocessing import (
    NO_PREPROCESSING,
    Preprocessing,
    disagreement,
    is_normalized_already,
    normalized_already,
    numbers,
)
from resformer.compiler.samples.rounding import rounding_cost, rounding_warning
from resformer.errors import FileFormatError, InputError, SampleWarning
from resformer.runtime.run.infer import Inference
from resformer.runtime.verify.result import Verification

if TYPE_CHECKING:
    import torch

GivenT = TypeVar("GivenT", bound="Given")

NO_LABELS = "no labels were given; --labels L.npy names them, or a folder of images with one folder a class"
"""Why there is no accuracy for samples that bring no labels, such as an array."""


@dataclass(frozen=True)
class Held:
    """What a build holds about samples, so that its user need not say it again.

    Attributes:
        preprocessing: What is done to samples before the network is given them.
        classes: The names of the classes, class 0 first, if they are known.
    """

    preprocessing: Preprocessing = NO_PREPROCESSING
    classes: tuple[str, ...] | None = None

    @classmethod
    def by(cls, report: Report) -> Held:
        """Read from ``report.json`` what it says of samples."""
        said, classes = report["preprocessing"], report["classes"]
        preprocessing = Preprocessing(said["resize"], numbers(said["mean"]), numbers(said["std"]))
        return cls(preprocessing, None if classes is None else tuple(classes))


NOTHING_HELD = Held()


@dataclass(frozen=True, eq=False)
class Given:
    """Samples that fit a program, and what is known of them.

    Attributes:
        samples: What to run.
        names: The samples' file names, if they have any.
        labels: (N,), the samples' classes, if they are known.
        accuracy_absent: Why the labels are not known; None if they are.
        classes: The names of the network's classes, if they are known.
        preprocessing: What was done to the samples.
        build_preprocessing: What the build for which they were read does to samples.
        prepared_otherwise: The warning that samples are preprocessed in another way than the build says, if they are;
            ``warnings`` holds it, too.
        warnings: What is doubtful in how they were read, a sentence each.
        notes: What was chosen in reading them, a sentence each.
    """

    samples: Samples
    names: tuple[str, ...] | None
    labels: npt.NDArray[np.int64] | None
    _: KW_ONLY
    accuracy_absent: str | None = None
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing = NO_PREPROCESSING
    build_preprocessing: Preprocessing = NO_PREPROCESSING
    prepared_otherwise: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def first(self: GivenT, count: int) -> GivenT:
        """The first ``count`` samples, or all if there are fewer; from folders of classes, the first of each class."""
        count = min(count, len(self.samples))
        indices = np.arange(count) if self.names is None else first_of_each(self.names, count)
        return replace(
            self,
            samples=_Some(self.samples, indices),
            names=None if self.names is None else tuple(self.names[index] for index in indices),
            labels=None if self.labels is None else self.labels[indices],
        )


@dataclass(frozen=True, eq=False)
class GivenBuild(Given):
    """A build, and samples that fit its program.

    Attributes:
        build: The build.
        program: The build's program.
    """

    build: Build
    program: Scheduled


@dataclass(frozen=True, eq=False)
class _Some:
    """A selection of other samples.

    Attributes:
        samples: The samples that these are selected from.
        indices: The indices of the selected samples, rising.
    """

    samples: Samples
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)

    def real(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float64]:
        """The values of the selected samples from ``start`` to ``stop``."""
        wanted = self.indices[start:stop]
        # neighbouring samples are read in one call, in which a folder decodes images in parallel
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1)
        return np.concatenate([self.samples.real(int(run[0]), int(run[-1]) + 1) for run in runs])


Images: TypeAlias = "npt.ArrayLike | torch.Tensor | str | Path | Given"
"""Samples: an array or a tensor (N, C, H, W), one image for all steps, (N, T, C, H, W), a frame for each step, or
(N, F); a path to such an array (.npy, .npz), to a folder of images or to a recording of an event camera; or what
:func:`read_given` returned."""
Labels: TypeAlias = "npt.ArrayLike | str | Path | None"
"""True classes (N,): whole numbers, or a path to them (.npy, .npz)."""


def read_given(
    images: Images,
    program: Scheduled,
    *,
    samples: int | None = None,
    labels: Labels = None,
    held: Held = NOTHING_HELD,
    preprocessing: Preprocessing | None = None,
    binning: Binning | None = None,
    tell_rounding: bool = True,
) -> Given:
    """Samples and their classes, checked against a program.

    Args:
        images: See :data:`Images`. Pixels of 8 bits are divided by 255.
        program: The program that the samples must fit.
        samples: Take N samples only, as ``Given.first`` does; None: all.
        labels: See :data:`Labels`. None: the classes that a folder with one folder per class tells, otherwise unknown.
        held: What the program's build says of samples. Its preprocessing is applied to all samples except an array that
            ``is_normalized_already``. Its class names are matched with the names of a folder's folders.
        preprocessing: What is done to these samples, whatever they are, instead of the build's preprocessing.
        binning: How a recording of an event camera becomes frames; None: the whole recording is one sample.
        tell_rounding: Whether to warn if encoding loses much of the samples.

    Raises:
        ResformerError: The samples are damaged, do not fit the program, or are fewer than ``samples``; a preprocessing
            or a binning is given for samples that were read before; or a binning for samples that are no recording.
    """
    if isinstance(images, Given):
        if preprocessing is not None or binning is not None:
            late = "preprocessing" if preprocessing is not None else "binning"
            raise InputError(f"samples: were read already, so {late} comes too late; say it where they are read")
        if samples is not None:
            _require_enough("samples", len(images.samples), samples)
        given = _fitting(images if samples is None else images.first(samples), program, held)
        if labels is None:
            return given
        return replace(given, labels=_labels(labels, len(given.samples), program), accuracy_absent=None)
    channels = program.input.shape[0]
    used = held.preprocessing if preprocessing is None else preprocessing
    for each in (held.preprocessing, used):
        each.check(channels)
    if held.classes is not None and len(held.classes) != program.output.shape[0]:
        raise FileFormatError(
            f"the build's report names {len(held.classes)} classes ({listed(held.classes)}), its program tells "
            f"{program.output.shape[0]} apart; compile the model again"
        )
    path = Path(images) if isinstance(images, str | Path) else None
    recorded = path is not None and is_event_file(path)
    in_folder = path is not None and path.is_dir()
    if binning is not None and not (recorded or in_folder):
        raise InputError("binning: is of recordings of event cameras, and these samples are none; leave it out")
    if path is not None and in_folder:
        found = _read_folder(path, program, samples, held.classes, resize=used.resize, binning=binning)
    elif path is not None and recorded:
        found = _read_events(path, program, samples, binning or WHOLE)
        used = replace(used, resize=False)
    else:
        found = _read_array(images if path is None else path, program, samples)
        used = replace(used, resize=False)  # arrays are never resized
    known, absent, notes = found.labels, found.unlabelled, found.notes
    if labels is not None:
        known, absent = _labels(labels, found.count, program), None
        notes = notes if recorded else ()
    differs: tuple[str, ...] = ()
    if preprocessing is not None:
        differs = disagreement(held.preprocessing, used, channels, of_folder=found.names is not None)
    elif is_normalized_already(found.samples, used, program):
        notes = (f"{normalized_already(found.source, used)}; --preprocessing build applies it all the same",)
        used = NO_PREPROCESSING
    normalized = used.normalized(found.samples, channels)
    # the usual steps suit the pixels of image files, so these are not decoded once more just to measure the rounding;
    # counts of events are whole numbers, and rounding changes none of them
    counts = isinstance(found.samples, EventFolder) and not used.normalizes
    if tell_rounding and not counts and (found.names is None or program.input.op.signal.scale_exp == 0):
        warn_of_rounding(normalized, program, found.source)
    return Given(
        normalized,
        found.names,
        None if known is None else known[found.chosen],
        accuracy_absent=absent,
        classes=held.classes,
        preprocessing=used,
        build_preprocessing=held.preprocessing,
        prepared_otherwise=differs,
        warnings=(*found.warnings, *differs),
        notes=notes,
    )


def _fitting(given: Given, program: Scheduled, held: Held) -> Given:
    """Samples that were read before, perhaps for another program, checked against this one.

    Raises:
        InputError: They have another shape than the program's samples, or a class that it does not tell apart.
    """
    first = given.samples.real(0, 1).shape[1:]
    if first[-3:] != program.input.shape or first[:-3] not in ((), (program.timesteps,)):
        wanted = ", ".join(map(str, program.input.shape))
        raise InputError(
            f"samples: each was read as {first}, this network takes ({wanted}) or ({program.timesteps}, {wanted}); "
            "read them with this network"
        )
    if given.labels is not None:
        check_labels(given.labels, len(given.labels), program.output.shape[0], "labels")
    of_folder, channels = given.names is not None, program.input.shape[0]
    if held.preprocessing.is_same(given.build_preprocessing, channels, of_folder=of_folder):
        return given
    differs = disagreement(held.preprocessing, given.preprocessing, channels, of_folder=of_folder)
    others = (each for each in given.warnings if each not in given.prepared_otherwise)
    return replace(given, prepared_otherwise=differs, warnings=(*others, *differs))


def open_recording(
    recording: str | Path | Iterable[object], program: Scheduled, binning: Binning | None, at_once: int
) -> Iterable[object]:
    """A recording as chunks of frames, (steps, C, H, W).

    Args:
        recording: Chunks of that shape; or a path to a recording of an event camera, or to an array (steps, C, H, W).
        program: The program that the frames must fit.
        binning: How a recording of an event camera becomes frames; None: the whole recording is one sample.
        at_once: How many frames a chunk of a file has.

    Raises:
        ResformerError: A file is damaged or does not fit, or a binning is given for something that is no recording.
    """
    path = Path(recording) if isinstance(recording, str | Path) else None
    if path is not None and is_event_file(path):
        return stream_frames(open_events(path), binning or WHOLE, program, at_once)
    if binning is not None:
        raise InputError("binning: is of recordings of event cameras, and this is none; leave it out")
    if path is None:
        assert not isinstance(recording, str | Path)
        return recording
    frames = read_array(path, "frames")
    if frames.ndim != 4 or frames.shape[1:] != program.input.shape:
        wanted = ", ".join(map(str, program.input.shape))
        raise InputError(f"{path}: the shape is {frames.shape}, a stream takes frames, (steps, {wanted})")
    return (frames[start : start + at_once] for start in range(0, len(frames), at_once))


@dataclass(frozen=True, eq=False)
class _Read:
    """Samples as they were read, before anything is done to them.

    Attributes:
        source: What messages call the samples.
        samples: The samples that were chosen.
        count: How many samples there were to choose from.
        chosen: The indices of the chosen samples.
        names: The file names of the chosen samples, if they have any.
        labels: The classes of all ``count`` samples, if the folders tell them.
        unlabelled: Why the classes are not known; None if the folders tell them.
        notes: What was chosen in reading the samples.
        warnings: What is doubtful in how the samples were read.
    """

    source: str
    samples: Samples
    count: int
    chosen: Indices
    names: tuple[str, ...] | None = None
    labels: npt.NDArray[np.int64] | None = None
    unlabelled: str | None = NO_LABELS
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def _read_folder(
    path: Path,
    program: Scheduled,
    samples: int | None,
    classes: tuple[str, ...] | None,
    *,
    resize: bool,
    binning: Binning | None,
) -> _Read:
    """Images or recordings of a folder; the headers of the chosen files are checked."""
    folder = open_folder(path, program, resize=resize, binning=binning)
    _require_enough(str(path), len(folder), samples)
    labels = folder.labels(program.output.shape[0], classes)
    notes: tuple[str, ...] = ()
    if labels is not None and classes is None:
        note = (
            f"labels: the build does not name its classes, so they are taken to be the folders of {path} in sorted "
            "order; compile with --classes to have them matched by name"
        )
        notes = (note,)
    chosen = first_of_each(folder.names, samples or len(folder))
    some = folder.chosen(chosen)
    some.check()
    return _Read(
        str(path),
        some,
        len(folder),
        chosen,
        some.names,
        labels,
        folder.unlabelled(program.output.shape[0], classes),
        notes,
    )


def _read_events(path: Path, program: Scheduled, samples: int | None, binning: Binning) -> _Read:
    """A recording of an event camera."""
    found = bin_events(open_events(path), binning, program)
    _require_enough(str(path), len(found), samples)
    some = found if samples is None else found.first(samples)
    return _Read(str(path), some, len(found), np.arange(len(some)), notes=found.notes, warnings=found.warnings)


def _read_array(images: Any, program: Scheduled, samples: int | None) -> _Read:
    """Samples of an array, or of a path to one."""
    source = str(images) if isinstance(images, Path) else "samples"
    array = read_array(images) if isinstance(images, Path) else as_array(images, source)
    count = len(array) if array.ndim else 0
    if array.ndim:
        _require_enough(source, count, samples)
    found = check_samples(array[:samples] if array.ndim else array, program, source)
    return _Read(source, found, count, np.arange(len(found)))


def describe_run(result: Inference, given: Given) -> Inference:
    """A run's result with what is known of its samples: names of classes, and accuracy or why it is absent."""
    accuracy = None if given.labels is None else float(np.mean(result.predictions == given.labels))
    return replace(result, classes=given.classes, accuracy=accuracy, accuracy_absent=given.accuracy_absent)


def describe_verification(result: Verification, given: Given) -> Verification:
    """A verification with what is known of its samples: classes, preprocessing, why accuracy is absent, warnings."""
    return replace(
        result,
        classes=given.classes,
        preprocessing=given.preprocessing,
        prepared_otherwise=bool(given.prepared_otherwise),
        accuracy_absent=given.accuracy_absent,
        warnings=(*result.warnings, *given.warnings),
        notes=(*given.notes, *result.notes),
    )


def warn_of_rounding(samples: Samples, program: Scheduled, source: str) -> bool:
    """Warn if encoding loses much of the samples, as where a program of whole counts is given fractional frames.

    Returns whether there was anything to warn of.

    Args:
        samples: The samples as the program's network is given them.
        program: The program whose input encodes the samples.
        source: What messages call the samples.
    """
    finest = 0 if program.metadata.get("source") == NETX else SCALE_EXP_MAX
    warning = rounding_warning(rounding_cost(samples, program.input.op.signal.scale_exp), source, finest)
    if warning is not None:
        warnings.warn(warning, SampleWarning, stacklevel=2)
    return warning is not None


def _labels(labels: Any, count: int, program: Scheduled) -> npt.NDArray[np.int64]:
    named = isinstance(labels, str | Path)
    array = read_array(Path(labels), "labels") if named else as_array(labels, "labels")
    return check_labels(array, count, program.output.shape[0], str(labels) if named else "labels")


def _require_enough(source: str, count: int, wanted: int | None) -> None:
    if wanted is not None and wanted < 1:
        raise InputError(f"samples: {wanted} is not a whole number of at least 1; ask for more")
    if wanted is not None and wanted > count:
        raise InputError(f"{source}: holds {count} samples, fewer than --samples {wanted}; ask for fewer")
