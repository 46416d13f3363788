"""Runs an engine on a GPU batch after batch: the next batch is prepared while the device computes the current one.

From the second batch on, one CUDA graph launches all kernels of an engine at once, since launching them one by one
takes longer than the work of a small batch. The host waits for the device only for the results of the batch before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.backends.sim.engine import Engine
from resformer.compiler.backends.sim.recorder import Recorder
from resformer.compiler.backends.sim.torch_kernels import real_dtype

NARROW = (torch.int8, torch.int16, torch.int32)
"""Types in which samples may be sent to the device, the narrowest first."""
COMPARED = (torch.uint8, *NARROW, torch.int64)
"""Types whose least and largest values torch finds, with all threads; numpy finds those of wider unsigned types."""


class Pending(NamedTuple):
    """A batch that was started, whose results the device may still be writing.

    Attributes:
        logits: (T or 1, N, ...), in host memory that the device writes.
        counts: The counts of clips, then the counts of ties, in host memory that the device writes.
        names: The nodes of the counts of clips, and the nodes of the counts of ties.
        done: The event after which logits and counts are complete; None: they are complete already.
        first_sample: The index of the batch's first sample in the run.
    """

    logits: torch.Tensor
    counts: torch.Tensor
    names: tuple[list[str], list[str]]
    done: torch.cuda.Event | None
    first_sample: int


class Batches:
    """The batches of one engine, all of the same size.

    Args:
        engine: The engine, bound to the device; no values are recorded.
        device: A GPU; in tests also a CPU, which does nothing in the background.
        capture: Whether a CUDA graph may launch the engine, which it may if no kernel waits for the device.
    """

    def __init__(self, engine: Engine, device: torch.device, *, capture: bool) -> None:
        self._engine, self._device = engine, device
        self._on_gpu = device.type == "cuda"
        self._may_capture = capture and self._on_gpu
        value = engine.plan.values[engine.plan.input]
        most = value.magnitude.value
        # an input without a promised range has the range of int32, the type in which samples come
        self._travels_as = next((each for each in NARROW if most <= torch.iinfo(each).max), NARROW[-1])
        self._staged: list[torch.Tensor] = []
        self._encoded: torch.Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._made: tuple[torch.Tensor, torch.Tensor, tuple[list[str], list[str]]] | None = None
        self._begun = 0

    def stage(self, samples: npt.NDArray[np.integer]) -> tuple[int, int]:
        """Copy a batch's samples to the staging buffer, and return their least and their largest value."""
        whole = torch.from_numpy(np.ascontiguousarray(samples))
        if not self._staged:
            self._staged = [torch.empty(whole.shape, dtype=self._travels_as, pin_memory=self._on_gpu) for _ in range(2)]
        self.staged.copy_(whole)
        if whole.dtype not in COMPARED:
            return int(samples.min()), int(samples.max())
        low, high = torch.aminmax(whole)
        return int(low), int(high)

    @property
    def staged(self) -> torch.Tensor:
        """The staging buffer for the samples of the batch that begins next."""
        # at most two batches are under way, so the samples of the batch before the last have left this buffer
        return self._staged[self._begun % 2]

    def begin(self, first_sample: int) -> Pending:
        """Start the batch in the staging buffer; ``first_sample`` is the index of its first sample in the run."""
        uploaded = self._upload(self.staged)
        with torch.inference_mode():
            if self._graph is not None and self._encoded is not None:
                self._encoded.copy_(uploaded)
                self._graph.replay()
            elif self._may_capture and self._begun == 1:
                self._capture(uploaded)
            else:
                self._made = self._compute(uploaded)
            assert self._made is not None
            logits, counts, names = self._made
            logits, counts = _to_host(logits), _to_host(counts)
        done = None
        if self._on_gpu:
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        self._begun += 1
        return Pending(logits, counts, names, done, first_sample)

    def _upload(self, staged: torch.Tensor) -> torch.Tensor:
        """Copy samples to the device, in the plan's layout, (T or 1, N * positions, channels)."""
        plan = self._engine.plan
        value = plan.values[plan.input]
        there = staged.to(self._device, non_blocking=True)
        frames = there[None] if value.static else there.transpose(0, 1)
        frames = frames.reshape(len(frames), plan.samples, value.channels, value.positions).transpose(2, 3)
        return frames.to(real_dtype(value)).reshape(len(frames), -1, value.channels).contiguous()

    def _capture(self, uploaded: torch.Tensor) -> None:
        """Record all launches in a CUDA graph, and run the graph once."""
        self._encoded = uploaded.clone()
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._made = self._compute(self._encoded)
        self._graph = graph
        graph.replay()

    def _compute(self, encoded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, tuple[list[str], list[str]]]:
        result = self._engine.compute(encoded, None)
        counted = [count for _, count in (*result.clips, *result.ties)]
        whole = [
            count.reshape(()).to(torch.int64) if isinstance(count, torch.Tensor) else self._number(count)
            for count in counted
        ]
        counts = torch.stack(whole) if whole else torch.zeros(0, dtype=torch.int64, device=self._device)
        names = [name for name, _ in result.clips], [name for name, _ in result.ties]
        return result.logits, counts, names

    def _number(self, count: int) -> torch.Tensor:
        return torch.full((), count, dtype=torch.int64, device=self._device)


def finish(pending: Pending, recorder: Recorder) -> None:
    """Wait for a batch, and pass its results to the recorder."""
    if pending.done is not None:
        pending.done.synchronize()
    clipped, tied = pending.names
    counts = pending.counts.tolist()
    recorder.add_counts(
        list(zip(clipped, counts[: len(clipped)], strict=True)), list(zip(tied, counts[len(clipped) :], strict=True))
    )
    recorder.put_logits(pending.logits, pending.first_sample)


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in host memory, which the device writes while the host goes on."""
    there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
    return there.copy_(tensor, non_blocking=True)
