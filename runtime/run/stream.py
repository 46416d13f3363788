"""A recording of any length run through a program, a few samples at a time: its length does not affect memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.backends import OpenBackend
from resformer.compiler.ir.program import Scheduled
from resformer.compiler.placement.activity import sent_spikes
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
)

Frames = npt.NDArray[Any]
"""Frames, (steps, C, H, W)."""
AT_ONCE = 64
"""The most samples in memory together, unless the caller gives ``at_once``."""


def windows(program: Scheduled, chunks: Iterable[object], at_once: int) -> Iterator[Frames]:
    """Chunks of frames regrouped into samples of T frames, wherever the chunks are cut.

    Args:
        program: The program whose input the frames must fit.
        chunks: Arrays or tensors of one type, each (steps, C, H, W).
        at_once: The most samples of one yielded array.

    Yields:
        Samples, (N, T, C, H, W). If the recording ends within a sample, zeros fill the rest of that sample.

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
            held.append(frames[start : start + size].copy())  # the caller may fill the same array again
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
        program: A scheduled program.
        chunks: As ``windows`` takes them.
        backend: A key of ``BACKENDS``.
        runner: That backend, from ``open_backend``.
        read: Checks samples (N, T, C, H, W) and applies the build's preprocessing to them.
        at_once: How many samples are in memory together; None: as ``samples_at_once`` says, but at most ``AT_ONCE``.
        record: Keep every population's spikes.

    Yields:
        The results of one or more samples at a time, in the order of the samples. They equal those of ``infer``.

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
