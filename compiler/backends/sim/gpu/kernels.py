"""Binds a plan's steps to kernels in Triton, where bounds prove that these are exact.

Each kernel is first tried on its own shape (``trials``). ``TorchKernels`` computes what these kernels do not support
(neurons whose current has a memory, attention of counts, values beyond int32) or compute wrongly on this machine.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.backends.sim.frame import Block, Frame, Work
from resformer.compiler.backends.sim.gpu.launch import (
    COUNTS,
    Attention,
    AttentionKernel,
    Half,
    LayerKernel,
    Outputs,
    Tail,
    TailKernel,
    Tiles,
    pool,
)
from resformer.compiler.backends.sim.gpu.trials import (
    AttentionTrial,
    Kept,
    LayerTrial,
    PoolTrial,
    Summand,
    TailTrial,
)
from resformer.compiler.backends.sim.gpu.tuning import attention_tiles, choose, layer_tiles
from resformer.compiler.backends.sim.plan import AttentionStep, LayerStep, NeuronStep, OpStep, Plan, Step, Value
from resformer.compiler.backends.sim.products import Kernel, Products, Synapses
from resformer.compiler.backends.sim.torch_kernels import TorchKernels, real_dtype
from resformer.compiler.ir.interval import INT32_MAX, largest
from resformer.compiler.ir.ops import LIF, Conv2d, Dense, MaxPool2d, SumPool2d
from resformer.compiler.target import LOIHI

IntegerT = TypeVar("IntegerT", bound=np.integer[Any])

IN_PARTS = "kernel for each of its parts"
BY_TORCH = "kernel in PyTorch"
"""What replaces a kernel in Triton, in the words of notes."""
INT8_MAX, INT16_MAX = 127, 32767
PATCHES_MAX = 512
"""The most patches whose potentials one program of attention can hold in registers."""
WIDTH_MAX = 128
"""The most channels of a head that one program of attention can hold in registers."""
TAPS_MAX = 32
"""The most positions of a pool's window, which a program reads one after the other."""
COUNTERS_A_STEP = 2
"""The most rows of counts that a step takes: attention takes one for each of its two products."""
ELEMENTS = 1 << 31
"""One step of a tensor, and a plane of digits, must have fewer elements, since offsets in it are 32 bits wide."""
INT32 = INT32_MAX + 1


class GpuKernels(TorchKernels):
    """Binds steps to kernels in Triton, or to torch's operations where no kernel in Triton fits.

    Args:
        plan: The plan that the steps belong to.
        device: A GPU; or the CPU, where Triton interprets its kernels.
        products: Tries kernels and keeps notes.
    """

    def __init__(self, plan: Plan, device: torch.device, products: Products) -> None:
        super().__init__(plan, device, int8=True, products=products)
        rows = COUNTERS_A_STEP * sum(len(segment.steps) for segment in plan.segments)
        self._counts = torch.zeros((rows, COUNTS), dtype=torch.int64, device=device)
        self._counters = iter(self._counts)
        self._narrow = _narrow_types(plan)

    def start(self) -> None:
        """Set all counts to zero, for the next tile."""
        self._counts.zero_()

    def stored(self, name: str) -> torch.dtype:
        """The type in which a value is kept; the narrowest that holds it if only kernels in Triton make and read it."""
        return self._narrow.get(name) or super().stored(name)

    def bind(self, step: Step, block: Block) -> Work:
        """Bind one step to the kernel that runs it."""
        match step:
            case LayerStep():
                return self.layer(step, block)
            case AttentionStep():
                return self.dual_attention(step, block)
            case OpStep(op=MaxPool2d() | SumPool2d() as op) if _fits_pool(self.plan, step):
                trial = self._pool_trial(step, op)
                if self.products.choose([trial], [POOL], last=BY_TORCH) is not None:
                    return functools.partial(self.pool, step, trial)
        return super().bind(step, block)

    def layer(self, step: LayerStep, block: Block) -> Work:
        """Synapses and the neurons that read them, in one kernel."""
        synapses, neurons = step.synapses, step.neurons
        source, made = self.plan.values[synapses.inputs[0]], self.plan.values[step.name]
        other = None if step.other is None else self.plan.values[step.other]
        fires = neurons is not None and neurons.lif is not None
        steps = 1 if source.static and (other is None or other.static) and not fires else self.plan.timesteps
        if not fires and other is None:
            steps = 1  # the kernel treats all steps as one step of more images
        images = self.plan.samples * (self.plan.timesteps if steps == 1 and not source.static else 1)
        own = replace(self._own_synapses(synapses, block), images=images, out_dtype=real_dtype(made))
        tail = Tail(None, None, made.channels, 0, may_clip=False) if neurons is None else self._tail(neurons, made)
        kernel = LayerKernel(own, tail, steps, static=source.static or steps == 1)
        if not _offsets_fit(images, source, made):  # before tiles are timed, or offsets would overflow
            return self._layer_in_parts(step, block)
        tiles = self._layer_tiles(kernel, tail, step)
        static_other = other is not None and other.static
        kept = Kept(
            self.stored(step.name) if step.keeps_sums else None,
            self.stored(neurons.stream) if neurons is not None and neurons.stream is not None else None,
            None if step.other is None else self.stored(step.other),
        )
        trial = LayerTrial(own, tail, steps, kernel.static, static_other, kept, tiles)
        if self.products.choose([trial], [LAYER], last=IN_PARTS) is None:
            return self._layer_in_parts(step, block)
        repeats = self.plan.timesteps // steps if source.static else 1
        counts = next(self._counters)

        def work(frame: Frame) -> None:
            x = _as_int8(frame.read(synapses.inputs[0]).data)
            x = x if kernel.steps > 1 or source.static else x.reshape(1, -1, x.shape[2])
            outputs = self._outputs(frame, step.name if step.keeps_sums else None, neurons, counts)
            second = None if step.other is None else frame.read(step.other).data
            kernel.run(x, second, outputs, tiles)
            if neurons is not None:
                _tell(frame, neurons, outputs.counts, repeats)

        return work

    def _layer_in_parts(self, step: LayerStep, block: Block) -> Work:
        """Synapses and the neurons that read them, as two steps."""
        return self._in_parts((step.synapses,) if step.neurons is None else (step.synapses, step.neurons), block)

    def _in_parts(self, steps: Sequence[Step], block: Block) -> Work:
        """Steps that no kernel joins: each is bound separately, and they run in turn."""
        return functools.partial(_in_turn, [super(GpuKernels, self).bind(each, block) for each in steps])

    def _own_synapses(self, step: OpStep, block: Block) -> Synapses:
        """The synapses of a convolution or a dense layer."""
        if isinstance(step.op, Conv2d):
            return self._synapses(step, step.op, block)
        assert isinstance(step.op, Dense), "can_join"
        weight_exp = np.full(len(step.op.weight), step.op.weight_exp, np.int8)
        return self._synapses_of(
            step.name, step.inputs[0], step.op.weight[:, :, None, None], weight_exp, step.op.bias, images=1
        )

    def _tail(self, step: NeuronStep, made: Value) -> Tail:
        """The relay and neurons that a step applies to the sum of its inputs, for the channels of ``made``."""
        relay, neurons = None if step.relay is None else step.relay[1], None if step.lif is None else step.lif[1]
        assert neurons is None or isinstance(neurons, LIF), "fits_tail"
        reach = sum(self.plan.values[name].magnitude.value for name in step.inputs)
        clips = relay is not None and reach + largest(relay.bias) >> relay.shift >= relay.limit
        # the relay and neurons of an attention map have one parameter for each head
        if relay is not None:
            relay = replace(relay, bias=_of_each(relay.bias, made.channels))
        if neurons is not None:
            neurons = replace(
                neurons,
                bias_mant=_of_each(neurons.bias_mant, made.channels),
                bias_exp=_of_each(neurons.bias_exp, made.channels),
                surplus=_of_each(neurons.surplus, made.channels),
            )
        return Tail(relay, neurons, made.channels, step.reach, may_clip=clips)

    def _layer_tiles(self, kernel: LayerKernel, tail: Tail, step: LayerStep) -> Tiles:
        """The tiles of a layer; on a GPU, the fastest ones, timed on tensors of the layer's own shapes and types."""
        own, keeps = kernel.synapses, step.keeps_sums
        other = None if step.other is None else self.plan.values[step.other]
        light = tail.relay is None and other is None
        candidates = layer_tiles(kernel.group_outputs, kernel.group_channels, kernel.rows, light=light)
        key = *replace(own, images=kernel.rows).key, tail.lif is None, other is None, keeps, kernel.steps, kernel.static

        @functools.cache
        def tensors() -> tuple[torch.Tensor, torch.Tensor | None, Outputs]:
            made = 1 if kernel.static and tail.lif is None else kernel.steps, kernel.rows, kernel.outputs
            x_shape = 1 if kernel.static else kernel.steps, own.images * own.size[0] * own.size[1], own.channels
            x = torch.randint(0, 2, x_shape, dtype=torch.int8, device=self.device)
            read = None
            if other is not None and step.other is not None:
                of_other = (1, *made[1:]) if other.static else made
                read = torch.zeros(of_other, dtype=self.stored(step.other), device=self.device)
            spikes = None if tail.lif is None else torch.empty(made, dtype=torch.int8, device=self.device)
            stream = None if step.neurons is None else step.neurons.stream
            sums, kept = (
                None if name is None else torch.empty(made, dtype=self.stored(name), device=self.device)
                for name in (step.name if keeps else None, stream)
            )
            return x, read, Outputs(sums, kept, spikes, self._zeros())

        return choose(key, candidates, lambda tiles: kernel.run(*tensors(), tiles), self.device)

    def _outputs(self, frame: Frame, sums: str | None, neurons: NeuronStep | None, counts: torch.Tensor) -> Outputs:
        """The tensors to which a step's kernel writes."""
        stream, lif = (None, None) if neurons is None else (neurons.stream, neurons.lif)
        return Outputs(
            None if sums is None else frame.write(sums, self.stored(sums)).data,
            None if stream is None else frame.write(stream, self.stored(stream)).data,
            None if lif is None else frame.write(lif[0], torch.uint8).data.view(torch.int8),
            counts,
        )

    def _zeros(self) -> torch.Tensor:
        return torch.zeros(COUNTS, dtype=torch.int64, device=self.device)

    def neurons(self, step: NeuronStep, block: Block) -> Work:
        """A sum, a relay and neurons without synapses, in one kernel."""
        inputs = [self.plan.values[name] for name in step.inputs]
        if not fits_tail(step, self.plan.values) or not _offsets_fit(self.plan.samples, *inputs):
            return super().neurons(step, block)
        steps = 1 if all(value.static for value in inputs) and step.lif is None else self.plan.timesteps
        tail, value = self._tail(step, inputs[0]), inputs[0]
        trial = TailTrial(
            step.writes[-1],
            tail,
            steps,
            tuple(self._summand(name) for name in step.inputs),
            value.positions,
            self.plan.samples,
            None if step.stream is None else self.stored(step.stream),
            self.device,
        )
        if self.products.choose([trial], [TAIL], last=BY_TORCH) is None:
            return super().neurons(step, block)
        kernel = TailKernel(tail, steps, self.device)
        counts = next(self._counters)

        def work(frame: Frame) -> None:
            x, *others = (frame.read(name).data for name in step.inputs)
            outputs = self._outputs(frame, None, step, counts)
            kernel.run(x, others[0] if others else None, outputs)
            _tell(frame, step, outputs.counts, self.plan.timesteps // steps)

        return work

    def dual_attention(self, step: AttentionStep, block: Block) -> Work:
        """Both of DSSA's products and their neurons, in one kernel."""
        y, x = (self.plan.values[name] for name in step.inputs[:2])
        heads = step.products[0][1].num_heads
        size = Attention(self.plan.samples, self.plan.timesteps, heads, x.channels, x.positions, y.positions)
        halves = [
            Half(product.bias, product.limit, lif, self.plan.values[name].magnitude.value + largest(product.bias))
            for name, (_, product), (_, lif) in zip(step.inputs[::2], step.products, step.lifs, strict=True)
        ]
        kernel = AttentionKernel(size, halves, self.device)
        # checked before tiles are timed, or offsets would overflow
        if not _offsets_fit(self.plan.samples, x, y) or kernel.plane_elements >= ELEMENTS:
            return self._in_parts(step.parts, block)
        tiles = self._attention_tiles(kernel)
        trial = AttentionTrial(step.products[1][0], size, (halves[0], halves[1]), self.device, tiles)
        if self.products.choose([trial], [ATTENTION], last=IN_PARTS) is None:
            return self._in_parts(step.parts, block)
        counts = next(self._counters), next(self._counters)

        def work(frame: Frame) -> None:
            y1, gates, y2 = (frame.read(name).data for name in step.inputs)
            spikes = frame.write(step.lifs[1][0], torch.uint8).data.view(torch.int8)
            kernel.run(y1, _as_int8(gates), y2, spikes, counts, tiles)
            for (product, _), (name, lif), (clipped, floored, ties) in zip(
                step.products, step.lifs, counts, strict=True
            ):
                frame.clipped(product, clipped)
                frame.clipped(name, floored)
                if lif.counts_ties:
                    frame.tied(name, ties)

        return work

    def _attention_tiles(self, kernel: AttentionKernel) -> Tiles:
        """The tiles of attention; on a GPU, the fastest ones, timed on tensors of its own shapes."""
        size = kernel.size

        @functools.cache
        def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
            y = torch.zeros((size.steps, size.samples * size.patches, size.channels), device=self.device)
            shape = size.steps, size.samples * size.positions, size.channels
            x = torch.randint(0, 2, shape, dtype=torch.int8, device=self.device)
            counts = torch.zeros((2, COUNTS), dtype=torch.int64, device=self.device)
            return y, x, y, torch.empty_like(x), counts

        return choose(
            tuple(size), attention_tiles(size.patches), lambda tiles: kernel.run(*tensors(), tiles), self.device
        )

    def _pool_trial(self, step: OpStep, op: MaxPool2d | SumPool2d) -> PoolTrial:
        """The trial of a pool's kernel."""
        source, made = self.plan.values[step.inputs[0]], self.plan.values[step.name]
        steps = 1 if source.static else self.plan.timesteps
        return PoolTrial(
            step.name, op, steps, self.plan.samples, source.size, made.size, source.channels,
            self._summand(step.inputs[0]), real_dtype(made), self.device,
        )  # fmt: skip

    def _summand(self, name: str) -> Summand:
        """A value's bound, its type and whether it is static, as trials take them."""
        value = self.plan.values[name]
        return Summand(value.magnitude.value, self.stored(name), value.static)

    def pool(self, step: OpStep, tried: PoolTrial, frame: Frame) -> None:
        """Maxima or sums over windows."""
        _pool(tried, frame.read(step.inputs[0]).data, frame.write(step.name, tried.made).data)


def can_join(step: LayerStep, values: Mapping[str, Value]) -> bool:
    """Whether one kernel computes synapses and the neurons that read them exactly."""
    op, source, made = step.synapses.op, values[step.synapses.inputs[0]], values[step.name]
    in_int8 = source.is_spikes or source.magnitude.value <= INT8_MAX
    if not in_int8 or not isinstance(op, Conv2d | Dense) or op.weight.dtype != np.int8:
        return False
    if isinstance(op, Conv2d) and not _is_plain(op, source, made):
        return False
    if made.magnitude.sums >= INT32:
        return False
    return step.neurons is None or fits_tail(step.neurons, values)


def _is_plain(op: Conv2d, source: Value, made: Value) -> bool:
    """Whether a convolution's window, with equal padding on opposite sides, gives the size of its result."""
    return op.window.targets(source.size) == made.size


def fits_tail(step: NeuronStep, values: Mapping[str, Value]) -> bool:
    """Whether a kernel computes a sum, a relay and neurons exactly, which needs all values to be below 2^31."""
    reach = sum(values[name].magnitude.value for name in step.inputs)
    if step.relay is not None:
        reach += largest(step.relay[1].bias) + (1 << step.relay[1].shift >> 1)
    if step.lif is not None:
        neurons = step.lif[1]
        if not isinstance(neurons, LIF) or neurons.du != LOIHI.du_no_memory or step.reach > LOIHI.a_max:
            return False
    return len(step.inputs) <= 2 and reach < INT32


def can_attend(step: AttentionStep, values: Mapping[str, Value]) -> bool:
    """Whether a kernel computes both of DSSA's products and their neurons exactly."""
    y1, x, y2 = (values[name] for name in step.inputs)
    width = y1.channels // step.products[0][1].num_heads
    if y2.channels != y1.channels or y2.positions != y1.positions or x.channels != y1.channels:
        return False
    if not x.is_spikes or x.static or y1.positions > PATCHES_MAX or width > WIDTH_MAX:
        return False
    for y, terms, (_, product), (_, lif) in zip((y1, y2), (width, y2.positions), step.products, step.lifs, strict=True):
        reach = y.magnitude.value + largest(product.bias)
        # digits are summed from the most significant one on: before the last digit, each term is off by at most 128
        if y.static or y.is_spikes or y.is_wide or (reach + 256) * terms >= INT32:
            return False
        if product.limit > LOIHI.a_max or lif.du != LOIHI.du_no_memory:
            return False
        if (lif.bias != lif.bias[0]).any() or (lif.surplus != lif.surplus[0]).any():
            return False
    return True


def _offsets_fit(images: int, *values: Value) -> bool:
    """Whether 32-bit offsets reach every element of each value at one step of ``images`` images."""
    return all(images * value.positions * value.channels < ELEMENTS for value in values)


def _fits_pool(plan: Plan, step: Step) -> bool:
    """Whether a kernel computes a pool exactly, and fast: one program reads a whole window, which must be small."""
    if not (isinstance(step, OpStep) and isinstance(step.op, MaxPool2d | SumPool2d)):
        return False
    source, made = plan.values[step.inputs[0]], plan.values[step.name]
    elements = plan.samples * plan.timesteps * source.positions * source.channels
    fits = max(source.magnitude.value, made.magnitude.sums) < INT32 and elements < ELEMENTS
    return fits and math.prod(step.op.kernel_size) <= TAPS_MAX


def _narrow_types(plan: Plan) -> dict[str, torch.dtype]:
    """The narrowest types that hold the graded values which only these kernels make and read, by name of the value."""
    steps = [step for segment in plan.segments for step in segment.steps]
    made: set[str] = set()
    read: set[str] = {plan.output}
    for step in steps:
        if isinstance(step, LayerStep):
            made.update(step.writes)
            read.update(step.synapses.inputs)
        elif isinstance(step, NeuronStep) and fits_tail(step, plan.values):
            made.update(step.writes)
        elif isinstance(step, AttentionStep):
            read.add(step.inputs[1])
        elif not _fits_pool(plan, step):
            read.update(step.inputs)
    candidates = {name: plan.values[name] for name in made - read}
    return {
        name: torch.int16 if value.magnitude.value <= INT16_MAX else torch.int32
        for name, value in candidates.items()
        if not value.is_spikes and value.magnitude.value <= INT32_MAX
    }


def _of_each(parameter: npt.NDArray[IntegerT], channels: int) -> npt.NDArray[IntegerT]:
    """A parameter repeated over neighbouring channels to (channels,); (1,), for all channels, stays as it is."""
    return parameter if len(parameter) == 1 else np.repeat(parameter, channels // len(parameter))


def _as_int8(values: torch.Tensor) -> torch.Tensor:
    """Values as int8: spikes without a copy, other values, of magnitude 127 or less, converted."""
    return values.view(torch.int8) if values.dtype is torch.uint8 else values.to(torch.int8)


def _tell(frame: Frame, step: NeuronStep, counts: torch.Tensor, repeats: int) -> None:
    """Add a kernel's counts to the frame; the relay's clips count ``repeats`` times."""
    if step.relay is not None:
        frame.clipped(step.relay[0], counts[0] * repeats if repeats > 1 else counts[0])
    if step.lif is not None:
        frame.clipped(step.lif[0], counts[1])
        if step.lif[1].counts_ties:
            frame.tied(step.lif[0], counts[2])


def _in_turn(works: list[Work], frame: Frame) -> None:
    for work in works:
        work(frame)


def _run_layer(trial: LayerTrial) -> functools.partial[tuple[Outputs, Outputs]]:
    kernel = LayerKernel(trial.synapses, trial.tail, trial.steps, static=trial.static)
    return functools.partial(_try_layer, trial, kernel)


def _try_layer(
    trial: LayerTrial, kernel: LayerKernel, x: torch.Tensor, other: torch.Tensor | None
) -> tuple[Outputs, Outputs]:
    """The outputs of a layer's kernel on a trial's values: with sums and stream as int32, and as it will run."""
    device, kept = trial.synapses.device, trial.kept
    fires = trial.tail.lif is not None
    read = trial.steps if fires else len(x) if other is None else max(len(x), len(other))
    types = (Kept(torch.int32, torch.int32, kept.other), kept)

    def run(types: Kept) -> Outputs:
        sums, stream = (
            None if dtype is None else torch.empty((steps, kernel.rows, kernel.outputs), dtype=dtype, device=device)
            for steps, dtype in ((len(x), types.sums), (read, types.stream))
        )
        spikes = None
        if fires:
            spikes = torch.empty((trial.steps, kernel.rows, kernel.outputs), dtype=torch.int8, device=device)
        made = Outputs(sums, stream, spikes, torch.zeros(COUNTS, dtype=torch.int64, device=device))
        kernel.run(x, other, made, trial.tiles)
        return made

    whole, own = (run(each) for each in types)
    return whole, own


def _run_attention(trial: AttentionTrial) -> functools.partial[tuple[torch.Tensor, torch.Tensor]]:
    kernel = AttentionKernel(trial.size, trial.halves, trial.device)
    return functools.partial(_try_attention, kernel, trial.tiles)


def _try_attention(
    kernel: AttentionKernel, tiles: Tiles, y1: torch.Tensor, x: torch.Tensor, y2: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    spikes = torch.empty_like(x)
    counts = torch.zeros((2, COUNTS), dtype=torch.int64, device=x.device)
    kernel.run(y1, x, y2, spikes, counts, tiles)
    return spikes, counts


def _run_tail(trial: TailTrial) -> functools.partial[tuple[Outputs, Outputs]]:
    return functools.partial(_try_tail, trial, TailKernel(trial.tail, trial.steps, trial.device))


def _try_tail(trial: TailTrial, kernel: TailKernel, *summands: torch.Tensor) -> tuple[Outputs, Outputs]:
    """The outputs of a tail's kernel on a trial's values: with the stream as int32, and as it will run."""
    made = trial.steps, summands[0].shape[1], trial.tail.channels

    def run(stream: torch.dtype | None) -> Outputs:
        outputs = Outputs(
            None,
            None if stream is None else torch.empty(made, dtype=stream, device=trial.device),
            None if trial.tail.lif is None else torch.empty(made, dtype=torch.int8, device=trial.device),
            torch.zeros(COUNTS, dtype=torch.int64, device=trial.device),
        )
        kernel.run(summands[0], summands[1] if len(summands) > 1 else None, outputs)
        return outputs

    return run(torch.int32), run(trial.stream)


def _run_pool(trial: PoolTrial) -> functools.partial[torch.Tensor]:
    return functools.partial(_try_pool, trial)


def _try_pool(trial: PoolTrial, x: torch.Tensor) -> torch.Tensor:
    rows = trial.samples * math.prod(trial.made_size)
    made = torch.empty((len(x), rows, trial.channels), dtype=trial.made, device=trial.device)
    _pool(trial, x, made)
    return made


def _pool(trial: PoolTrial, x: torch.Tensor, made: torch.Tensor) -> None:
    """Launch the kernel of a trial's pool, on any number of images."""
    pool(
        x, made, trial.size, trial.made_size, trial.op.kernel_size, trial.op.stride, trial.first,
        largest=isinstance(trial.op, MaxPool2d),
    )  # fmt: skip


LAYER: Kernel[LayerTrial] = Kernel("fused layer in Triton", INT32, _run_layer)
ATTENTION: Kernel[AttentionTrial] = Kernel("fused attention in Triton", INT32, _run_attention)
TAIL: Kernel[TailTrial] = Kernel("neurons in Triton", INT32, _run_tail)
POOL: Kernel[PoolTrial] = Kernel("pool in Triton", INT32, _run_pool)
