"""How large each integer of a program can get: what number types are chosen by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.program import (
    LIF,
    Add,
    Conv2d,
    CubaLI,
    CubaLIF,
    Dense,
    Input,
    Op,
    Program,
    Relay,
    SpikeMatMul,
    SumPool2d,
)
from resformer.compiler.target import LOIHI

EXACT_IN_FLOAT32 = 2**24
"""Below it, float32 holds every integer."""
EXACT_IN_FLOAT64 = 2**53
INT32_MAX = 2**31 - 1


class Magnitude(NamedTuple):
    """Bounds on one node's output.

    Attributes:
        value: What range analysis proved of the output itself, or ``sums`` where it has not run.
        sums: A bound on every partial sum too, in whatever order a kernel adds: each term is bounded by itself.
    """

    value: int
    sums: int


def magnitudes(program: Program) -> dict[str, Magnitude]:
    """Bounds for each node."""
    bounds: dict[str, Magnitude] = {}
    for node in program:
        positions = program[node.inputs[0]].shape[1:] if node.inputs else ()
        sums = _sums(node.op, [bounds[name].value for name in node.inputs], positions)
        low, high = node.op.signal.low, node.op.signal.high
        proven = sums if low is None or high is None else max(abs(low), abs(high))
        bounds[node.name] = Magnitude(min(proven, sums), sums)
    return bounds


def largest(values: npt.NDArray[np.integer]) -> int:
    """The largest magnitude among integers, which may be the least of their type."""
    return int(np.abs(values.astype(np.int64)).max(initial=0))


def _sums(op: Op, inputs: Sequence[int], positions: Sequence[int]) -> int:
    """A bound on what an operation sums, from bounds on its inputs, the first of which has so many positions."""
    match op:
        case Input():
            low, high = op.signal.low, op.signal.high
            return INT32_MAX + 1 if low is None or high is None else max(abs(low), abs(high))
        case Conv2d() | Dense():
            weight = np.abs(fixedpoint.scale_weight(op.weight, op.weight_exp).astype(np.int64))
            # in Python's integers, which do not overflow
            return int(weight.reshape(len(weight), -1).sum(axis=1).max()) * inputs[0] + largest(op.bias)
        case SumPool2d():
            return inputs[0] * math.prod(op.kernel_size)
        case Add():
            return sum(inputs)
        case Relay():
            return min((inputs[0] + largest(op.bias) + (1 << op.shift >> 1)) >> op.shift, op.limit)
        case LIF() | CubaLIF():
            return 1
        case CubaLI():
            return LOIHI.v_max
        case SpikeMatMul():
            terms = len(op.bias) // op.num_heads if op.transpose else math.prod(positions)
            return min((inputs[0] + largest(op.bias)) * terms, op.limit)
        case _:
            return inputs[0]
