"""Every step in plain torch: for a GPU without fused kernels, and for a CPU where nothing faster is exact.

Integers are kept as float32 where none of a node's sums reaches 2^24, else as float64. A convolution is a matrix
product over gathered taps, in int8 where the taps are spikes. It is never a library's convolution, which may choose an
algorithm (Winograd, FFT) that rounds. Each matrix product is tried before it is used (``products``). Steps do not wait
for the device, except a check for currents that might wrap: counts stay on the device until the tile is done.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from resformer.compiler.backends.sim.frame import Block, Frame, Slab, Work
from resformer.compiler.backends.sim.guarded_kernels import guarded
from resformer.compiler.backends.sim.plan import (
    AttentionStep,
    LayerStep,
    Layout,
    NeuronStep,
    OpStep,
    Plan,
    RelayoutStep,
    Step,
    Value,
    no_kernel,
)
from resformer.compiler.backends.sim.products import Compute, HeadProducts, Kernel, Products, Synapses, exact_below
from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.arrays import require
from resformer.compiler.ir.interval import EXACT_IN_FLOAT32, EXACT_IN_FLOAT64, largest
from resformer.compiler.ir.ops import (
    LIF,
    Conv2d,
    CubaLI,
    CubaLIF,
    Dense,
    Flatten,
    MaxPool2d,
    MultiSpikeIF,
    PromptCubaLIF,
    RecurrentCubaLIF,
    SampleDelay,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
    SumPool2d,
)
from resformer.compiler.ir.ops.counts import attention_sizes
from resformer.compiler.ir.ops.multi_spike import MOST_SPIKES
from resformer.compiler.ir.ops.neurons import PER_NEURON
from resformer.compiler.target import LOIHI

INT8_ROWS_MIN = 17
"""The fewest rows that CUDA's int8 matrix product takes."""
INT8_MULTIPLE = 8
"""CUDA's int8 matrix product takes depths and widths that are multiples of this number."""

ROUNDED: Mapping[fixedpoint.Rounding, Callable[[torch.Tensor], torch.Tensor]] = MappingProxyType(
    {
        fixedpoint.Rounding.DOWN: torch.floor,
        fixedpoint.Rounding.UP: lambda x: torch.floor(x + 0.5),
        fixedpoint.Rounding.EVEN: torch.round,
    }
)
"""For each rounding, the function from a potential, as a multiple of the threshold, to a count of spikes."""

Count: TypeAlias = "int | torch.Tensor"
"""The number of values that were clipped, or that were ties; a tensor may still be on a device."""
Counts: TypeAlias = "tuple[Count, Count]"
"""The number of values that were clipped, and the number of ties, which did not fire."""


class TorchKernels:
    """Binds steps to weights on one device.

    Args:
        plan: The plan of the steps.
        device: Where weights and values are.
        int8: Whether to try the device's int8 matrix products.
        products: Tries kernels and keeps notes; None: a new one.

    Attributes:
        waits: Whether some step that was bound waits for the device.
    """

    def __init__(self, plan: Plan, device: torch.device, *, int8: bool, products: Products | None = None) -> None:
        self.plan = plan
        self.device = device
        self.int8 = int8
        self.products = Products() if products is None else products
        self.waits = False

    def start(self) -> None:
        """Prepare for a tile; nothing to do here."""

    def stored(self, name: str) -> torch.dtype:
        """The type in which a value is kept."""
        return real_dtype(self.plan.values[name])

    def bind(self, step: Step, block: Block) -> Work:
        """The function that runs one step for one block of channels."""
        match step:
            case NeuronStep():
                return self.neurons(step, block)
            case RelayoutStep():
                return functools.partial(self.relayout, step)
            case AttentionStep() | LayerStep():
                raise AssertionError(f"{step.writes[0]}: no plan for torch's operations alone joins steps")
            case OpStep(op=Conv2d() as op):
                return self.conv(step, op, block)
            case OpStep(op=Dense() as op):
                return self.dense(step, op)
            case OpStep(op=SpikeMatMul() as op):
                return self.product(step, op, block)
            case OpStep(op=SpikeAttention() as op):
                return self.attention_of_counts(step, op, block)
            case OpStep(op=CubaLI() as op):
                return self.integrators(step, op, block)
            case OpStep(op=MultiSpikeIF() as op):
                return self.multi_spikes(step, op, block)
            case OpStep(op=SampleDelay() as op):
                return self.sample_delay(step, op, block)
            case OpStep(op=MaxPool2d() as op):
                return functools.partial(self.max_pool, step, op)
            case OpStep(op=SumPool2d() as op):
                return functools.partial(self.sum_pool, step, op)
            case OpStep(op=SpikeGate() as op):
                return functools.partial(self.spike_gate, step, op)
            case OpStep(op=Flatten()):
                return functools.partial(self.flatten, step)
            case OpStep(name=name, op=op):
                raise no_kernel(name, op)

    # --- synapses

    def conv(self, step: OpStep, op: Conv2d, block: Block) -> Work:
        """A convolution, by the fastest kernel that is exact."""
        (source,) = step.inputs
        value = self.plan.values[source]
        synapses = self._synapses(step, op, block)
        compute = guarded(synapses, self.products.bind(synapses, self._synapse_kernels(synapses)))

        def work(frame: Frame) -> None:
            x = frame.read_all(source) if op.groups == 1 else frame.read(source).view
            made = compute(x.reshape(-1, *value.size, x.shape[2]))
            frame.put(step.name, made.view(len(x), -1, made.shape[1]))

        return work

    def dense(self, step: OpStep, op: Dense) -> Work:
        """A dense layer: synapses from every input to every output."""
        (source,) = step.inputs
        value = self.plan.values[source]
        weight_exp = np.full(len(op.weight), op.weight_exp, np.int8)
        synapses = self._synapses_of(
            step.name, source, op.weight[:, :, None, None], weight_exp, op.bias, images=self._images(value)
        )
        compute = guarded(synapses, self.products.bind(synapses, self._float_matrix_kernels(synapses)))

        def work(frame: Frame) -> None:
            x = frame.read_all(source)
            made = compute(x.reshape(-1, 1, 1, x.shape[2]))
            frame.put(step.name, made.view(len(x), -1, made.shape[1]))

        return work

    def _synapses(self, step: OpStep, op: Conv2d, block: Block) -> Synapses:
        """A block's share of a convolution."""
        (source,) = step.inputs
        value = self.plan.values[source]
        rows, groups = output_share(op, block)
        weights = op.weight[rows], op.weight_exp[rows], op.bias[rows]
        synapses = self._synapses_of(step.name, source, *weights, images=self._images(value), size=value.size)
        return replace(synapses, stride=op.stride, padding=op.padding, dilation=op.dilation, groups=groups)

    def _synapses_of(
        self,
        name: str,
        source: str,
        weight: npt.NDArray[np.signedinteger[Any]],
        weight_exp: npt.NDArray[np.int8],
        bias: npt.NDArray[np.int32],
        *,
        images: int,
        size: tuple[int, int] = (1, 1),
    ) -> Synapses:
        """Synapses from one value to another, with stride 1, no padding, no dilation, and one group."""
        value, made = self.plan.values[source], self.plan.values[name]
        return Synapses(
            name=name,
            weight=weight,
            weight_exp=weight_exp,
            bias=bias,
            stride=(1, 1),
            padding=(0, 0),
            dilation=(1, 1),
            groups=1,
            images=images,
            size=size,
            dtype=real_dtype(value),
            reach=value.magnitude.value,
            sum_dtype=sum_dtype(made),
            out_dtype=real_dtype(made),
            device=self.device,
        )

    def _images(self, value: Value) -> int:
        """The number of images in a value: steps times samples."""
        return self.plan.samples * (1 if value.static else self.plan.timesteps)

    def _synapse_kernels(self, synapses: Synapses) -> list[Kernel[Synapses]]:
        """The kernels that may compute a convolution, the fastest first."""
        whole_units = synapses.depth % INT8_MULTIPLE == len(synapses.weight) // synapses.groups % INT8_MULTIPLE == 0
        in_int8 = self.int8 and synapses.dtype is torch.uint8 and synapses.weight.dtype == np.int8 and whole_units
        return [INT8_MATRIX] * in_int8 + self._float_matrix_kernels(synapses)

    def _float_matrix_kernels(self, synapses: Synapses) -> list[Kernel[Synapses]]:
        """The matrix products of gathered taps whose numbers hold all sums, the fastest first."""
        return [kernel for kernel in MATRIX if kernel.limit >= exact_below(synapses.sum_dtype) and self._has(kernel)]

    def _has(self, kernel: Kernel[Any]) -> bool:
        """Whether the device has a kernel at all: CUDA does not multiply matrices of int64."""
        return kernel.name != INT64 or self.device.type == "cpu"

    def product(self, step: OpStep, op: SpikeMatMul, block: Block) -> Work:
        """One of DSSA's products, by a matrix product for each head."""
        y_name, gate_name = step.inputs
        y_value, gate_value = self.plan.values[y_name], self.plan.values[gate_name]
        heads = op.num_heads // block.count
        first, width = block.of(y_value.channels)
        # the result is clipped, but its sums are not
        terms = width // heads if op.transpose else y_value.positions
        bound = y_value.magnitude.value + largest(op.bias)
        reach = bound * terms
        dtype = torch.float32 if reach < EXACT_IN_FLOAT32 else torch.float64
        require(reach < EXACT_IN_FLOAT64, f"{step.name}: sums may reach {reach}, beyond what float64 holds exactly")
        offset = self._constant(op.bias[first : first + width], dtype)
        out_dtype = real_dtype(self.plan.values[step.name])
        samples = self.plan.samples
        y_shape, gate_shape = (
            (1 if value.static else self.plan.timesteps, samples, value.positions, heads, each)
            for value, each in ((y_value, width // heads), (gate_value, terms))
        )
        products = HeadProducts(step.name, gate_shape, y_shape, op.transpose, bound, dtype, self.device)
        kernels = [each for each in HEAD_PRODUCTS if each.limit >= exact_below(dtype) and self._has(each)]
        compute = self.products.bind(products, kernels)

        def work(frame: Frame) -> None:
            y = (frame.read(y_name).view.to(dtype) + offset).reshape(y_shape)
            made = compute(frame.read(gate_name).view.reshape(gate_shape), y)
            result = made.to(dtype).reshape(len(made), samples * gate_value.positions, -1)
            frame.clipped(step.name, self._saturate(result, op.limit))
            frame.put(step.name, result.to(out_dtype))

        return work

    def attention_of_counts(self, step: OpStep, op: SpikeAttention, block: Block) -> Work:
        """Both products of an attention of spikes, in the cheaper order, each by a matrix product for each head."""
        shapes = [self.plan.values[name].shape for name in step.inputs]
        sizes = attention_sizes(shapes, op.num_heads)
        heads, samples = op.num_heads // block.count, self.plan.samples
        q_most, k_most, v_most = (self.plan.values[name].magnitude.value for name in step.inputs)
        most = sizes.most * q_most * k_most * v_most
        dtype = torch.float32 if most < EXACT_IN_FLOAT32 else torch.float64
        require(most < EXACT_IN_FLOAT64, f"{step.name}: counts may reach {most}, beyond float64's")
        require(max(q_most, k_most, v_most) <= MOST_SPIKES, f"{step.name}: reads counts beyond {MOST_SPIKES}")
        q_steps, k_steps, v_steps = (
            1 if self.plan.values[name].static else self.plan.timesteps for name in step.inputs
        )
        kernels = [each for each in HEAD_PRODUCTS if each.limit >= exact_below(dtype) and self._has(each)]
        queries, keys, depth, width = sizes

        def bind(
            name: str, gates: tuple[int, int, int], y: tuple[int, int, int], gate_reach: int, reach: int
        ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
            """Bind a product of gates, which are spikes, with y; shapes are (steps, rows, columns of a head)."""
            gate_shape, y_shape = ((each[0], samples, each[1], heads, each[2]) for each in (gates, y))
            transpose = sizes.scores_first
            product = HeadProducts(name, gate_shape, y_shape, transpose, reach, dtype, self.device, gate_reach)
            compute = self.products.bind(product, kernels)

            def multiply(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
                # contiguous, as in the trial
                return compute(left.contiguous(), right.to(dtype).contiguous())

            return multiply

        name, reach = f"{step.name}.first", sizes.first_product(q_most, k_most, v_most)
        if sizes.scores_first:
            steps = max(q_steps, k_steps)
            first = bind(name, (q_steps, queries, depth), (k_steps, keys, depth), q_most, k_most)
            second = bind(step.name, (v_steps, width, keys), (steps, queries, keys), v_most, reach)
        else:
            steps = max(k_steps, v_steps)
            first = bind(name, (k_steps, depth, keys), (v_steps, keys, width), k_most, v_most)
            second = bind(step.name, (q_steps, queries, depth), (steps, depth, width), q_most, reach)
        out_dtype, unit = real_dtype(self.plan.values[step.name]), float(1 << op.weight_exp)

        def work(frame: Frame) -> None:
            q, k, v = (
                # converted to bytes, since maxima and counts of spikes are kept as floats
                frame.read(name).view.to(torch.uint8).reshape(each, samples, tokens, heads, -1)
                for name, each, tokens in zip(
                    step.inputs, (q_steps, k_steps, v_steps), (queries, keys, keys), strict=True
                )
            )
            if sizes.scores_first:
                scores = first(q, k)
                # (..., width, heads, queries) to (..., queries, heads, width)
                made = second(v.transpose(2, 4), scores).transpose(2, 4)
            else:
                made = second(q, first(k.transpose(2, 4), v))
            result = made.to(dtype).reshape(len(made), samples * queries, -1) * unit
            frame.clipped(step.name, self._saturate(result, op.limit))
            frame.put(step.name, result.to(out_dtype))

        return work

    # --- neurons

    def neurons(self, step: NeuronStep, block: Block) -> Work:
        """A sum, a relay and neurons, over all steps."""
        inputs = [self.plan.values[name] for name in step.inputs]
        reach = sum(value.magnitude.value for value in inputs)
        relay = step.relay[1] if step.relay else None
        if relay is not None:
            reach += largest(relay.bias) + (1 << relay.shift >> 1)
        dtype = torch.float32 if reach < EXACT_IN_FLOAT32 else torch.float64
        bias = self._constant(channel_share(relay.bias, inputs[0], block), dtype) if relay else 0
        fire = self._fire(step, inputs[0], block) if step.lif else None

        def work(frame: Frame) -> None:
            x = frame.read(step.inputs[0]).view.to(dtype)
            for name in step.inputs[1:]:
                x = x + frame.read(name).view
            if relay is not None and step.relay is not None:
                x = x + bias
                if relay.shift:
                    x = torch.floor((x + (1 << relay.shift >> 1)) * 2.0**-relay.shift)
                frame.clipped(step.relay[0], self._saturate(x, relay.limit))
            if step.stream is not None:
                stream = frame.write(step.stream, self.stored(step.stream))
                stream.view.copy_(x)
            if fire is not None and step.lif is not None:
                spikes = frame.write(step.lif[0], torch.uint8)
                clipped, ties = fire(x, spikes)
                frame.clipped(step.lif[0], clipped)
                if step.lif[1].counts_ties:
                    frame.tied(step.lif[0], ties)

        return work

    def _fire(self, step: NeuronStep, value: Value, block: Block) -> Callable[[torch.Tensor, Slab], Counts]:
        """A function from input, (T or 1, rows, C), to spikes; it returns the counts of clipped values and of ties."""
        assert step.lif is not None
        name, neurons = step.lif
        return (
            self._cuba_lif(name, neurons, value, block)
            if isinstance(neurons, CubaLIF)
            else self._lif(name, neurons, step.reach, value, block)
        )

    def _cuba_lif(
        self, name: str, neurons: CubaLIF, value: Value, block: Block
    ) -> Callable[[torch.Tensor, Slab], Counts]:
        """Neurons whose current decays over time, in float64: no number that they compute takes more than 43 bits."""
        own = {
            each: self._constant(neuron_share(getattr(neurons, each), value, block), torch.float64)
            for each in PER_NEURON
        }
        keep_u, keep_v = ((LOIHI.decay_unity - decay) / LOIHI.decay_unity for decay in (own["du"] + 1, own["dv"]))
        unit, limit = 1 << LOIHI.a_shift, LOIHI.v_max
        threshold, u_bias, v_bias = own["vth"] * unit, own["u_bias"], own["v_bias"]
        after_spike = own["v_drop"] if neurons.soft_reset else None
        prompt = isinstance(neurons, PromptCubaLIF)
        feed_back = self._feedback(name, neurons.synapses(), value) if isinstance(neurons, RecurrentCubaLIF) else None

        tie = None
        if neurons.counts_ties:
            tie = self._constant(neuron_share(neurons.tie_potentials(neurons.vth.ndim), value, block), torch.float64)

        def fire(x: torch.Tensor, spikes: Slab) -> Counts:
            # (rows, C) as (N, positions, C), against which the parameters broadcast
            by_position = x.to(torch.float64).reshape(len(x), self.plan.samples, value.positions, -1)
            u = v = torch.zeros_like(by_position[0])
            clipped: Count = 0
            ties: Count = 0
            for t in range(self.plan.timesteps):
                now = by_position[t if len(x) > 1 else 0]
                if feed_back is not None and t:
                    now = now + feed_back(spikes.view[t - 1]).reshape(now.shape)
                arriving = torch.trunc(u * keep_u) + now * unit + u_bias
                u = arriving.clamp(-limit, limit)
                free = torch.trunc(v * keep_v) + u + v_bias
                fires_at = threshold + own["v_drop"] * (v > threshold) if prompt else threshold
                v = free.clamp(-limit, limit)
                fired = v > fires_at
                if tie is not None:
                    ties = ties + torch.count_nonzero(v == tie)
                lost = free < -limit if after_spike is None else free != v
                clipped = clipped + torch.count_nonzero(arriving != u) + torch.count_nonzero(lost)
                spikes.view[t] = fired.reshape(x.shape[1:])
                v = v.masked_fill(fired, 0) if after_spike is None else v - after_spike * fired
            return clipped, ties

        return fire

    def integrators(self, step: OpStep, op: CubaLI, block: Block) -> Work:
        """Neurons that send their potential, in float64, which holds all that they compute."""
        value = self.plan.values[step.inputs[0]]
        du, dv, u_bias = (
            self._constant(neuron_share(each, value, block), torch.float64) for each in (op.du, op.dv, op.u_bias)
        )
        keep_u, keep_v = ((LOIHI.decay_unity - decay) / LOIHI.decay_unity for decay in (du + 1, dv))
        unit, limit = 1 << LOIHI.a_shift, LOIHI.v_max

        def work(frame: Frame) -> None:
            x = frame.read(step.inputs[0]).view
            by_position = x.to(torch.float64).reshape(len(x), self.plan.samples, value.positions, -1)
            made = frame.write(step.name, real_dtype(self.plan.values[step.name]))
            u = v = torch.zeros_like(by_position[0])
            clipped: Count = 0
            for t in range(self.plan.timesteps):
                arriving = torch.trunc(u * keep_u) + by_position[t if len(x) > 1 else 0] * unit + u_bias
                u = arriving.clamp(-limit, limit)
                free = torch.trunc(v * keep_v) + u
                v = free.clamp(-limit, limit)
                clipped = clipped + torch.count_nonzero(arriving != u) + torch.count_nonzero(free != v)
                made.view[t] = v.reshape(x.shape[1:])
            frame.clipped(step.name, clipped)

        return work

    def multi_spikes(self, step: OpStep, op: MultiSpikeIF, block: Block) -> Work:
        """Neurons that send counts of spikes, in float64, which holds all that they compute.

        A quotient of whole numbers below 2^25 is rounded down, or to the nearest whole number, as the exact fraction
        would be: float64 holds whole numbers and halves exactly, and every other such quotient is farther from these
        than float64's error.
        """
        value = self.plan.values[step.inputs[0]]
        vth, floor, bias = (
            self._constant(neuron_share(each, value, block), torch.float64) for each in (op.vth, op.floor, op.bias)
        )
        unit, limit = 1 << LOIHI.a_shift, LOIHI.v_max
        threshold = vth * unit
        own = op.parameters()
        keep, rounded = (LOIHI.decay_unity - own.dv) / LOIHI.decay_unity, ROUNDED[own.rounding]

        def work(frame: Frame) -> None:
            x = frame.read(step.inputs[0]).view
            by_position = x.to(torch.float64).reshape(len(x), self.plan.samples, value.positions, -1)
            made = frame.write(step.name, real_dtype(self.plan.values[step.name]))
            v = torch.zeros_like(by_position[0])
            clipped: Count = 0
            for t in range(self.plan.timesteps):
                free = torch.trunc(v * keep) + by_position[t if len(x) > 1 else 0] * unit + bias
                v = free.clamp(-limit, limit)
                counts = rounded(v / threshold).clamp(0, op.max_spikes)
                clipped = clipped + torch.count_nonzero(free != v)
                v = torch.maximum(v - counts * threshold, floor)
                made.view[t] = counts.reshape(x.shape[1:])
            frame.clipped(step.name, clipped)

        return work

    def _feedback(self, name: str, synapses: Conv2d, value: Value) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function from spikes, (N * positions, channels), to what they add to the next step's input, in float64."""
        require(value.layout is Layout.MAP, f"{name}: recurrent neurons are (C, H, W)")
        product = Synapses(
            name=name,
            weight=synapses.weight,
            weight_exp=synapses.weight_exp,
            bias=synapses.bias,
            stride=synapses.stride,
            padding=synapses.padding,
            dilation=synapses.dilation,
            groups=synapses.groups,
            images=self.plan.samples,
            size=value.size,
            dtype=torch.uint8,
            reach=1,
            sum_dtype=torch.float64,
            out_dtype=torch.float64,
            device=self.device,
        )
        compute = guarded(product, self.products.bind(product, self._float_matrix_kernels(product)))

        def feed_back(spikes: torch.Tensor) -> torch.Tensor:
            return compute(spikes.reshape(-1, *value.size, spikes.shape[-1]))

        return feed_back

    def _lif(
        self, name: str, lif: LIF, reach: int, value: Value, block: Block
    ) -> Callable[[torch.Tensor, Slab], Counts]:
        """Loihi's LIF neurons with input of at most ``reach``; counts potentials clipped from below, and ties."""
        dtype = torch.float32 if halves_exactly(lif) and reach <= LOIHI.a_max else torch.float64
        keep_v = (LOIHI.decay_unity - lif.dv) / LOIHI.decay_unity
        keep_u = (LOIHI.decay_unity - 1 - lif.du) / LOIHI.decay_unity
        bias = self._constant(channel_share(fixedpoint.scale_bias(lif.bias_mant, lif.bias_exp), value, block), dtype)
        checked = reach > LOIHI.a_max or keep_u > 0
        self.waits |= checked
        unit, floor = 1 << LOIHI.a_shift, -LOIHI.v_max

        tie = None
        if lif.counts_ties:
            tie = self._constant(channel_share(lif.tie_potentials(1), value, block), dtype)

        def fire(x: torch.Tensor, spikes: Slab) -> Counts:
            u = v = torch.zeros((), dtype=dtype, device=self.device)
            clipped: Count = 0
            ties: Count = 0
            for t in range(self.plan.timesteps):
                u = torch.trunc(u * keep_u) + x[t if len(x) > 1 else 0].to(dtype) * unit
                if checked:
                    require(float(u.abs().max()) <= LOIHI.a_max * unit, f"{name}: a current would wrap")
                free = torch.trunc(v * keep_v) + u + bias
                clipped = clipped + torch.count_nonzero(free < floor)
                fired = free > lif.vth * unit
                if tie is not None:
                    ties = ties + torch.count_nonzero(free == tie)
                spikes.view[t] = fired
                v = free.clamp_(min=floor).masked_fill_(fired, 0)
            return clipped, ties

        return fire

    def _saturate(self, x: torch.Tensor, limit: int) -> Count:
        """Clip x to [-limit, limit] in place, and count the clipped values; a static x counts for all T steps."""
        clipped = torch.count_nonzero(x.abs() > limit)
        x.clamp_(-limit, limit)
        return clipped * (self.plan.timesteps // len(x))

    # --- pools, shapes and time

    def sample_delay(self, step: OpStep, op: SampleDelay, block: Block) -> Work:
        """Delay values, each neuron's by a number of steps of its own."""
        value = self.plan.values[step.inputs[0]]
        # (positions or 1, width); a delay of T steps or more: the value never arrives
        steps = self._constant(np.minimum(neuron_share(op.steps, value, block), self.plan.timesteps), torch.int64)

        def work(frame: Frame) -> None:
            x = frame.read(step.inputs[0]).view
            made = frame.write(step.name, real_dtype(self.plan.values[step.name]))
            by_position = (self.plan.samples, value.positions, -1)
            for t in range(self.plan.timesteps):
                arrived = torch.zeros_like(x[0]).reshape(by_position)
                for late in range(t + 1):
                    sent = x[t - late if len(x) > 1 else 0].reshape(by_position)
                    arrived = torch.where(steps == late, sent, arrived)
                made.view[t] = arrived.reshape(x.shape[1:])

        return work

    def max_pool(self, step: OpStep, op: MaxPool2d, frame: Frame) -> None:
        """Maxima over windows."""
        image = self._image(frame, step.inputs[0]).to(real_dtype(self.plan.values[step.name]))
        top, bottom, left, right = op.around
        padded = F.pad(image, (left, right, top, bottom), value=-torch.inf)
        self._put_image(frame, step, F.max_pool2d(padded, op.kernel_size, op.stride))

    def sum_pool(self, step: OpStep, op: SumPool2d, frame: Frame) -> None:
        """Sums over windows."""
        made = self.plan.values[step.name]
        image = self._image(frame, step.inputs[0]).to(sum_dtype(made))
        windows = image.unfold(2, op.kernel_size[0], op.stride[0]).unfold(3, op.kernel_size[1], op.stride[1])
        self._put_image(frame, step, windows.sum(dim=(-2, -1)).to(real_dtype(made)))

    def spike_gate(self, step: OpStep, op: SpikeGate, frame: Frame) -> None:
        """Spikes where the weighted sum of the inputs exceeds the threshold."""
        total: Any = 0
        width = max(frame.read(name).width for name in step.inputs)
        for weight, name in zip(op.weight.tolist(), step.inputs, strict=True):
            spikes = frame.read(name).view.to(torch.int16)
            by_position = spikes.reshape(len(spikes), self.plan.samples, *self.plan.values[name].size, -1)
            total = total + weight * by_position.repeat_interleave(width // spikes.shape[2], dim=4)
        # No sum of spikes exceeds the number of inputs. Torch would wrap a threshold that 16 bits do not hold.
        threshold = min(op.vth, len(step.inputs))
        frame.put(step.name, (total > threshold).to(torch.uint8).reshape(len(total), -1, width))

    def flatten(self, step: OpStep, frame: Frame) -> None:
        """Flatten (C, H, W) to (C * H * W,), in this order."""
        (source,) = step.inputs
        natural = natural_order(frame.read_all(source), self.plan.values[source], self.plan.samples)
        frame.put(step.name, natural.reshape(natural.shape[0], self.plan.samples, -1))

    def relayout(self, step: RelayoutStep, frame: Frame) -> None:
        """Change a value from one layout to the other."""
        (source,) = step.inputs
        value = self.plan.values[source]
        natural = natural_order(frame.read_all(source), value, self.plan.samples)
        heads, n, _ = value.shape
        steps, samples = natural.shape[:2]
        if self.plan.values[step.name].layout is Layout.MAP:
            moved = natural.reshape(steps, samples, heads, -1).transpose(2, 3)
        else:
            moved = natural.reshape(steps, samples, heads * n, -1).transpose(2, 3)
        frame.put(step.name, moved.reshape(steps, -1, moved.shape[-1]).contiguous())

    def _image(self, frame: Frame, name: str) -> torch.Tensor:
        """The block's channels of a map as images, (T * N, C, H, W)."""
        view = frame.read(name).view
        return view.reshape(-1, *self.plan.values[name].size, view.shape[2]).permute(0, 3, 1, 2)

    def _put_image(self, frame: Frame, step: OpStep, image: torch.Tensor) -> None:
        steps = 1 if self.plan.values[step.name].static else self.plan.timesteps
        frame.put(step.name, image.permute(0, 2, 3, 1).reshape(steps, -1, image.shape[1]))

    def _constant(self, values: npt.NDArray[np.integer], dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float64)).to(self.device, dtype)


def real_dtype(value: Value) -> torch.dtype:
    """The type in which a value is kept."""
    if value.is_spikes:
        return torch.uint8
    return torch.float64 if value.is_wide else torch.float32


def sum_dtype(value: Value) -> torch.dtype:
    """The type in which all partial sums that make a value are exact.

    Raises:
        InvariantError: Not even float64 is exact.
    """
    reach = value.magnitude.sums
    require(reach < EXACT_IN_FLOAT64, f"sums may reach {reach}, beyond what float64 holds exactly")
    return torch.float64 if value.sums_are_wide else torch.float32


def halves_exactly(lif: LIF) -> bool:
    """Whether float32 holds all that neurons compute: v decays by a power of two, and the current has no memory.

    All numbers are integers in units of 1/64 of the input: 64 a < 2^23, the bias is at most 4095 * 2^7, and the decayed
    potential is at most 2^22. Their sum stays below 2^24. A potential that does not decay would be at most 2^23, and
    the sum could exceed 2^24, so such neurons are excluded.
    """
    kept = LOIHI.decay_unity - lif.dv
    return lif.du == LOIHI.du_no_memory and kept & (kept - 1) == 0 and kept < LOIHI.decay_unity


def channel_share(values: npt.NDArray[np.integer], value: Value, block: Block) -> npt.NDArray[np.integer]:
    """Values (C,), or (1,) for all channels, as one value for each channel of a block."""
    each = np.broadcast_to(values, value.shape[0])
    each = np.repeat(each, value.channels // value.shape[0])
    first, width = block.of(value.channels)
    return each[first : first + width]


def neuron_share(values: npt.NDArray[np.integer], value: Value, block: Block) -> npt.NDArray[np.integer]:
    """A parameter whose shape broadcasts to the neurons', as (positions or 1, channels of a block)."""
    held = values.reshape(values.shape + (1,) * (3 - values.ndim))
    # the axes that are channels in the layout are always expanded; positions only if the parameter differs along them
    axes = 2 if value.layout is Layout.ATTENTION else 1
    positions = value.shape[axes:] if held.size > math.prod(held.shape[:axes]) else (1,) * (3 - axes)
    each = np.broadcast_to(held, (*value.shape[:axes], *positions)).reshape(value.channels, -1)
    first, width = block.of(value.channels)
    return np.ascontiguousarray(each[first : first + width].T)


def natural_order(data: torch.Tensor, value: Value, samples: int) -> torch.Tensor:
    """(T or 1, N * positions, channels) as (T or 1, N, channels, positions): the order of the node's shape."""
    split = data.reshape(data.shape[0], samples, value.positions, -1)
    return split.transpose(2, 3)


def output_share(op: Conv2d, block: Block) -> tuple[slice, int]:
    """The outputs that a block makes, and the number of their groups."""
    first, width = block.of(len(op.weight))
    return slice(first, first + width), max(op.groups // block.count, 1)


def matrix_product(synapses: Synapses, dtype: torch.dtype) -> Compute:
    """A convolution as a matrix product of gathered taps for each group."""
    whole = synapses.weight
    if dtype is not torch.int8:
        whole = fixedpoint.scale_weight(synapses.weight, synapses.weight_exp)
    # (outputs, inputs, K_h, K_w) to one row for each output, in the order of gathered taps
    by_row = torch.from_numpy(np.ascontiguousarray(whole)).permute(0, 2, 3, 1).reshape(-1, synapses.depth)
    matrices = [each.T for each in by_row.to(synapses.device, dtype).chunk(synapses.groups)]

    def constant(values: npt.NDArray[np.signedinteger[Any]]) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float64)).to(synapses.device, synapses.sum_dtype)

    scale = constant(np.left_shift(1, synapses.weight_exp.astype(np.int64))) if dtype is torch.int8 else None
    bias = constant(synapses.bias) if synapses.bias.any() else None
    multiply = int8_product if dtype is torch.int8 else torch.matmul

    def compute(image: torch.Tensor) -> torch.Tensor:
        parts = [
            multiply(gather(part, synapses).to(dtype), matrix)
            for part, matrix in zip(image.chunk(synapses.groups, dim=3), matrices, strict=True)
        ]
        result = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).to(synapses.sum_dtype)
        if scale is not None:
            result *= scale
        if bias is not None:
            result += bias
        return result.to(synapses.out_dtype)

    return compute


def head_products(products: HeadProducts, dtype: torch.dtype) -> Compute:
    """A matrix product for each head."""

    def compute(gates: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        # (steps, samples, heads, positions, channels of a head)
        left, right = (each.to(dtype).transpose(2, 3) for each in (gates, y))
        result: torch.Tensor = torch.matmul(left, right.transpose(-1, -2) if products.transpose else right)
        return result.transpose(2, 3)

    return compute


INT64 = "int64 matrix product"
"""The name of the kernel in torch's plain loops over int64, exact by construction; only CPUs have it."""
INT8_MATRIX: Kernel[Synapses] = Kernel(
    "matrix product in int8", EXACT_IN_FLOAT32, functools.partial(matrix_product, dtype=torch.int8)
)
FLOATS = (
    ("matrix product in float32", EXACT_IN_FLOAT32, torch.float32),
    ("matrix product in float64", EXACT_IN_FLOAT64, torch.float64),
    (INT64, EXACT_IN_FLOAT64, torch.int64),
)
MATRIX: tuple[Kernel[Synapses], ...] = tuple(
    Kernel(name, limit, functools.partial(matrix_product, dtype=dtype)) for name, limit, dtype in FLOATS
)
HEAD_PRODUCTS: tuple[Kernel[HeadProducts], ...] = tuple(
    Kernel(name, limit, functools.partial(head_products, dtype=dtype)) for name, limit, dtype in FLOATS
)


def int8_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The product of two int8 matrices, in int32."""
    short = INT8_ROWS_MIN - len(left)
    product: torch.Tensor = torch._int_mm(F.pad(left, (0, 0, 0, short)) if short > 0 else left, right)
    return product[: len(left)]


def gather(image: torch.Tensor, op: Conv2d | Synapses) -> torch.Tensor:
    """The taps of each position as a row, (M * R * S, K_h * K_w * C), from an image (M, H, W, C)."""
    window, (rows, columns) = op.window, op.padding
    made = window.targets(tuple(image.shape[1:3]))
    padded = F.pad(image, (0, 0, columns, columns, rows, rows)) if rows or columns else image
    count, _, _, channels = padded.shape
    per_sample, per_row, per_column, per_channel = padded.stride()
    windows = padded.as_strided(
        (count, *made, *window.kernel, channels),
        (
            per_sample,
            per_row * op.stride[0],
            per_column * op.stride[1],
            per_row * op.dilation[0],
            per_column * op.dilation[1],
            per_channel,
        ),
    )
    # contiguous, so that the product's matrix has the strides of the trial's, even if the image is a view
    return windows.reshape(count * made[0] * made[1], -1).contiguous()
