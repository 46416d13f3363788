"""Store weights of more bits than a synapse holds as two synapses each, whose currents a neuron sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import Add, Conv2d, Op, RecurrentCubaLIF, StackedRecurrentCubaLIF
from resformer.compiler.ir.program import HIGH_PART, LOW_PART, Unscheduled
from resformer.compiler.ir.storage import mantissa_bits, split_mantissas
from resformer.compiler.target import LOIHI
from resformer.errors import UnsupportedError


def stack_synapses(program: Unscheduled) -> Unscheduled:
    """Replace each convolution whose mantissas are wide by the ``Add`` of two convolutions that read the same input.

    The ``Add`` keeps the convolution's name X, because other nodes refer to its current by that name. The parts are
    named ``X.hi``, which takes the bias, and ``X.lo``. A neuron sums its inputs, so the ``Add`` costs nothing. A layer
    whose mantissas all fit one synapse stays one convolution. Recurrent synapses belong to their neurons, which hold
    both parts (``StackedRecurrentCubaLIF``).

    Raises:
        UnsupportedError: The network already has a node with the name of a part.
    """
    edit = program.edit()
    for node in program:
        conv = node.op
        if not isinstance(conv, Conv2d | RecurrentCubaLIF) or conv.weight.dtype == np.int8:
            continue
        if mantissa_bits(conv.weight) <= LOIHI.weight_bits_max:
            edit.set_op(node.name, replace(conv, weight=conv.weight.astype(np.int8)))
            continue
        if isinstance(conv, RecurrentCubaLIF):
            edit.set_op(node.name, StackedRecurrentCubaLIF.of(conv))
            continue
        high, low, shift = split_mantissas(conv.weight)
        parts = (
            (HIGH_PART, replace(conv, weight=high, weight_exp=(conv.weight_exp + shift).astype(np.int8))),
            (LOW_PART, replace(conv, weight=low, bias=np.zeros_like(conv.bias))),
        )
        for suffix, op in parts:
            name = f"{node.name}{suffix}"
            if name in program:
                raise UnsupportedError(
                    f"{name}: is the name of a part of {node.name}, whose weights have more than "
                    f"{LOIHI.weight_bits_max} bits; rename the layer, or give {node.name} fewer bits"
                )
            part: Node[Op] = Node(name, op, node.inputs, node.shape)
            edit.add(part)
        edit.set_op(node.name, Add(conv.signal), inputs=tuple(f"{node.name}{suffix}" for suffix, _ in parts))
    return edit.finish()
