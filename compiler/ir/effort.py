"""What running a program takes, told before it runs: readers of strangers' files and runs compare it with budgets."""

from __future__ import annotations

import math

from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import Conv2d, Op, RecurrentCubaLIF
from resformer.compiler.ir.program import Program, shapes_around

VALUE_BYTES = 8
"""Of a value in the reference interpreter, which takes most."""
STEP_PRODUCTS = 2**12
"""What an operation costs a step beside its products, in products: interpreters call it once a step."""
PRODUCTS_PER_SECOND = 3 * 10**8
"""In the reference interpreter, which is slowest, on one core of a server of 2024; about."""


def operation_bytes(program: Program, node: Node[Op]) -> int:
    """What the reference interpreter takes for one sample of one operation."""
    elements = math.prod(node.shape) + sum(math.prod(program[name].shape) for name in node.inputs)
    elements += padded_values(program, node)
    op = node.op.synapses() if isinstance(node.op, RecurrentCubaLIF) else node.op
    if isinstance(op, Conv2d):
        # each output position's taps, for one group of channels at a time
        elements += 2 * math.prod(node.shape[1:]) * op.weight.shape[1] * op.window.area
    return program.timesteps * elements * VALUE_BYTES


def padded_values(program: Program, node: Node[Op]) -> int:
    """How many values a step an operation's input has with what is put around it; none where nothing is."""
    channels, *size = (*program[node.inputs[0]].shape, 1, 1)[:3] if node.inputs else (0, 0, 0)
    around = [window for window in node.op.windows() if window.padded((0, 0)) != (0, 0)]
    return max((channels * math.prod(window.padded(tuple(size))) for window in around), default=0)


def peak_bytes(program: Program) -> int:
    """What the reference interpreter takes for one sample at most: an operation, and what later ones read."""
    kept = peak = 0
    sizes = {node.name: program.timesteps * math.prod(node.shape) * VALUE_BYTES for node in program}
    last_reads = program.last_reads
    for node in program:
        inputs = sum(sizes[name] for name in set(node.inputs))
        peak = max(peak, kept - inputs + operation_bytes(program, node))
        kept += sizes[node.name] - sum(sizes[name] for name in last_reads[node.name])
    return peak


def products(program: Program) -> int:
    """Products of a value and a weight that one sample takes, and what steps cost in such."""
    each = (math.prod(node.shape) * node.op.terms(shapes_around(program, node)) + STEP_PRODUCTS for node in program)
    return program.timesteps * sum(each)
