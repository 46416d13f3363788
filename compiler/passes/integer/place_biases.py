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
    """Give each bias to the nodes that its current ends at.

    A bias is constant over space and time, so it passes through sums and max-pools, and all that a LIF's input holds
    becomes that LIF's own bias, beside a surplus that settles its ties; where it does not fit one
    (``bias_mantissa_max`` units of the current), a relay in front takes it, as it takes what would reach another
    convolution, which padding keeps from being constant. A product's y gets its bias in the product, and a relay that
    shifts takes one before it does; what reaches the classifier becomes a bias of the logits. The biases of
    convolutions on one residual stream thus add up along it. Neurons whose current has a memory (``CubaLIF``) add it to
    that. Each operation says what it does (``Op.carry_bias``).

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
    """A residual relay for one node's output."""
    signal = replace(source.op.signal, kind=SignalKind.GRADED, low=None, high=None)
    return Node(f"{source.name}.relay", Relay(signal, bias, limit), inputs=(source.name,), shape=source.shape)
