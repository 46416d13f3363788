"""Trials of kernels before they are used: on drawn values, in the shape of the real run but for the number of samples.

Sums are checked as the sums of libraries' products are (``products``). What a relay and neurons make of these sums is
compared with the operations' own definitions, for some of the rows, the first and the last among them.
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
"""How many rows, at most, are compared with the definition."""
SAMPLES = 2
"""How many samples, at most, a trial has: the programs of a kernel do not depend on the number of samples."""
CHANNELS = 32
"""How many channels of a pool, at most, are compared with the definition."""
TRIAL_REACH = 1000
"""The largest magnitude of the second summand in a trial of a layer."""
RATE = 0.3
"""The rate of spikes at the positions of an attention trial where neither all channels fire nor none."""


class Kept(NamedTuple):
    """The types of a layer's sums, its neurons' input and its second summand; None: not kept, or no such summand."""

    sums: torch.dtype | None
    stream: torch.dtype | None
    other: torch.dtype | None


@dataclass(frozen=True, eq=False)
class LayerTrial:
    """A trial of synapses and their tail, for ``products``.

    Kernels read (x, other) and return their outputs twice: with sums and stream kept as int32, and as they will run.

    Attributes:
        synapses: The synapses; ``images`` is the number of images of one step.
        tail: The relay and neurons that read the synapses.
        steps: How many steps a launch runs.
        static: Whether the synapses read the same values at all steps.
        other_static: Whether a second summand is the same at all steps.
        kept: The types of the sums, of the neurons' input and of the second summand.
        tiles: How the kernel is cut into tiles; other tiles make another kernel, which has a trial of its own.
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
        """The name of the synapses' node, for notes."""
        return self.synapses.name

    @property
    def shown(self) -> str:
        """The size of what is tried, for notes."""
        return self.synapses.shown

    @property
    def key(self) -> tuple[object, ...]:
        """Everything that the kernel's code may depend on, and the shape without the real number of samples."""
        own = replace(self.synapses, images=SAMPLES).key
        return *own, *_tail_key(self.tail), self.steps, self.static, self.other_static, self.kept, self.tiles

    def trials(self, limit: int) -> Iterator[Trial]:
        """Draw weights and inputs whose sums all stay within the range that neurons can take."""
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
        # the check takes spikes as bytes, and other values in the type in which libraries read them
        image = image.view(torch.uint8) if own.dtype is torch.uint8 else image.to(own.dtype)
        if not own.is_right((image,), sums.reshape(-1, sums.shape[2])):
            return False
        read = sums if other is None else sums + other
        return _tail_is_right(self.tail, self.steps, read, stream, spikes, counts.tolist())


def _tail_key(tail: Tail) -> tuple[object, ...]:
    """Everything about a tail that a kernel's code may depend on."""
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
    """Whether relay and neurons made the right stream and spikes of ``read``, (steps or 1, rows, channels).

    Some of the rows are compared with the definition. Counts are compared only if these are all rows.
    """
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
    """Some rows of a tensor, (steps, rows, channels), in int64."""
    index = torch.from_numpy(rows).to(values.device)
    return values.index_select(1, index).to(torch.int64).cpu().numpy()


@dataclass(frozen=True, eq=False)
class AttentionTrial:
    """A trial of attention, for ``products``; kernels read (y1, x, y2) and return spikes and counts.

    Attributes:
        name: The name of the second product's node.
        size: The numbers of samples, steps, heads, channels, positions and patches.
        halves: Both products and their neurons.
        device: The device to run on.
        tiles: How the kernel is cut into tiles.
    """

    name: str
    size: Attention
    halves: tuple[Half, Half]
    device: torch.device
    tiles: Tiles

    @property
    def shown(self) -> str:
        """The size of what is tried, for notes."""
        size = self.size
        return f"{size.heads} heads of {size.channels // size.heads}, {size.positions} by {size.patches}"

    @property
    def key(self) -> tuple[object, ...]:
        """Everything that the kernel's code may depend on, and the shape without the real number of samples."""
        neurons = [(each.vth, each.dv, each.counts_ties, may_floor(each, limit)) for _, limit, each, _ in self.halves]
        products = [(half.limit, half.reach) for half in self.halves]
        return self.size._replace(samples=SAMPLES), *products, *neurons, str(self.device), self.tiles

    def trials(self, limit: int) -> Iterator[Trial]:  # noqa: ARG002
        """Draw y and spikes twice: at random, and with many numbers as large as they can be."""
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
        """Whether the spikes of all heads are right at some positions, the first and the last among them.

        Counts are compared only if these are all positions.
        """
        size = self.size
        y1, x, y2 = (_natural(each, size) for each in inputs)
        spikes, counts = result
        found = _natural(spikes, size)
        first, second = self.halves
        position = np.unique(np.linspace(0, size.positions - 1, ROWS).astype(np.int64))
        x, found = x[..., position], found[..., position]
        scores = SpikeMatMul.evaluate(_product(first, size.heads, transpose=True), y1, x)
        chosen, chosen_ties = first.lif.evaluate_with_ties(scores.value)
        made = SpikeMatMul.evaluate(_product(second, size.heads, transpose=False), y2, chosen.value)
        fired, ties = second.lif.evaluate_with_ties(made.value.reshape(found.shape))
        wanted = [[scores.clipped, chosen.clipped, chosen_ties], [made.clipped, fired.clipped, ties]]
        whole = len(position) == size.positions
        return np.array_equal(fired.value, found) and (counts.tolist() == wanted or not whole)


def _natural(values: torch.Tensor, size: Attention) -> npt.NDArray[np.int64]:
    """(steps, samples * positions, channels) as (steps, samples, channels, positions)."""
    by_sample = values.reshape(size.steps, size.samples, -1, size.channels)
    return by_sample.transpose(2, 3).to(torch.int64).cpu().numpy()


def _product(half: Half, heads: int, *, transpose: bool) -> SpikeMatMul:
    """The operation that a half computes."""
    signal: Any = None
    return SpikeMatMul(signal, heads, transpose, half.bias, half.limit)


class Summand(NamedTuple):
    """An input of a sum: a bound on its magnitude, its type, and whether it is the same at all steps."""

    reach: int
    dtype: torch.dtype
    static: bool


@dataclass(frozen=True, eq=False)
class TailTrial:
    """A trial of a sum, a relay and neurons without synapses, for ``products``.

    Kernels read one summand or two, (steps or 1, rows, channels), and return their outputs twice: with the stream kept
    as int32, and as they will run.

    Attributes:
        name: The name of the last node that is written.
        tail: The relay and neurons that read the sum.
        steps: T, or 1 if the result is the same at all steps.
        summands: One or two summands.
        rows: The positions of a sample.
        samples: The number of samples.
        stream: The type in which the neurons' input is kept; None: it is not kept.
        device: The device to run on.
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
        """The size of what is tried, for notes."""
        return f"{self.rows} positions, {self.tail.channels} channels"

    @property
    def key(self) -> tuple[object, ...]:
        """Everything that the kernel's code may depend on, and the shape without the real number of samples."""
        shape = self.tail.channels, self.rows, min(self.samples, SAMPLES), self.steps
        return *shape, *_tail_key(self.tail), self.summands, self.stream, str(self.device)

    def trials(self, limit: int) -> Iterator[Trial]:  # noqa: ARG002
        """Draw summands twice: as large as they can be, and such that neurons come near their threshold."""
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
        """The summands, with bounds scaled so that no sum exceeds the bound on what neurons without a relay read."""
        total = sum(each.reach for each in self.summands)
        promised = total if self.tail.lif is None or self.tail.relay is not None else self.tail.reach
        for each in self.summands:
            yield each if total <= promised else each._replace(reach=each.reach * promised // total)

    @property
    def _middle(self) -> int:
        """About the sum that brings neurons to their threshold; without neurons, the relay's limit."""
        if self.tail.lif is not None:
            return self.tail.lif.vth
        return 0 if self.tail.relay is None else self.tail.relay.limit

    def _ties(self) -> npt.NDArray[np.int64]:
        """For each channel, a sum that brings a potential of zero to a tie with the threshold, or near one."""
        relay, lif = self.tail.relay, self.tail.lif
        wanted = np.full(1, self._middle, np.int64)
        if lif is not None and lif.counts_ties:
            wanted = (lif.tie_potentials(1) - lif.bias) >> LOIHI.a_shift
        return wanted if relay is None else (wanted << relay.shift) - relay.bias


@dataclass(frozen=True, eq=False)
class PoolTrial:
    """A trial of maxima or sums over windows, for ``products``.

    Kernels read (steps, samples * height * width, channels), and make (steps, samples * windows, channels).

    Attributes:
        name: The node's name.
        op: The pool.
        steps: The number of steps that are read: T, or 1 if all steps are alike.
        samples: The number of samples.
        size: (height, width) of an image.
        made_size: (height, width) of its result.
        channels: The number of channels.
        source: The bound and the type of what is read.
        made: The type in which the result is kept.
        device: The device to run on.
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
        """The size of what is tried, for notes."""
        rows, columns = self.op.kernel_size
        kind = "maxima" if isinstance(self.op, MaxPool2d) else "sums"
        return f"{kind} of {rows}x{columns}, {self.channels} channels"

    @property
    def first(self) -> tuple[int, int]:
        """How many rows above and columns left of the image the first window begins."""
        top, _, left, _ = self.op.around if isinstance(self.op, MaxPool2d) else (0, 0, 0, 0)
        return top, left

    @property
    def key(self) -> tuple[object, ...]:
        """Everything that the kernel's code may depend on, and the shape without the real number of samples."""
        window = type(self.op), self.op.kernel_size, self.op.stride, self.first, self.made_size
        shape = self.channels, self.size, min(self.samples, SAMPLES), self.steps
        return *window, *shape, self.source, self.made, str(self.device)

    def trials(self, limit: int) -> Iterator[Trial]:  # noqa: ARG002
        """Draw channels of least values, where padding with zeros would win, of largest values, and of random ones."""
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
