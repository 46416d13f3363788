"""What a run leaves behind: collected in shared memory while Lava runs, then a ``Trace``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from resformer.compiler.backends.lava.shared import Record, Ring, StreamTally, Tally, shared_array
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
        self.logits = self._place(shared_array((*self._steps, *output.shape), np.int64), program.latency)
        self.values: Mapping[str, Record] = {
            node.name: self._record(node) for node in program if values and node.op.recorded
        }
        self.tallies: Mapping[str, Tally] = {
            node.name: self._tally(self._offsets[node.name])
            for node in program
            if node.op.clips and not isinstance(node.op, LIF)
        }

    def _record(self, node: ProgramNode) -> Record:
        if node.op.fires:
            room = shared_array((*self._steps, -(-math.prod(node.shape) // 8)), np.uint8)
        else:
            room = shared_array((*self._steps, *node.shape), np.int32)
        return self._place(room, self._offsets[node.name])

    def _place(self, values: np.ndarray[Any, Any], offset: int) -> Record:
        """Where a node's values go that are kept here."""
        return Record(values, offset)

    def _tally(self, offset: int) -> Tally:
        """What counts a node's clipped values."""
        return Tally(shared_array((1,), np.int64), offset, math.prod(self._steps))

    def trace(self) -> Trace:
        """What the run left, once it has ended."""
        spikes = {name: record.values for name, record in self.values.items() if record.values.dtype == np.uint8}
        return Trace(
            logits=self.logits.values,
            spikes={name: _train((*self._steps, *self._program[name].shape), rows) for name, rows in spikes.items()},
            graded={name: record.values for name, record in self.values.items() if name not in spikes},
            saturated={name: int(tally.total[0]) for name, tally in self.tallies.items()},
        )


class StreamRecorder(Recorder):
    """Room for what the last samples of a stream cause.

    Args:
        program: Scheduled.
        samples: How many samples' values are kept.
        values: As ``Recorder`` takes it.

    Attributes:
        given: (1,), int64, shared: how many steps of samples have been given so far, which whoever gives them says.
    """

    def __init__(self, program: Scheduled, samples: int, *, values: bool) -> None:
        self.given = shared_array((1,), np.int64)
        super().__init__(program, samples, values=values)
        self._counted = dict.fromkeys(self.tallies, 0)

    def _place(self, values: np.ndarray[Any, Any], offset: int) -> Record:
        return Ring(values, offset)

    def _tally(self, offset: int) -> Tally:
        return StreamTally(shared_array((1,), np.int64), offset, 0, self.given)

    def part(self, first: int, stop: int) -> Trace:
        """What some samples left, counted from the beginning of the stream, and what was clipped since the last call.

        Args:
            first, stop: Of samples that have left the network, and whose place no others have taken.
        """
        found = {name: record.part(first, stop) for name, record in self._values.items()}
        shapes = {name: (values.shape[0], stop - first, *self._program[name].shape) for name, values in found.items()}
        spikes = {name for name, values in found.items() if values.dtype == np.uint8}
        totals = {name: int(tally.total[0]) for name, tally in self.tallies.items()}
        saturated = {name: total - self._counted[name] for name, total in totals.items()}
        self._counted = totals
        assert isinstance(self.logits, Ring)
        return Trace(
            logits=self.logits.part(first, stop),
            spikes={name: _train(shapes[name], found[name]) for name in found if name in spikes},
            graded={name: found[name] for name in found if name not in spikes},
            saturated=saturated,
        )

    @property
    def _values(self) -> dict[str, Ring]:
        return {name: record for name, record in self.values.items() if isinstance(record, Ring)}


def _train(shape: tuple[int, ...], rows: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> SpikeTrain:
    """Spikes packed step by step, (T, N, bytes), as one train: where a step ends inside a byte, the next moves up."""
    size = math.prod(shape[2:])
    if size % 8 == 0:
        return SpikeTrain(shape, rows.reshape(-1))
    return SpikeTrain(shape, np.packbits(np.unpackbits(rows, axis=-1, count=size).reshape(-1)))
