"""Inference: samples run through a program on any backend, batch by batch."""

from __future__ import annotations

import functools
import math
import operator
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from resformer.compiler.backends import BACKENDS, Runner, open_backend
from resformer.compiler.backends.base import does_not_fit
from resformer.compiler.ir.effort import operation_bytes
from resformer.compiler.ir.ops import MaxPool2d, Relay, SpikeAttention, SpikeMatMul
from resformer.compiler.ir.program import Scheduled, may_clip
from resformer.compiler.ir.summary import Summarized, Summary, counted, listed
from resformer.compiler.ir.trace import SpikeTrain, Trace
from resformer.compiler.placement.activity import Events, events, sent_spikes
from resformer.compiler.samples.arrays import Samples
from resformer.compiler.samples.classes import named
from resformer.errors import CapacityError
from resformer.runtime.run.encode import encode, predict, real_logits, real_range
from resformer.runtime.run.memory import machine_memory
from resformer.runtime.run.to_know import NO_SPIKES_OUT, clipping, silence
from resformer.runtime.run.trace import join

SampleProgress: TypeAlias = Callable[[float, float], None]
"""A callback, called with (samples done, samples in all)."""

BATCH_BYTES = 2**29
"""Bytes that the interpreters' largest operation may take for one batch."""
BATCH_MAX = 16
"""The most samples of a batch: larger batches are no faster."""
STREAM_BYTES = 2**30
"""Bytes that the samples in a streaming backend, and its record of them, may take at once."""
ENCODING_BYTES = 3 * np.dtype(np.float64).itemsize + np.dtype(np.int32).itemsize
"""Bytes that encoding takes for each value: float64 as given, rounded and clipped, and the int32."""
PREDICTIONS_SHOWN = 10
"""How many predictions a summary shows, and how many of the classes that were found."""
SATURATED_SHOWN = 10
"""How many of the nodes that clipped values are named, the worst first: long cells of a table are cut."""
RECORD_BYTES = 2**32
"""Bytes that the spikes of all samples may take; they are kept until the run ends."""


@dataclass(frozen=True, eq=False, repr=False)
class Inference(Summarized):
    """The results of inference.

    Attributes:
        logits_int: (N, T, classes), the program's integers.
        logits: (N, T, classes), the real numbers that ``logits_int`` stands for.
        predictions: (N,), the class with the largest mean logit.
        spikes: Each population's spikes, (T, N, ...), if they were recorded. Populations that may fire several spikes a
            step have counts.
        saturated: How often a value was clipped, by node.
        uncounted: The populations whose clipped potentials the backend does not count.
        clipped: How many values of the input its range could not hold.
        seconds: Wall-clock time.
        notes: What the backend found out about this machine, a sentence each: kernels that it computes wrongly.
        classes: The names of the classes, class 0 first, if they are known.
        accuracy: The share of predictions that equal the samples' labels, if the labels are known.
        accuracy_absent: Why there is no accuracy; None if there is.
        ties: How often a potential met its threshold exactly and did not fire, by population. Populations that fire at
            ties are left out; empty if the backend does not count ties.
        to_know: What a reader should know beside the results, a sentence each: clipped input, populations that never or
            always fired (if spikes were recorded).
        largest: The largest magnitude of any value of the input.
        events: What all samples sent, if it was counted; a cost is estimated from it.
    """

    logits_int: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float64]
    predictions: npt.NDArray[np.int64]
    spikes: Mapping[str, SpikeTrain]
    saturated: Mapping[str, int]
    uncounted: tuple[str, ...]
    clipped: int
    seconds: float
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    accuracy: float | None = None
    accuracy_absent: str | None = None
    ties: Mapping[str, int] = field(default_factory=dict)
    to_know: tuple[str, ...] = ()
    largest: float = 0.0
    events: Events | None = None

    def summary(self) -> Summary:
        """What ran, how fast, and what it recorded and clipped."""
        samples, steps, classes = self.logits.shape
        fired = f"of {counted(len(self.spikes), 'population')}" if self.spikes else "not recorded"
        first = [int(each) for each in self.predictions[:PREDICTIONS_SHOWN]]
        texts = map(str, first) if self.classes is None else (named(each, self.classes) for each in first)
        shown = ", ".join(texts) + (", ..." * (samples > PREDICTIONS_SHOWN))
        return f"Inference of {counted(samples, 'sample')}", [
            ("logits", f"({samples}, {steps}, {classes}): samples, steps, classes"),
            ("predictions", shown),
            *([] if self.accuracy is None else [("accuracy", f"{self.accuracy:.2%}")]),
            ("spikes", fired),
            ("values clipped", f"{self.clipped:,} of the input, {sum(self.saturated.values()):,} inside"),
            ("time", f"{self.seconds:.3g} s"),
            *(("note", note) for note in self.notes),
            *(("to know", each) for each in self.to_know),
        ]


@dataclass(frozen=True, eq=False)
class Part:
    """The results of a range of consecutive samples.

    Attributes:
        trace: The trace, without graded values.
        clipped: How many values of the input its range could not hold.
        notes: What the backend found out about the machine that ran the samples, a sentence each.
        largest: The largest magnitude of any value of the input.
        fired: How often each population fired, if spikes were recorded.
        chances: How often each population could have fired, if spikes were recorded.
        events: What the samples sent, if it was counted.
    """

    trace: Trace
    clipped: int
    notes: tuple[str, ...] = ()
    largest: float = 0.0
    fired: Mapping[str, int] = field(default_factory=dict)
    chances: Mapping[str, int] = field(default_factory=dict)
    events: Events | None = None


@dataclass(frozen=True)
class Record:
    """What a run records of spikes.

    Attributes:
        kept: For how many samples, the first of the run, every spike is kept to the end; None: for all samples.
        counts: Whether events are counted, which takes no more memory for more samples.
    """

    kept: int | None = None
    counts: bool = False

    def kept_of(self, samples: int) -> int:
        """How many of the first ``samples`` samples have their spikes kept."""
        return samples if self.kept is None else min(self.kept, samples)


def infer(
    program: Scheduled,
    samples: Samples,
    backend: str,
    *,
    record: bool | Record,
    batch_size: int | None = None,
    self_check: bool = False,
    progress: SampleProgress | None = None,
) -> Inference:
    """Run samples through a program.

    Args:
        program: A scheduled program.
        samples: Samples that fit the program.
        backend: A key of ``BACKENDS``.
        record: True: keep every population's spikes; or a ``Record`` that says which to keep, and whether to count.
        batch_size: How many samples are in memory together; None: as many as ``samples_at_once`` says.
        self_check: As in ``open_backend``.
        progress: Told how far the run is.

    Raises:
        ResformerError: The backend cannot run the program, or its run ended too early.
    """
    runner = open_backend(backend, self_check=self_check)
    batch_size = batch_size or samples_at_once(program, backend, record=bool(record))
    started = time.perf_counter()
    part = infer_part(
        program, samples, runner, bounds=(0, len(samples)), batch_size=batch_size, record=record, progress=progress
    )
    return conclude(program, [part], time.perf_counter() - started)


def infer_part(
    program: Scheduled,
    samples: Samples,
    runner: Runner,
    *,
    bounds: tuple[int, int],
    batch_size: int,
    record: bool | Record = False,
    progress: SampleProgress | None = None,
) -> Part:
    """Run a range of the samples, as ``infer`` runs all of them.

    Args:
        program: A scheduled program.
        samples: All samples.
        runner: From ``open_backend``.
        bounds: The first index and the past-the-last index of the samples to run.
        batch_size: How many samples are in memory together.
        record: As in ``infer``.
        progress: Told how far the run of these samples is.

    Raises:
        CapacityError: A batch does not fit in memory.
    """
    first, count = bounds[0], bounds[1] - bounds[0]
    wanted = record if isinstance(record, Record) else Record()
    traces, clipped, largest = [], 0, 0.0
    fired: Counter[str] = Counter()
    chances: Counter[str] = Counter()
    seen: Events | None = None
    for start, stop in batches(count, batch_size):
        try:
            encoded = encode(samples.real(first + start, first + stop), program)
            trace = runner(program, encoded.values, record=bool(record), progress=_within(progress, start, stop, count))
        except MemoryError as error:
            raise does_not_fit(stop - start) from error
        clipped, largest = clipped + encoded.clipped, max(largest, encoded.largest)
        spikes = sent_spikes(program, trace)
        fired.update({name: train.count for name, train in spikes.items()})
        chances.update({name: train.size for name, train in spikes.items()})
        if wanted.counts and spikes:
            found = events(program, spikes)
            seen = found if seen is None else seen + found
        kept = wanted.kept_of(first + stop) - (first + start)
        if wanted.kept == 0:
            spikes = {}
        elif kept < stop - start:
            spikes = {name: train.first(max(kept, 0)) for name, train in spikes.items()}
        traces.append(replace(trace, graded={}, spikes=spikes))
    return Part(join(traces), clipped, notes_of(runner), largest, dict(fired), dict(chances), seen)


def notes_of(runner: Runner) -> tuple[str, ...]:
    """What a runner's runs found out about this machine (``OpenBackend.notes``); empty if it has no notes."""
    return tuple(getattr(runner, "notes", ()))


def conclude(program: Scheduled, parts: Sequence[Part], seconds: float) -> Inference:
    """The results of all samples, from those of their parts in order."""
    trace = join([part.trace for part in parts])
    logits = real_logits(trace.logits, program)
    seen = [part.events for part in parts if part.events is not None]
    return Inference(
        logits_int=trace.logits.swapaxes(0, 1),
        logits=logits.swapaxes(0, 1),
        predictions=predict(logits),
        spikes=trace.spikes,
        saturated={name: count for name, count in trace.saturated.items() if count},
        ties=trace.ties,
        uncounted=tuple(name for name in program.lif_names if name not in trace.saturated),
        clipped=sum(part.clipped for part in parts),
        seconds=seconds,
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        to_know=_to_know(program, trace, parts),
        largest=max(part.largest for part in parts),
        events=functools.reduce(operator.add, seen) if seen else None,
    )


def _to_know(program: Scheduled, trace: Trace, parts: Sequence[Part]) -> tuple[str, ...]:
    """Sentences that a reader should know beside a run's results."""
    populations = program.spiking_names
    recorded = populations and all(part.fired.keys() >= set(populations) for part in parts)
    lines = to_know_unrecorded(
        program,
        clipped=sum(part.clipped for part in parts),
        largest=max(part.largest for part in parts),
        silent=not recorded and not trace.logits.any(),
    )
    if not recorded:
        return lines
    fired = {name: sum(part.fired[name] for part in parts) for name in populations}
    chances = {name: sum(part.chances[name] for part in parts) for name in populations}
    return silence(fired, chances, from_nir=program.metadata.get("source") == "nir") + lines


def predictions_in_words(histogram: npt.NDArray[np.int64], classes: Sequence[str] | None) -> str:
    """How many samples each class was found in, the most frequent first.

    Args:
        histogram: The number of samples of each class.
        classes: The names of the classes, class 0 first, if they are known.
    """
    found = [int(each) for each in np.argsort(-histogram, kind="stable") if histogram[each]]
    return listed([f"{named(each, classes)}: {histogram[each]:,}" for each in found], PREDICTIONS_SHOWN)


def saturated_in_words(
    program: Scheduled, saturated: Mapping[str, int], uncounted: Collection[str], backend: str
) -> str:
    """Which nodes clipped values, the worst first, and how many populations may have clipped values uncounted.

    Args:
        program: The program that ran.
        saturated: How often each node clipped.
        uncounted: The populations whose clipped potentials the backend does not count.
        backend: The backend's name.
    """
    worst = sorted(saturated.items(), key=lambda each: -each[1])
    counts = listed([f"{name} {count:,}" for name, count in worst], SATURATED_SHOWN)
    unknown = sum(program[name].op.clips and may_clip(program, name) for name in uncounted)
    note = f"; {backend} does not count clipped potentials ({unknown} populations)" if unknown else ""
    return (counts or "0") + note


def to_know_unrecorded(program: Scheduled, *, clipped: int, largest: float, silent: bool) -> tuple[str, ...]:
    """Sentences that a reader should know of a run whose spikes were not recorded.

    Args:
        program: The program that ran.
        clipped: How many values of the input its range could not hold.
        largest: The largest magnitude of any value of the input.
        silent: Whether every logit is zero.
    """
    unspoken = (NO_SPIKES_OUT,) if silent and program.spiking_names else ()
    bounds, frames = real_range(program), program.metadata.get("input") == "frames"
    return unspoken + clipping(clipped, largest, bounds, frames=frames)


def require_room_for_spikes(program: Scheduled, samples: int) -> None:
    """Require that the spikes of ``samples`` samples, which are kept until the end, take at most ``RECORD_BYTES``.

    Raises:
        CapacityError: They take more.
    """
    size = program.timesteps * sum(_train_bits(program, name) for name in program.spiking_names) // 8 + 1
    if samples * size > RECORD_BYTES:
        raise CapacityError(
            f"--record-spikes: the spikes of {samples} samples take {samples * size / 1e9:.1f} GB, the limit is "
            f"{RECORD_BYTES / 1e9:.1f} GB; record no more than --samples {max(RECORD_BYTES // size, 1)}"
        )


def _train_bits(program: Scheduled, name: str) -> int:
    """Bits that a record takes for one step of a population and one sample."""
    return math.prod(program[name].shape) * (1 if program[name].op.fires else 8)


def require_room_for_batch(program: Scheduled, backend: str, samples: int) -> None:
    """Require that a batch fits in the machine's memory.

    Linux grants memory that it does not have, and later kills the process without a message.

    Args:
        program: The program that runs.
        backend: A key of ``BACKENDS``.
        samples: How many samples the batch has.

    Raises:
        CapacityError: The samples alone, or with what an interpreter computes of them, exceed the machine's memory.
    """
    frames = program.timesteps if program.metadata.get("input") == "frames" else 1
    size = ENCODING_BYTES * frames * math.prod(program.input.shape)
    if not BACKENDS[backend].streams:
        size += max(operation_bytes(program, node) for node in program)
    memory = machine_memory()
    if memory is not None and samples * size > memory:
        if samples == 1:
            raise does_not_fit(1, f"this machine's {memory / 1e9:.1f} GB")
        raise CapacityError(
            f"--batch-size: {samples} samples at once take {samples * size / 1e9:.1f} GB or more, this machine has "
            f"{memory / 1e9:.1f} GB; give a smaller one, such as {max(memory // size // 2, 1)}"
        )


def batches(count: int, size: int) -> Iterator[tuple[int, int]]:
    """The first index and the past-the-last index of each batch."""
    for start in range(0, count, size):
        yield start, min(start + size, count)


def batch_size(program: Scheduled) -> int:
    """How many samples the interpreters can run together in bounded memory."""
    return max(1, min(BATCH_MAX, BATCH_BYTES // max(operation_bytes(program, node) for node in program)))


def samples_at_once(program: Scheduled, backend: str, *, record: bool) -> int:
    """How many samples a backend is given together.

    Args:
        program: The program that it runs.
        backend: A key of ``BACKENDS``.
        record: Whether it keeps every spike and graded value.
    """
    if not BACKENDS[backend].streams:
        return batch_size(program)
    steps = program.timesteps
    size = ENCODING_BYTES * steps * math.prod(program.input.shape)
    if record:
        kinds = Relay | SpikeMatMul | SpikeAttention | MaxPool2d
        graded = sum(math.prod(node.shape) for node in program if isinstance(node.op, kinds))
        spikes = sum(_train_bits(program, name) for name in program.spiking_names)
        size += steps * (4 * graded + spikes // 8)
    return max(1, STREAM_BYTES // size)


def _within(progress: SampleProgress | None, start: int, stop: int, count: int) -> Callable[[int, int], None] | None:
    """A callback that turns a backend's progress through one batch into progress through all samples."""
    if progress is None:
        return None
    return lambda done, total: progress(start + (stop - start) * done / max(total, 1), count)
