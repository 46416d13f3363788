"""What a CPU does better than ``torch_kernels``: int8 matrix products and fused loops.

- Spikes are bytes of 0 and 1, weights 8-bit mantissas: oneDNN's int8 convolution sums them in int32 and scales by the
  channel's power of two in float32, exact while the sums stay below 2^24.
- DSSA's products: y is split into digits to the base 256, each an int8 matrix product with the spikes; the digits' sums
  are put together in int32 in the neurons' loop. How many digits a tile needs, its largest |y| says.
- Sums, relays and neurons: ``loops``.

Each of these is used where the bounds prove it exact and a trial shows that it is (``products``); elsewhere
``torch_kernels`` computes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.backends.sim.frame import Block, Frame, Slab, Work
from resformer.compiler.backends.sim.plan import AttentionStep, NeuronStep, Plan, Step, Value
from resformer.compiler.backends.sim.products import Compute, Int8Product, Kernel, Products, Synapses
from resformer.compiler.backends.sim.torch_kernels import (
    INT8_MATRIX,
    INT64,
    TorchKernels,
    channel_share,
    halves_exactly,
)
from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.interval import EXACT_IN_FLOAT32, INT32_MAX, largest
from resformer.compiler.ir.ops import LIF
from resformer.compiler.target import LOIHI

HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]

PATCH_MAX = 3
"""Up to this edge oneDNN convolves patches faster than a matrix product does, and rightly on all machines tried."""
ATTENTION_ROWS = 448
"""Positions whose attention is computed at a time, for all steps: their sums stay in a core's L2."""


class CpuKernels(TorchKernels):
    """Binds steps to the fastest exact kernel of this machine."""

    def __init__(self, plan: Plan, products: Products | None = None) -> None:
        super().__init__(plan, torch.device("cpu"), int8=int8_is_exact(), products=products)
        if int8_verdict() is False:
            self.products.note(
                "this machine's int8 instructions do not sum in 32 bits; all products are of floats, and slower"
            )

    def bind(self, step: Step, block: Block) -> Work:
        """What runs one step for one block of channels."""
        return self.attention(step, block) if isinstance(step, AttentionStep) else super().bind(step, block)

    def _synapse_kernels(self, synapses: Synapses) -> list[Kernel[Synapses]]:
        """oneDNN's convolutions before matrix products, but for patches larger than its kernels are made for."""
        matrices = super()._synapse_kernels(synapses)
        if synapses.sum_dtype is not torch.float32 or not HAS_ONEDNN:
            return matrices
        in_int8 = self.int8 and synapses.dtype is torch.uint8 and synapses.weight.dtype == np.int8
        convs = [INT8_CONV, FLOAT_CONV] if in_int8 else [FLOAT_CONV]
        if INT8_MATRIX in matrices:
            matrices.remove(INT8_MATRIX)
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
            a = frame.read(step.inputs[0])
            b = frame.read(step.inputs[1]) if len(inputs) > 1 else None
            stream = frame.write(step.stream, torch.float32) if step.stream is not None else None
            spikes = frame.write(step.lif[0], torch.uint8) if step.lif is not None else None
            saturated, floored, ties = loops.neurons(
                *_channels(a), *_channels(b), bias, limit, *_channels(stream), fire, tie,
                *((nothing, 0) if spikes is None else _channels(spikes)), width, steps,
            )  # fmt: skip
            if step.relay is not None:
                frame.clipped(step.relay[0], saturated * repeats)
            if step.lif is not None:
                frame.clipped(step.lif[0], floored)
                if tie is not None:
                    frame.tied(step.lif[0], ties)

        return work

    def _fits_loop(self, step: NeuronStep) -> bool:
        """Whether the compiled loop computes a step, and exactly."""
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
        """Both products and their neurons, a few positions at a time."""
        loops = compiled_loops()
        assert loops is not None
        plan, f32 = self.plan, np.float32
        y1_name, x_name, y2_name = step.inputs
        y_value, x_value = plan.values[y1_name], plan.values[x_name]
        (product1, op1), (product2, op2) = step.products
        (attn_name, attn), (out_name, out) = step.lifs
        heads = op1.num_heads // block.count
        width = y_value.channels // op1.num_heads
        first, all_channels = block.of(y_value.channels)
        bias1, bias2 = (op.bias[first : first + all_channels].astype(f32) for op in (op1, op2))
        patches, positions = y_value.positions, x_value.positions
        constants1, constants2 = (
            (
                np.int32(op.limit),
                f32(lif.bias[0]),
                *_constants(lif),
                f32(lif.tie_potentials(1)[0]) if lif.counts_ties else None,
            )
            for op, lif in ((op1, attn), (op2, out))
        )
        steps = plan.timesteps
        rows = max(size for size in range(1, ATTENTION_ROWS + 1) if positions % size == 0)
        known: dict[tuple[object, ...], Compute] = {}

        def bound(name: str, left: torch.Tensor, right: torch.Tensor) -> Compute:
            """A kernel for matrices like these, whose width depends on the tile's largest y and is not known before."""
            product = Int8Product.of(name, left, right)
            key = (name, *product.key)
            if key not in known:
                known[key] = self.products.bind(product, INT8_PRODUCTS)
            return known[key]

        def work(frame: Frame) -> None:
            y1, x, y2 = frame.read(y1_name), frame.read(x_name), frame.read(y2_name)
            spikes, spikes_first = _channels(frame.write(out_name, torch.uint8))
            digits1 = digits_for(loops.largest(*_channels(y1), bias1))
            digits2 = digits_for(loops.largest(*_channels(y2), bias2))
            split1 = frame.scratch((steps, digits1 * patches, width), torch.int8)
            split2 = frame.scratch((steps, patches, digits2 * width), torch.int8)
            sums1 = frame.scratch((steps, rows, digits1 * patches), torch.int32)
            sums2 = frame.scratch((steps, rows, digits2 * width), torch.int32)
            attention = frame.scratch((steps, rows, patches), torch.int8)
            # (T, N * parts * rows, heads * width) to (N, heads, parts, T, rows, width); x may be some of the channels
            gates = x.data.view(torch.int8).view(steps, plan.samples, -1, rows, x.data.shape[2] // width, width)
            gates = gates[..., x.first // width : x.first // width + heads, :].permute(1, 4, 2, 0, 3, 5)
            products1 = [split1.transpose(1, 2).unbind(), sums1.unbind()]
            products2 = [attention.unbind(), split2.unbind(), sums2.unbind()]
            multiply1 = bound(product1, gates[0, 0, 0, 0], split1[0].T)
            multiply2 = bound(product2, attention[0], split2[0])
            counts = np.zeros(6, np.int64)
            for sample, head in np.ndindex(plan.samples, heads):
                channel = head * width
                for y, bias, digits, by_row, split in (
                    (y1, bias1, digits1, True, split1),
                    (y2, bias2, digits2, False, split2),
                ):
                    loops.split_digits(
                        y.data.numpy(), sample * patches, y.first + channel, bias[channel : channel + width],
                        digits, by_row, split.numpy(),
                    )  # fmt: skip
                for part, gate in enumerate(gates[sample, head].unbind()):
                    for per_step in zip(gate.unbind(), *products1, strict=True):
                        multiply1(*per_step)
                    first_counts = loops.product_neurons(sums1.numpy(), digits1, *constants1, attention.numpy(), 0, 0)
                    for per_step in zip(*products2, strict=True):
                        multiply2(*per_step)
                    row0 = sample * positions + part * rows
                    counts += first_counts + loops.product_neurons(
                        sums2.numpy(), digits2, *constants2, spikes, row0, spikes_first + channel
                    )
            clipped1, floored1, ties1, clipped2, floored2, ties2 = counts.tolist()
            for name, count in (
                (product1, clipped1),
                (attn_name, floored1),
                (product2, clipped2),
                (out_name, floored2),
            ):
                frame.clipped(name, count)
            for name, lif, count in ((attn_name, attn, ties1), (out_name, out, ties2)):
                if lif.counts_ties:
                    frame.tied(name, count)

        return work


def can_attend(step: AttentionStep, plan_values: Mapping[str, Value]) -> bool:
    """Whether :meth:`CpuKernels.attention` computes a step exactly, and on this machine."""
    y1, x, y2 = (plan_values[name] for name in step.inputs)
    width = y1.channels // step.products[0][1].num_heads
    if y2.channels != y1.channels or y2.positions != y1.positions or x.channels != y1.channels:
        return False  # heads of two widths: the loops have one
    for y, terms, (_, product), (_, lif) in zip((y1, y2), (width, y2.positions), step.products, step.lifs, strict=True):
        reach = y.magnitude.value + largest(product.bias)
        if y.static or y.is_spikes or reach >= EXACT_IN_FLOAT32 or reach * terms > INT32_MAX:
            return False
        if product.limit > LOIHI.a_max or not _fits_float32(lif):
            return False
        # the loop takes one bias for all neurons, and one potential that is a tie
        if (lif.bias != lif.bias[0]).any() or (lif.surplus != lif.surplus[0]).any():
            return False
    # torch's int8 product takes a transposed matrix of one row for one that is not transposed, and is wrong
    return width > 1 and x.is_spikes and int8_is_exact() and compiled_loops() is not None


def _fits_float32(lif: LIF) -> bool:
    """Whether the compiled loops compute neurons exactly, and can tell a tie from a potential that was reset."""
    return halves_exactly(lif) and not (lif.counts_ties and lif.vth == 0)


def _constants(lif: LIF) -> tuple[np.float32, np.float32, np.float32]:
    """What the compiled loops need of neurons: the share of the potential that is kept, threshold and floor."""
    keep = (LOIHI.decay_unity - lif.dv) / LOIHI.decay_unity
    return np.float32(keep), np.float32(lif.vth << LOIHI.a_shift), np.float32(-LOIHI.v_max)


def digits_for(largest: int) -> int:
    """How many digits from -128 to 127 to the base 256 hold every integer of at most this magnitude."""
    digits = 1
    while largest > 127 * (256**digits - 1) // 255:
        digits += 1
    return digits


def _channels(slab: Slab | None) -> tuple[npt.NDArray[Any] | None, int]:
    """A slab as the compiled loops take it."""
    return (None, 0) if slab is None else (slab.data.numpy(), slab.first)


@functools.cache
def compiled_loops() -> ModuleType | None:
    """The loops that numba compiles, behind their guards, or None where it is not installed."""
    if importlib.util.find_spec("numba") is None:
        return None
    return importlib.import_module("resformer.compiler.backends.sim.guarded_loops")


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
    """oneDNN's direct convolution: unlike Winograd's, its float32 sums are of products alone."""
    weight = torch.from_numpy(np.float32(fixedpoint.scale_weight(synapses.weight, synapses.weight_exp)))
    bias = torch.from_numpy(synapses.bias.astype(np.float32))
    window = synapses.padding, synapses.stride, synapses.dilation, synapses.groups

    def compute(image: torch.Tensor) -> torch.Tensor:
        made = torch.mkldnn_convolution(_channels_last(image.to(torch.float32)), weight, bias, *window)
        return _by_position(made)

    return compute


def _channels_last(image: torch.Tensor) -> torch.Tensor:
    """(images, H, W, channels), maybe a part of one, as the library's (images, channels, H, W)."""
    return image.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _by_position(made: torch.Tensor) -> torch.Tensor:
    """(images, outputs, R, S) as a row for each position."""
    return made.permute(0, 2, 3, 1).reshape(-1, made.shape[1])


def int8_products(_: Int8Product) -> Compute:
    """torch's product of int8 matrices."""

    def compute(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = torch._int_mm(left, right, out=out)
        return made

    return compute


def wider_products(_: Int8Product, dtype: torch.dtype) -> Compute:
    """The same in another type."""

    def compute(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return out.copy_(torch.matmul(left.to(dtype), right.to(dtype)))

    return compute


INT8_CONV: Kernel[Synapses] = Kernel("int8 convolution", EXACT_IN_FLOAT32, int8_convolution)
FLOAT_CONV: Kernel[Synapses] = Kernel("convolution in float32", EXACT_IN_FLOAT32, float_convolution)
INT8_PRODUCTS: tuple[Kernel[Int8Product], ...] = (
    Kernel("matrix product in int8", INT32_MAX, int8_products),
    Kernel("matrix product in float64", INT32_MAX, functools.partial(wider_products, dtype=torch.float64)),
    Kernel(INT64, INT32_MAX, functools.partial(wider_products, dtype=torch.int64)),
)


@functools.cache
def int8_verdict() -> bool | None:
    """Whether this machine's int8 kernels sum in 32 bits, or None where it has none.

    The largest values are tried on them, once. Instructions older than VNNI add pairs of products in 16 bits, where
    they saturate.
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
    except (AttributeError, NotImplementedError, RuntimeError):  # builds of PyTorch for other processors lack these
        return None
    return torch.equal(product.long(), wanted) and torch.equal(made[0, :, :, 0].T.long(), wanted)


def int8_is_exact() -> bool:
    """Whether this machine has int8 kernels that sum in 32 bits; whether they do in a layer's shape is tried there."""
    return int8_verdict() is True
