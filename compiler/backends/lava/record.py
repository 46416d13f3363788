"""What a run leaves behind: collected in shared memory while Lava runs, then a ``Trace``."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from resformer.compiler.backends.lava.shared import Record, Tally, shared_array
from resformer.compiler.ir.ops import LIF
from resformer.compiler.ir.program import ProgramNode, Scheduled, require_schedule
from resformer.compiler.ir.trace import SpikeTrain, Trace


class Recorder:
    """Room for what samples cause as they stream through a network, made before Lava forks its processes.

    Args:
        program: Scheduled.
        samples: N, how many samples follow one another.
        values: Record all spikes and graded values, not only logits and saturation counts.

    Attributes:
        logits: Where the output's integers go.
        values: Where those of each recorded node go.
        tallies: The counts of what each node clipped. Stock Lava's neurons do not count their own.
    """

    def __init__(self, program: Scheduled, samples: int, *, values: bool) -> None:
        self._program = program
        self._offsets = require_schedule(program)
        self._steps = (program.timesteps, samples)
        output = program.output
        self.logits = Record(shared_array((*self._steps, *output.shape), np.int64), program.latency)
        self.values: Mapping[str, Record] = {
            node.name: self._record(node) for node in program if values and node.op.recorded
        }
        self.tallies: Mapping[str, Tally] = {
            node.name: Tally(shared_array((1,), np.int64), self._offsets[node.name], math.prod(self._steps))
            for node in program
            if node.op.clips and not isinstance(node.op, LIF)
        }

    def _record(self, node: ProgramNode) -> Record:
        if node.op.fires:
            room = shared_array((*self._steps, -(-math.prod(node.shape) // 8)), np.uint8)
        else:
            room = shared_array((*self._steps, *node.shape), np.int32)
        return Record(room, self._offsets[node.name])

    def trace(self) -> Trace:
        """What the run left, once it has ended."""
        spikes = {name: record.values for name, record in self.values.items() if record.values.dtype == np.uint8}
        return Trace(
            logits=self.logits.values,
            spikes={name: _train((*self._steps, *self._program[name].shape), rows) for name, rows in spikes.items()},
            graded={name: record.values for name, record in self.values.items() if name not in spikes},
            saturated={name: int(tally.total[0]) for name, tally in self.tallies.items()},
        )


def _train(shape: tuple[int, ...], rows: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> SpikeTrain:
    """Spikes packed step by step, (T, N, bytes), as one train: where a step ends inside a byte, the next moves up."""
    size = math.prod(shape[2:])
    if size % 8 == 0:
        return SpikeTrain(shape, rows.reshape(-1))
    return SpikeTrain(shape, np.packbits(np.unpackbits(rows, axis=-1, count=size).reshape(-1)))
