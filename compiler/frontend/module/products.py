"""Products of spikes with currents, as in code of Dual Spike Self-Attention (DSSA), and products with constants.

Products of spikes with spikes are in ``counts``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import nir
import torch
from torch import fx

from resformer.compiler.frontend.module.counts import counted, is_counted, scaled, shared_lead
from resformer.compiler.frontend.module.gates import both
from resformer.compiler.frontend.module.layout import Layout, atoms, whole
from resformer.compiler.frontend.module.rows import whole_of
from resformer.compiler.frontend.module.values import Tracing, Value
from resformer.compiler.ir.primitives import NEURONS, SCALED_BY, UNIT, SpikeMatMul

if TYPE_CHECKING:
    from resformer.compiler.ir.arrays import Shape

REMEDY = (
    "one operand must be spikes, the other a current, split into heads by the first factor of its channels: y^T x of "
    "(heads, d, h * w) and (heads, d, H * W), or y s of (heads, d, h * w) and (heads, h * w, H * W)"
)


def product(tracing: Tracing, node: fx.Node, x: object, y: object) -> Value:
    """A matrix product of spikes and a current for each head, with the axes in any order."""
    return _product(tracing, node, tracing.stepwise(node, x), tracing.stepwise(node, y))


def named_product(tracing: Tracing, node: fx.Node, equation: str, operands: list[fx.Node], **_more: object) -> Value:
    """A matrix product as ``einsum`` writes it: it sums over one shared axis and keeps the other shared axes."""
    inputs, arrow, wanted = equation.replace(" ", "").partition("->")
    names = inputs.split(",")
    if not arrow or len(names) != 2 or "." in equation or any(len(set(each)) < len(each) for each in (*names, wanted)):
        raise tracing.refusal(node, f"no lowering for einsum {equation!r}", "write a product of two, all axes named")
    first, second = names
    shared = [each for each in first if each in second and each in wanted]
    summed = [each for each in first if each in second and each not in wanted]
    own = [[each for each in name if each not in other] for name, other in ((first, second), (second, first))]
    if (
        len(summed) != 1
        or [len(each) for each in own] != [1, 1]
        or sorted(wanted) != sorted([*shared, *own[0], *own[1]])
    ):
        raise tracing.refusal(
            node,
            f"no lowering for einsum {equation!r}",
            "sum over one axis that both operands have, each having one more of its own",
        )
    left, right = (tracing.stepwise(node, each) for each in operands)
    left = _ordered(left, first, [*shared, *own[0], *summed])
    right = _ordered(right, second, [*shared, *summed, *own[1]])
    return _ordered(_product(tracing, node, left, right), "".join([*shared, *own[0], *own[1]]), list(wanted))


def _ordered(value: Value, names: str, wanted: list[str]) -> Value:
    """A value whose axes are called ``names``, with these axes in the order ``wanted``."""
    return replace(value, layout=value.layout.permuted([names.index(each) for each in wanted]))


def _product(tracing: Tracing, node: fx.Node, left: Value, right: Value) -> Value:
    of_spikes = counted(tracing, node, left, right)
    if of_spikes is not None:
        return of_spikes
    firing = [isinstance(tracing.draft.nodes[each.node].op, NEURONS) for each in (left, right)]
    if not any(firing):
        raise tracing.refusal(node, "no lowering for a product of currents with currents", REMEDY)
    made = _spikes_times_current(tracing, node, left, right, spikes_left=firing[0])
    if made is None:
        raise tracing.refusal(
            node,
            f"no lowering for a product of {left.layout} of {left.node} {left.shape} with {right.layout} of "
            f"{right.node} {right.shape}",
            REMEDY,
        )
    return made


def _spikes_times_current(
    tracing: Tracing, node: fx.Node, left: Value, right: Value, *, spikes_left: bool
) -> Value | None:
    """The product, if it is one of DSSA's two products; else None."""
    y, gate = (right, left) if spikes_left else (left, right)
    if min(len(left.layout.axes), len(right.layout.axes)) < 3 or len(y.shape) != 3 or len(gate.shape) != 3:
        return None
    if not gate.layout.shows_all(gate.shape):
        return None
    # each operand's own axis, and the one that is summed over
    rows, inner = left.layout.axes[-2:]
    inner_right, columns = right.layout.axes[-2:]
    y_own, y_inner, gate_own, gate_inner = (
        (columns, inner_right, rows, inner) if spikes_left else (rows, inner, columns, inner_right)
    )
    lead, y_heads, gate_heads = shared_lead(y.layout.axes[:-2], gate.layout.axes[:-2])
    if lead is None or len(y_heads) > 1 or len(gate_heads) > 1:
        return None
    heads = math.prod(atom.size for atom in y_heads)
    pixels, channels = whole(y.shape, (1, 2)), y.shape[0]
    transpose = y_own == pixels
    per_head = math.prod(atom.size for atom in (y_inner if transpose else y_own))
    part = _part_of(y, heads, per_head) if y_heads == atoms(0, heads, channels // heads) else None
    if part is None:
        y = whole_of(tracing, node, y)
        channels, part = y.shape[0], _part_of(y, heads, per_head)
    if part is None or y_heads != atoms(0, heads, channels // heads):
        return None
    count = math.prod(y.shape[1:])
    if transpose:
        wanted = (atoms(0, heads, per_head), atoms(0, per_head), whole(gate.shape, (1, 2)))
        if y_inner != atoms(0, per_head) or (gate_heads, gate_inner, gate_own) != wanted:
            return None
        if gate.shape[0] != heads * per_head:
            return None
        grid: Shape = gate.shape[1:]
        shape: Shape = (heads, count, math.prod(grid))
        of_y, of_gate = atoms(1, count), atoms(2, shape[2])
    else:
        if y_own != atoms(0, per_head) or y_inner != pixels:
            return None
        if (gate_heads, gate_inner, gate_own) != (atoms(0, heads), atoms(1, count), atoms(2, gate.shape[2])):
            return None
        if gate.shape[:2] != (heads, count):
            return None
        grid = tracing.grids.get(gate.node, (gate.shape[2], 1))
        shape = (heads * per_head, *grid)
        of_y, of_gate = atoms(0, per_head), whole(shape, (1, 2))
    op = SpikeMatMul(num_heads=heads, transpose=transpose, part=part)
    name = tracing.add(node, tracing.name(node), op, y.node, gate.node, shape=shape)
    if transpose:
        tracing.grids[name] = grid
    over_heads = atoms(0, heads, 1 if transpose else per_head)
    batch = tuple((*before, *over_heads) if holds_heads else before for before, holds_heads in lead)
    own = (of_gate, of_y) if spikes_left else (of_y, of_gate)
    return Value(name, shape, Layout((*batch, *own)), made_by=node)


def _part_of(y: Value, heads: int, per_head: int) -> str | None:
    """The part of each head's channels that a product reads, as ``SpikeMatMul`` names it; None for any other part."""
    others = any(dim != 0 for dim, _ in y.layout.starts)
    if others or not per_head or y.shape[0] % heads:
        return None
    held, start = y.shape[0] // heads, y.layout.start(0)
    return {(per_head, 0): "all", (2 * per_head, 0): "y1", (2 * per_head, per_head): "y2"}.get((held, start))


def multiplied(tracing: Tracing, node: fx.Node, x: object, y: object) -> Value:
    """A product of a value and a constant, which scales it, or of spikes and spikes."""
    if y in tracing.values and x in tracing.values:
        return both(tracing, node, x, y)
    given, constant = (x, y) if x in tracing.values else (y, x)
    return _scaled(tracing, node, tracing.value(node, given), tracing.constants.value(constant), constant)


def divided(tracing: Tracing, node: fx.Node, x: object, y: object) -> Value:
    """A value divided by a constant, as a product with the reciprocal, which is exact for powers of two."""
    if x not in tracing.values or y in tracing.values:
        raise tracing.refusal(
            node, "no lowering for div by a value of the network", "divide products of spikes by constants alone"
        )
    return _scaled(tracing, node, tracing.value(node, x), 1 / tracing.constants.value(y).double(), y)


def wraps(node: fx.Node) -> bool:
    """Whether an operation makes bools or unsigned numbers, which hold no number below zero."""
    kind = node.meta["val"].dtype
    return kind is torch.bool or not (kind.is_floating_point or kind.is_signed)


def check_kind(tracing: Tracing, node: fx.Node) -> None:
    """Refuse arithmetic with constants, and differences, in types that wrap around."""
    if wraps(node):
        name = str(node.meta["val"].dtype).removeprefix("torch.")
        raise tracing.refusal(node, f"computes in {name}, which wraps around", "compute in floats: x.to(y.dtype)")


def _scaled(tracing: Tracing, node: fx.Node, value: Value, constant: torch.Tensor, argument: object) -> Value:
    """A value times a constant."""
    if not constant.isfinite().all():
        raise tracing.refusal(
            node,
            "multiplies by a constant that is not finite, such as the reciprocal of a firing rate of zero",
            "train the network until every head fires",
        )
    if (constant == 1).all() and constant.dim() == 0:
        return value
    check_kind(tracing, node)
    if value.over_time is not None and constant.numel() == 1 and constant > 0:
        return replace(value, over_time=value.over_time * float(constant))
    scale = value.layout.spread(constant, value.shape) if value.layout.shows_all(value.shape) else None
    if scale is None:
        raise tracing.refusal(
            node,
            f"no lowering for mul of {value.layout} by a constant of shape {tuple(constant.shape)}",
            "scale each head, or each channel, by one number, the same for all samples and steps",
        )
    if is_counted(tracing, value.node) and (scale == scale.flat[0]).all():
        return scaled(tracing, node, value, float(scale.flat[0]))
    if not isinstance(tracing.draft.nodes[value.node].op, SpikeMatMul):
        return tracing.elementwise(node, tracing.name(node), nir.Scale(scale), value)
    unit = tracing.constants.unit(argument)
    metadata = {} if unit is None else {SCALED_BY: unit[0], UNIT: unit[1]}
    return tracing.elementwise(node, tracing.name(node), nir.Scale(scale, metadata=metadata), value)
