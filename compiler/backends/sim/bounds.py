"""How large each integer of a program can get: what number types are chosen by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatch
from typing import NamedTuple

import numpy as np

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.program import (
    LIF,
    Add,
    Conv2d,
    Delay,
    Dense,
    Flatten,
    Input,
    MaxPool2d,
    Op,
    Output,
    Program,
    Relay,
    SpikeMatMul,
    SumPool2d,
)

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
        terms = 1
        if isinstance(node.op, SpikeMatMul):
            channels, *size = program[node.inputs[0]].shape
            terms = channels // node.op.num_heads if node.op.transpose else math.prod(size)
        sums = _magnitude(node.op, [bounds[name].value for name in node.inputs], terms)
        low, high = node.op.signal.low, node.op.signal.high
        proven = sums if low is None or high is None else max(abs(low), abs(high))
        bounds[node.name] = Magnitude(min(proven, sums), sums)
    return bounds


@singledispatch
def _magnitude(op: Op, inputs: Sequence[int], terms: int) -> int:
    """A bound on an operation's output from bounds on its inputs; ``terms`` meet in each sum of a product."""
    raise AssertionError(f"no bound for {type(op).__name__}")


@_magnitude.register
def _(op: Input, inputs: Sequence[int], terms: int) -> int:
    if op.signal.low is None or op.signal.high is None:
        return INT32_MAX + 1
    return max(abs(op.signal.low), abs(op.signal.high))


@_magnitude.register(Conv2d)
@_magnitude.register(Dense)
def _(op: Conv2d | Dense, inputs: Sequence[int], terms: int) -> int:
    weight = np.abs(fixedpoint.scale_weight(op.weight, op.weight_exp).astype(np.int64))
    rows = weight.reshape(len(weight), -1).sum(axis=1)
    # In Python's integers, which do not overflow.
    return max((int(row) * inputs[0] + abs(int(bias)) for row, bias in zip(rows, op.bias, strict=True)), default=0)


@_magnitude.register
def _(op: SumPool2d, inputs: Sequence[int], terms: int) -> int:
    return inputs[0] * math.prod(op.kernel_size)


@_magnitude.register
def _(op: Add, inputs: Sequence[int], terms: int) -> int:
    return sum(inputs)


@_magnitude.register
def _(op: Relay, inputs: Sequence[int], terms: int) -> int:
    return min(inputs[0] + _largest(op.bias), op.limit)


@_magnitude.register
def _(op: LIF, inputs: Sequence[int], terms: int) -> int:
    return 1


@_magnitude.register
def _(op: SpikeMatMul, inputs: Sequence[int], terms: int) -> int:
    return min((inputs[0] + _largest(op.bias)) * terms, op.limit)


@_magnitude.register(MaxPool2d)
@_magnitude.register(Delay)
@_magnitude.register(Flatten)
@_magnitude.register(Output)
def _(op: Op, inputs: Sequence[int], terms: int) -> int:
    return inputs[0]


def _largest(values: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> int:
    return int(np.abs(values.astype(np.int64)).max(initial=0))
