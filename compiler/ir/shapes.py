"""The shape of each operation's output, given its inputs' shapes: the rules for NIR's nodes and for ours.

Integer operations have rules of their own (``ir.ops``). Shapes are without time and batch: (C, H, W), or (F,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatch

import nir
import numpy as np

from resformer.compiler.ir import primitives
from resformer.compiler.ir.arrays import InvariantError, Shape, require
from resformer.compiler.ir.ops import Op, Shapes
from resformer.compiler.ir.ops.attention import check_product_shape, product_shape
from resformer.compiler.ir.ops.base import one_input
from resformer.compiler.ir.ops.counts import attention_shape
from resformer.compiler.ir.ops.gates import gated_shape
from resformer.compiler.ir.ops.sums import added_shape

PER_ELEMENT: dict[type[nir.NIRNode], tuple[str, ...]] = {
    nir.LIF: ("tau", "r", "v_leak", "v_threshold", "v_reset"),
    nir.IF: ("r", "v_threshold", "v_reset"),
    nir.CubaLIF: ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset", "w_in"),
    primitives.DiscreteCubaLIF: primitives.PER_NEURON,
    primitives.RecurrentCubaLIF: primitives.PER_NEURON,
    primitives.DiscreteCubaLI: primitives.PER_INTEGRATOR,
    **dict.fromkeys((primitives.MultiSpikeIF, primitives.IntegerLIF), primitives.PER_MULTI_SPIKE),
    primitives.SampleDelay: ("steps",),
    nir.Scale: ("scale",),
}
"""Parameters that have the shape of the input, by the type of node."""
PER_CHANNEL: dict[type[nir.NIRNode], tuple[str, ...]] = {
    primitives.BatchNorm2d: ("weight", "bias", "running_mean", "running_var"),
}


def check_shape(op: object, inputs: Sequence[Shape], shape: Shape) -> None:
    """Check that an operation of either level makes an output of shape ``shape`` from inputs of shapes ``inputs``.

    Raises:
        InvariantError: It does not.
    """
    positive = all(isinstance(size, int) and size > 0 for size in shape)
    require(positive, f"shape {shape} is not of positive integers")
    if isinstance(op, Op):
        op.check_shapes(Shapes(tuple(inputs), shape))
        return
    wanted = output_shape(op, inputs)
    if isinstance(op, primitives.SpikeMatMul):
        check_product_shape(wanted, shape, transpose=op.transpose)
    else:
        require(shape == wanted, f"makes shape {wanted}, but its node says {shape}")


@singledispatch
def output_shape(op: object, inputs: Sequence[Shape]) -> Shape:
    """The shape of an operation's output, given the shapes of its inputs.

    For the product y s it is (C, H * W), as in s; only the product's node says what H and W are.

    Raises:
        InvariantError: The operation cannot take inputs of these shapes, or this number of inputs.
    """
    raise InvariantError(f"no shape rule for {type(op).__name__}")


@output_shape.register
def _(op: Op, inputs: Sequence[Shape]) -> Shape:
    return op.output_shape(inputs)


@output_shape.register
def _(op: nir.Input, inputs: Sequence[Shape]) -> Shape:
    require(not inputs, f"takes no input, not {len(inputs)}")
    shape = op.input_type["input"]
    if shape is None:
        raise InvariantError("an input states its shape")
    return tuple(int(each) for each in np.atleast_1d(shape))


@output_shape.register(nir.Output)
@output_shape.register(nir.LIF)
@output_shape.register(nir.IF)
@output_shape.register(nir.CubaLIF)
@output_shape.register(primitives.BatchNorm2d)
@output_shape.register(primitives.DiscreteCubaLIF)
@output_shape.register(primitives.DiscreteCubaLI)
@output_shape.register(primitives.MultiSpikeIF)
@output_shape.register(primitives.SampleDelay)
@output_shape.register(nir.Scale)
def _(op: nir.NIRNode, inputs: Sequence[Shape]) -> Shape:
    shape = one_input(inputs)
    for name in PER_ELEMENT.get(type(op), ()):
        held = getattr(op, name).shape
        require(held == shape, f"{name} of shape {held} does not fit an input of shape {shape}")
    for name in PER_CHANNEL.get(type(op), ()):
        held = getattr(op, name).shape
        require(held == shape[:1], f"{name} of shape {held} does not fit {shape[0]} channels")
    if isinstance(op, primitives.RecurrentCubaLIF):
        image = (*shape, 1, 1)[:3]
        made = output_shape(op.synapses(), [image])
        require(made == image, f"its recurrent synapses make shape {made} of spikes of shape {image}")
    return shape


@output_shape.register
def _(op: nir.Conv2d, inputs: Sequence[Shape]) -> Shape:
    channels, *size = one_input(inputs, axes=3)
    outputs, per_group, *kernel = op.weight.shape
    groups = int(op.groups)
    require(channels == per_group * groups, f"weights for {per_group} x {groups} channels, but {channels} come in")
    require(outputs % groups == 0, f"{outputs} output channels do not split into {groups} groups")
    require(op.bias.shape == (outputs,), f"bias of shape {op.bias.shape} does not fit {outputs} channels")
    require(len(kernel) == 2, f"a kernel of {len(kernel)} axes, not 2")
    return outputs, *primitives.window_of(op).targets(tuple(size))


@output_shape.register(nir.Linear)
@output_shape.register(nir.Affine)
def _(op: nir.Linear | nir.Affine, inputs: Sequence[Shape]) -> Shape:
    (features,) = one_input(inputs, axes=1)
    outputs, taken = op.weight.shape
    require(features == taken, f"weights for {taken} features, but {features} come in")
    fits = isinstance(op, nir.Linear) or op.bias.shape == (outputs,)
    require(fits, f"bias does not fit {outputs} outputs")
    return (outputs,)


@output_shape.register(nir.AvgPool2d)
@output_shape.register(nir.SumPool2d)
@output_shape.register(primitives.MaxPool2d)  # CeilMaxPool2d too
def _(op: nir.AvgPool2d | nir.SumPool2d | primitives.MaxPool2d, inputs: Sequence[Shape]) -> Shape:
    channels, *size = one_input(inputs, axes=3)
    return channels, *primitives.window_of(op).targets(tuple(size))


@output_shape.register
def _(op: primitives.AdaptiveAvgPool2d, inputs: Sequence[Shape]) -> Shape:
    return one_input(inputs, axes=3)[0], *op.size


@output_shape.register
def _(op: nir.Flatten, inputs: Sequence[Shape]) -> Shape:
    shape = one_input(inputs)
    start, end = int(op.start_dim), int(op.end_dim) % len(shape)
    return *shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]


@output_shape.register
def _(_op: primitives.Add, inputs: Sequence[Shape]) -> Shape:
    return added_shape(inputs)


@output_shape.register
def _(op: primitives.SpikeMatMul, inputs: Sequence[Shape]) -> Shape:
    shares = op.num_heads if op.part == "all" else 2 * op.num_heads
    return product_shape(inputs, op.num_heads, shares, transpose=op.transpose)


@output_shape.register
def _(_op: primitives.SpikeGate, inputs: Sequence[Shape]) -> Shape:
    return gated_shape(inputs)


@output_shape.register
def _(op: primitives.SpikeAttention, inputs: Sequence[Shape]) -> Shape:
    return attention_shape(inputs, op.num_heads)
