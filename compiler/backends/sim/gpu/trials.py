"""Each kernel is tried before it is used: on values of the trial's own, in the very shape that it will run.

Sums are checked as those of libraries are (``products``). What relay and neurons make of these sums is compared with
the operations' own definitions, for some of the rows, the first and the last among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.backends.sim.gpu.launch import Attention, Half, Tail, Tiles, may_floor
from resformer.compiler.backends.sim.products import Synapses, Trial
from resformer.compiler.ir.interval import INT32_MAX, largest
from resformer.compiler.ir.ops import SpikeMatMul
from resformer.compiler.target import LOIHI

ROWS = 96
"""How many rows are compared with the definition."""
SAMPLES = 2
"""How many samples a trial has: a kernel's programs are the same however many there are."""
TRIAL_REACH = 1000
"""How large the second summand of a trial may be."""
RATE = 0.3
"""Of a trial's spikes, those that are neither all nor none."""


class Kept(NamedTuple):
    """In which types a layer's sums and its neurons' input are kept, and a second summand comes; None: not at all."""

    sums: torch.dtype | None
    stream: torch.dtype | None
    other: torch.dtype | None


@dataclass(frozen=True, eq=False)
class LayerTrial:
    """Synapses and their tail, as ``products`` tries them.

    Kernels read (x, other) and return what they make with all that they can tell, and as they will run.

    Attributes:
        synapses: Of one step.
        tail: What reads them.
        steps: T.
        static: Whether the synapses read the same at all steps.
        other_static: Whether a second summand is the same at all steps.
        kept: Types.
        tiles: How the kernel is cut: another cut is another kernel.
    """

    synapses: Synapses
    tail: Tail
    steps: int
    static: bool
    other_static: bool
    kept: Kept
    tiles: Tiles

    @property
    def name(self) -> str:
        """The node's, for notes."""
        return self.synapses.name

    @property
    def shown(self) -> str:
        """Its size, for notes."""
        return self.synapses.shown

    @property
    def key(self) -> tuple[object, ...]:
        """All that the kernel's code may depend on, and the shape but for the number of samples."""
        lif, relay = self.tail.lif, self.tail.relay
        neurons = None if lif is None else (lif.vth, lif.du, lif.dv, lif.counts_ties)
        relayed = None if relay is None else (relay.limit, relay.shift)
        own = replace(self.synapses, images=SAMPLES).key
        return *own, neurons, relayed, self.steps, self.static, self.other_static, self.kept, self.tiles

    def trials(self, limit: int) -> Iterator[Trial]:
        """Draw weights and what is read, of which no sum leaves what neurons take."""
        rng = np.random.default_rng(self.synapses.depth)
        tail = self.tail
        least = LOIHI.a_max if tail.lif is not None else INT32_MAX
        room = least - TRIAL_REACH - (0 if tail.relay is None else largest(tail.relay.bias))
        own = replace(self.synapses, images=min(self.synapses.images, SAMPLES) * (1 if self.static else self.steps))
        for drawn, (x,) in own.trials(min(limit, max(room, 1))):
            assert isinstance(drawn, Synapses)
            images = own.images // (1 if self.static else self.steps)
            rows = images * int(np.prod(own.window.targets(own.size)))
            other = None
            if self.kept.other is not None:
                shape = 1 if self.other_static else self.steps, rows, len(own.weight)
                values = rng.integers(-TRIAL_REACH, TRIAL_REACH + 1, shape)
                other = torch.from_numpy(values).to(own.device, self.kept.other)
            by_step = x.reshape(1 if self.static else self.steps, -1, own.channels).to(torch.int8)
            made = replace(self, synapses=replace(drawn, images=images))
            yield made, (by_step, other)  # type: ignore[misc]

    def is_right(self, inputs: Sequence[Any], result: Any) -> bool:
        """Whether sums, stream, spikes and counts are right."""
        x, other = inputs
        whole, own_outputs = result
        sums, stream, spikes, counts = whole
        for each, told in zip(own_outputs, whole, strict=True):
            if each is not None and not torch.equal(each, told.to(each.dtype)):
                return False
        steps = len(x)
        own = replace(self.synapses, images=self.synapses.images * steps)
        image = x.reshape(own.images, *own.size, own.channels)
        # bytes as they are summed, floats as they are checked
        image = image.view(torch.uint8) if own.dtype is torch.uint8 else image.to(own.dtype)
        if not own.is_right((image,), sums.reshape(-1, sums.shape[2])):
            return False
        read = sums if other is None else sums + other
        return self._tail_is_right(read, stream, spikes, counts.tolist())

    def _tail_is_right(
        self, read: torch.Tensor, stream: torch.Tensor, spikes: torch.Tensor | None, counts: list[int]
    ) -> bool:
        """Whether relay and neurons made the right thing of what they read, (steps or 1, rows, channels)."""
        rows = np.unique(np.linspace(0, read.shape[1] - 1, ROWS).astype(np.int64))
        chosen = _rows(read, rows)
        relay, lif = self.tail.relay, self.tail.lif
        wanted = [counts[0], counts[1], counts[2]]
        if relay is not None:
            outcome = relay.evaluate(chosen)
            chosen = outcome.value
            if self.tail.may_clip:
                wanted[0] = (outcome.clipped or 0) * (self.steps // len(chosen))
        if not np.array_equal(_rows(stream, rows), np.broadcast_to(chosen, (len(stream), *chosen.shape[1:]))):
            return False
        if lif is None or spikes is None:
            return True
        outcome, ties = lif.evaluate_with_ties(np.broadcast_to(chosen, (self.steps, *chosen.shape[1:])))
        if may_floor(lif, self.tail.reach):
            wanted[1] = outcome.clipped or 0
        if lif.counts_ties:
            wanted[2] = ties
        whole = len(rows) == read.shape[1]
        return np.array_equal(_rows(spikes, rows), outcome.value) and (counts == wanted or not whole)


def _rows(values: torch.Tensor, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Some rows of (steps, rows, channels)."""
    index = torch.from_numpy(rows).to(values.device)
    return values.index_select(1, index).to(torch.int64).cpu().numpy()


@dataclass(frozen=True, eq=False)
class AttentionTrial:
    """Attention, as ``products`` tries it; kernels read (y1, x, y2) and return spikes and counts.

    Attributes:
        name: The second product's node.
        size: Of how many samples, and so on.
        halves: Both products and their neurons.
        device: Where.
        tiles: How the kernel is cut.
    """

    name: str
    size: Attention
    halves: tuple[Half, Half]
    device: torch.device
    tiles: Tiles

    @property
    def shown(self) -> str:
        """Its size, for notes."""
        size = self.size
        return f"{size.heads} heads of {size.channels // size.heads}, {size.positions} by {size.patches}"

    @property
    def key(self) -> tuple[object, ...]:
        """All that the kernel's code may depend on, and the shape but for the number of samples."""
        halves = [(half.limit, half.reach, half.lif.vth, half.lif.dv, half.lif.counts_ties) for half in self.halves]
        return self.size._replace(samples=SAMPLES), *halves, str(self.device), self.tiles

    def trials(self, limit: int) -> Iterator[Trial]:  # noqa: ARG002
        """Draw y and spikes: at random, and as large as they can be."""
        rng = np.random.default_rng(self.size.positions)
        size = self.size._replace(samples=min(self.size.samples, SAMPLES))
        for turn in range(2):
            drawn = []
            for half in self.halves:
                shape = size.steps, size.samples * size.patches, size.channels
                reach = half.reach - largest(half.bias)
                y = rng.integers(-reach, reach + 1, shape)
                if turn:
                    y[:, ::2], y[:, 1::3] = reach, -reach
                drawn.append(torch.from_numpy(y.astype(np.float32)).to(self.device))
            x = rng.random((size.steps, size.samples * size.positions, size.channels)) < RATE
            x[:, turn::3] = turn
            spikes = torch.from_numpy(x.astype(np.int8)).to(self.device)
            yield replace(self, size=size), (drawn[0], spikes, drawn[1])

    def is_right(self, inputs: Sequence[torch.Tensor], result: Any) -> bool:
        """Whether the spikes of all rows of the first and last head of a sample are right."""
        size = self.size
        y1, x, y2 = (_natural(each, size) for each in inputs)
        spikes, _ = result
        found = _natural(spikes, size)
        first, second = self.halves
        position = np.unique(np.linspace(0, size.positions - 1, ROWS).astype(np.int64))
        x, found = x[..., position], found[..., position]
        scores = SpikeMatMul.evaluate(_product(first, size.heads, transpose=True), y1, x).value
        chosen = first.lif.evaluate(scores).value
        made = SpikeMatMul.evaluate(_product(second, size.heads, transpose=False), y2, chosen).value
        fired = second.lif.evaluate(made.reshape(found.shape)).value
        return np.array_equal(fired, found)


def _natural(values: torch.Tensor, size: Attention) -> npt.NDArray[np.int64]:
    """(steps, samples * positions, channels) as (steps, samples, channels, positions)."""
    by_sample = values.reshape(size.steps, size.samples, -1, size.channels)
    return by_sample.transpose(2, 3).to(torch.int64).cpu().numpy()


def _product(half: Half, heads: int, *, transpose: bool) -> SpikeMatMul:
    """The operation that a half computes."""
    signal: Any = None
    return SpikeMatMul(signal, heads, transpose, half.bias, half.limit)
