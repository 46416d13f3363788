"""Where the constant biases of a program's synapses end: the rule that places them, and that ties are settled by."""

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
        node: As it is before.
        given: What each of its inputs lacks, (C,) in its units.
        op: With the bias that it takes upon itself.
        made: (C,), what its own output lacks.
        fits: Whether all who read it can take that; if not, a relay behind it does, and they are given none.
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
