"""How large each integer of a program can get, to choose number types and to check the bounds that files declare."""

from __future__ import annotations

from resformer.compiler.ir.arrays import InvariantError, require
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.interval import Interval, Magnitude
from resformer.compiler.ir.ops import Op
from resformer.compiler.ir.program import Program, shapes_around
from resformer.errors import RangeError


def magnitudes(program: Program) -> dict[str, Magnitude]:
    """The bounds on each node's output, by node name."""
    bounds: dict[str, Magnitude] = {}
    for node in program:
        sums = node.op.sums([bounds[name].value for name in node.inputs], shapes_around(program, node))
        declared = node.op.signal.bounds
        proven = sums if declared is None else max(map(abs, declared))
        bounds[node.name] = Magnitude(min(proven, sums), sums)
    return bounds


def interval_of(program: Program, node: Node[Op], inputs: list[Interval]) -> Interval:
    """The bounds of a node's output, given those of its inputs; errors name the node.

    Raises:
        InvariantError: Its operation has no rule for bounds.
        RangeError: Something leaves a format, where no relay can help.
    """
    try:
        return node.op.interval(inputs, shapes_around(program, node))
    except AssertionError as error:
        raise type(error)(f"{node.name}: {error}") from error
    except RangeError as error:
        raise RangeError(f"{node.name}: {error}") from error


def check_declared(program: Program) -> None:
    """See that no bound which a program declares is narrower than what its weights allow, and that no state wraps.

    Number types are chosen by these bounds, so a program whose bounds are too narrow would compute wrong sums.

    Raises:
        InvariantError: A bound is too narrow, or a sum or state may leave its limit; the message begins with the
            node's name.
        RangeError: Something leaves a format.
    """
    if any(node.op.signal.bounds is None for node in program):
        return  # range analysis has not run
    intervals: dict[str, Interval] = {}
    for node in program:
        inputs = [intervals[name] for name in node.inputs]
        found = interval_of(program, node, inputs)
        low, high = int(found.low.min()), int(found.high.max())
        declared = node.op.signal.bounds
        assert declared is not None
        require(
            declared[0] <= low and high <= declared[1],
            f"{node.name}: what its weights allow, [{low}, {high}], leaves the proven [{declared[0]}, {declared[1]}]",
        )
        limit = node.op.accumulator
        fits = limit is None or found.magnitude <= limit
        require(fits, f"{node.name}: its sums may reach {found.magnitude}, the limit of its accumulator is {limit}")
        try:
            node.op.check_states(inputs, program.timesteps)
        except InvariantError as error:
            raise InvariantError(f"{node.name}: {error}") from error
        intervals[node.name] = found
