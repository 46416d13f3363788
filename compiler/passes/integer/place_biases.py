"""Move constant biases from synapses, which have none on Loihi, into the neurons that their currents reach."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.program import (
    LIF,
    Add,
    Conv2d,
    CubaLI,
    CubaLIF,
    Dense,
    Flatten,
    Input,
    MaxPool2d,
    Op,
    Output,
    Program,
    Relay,
    SampleDelay,
    SignalKind,
    SpikeMatMul,
    SumPool2d,
)
from resformer.compiler.target import LOIHI
from resformer.errors import RangeError

Int64Array = npt.NDArray[np.int64]


def place_biases(program: Program) -> Program:
    """Give each bias to the nodes that its current ends at.

    A bias is constant over space and time, so it passes through sums and max-pools, and all that a LIF's input holds
    becomes that LIF's own bias; where it does not fit one (``bias_mantissa_max`` units of the current), a relay in
    front takes it, as it takes what would reach another convolution, which padding keeps from being constant. A
    product's y gets its bias in the product, and a relay that shifts takes one before it does; what reaches the
    classifier becomes a bias of the logits. The biases of convolutions on one residual stream thus add up along it.
    Neurons whose current has a memory (``CubaLIF``) add it to that.

    Raises:
        RangeError: A relay's bias leaves 32 bits.
    """
    pending: dict[str, Int64Array] = {}
    edit = program.edit()
    for node in program:
        op = node.op
        source = node.inputs[0] if node.inputs else ""
        pending[node.name] = np.zeros(node.shape[0], dtype=np.int64)
        match op:
            case Conv2d() | Dense():
                pending[node.name] = op.bias.astype(np.int64)
                if isinstance(op, Dense):
                    weight = fixedpoint.scale_weight(op.weight, op.weight_exp).astype(np.int64)
                    pending[node.name] += weight @ pending[source]
                edit.set_op(node.name, replace(op, bias=np.zeros_like(op.bias)))
            case Add():
                pending[node.name] = np.sum([pending[name] for name in node.inputs], axis=0)
            case SumPool2d():
                pending[node.name] = pending[source] * math.prod(op.kernel_size)
            case Flatten():
                pending[node.name] = np.repeat(pending[source], math.prod(program[source].shape[1:]))
            case MaxPool2d():
                pending[node.name] = pending[source]
            case LIF():
                bias = pending[source]
                edit.set_op(node.name, replace(op, bias_mant=bias.astype(np.int16), bias_exp=_unit_exponents(bias)))
            case CubaLIF() | CubaLI():
                edit.set_op(node.name, replace(op, u_bias=_current_bias(node, op, pending[source])))
            case SampleDelay():
                assert not pending[source].any(), f"{node.name}: delays a current"
            case SpikeMatMul():
                edit.set_op(node.name, replace(op, bias=pending[source].astype(np.int32)))
            case Relay() if op.shift:
                bias = op.bias + pending[source]
                if int(np.abs(bias).max(initial=0)) > np.iinfo(np.int32).max:
                    raise RangeError(
                        f"{node.name}: its bias becomes {np.abs(bias).max()}, the limit is {np.iinfo(np.int32).max}; "
                        "normalise the layers of the last stage"
                    )
                edit.set_op(node.name, replace(op, bias=bias.astype(np.int32)))
            case Output():
                unit = 2.0**-op.signal.scale_exp / op.divisor
                edit.set_op(node.name, replace(op, bias=op.bias + pending[source] * unit))
            case _:
                assert isinstance(op, Input), f"{node.name}: a {type(op).__name__} before place_biases"
        if _needs_relay(program, node, pending[node.name]):
            edit.insert_after(node.name, relay(node, bias=pending[node.name].astype(np.int32), limit=LOIHI.a_max))
            pending[node.name] = np.zeros_like(pending[node.name])
    return edit.finish()


def _current_bias(node: Node[Op], op: CubaLIF | CubaLI, bias: Int64Array) -> npt.NDArray[np.int32]:
    """What neurons with a memory of their current add to it each step, given its bias per channel in its own units.

    Raises:
        RangeError: It exceeds what the current can hold.
    """
    if not bias.any():
        return op.u_bias
    total: Int64Array = op.u_bias + (bias << LOIHI.a_shift).reshape(-1, *(1,) * (len(node.shape) - 1))
    largest = int(np.abs(total).max())
    if largest > LOIHI.v_max:
        raise RangeError(
            f"{node.name}: the bias of its current becomes {largest >> LOIHI.a_shift}, the limit is "
            f"{LOIHI.v_max >> LOIHI.a_shift}; normalise the layer before it"
        )
    return total.astype(np.int32)


def relay(source: Node[Op], *, bias: npt.NDArray[np.int32], limit: int) -> Node[Op]:
    """A residual relay for one node's output."""
    signal = replace(source.op.signal, kind=SignalKind.GRADED, low=None, high=None)
    return Node(f"{source.name}.relay", Relay(signal, bias, limit), inputs=(source.name,), shape=source.shape)


def _needs_relay(program: Graph[Any], node: Node[Op], bias: Int64Array) -> bool:
    """Whether a reader cannot take what this current still lacks: a neuron whose mantissa is too small, or a kernel."""
    readers = {type(reader.op) for reader in program.consumers[node.name]}
    too_large = int(np.abs(bias).max(initial=0)) > LOIHI.bias_mantissa_max
    return (LIF in readers and too_large) or (Conv2d in readers and bool(bias.any()))


def _unit_exponents(bias: Int64Array) -> npt.NDArray[np.int8]:
    """The exponent that makes a mantissa count units of the synaptic input: each is 64 units of the bias."""
    return np.full(bias.shape, LOIHI.a_shift, dtype=np.int8)
