"""Inference: samples through a program on any backend, batch by batch."""

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
from resformer.compiler.ir.ops import MaxPool2d, MultiSpikeIF, Relay, SpikeAttention, SpikeMatMul
from resformer.compiler.ir.program import Scheduled, may_clip
from resformer.compiler.ir.summary import Summarized, Summary, counted, listed
from resformer.compiler.ir.trace import CountTrain, SpikeTrain, Trace
from resformer.compiler.placement.activity import Events, events
from resformer.compiler.samples.arrays import Samples
from resformer.compiler.samples.classes import named
from resformer.errors import CapacityError
from resformer.runtime.run.encode import encode, predict, real_logits, real_range
from resformer.runtime.run.memory import machine_memory
from resformer.runtime.run.to_know import NO_SPIKES_OUT, clipping, silence
from resformer.runtime.run.trace import join

SampleProgress: TypeAlias = Callable[[float, float], None]
"""Called with (samples done, samples in all)."""

BATCH_BYTES = 2**29
"""What the interpreters' largest operation may take for one batch."""
BATCH_MAX = 16
"""Beyond this many samples a batch is no faster."""
STREAM_BYTES = 2**30
"""What a streaming backend's samples and its record of them may take at once."""
ENCODING_BYTES = 3 * np.dtype(np.float64).itemsize + np.dtype(np.int32).itemsize
"""What encoding takes for each value: as it is, rounded, clipped, and as an integer."""
PREDICTIONS_SHOWN = 10
"""In a summary."""
SATURATED_SHOWN = 10
"""Of the nodes that clipped values, those that clipped most: a table's cell holds no more than a page of text."""
RECORD_BYTES = 2**32
"""What the spikes of all samples may take, which are kept until the run ends."""


@dataclass(frozen=True, eq=False, repr=False)
class Inference(Summarized):
    """What inference yields.

    Attributes:
        logits_int: (N, T, classes), the program's integers.
        logits: Likewise, the real numbers that they stand for.
        predictions: (N,), the class with the largest mean logit.
        spikes: Each population's, (T, N, ...), if they were recorded; counts, of those that may fire several a step.
        saturated: How often a value was clipped, by node.
        uncounted: The populations whose clipped potentials the backend does not count.
        clipped: How many values of the input its range could not hold.
        seconds: Wall-clock time.
        notes: What the backend found of this machine, a sentence each: kernels that it computes wrongly.
        classes: The names of the classes, class 0 first, if they are known.
        accuracy: The share of predictions that are the samples' labels, if those are known.
        accuracy_absent: Why there is no accuracy; None if there is.
        ties: How often a potential met its threshold exactly and did not fire, by population; those that fire at ties
            are not there, and none is where the backend does not count.
        to_know: What a reader should know beside the results, a sentence each: clipped input, populations that never or
            always fired (if spikes were recorded).
        largest: The largest magnitude of any value of the input.
        events: What all samples sent, if that was counted: what a cost is estimated from.
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
    """What some samples, one after another, gave.

    Attributes:
        trace: Without graded values.
        clipped: How many values of the input its range could not hold.
        notes: What the backend found of the machine that ran them.
        largest: The largest magnitude of any value of the input.
        fired: How often each population fired, if spikes were recorded.
        chances: How often each could have.
        events: What was sent, if that was to be counted.
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
    """What is remembered of spikes.

    Attributes:
        kept: Of how many samples, the first of all, every spike is kept to the end; None: of all.
        counts: Whether events are counted, which takes no more memory for more samples.
    """

    kept: int | None = None
    counts: bool = False

    def kept_of(self, samples: int) -> int:
        """Of so many samples, how many have their spikes kept."""
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
        program: Scheduled.
        samples: Checked against it.
        backend: A key of ``BACKENDS``.
        record: Keep every LIF's spikes, or what of them a ``Record`` says.
        batch_size: How many samples are in memory together; None: as many as ``samples_at_once`` says.
        self_check: As in ``open_backend``.
        progress: Told how far the run is.

    Raises:
        ResformerError: The backend cannot run it, or its run ended too early.
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
    """Run some of the samples, as ``infer`` runs all.

    Args:
        program: Scheduled.
        samples: All of them.
        runner: From ``open_backend``.
        bounds: The first and the past-the-last of those to run.
        batch_size: How many samples are in memory together.
        record: Keep every LIF's spikes, or what of them a ``Record`` says.
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


def sent_spikes(program: Scheduled, trace: Trace) -> dict[str, SpikeTrain]:
    """What populations sent, in their order: spikes, or counts of them; nothing where nothing was recorded."""
    trains = dict(trace.spikes) | {
        name: CountTrain.pack(trace.graded[name])
        for name in program.spiking_names
        if isinstance(program[name].op, MultiSpikeIF) and name in trace.graded
    }
    return {name: trains[name] for name in program.spiking_names if name in trains}


def notes_of(runner: Runner) -> tuple[str, ...]:
    """What a runner's runs found of this machine, if it is one that looks (``OpenBackend.notes``)."""
    return tuple(getattr(runner, "notes", ()))


def conclude(program: Scheduled, parts: Sequence[Part], seconds: float) -> Inference:
    """What all parts of the samples gave, in their order."""
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
    """What a reader should know of a run beside its results."""
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


def saturated_in_words(
    program: Scheduled, saturated: Mapping[str, int], uncounted: Collection[str], backend: str
) -> str:
    """What clipped values, the worst first, and of how many populations that may clip it is not known.

    Args:
        program: That ran.
        saturated: How often each node clipped.
        uncounted: The populations whose clipped potentials the backend does not count.
        backend: Its name.
    """
    worst = sorted(saturated.items(), key=lambda each: -each[1])
    counts = listed([f"{name} {count:,}" for name, count in worst], SATURATED_SHOWN)
    unknown = sum(program[name].op.clips and may_clip(program, name) for name in uncounted)
    note = f"; {backend} does not count clipped potentials ({unknown} populations)" if unknown else ""
    return (counts or "0") + note


def to_know_unrecorded(program: Scheduled, *, clipped: int, largest: float, silent: bool) -> tuple[str, ...]:
    """What a reader should know of a run whose spikes were not recorded.

    Args:
        program: That ran.
        clipped: How many values of the input its range could not hold.
        largest: The largest magnitude of any.
        silent: Whether every logit is zero.
    """
    unspoken = (NO_SPIKES_OUT,) if silent and program.spiking_names else ()
    bounds, frames = real_range(program), program.metadata.get("input") == "frames"
    return unspoken + clipping(clipped, largest, bounds, frames=frames)


def require_room_for_spikes(program: Scheduled, samples: int) -> None:
    """See to it that the spikes of all samples, which are kept until the end, are not too many.

    Raises:
        CapacityError: They are.
    """
    size = program.timesteps * sum(_train_bits(program, name) for name in program.spiking_names) // 8 + 1
    if samples * size > RECORD_BYTES:
        raise CapacityError(
            f"--record-spikes: the spikes of {samples} samples take {samples * size / 1e9:.1f} GB, the limit is "
            f"{RECORD_BYTES / 1e9:.1f} GB; record no more than --samples {max(RECORD_BYTES // size, 1)}"
        )


def _train_bits(program: Scheduled, name: str) -> int:
    """Bits that a step of a population takes in a record."""
    return math.prod(program[name].shape) * (1 if program[name].op.fires else 8)


def require_room_for_batch(program: Scheduled, backend: str, samples: int) -> None:
    """See to it that a batch is not larger than any the machine could hold.

    Linux promises memory that it does not have, and later ends the process without a word.

    Args:
        program: What runs.
        backend: A key of ``BACKENDS``.
        samples: How many the batch has.

    Raises:
        CapacityError: Its samples alone, or what an interpreter computes of them, exceed the machine's memory.
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
    """The first and the past-the-last index of each batch."""
    for start in range(0, count, size):
        yield start, min(start + size, count)


def batch_size(program: Scheduled) -> int:
    """How many samples the interpreters can run together in bounded memory."""
    return max(1, min(BATCH_MAX, BATCH_BYTES // max(operation_bytes(program, node) for node in program)))


def samples_at_once(program: Scheduled, backend: str, *, record: bool) -> int:
    """How many samples a backend is given together.

    Args:
        program: What it runs.
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
    """A backend's progress through one batch as progress through all samples."""
    if progress is None:
        return None
    return lambda done, total: progress(start + (stop - start) * done / max(total, 1), count)
