"""A recording of any length through a program: some samples at a time, in memory that does not depend on its length."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.backends import OpenBackend
from resformer.compiler.ir.program import Scheduled
from resformer.compiler.samples.arrays import Samples, as_array
from resformer.errors import InputError
from resformer.runtime.run.encode import encode
from resformer.runtime.run.infer import (
    Inference,
    Part,
    conclude,
    notes_of,
    require_room_for_batch,
    samples_at_once,
    sent_spikes,
)

Frames = npt.NDArray[Any]
"""(steps, C, H, W)."""
AT_ONCE = 64
"""Samples that are in memory together at most, unless somebody says otherwise."""


def windows(program: Scheduled, chunks: Iterable[object], at_once: int) -> Iterator[Frames]:
    """Chunks of frames as samples of T frames, however the chunks are cut.

    Args:
        program: Whose input they must fit.
        chunks: (steps, C, H, W) each, all of one type; arrays or tensors.
        at_once: The most samples of one array.

    Yields:
        (N, T, C, H, W). Of a recording that ends within a sample, the last frames are zeros.

    Raises:
        InputError: A chunk is of another shape, or of another type than the first; or there are no frames.
    """
    shape, timesteps = program.input.shape, program.timesteps
    size = at_once * timesteps
    held: list[Frames] = []
    count, first, seen = 0, None, False
    for index, chunk in enumerate(chunks):
        source = f"chunk {index}"
        frames = as_array(chunk, source)
        if frames.ndim > 1 and frames.shape[1:] == tuple(size for size in shape if size > 1):
            frames = frames.reshape(-1, *shape)  # axes of length one may be left out
        if frames.ndim != 4 or frames.shape[1:] != shape:
            raise InputError(
                f"{source}: the shape is {frames.shape}, the network takes frames (steps, {', '.join(map(str, shape))})"
            )
        first = frames.dtype if first is None else first
        if frames.dtype != first:
            raise InputError(
                f"{source}: the type is {frames.dtype}, and those before it are of {first}, which may mean another "
                "thing; convert with astype"
            )
        seen = seen or len(frames) > 0
        for start in range(0, len(frames), size):
            held.append(frames[start : start + size].copy())  # its giver may fill the same array again
            count += len(held[-1])
            while count >= size:
                together = np.concatenate(held)
                yield together[:size].reshape(at_once, timesteps, *shape)
                held, count = [together[size:]], count - size
    if not seen:
        raise InputError("recording: holds no frames, so there is nothing to run; give at least one")
    if count:
        missing = -count % timesteps
        held.append(np.zeros((missing, *shape), dtype=first))
        yield np.concatenate(held).reshape(-1, timesteps, *shape)


def stream(
    program: Scheduled,
    chunks: Iterable[object],
    backend: str,
    runner: OpenBackend,
    read: Callable[[Frames], Samples],
    *,
    at_once: int | None = None,
    record: bool = False,
) -> Iterator[Inference]:
    """Run a recording.

    Args:
        program: Scheduled.
        chunks: As ``windows`` takes them.
        backend: A key of ``BACKENDS``.
        runner: It, from ``open_backend``.
        read: Checks samples (N, T, C, H, W) and does to them what the build does.
        at_once: How many samples are in memory together; None: as many as are fast.
        record: Keep every population's spikes.

    Yields:
        Results of the samples in their order, of one or more at a time; each sample's are those of ``infer``.

    Raises:
        ResformerError: A chunk does not fit, or the backend failed.
    """
    at_once = at_once or min(AT_ONCE, samples_at_once(program, backend, record=record))
    require_room_for_batch(program, backend, at_once)
    clipped, largest = 0, 0.0

    def batches() -> Iterator[npt.NDArray[np.int32]]:
        nonlocal clipped, largest
        for values in windows(program, chunks, at_once):
            encoded = encode(read(values).real(), program)
            clipped, largest = clipped + encoded.clipped, max(largest, encoded.largest)
            yield encoded.values

    started = time.perf_counter()
    for trace in runner.stream(program, batches(), at_once=at_once, record=record):
        kept = replace(trace, graded={}, spikes=sent_spikes(program, trace))
        part = Part(kept, clipped, notes_of(runner), largest)
        clipped, largest = 0, 0.0
        now = time.perf_counter()
        yield conclude(program, [part], now - started)
        started = time.perf_counter()
