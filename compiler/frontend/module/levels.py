"""Neurons of levels, recognised by what they compute, whatever their class is: a current clamped to 0 .. D and rounded.

``mark`` finds them among the operations of a traced module, so that each is imported as one population (``levels``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from resformer.compiler.frontend.module.counts import gained
from resformer.compiler.frontend.module.layout import BATCH, TIME, Atom, Layout
from resformer.compiler.frontend.module.rows import whole_of
from resformer.compiler.frontend.module.tracing import user_line
from resformer.compiler.frontend.module.values import Tracing, Value
from resformer.compiler.frontend.module.written import COMPARISONS, SAME, forget, passed, stand_ins
from resformer.compiler.ir.arrays import Shape
from resformer.compiler.ir.ops import MOST_SPIKES
from resformer.compiler.ir.primitives import IntegerLIF, constant
from resformer.compiler.ir.summary import ordinal
from resformer.errors import UnsupportedError

NO_FLOOR = -1e30
"""A floor below all potentials, so that it has no effect."""
ROUNDINGS = frozenset({"aten.round.default", "aten.floor.default"})
"""The operations by which neurons of levels are recognised."""
HALF = 0.5

REMEDY = (
    "neurons of levels clamp their current to 0 and a whole number D and round it: torch.round(torch.clamp(x, 0, D)), "
    "or torch.floor(torch.clamp(x, 0, D) + 0.5)"
)


@torch.library.custom_op("resformer::levels", mutates_args=())
def _levels(current: torch.Tensor, path: str, most: int, even: bool, keep: float) -> torch.Tensor:  # noqa: ARG001
    """Stands for a population of levels in a traced module."""
    raise AssertionError(f"{path}: is only traced")


@_levels.register_fake
def _(current: torch.Tensor, path: str, most: int, even: bool, keep: float) -> torch.Tensor:  # noqa: ARG001
    return torch.empty_like(current)


@dataclass(frozen=True)
class LevelCall:
    """A call of a rounding in the module's code, whose result is what a population of levels sends.

    Attributes:
        name: The population's name.
        step: The step that the call computes, in a loop over time; None: it computes all steps at once.
        layout: How the call's tensor shows the population.
        shape: The population's shape.
        most: D, the highest level.
        threshold: If the call is not a rounding but a comparison, by which neurons that the code writes out fire: the
            threshold of these neurons. None: it is a rounding.
        keep: The share of the potential that written-out neurons keep from one step to the next.
        soft: Whether a spike takes the threshold from their potential, rather than the whole potential.
    """

    name: str
    step: int | None
    layout: Layout
    shape: Shape
    most: int
    threshold: float | None = None
    keep: float = 0.0
    soft: bool = False

    def currents(self, potentials: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
        """What written-out neurons were given, from their potentials in thresholds; all are (T, N, ...)."""
        assert self.threshold is not None, f"{self.name}: has no currents, only potentials that it rounds"
        sent = spikes.double()
        left = potentials - sent if self.soft else potentials * (1 - sent)
        return self.threshold * torch.cat([potentials[:1], potentials[1:] - self.keep * left[:-1]])

    def arranged(self, values: torch.Tensor, timesteps: int) -> torch.Tensor:
        """The call's tensor as (T, N, *shape), or as (1, N, *shape) if the call computes one step."""
        axes, sizes = [], []
        steps = 1 if self.step is not None else timesteps
        for axis, size in zip(self.layout.axes, values.shape, strict=True):
            leading = [atom for atom in axis if atom.dim < 0]
            if len(leading) < 2:
                axes.append(axis)
                sizes.append(size)
                continue
            # time and samples on one axis
            rest = tuple(atom for atom in axis if atom.dim >= 0)
            for atom in leading:
                axes.append((atom,))
                sizes.append(steps if atom.dim == TIME else size // steps)
            axes[-1] = (*axes[-1], *rest)
        values = values.reshape(sizes)
        if not any(atom.dim == TIME for axis in axes for atom in axis):
            axes.insert(0, (Atom(TIME, 0),))
            values = values.expand(steps, *values.shape)
        if not any(atom.dim == BATCH for axis in axes for atom in axis):
            axes.insert(1, (Atom(BATCH, 0),))
            values = values[:, None]
        return Layout(tuple(axes)).arrange(values, self.shape)


def mark(exported: torch.export.ExportedProgram, module: nn.Module) -> list[fx.Node | None]:
    """Replace each chain of operations that computes neurons of levels by a single operation.

    Args:
        exported: The traced module, whose operations are changed.
        module: The module that was traced.

    Returns:
        For each rounding that the code runs, in order, the operation that stands for its population; None if it has no
        population, such as the rounding of a constant. If the code writes neurons out, each comparison is in this
        order, too.

    Raises:
        UnsupportedError: The code rounds values in a way in which no neurons of levels do.
    """
    graph = exported.graph
    inputs = exported.graph_signature.user_inputs
    varying: set[fx.Node] = set()
    for node in graph.nodes:
        if (node.op == "placeholder" and node.name in inputs) or varying.intersection(node.all_input_nodes):
            varying.add(node)
    seen = [node for node in graph.nodes if str(node.target) in (ROUNDINGS | COMPARISONS.keys())]
    compared = [str(node.target) in COMPARISONS for node in seen]
    written = stand_ins(graph, varying, module)
    found = [
        written.get(node) if is_compared else _marked(graph, node, module) if node in varying else None
        for node, is_compared in zip(seen, compared, strict=True)
    ]
    _remember(graph, [each for each in found if each is not None and each not in written.values()])
    if not written:
        return [each for each, is_compared in zip(found, compared, strict=True) if not is_compared]
    return found


def _remember(graph: fx.Graph, found: Sequence[fx.Node]) -> None:
    """If each step of a loop adds what the step before it left, let neurons with a memory read the input alone.

    SpikeYOLO's code does so: ``mem = (mem - spike) * decay + x[t]``, which begins with ``mem = x[0]``.
    """
    sources = {each: _clamped(each.args[0])[0] for each in found}
    before: dict[fx.Node, fx.Node] = {}
    for node, source in sources.items():
        for current, keep, last in _left_over(source):
            earlier = [each for each, potential in sources.items() if (potential, each) == last]
            if earlier:
                before[node] = earlier[0]
                node.args = (current, *node.args[1:4], keep)
    for node, earlier_node in before.items():
        while earlier_node in before:
            earlier_node = before[earlier_node]
        earlier_node.args = (*earlier_node.args[:4], node.args[4])
    for node in before:
        forget(graph, sources[node])


def _left_over(source: fx.Node) -> Iterator[tuple[fx.Node, float, tuple[fx.Node, fx.Node]]]:
    """The ways to read a potential as (v - s) * keep + x, each as (x, keep, (v, s))."""
    if str(source.target) != "aten.add.Tensor" or source.kwargs:
        return
    for current, left in (source.args, source.args[::-1]):
        if not isinstance(left, fx.Node) or not isinstance(current, fx.Node):
            continue
        scaled, keep = left, 1.0
        if str(left.target) == "aten.mul.Tensor":
            factor = left.args[1] if isinstance(left.args[0], fx.Node) else left.args[0]
            inner = left.args[0] if isinstance(left.args[0], fx.Node) else left.args[1]
            if not isinstance(factor, int | float) or not isinstance(inner, fx.Node):
                continue
            scaled, keep = inner, float(factor)
        if str(scaled.target) == "aten.sub.Tensor" and not scaled.kwargs and 0 < keep <= 1:
            potential, sent = scaled.args
            if isinstance(potential, fx.Node) and isinstance(sent, fx.Node):
                yield current, keep, (passed(potential), passed(sent))


def _marked(graph: fx.Graph, rounding: fx.Node, module: nn.Module) -> fx.Node:
    """Insert the operation that stands for a population behind its rounding, and let all readers read it.

    Raises:
        UnsupportedError: The rounding is not that of a population of levels.
    """
    even = str(rounding.target) == "aten.round.default"
    source, low, high = _clamped(rounding.args[0])
    if not even:
        plus_half = str(source.target) == "aten.add.Tensor" and source.args[1:] == (HALF,)
        if not plus_half or (low, high) != (None, None):
            raise _no_levels(rounding, "does not round to the nearest")
        source, low, high = _clamped(source.args[0])
    last = rounding
    while len(last.users) == 1 and (bounds := _bounds(next(iter(last.users)))) is not None:
        last = next(iter(last.users))
        low, high = _narrower(low, high, *bounds)
    if low != 0 or high is None or high < 1 or not float(high).is_integer():
        shown = [each if each is None else f"{each:g}" for each in (low, high)]
        raise _no_levels(rounding, f"rounds what is clamped to {shown[0]} and {shown[1]}")
    with graph.inserting_after(last):
        stack = list((rounding.meta.get("nn_module_stack") or {"": ("", "")}).values())
        path = str(stack[-1][0])
        if next(module.get_submodule(path).children(), None) is not None:
            path = f"{path}.levels".removeprefix(".")
        arguments = (source, path, int(high), even, 0.0)
        made = graph.call_function(torch.ops.resformer.levels.default, arguments)
    made.meta = dict(last.meta)
    last.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
    replaced = [last, *_straight_through(made)]
    for total in replaced[1:]:
        total.replace_all_uses_with(made)
    for each in replaced:
        forget(graph, each)
    return made


def _no_levels(rounding: fx.Node, problem: str) -> UnsupportedError:
    """The error that refuses a rounding which is not that of a population of levels."""
    stack = list((rounding.meta.get("nn_module_stack") or {"": ("", "")}).values())
    name = str(stack[-1][0]) or rounding.name.rstrip("_0123456789")
    return UnsupportedError(f"{name}: {problem}, for which there is no lowering; {REMEDY} ({user_line(rounding)})")


def _straight_through(made: fx.Node) -> Iterator[fx.Node]:
    """The operations that compute x + (round(x) - x), by which training code lets the gradient bypass the rounding."""
    for error in made.users:
        if str(error.target) != "aten.sub.Tensor" or error.args[0] is not made or error.kwargs:
            continue
        whole = error.args[1]
        behind = error
        while len(behind.users) == 1 and str(next(iter(behind.users)).target) in SAME:
            behind = next(iter(behind.users))
        for total in behind.users:
            if str(total.target) == "aten.add.Tensor" and behind in total.args and not total.kwargs:
                other = total.args[0] if total.args[1] is behind else total.args[1]
                if _alike(other, whole):
                    yield total


def _alike(one: object, other: object) -> bool:
    """Whether two operands are the same value, which the code may compute twice."""
    if not isinstance(one, fx.Node) or not isinstance(other, fx.Node) or one is other:
        return one is other or one == other
    if one.op != "call_function" or one.target != other.target or len(one.args) != len(other.args):
        return False
    return one.kwargs == other.kwargs and all(map(_alike, one.args, other.args))


def _clamped(given: object) -> tuple[fx.Node, float | None, float | None]:
    """The value behind all clamps, and the lower and the upper bound of the clamps; a missing bound is None."""
    assert isinstance(given, fx.Node)
    bounds = (None, None) if str(given.target) in SAME else _bounds(given)
    if bounds is None:
        return given, None, None
    source, low, high = _clamped(given.args[0])
    return source, *_narrower(low, high, *bounds)


def _narrower(
    low: float | None, high: float | None, least: float | None, most: float | None
) -> tuple[float | None, float | None]:
    """The lower and the upper bound of a value that is clamped twice; a missing bound is None."""
    lows, highs = ([each for each in pair if each is not None] for pair in ((low, least), (high, most)))
    return max(lows, default=None), min(highs, default=None)


class _Given(NamedTuple):
    """A bound that is an argument of the operation: its place, its name and its default."""

    place: int
    name: str
    default: float | None = None


CLAMPS: Mapping[str, tuple[_Given | float | None, _Given | float | None]] = MappingProxyType(
    {
        **dict.fromkeys(("aten.clamp.default", "aten.clip.default"), (_Given(1, "min"), _Given(2, "max"))),
        "aten.clamp_min.default": (_Given(1, "min"), None),
        "aten.clamp_max.default": (None, _Given(1, "max")),
        "aten.relu.default": (0, None),
        "aten.relu6.default": (0, 6),
        "aten.hardtanh.default": (_Given(1, "min_val", -1), _Given(2, "max_val", 1)),
    }
)
"""The operations that clamp their first operand, each with its lower and its upper bound."""


def _bounds(node: fx.Node) -> tuple[float | None, float | None] | None:
    """The bounds to which an operation clamps; None if it does not clamp, or not to numbers."""
    found: list[float | None] = []
    for bound in CLAMPS.get(str(node.target), ()):
        value: object = bound
        if isinstance(bound, _Given):
            given = node.args[bound.place] if len(node.args) > bound.place else node.kwargs.get(bound.name)
            value = bound.default if given is None else given
        if not (value is None or isinstance(value, int | float)):
            return None
        found.append(value)
    return (found[0], found[1]) if found else None


def levels(tracing: Tracing, node: fx.Node, x: object, path: str, most: int, even: bool, keep: float) -> Value:
    """A population of levels, which keeps the share ``keep`` of the potential that a step leaves."""
    value = whole_of(tracing, node, tracing.stepwise(node, x))
    if most > MOST_SPIKES:
        raise tracing.refusal(
            node,
            f"{path}: has {most} levels, the limit is {MOST_SPIKES}, what eight bits of a graded spike hold",
            "train it with fewer",
        )
    value, factor = gained(tracing, value)
    op = IntegerLIF(
        v_threshold=constant(1 / factor, value.shape),
        v_floor=constant(NO_FLOOR, value.shape),
        max_spikes=most,
        mem_decay=1 - keep,
        even=even,
    )
    name, count = path, 1
    while name in tracing.draft.nodes:
        name, count = f"{path}.{count}", count + 1
    return tracing.elementwise(node, name, op, value)


def level_calls(tracing: Tracing, marked: Sequence[fx.Node | None]) -> tuple[LevelCall | None, ...]:
    """For each rounding that the code runs, its :class:`LevelCall` or None, once all operations are imported.

    Raises:
        UnsupportedError: Neurons with a memory are not given all steps in order.
    """
    calls: list[LevelCall | None] = []
    for node in marked:
        value = None if node is None else tracing.values.get(node)
        if node is None or not isinstance(value, Value):
            calls.append(None)
            continue
        step = None if value.steps is None else value.steps[0]
        most = node.args[2]
        assert isinstance(most, int)
        ran = [each.step for each in calls if each is not None and each.name == value.node]
        if node.args[4] and step != len(ran):
            raise UnsupportedError(
                f"{value.node}: remembers, and is given step {step} when it runs for the {ordinal(len(ran) + 1)} time; "
                f"let the loop take the steps in order, each once ({user_line(node)})"
            )
        call = LevelCall(value.node, step, value.layout, value.shape, most)
        if node.target is torch.ops.resformer.written.default:
            given: tuple[Any, ...] = node.args
            call = replace(call, keep=given[4], threshold=given[5], soft=given[7])
        calls.append(call)
    return tuple(calls)
