"""Reader of the file that ``resformer-run -o OUT.npz`` wrote: each population's spikes by its name, samples first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.summary import Summarized, Summary, counted, listed
from resformer.compiler.ir.trace import CountTrain, SpikeTrain
from resformer.compiler.samples.numpy_files import member_names, open_array
from resformer.errors import FileFormatError
from resformer.models.limits import MOST_AXES, quote

RESULT_FORMAT_VERSION = 1
"""The version of the file's format."""
SPIKES, SHAPE, COUNTS = "spikes/", "shape/", "counts/"
"""Prefixes of a population's name in the file: packed spikes and their shape, or counts."""
RUN_AGAIN = "run again with resformer-run -o"


@dataclass(frozen=True, eq=False, repr=False)
class Recorded(Mapping[str, npt.NDArray[Any]], Summarized):
    """Results of a run, and a mapping from a population's name to its spikes, (N, T, ...): samples, steps, neurons.

    Spikes are bool. Neurons that send several spikes a step have counts, uint8. Spikes are unpacked anew each time that
    a name is looked up.

    Attributes:
        logits: (N, T, classes), real numbers.
        logits_int: (N, T, classes), the program's integers.
        predictions: (N,), the class with the largest mean logit.
        trains: Each population's spikes as they are stored, (T, N, ...): eight to a byte, or a byte for each count.
        sample_names: The files' names, if the samples were a folder.
        classes: The classes' names, if the build holds them.
    """

    logits: npt.NDArray[np.float64]
    logits_int: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    trains: Mapping[str, SpikeTrain]
    sample_names: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.trains[name].by_sample()

    def __iter__(self) -> Iterator[str]:
        return iter(self.trains)

    def __len__(self) -> int:
        return len(self.trains)

    @property
    def names(self) -> tuple[str, ...]:
        """The populations that were recorded, in topological order; none without ``--record-spikes``."""
        return tuple(self.trains)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each population's spikes, (N, T, ...), without unpacking them."""
        return {name: (train.shape[1], train.shape[0], *train.shape[2:]) for name, train in self.trains.items()}

    def summary(self) -> Summary:
        """What was recorded."""
        samples, steps, classes = self.logits.shape
        rows = [("logits", f"({samples}, {steps}, {classes}): samples, steps, classes")]
        rows.append(("populations", listed(self.names) if self.trains else "not recorded; run with --record-spikes"))
        rows += [
            (name, f"{shape}: {train.count:,} of {train.size:,}")
            for (name, shape), train in zip(self.shapes.items(), self.trains.values(), strict=True)
        ]
        return f"Recorded run of {counted(samples, 'sample')}", rows


def load_spikes(path: str | Path) -> Recorded:
    """Open what ``resformer-run -o OUT.npz --record-spikes`` wrote.

    The arrays are memory-mapped: only what is in use takes memory.

    Example:
        Rates of each population, over samples and steps::

            recorded = resformer.load_spikes("out.npz")
            for name, spikes in recorded.items():       # (N, T, C, H, W), bool
                print(name, spikes.shape, spikes.mean())

    Args:
        path: The file.

    Raises:
        FileFormatError: The file is absent, damaged, or not written by resformer-run.
    """
    path = Path(path)
    members = member_names(path)
    if "logits" not in members or "format_version" not in members:
        raise FileFormatError(f"{path}: holds no results of resformer-run; {RUN_AGAIN}")
    version = open_array(path, "format_version")
    if version.shape != () or version.dtype.kind not in "iu" or int(version) != RESULT_FORMAT_VERSION:
        raise FileFormatError(
            f"{path}: has another format version than {RESULT_FORMAT_VERSION}; {RUN_AGAIN}, by this resformer"
        )
    logits = _numbers(path, members, "logits", "f", 3)
    samples, steps, _ = logits.shape
    logits_int = _numbers(path, members, "logits_int", "iu", 3)
    predictions = _numbers(path, members, "predictions", "iu", 1)
    if logits_int.shape != logits.shape or predictions.shape != (samples,):
        raise FileFormatError(
            f"{path}: logits of shape {logits.shape} beside logits_int of {logits_int.shape} and predictions of "
            f"{predictions.shape}; {RUN_AGAIN}"
        )
    trains: dict[str, SpikeTrain] = {}
    for member in members:
        kind = next((each for each in (SPIKES, COUNTS) if member.startswith(each)), None)
        if kind is not None:
            name = member.removeprefix(kind)
            trains[name] = _spikes(path, members, name) if kind == SPIKES else _counts(path, members, name)
            if trains[name].shape[:2] != (steps, samples):
                raise FileFormatError(
                    f"{path}: {quote(name)} has spikes of shape {trains[name].shape} (steps, samples, ...) beside "
                    f"logits of {logits.shape} (samples, steps, classes); {RUN_AGAIN}"
                )
    sample_names = _texts(path, members, "names", samples)
    return Recorded(logits, logits_int, predictions, trains, sample_names, _texts(path, members, "classes", None))


def _numbers(path: Path, members: tuple[str, ...], name: str, kinds: str, axes: int) -> npt.NDArray[Any]:
    """An array of the file; its ``dtype.kind`` must be one of ``kinds``, and it must have ``axes`` axes."""
    if name not in members:
        raise FileFormatError(f"{path}: has no {quote(name)}; {RUN_AGAIN}")
    array = open_array(path, name)
    if array.dtype.kind not in kinds or array.ndim != axes:
        raise FileFormatError(
            f"{path}: {quote(name)} is of type {array.dtype} and shape {array.shape}, not {axes} axes of numbers; "
            f"{RUN_AGAIN}"
        )
    return array


def _spikes(path: Path, members: tuple[str, ...], name: str) -> SpikeTrain:
    """The packed spikes of a population, with their shape."""
    packed = _numbers(path, members, f"{SPIKES}{name}", "u", 1)
    sizes = _numbers(path, members, f"{SHAPE}{name}", "iu", 1)
    shape = tuple(int(size) for size in sizes[: MOST_AXES + 1])
    size = 1
    for each in shape:
        size *= each
    fits = 2 < len(shape) <= MOST_AXES and min(shape) >= 0 and -(-size // 8) == len(packed)
    if packed.dtype != np.uint8 or not fits:
        raise FileFormatError(
            f"{path}: {quote(name)} holds {len(packed)} values of type {packed.dtype} for spikes of shape {shape}; "
            f"{RUN_AGAIN}"
        )
    return SpikeTrain(shape, packed)


def _counts(path: Path, members: tuple[str, ...], name: str) -> CountTrain:
    """Counts of a population that may send several spikes a step."""
    member = f"{COUNTS}{name}"
    counts: npt.NDArray[Any] = open_array(path, member) if member in members else np.zeros(0)
    if counts.dtype != np.uint8 or counts.ndim < 3:
        raise FileFormatError(
            f"{path}: {quote(name)} has counts of type {counts.dtype} and shape {counts.shape}, not bytes "
            f"(steps, samples, ...); {RUN_AGAIN}"
        )
    return CountTrain(counts.shape, counts.reshape(-1))


def _texts(path: Path, members: tuple[str, ...], name: str, count: int | None) -> tuple[str, ...] | None:
    """Names in the file, ``count`` of them unless that is None; None if the file has no such array."""
    if name not in members:
        return None
    texts = open_array(path, name)
    if texts.dtype.kind != "U" or texts.ndim != 1 or (count is not None and len(texts) != count):
        raise FileFormatError(
            f"{path}: {quote(name)} is of type {texts.dtype} and shape {texts.shape}, not one name each; {RUN_AGAIN}"
        )
    return tuple(map(str, texts))
