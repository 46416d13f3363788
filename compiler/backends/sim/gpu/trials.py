"""Each kernel is tried before it is used: on values of the trial's own, in the very shape that it will run.

Sums are checked as those of libraries are (``products``). What relay and neurons make of these sums is compared with
the operations' own definitions, for some of the rows, the first and the last among them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.backends.sim.gpu.launch import Attention, Half, Tail, Tiles, may_floor
from resformer.compiler.backends.sim.products import Synapses, Trial
from resformer.compiler.ir.interval import INT32_MAX, largest
from resformer.compiler.ir.ops import MaxPool2d, SpikeMatMul, SumPool2d
from resformer.compiler.target import LOIHI

ROWS = 96
"""How many rows are compared with the definition."""
SAMPLES = 2
"""How many samples a trial has: a kernel's programs are the same however many there are."""
CHANNELS = 32
"""How many channels of a pool are compared with the definition."""
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
        own = replace(self.synapses, images=SAMPLES).key
        return *own, *_tail_key(self.tail), self.steps, self.static, self.other_static, self.kept, self.tiles

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
        return _tail_is_right(self.tail, self.steps, read, stream, spikes, counts.tolist())


def _tail_key(tail: Tail) -> tuple[object, ...]:
    """All of a tail that a kernel's code may depend on."""
    lif, relay = tail.lif, tail.relay
    neurons = None if lif is None else (lif.vth, lif.du, lif.dv, lif.counts_ties, may_floor(lif, tail.reach))
    return neurons, None if relay is None else (relay.limit, relay.shift, tail.may_clip)


def _tail_is_right(
    tail: Tail,
    steps: int,
    read: torch.Tensor,
    stream: torch.Tensor,
    spikes: torch.Tensor | None,
    counts: list[int],
) -> bool:
    """Whether relay and neurons made the right thing of what they read, (steps or 1, rows, channels)."""
    rows = np.unique(np.linspace(0, read.shape[1] - 1, ROWS).astype(np.int64))
    chosen = _rows(read, rows)
    relay, lif = tail.relay, tail.lif
    wanted = [counts[0], counts[1], counts[2]]
    if relay is not None:
        outcome = relay.evaluate(chosen)
        chosen = outcome.value
        if tail.may_clip:
            wanted[0] = (outcome.clipped or 0) * (steps // len(chosen))
    if not np.array_equal(_rows(stream, rows), np.broadcast_to(chosen, (len(stream), *chosen.shape[1:]))):
        return False
    if lif is None or spikes is None:
        return counts == wanted or len(rows) != read.shape[1]
    outcome, ties = lif.evaluate_with_ties(np.broadcast_to(chosen, (steps, *chosen.shape[1:])))
    if may_floor(lif, tail.reach):
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


class Summand(NamedTuple):
    """What a sum reads: a bound on it, its type, and whether it is the same at all steps."""

    reach: int
    dtype: torch.dtype
    static: bool


@dataclass(frozen=True, eq=False)
class TailTrial:
    """A sum, a relay and neurons by themselves, as ``products`` tries them.

    Kernels read one summand or two, (steps or 1, rows, channels), and return what they make with all that they can
    tell, and as they will run.

    Attributes:
        name: The node's that is written.
        tail: What reads the sum.
        steps: T; 1 where all that is made is the same at all steps.
        summands: One or two.
        rows: Positions of a sample.
        samples: How many.
        stream: In which type the neurons' input is kept; None: not at all.
        device: Where.
    """

    name: str
    tail: Tail
    steps: int
    summands: tuple[Summand, ...]
    rows: int
    samples: int
    stream: torch.dtype | None
    device: torch.device

    @property
    def shown(self) -> str:
        """Its size, for notes."""
        return f"{self.rows} positions, {self.tail.channels} channels"

    @property
    def key(self) -> tuple[object, ...]:
        """All that the kernel's code may depend on, and the shape but for the number of samples."""
        shape = self.tail.channels, self.rows, min(self.samples, SAMPLES), self.steps
        return *shape, *_tail_key(self.tail), self.summands, self.stream, str(self.device)

    def trials(self, limit: int) -> Iterator[Trial]:  # noqa: ARG002
        """Draw summands: as large as they can be, and such as bring neurons to their threshold."""
        rng = np.random.default_rng(self.rows)
        rows, channels = self.rows * min(self.samples, SAMPLES), self.tail.channels
        for near in (False, True):
            drawn = []
            for number, (reach, dtype, static) in enumerate(self._within_bounds()):
                small = min(reach, max(self._middle, 1)) if near else reach
                values = rng.integers(-small, small + 1, (1 if static else self.steps, rows, channels))
                if not near:
                    values[:, ::3], values[:, 1::3] = reach, -reach
                elif number == 0:
                    values[0, ::2] = np.clip(self._ties(), -reach, reach)
                else:
                    values[0, ::2] = 0
                if dtype is torch.uint8:  # spikes
                    values = np.abs(values)
                drawn.append(torch.from_numpy(values).to(self.device, dtype))
            yield self, tuple(drawn)

    def is_right(self, inputs: Sequence[torch.Tensor], result: Any) -> bool:
        """Whether stream, spikes and counts are right."""
        whole, own = result
        for each, told in zip(own[1:], whole[1:], strict=True):
            if each is not None and not torch.equal(each, told.to(each.dtype)):
                return False
        read = functools.reduce(torch.add, (each.to(torch.int64) for each in inputs))
        return _tail_is_right(self.tail, self.steps, read, whole.stream, whole.spikes, whole.counts.tolist())

    def _within_bounds(self) -> Iterator[Summand]:
        """The summands, of which none of the sums is beyond what neurons without a relay are promised."""
        total = sum(each.reach for each in self.summands)
        promised = total if self.tail.lif is None or self.tail.relay is not None else self.tail.reach
        for each in self.summands:
            yield each if total <= promised else each._replace(reach=each.reach * promised // total)

    @property
    def _middle(self) -> int:
        """About what brings neurons to their threshold; of a relay alone its limit."""
        if self.tail.lif is not None:
            return self.tail.lif.vth
        return 0 if self.tail.relay is None else self.tail.relay.limit

    def _ties(self) -> npt.NDArray[np.int64]:
        """A sum for each channel that makes a potential of zero meet the one that is a tie, or come near it."""
        relay, lif = self.tail.relay, self.tail.lif
        wanted = np.full(1, self._middle, np.int64)
        if lif is not None and lif.counts_ties:
            wanted = (lif.tie_potentials(1) - lif.bias) >> LOIHI.a_shift
        return wanted if relay is None else (wanted << relay.shift) - relay.bias


@dataclass(frozen=True, eq=False)
class PoolTrial:
    """Maxima or sums over windows, as ``products`` tries them.

    Kernels read (steps or 1, images * height * width, channels) and make the same of the windows' positions.

    Attributes:
        name: The node's.
        op: A pool.
        steps: How many come.
        samples: How many.
        size: (height, width).
        made_size: The same of what is made.
        channels: How many.
        source: What is read.
        made: In which type what is made is kept.
        device: Where.
    """

    name: str
    op: MaxPool2d | SumPool2d
    steps: int
    samples: int
    size: tuple[int, int]
    made_size: tuple[int, int]
    channels: int
    source: Summand
    made: torch.dtype
    device: torch.device

    @property
    def shown(self) -> str:
        """Its size, for notes."""
        rows, columns = self.op.kernel_size
        kind = "maxima" if isinstance(self.op, MaxPool2d) else "sums"
        return f"{kind} of {rows}x{columns}, {self.channels} channels"

    @property
    def first(self) -> tuple[int, int]:
        """How far above and left of the image the first window begins."""
        top, _, left, _ = self.op.around if isinstance(self.op, MaxPool2d) else (0, 0, 0, 0)
        return top, left

    @property
    def key(self) -> tuple[object, ...]:
        """All that the kernel's code may depend on, and the shape but for the number of samples."""
        window = type(self.op), self.op.kernel_size, self.op.stride, self.first, self.made_size
        shape = self.channels, self.size, min(self.samples, SAMPLES), self.steps
        return *window, *shape, self.source, self.made, str(self.device)

    def trials(self, limit: int) -> Iterator[Trial]:  # noqa: ARG002
        """Draw images: all least, so that padding would win, all largest, and random ones."""
        rng = np.random.default_rng(self.channels)
        own = replace(self, samples=min(self.samples, SAMPLES))
        high = self.source.reach
        low = 0 if self.source.dtype is torch.uint8 else -high
        values = rng.integers(low, high + 1, (self.steps, own.samples * self.size[0] * self.size[1], self.channels))
        values[:, :, 1::4], values[:, :, 2::4] = low, high
        yield own, (torch.from_numpy(values).to(self.device, self.source.dtype),)

    def is_right(self, inputs: Sequence[torch.Tensor], result: torch.Tensor) -> bool:
        """Whether all maxima or sums of some channels are right."""
        some = np.unique(np.linspace(0, self.channels - 1, CHANNELS).astype(np.int64))
        (x,) = (_natural_maps(each, some, self.samples, self.size) for each in inputs)
        found = _natural_maps(result, some, self.samples, self.made_size)
        return np.array_equal(found, self.op.evaluate(x).value)


def _natural_maps(
    values: torch.Tensor, channels: npt.NDArray[np.int64], samples: int, size: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """Some channels of (steps, samples * positions, channels) as (steps, samples, channels, height, width)."""
    chosen = values.index_select(2, torch.from_numpy(channels).to(values.device)).to(torch.int64).cpu().numpy()
    return np.moveaxis(chosen.reshape(len(chosen), samples, *size, len(channels)), -1, 2)
