"""Verification: does the backend still run the network that was trained?"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from resformer.compiler.backends import CPU, Runner, open_backend
from resformer.compiler.files.build import PROGRAM, Build
from resformer.compiler.files.digest import sha256
from resformer.compiler.ir.program import Scheduled
from resformer.compiler.ir.reference import BoundsError
from resformer.compiler.ir.trace import Trace
from resformer.compiler.progress import Progress, no_progress
from resformer.compiler.samples.arrays import Samples
from resformer.errors import FileFormatError, InputError, UnsupportedError
from resformer.runtime.run.encode import encode, real_range
from resformer.runtime.run.infer import batch_size, batches, notes_of, require_room_for_batch, samples_at_once
from resformer.runtime.run.processes import Processes, machine_cores
from resformer.runtime.run.trace import split
from resformer.runtime.verify.checks import Sides, Tally, check_batch, recorded_names
from resformer.runtime.verify.conclude import doubtful_readouts, judge
from resformer.runtime.verify.graphs import A_FILE
from resformer.runtime.verify.limits import NO_LIMITS, Limits
from resformer.runtime.verify.local import rank
from resformer.runtime.verify.result import BACKEND, CHECKPOINT, CHECKS, SOURCES, Verification
from resformer.runtime.verify.sides import absent_sides, load_sides
from resformer.runtime.verify.user_network import UserNetwork

THE_REFERENCE = "reference"
"""The backend that defines what a program computes; comparing it with itself would prove nothing."""


@dataclass(frozen=True, eq=False)
class Comparing:
    """How the sides of a network are compared, whether of a build or of a module in memory.

    Attributes:
        backend: A key of ``BACKENDS``.
        labels: (N,), the true classes, for accuracies; None: unknown.
        stock_models: As in ``open_backend``.
        device: As in ``open_backend``; each process has its own.
        batch_size: How many samples the backend is given together; None: as many as fit in memory.
        self_check: As in ``open_backend``.
        limits: What is demanded of accuracy.
        update: Called with the progress of the verification.
        processes: The processes that share the samples; each of them gets the whole result.
    """

    backend: str
    labels: npt.NDArray[np.int64] | None = None
    stock_models: bool = False
    device: str = CPU
    batch_size: int | None = None
    self_check: bool = False
    limits: Limits = NO_LIMITS
    update: Progress = no_progress
    processes: Processes = field(default_factory=Processes)


def verify(
    build: Build,
    samples: Samples,
    program: Scheduled,
    how: Comparing,
    *,
    model: Path | None = None,
    local: bool = False,
    user: UserNetwork | None = None,
) -> Verification:
    """Compare the checkpoint, the float graphs, the program, the backend and the quantized checkpoint on samples.

    Args:
        build: The build to verify.
        samples: Samples that were checked against the program.
        program: The build's program.
        how: The backend, and how it is run.
        model: The file that was compiled; None: the checks that need it are not run.
        local: Whether to measure each layer's own error; this needs ``model``.
        user: The user's own network, to be on the left of E1.

    Raises:
        InputError: ``local`` is set without ``model``, or for a build whose layers cannot be compared alone.
        UnsupportedError: ``local`` is set, and neurons fire several spikes a step.
        ResformerError: A file is damaged, ``model`` is another network, or the backend failed.
    """
    if local and model is None:
        raise InputError(
            f"{build.directory}: each layer's own error is against the original; give model, the file that was compiled"
        )
    how.update("reading", 0, 0)
    sides = load_sides(build, program, model, user)
    if local and build.from_module:
        raise InputError(f"{build.directory}: the layers of a module are not compared alone; leave out local")
    if local and build.from_nir and user is not None:
        raise InputError(
            f"{build.directory}: layers are compared alone with the file that was compiled; leave out local"
        )
    if local:
        _check_single_spikes(program)
        # the last graph that the passes made; a graph read from the build's file may follow it
        *_, last = (stage for stage in sides.graphs if not stage.startswith(A_FILE))
        sides = replace(sides, folded=sides.graphs[last])
    only_weights = user is not None and (build.from_nir or build.from_module)
    is_source = None if model is None or only_weights else _sha256(model) == build.report["source"]["sha256"]
    try:
        result = verify_sides(
            sides,
            samples,
            how,
            not_run=absent_sides(build),
            is_source=is_source,
            assumptions=build.report["assumptions"],
        )
        return result if user is None else replace(result, notes=(*result.notes, user.note))
    except BoundsError as error:
        raise FileFormatError(
            f"{build.directory / PROGRAM}: {error}, so what it holds was changed since it was written; compile the "
            "model again"
        ) from error


def _check_single_spikes(program: Scheduled) -> None:
    """See that no neurons fire several spikes a step, since a layer's own error is not defined for them.

    Raises:
        UnsupportedError: There are such neurons.
    """
    counting = sorted(set(program.spiking_names) - set(program.lif_names))
    if counting:
        raise UnsupportedError(
            f"{counting[0]}: fires several spikes a step, where no layer's own error is known; leave out --local"
        )


def _sha256(model: Path) -> str | None:
    """The hash of a file, or None if the file cannot be read: loading it tells why."""
    try:
        return sha256(model)
    except OSError:
        return None


def verify_sides(
    sides: Sides,
    samples: Samples,
    how: Comparing,
    *,
    not_run: Mapping[str, str] = MappingProxyType({}),
    is_source: bool | None = None,
    assumptions: Sequence[str] = (),
) -> Verification:
    """Compare the sides of a network on samples, as ``verify`` does those of a build.

    Args:
        sides: The sides of one network.
        samples: Samples that were checked against its program.
        how: The backend, and how it is run.
        not_run: For each check whose side may be absent, why it is then not run.
        is_source: Whether the original is what was compiled; None if the original is absent.
        assumptions: What the compiler had to assume of the network, a sentence each.

    Raises:
        InputError: A limit on accuracy is set, but nothing is given to measure it by.
        ResformerError: The backend failed.
    """
    _check_limits(sides, how)
    program, runner, absent = sides.program, None, dict(not_run)
    if how.backend == THE_REFERENCE:
        absent[BACKEND] = "the reference interpreter is the program's definition: give another --backend"
    else:
        runner = open_backend(
            how.backend,
            stock_models=how.stock_models,
            device=how.device,
            batch_size=how.batch_size,
            self_check=how.self_check,
        )
    at_once = len(samples) if runner is None else how.batch_size or samples_at_once(program, how.backend, record=True)
    require_room_for_batch(program, how.backend, 1 if runner is None else min(at_once, len(samples)))
    mine = _compare(sides, samples, runner, at_once, how)
    how.update("gathering", 0, 0)
    tally = Tally(sides)
    notes: tuple[str, ...] = ()
    for part, noted in how.processes.gather_for_all((mine, () if runner is None else notes_of(runner))):
        tally.merge(part)
        notes = (*notes, *noted)
    how.update("concluding", 0, 0)
    expected = {
        name: program.timesteps * len(samples) * math.prod(program[name].shape) for name in program.spiking_names
    }
    checks = judge(sides, tally, samples, expected, None if runner is None else how.backend)
    return Verification(
        backend=how.backend,
        samples=len(samples),
        timesteps=program.timesteps,
        checks={name: checks[name] for name in CHECKS if name in checks},
        not_run={name: absent[name] for name in CHECKS if name not in checks},
        layers=expected,
        saturation=dict(tally.saturation),
        ties={name: tally.ties[name] for name in program.lif_names if program[name].op.counts_ties},
        clipped=tally.clipped,
        notes=tuple(dict.fromkeys(notes)),
        warnings=doubtful_readouts(tally),
        model_is_source=is_source,
        accuracy=_accuracy(tally, how.labels),
        local=rank(tally.layers),
        source=SOURCES[str(program.metadata.get("source", CHECKPOINT))],
        predictions=tuple(map(int, tally.predictions_quantized)),
        predictions_original=tuple(map(int, tally.predictions_original)),
        labels=None if how.labels is None else tuple(map(int, how.labels)),
        input_crc32=tuple(tally.checksums),
        fired={name: tally.fired[name] for name in expected},
        largest_input=tally.largest,
        input_range=real_range(program),
        input_kind=str(program.metadata.get("input", "static")),
        assumptions=tuple(assumptions),
        limits=how.limits,
        guess=None if how.labels is None else float(np.bincount(how.labels).max() / len(how.labels)),
    )


def _check_limits(sides: Sides, how: Comparing) -> None:
    """See that the limits on accuracy can be measured.

    Raises:
        InputError: The original or the labels that a limit needs are absent.
    """
    limits = {"min_agreement": how.limits.min_agreement, "max_accuracy_drop": how.limits.max_accuracy_drop}
    asked = [name for name, limit in limits.items() if limit is not None]
    if asked and sides.original is None:
        raise InputError(f"{asked[0]}: compares with the original; give model, the file that was compiled")
    if "max_accuracy_drop" in asked and how.labels is None:
        raise InputError("max_accuracy_drop: there are no labels to measure accuracy by; give labels")


def _compare(sides: Sides, samples: Samples, runner: Runner | None, at_once: int, how: Comparing) -> Tally:
    """Run this process's samples through all sides, in bounded memory."""
    program, total = sides.program, Tally(sides)
    for share in shares(program, len(samples), at_once, how.processes):
        start, stop, trace = share.start, share.stop, None
        if runner is not None:
            # the backend runs before any thread of ours starts, since it may fork
            encoded = encode(samples.real(start, stop), program).values
            trace = runner(
                program,
                encoded,
                record=True,
                progress=lambda done, steps, start=start, stop=stop: how.update(  # type: ignore[misc]
                    f"running in {how.backend}", start + (stop - start) * done / max(steps, 1), len(samples)
                ),
            )
            missing = set(recorded_names(program)) - {*trace.spikes, *trace.graded, program.output.name}
            if missing:  # python -O keeps this: what was not recorded must not count as equal
                raise AssertionError(f"{how.backend} did not record {', '.join(sorted(missing))}, which is compared")
        for tally in _in_parallel(sides, samples, share, trace, how.processes.cores):
            total.merge(tally)
            how.update("comparing", len(total.predictions_quantized), len(samples))
    return total


@dataclass(frozen=True)
class Share:
    """Samples that the backend is given together, and the batches in which they are compared.

    Attributes:
        ranges: The first sample and one past the last sample of each batch; the batches follow each other.
        threads: How many threads each batch runs on.
    """

    ranges: tuple[tuple[int, int], ...]
    threads: int

    @property
    def start(self) -> int:
        """The index of the first sample."""
        return self.ranges[0][0]

    @property
    def stop(self) -> int:
        """One past the index of the last sample."""
        return self.ranges[-1][1]


def shares(program: Scheduled, samples: int, at_once: int, processes: Processes) -> list[Share]:
    """The samples that this process compares, in batches.

    Sums of real numbers may depend on how many samples and threads a batch has. So the batches and their threads are
    the same as if one process did all the work, and the processes share out whole batches.

    Args:
        program: The program to verify.
        samples: The number of all samples.
        at_once: How many samples the backend is given together.
        processes: The processes that share the samples.
    """
    cores, whole = machine_cores(), []
    for start, stop in batches(samples, at_once):
        # small batches rather than several threads in one batch: work that is not parallel then runs beside others'
        size = min(batch_size(program), math.ceil((stop - start) / cores))
        ranges = tuple((start + first, start + last) for first, last in batches(stop - start, size))
        whole.append(Share(ranges, max(1, cores // min(cores, len(ranges)))))
    first, last = processes.part(sum(len(share.ranges) for share in whole))
    mine, position = [], 0
    for share in whole:
        ranges = share.ranges[max(first - position, 0) : max(last - position, 0)]
        if ranges:
            mine.append(Share(ranges, share.threads))
        position += len(share.ranges)
    return mine


def _in_parallel(sides: Sides, samples: Samples, share: Share, trace: Trace | None, cores: int) -> Iterator[Tally]:
    """The tallies of all batches, in order; several batches run in parallel, each on a copy of the sides."""
    within = [(first - share.start, last - share.start) for first, last in share.ranges]
    traces = [None] * len(within) if trace is None else split(trace, within)
    workers = max(1, min(cores // share.threads, len(within)))
    idle = deque([sides, *(sides.copy() for _ in range(workers - 1))])

    def check(bounds: tuple[int, int], part: Trace | None) -> Tally:
        mine = idle.pop()
        try:
            return check_batch(mine, samples, *bounds, part)
        finally:
            idle.append(mine)

    with _threads(share.threads):
        executor = ThreadPoolExecutor(workers)
        try:
            yield from executor.map(check, share.ranges, traces)
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let PyTorch and BLAS use ``count`` threads in each of our threads.

    More threads than cores would wait for each other, a hundred times slower.
    """
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


def _accuracy(tally: Tally, labels: npt.NDArray[np.int64] | None) -> dict[str, float]:
    if labels is None:
        return {}
    found = {"original": tally.predictions_original, "quantized": tally.predictions_quantized}
    return {name: float(np.mean(np.equal(each, labels))) for name, each in found.items() if each}
