"""Move constant biases from synapses, which have none on Loihi, into the neurons that their currents reach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from resformer.compiler.ir.arrays import Int32Array
from resformer.compiler.ir.biases import follow_biases
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import Op, Relay
from resformer.compiler.ir.program import Unscheduled
from resformer.compiler.ir.signal import SignalKind
from resformer.compiler.target import LOIHI


def place_biases(program: Unscheduled) -> Unscheduled:
    """Give each bias to the nodes at which its current ends.

    A bias is constant over space and time, so it passes through sums and max-pools, and biases of convolutions on one
    residual stream add up along it. Each operation says what it does with a bias (``Op.carry_bias``):

    - A LIF makes the bias of its input its own bias, which may also hold a surplus that settles ties. If the bias does
      not fit (``bias_mantissa_max`` units of the current), a relay in front of the LIF takes it.
    - Neurons whose current has a memory (``CubaLIF``) add it to that current.
    - A convolution takes none, because padding would make the result vary over space: a relay in front of it does.
    - A product takes the bias of y, and a relay that shifts takes a bias before it shifts.
    - The output makes it a bias of the logits.

    Raises:
        RangeError: A bias leaves its format.
    """
    edit = program.edit()
    for step in follow_biases(program):
        edit.set_op(step.node.name, step.op)
        if not step.fits:
            edit.insert_after(step.node.name, relay(step.node, bias=step.made.astype(np.int32), limit=LOIHI.a_max))
    return edit.finish()


def relay(source: Node[Op], *, bias: Int32Array, limit: int) -> Node[Op]:
    """A residual relay that reads one node's output."""
    signal = replace(source.op.signal, kind=SignalKind.GRADED, low=None, high=None)
    return Node(f"{source.name}.relay", Relay(signal, bias, limit), inputs=(source.name,), shape=source.shape)
