"""Runs a plan on one tile of samples after another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.backends.sim.frame import Arena, Block, Counted, Frame, Slab, Work
from resformer.compiler.backends.sim.plan import Plan, Segment
from resformer.compiler.backends.sim.recorder import Recorder
from resformer.compiler.backends.sim.team import Team
from resformer.compiler.backends.sim.torch_kernels import TorchKernels, natural_order, real_dtype

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Workers:
    """Threads that each run whole operations of torch, so that no thread waits for another inside an operation.

    Args:
        count: The number of threads. With one, work runs on the calling thread.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None
        if count > 1:
            started = threading.Barrier(count + 1)
            self._pool = ThreadPoolExecutor(count, thread_name_prefix="sim", initializer=_work_alone)
            for _ in range(count):
                self._pool.submit(started.wait)
            started.wait()
            # The number that a worker sets becomes the default of threads that start later: restore this default.
            torch.set_num_threads(count)

    def team(self) -> Team:
        """A team of these threads, for work that one of them shares with the others."""
        return Team(self.count, self._pool)

    def map(self, function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> Iterator[ResultT]:
        """The function's results, in order; each item runs on whichever thread is free."""
        return map(function, items) if self._pool is None else self._pool.map(function, items)


def _work_alone() -> None:
    """Let torch run this thread's operations on this thread only."""
    torch.set_num_threads(1)
    # A thread takes over the number that is set when it first asks for it: ask now.
    torch.get_num_threads()


class Result(NamedTuple):
    """The results of a tile, beside the values that a recorder keeps.

    Attributes:
        logits: (T or 1, N, ...).
        clips: How often values of each node saturated; counts may still be on a device.
        ties: How often potentials of each node met their threshold exactly and did not fire; counts may still be on a
            device.
    """

    logits: torch.Tensor
    clips: list[Counted]
    ties: list[Counted]


class Engine:
    """A plan bound to the kernels of one device.

    Args:
        plan: The plan to run.
        kernels: Bind the plan's steps.

    Attributes:
        waits: Whether some step waits for the device.
    """

    def __init__(self, plan: Plan, kernels: TorchKernels) -> None:
        self.plan = plan
        self._kernels, self._device = kernels, kernels.device
        self._memory = threading.local()
        self.segments: list[tuple[Segment, list[tuple[Block, list[Work]]]]] = []
        for segment in plan.segments:
            blocks = [Block(index, segment.blocks) for index in range(segment.blocks)]
            works = [(block, [kernels.bind(step, block) for step in segment.steps]) for block in blocks]
            self.segments.append((segment, works))
        self.waits = kernels.waits

    def run(
        self, samples: npt.NDArray[np.integer], recorder: Recorder, first_sample: int, workers: Workers | None = None
    ) -> None:
        """Run one tile.

        Args:
            samples: (N, C, H, W) or (N, T, C, H, W); N is the plan's number of samples.
            recorder: Receives the results.
            first_sample: The number of the tile's first sample in the whole run.
            workers: Threads that share the tile; None: the calling thread runs it.
        """
        result = self.compute(self.encode(samples), recorder, first_sample, workers)
        recorder.add_counts(result.clips, result.ties)
        recorder.put_logits(result.logits, first_sample)

    def compute(
        self, encoded: torch.Tensor, recorder: Recorder | None, first_sample: int = 0, workers: Workers | None = None
    ) -> Result:
        """Run one tile of encoded samples, without waiting for the device.

        Args:
            encoded: Samples as :meth:`encode` returns them.
            recorder: Receives the values, if it keeps them.
            first_sample: The number of the tile's first sample in the whole run.
            workers: Threads that share the tile; None: the calling thread runs it.
        """
        plan, arena = self.plan, self._arena()
        self._kernels.start()
        clips: list[Counted] = []
        ties: list[Counted] = []
        full = {plan.input: Slab(encoded, 0, plan.values[plan.input].channels)}
        for segment, works in self.segments:
            for name in segment.exports:
                value = plan.values[name]
                shape = (1 if value.static else plan.timesteps, plan.samples * value.positions, value.channels)
                full[name] = Slab(arena.take(shape, self._kernels.stored(name)), 0, value.channels)

            def run_block(item: tuple[Block, list[Work]], segment: Segment = segment) -> None:
                frame = self._run_block(segment, *item, full, recorder, first_sample)
                clips.extend(frame.clips)
                ties.extend(frame.ties)

            # The workers run even a single block: on the calling thread, torch would start threads inside operations.
            list(map(run_block, works) if workers is None else workers.map(run_block, works))
            for name in segment.last_reads:
                slab = full.pop(name)
                if name != plan.input:
                    arena.give(slab.data)
        output = full[plan.output]
        # a copy: the arena may hand the memory out again
        logits = natural_order(output.data, plan.values[plan.output], plan.samples).contiguous().clone()
        if plan.output != plan.input:
            arena.give(output.data)
        return Result(logits, clips, ties)

    def _run_block(
        self,
        segment: Segment,
        block: Block,
        steps: list[Work],
        full: dict[str, Slab],
        recorder: Recorder | None,
        first_sample: int,
    ) -> Frame:
        """Run one block of one segment; the returned frame holds its counts."""
        with torch.inference_mode():
            frame = Frame(self.plan, full, self._arena(), segment, block)
            for work in steps:
                work(frame)
            if recorder is not None and recorder.keeps_values:
                for name in (name for step in segment.steps for name in step.writes):
                    first, _ = block.of(self.plan.values[name].channels)
                    recorder.put(self.plan, name, frame.read(name).view, first_sample, first)
            frame.done()
            return frame

    def encode(self, samples: npt.NDArray[np.integer]) -> torch.Tensor:
        """Samples in the layout of a plan's values, (T or 1, N * positions, channels)."""
        value = self.plan.values[self.plan.input]
        # (N, ...) or (N, T, ...) to (T or 1, N, C, positions), then channels last
        frames = np.asarray(samples)[None] if value.static else np.asarray(samples).swapaxes(0, 1)
        frames = frames.reshape(len(frames), self.plan.samples, value.channels, value.positions).swapaxes(2, 3)
        flat = np.ascontiguousarray(frames).reshape(len(frames), -1, value.channels)
        return torch.from_numpy(flat).to(self._device, real_dtype(value))

    def _arena(self) -> Arena:
        """The calling thread's memory."""
        if not hasattr(self._memory, "arena"):
            self._memory.arena = Arena(self._device)
        arena: Arena = self._memory.arena
        return arena
