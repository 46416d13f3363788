"""Collects the values and counts that the tiles and blocks of a run compute into one trace."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable

import numpy as np
import torch

from resformer.compiler.backends.sim.frame import Counted
from resformer.compiler.backends.sim.plan import Plan
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.trace import SpikeTrain, Trace


class Recorder:
    """The arrays of a trace, filled block by block; blocks of several threads do not overlap.

    Args:
        program: The program that runs.
        samples: The number of samples of the whole run.
        values: True: keep spikes and graded values, too. False: keep only logits and counts.
    """

    def __init__(self, program: Program, samples: int, *, values: bool) -> None:
        self.keeps_values = values
        steps = program.timesteps
        self._shapes = {node.name: (steps, samples, *node.shape) for node in program}
        self._logits = np.zeros(self._shapes[program.output.name], dtype=np.int64)
        counted = [node.name for node in program if node.op.clips]
        self._saturated = dict.fromkeys(counted, 0)
        self._ties = {node.name: 0 for node in program if node.op.counts_ties}
        self._lock = threading.Lock()
        kept = [node for node in program if values]
        self._spikes = {
            node.name: np.zeros((steps, samples, math.prod(node.shape)), dtype=np.uint8)
            for node in kept
            if node.op.fires
        }
        self._graded = {
            node.name: np.zeros((steps, samples, math.prod(node.shape)), dtype=np.int32)
            for node in kept
            if node.op.recorded and node.name not in self._spikes
        }

    def put(self, plan: Plan, name: str, data: torch.Tensor, first_sample: int, first_channel: int) -> None:
        """Keep some channels of a value, (T or 1, N * positions, channels), if the trace holds it."""
        whole = self._spikes.get(name, self._graded.get(name))
        if whole is None:
            return
        value = plan.values[name]
        natural = data.reshape(len(data), plan.samples, value.positions, -1).transpose(2, 3)
        natural = natural.reshape(len(data), plan.samples, -1)
        start = first_channel * value.positions
        share = whole[:, first_sample : first_sample + plan.samples, start : start + natural.shape[2]]
        share[...] = natural.cpu().numpy()

    def put_logits(self, natural: torch.Tensor, first_sample: int) -> None:
        """Keep the logits, (T or 1, N, ...)."""
        logits = self._logits[:, first_sample : first_sample + natural.shape[1]]
        logits[...] = natural.cpu().numpy().reshape(len(natural), *logits.shape[1:])

    def add_counts(self, clips: Iterable[Counted], ties: Iterable[Counted]) -> None:
        """Add to the counts of saturation and of ties."""
        for counts, found in ((self._saturated, clips), (self._ties, ties)):
            known = [(name, int(count)) for name, count in found]
            with self._lock:
                for name, count in known:
                    counts[name] += count

    def trace(self) -> Trace:
        """The trace of everything that was kept."""
        return Trace(
            logits=self._logits,
            spikes={name: SpikeTrain.pack(each.reshape(self._shapes[name])) for name, each in self._spikes.items()},
            graded={name: each.reshape(self._shapes[name]) for name, each in self._graded.items()},
            saturated=self._saturated,
            ties=self._ties,
        )
