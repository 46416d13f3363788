"""The kernels that are faster on a CPU than ``torch_kernels``: int8 matrix products and fused loops.

- Convolutions: spikes are bytes of 0 and 1, weights are 8-bit mantissas. oneDNN's int8 convolution sums them in int32
  and scales by the channel's power of two in float32, which is exact while the sums stay below 2^24. Where vectors do
  not multiply bytes fast, rows of weights are added only for spikes (``events``).
- DSSA's products: ``strips``, where the processor has instructions for products of bytes or words and two digits hold
  y. Elsewhere y is split into digits to the base 256. A library multiplies each digit with the spikes in int8, and the
  neurons' loop combines the digits' sums in int32. A tile's largest |y| decides how many digits it needs.
- Sums, relays and neurons: ``loops``.

Each kernel is used where the bounds prove it exact and a trial confirms it (``products``); elsewhere ``torch_kernels``
computes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.backends.sim.byte_products import (
    compiling,
    events_pay,
    in_words,
    shapes_of,
    strip_depth,
    strip_kernels,
    whole_lanes,
)
from resformer.compiler.backends.sim.frame import Block, Frame, Slab, Work
from resformer.compiler.backends.sim.plan import AttentionStep, NeuronStep, Plan, Step, Value
from resformer.compiler.backends.sim.products import (
    STRIP_ROWS,
    Compute,
    Int8Product,
    Kernel,
    Products,
    StripProduct,
    Synapses,
    digits_for,
)
from resformer.compiler.backends.sim.strip_trials import HeadAttention, attention_by
from resformer.compiler.backends.sim.team import ALONE, Team
from resformer.compiler.backends.sim.torch_kernels import (
    FLOATS,
    INT8_MATRIX,
    TorchKernels,
    channel_share,
    halves_exactly,
)
from resformer.compiler.backends.sim.widths import HELD
from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.interval import EXACT_IN_FLOAT32, INT32_MAX, largest
from resformer.compiler.ir.ops import LIF, SpikeMatMul
from resformer.compiler.target import LOIHI

if TYPE_CHECKING:
    from resformer.compiler.backends.sim.guarded_strips import Sizes, StripHalf

Array: TypeAlias = npt.NDArray[Any]

HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]

PATCH_MAX = 3
"""Up to this edge, oneDNN convolves patches faster than a matrix product does, and rightly on all machines tried."""
ATTENTION_ROWS = 112
"""The most positions whose attention a library computes at a time, for all steps: their sums stay in a core's L2."""

EVENT_OUTPUTS_MIN, EVENT_DEPTH_MIN = 32, 64
"""The fewest outputs and products of a sum, in a group, for which ``events`` is tried.

Weights are added 32 outputs at a time, and listing spikes costs too much where sums are short."""
PLAIN_LOOPS = 8
"""An int8 product this many times slower than float32's is taken for plain loops, which are 50 times slower."""

SHARED_NEURONS = 1 << 17
"""A loop of fewer neuron updates (rows, times channels, times steps) runs on one thread."""

BY_LIBRARY = "product of a library"
"""The name in notes of what replaces ``strips``."""


class CpuKernels(TorchKernels):
    """Binds steps to the fastest exact kernel of this machine.

    Args:
        plan: The plan of the steps.
        products: Tries kernels.
        team: The threads that share the rows of loops.
    """

    def __init__(self, plan: Plan, products: Products | None = None, team: Team = ALONE) -> None:
        super().__init__(plan, torch.device("cpu"), int8=int8_is_exact(), products=products)
        self._team = team
        if int8_verdict() is False and not events_pay():
            self.products.note(
                "this machine's int8 instructions do not sum in 32 bits; all products are of floats, and slower"
            )

    def bind(self, step: Step, block: Block) -> Work:
        """The function that runs one step for one block of channels."""
        return self.attention(step, block) if isinstance(step, AttentionStep) else super().bind(step, block)

    def _synapse_kernels(self, synapses: Synapses) -> list[Kernel[Synapses]]:
        """What may compute a convolution, the fastest first; int8 matrix products come first for large patches only."""
        matrices = super()._synapse_kernels(synapses)
        if synapses.sum_dtype is not torch.float32 or not HAS_ONEDNN:
            return matrices
        of_bytes = synapses.dtype is torch.uint8 and synapses.weight.dtype == np.int8
        convs = [INT8_CONV, FLOAT_CONV] if self.int8 and of_bytes else [FLOAT_CONV]
        large = len(synapses.weight) // synapses.groups >= EVENT_OUTPUTS_MIN and synapses.depth >= EVENT_DEPTH_MIN
        if of_bytes and large and events_pay():
            convs.insert(0, replace(EVENTS, make=functools.partial(event_convolution, team=self._team)))
        if INT8_MATRIX in matrices:
            matrices.remove(INT8_MATRIX)
            if int8_matrices_pay():
                convs.insert(0 if synapses.window.is_patch and max(synapses.kernel) > PATCH_MAX else 1, INT8_MATRIX)
        return convs + matrices

    def neurons(self, step: NeuronStep, block: Block) -> Work:
        """A sum, a relay and neurons, in one compiled loop."""
        loops = compiled_loops()
        if loops is None or not self._fits_loop(step):
            return super().neurons(step, block)
        inputs = [self.plan.values[name] for name in step.inputs]
        f32, width = np.float32, block.of(inputs[0].channels)[1]
        steps = 1 if all(value.static for value in inputs) and step.lif is None else self.plan.timesteps
        bias, limit, fire, tie = None, f32(0), None, None
        if step.relay is not None:
            relay = step.relay[1]
            bias, limit = channel_share(relay.bias, inputs[0], block).astype(f32), f32(relay.limit)
        if step.lif is not None:
            lif = step.lif[1]
            assert isinstance(lif, LIF), "_fits_loop"
            lif_bias = channel_share(fixedpoint.scale_bias(lif.bias_mant, lif.bias_exp), inputs[0], block)
            fire = (lif_bias.astype(f32), *_constants(lif))
            if lif.counts_ties:
                tie = channel_share(lif.tie_potentials(1), inputs[0], block).astype(f32)
        nothing = np.empty((0, 0, 0), np.uint8)
        repeats = self.plan.timesteps // steps

        def work(frame: Frame) -> None:
            a = _read(frame.read(step.inputs[0]))
            b = _read(frame.read(step.inputs[1])) if len(inputs) > 1 else (None, 0)
            stream = frame.write(step.stream, torch.float32) if step.stream is not None else None
            spikes = frame.write(step.lif[0], torch.uint8) if step.lif is not None else None
            arguments = (
                *a, *b, bias, limit, *_channels(stream), fire, tie,
                *((nothing, 0) if spikes is None else _channels(spikes)), width, steps,
            )  # fmt: skip
            rows = a[0].shape[1]
            team = self._team if rows * width * steps >= SHARED_NEURONS else ALONE
            found = team.share(rows, lambda first, last: loops.neurons(*arguments, first, last))
            saturated, floored, ties = (sum(each) for each in zip(*found, strict=True))
            if step.relay is not None:
                frame.clipped(step.relay[0], saturated * repeats)
            if step.lif is not None:
                frame.clipped(step.lif[0], floored)
                if tie is not None:
                    frame.tied(step.lif[0], ties)

        return work

    def _fits_loop(self, step: NeuronStep) -> bool:
        """Whether the compiled loop can compute a step, and computes it exactly."""
        inputs = [self.plan.values[name] for name in step.inputs]
        reach = sum(value.magnitude.value for value in inputs)
        if step.relay is not None:
            if step.relay[1].shift:
                return False
            reach += largest(step.relay[1].bias)
        if step.lif is not None:
            neurons = step.lif[1]
            if not isinstance(neurons, LIF) or not _fits_float32(neurons) or step.reach > LOIHI.a_max:
                return False
        return len(inputs) <= 2 and reach < EXACT_IN_FLOAT32 and not any(value.is_spikes for value in inputs)

    def attention(self, step: AttentionStep, block: Block) -> Work:
        """Both products of DSSA and their neurons, by strips or by a library, a few positions at a time."""
        by_library = Attention(self.plan, step, block, self.products)
        by_strips = StripAttention.of(self.plan, step, block, self.products, by_library, self._team)
        return by_library.run if by_strips is None else by_strips.run


def can_attend(step: AttentionStep, plan_values: Mapping[str, Value]) -> bool:
    """Whether :class:`Attention` or :class:`StripAttention` computes a step exactly on this machine."""
    y1, x, y2 = (plan_values[name] for name in step.inputs)
    width = y1.channels // step.products[0][1].num_heads
    if y2.channels != y1.channels or y2.positions != y1.positions or x.channels != y1.channels:
        return False  # heads of different widths: the loops take one width
    for y, terms, (_, product), (_, lif) in zip((y1, y2), (width, y2.positions), step.products, step.lifs, strict=True):
        reach = y.magnitude.value + largest(product.bias)
        if y.static or y.is_spikes or reach >= EXACT_IN_FLOAT32 or reach * terms > INT32_MAX:
            return False
        if product.limit > LOIHI.a_max or not _fits_float32(lif):
            return False
        # the loop takes one bias and one tie potential for all neurons
        if (lif.bias != lif.bias[0]).any() or (lif.surplus != lif.surplus[0]).any():
            return False
    # torch's int8 product mistakes a transposed matrix of one row for one that is not transposed, and sums wrongly
    has_products = int8_is_exact() or bool(strip_kernels())
    return width > 1 and x.is_spikes and has_products and compiled_loops() is not None


class Half(NamedTuple):
    """One of attention's two products, with the neurons that read it.

    Attributes:
        product: The product's name.
        neurons: The neurons' name.
        lif: The neurons.
        bias: What the product adds to y, (channels of the block,), float32.
        constants: For the compiled loop: the product's limit, the neurons' bias, share of the potential that is kept,
            threshold and floor, and the potential of a tie or None.
        by_row: True: y's digits are blocks of rows, one below the other, as the first product needs them. False: they
            are blocks of columns, side by side.
    """

    product: str
    neurons: str
    lif: LIF
    bias: npt.NDArray[np.float32]
    constants: tuple[np.int32 | np.float32 | None, ...]
    by_row: bool

    @classmethod
    def of(cls, product: tuple[str, SpikeMatMul], neurons: tuple[str, LIF], channels: slice, *, by_row: bool) -> Half:
        """The half for a block of channels."""
        (name, op), (lif_name, lif) = product, neurons
        tie = np.float32(lif.tie_potentials(1)[0]) if lif.counts_ties else None
        constants = np.int32(op.limit), np.float32(lif.bias[0]), *_constants(lif), tie
        return cls(name, lif_name, lif, op.bias[channels].astype(np.float32), constants, by_row)


class Room(NamedTuple):
    """A half's memory in one frame.

    Attributes:
        half: The half.
        y: The product's y.
        digits: The number of digits that hold each y + bias.
        split: The digits of one head's y + bias, (T, digits * patches, width) or (T, patches, digits * width), int8.
        sums: The product's sums of these digits for a part of the positions, (T, rows, columns), int32.
        fire: Fires the neurons that read the sums. Its arguments say where spikes are written: the array, the first
            row and the first channel. It returns the number of sums that were clipped, of potentials that were clipped,
            and of ties.
    """

    half: Half
    y: Slab
    digits: int
    split: torch.Tensor
    sums: torch.Tensor
    fire: Callable[[npt.NDArray[Any], int, int], tuple[int, int, int]]


class Attention:
    """Both products of DSSA, by a library, and their neurons, for the heads of one block.

    Args:
        plan: The plan of the step.
        step: A step for which ``can_attend`` is true.
        block: The block of channels.
        products: Tries kernels.
    """

    def __init__(self, plan: Plan, step: AttentionStep, block: Block, products: Products) -> None:
        loops = compiled_loops()
        assert loops is not None
        self._plan, self._inputs, self._products, self._loops = plan, step.inputs, products, loops
        y, x = (plan.values[name] for name in step.inputs[:2])
        first, count = block.of(y.channels)
        self._heads, self._width = _heads_of(plan, step, block)
        self._patches, self._positions = y.positions, x.positions
        self._rows = max(size for size in range(1, ATTENTION_ROWS + 1) if x.positions % size == 0)
        self.halves = tuple(
            Half.of(product, neurons, slice(first, first + count), by_row=by_row)
            for product, neurons, by_row in zip(step.products, step.lifs, (True, False), strict=True)
        )
        self._known: dict[tuple[object, ...], Compute] = {}

    def run(self, frame: Frame) -> None:
        """Compute both products, and fire their neurons."""
        y1, x, y2 = (frame.read(name) for name in self._inputs)
        out = frame.write(self.halves[1].neurons, torch.uint8)
        spikes = out.data.numpy()
        first, second = (self._room(frame, *each) for each in zip(self.halves, (y1, y2), strict=True))
        attention = frame.scratch((self._plan.timesteps, self._rows, self._patches), torch.int8)
        fired, gates = attention.numpy(), self._gates(x)
        products1 = [first.split.transpose(1, 2).unbind(), first.sums.unbind()]
        products2 = [attention.unbind(), second.split.unbind(), second.sums.unbind()]
        multiply1 = self._multiply(first.half.product, gates[0, 0, 0, 0], first.split[0].T)
        multiply2 = self._multiply(second.half.product, attention[0], second.split[0])
        counts = np.zeros(6, np.int64)
        for sample, head in np.ndindex(self._plan.samples, self._heads):
            for room in (first, second):
                self._split(room, sample, head)
            for part, gate in enumerate(gates[sample, head].unbind()):
                for per_step in zip(gate.unbind(), *products1, strict=True):
                    multiply1(*per_step)
                first_counts = first.fire(fired, 0, 0)
                for per_step in zip(*products2, strict=True):
                    multiply2(*per_step)
                row0 = sample * self._positions + part * self._rows
                counts += first_counts + second.fire(spikes, row0, out.first + head * self._width)
        self.tell(frame, counts)

    def _room(self, frame: Frame, half: Half, y: Slab) -> Room:
        """Memory for a half, with as many digits as the tile's largest y + bias needs."""
        digits = digits_for(self._loops.largest(*_read(y), half.bias))
        steps, patches, width = self._plan.timesteps, self._patches, self._width
        split = (steps, digits * patches, width) if half.by_row else (steps, patches, digits * width)
        columns = digits * (patches if half.by_row else width)
        sums = frame.scratch((steps, self._rows, columns), torch.int32)
        fire = functools.partial(self._loops.product_neurons, sums.numpy(), digits, *half.constants)
        return Room(half, y, digits, frame.scratch(split, torch.int8), sums, fire)

    def _gates(self, x: Slab) -> torch.Tensor:
        """The block's channels of x by head and part of the positions, (N, heads, parts, T, rows, width)."""
        steps, samples, width = self._plan.timesteps, self._plan.samples, self._width
        # (T, N * parts * rows, heads * width)
        gates = x.data.view(torch.int8).view(steps, samples, -1, self._rows, x.data.shape[2] // width, width)
        gates = gates[..., x.first // width : x.first // width + self._heads, :]
        return gates.permute(1, 4, 2, 0, 3, 5)

    def _multiply(self, name: str, left: torch.Tensor, right: torch.Tensor) -> Compute:
        """A kernel for matrices like these; bound at run time, since their size depends on the tile's largest y."""
        product = Int8Product.of(name, left, right)
        key = (name, *product.key)
        if key not in self._known:
            reach = 128 * left.shape[1]
            floats = [kernel for kernel in WIDER_PRODUCTS if reach < kernel.limit]
            self._known[key] = self._products.bind(product, [INT8_PRODUCT] * int8_matrices_pay() + floats)
        return self._known[key]

    def _split(self, room: Room, sample: int, head: int) -> None:
        """Write the digits of one head of one sample's y + bias."""
        half, channel = room.half, head * self._width
        self._loops.split_digits(
            _read(room.y)[0], sample * self._patches, room.y.first + channel,
            half.bias[channel : channel + self._width], room.digits, half.by_row, room.split.numpy(),
        )  # fmt: skip

    def tell(self, frame: Frame, counts: npt.NDArray[np.int64]) -> None:
        """Note the counts of both halves in a frame; counts are (6,), three for each half."""
        for half, (clipped, floored, ties) in zip(self.halves, counts.reshape(2, 3).tolist(), strict=True):
            frame.clipped(half.product, clipped)
            frame.clipped(half.neurons, floored)
            if half.lif.counts_ties:
                frame.tied(half.neurons, ties)


class StripAttention:
    """Both products of DSSA and their neurons in one compiled loop, ``strips``.

    Args:
        plan: The plan of the step.
        step: A step for which ``can_attend`` is true.
        block: The block of channels.
        products: Tries kernels.
        kernel: The kernel for both products, which was tried on each.
        otherwise: Computes a tile in which y + bias exceeds ``HELD``, the most that two digits or a word hold.
        team: The threads that share the strips.
    """

    def __init__(
        self,
        plan: Plan,
        step: AttentionStep,
        block: Block,
        products: Products,
        kernel: Kernel[StripProduct],
        otherwise: Attention,
        team: Team,
    ) -> None:
        self._plan, self._inputs, self._otherwise, self._team = plan, step.inputs, otherwise, team
        self._tiles, self._words = shapes_of(kernel), in_words(kernel)
        patches, positions = (plan.values[name].positions for name in step.inputs[:2])
        self._sizes = compiled_strips().Sizes(plan.samples, *_heads_of(plan, step, block), positions, patches)
        asked = self._asked(plan, step, words=self._words)
        self._multiply = [products.make(each, kernel) for each in asked] if products.self_check else None
        self._shapes_of_products = [(each.depth, each.columns) for each in asked]

    @classmethod
    def of(
        cls, plan: Plan, step: AttentionStep, block: Block, products: Products, otherwise: Attention, team: Team = ALONE
    ) -> StripAttention | None:
        """Attention by the first kernel that passes its trials, or None where the processor has no such kernel."""
        y, (_, width) = plan.values[step.inputs[0]], _heads_of(plan, step, block)
        ties = step.lifs[0][1].counts_ties, step.lifs[1][1].counts_ties
        head = HeadAttention(step.writes[0], plan.timesteps, width, y.positions, ties)
        kernels = strip_kernels()
        names = [*(each.name for each in kernels), BY_LIBRARY]
        for kernel, instead in zip(kernels, names[1:], strict=True):
            asked = cls._asked(plan, step, words=in_words(kernel))
            if products.choose(asked, [kernel], instead) is None:
                continue
            if products.choose([head], [attention_by(kernel)], instead) is not None:
                return cls(plan, step, block, products, kernel, otherwise, team)
        return None

    @classmethod
    def _asked(cls, plan: Plan, step: AttentionStep, *, words: bool) -> list[StripProduct]:
        """Descriptions of both products of a strip, from which kernels are tried and made."""
        y = plan.values[step.inputs[0]]
        width = y.channels // step.products[0][1].num_heads
        return [
            StripProduct(name, plan.timesteps, strip_depth(depth), whole_lanes(columns), words)
            for (name, _), depth, columns in zip(step.products, (width, y.positions), (y.positions, width), strict=True)
        ]

    def run(self, frame: Frame) -> None:
        """Compute both products, and fire their neurons."""
        y1, x, y2 = (frame.read(name) for name in self._inputs)
        halves = self._otherwise.halves
        loops = compiled_loops()
        assert loops is not None
        if max(loops.largest(*_read(y), half.bias) for y, half in zip((y1, y2), halves, strict=True)) > HELD:
            self._otherwise.run(frame)
            return
        out = frame.write(halves[1].neurons, torch.uint8)
        spikes, (gates, x0) = out.data.numpy(), _read(x)
        attend = compiled_strips().attend if self._multiply is None else self._attend_checked
        sizes, strips = self._sizes, -(-self._sizes.positions // STRIP_ROWS)

        def attend_in(first_strip: int, last_strip: int) -> Array:
            first = self._room(halves[0], y1, *self._shapes_of_products[0], sizes.width)
            second = self._room(halves[1], y2, *self._shapes_of_products[1], sizes.patches)
            positions = first_strip * STRIP_ROWS, min(last_strip * STRIP_ROWS, sizes.positions)
            return np.array(
                attend(self._tiles, sizes, gates, x0, first, second, spikes, out.first, positions), np.int64
            )

        self._otherwise.tell(frame, sum(self._team.share(strips, attend_in), start=np.zeros(6, np.int64)))

    def _room(self, half: Half, y: Slab, whole_depth: int, columns: int, depth: int) -> StripHalf:
        """Memory for a half."""
        steps = self._plan.timesteps
        spikes = np.empty((steps, STRIP_ROWS, whole_depth), np.uint8)
        digits = np.empty((steps, whole_depth // 4, columns), np.int32)
        sums = np.empty((steps, STRIP_ROWS, columns), np.int32)
        *neurons, tie = half.constants
        made: StripHalf = compiled_strips().StripHalf(
            spikes, digits, sums, None if self._words else whole_lanes(depth), tuple(neurons), *_read(y), half.bias, tie
        )
        return made

    def _attend_checked(
        self,
        _: object,
        sizes: Sizes,
        x: Array,
        x0: int,
        first: StripHalf,
        second: StripHalf,
        spikes: Array,
        p0: int,
        positions: tuple[int, int],
    ) -> list[int]:
        """Do what ``strips.attend`` does, strip by strip, and check both products of each strip."""
        strips = compiled_strips()
        counts = np.zeros(6, np.int64)
        assert self._multiply is not None
        for sample, head in np.ndindex(sizes.samples, sizes.heads):
            strips.digits_by_channel(first, sizes, sample, head)
            strips.digits_by_row(second, sizes, sample, head)
            c = head * sizes.width
            for start in range(*positions, STRIP_ROWS):
                rows, row0 = min(STRIP_ROWS, positions[1] - start), sample * sizes.positions + start
                strips.spread_spikes(x, row0, x0 + c, rows, sizes.width, first)
                self._multiply[0](*(torch.from_numpy(each) for each in first[:3]))
                counts[:3] += strips.fire_into_strip(first, second, sizes, rows)
                self._multiply[1](*(torch.from_numpy(each) for each in second[:3]))
                counts[3:] += strips.fire_into_rows(second, rows, sizes.width, spikes, row0, p0 + c)
        return counts.tolist()


def _heads_of(plan: Plan, step: AttentionStep, block: Block) -> tuple[int, int]:
    """The number of heads of a block, and the channels of each head."""
    heads = step.products[0][1].num_heads
    return heads // block.count, plan.values[step.inputs[0]].channels // heads


def _fits_float32(lif: LIF) -> bool:
    """Whether the compiled loops compute neurons exactly, and can tell a tie from a potential that was reset."""
    return halves_exactly(lif) and not (lif.counts_ties and lif.vth == 0)


def _constants(lif: LIF) -> tuple[np.float32, np.float32, np.float32]:
    """The neurons' constants for the compiled loops: share of the potential that is kept, threshold and floor."""
    keep = (LOIHI.decay_unity - lif.dv) / LOIHI.decay_unity
    return np.float32(keep), np.float32(lif.vth << LOIHI.a_shift), np.float32(-LOIHI.v_max)


def _read(slab: Slab) -> tuple[npt.NDArray[Any], int]:
    """A slab as a contiguous array for compiled loops to read, and its first channel."""
    return slab.data.contiguous().numpy(), slab.first


def _channels(slab: Slab | None) -> tuple[npt.NDArray[Any] | None, int]:
    """A slab as an array for compiled loops to write, and its first channel; (None, 0) for None."""
    return (None, 0) if slab is None else (slab.data.numpy(), slab.first)


@functools.cache
def compiled_loops() -> ModuleType | None:
    """The loops that numba compiles, behind their checks, or None where numba is not installed."""
    if importlib.util.find_spec("numba") is None:
        return None
    return importlib.import_module("resformer.compiler.backends.sim.guarded_loops")


def compiled_strips() -> ModuleType:
    """The loops over strips, behind their checks; numba must be installed."""
    return importlib.import_module("resformer.compiler.backends.sim.guarded_strips")


def event_convolution(synapses: Synapses, team: Team = ALONE) -> Compute:
    """A convolution that adds rows of weights only for spikes."""
    from resformer.compiler.backends.sim.guarded_events import Convolution

    convolve = Convolution(synapses)

    def compute(image: torch.Tensor) -> torch.Tensor:
        with compiling("a convolution by events"):
            return torch.from_numpy(convolve(image.contiguous().numpy(), team))

    return compute


def int8_convolution(synapses: Synapses) -> Compute:
    """oneDNN's convolution of bytes with 8-bit mantissas, scaled by each output's power of two."""
    scale = torch.from_numpy(np.exp2(synapses.weight_exp.astype(np.float32)))
    zero = torch.zeros(len(scale), dtype=torch.int32)
    bias = torch.from_numpy(synapses.bias.astype(np.float32)) if synapses.bias.any() else None
    window = [*synapses.stride], [*synapses.padding], [*synapses.dilation], synapses.groups
    shape = [synapses.images, synapses.channels, *synapses.size]
    mantissas = torch.from_numpy(synapses.weight.copy())
    weight = torch.ops.onednn.qconv_prepack(mantissas, scale, 1.0, 0, *window, shape)

    def compute(image: torch.Tensor) -> torch.Tensor:
        made = torch.ops.onednn.qconv2d_pointwise(
            _channels_last(image), 1.0, 0, weight, scale, zero, bias, *window, 1.0, 0, torch.float32, "none", [], ""
        )
        return _by_position(made)

    return compute


def float_convolution(synapses: Synapses) -> Compute:
    """oneDNN's direct convolution in float32: it only sums products, unlike Winograd's, which rounds."""
    weight = torch.from_numpy(np.float32(fixedpoint.scale_weight(synapses.weight, synapses.weight_exp)))
    bias = torch.from_numpy(synapses.bias.astype(np.float32))
    window = synapses.padding, synapses.stride, synapses.dilation, synapses.groups

    def compute(image: torch.Tensor) -> torch.Tensor:
        made = torch.mkldnn_convolution(_channels_last(image.to(torch.float32)), weight, bias, *window)
        return _by_position(made)

    return compute


def _channels_last(image: torch.Tensor) -> torch.Tensor:
    """Images (images, H, W, channels), contiguous or not, in the library's layout (images, channels, H, W)."""
    return image.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _by_position(made: torch.Tensor) -> torch.Tensor:
    """Results (images, outputs, R, S) with a row for each position, (images * R * S, outputs)."""
    return made.permute(0, 2, 3, 1).reshape(-1, made.shape[1])


def int8_products(_: Int8Product) -> Compute:
    """torch's product of int8 matrices."""

    def compute(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = torch._int_mm(left, right, out=out)
        return made

    return compute


def wider_products(_: Int8Product, dtype: torch.dtype) -> Compute:
    """The product of int8 matrices, computed in a wider type."""

    def compute(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return out.copy_(torch.matmul(left.to(dtype), right.to(dtype)))

    return compute


EVENTS: Kernel[Synapses] = Kernel("convolution by events", EXACT_IN_FLOAT32, event_convolution)
INT8_CONV: Kernel[Synapses] = Kernel("int8 convolution", EXACT_IN_FLOAT32, int8_convolution)
FLOAT_CONV: Kernel[Synapses] = Kernel("convolution in float32", EXACT_IN_FLOAT32, float_convolution)
INT8_PRODUCT: Kernel[Int8Product] = Kernel("matrix product in int8", INT32_MAX, int8_products)
WIDER_PRODUCTS: tuple[Kernel[Int8Product], ...] = tuple(
    Kernel(name, min(limit, INT32_MAX), functools.partial(wider_products, dtype=dtype)) for name, limit, dtype in FLOATS
)


@functools.cache
def int8_matrices_pay() -> bool:
    """Whether torch multiplies int8 matrices exactly here, and not by plain loops, which take far longer than floats.

    On processors without VNNI, torch has only plain loops: about one multiply-accumulate in a nanosecond.
    """
    if not int8_is_exact():
        return False  # int8 kernels sum wrongly, or there are none
    ones = torch.ones(128, 128, dtype=torch.int8)
    in_floats = ones.float()
    in_int8 = _least_seconds(lambda: torch._int_mm(ones, ones))
    return in_int8 < PLAIN_LOOPS * _least_seconds(lambda: torch.matmul(in_floats, in_floats))


def _least_seconds(run: Callable[[], object], rounds: int = 4) -> float:
    least = math.inf
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - start)
    return least


@functools.cache
def int8_verdict() -> bool | None:
    """Whether this machine's int8 kernels sum in 32 bits, or None where it has none.

    The kernels are tried once, on the largest values. Instructions older than VNNI add pairs of products in 16 bits,
    where the sums saturate.
    """
    if "onednn" not in torch.backends.quantized.supported_engines:
        return None
    depth, width = 256, 32
    spikes = torch.ones(width, depth, dtype=torch.int8)
    extremes = torch.tensor([127, -127, -128, 1]).repeat(width // 4)
    wanted = (depth * extremes).expand(width, width)
    rows = extremes.to(torch.int8)[:, None].repeat(1, depth)
    scale, zero = torch.ones(width), torch.zeros(width, dtype=torch.int32)
    window = [1, 1], [0, 0], [1, 1], 1
    image = spikes.view(torch.uint8).view(1, width, 1, depth).permute(0, 3, 1, 2)
    kernel = rows.view(width, depth, 1, 1)
    try:
        product = torch._int_mm(spikes, rows.T)
        packed = torch.ops.onednn.qconv_prepack(kernel, scale, 1.0, 0, *window, list(image.shape))
        made = torch.ops.onednn.qconv2d_pointwise(
            image, 1.0, 0, packed, scale, zero, None, *window, 1.0, 0, torch.float32, "none", [], ""
        )
    # Builds of PyTorch for other processors lack these kernels and raise one of these errors; products of floats, which
    # are exact, too, are used instead.
    except (AttributeError, NotImplementedError, RuntimeError):
        return None
    return torch.equal(product.long(), wanted) and torch.equal(made[0, :, :, 0].T.long(), wanted)


def int8_is_exact() -> bool:
    """Whether this machine has int8 kernels that sum in 32 bits; each layer's shape still has a trial of its own."""
    return int8_verdict() is True
