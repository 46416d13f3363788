"""Records a run: values are collected in shared memory while Lava runs, and then become a ``Trace``."""

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
    """Shared memory for the record of samples that stream through a network, made before Lava forks its processes.

    Args:
        program: The scheduled program.
        samples: N, the number of samples.
        values: Record all spikes and graded values, not only logits and saturation counts.

    Attributes:
        logits: Where the output's integers go.
        values: Where the values of each recorded node go.
        tallies: How many values each node clipped. LIF nodes have none, since stock Lava's neurons do not count.
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
        """The record that keeps a node's values in ``values``; the first value appears at step ``offset``."""
        return Record(values, offset)

    def _tally(self, offset: int) -> Tally:
        """A new tally of a node's clipped values, which counts from step ``offset``."""
        return Tally(shared_array((1,), np.int64), offset, math.prod(self._steps))

    def trace(self) -> Trace:
        """The trace of the run, once the run has ended."""
        spikes = {name: record.values for name, record in self.values.items() if record.values.dtype == np.uint8}
        return Trace(
            logits=self.logits.values,
            spikes={name: _train((*self._steps, *self._program[name].shape), rows) for name, rows in spikes.items()},
            graded={name: record.values for name, record in self.values.items() if name not in spikes},
            saturated={name: int(tally.total[0]) for name, tally in self.tallies.items()},
        )


class StreamRecorder(Recorder):
    """Shared memory for the record of the last samples of a stream.

    Args:
        program: The scheduled program.
        samples: How many samples are kept at once.
        values: Record all spikes and graded values, not only logits and saturation counts.

    Attributes:
        given: (1,), int64, shared: how many steps of samples have entered the stream so far; ``stream`` sets it.
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
        """The trace of the samples from ``first`` up to ``stop``, without ``stop``, with the clips since the last call.

        Args:
            first, stop: Numbers of samples, counted from the beginning of the stream. These samples must have left the
                network, and no later samples may have taken their place yet.
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
    """Spikes, (T, N, bytes), as one train: bits that pad a step of a sample to whole bytes are removed."""
    size = math.prod(shape[2:])
    if size % 8 == 0:
        return SpikeTrain(shape, rows.reshape(-1))
    return SpikeTrain(shape, np.packbits(np.unpackbits(rows, axis=-1, count=size).reshape(-1)))
