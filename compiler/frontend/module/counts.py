"""Products of spikes with spikes; two in a row are attention of counts, as in Spikformer's code.

The first product has no lowering of its own: only the second product reads its node, which the finished graph then
drops. Constants that scale the spikes, the first product or the result are multiplied into one factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import nir
import numpy as np
from torch import fx

from resformer.compiler.frontend.module.layout import Atom, Axis, Layout, atoms, whole
from resformer.compiler.frontend.module.tracing import user_line
from resformer.compiler.frontend.module.values import Tracing, Value
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.messages import sends_counts
from resformer.compiler.ir.primitives import ATTENTION_SHIFT_MAX, SpikeAttention, collapse, constant
from resformer.errors import UnsupportedError

REMEDY = (
    "write attention of spikes as q @ (k^T @ v) or (q @ k^T) @ v, each of q, k and v all channels of neurons of its "
    "own, split into heads by the first factor of its channels: (..., heads, h * w, d)"
)

SCALED_AT = "scaled_at"
"""In the metadata of a factor of attention: the line of code that scales by it."""


@dataclass(eq=False)
class SpikePairs(nir.NIRNode):
    """The first of attention's two products, of shape (heads, rows, columns); no finished graph contains it.

    Attributes:
        of_tokens: Whether rows and columns are tokens, and the product sums over channels; if not, rows and columns
            are channels, and it sums over tokens.
        line: The line of code that makes the product.
    """

    of_tokens: bool
    line: str

    def __post_init__(self) -> None:
        self.input_type, self.output_type = {"input": None}, {"output": None}


def counted(tracing: Tracing, node: fx.Node, left: Value, right: Value) -> Value | None:
    """A product of spikes with spikes, or of spikes with such a product; None if it is neither.

    Raises:
        UnsupportedError: The product is one of these, but not a part of attention.
    """
    operands, factors = zip(*(unscaled(tracing, each) for each in (left, right)), strict=True)
    ops = [tracing.draft.nodes[each.node].op for each in operands]
    sent = [sends_counts(tracing.draft.nodes, each.node) for each in operands]
    pairs = [isinstance(op, SpikePairs) for op in ops]
    if all(sent):
        made = _pairs(tracing, node, *operands)
    elif any(sent) and any(pairs):
        made = _attention(tracing, node, *operands, spikes_left=sent[0])
    elif any(pairs):
        made = None
    else:
        return None
    if made is None:
        raise tracing.refusal(
            node,
            f"no lowering for a product of spikes with spikes, or with what is made of them, laid out as {left.layout} "
            f"of {left.node} {left.shape} and {right.layout} of {right.node} {right.shape}",
            REMEDY,
        )
    return scaled(tracing, node, made, math.prod(factors))


def unscaled(tracing: Tracing, value: Value) -> tuple[Value, float]:
    """A value without the scalar factors that the code multiplied it by, and the product of these factors."""
    name, factor = value.node, 1.0
    while isinstance(op := tracing.draft.nodes[name].op, nir.Scale) and np.unique(collapse(op.scale)).size == 1:
        factor *= float(collapse(op.scale).flat[0])
        (name,) = tracing.draft.nodes[name].inputs
    return (value, 1.0) if factor == 1 else (value.of(name), factor)


def scaled(tracing: Tracing, node: fx.Node, value: Value, factor: float) -> Value:
    """Pairs or attention times a number: it becomes the attention's shift if possible, else a Scale for the neurons."""
    if factor == 1:
        return value
    made = tracing.draft.nodes[value.node]
    mantissa, exponent = math.frexp(factor)
    if isinstance(made.op, SpikeAttention) and mantissa == 0.5:
        shift = made.op.shift + 1 - exponent
        if 0 <= shift <= ATTENTION_SHIFT_MAX:
            op = SpikeAttention(made.op.num_heads, shift)
            return value.of(tracing.add(node, tracing.name(node), op, *made.inputs))
    scale = constant(factor, value.shape)
    return tracing.elementwise(node, tracing.name(node), nir.Scale(scale, metadata={SCALED_AT: user_line(node)}), value)


def is_counted(tracing: Tracing, name: str) -> bool:
    """Whether a node is attention of counts or its first product, scaled or not."""
    node = tracing.draft.nodes[name]
    if isinstance(node.op, nir.Scale):
        return is_counted(tracing, node.inputs[0])
    return isinstance(node.op, SpikeAttention | SpikePairs)


def gained(tracing: Tracing, value: Value) -> tuple[Value, float]:
    """What neurons read, without a factor of attention, and this factor, which can become part of the neurons' gain."""
    found, factor = unscaled(tracing, value)
    if factor > 0 and isinstance(tracing.draft.nodes[found.node].op, SpikeAttention):
        return found, factor
    return value, 1.0


def check_products(needed: Mapping[str, Node[nir.NIRNode]]) -> None:
    """Check that every first product has a second product, and that no factor of attention is left.

    Raises:
        UnsupportedError: A first product has no second product, or a factor is left.
    """
    for name, node in needed.items():
        if isinstance(node.op, SpikePairs):
            raise UnsupportedError(
                f"{name}: no lowering for a product of spikes with spikes alone; {REMEDY} ({node.op.line})"
            )
        if isinstance(node.op, nir.Scale) and isinstance(needed[node.inputs[0]].op, SpikeAttention):
            factors = np.unique(collapse(node.op.scale))
            shown = f"{factors[0]:.6g}" if factors.size == 1 else f"{factors[0]:.6g} to {factors[-1]:.6g}"
            raise UnsupportedError(
                f"{name}: scales {node.inputs[0]} by {shown}; a factor of attention must be one of 1, 1/2, ... "
                f"1/{2**ATTENTION_SHIFT_MAX}, or one positive number whose result LIF or IF neurons alone read, so "
                f"choose such a scale or put neurons behind it ({node.op.metadata.get(SCALED_AT, 'forward')})"
            )


def _pairs(tracing: Tracing, node: fx.Node, left: Value, right: Value) -> Value | None:
    """The first product, tokens by tokens or channels by channels for each head; None if it is neither."""
    lead, heads, others = shared_lead(left.layout.axes[:-2], right.layout.axes[:-2])
    if lead is None or heads_of(heads, left) != heads_of(others, right):
        return None
    count = heads_of(heads, left)
    if count is None:
        return None
    depths = [each.shape[0] // count for each in (left, right)]
    tokens = [math.prod(each.shape[1:]) for each in (left, right)]
    if (
        depths[0] == depths[1]
        and _is_laid_out(left, count, tokens_last=False)
        and _is_laid_out(right, count, tokens_last=True)
    ):
        of_tokens, sizes = True, tokens
    elif (
        left.shape[1:] == right.shape[1:]
        and _is_laid_out(left, count, tokens_last=True)
        and _is_laid_out(right, count, tokens_last=False)
    ):
        of_tokens, sizes = False, depths
    else:
        return None
    shape = (count, *sizes)
    op = SpikePairs(of_tokens, user_line(node))
    name = tracing.add(node, tracing.name(node), op, left.node, right.node, shape=shape)
    layout = Layout((*_with_heads(lead, atoms(0, count)), atoms(1, shape[1]), atoms(2, shape[2])))
    return Value(name, shape, layout, made_by=node)


def _attention(tracing: Tracing, node: fx.Node, left: Value, right: Value, *, spikes_left: bool) -> Value | None:
    """The second product, which makes attention; None if the operands do not fit."""
    spikes, pairs = (left, right) if spikes_left else (right, left)
    made = tracing.draft.nodes[pairs.node]
    assert isinstance(made.op, SpikePairs)
    lead, of_spikes, of_pairs = shared_lead(spikes.layout.axes[:-2], pairs.layout.axes[:-2])
    heads, rows, columns = pairs.shape
    if lead is None or heads_of(of_spikes, spikes) != heads or of_pairs != atoms(0, heads):
        return None
    if not pairs.layout.shows_all(pairs.shape):
        return None
    # the sum runs over the tokens or channels that the pairs have as rows and columns
    if not _is_laid_out(spikes, heads, tokens_last=spikes_left == made.op.of_tokens):
        return None
    summed, kept = pairs.layout.axes[-2:] if spikes_left else pairs.layout.axes[:-3:-1]
    if (kept, summed) == (atoms(1, rows), atoms(2, columns)):
        own, other = made.inputs
    elif (kept, summed) == (atoms(2, columns), atoms(1, rows)):
        other, own = made.inputs
    else:
        return None
    shape = tracing.draft.shape
    if made.op.of_tokens:
        q, k, v = own, other, spikes.node
        fits = shape(k)[1:] == shape(v)[1:]
    else:
        q, k, v = spikes.node, other, own
        fits = shape(k)[0] == shape(q)[0]
    if not fits:
        return None
    name = tracing.add(node, tracing.name(node), SpikeAttention(heads, 0), q, k, v)
    depth = shape(v)[0] // heads
    tokens, channels = whole(shape(q), (1, 2)), atoms(0, depth)
    of_pairs, of_spikes = (tokens, channels) if made.op.of_tokens else (channels, tokens)
    axes = (of_spikes, of_pairs) if spikes_left else (of_pairs, of_spikes)
    return Value(name, shape(name), Layout((*_with_heads(lead, atoms(0, heads, depth)), *axes)), made_by=node)


def shared_lead(left: tuple[Axis, ...], right: tuple[Axis, ...]) -> tuple[list[tuple[Axis, bool]] | None, Axis, Axis]:
    """The axes of time and samples that two operands share, each with whether it holds heads; and the heads of both."""
    if len(left) != len(right):
        return None, (), ()
    lead: list[tuple[Axis, bool]] = []
    heads: tuple[list[Atom], list[Atom]] = ([], [])
    for pair in zip(left, right, strict=True):
        before = [tuple(atom for atom in axis if atom.dim < 0) for axis in pair]
        own = [tuple(atom for atom in axis if atom.dim >= 0) for axis in pair]
        in_order = all((*first, *last) == axis for first, last, axis in zip(before, own, pair, strict=True))
        if before[0] != before[1] or not in_order:
            return None, (), ()
        for found, each in zip(heads, own, strict=True):
            found.extend(each)
        lead.append((before[0], bool(own[0])))
    return lead, tuple(heads[0]), tuple(heads[1])


def heads_of(axis: Axis, value: Value) -> int | None:
    """The number of heads that an axis divides a map's channels into; None if the axis runs over something else."""
    if len(value.shape) != 3 or len(axis) > 1 or not value.layout.shows_all(value.shape):
        return None
    count = math.prod(atom.size for atom in axis)
    fits = value.shape[0] % count == 0 and axis == atoms(0, count, value.shape[0] // count)
    return count if fits else None


def _is_laid_out(value: Value, heads: int, *, tokens_last: bool) -> bool:
    """Whether the last two axes are a head's channels and the tokens; the tokens are last if ``tokens_last``."""
    axes = (atoms(0, value.shape[0] // heads), whole(value.shape, (1, 2)))
    return value.layout.axes[-2:] == (axes if tokens_last else axes[::-1])


def _with_heads(lead: list[tuple[Axis, bool]], heads: Axis) -> tuple[Axis, ...]:
    """The axes before a product's last two: those of ``lead``, with the heads on the axes that hold heads."""
    return tuple((*before, *heads) if holds else before for before, holds in lead)
