"""Sums and differences of values, and of values and constants."""

from __future__ import annotations

from dataclasses import replace

import nir
import numpy as np
import torch
from torch import fx

from resformer.compiler.frontend.module.gates import complement, either, is_binary, union
from resformer.compiler.frontend.module.layout import TIME
from resformer.compiler.frontend.module.products import check_kind, multiplied, wraps
from resformer.compiler.frontend.module.synapses import at_each_step
from resformer.compiler.frontend.module.values import (
    Tracing,
    Value,
)
from resformer.compiler.ir.primitives import (
    FIXED,
    Add,
    BatchNorm2d,
    constant,
)


def added(tracing: Tracing, node: fx.Node, x: object, y: object, *, alpha: float = 1) -> Value:
    """x + alpha y, of two values, or of a value and a constant."""
    if x in tracing.constants or y in tracing.constants or not (isinstance(x, fx.Node) and isinstance(y, fx.Node)):
        if x in tracing.values:
            return _shifted(tracing, node, x, y, alpha=alpha)
        return difference(tracing, node, x, y, alpha=-alpha)
    if node.meta["val"].dtype is torch.bool and alpha == 1:
        # True + True is True
        return either(tracing, node, x, y)
    left, right = tracing.value(node, x), tracing.value(node, y)
    if left.steps is None or right.steps is None:
        # a sum of all steps of a loop is not a value of single steps
        left, right = tracing.settled(node, left), tracing.settled(node, right)
    if left.steps != right.steps and left.over_time is right.over_time is None:
        return _sum_of_steps(tracing, node, left, right, alpha=alpha)
    right = _alike(tracing, node, left, right)
    if left.over_time != right.over_time:
        raise tracing.refusal(
            node,
            f"adds axes {left.named_axes} and {right.named_axes}",
            "add values of single steps, or what is reduced over time in one way",
        )
    if alpha == 1 and (left.layout, left.shape) != (right.layout, right.shape) and left.axes is right.axes is not None:
        left, right = tracing.as_plain(node, left), tracing.as_plain(node, right)
    if alpha == -1:
        return difference(tracing, node, x, y)
    if alpha != 1 or (left.layout, left.shape) != (right.layout, right.shape):
        raise tracing.refusal(
            node,
            f"adds {left.named_axes} of {left.shape} and {right.named_axes} of {right.shape}"
            + (f" times {alpha}" if alpha != 1 else ""),
            "add values of one shape, as they are",
        )
    key = "add", left.node, left.layout, right.node, right.layout, left.over_time
    if left.layout.has(TIME):
        return tracing.elementwise(node, tracing.name(node), Add(), left, right)
    steps, one, other = left.steps, replace(left, steps=None), replace(right, steps=None)
    made = tracing.once(key, lambda: tracing.elementwise(node, tracing.name(node), Add(), one, other))
    return replace(made, steps=steps)


def _alike(tracing: Tracing, node: fx.Node, left: Value, right: Value) -> Value:
    """``right``, scaled if both are multiples of means over time, so that both have the same factor."""
    if not left.over_time or not right.over_time or left.over_time == right.over_time:
        return right
    scale = nir.Scale(constant(right.over_time / left.over_time, right.shape))
    return replace(tracing.elementwise(node, tracing.name(node), scale, right), over_time=left.over_time)


def _sum_of_steps(tracing: Tracing, node: fx.Node, left: Value, right: Value, *, alpha: float) -> Value:
    """A sum of values of several steps of a loop; or of a value of one step and a value that all steps share."""
    if left.steps is None or right.steps is None:
        steps = left.steps or right.steps
        one, other = replace(left, steps=None), replace(right, steps=None)
        key = "add", one.node, one.layout, other.node, other.layout
        if (one.layout, one.shape) != (other.layout, other.shape) or alpha != 1:
            raise tracing.refusal(
                node,
                f"adds {left.named_axes} and {right.named_axes} of one step",
                "add values of one shape, as they are",
            )
        found = tracing.once(key, lambda: tracing.elementwise(node, tracing.name(node), Add(), one, other))
        return replace(found, steps=steps)
    alike = (left.node, left.layout) == (right.node, right.layout)
    if not alike or alpha != 1 or set(left.steps) & set(right.steps):
        raise tracing.refusal(
            node,
            f"adds {left.node} of steps {sorted(left.steps)} to {right.node} of steps {sorted(right.steps)}",
            "let neurons carry what the code takes from one step to the next, and sum what one layer makes of all",
        )
    return replace(left, steps=(*left.steps, *right.steps))


def _shifted(tracing: Tracing, node: fx.Node, x: object, constant: object, *, alpha: float) -> Value:
    """A value plus ``alpha`` times a constant, which is one number, or one number per channel."""
    value, added = tracing.settled(node, tracing.value(node, x)), tracing.constants.value(constant) * alpha
    check_kind(tracing, node)
    if not added.any():
        return value
    spread = value.layout.spread(added, value.shape) if value.layout.shows_all(value.shape) else None
    per_channel = None if spread is None else spread.reshape(value.shape[0], -1)
    if per_channel is None or (per_channel != per_channel[:, :1]).any() or not np.isfinite(per_channel).all():
        raise tracing.refusal(
            node,
            f"adds a constant of shape {tuple(added.shape)} to {value.layout}",
            "add one number a channel, the same for all pixels, samples and steps",
        )
    ones = np.ones(len(per_channel))
    op = BatchNorm2d(ones, per_channel[:, 0].copy(), 0 * ones, ones, eps=0.0)
    op.metadata[FIXED] = 1
    return tracing.elementwise(node, tracing.name(node), at_each_step(value, op), value)


def difference(tracing: Tracing, node: fx.Node, x: object, y: object, *, alpha: float = 1) -> Value:
    """x - alpha y, of two values, or of a value and a constant."""
    if not isinstance(y, fx.Node) or y in tracing.constants:
        return _shifted(tracing, node, x, y, alpha=-alpha)
    if alpha == 1 and x in tracing.values:
        joined = union(tracing, node, tracing.value(node, x), tracing.value(node, y))
        if joined is not None:
            return joined
    if wraps(node) and x == alpha == 1 and is_binary(tracing, tracing.stepwise(node, y).node):
        return complement(tracing, node, y)
    second = multiplied(tracing, node, y, -float(alpha))
    if x not in tracing.values:
        tracing.values[node] = second
        return _shifted(tracing, node, node, x, alpha=1)
    first = tracing.settled(node, tracing.value(node, x))
    second = _alike(tracing, node, first, second)
    if (first.layout, first.shape, first.over_time) != (second.layout, second.shape, second.over_time):
        raise tracing.refusal(
            node,
            f"takes {second.named_axes} of {second.shape} from {first.named_axes} of {first.shape}",
            "use one shape, and single steps or what is reduced over time in one way",
        )
    return tracing.elementwise(node, tracing.name(node), Add(), first, second)


def taken_from(tracing: Tracing, node: fx.Node, x: object, y: object, alpha: float = 1) -> Value:
    """y - alpha x, the difference with its operands exchanged."""
    return difference(tracing, node, y, x, alpha=alpha)


def negative(tracing: Tracing, node: fx.Node, x: object) -> Value:
    """-x."""
    return multiplied(tracing, node, x, -1.0)
