"""Estimates of the memory and time that running a program takes; they are compared with limits before it runs."""

from __future__ import annotations

import math

from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import Conv2d, Op, RecurrentCubaLIF
from resformer.compiler.ir.program import Program, shapes_around

VALUE_BYTES = 8
"""Bytes of a value in the reference interpreter, which needs more memory than the other interpreters."""
STEP_PRODUCTS = 2**12
"""The overhead of an operation in one step, measured in products: interpreters call each operation once a step."""
PRODUCTS_PER_SECOND = 3 * 10**8
"""Approximate speed of the reference interpreter, the slowest interpreter, on one core of a server of 2024."""


def operation_bytes(program: Program, node: Node[Op]) -> int:
    """The bytes of memory that the reference interpreter takes for one operation on one sample."""
    elements = math.prod(node.shape) + sum(math.prod(program[name].shape) for name in node.inputs)
    elements += padded_values(program, node)
    op = node.op.synapses() if isinstance(node.op, RecurrentCubaLIF) else node.op
    if isinstance(op, Conv2d):
        # the taps of each output position, for one group of channels at a time
        elements += 2 * math.prod(node.shape[1:]) * op.weight.shape[1] * op.window.area
    return program.timesteps * elements * VALUE_BYTES


def padded_values(program: Program, node: Node[Op]) -> int:
    """The number of values in one step of an operation's padded input; 0 if the operation does not pad."""
    channels, *size = (*program[node.inputs[0]].shape, 1, 1)[:3] if node.inputs else (0, 0, 0)
    around = [window for window in node.op.windows() if window.padded((0, 0)) != (0, 0)]
    return max((channels * math.prod(window.padded(tuple(size))) for window in around), default=0)


def peak_bytes(program: Program) -> int:
    """The reference interpreter's peak memory for one sample, in bytes: one operation, and all that later ones read."""
    kept = peak = 0
    sizes = {node.name: program.timesteps * math.prod(node.shape) * VALUE_BYTES for node in program}
    last_reads = program.last_reads
    for node in program:
        inputs = sum(sizes[name] for name in set(node.inputs))
        peak = max(peak, kept - inputs + operation_bytes(program, node))
        kept += sizes[node.name] - sum(sizes[name] for name in last_reads[node.name])
    return peak


def products(program: Program) -> int:
    """The work of one sample, in products of a value and a weight; each step adds an overhead for each operation."""
    each = (math.prod(node.shape) * node.op.terms(shapes_around(program, node)) + STEP_PRODUCTS for node in program)
    return program.timesteps * sum(each)
