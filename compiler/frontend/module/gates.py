"""Products, maxima and minima of spikes: gates without memory."""

from __future__ import annotations

import math
from dataclasses import replace

import nir
import numpy as np
import torch
from torch import fx

from resformer.compiler.frontend.module.values import Tracing, Value
from resformer.compiler.ir.messages import sends_spikes
from resformer.compiler.ir.primitives import (
    FIXED,
    NEURONS,
    Add,
    BatchNorm2d,
    SampleDelay,
    SpikeGate,
    constant,
)


def both(tracing: Tracing, node: fx.Node, x: object, y: object) -> Value:
    """Spikes where both operands fire, x * y; an operand may be spikes, or the complement of spikes, 1 - spikes."""
    left, right = _spikes(tracing, node, x), _spikes(tracing, node, y)
    if left[1] and right[1]:
        neither = _gate(tracing, node, "or", left[0], right[0])
        return complement(tracing, node, neither)
    if left[1]:
        left, right = right, left
    if left[0] == right[0] and not right[1]:
        return left[0]
    return _gate(tracing, node, "iand" if right[1] else "and", left[0], right[0])


def either(tracing: Tracing, node: fx.Node, x: object, y: object) -> Value:
    """Spikes where either operand fires."""
    left, right = _spikes(tracing, node, x), _spikes(tracing, node, y)
    if left[1] or right[1]:
        raise tracing.refusal(node, "takes the larger of a spike and 1 less one", "write it as a product of spikes")
    return left[0] if left[0] == right[0] else _gate(tracing, node, "or", left[0], right[0])


def at_most_one(
    tracing: Tracing, node: fx.Node, x: object, least: float | None = None, most: float | None = None
) -> Value:
    """A sum of two spikes, clamped to one: spikes where either fires."""
    value = tracing.stepwise(node, x)
    total = tracing.draft.nodes[value.node]
    if least not in (None, 0) or most != 1:
        raise tracing.refusal(node, f"clamps values to {least} and {most}", "clamp sums of two spikes to 1 at most")
    if sends_spikes(tracing.draft.nodes, value.node):
        return value
    if (
        not isinstance(total.op, Add)
        or len(total.inputs) != 2
        or not all(sends_spikes(tracing.draft.nodes, each) for each in total.inputs)
    ):
        raise tracing.refusal(node, f"clamps {value.node}, which is no sum of two spikes", "clamp sums of two spikes")
    return _gate(tracing, node, "or", *(value.of(each) for each in total.inputs))


def union(tracing: Tracing, node: fx.Node, x: Value, y: Value) -> Value | None:
    """a + b - a b, as spikes where either a or b fires; None for other differences."""
    total, overlap = tracing.draft.nodes[x.node], tracing.draft.nodes[y.node]
    if not isinstance(total.op, Add) or not isinstance(overlap.op, SpikeGate) or overlap.op.kind != "and":
        return None
    if sorted(total.inputs) != sorted(overlap.inputs) or x.layout != y.layout:
        return None
    return _gate(tracing, node, "or", *(x.of(each) for each in overlap.inputs))


def complement(tracing: Tracing, node: fx.Node, x: object) -> Value:
    """The complement of spikes: 1 - spikes."""
    value = x if isinstance(x, Value) else tracing.stepwise(node, x)
    made = tracing.elementwise(node, tracing.name(node), nir.Scale(constant(-1.0, value.shape)), value)
    ones = np.ones(value.shape[0])
    op = BatchNorm2d(ones, ones, 0 * ones, ones, eps=0.0)
    op.metadata[FIXED] = 1
    return tracing.elementwise(node, tracing.name(node), op, made)


def inverted(tracing: Tracing, node: fx.Node, x: object) -> Value:
    """``logical_not`` of spikes, or ``~`` of spikes that are bools: 1 - spikes."""
    value = tracing.stepwise(node, x)
    kind = node.meta["val"].dtype
    if not is_binary(tracing, value.node):
        raise tracing.refusal(node, f"inverts {value.node}, which is no spike", "invert what neurons send")
    if kind is not torch.bool:
        # ~ of a whole number n is -1 - n
        name = str(kind).removeprefix("torch.")
        raise tracing.refusal(
            node, f"inverts the bits of spikes that are {name}", "write 1 - spikes, or ~spikes.bool()"
        )
    return complement(tracing, node, value)


def sends(tracing: Tracing, name: str) -> bool:
    """Whether a node's values are the input or what neurons send."""
    node = tracing.draft.nodes[name]
    if isinstance(node.op, nir.Flatten | SampleDelay):
        return sends(tracing, node.inputs[0])
    return isinstance(node.op, (nir.Input, SpikeGate, *NEURONS))


def is_binary(tracing: Tracing, name: str) -> bool:
    """Whether a node's values are spikes, or the complement of spikes."""
    return sends_spikes(tracing.draft.nodes, name) or _negated(tracing, name) is not None


def _negated(tracing: Tracing, name: str) -> str | None:
    """The name of the spikes whose complement a node makes; None if it makes something else."""
    shifted = tracing.draft.nodes[name]
    if not isinstance(shifted.op, BatchNorm2d) or FIXED not in shifted.op.metadata:
        return None
    negative = tracing.draft.nodes[shifted.inputs[0]]
    one = (shifted.op.bias == 1).all() and isinstance(negative.op, nir.Scale) and (negative.op.scale == -1).all()
    return negative.inputs[0] if one and sends_spikes(tracing.draft.nodes, negative.inputs[0]) else None


def _spikes(tracing: Tracing, node: fx.Node, argument: object) -> tuple[Value, bool]:
    """The spikes of an argument, and whether the argument is their complement."""
    value = tracing.stepwise(node, argument)
    negated = _negated(tracing, value.node)
    if negated is not None:
        return value.of(negated), True
    if not sends_spikes(tracing.draft.nodes, value.node):
        raise tracing.refusal(
            node,
            f"multiplies {value.node}, which is no spike, by another value of the network",
            "multiply spikes by spikes, or by 1 - spikes, or write attention as matrix products",
        )
    return value, False


def _gate(tracing: Tracing, node: fx.Node, kind: str, left: Value, right: Value) -> Value:
    whole, part = (left, right) if math.prod(left.shape) >= math.prod(right.shape) else (right, left)
    if left.steps != right.steps or not _spreads(part, whole):
        raise tracing.refusal(
            node,
            f"combines spikes {left.named_axes} of {left.shape} and {right.named_axes} of {right.shape}",
            "give it spikes of one shape, laid out alike, or some that stand for all pixels or all channels of a head",
        )
    return whole.of(tracing.elementwise(node, tracing.name(node), SpikeGate(kind), left, right).node)


def _spreads(part: Value, whole: Value) -> bool:
    """Whether a gate broadcasts ``part`` over ``whole`` as the code does: over a group's channels, rows or columns."""
    if (part.layout, part.shape) == (whole.layout, whole.shape):
        return True
    if len(part.shape) != len(whole.shape) or len(part.layout.axes) != len(whole.layout.axes):
        return False
    if not (part.layout.shows_all(part.shape) and whole.layout.shows_all(whole.shape)):
        return False
    ratios = [have // had if have % had == 0 else 0 for have, had in zip(whole.shape, part.shape, strict=True)]
    if 0 in ratios or any(ratio > 1 and had > 1 for ratio, had in zip(ratios[1:], part.shape[1:], strict=True)):
        return False
    for own, each in zip(whole.layout.axes, part.layout.axes, strict=True):
        # one channel of the part stands for ratios[0] consecutive channels of the whole
        wider = tuple(replace(atom, stride=atom.stride * ratios[0]) if atom.dim == 0 else atom for atom in each)
        spread = not each and all(atom.dim >= 0 and (atom.dim > 0 or atom.stride < ratios[0]) for atom in own)
        if wider != own and not spread:
            return False
    return True
