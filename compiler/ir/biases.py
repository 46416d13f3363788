"""Where the constant biases of a program's synapses end; ``place_biases`` and ``settle_ties`` both follow this rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from resformer.compiler.ir.arrays import Int64Array
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import Op
from resformer.compiler.ir.program import Program, shapes_around
from resformer.errors import RangeError


@dataclass(frozen=True, eq=False)
class BiasStep:
    """What becomes of the biases that reach one node.

    Attributes:
        node: The node before its biases are placed.
        given: The bias that each of its inputs still lacks, (C,), in that input's units.
        op: The node's operation with the bias that it takes into itself.
        made: The bias that its own output still lacks, (C,).
        fits: Whether all readers of the node can take ``made``; if not, a relay behind the node takes it.
    """

    node: Node[Op]
    given: tuple[Int64Array, ...]
    op: Op
    made: Int64Array
    fits: bool


def follow_biases(program: Program) -> Iterator[BiasStep]:
    """Follow the biases through a program whose synapses hold them, node by node.

    Raises:
        RangeError: A bias leaves its format; the message names the node.
    """
    pending: dict[str, Int64Array] = {}
    for node in program:
        given = tuple(pending[name] for name in node.inputs)
        try:
            op, made = node.op.carry_bias(given, shapes_around(program, node))
        except (AssertionError, RangeError) as error:
            raise type(error)(f"{node.name}: {error}") from error
        fits = all(reader.op.takes_bias(made) for reader in program.consumers[node.name])
        pending[node.name] = made if fits else np.zeros_like(made)
        yield BiasStep(node, given, op, made, fits)
