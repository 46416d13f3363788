"""Neurons that the code writes out in a loop over time, recognised by the recurrence that torch.export unrolls.

    mem = mem * decay * (1 - spike) + x[t]    or    mem = (mem - spike * thresh) * decay + x[t]
    spike = (mem > thresh).float()            or    >=, or a comparison of mem - thresh with 0

``stand_ins`` finds each comparison whose potential is the sum of an input and what the step before left, and replaces
the comparison by an operation that stands for one step of a population.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn

from resformer.compiler.frontend.module.constants import FILLS
from resformer.compiler.frontend.module.counts import gained
from resformer.compiler.frontend.module.filled import MADE_EMPTY
from resformer.compiler.frontend.module.populations import fire_once
from resformer.compiler.frontend.module.values import Tracing, Value
from resformer.compiler.ir.primitives import DiscreteCubaLIF, constant

COMPARISONS: Mapping[str, str] = {"aten.gt.Scalar": ">", "aten.ge.Scalar": ">="}
"""The comparisons by which neurons that the code writes out are recognised, and the ``fires_at`` of each."""

STANDS = frozenset({"resformer.levels.default", "resformer.written.default"})
"""The operations that stand for neurons that the code writes out."""

SAME = frozenset({"aten.detach.default", "aten.alias.default", "aten.clone.default", "aten.contiguous.default"})
"""The operations that pass on their values unchanged."""

PASSED_ON = SAME | {
    *("aten.to.dtype", "aten.to.dtype_layout", "aten._to_copy.default", "aten.to.other", "aten.to.device"),
}
"""The operations that pass on their values, perhaps in another type; whole numbers hold spikes, but not potentials."""


@torch.library.custom_op("resformer::written", mutates_args=())
def _written(
    current: torch.Tensor,  # noqa: ARG001
    path: str,
    most: int,  # noqa: ARG001
    even: bool,  # noqa: ARG001
    keep: float,  # noqa: ARG001
    threshold: float,  # noqa: ARG001
    fires_at: str,  # noqa: ARG001
    soft: bool,  # noqa: ARG001
) -> torch.Tensor:
    """Stands for one step of a population in a traced module; the first arguments are those of ``levels``."""
    raise AssertionError(f"{path}: is only traced")


@_written.register_fake
def _(
    current: torch.Tensor,
    path: str,  # noqa: ARG001
    most: int,  # noqa: ARG001
    even: bool,  # noqa: ARG001
    keep: float,  # noqa: ARG001
    threshold: float,  # noqa: ARG001
    fires_at: str,  # noqa: ARG001
    soft: bool,  # noqa: ARG001
) -> torch.Tensor:
    return torch.empty_like(current)


@dataclass(frozen=True)
class _Comparison:
    """A potential that the code compares with a threshold."""

    node: fx.Node
    potential: fx.Node
    threshold: float
    fires_at: str


@dataclass(frozen=True)
class _Step:
    """How a step makes its potential from what the step before it left.

    Attributes:
        current: The input that the step adds.
        keep: The share of the potential that the step keeps.
        soft: Whether a spike takes the threshold from the potential, rather than the whole potential.
    """

    current: fx.Node
    keep: float
    soft: bool


def stand_ins(graph: fx.Graph, varying: Collection[fx.Node], module: nn.Module) -> dict[fx.Node, fx.Node]:
    """Replace each population that the code writes out by one operation per step.

    Args:
        graph: The graph of the traced operations, which is changed.
        varying: The operations that depend on the input.
        module: The module that was traced.

    Returns:
        The operation that stands for each comparison by which neurons fire; other comparisons are left out.
    """
    found = [each for node in graph.nodes if node in varying and (each := _comparison(node)) is not None]
    behind: dict[fx.Node, tuple[_Comparison, _Step]] = {}
    for each in found:
        for other in found:
            step = None if other.node is each.node else _step(each.potential, other)
            if step is not None and (other.threshold, other.fires_at) == (each.threshold, each.fires_at):
                behind[each.node] = other, step
    chains = [_chain(each, found, behind) for each in found if each.node not in behind]
    made: dict[fx.Node, fx.Node] = {}
    names: list[str] = []
    for chain in chains:
        steps = [behind[each.node][1] for each in chain[1:]]
        if steps and len({(each.keep, each.soft) for each in steps}) == 1:
            first = _first(chain[0].potential)
            currents = [first, *(each.current for each in steps)]
            name = _name(chain[0].node, module, names)
            for each, current in zip(chain, currents, strict=True):
                made[each.node] = _put(graph, each, current, name, steps[0])
    for node in reversed(list(made)):
        forget(graph, node)
    return made


def _chain(
    first: _Comparison, found: list[_Comparison], behind: Mapping[fx.Node, tuple[_Comparison, _Step]]
) -> list[_Comparison]:
    """The comparisons of one population, step by step; only the first if several could follow one."""
    chain = [first]
    while True:
        later = [each for each in found if each.node in behind and behind[each.node][0] is chain[-1]]
        if len(later) != 1:
            return chain if not later else [first]
        chain.append(later[0])


def _name(node: fx.Node, module: nn.Module, taken: list[str]) -> str:
    """A unique name for a population: the path of the module that it is, or that its code is in."""
    stack = list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())
    path = str(stack[-1][0])
    if next(module.get_submodule(path).children(), None) is not None:
        path = f"{path}.neurons".removeprefix(".")
    unique, count = path or "neurons", 1
    while unique in taken:
        unique, count = f"{path}.{count}", count + 1
    taken.append(unique)
    return unique


def _put(graph: fx.Graph, compared: _Comparison, current: fx.Node, name: str, step: _Step) -> fx.Node:
    """Insert the operation that stands for one step, and let all readers of the comparison read it."""
    with graph.inserting_after(compared.node):
        arguments = (current, name, 1, False, step.keep, compared.threshold, compared.fires_at, step.soft)
        made = graph.call_function(torch.ops.resformer.written.default, arguments)
    made.meta = {**compared.node.meta, "val": current.meta["val"]}
    compared.node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
    return made


def _comparison(node: fx.Node) -> _Comparison | None:
    """A comparison of a potential with a threshold, or of their difference with zero; None if it is neither."""
    fires_at = COMPARISONS.get(str(node.target))
    if fires_at is None or not isinstance(node.args[0], fx.Node) or not isinstance(node.args[1], int | float):
        return None
    potential, threshold = passed(node.args[0]), float(node.args[1])
    if str(potential.target) == "aten.sub.Tensor" and threshold == 0 and not potential.kwargs:
        inner, less = potential.args
        if isinstance(inner, fx.Node) and isinstance(less, int | float):
            potential, threshold = passed(inner), float(less)
    return _Comparison(node, potential, threshold, fires_at) if threshold > 0 else None


def passed(node: fx.Node) -> fx.Node:
    """The value behind operations that only pass it on; casting a potential to whole numbers makes another value."""
    if str(node.target) not in PASSED_ON or not isinstance(node.args[0], fx.Node):
        return node
    source = passed(node.args[0])
    holds = node.meta["val"].dtype.is_floating_point or source.meta["val"].dtype is torch.bool
    return source if holds else node


def _first(potential: fx.Node) -> fx.Node:
    """The input of the first step, to which the code may add a value that is zero."""
    if str(potential.target) == "aten.add.Tensor" and not potential.kwargs:
        for one, other in (potential.args, potential.args[::-1]):
            if isinstance(one, fx.Node) and isinstance(other, fx.Node) and _is_zero(other):
                return one
    return potential


def _is_zero(given: object) -> bool:
    """Whether the operations that compute a value show that it is zero."""
    if not isinstance(given, fx.Node):
        return isinstance(given, int | float) and given == 0
    kind = str(given.target)
    if kind in MADE_EMPTY:
        return "zeros" in kind
    if FILLS.get(kind) == 0 or (kind in PASSED_ON and _is_zero(given.args[0])):
        return True
    if kind == "aten.mul.Tensor":
        return any(map(_is_zero, given.args))
    return kind in ("aten.add.Tensor", "aten.sub.Tensor") and all(map(_is_zero, given.args))


def _step(potential: fx.Node, before: _Comparison) -> _Step | None:
    """A potential as the sum of an input and what the step of ``before`` left; None if it is something else."""
    if str(potential.target) != "aten.add.Tensor" or potential.kwargs:
        return None
    for left, current in (potential.args, potential.args[::-1]):
        if isinstance(left, fx.Node) and isinstance(current, fx.Node):
            keep, factors = _factors(left)
            kept = [each for each in factors if each is not before.potential]
            if len(factors) == 2 and len(kept) == 1 and _is_rest(kept[0], before) and 0 < keep <= 1:
                return _Step(current, keep, soft=False)
            if len(factors) == 1 and _is_lowered(factors[0], before) and 0 < keep <= 1:
                return _Step(current, keep, soft=True)
    return None


def _factors(node: fx.Node) -> tuple[float, list[fx.Node]]:
    """The factors of a product: the product of its numbers, and its other values."""
    node = passed(node)
    if str(node.target) != "aten.mul.Tensor" or node.kwargs:
        return 1.0, [node]
    number, factors = 1.0, list[fx.Node]()
    for each in node.args:
        if isinstance(each, int | float):
            number *= float(each)
        elif isinstance(each, fx.Node):
            inner, more = _factors(each)
            number *= inner
            factors += more
    return number, factors


def _is_spike(given: object, before: _Comparison) -> bool:
    return isinstance(given, fx.Node) and passed(given) is before.node


def _is_rest(node: fx.Node, before: _Comparison) -> bool:
    """Whether a value is 1 - spike."""
    if node.kwargs:
        return False
    if str(node.target) == "aten.rsub.Scalar":
        return _is_spike(node.args[0], before) and node.args[1:] in ((1,), (1.0,))
    # ~ of a whole number n is -1 - n, so only ~ of a bool counts
    kind, is_bool = str(node.target), node.meta["val"].dtype is torch.bool
    inverts = kind == "aten.logical_not.default" or (kind == "aten.bitwise_not.default" and is_bool)
    return inverts and _is_spike(node.args[0], before)


def _is_lowered(node: fx.Node, before: _Comparison) -> bool:
    """Whether a value is the potential minus the threshold where the neurons fired."""
    if str(node.target) != "aten.sub.Tensor" or node.kwargs or not isinstance(node.args[0], fx.Node):
        return False
    height, spikes = _factors(node.args[1]) if isinstance(node.args[1], fx.Node) else (0.0, [])
    is_spike = len(spikes) == 1 and _is_spike(spikes[0], before)
    return passed(node.args[0]) is before.potential and is_spike and height == before.threshold


def forget(graph: fx.Graph, replaced: fx.Node) -> None:
    """Erase an operation that was replaced, and those that only it read, except those that stand for neurons."""
    ahead = [replaced]
    while ahead:
        node = ahead.pop()
        for user in [each for each in node.users if str(each.target) in PASSED_ON and not each.users]:
            graph.erase_node(user)
        for user in [each for each in node.users if str(each.target).startswith("aten._assert")]:
            graph.erase_node(user)
        if node.users or node.op != "call_function" or str(node.target) in STANDS:
            continue
        sources = node.all_input_nodes
        graph.erase_node(node)
        ahead += [each for each in sources if each not in ahead]


def written(
    tracing: Tracing,
    node: fx.Node,
    x: object,
    name: str,
    _most: int,
    _even: bool,
    keep: float,
    threshold: float,
    fires_at: str,
    soft: bool,
) -> Value:
    """One step of neurons that the code writes out."""

    def population(tracing: Tracing, node: fx.Node, value: Value, name: str) -> Value:
        value, factor = gained(tracing, value)
        height, shape = constant(threshold / factor, value.shape), value.shape
        op = DiscreteCubaLIF(
            syn_decay=constant(1.0, shape),
            mem_decay=constant(1 - keep, shape),
            v_threshold=height,
            v_bias=constant(0.0, shape),
            v_drop=height if soft else constant(0.0, shape),
            soft_reset=soft,
            metadata={"fires_at": fires_at},
        )
        return tracing.elementwise(node, name, op, value)

    return fire_once(tracing, node, tracing.stepwise(node, x), name, population)
