"""A trial of attention by strips as a whole: of its products, and of digits, neurons and counts, too.

The loop is our own code, but numba and LLVM make its instructions on the user's machine. So it is tried before it is
used, for one head of the same width and number of patches, over some strips, on values as large as they can be and on
random ones. Its results are compared with the definition in plain integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.backends.sim.byte_products import compiling, in_words, shapes_of, strip_depth, whole_lanes
from resformer.compiler.backends.sim.products import STRIP_ROWS, Compute, Kernel, StripProduct, Trial
from resformer.compiler.backends.sim.widths import HELD
from resformer.compiler.ir.interval import INT32_MAX
from resformer.compiler.target import LOIHI

if TYPE_CHECKING:
    from resformer.compiler.backends.sim.guarded_strips import StripHalf

POSITIONS = 2 * STRIP_ROWS + 5
"""Positions of a trial: two whole strips and a part of one."""
BIAS = TIE = 64
"""The bias of a trial's neurons and their tie, in 1/64 of their input: a neuron that reads nothing ties."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class HeadAttention:
    """Attention of one head over some positions.

    Kernels read x, (steps, positions, width), and y1 and y2, (steps, patches, width); they return the spikes and then
    six counts in one array.

    Attributes:
        name: The node's name.
        steps: T.
        width: Channels of the head.
        patches: Columns of the attention map.
        ties: For each of the two populations, whether ties are counted: numba compiles other code where they are not.
    """

    name: str
    steps: int
    width: int
    patches: int
    ties: tuple[bool, bool] = (True, True)

    @property
    def shown(self) -> str:
        """The head's size, for notes."""
        return f"{self.width} channels, {self.patches} patches"

    @property
    def key(self) -> tuple[object, ...]:
        """Everything that decides which instructions the loop runs."""
        return self.steps, self.width, self.patches, self.ties

    @property
    def reach(self) -> int:
        """The largest magnitude of y for which two digits hold y and 32 bits hold both products."""
        return min(HELD, INT32_MAX // max(self.width, self.patches))

    @property
    def limits(self) -> tuple[int, int]:
        """The limits at which the two products clip; random sums exceed them now and then."""
        first, second = (min(self.reach * terms, LOIHI.a_max) for terms in (self.width, self.patches))
        return first, second

    @property
    def thresholds(self) -> tuple[int, int]:
        """The thresholds of the two populations, in units of their input; random sums are about as large."""
        first, second = self.limits
        return first // 8, second // 8

    def trials(self, limit: int) -> Iterator[Trial]:
        """Draw spikes, and values of y: large ones, then small ones."""
        rng = np.random.default_rng(self.width)
        shape = self.steps, self.patches, self.width
        for reach in (min(self.reach, limit), 3):
            x = rng.integers(0, 2, (self.steps, POSITIONS, self.width)).astype(np.uint8)
            x[:, :3], x[:, 3:6] = 1, 0
            ys = [rng.integers(-reach, reach + 1, shape).astype(np.float32) for _ in range(2)]
            for y in ys:
                y[:, ::3] = np.sign(y[:, ::3]) * reach
                y[:, 0] = reach
            yield self, tuple(torch.from_numpy(each) for each in (x, *ys))

    def is_right(self, inputs: Sequence[torch.Tensor], result: torch.Tensor) -> bool:
        """Whether spikes and counts are those that plain integers give."""
        x, y1, y2 = (each.numpy().astype(np.int64) for each in inputs)
        scores = x @ y1.swapaxes(1, 2)
        attention, counts1 = self._fire(scores, 0)
        spikes, counts2 = self._fire(attention @ y2, 1)
        wanted = np.concatenate([spikes.ravel(), counts1, counts2])
        return bool(np.array_equal(result.numpy(), wanted))

    def _fire(self, sums: IntArray, half: int) -> tuple[IntArray, list[int]]:
        """Clip sums, integrate them with half of the potential kept at each step, and fire."""
        limit, threshold = self.limits[half], self.thresholds[half] << LOIHI.a_shift
        kept = np.clip(sums, -limit, limit)
        floored, ties = 0, 0
        v = np.zeros_like(sums[0])
        spikes = np.zeros_like(sums)
        for t, a in enumerate(kept):
            free = np.sign(v) * (np.abs(v) // 2) + (a << LOIHI.a_shift) + BIAS
            floored += int((free < -LOIHI.v_max).sum())
            v = np.maximum(free, -LOIHI.v_max)
            spikes[t] = v > threshold
            v = np.where(v > threshold, 0, v)
            ties += int((v == TIE).sum()) if self.ties[half] else 0
        return spikes, [int((kept != sums).sum()), floored, ties]


def attention_by(kernel: Kernel[StripProduct]) -> Kernel[HeadAttention]:
    """The loop over strips, with a kernel for its products, as a kernel for attention."""

    def make(head: HeadAttention) -> Compute:
        return _Attend(head, shapes_of(kernel), words=in_words(kernel))

    return Kernel(f"attention by {kernel.name.replace('product', 'products')}", INT32_MAX, make)


class _Attend:
    """Runs the loop over strips for one head, in memory of its own."""

    def __init__(self, head: HeadAttention, tiles: npt.NDArray[np.uint8] | None, *, words: bool) -> None:
        self._head, self._tiles, self._words = head, tiles, words

    def __call__(self, x: torch.Tensor, y1: torch.Tensor, y2: torch.Tensor) -> torch.Tensor:
        from resformer.compiler.backends.sim import guarded_strips

        head = self._head
        first = self._half(0, y1.numpy(), head.width, head.patches)
        second = self._half(1, y2.numpy(), head.patches, head.width)
        spikes = np.full((head.steps, POSITIONS, head.width), 9, np.uint8)
        sizes = guarded_strips.Sizes(1, 1, head.width, POSITIONS, head.patches)
        with compiling("attention by strips"):
            counts = guarded_strips.attend(self._tiles, sizes, x.numpy(), 0, first, second, spikes, 0, (0, POSITIONS))
        return torch.from_numpy(np.concatenate([spikes.ravel().astype(np.int64), counts]))

    def _half(self, index: int, y: npt.NDArray[np.float32], depth: int, columns: int) -> StripHalf:
        from resformer.compiler.backends.sim import guarded_strips

        head, held, made, f32 = self._head, strip_depth(depth), whole_lanes(columns), np.float32
        threshold = head.thresholds[index] << LOIHI.a_shift
        return guarded_strips.StripHalf(
            # the loop must not depend on what these three hold before
            spikes=np.full((head.steps, STRIP_ROWS, held), 255, np.uint8),
            digits=np.full((head.steps, held // 4, made), -1, np.int32),
            sums=np.full((head.steps, STRIP_ROWS, made), -1, np.int32),
            second=None if self._words else whole_lanes(depth),
            neurons=(np.int32(head.limits[index]), f32(BIAS), f32(0.5), f32(threshold), f32(-LOIHI.v_max)),
            y=y,
            first=0,
            bias=np.zeros(head.width, f32),
            tie=f32(TIE) if head.ties[index] else None,
        )
