"""Attention of counts: both products of spikes with spikes, as Spikformer's self-attention (arXiv 2209.15425) has them.

Without a softmax, 2^-s (q k^T) v of spikes is a whole number times a power of two, so its two products may be computed
in either order. The shapes decide which order is cheaper (:attr:`AttentionSizes.scores_first`). All kernels that keep
every count exact give the same result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.arrays import Int64Array, Shape, require
from resformer.compiler.ir.interval import Interval
from resformer.compiler.ir.ops.arithmetic import matmul
from resformer.compiler.ir.ops.base import Carried, Op, Outcome
from resformer.compiler.ir.ops.formats import Shapes, Whole
from resformer.compiler.ir.ops.synapses import COUNT_MAX
from resformer.compiler.ir.signal import Signal, SignalKind
from resformer.compiler.target import LOIHI


@dataclass(frozen=True, eq=False)
class SpikeAttention(Op):
    """In each head 2^weight_exp (q k^T) v, of inputs received two steps ago: each product takes one step.

    Inputs are spikes, or counts of them (``MultiSpikeIF``): q of shape (heads * d, H, W), k of (heads * d, h, w) and v
    of (heads * e, h, w). Each head takes its block of channels. Tokens are the positions of a map, and each is a row of
    the matrices q, k and v. The output has the shape (heads * e, H, W).

    Attributes:
        num_heads: Heads, each with its own block of channels.
        weight_exp: The count is multiplied by two to this power, which gives it the scale of the output's current.
        limit: The result is clipped to [-limit, limit], and each clip is counted.
    """

    num_heads: Annotated[int, Whole(1, COUNT_MAX)]
    weight_exp: Annotated[int, Whole(0, LOIHI.graded_max.bit_length())]
    limit: Annotated[int, Whole(0, LOIHI.graded_max)]

    makes: ClassVar[SignalKind | None] = SignalKind.CURRENT
    hop: ClassVar[int] = 2
    clips: ClassVar[bool] = True
    recorded: ClassVar[bool] = True
    counts_operations: ClassVar[bool] = True
    counted_inputs: ClassVar[tuple[int, ...]] = (0, 2)
    holds_bounds: ClassVar[bool] = True

    def terms(self, shapes: Shapes) -> int:
        """See ``Op``; the longer of the two sums."""
        sizes = attention_sizes(shapes.inputs, self.num_heads)
        return max(sizes.keys, sizes.depth)

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``."""
        return attention_shape(inputs, self.num_heads)

    def check_signals(self, inputs: Sequence[Signal]) -> None:
        """See ``Op``."""
        for each in inputs:
            counts = each.kind is SignalKind.GRADED and each.scale_exp == 0
            counts = counts and (each.bounds is None or each.bounds[0] >= 0)
            require(
                each.kind is SignalKind.SPIKE or counts, f"reads a {each.kind.value}, where it takes spikes or counts"
            )

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:
        """See ``Op``; all tokens may fire on all channels, unless an input never fires."""
        highs = [int(each.high.max()) for each in inputs]
        first = attention_sizes(shapes.inputs, self.num_heads).first_product(*highs)
        require(first <= LOIHI.graded_max, f"its first product may count to {first}, beyond {LOIHI.graded_max}")
        most = self._most(highs, shapes)
        return Interval.between(0, most << self.weight_exp).clip(self.limit)

    def sums(self, inputs: Sequence[int], shapes: Shapes) -> int:
        """See ``Op``."""
        return min(self._most(inputs, shapes) << self.weight_exp, self.limit)

    def _most(self, highs: Sequence[int], shapes: Shapes) -> int:
        """The largest value of (q k^T) v, given the largest value of each input."""
        return attention_sizes(shapes.inputs, self.num_heads).most * math.prod(highs)

    def may_clip(self, inputs: Sequence[Signal], timesteps: int) -> bool:  # noqa: ARG002
        """See ``Op``; it may if its own upper bound reaches the limit."""
        return self.signal.high == self.limit

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:
        """See ``Op``; spikes lack no bias."""
        require(not any(each.any() for each in inputs), "reads a current")
        return Carried(self, np.zeros(shapes.output[0], dtype=np.int64))

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        sizes = attention_sizes([each.shape[2:] for each in inputs], self.num_heads)
        # (T, N, heads, channels of a head, tokens)
        q, k, v = (
            each.reshape(*each.shape[:2], self.num_heads, each.shape[2] // self.num_heads, -1) for each in inputs
        )
        if sizes.scores_first:
            counts = matmul(v, matmul(k.swapaxes(-1, -2), q))
        else:
            counts = matmul(matmul(v, k.swapaxes(-1, -2)), q)
        counts = counts.reshape(*counts.shape[:2], *self.output_shape([each.shape[2:] for each in inputs]))
        return Outcome(*fixedpoint.scale_and_saturate(counts, self.weight_exp, self.limit))

    def operations_of(self, index: int, events: Int64Array, shapes: Shapes) -> Int64Array:
        """See ``Op``; a spike of q or v counts once for each value of k, or of the first product, that it selects."""
        total: Int64Array = events.sum(axis=(1, 2))
        sizes = attention_sizes(shapes.inputs, self.num_heads)
        if sizes.scores_first:
            return total * (sizes.keys if index == 0 else sizes.queries)
        return total * (sizes.width if index == 0 else sizes.depth)

    def facts(self) -> dict[str, Any]:
        """See ``Op``."""
        return {"num_heads": self.num_heads, "weight_exp": [self.weight_exp] * 2, "limit": self.limit}


class AttentionSizes(NamedTuple):
    """The sizes of the matrices that each head of an attention multiplies.

    Attributes:
        queries: Tokens of q.
        keys: Tokens of k and v.
        depth: Channels of q and k.
        width: Channels of v.
    """

    queries: int
    keys: int
    depth: int
    width: int

    @property
    def most(self) -> int:
        """The largest value of (q k^T) v, if the inputs are spikes."""
        return self.keys * self.depth

    def first_product(self, q: int, k: int, v: int) -> int:
        """The largest value of the product that is made first and sent on, given the largest values of q, k and v."""
        return k * (self.depth * q if self.scores_first else self.keys * v)

    @property
    def scores_first(self) -> bool:
        """Whether q k^T is computed first, not k^T v, because that takes fewer multiplications, or as many."""
        by_scores = self.queries * self.keys * (self.depth + self.width)
        return by_scores <= self.depth * self.width * (self.queries + self.keys)


def attention_sizes(inputs: Sequence[Shape], heads: int) -> AttentionSizes:
    """The sizes of an attention of q, k and v of these shapes.

    Raises:
        InvariantError: They do not fit together.
    """
    require(len(inputs) == 3, f"takes q, k and v, not {len(inputs)} inputs")
    for name, each in zip("qkv", inputs, strict=True):
        require(len(each) == 3, f"takes {name} of 3 axes, not {each}")
        require(heads >= 1 and each[0] % heads == 0, f"{each[0]} channels of {name} do not split into {heads} heads")
    q, k, v = inputs
    require(q[0] == k[0], f"{q[0]} channels of q meet {k[0]} of k")
    require(k[1:] == v[1:], f"tokens of k, {k[1:]}, are not those of v, {v[1:]}")
    return AttentionSizes(math.prod(q[1:]), math.prod(k[1:]), q[0] // heads, v[0] // heads)


def attention_shape(inputs: Sequence[Shape], heads: int) -> Shape:
    """The shape that an attention makes: v's channels at q's tokens.

    Raises:
        InvariantError: Its inputs do not fit together.
    """
    attention_sizes(inputs, heads)
    return inputs[2][0], *inputs[0][1:]
