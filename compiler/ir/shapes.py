"""The shape of each operation's output, from those of its inputs: for both levels, since both compute alike.

Shapes are without time and batch: (C, H, W), or (F,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatch
from typing import Any, TypeAlias

import nir
import numpy as np

from resformer.compiler.ir import primitives, program

Shape: TypeAlias = tuple[int, ...]


def check_shape(op: object, inputs: Sequence[Shape], shape: Shape) -> None:
    """Check that an operation makes an output of this shape of inputs of those.

    Raises:
        AssertionError: It does not.
    """
    assert all(isinstance(size, int) and size > 0 for size in shape), f"shape {shape} is not of positive integers"
    if isinstance(op, program.Input):
        assert not inputs, f"takes no input, not {len(inputs)}"
        return
    wanted = output_shape(op, inputs)
    if isinstance(op, (primitives.SpikeMatMul, program.SpikeMatMul)) and not op.transpose:
        assert len(shape) == 3, f"shape {shape} is not (C, H, W)"
        assert (shape[0], math.prod(shape[1:])) == wanted, f"makes shape {wanted}, but its node says {shape}"
    else:
        assert shape == wanted, f"makes shape {wanted}, but its node says {shape}"


@singledispatch
def output_shape(op: object, inputs: Sequence[Shape]) -> Shape:
    """The shape that an operation makes of inputs of these shapes.

    An integer input has no rule: its shape is its node's own. The product y s is given as (C, H * W), as s comes: which
    H and W, its node says.

    Raises:
        AssertionError: The operation cannot take such inputs, or so many.
    """
    raise AssertionError(f"no shape rule for {type(op).__name__}")


@output_shape.register
def _(op: nir.Input, inputs: Sequence[Shape]) -> Shape:
    assert not inputs, f"takes no input, not {len(inputs)}"
    return _ints(op.input_type["input"])


@output_shape.register(nir.Output)
@output_shape.register(primitives.BatchNorm2d)
@output_shape.register(nir.LIF)
@output_shape.register(nir.IF)
@output_shape.register(nir.CubaLIF)
@output_shape.register(primitives.DiscreteCubaLIF)
@output_shape.register(primitives.DiscreteCubaLI)
@output_shape.register(primitives.SampleDelay)
@output_shape.register(nir.Scale)
@output_shape.register(program.Relay)
@output_shape.register(program.LIF)
@output_shape.register(program.Delay)
@output_shape.register(program.Output)
def _(op: object, inputs: Sequence[Shape]) -> Shape:
    shape = _single(inputs)
    _check_per_element(op, shape)
    for name in _PER_CHANNEL.get(type(op), ()):
        held = getattr(op, name).shape
        fits = held == shape[:1] or (held == (1,) and isinstance(op, program.LIF))
        assert fits, f"{name} of shape {held} does not fit {shape[0]} channels"
    return shape


def _check_per_element(op: object, shape: Shape) -> None:
    for name in _PER_ELEMENT.get(type(op), ()):
        held = getattr(op, name).shape
        assert held == shape, f"{name} of shape {held} does not fit an input of shape {shape}"


_PER_ELEMENT: dict[type[Any], tuple[str, ...]] = {
    nir.LIF: ("tau", "r", "v_leak", "v_threshold", "v_reset"),
    nir.IF: ("r", "v_threshold", "v_reset"),
    nir.CubaLIF: ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset", "w_in"),
    primitives.DiscreteCubaLIF: primitives.PER_NEURON,
    primitives.RecurrentCubaLIF: primitives.PER_NEURON,
    primitives.DiscreteCubaLI: primitives.PER_INTEGRATOR,
    primitives.SampleDelay: ("steps",),
    nir.Scale: ("scale",),
    program.Output: ("bias",),
}
_PER_CHANNEL: dict[type[Any], tuple[str, ...]] = {
    primitives.BatchNorm2d: ("weight", "bias", "running_mean", "running_var"),
    program.Relay: ("bias",),
    program.LIF: ("bias_mant", "bias_exp"),
}


@output_shape.register(program.CubaLI)
@output_shape.register(program.CubaLIF)
@output_shape.register(program.SampleDelay)
def _(op: program.CubaLI | program.CubaLIF | program.SampleDelay, inputs: Sequence[Shape]) -> Shape:
    shape = _single(inputs)
    arrays = {program.CubaLI: ("du", "dv", "u_bias"), program.SampleDelay: ("steps",)}
    for name in arrays.get(type(op), program.CUBA_ARRAYS):
        held = getattr(op, name).shape
        fits = len(held) == len(shape) and all(given in (1, size) for given, size in zip(held, shape, strict=True))
        assert fits, f"{name} of shape {held} does not fit a population of shape {shape}"
    if isinstance(op, program.RecurrentCubaLIF):
        _check_recurrent(op.synapses(), shape)
    return shape


@output_shape.register
def _(op: primitives.RecurrentCubaLIF, inputs: Sequence[Shape]) -> Shape:
    shape = _single(inputs)
    _check_per_element(op, shape)
    _check_recurrent(op.synapses(), (*shape, 1, 1)[:3])
    return shape


def _check_recurrent(synapses: nir.Conv2d | program.Conv2d, shape: Shape) -> None:
    made = output_shape(synapses, [shape])
    assert made == shape, f"its recurrent synapses make shape {made} of spikes of shape {shape}"


@output_shape.register(nir.Conv2d)
@output_shape.register(program.Conv2d)
def _(op: nir.Conv2d | program.Conv2d, inputs: Sequence[Shape]) -> Shape:
    channels, *size = _single(inputs, axes=3)
    outputs, per_group, *kernel = op.weight.shape
    groups = int(op.groups)
    assert channels == per_group * groups, f"weights for {per_group} x {groups} channels, but {channels} come in"
    assert outputs % groups == 0, f"{outputs} output channels do not split into {groups} groups"
    assert op.bias.shape == (outputs,), f"bias of shape {op.bias.shape} does not fit {outputs} channels"
    return outputs, *_windows(size, kernel, op.stride, op.padding, op.dilation)


@output_shape.register(nir.Linear)
@output_shape.register(nir.Affine)
@output_shape.register(program.Dense)
def _(op: nir.Linear | nir.Affine | program.Dense, inputs: Sequence[Shape]) -> Shape:
    (features,) = _single(inputs, axes=1)
    outputs, taken = op.weight.shape
    assert features == taken, f"weights for {taken} features, but {features} come in"
    bias = getattr(op, "bias", None)
    assert bias is None or bias.shape == (outputs,), f"bias does not fit {outputs} outputs"
    return (outputs,)


@output_shape.register(nir.AvgPool2d)
@output_shape.register(nir.SumPool2d)
@output_shape.register(primitives.MaxPool2d)
@output_shape.register(program.MaxPool2d)
@output_shape.register(program.SumPool2d)
def _(op: Any, inputs: Sequence[Shape]) -> Shape:
    channels, *size = _single(inputs, axes=3)
    return channels, *_windows(size, op.kernel_size, op.stride, getattr(op, "padding", (0, 0)), (1, 1))


@output_shape.register
def _(op: nir.Flatten, inputs: Sequence[Shape]) -> Shape:
    shape = _single(inputs)
    start, end = int(op.start_dim), int(op.end_dim) % len(shape)
    return *shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]


@output_shape.register
def _(op: program.Flatten, inputs: Sequence[Shape]) -> Shape:
    return (math.prod(_single(inputs)),)


@output_shape.register(primitives.Add)
@output_shape.register(program.Add)
def _(op: object, inputs: Sequence[Shape]) -> Shape:
    assert len(inputs) >= 2, f"adds two inputs or more, not {len(inputs)}"
    assert len(set(inputs)) == 1, f"cannot add shapes {', '.join(map(str, inputs))}"
    return inputs[0]


@output_shape.register(primitives.SpikeMatMul)
@output_shape.register(program.SpikeMatMul)
def _(op: primitives.SpikeMatMul | program.SpikeMatMul, inputs: Sequence[Shape]) -> Shape:
    assert len(inputs) == 2, f"takes y and spikes, not {len(inputs)} inputs"
    (channels, *size), spikes = inputs
    heads, patches = op.num_heads, math.prod(size)
    assert len(inputs[0]) == 3, f"takes y of 3 axes, not {inputs[0]}"
    shares = 2 * heads if isinstance(op, primitives.SpikeMatMul) and op.part != "all" else heads
    assert channels % shares == 0, f"{channels} channels do not split into {shares}"
    used = channels // shares * heads
    assert len(spikes) == 3, f"takes spikes of 3 axes, not {spikes}"
    if op.transpose:
        assert spikes[0] == used, f"{used} channels of y meet spikes of {spikes[0]}"
        return heads, patches, spikes[1] * spikes[2]
    assert spikes[:2] == (heads, patches), f"y of {heads} heads and {patches} patches meets spikes of shape {spikes}"
    return used, spikes[2]


def _single(inputs: Sequence[Shape], *, axes: int | None = None) -> Shape:
    assert len(inputs) == 1, f"takes one input, not {len(inputs)}"
    assert axes is None or len(inputs[0]) == axes, f"takes an input of {axes} axes, not {inputs[0]}"
    return inputs[0]


def _windows(size: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any) -> Shape:
    """How many windows fit along rows and columns."""
    assert len(kernel) == 2, f"a kernel of {len(kernel)} axes, not 2"
    counts = []
    for axis in range(2):
        least = min(int(kernel[axis]), int(stride[axis]), int(dilation[axis]))
        assert least >= 1, "kernel, stride and dilation must be at least 1"
        assert int(padding[axis]) >= 0, f"padding {int(padding[axis])} is negative"
        span = int(dilation[axis]) * (int(kernel[axis]) - 1) + 1
        free = size[axis] + 2 * int(padding[axis]) - span
        assert free >= 0, f"a window of {span} does not fit {size[axis]} padded by {int(padding[axis])}"
        counts.append(free // int(stride[axis]) + 1)
    return tuple(counts)


def _ints(shape: Any) -> Shape:
    return tuple(int(each) for each in np.atleast_1d(shape))
