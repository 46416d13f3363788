"""Products of spikes with values: Dual Spike Self-Attention (arXiv 2403.14302, equations 8 to 11)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.arrays import Int32Array, Int64Array, Shape, require
from resformer.compiler.ir.interval import Interval, largest
from resformer.compiler.ir.ops.arithmetic import matmul, per_channel
from resformer.compiler.ir.ops.base import Carried, Op, Outcome
from resformer.compiler.ir.ops.formats import Flag, Shapes, Whole, integers, per_channel_of_first
from resformer.compiler.ir.ops.synapses import COUNT_MAX
from resformer.compiler.ir.signal import Signal, SignalKind
from resformer.compiler.target import LOIHI
from resformer.errors import RangeError


@dataclass(frozen=True, eq=False)
class SpikeMatMul(Op):
    """One of DSSA's two products, a spike-gated sum; it sends the product of what it received one step ago.

    Inputs are y, a current of shape (C, h, w), and spikes. With d = C / heads and n = h * w, each head computes

    - y^T x, of shape (n, H * W), if ``transpose``: from spikes x of shape (C, H, W);
    - y s otherwise, reshaped to (C, H, W): from spikes s of shape (heads, n, H * W).

    Attributes:
        num_heads: Heads, each with its own block of channels.
        transpose: Whether the product is y^T x, not y s.
        bias: (C,), added to y before it is gated.
        limit: The result is clipped to [-limit, limit], and each clip is counted.
    """

    num_heads: Annotated[int, Whole(1, COUNT_MAX)]
    transpose: Annotated[bool, Flag()]
    bias: Annotated[Int32Array, integers(np.int32, per_channel_of_first)]
    limit: Annotated[int, Whole(0, LOIHI.graded_max)]

    makes: ClassVar[SignalKind | None] = SignalKind.CURRENT
    hop: ClassVar[int] = 1
    clips: ClassVar[bool] = True
    recorded: ClassVar[bool] = True
    counts_operations: ClassVar[bool] = True
    holds_bounds: ClassVar[bool] = True

    def terms(self, shapes: Shapes) -> int:
        """See ``Op``."""
        channels, *size = shapes.inputs[0]
        return channels // self.num_heads if self.transpose else math.prod(size)

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``; for y s it is (C, H * W), as in s: only the product's node says what H and W are."""
        return product_shape(inputs, self.num_heads, self.num_heads, transpose=self.transpose)

    def check_shapes(self, shapes: Shapes) -> None:
        """See ``Op``."""
        wanted = self.output_shape(shapes.inputs)
        check_product_shape(wanted, shapes.output, transpose=self.transpose)
        self.check_fits(shapes)

    def check_signals(self, inputs: Sequence[Signal]) -> None:
        """See ``Op``."""
        y, gate = inputs
        require(y.kind is not SignalKind.SPIKE, "y is a spike")
        require(gate.kind is SignalKind.SPIKE, f"is gated by a {gate.kind.value}, not by spikes")
        scale = self.signal.scale_exp
        require(scale == y.scale_exp, f"scale 2^{scale}, but y has 2^{y.scale_exp}")

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:
        """See ``Op``."""
        y = inputs[0].plus(self.bias)
        if y.magnitude > LOIHI.graded_max:
            raise RangeError(
                f"y may reach {y.magnitude}, the limit of a graded value is {LOIHI.graded_max}; normalise the layer"
            )
        if self.transpose:
            sums = Interval(y.low.reshape(self.num_heads, -1).sum(1), y.high.reshape(self.num_heads, -1).sum(1))
        else:
            sums = y.times(math.prod(shapes.inputs[0][1:]))
        return sums.clip(self.limit)

    def sums(self, inputs: Sequence[int], shapes: Shapes) -> int:
        """See ``Op``."""
        terms = len(self.bias) // self.num_heads if self.transpose else math.prod(shapes.inputs[0][1:])
        return min((inputs[0] + largest(self.bias)) * terms, self.limit)

    def may_clip(self, inputs: Sequence[Signal], timesteps: int) -> bool:  # noqa: ARG002
        """See ``Op``; it may if its own bounds reach the limit."""
        return self.signal.low == -self.limit or self.signal.high == self.limit

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:
        """See ``Op``; the bias that y lacks becomes the product's own bias."""
        none = np.zeros(shapes.output[0], dtype=np.int64)
        return Carried(replace(self, bias=inputs[0].astype(np.int32)), none)

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        y, spikes = inputs
        steps, batch, channels, *_ = y.shape
        y = y + per_channel(self.bias, y.ndim - 2)
        per_head = y.reshape(steps, batch, self.num_heads, channels // self.num_heads, -1)
        if not self.transpose:
            return Outcome(*fixedpoint.saturate(matmul(per_head, spikes), self.limit))
        gates = spikes.reshape(steps, batch, self.num_heads, channels // self.num_heads, -1)
        return Outcome(*fixedpoint.saturate(matmul(per_head.swapaxes(-1, -2), gates), self.limit))

    def operations(self, events: Int64Array, shapes: Shapes) -> Int64Array:
        """See ``Op``; y counts as if it were all ones."""
        total: Int64Array = events.sum(axis=(1, 2))
        return total * (shapes.output[1] if self.transpose else shapes.output[0] // self.num_heads)

    def facts(self) -> dict[str, Any]:
        """See ``Op``."""
        return {"limit": self.limit, "bias": [int(self.bias.min()), int(self.bias.max())]}


def product_shape(inputs: Sequence[Shape], heads: int, shares: int, *, transpose: bool) -> Shape:
    """The shape of one of DSSA's products; that of the second, y s, is given as (C, H * W).

    Args:
        inputs: Shapes of y and of the spikes.
        heads: The number of heads.
        shares: The number of equal parts of y's channels, of which each head uses one: ``heads``, or twice as many.
        transpose: Whether the product is y^T x, not y s.

    Raises:
        InvariantError: The shapes do not fit together.
    """
    require(len(inputs) == 2, f"takes y and spikes, not {len(inputs)} inputs")
    require(len(inputs[0]) == 3, f"takes y of 3 axes, not {inputs[0]}")
    (channels, *size), spikes = inputs
    patches = math.prod(size)
    require(heads >= 1, f"{heads} heads")
    require(channels % shares == 0, f"{channels} channels do not split into {shares}")
    used = channels // shares * heads
    require(len(spikes) == 3, f"takes spikes of 3 axes, not {spikes}")
    if transpose:
        require(spikes[0] == used, f"{used} channels of y meet spikes of {spikes[0]}")
        return heads, patches, spikes[1] * spikes[2]
    fits = spikes[:2] == (heads, patches)
    require(fits, f"y of {heads} heads and {patches} patches meets spikes of shape {spikes}")
    return used, spikes[2]


def check_product_shape(wanted: Shape, shape: Shape, *, transpose: bool) -> None:
    """See that a product's node has the shape that the product makes; for y s, only the node says what H and W are.

    Raises:
        InvariantError: The node has another shape.
    """
    if transpose:
        require(shape == wanted, f"makes shape {wanted}, but its node says {shape}")
        return
    require(len(shape) == 3, f"shape {shape} is not (C, H, W)")
    folded = (shape[0], math.prod(shape[1:]))
    require(folded == wanted, f"makes shape {wanted}, but its node says {shape}")
