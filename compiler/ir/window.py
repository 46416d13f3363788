"""Windows over rows and columns: all arithmetic of kernels, strides, paddings and dilations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from resformer.compiler.ir.arrays import Int64Array, require

Pair = tuple[int, int]

Index = TypeVar("Index", int, Int64Array)
"""The index of a row or column, or an array of such indices."""


@dataclass(frozen=True)
class Window:
    """What each target of a convolution or a pool reads; all pairs are (rows, columns).

    Attributes:
        kernel: How many rows and columns a target reads.
        stride: The distance between the first rows (columns) that neighbouring targets read.
        padding: Rows and columns added on each side of the source: zeros, or values that never win a maximum.
        dilation: The distance between neighbouring rows (columns) that one target reads.
        beyond: How far the last targets reach below the padding and right of it, as PyTorch's ceil_mode lets them.
    """

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    beyond: Pair = (0, 0)

    @property
    def span(self) -> Pair:
        """How many rows and columns a target spans, from the first that it reads to the last, with those in between."""
        rows, columns = (gap * (size - 1) + 1 for gap, size in zip(self.dilation, self.kernel, strict=True))
        return rows, columns

    @property
    def area(self) -> int:
        """How many positions a target reads."""
        return self.kernel[0] * self.kernel[1]

    @property
    def is_patch(self) -> bool:
        """Whether windows tile the source: the stride equals the kernel, without padding and dilation."""
        plain = self.padding == self.beyond == (0, 0) and self.dilation == (1, 1)
        return self.kernel == self.stride and plain

    @property
    def same_padding(self) -> Pair | None:
        """The padding that keeps the size at stride 1; None if it cannot be the same on both sides."""
        beyond = self.span[0] - 1, self.span[1] - 1
        return None if any(each % 2 for each in beyond) else (beyond[0] // 2, beyond[1] // 2)

    def targets(self, source: tuple[int, ...]) -> Pair:
        """How many windows fit along the rows and columns of a source.

        Raises:
            InvariantError: The numbers make no window, or none fits.
        """
        counts = []
        for axis in range(2):
            least = min(self.kernel[axis], self.stride[axis], self.dilation[axis])
            require(least >= 1, "kernel, stride and dilation must be at least 1")
            require(self.padding[axis] >= 0, f"padding {self.padding[axis]} is negative")
            require(self.beyond[axis] >= 0, f"{self.beyond[axis]} beyond the padding is negative")
            span = self.span[axis]
            free = source[axis] + 2 * self.padding[axis] + self.beyond[axis] - span
            require(free >= 0, f"a window of {span} does not fit {source[axis]} padded by {self.padding[axis]}")
            counts.append(free // self.stride[axis] + 1)
        return counts[0], counts[1]

    def padded(self, source: tuple[int, ...]) -> Pair:
        """Rows and columns of a source with its padding, that of ``beyond`` included."""
        rows, columns = (
            size + 2 * padding + beyond for size, padding, beyond in zip(source, self.padding, self.beyond, strict=True)
        )
        return rows, columns

    def reads(self, axis: int, targets: int) -> Int64Array:
        """The row (axis 0) or column that each target reads through each tap, (targets, kernel); some are padding."""
        first = np.arange(targets, dtype=np.int64) * self.stride[axis] - self.padding[axis]
        read: Int64Array = first[:, None] + self.dilation[axis] * np.arange(self.kernel[axis], dtype=np.int64)
        return read

    def reach(self, axis: int, first: Index, last: Index) -> tuple[Index, Index]:
        """The range of rows (axis 0) or columns that targets ``first`` to ``last`` read: its start and exclusive end.

        Both may lie in the padding. The range includes rows and columns that strides and dilations skip.
        """
        low = first * self.stride[axis] - self.padding[axis]
        high = last * self.stride[axis] - self.padding[axis] + self.span[axis]
        return low, high

    def readers(self, axis: int, source: int, targets: int) -> Int64Array:
        """For each row (or column) of a source, how many rows (or columns) of targets read it, (source,)."""
        read = self.reads(axis, targets).reshape(-1)
        return np.bincount(read[(read >= 0) & (read < source)], minlength=source).astype(np.int64)

    def inside(self, axis: int, source: int, targets: int) -> Int64Array:
        """For each tap along an axis, how many rows (or columns) of targets read no padding through it, (kernel,)."""
        read = self.reads(axis, targets)
        inside: Int64Array = np.count_nonzero((read >= 0) & (read < source), axis=0).astype(np.int64)
        return inside
