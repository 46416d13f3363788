"""Padding that differs from side to side, which NIR lacks: a kernel gets zeros at the side that is padded less."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.primitives import INSIDE
from resformer.compiler.ir.window import Window

Float64Array = npt.NDArray[np.float64]

PADDED = "padded"
"""In the metadata of a layer that only pads: the numbers of rows and columns that it adds, "top,bottom,left,right"."""


@dataclass(frozen=True)
class Padded:
    """A kernel, and how its convolution pads.

    Attributes:
        weight: (C_out, C_in / groups, K_h, K_w).
        padding: (rows, columns), on both sides.
        dilation: (rows, columns).
        metadata: Where the given kernel lies in this one, if zeros were added around it.
    """

    weight: Float64Array
    padding: tuple[int, int]
    dilation: tuple[int, int]
    metadata: dict[str, str | int]


def padded_alike(weight: Float64Array, dilation: tuple[int, int], around: tuple[int, int, int, int]) -> Padded:
    """A kernel that pads both sides alike, and computes the same as ``weight`` padded by (top, bottom, left, right).

    A side that is padded by d less gets d rows (or columns) of zeros in the kernel. Negative padding leaves out a part
    of the image.
    """
    top, bottom, left, right = around
    padding = max(top, bottom, 0), max(left, right, 0)
    if (top, left) == padding == (bottom, right):
        return Padded(weight, padding, dilation, {})
    span = Window((weight.shape[2], weight.shape[3]), dilation=dilation).span
    before = padding[0] - top, padding[1] - left
    behind = padding[0] - bottom, padding[1] - right
    sizes = [sum(each) for each in zip(before, span, behind, strict=True)]
    wide = np.zeros((*weight.shape[:2], *sizes))
    rows, columns = (slice(first, first + size, gap) for first, size, gap in zip(before, span, dilation, strict=True))
    wide[:, :, rows, columns] = weight
    where = ",".join(f"{each.start}:{each.stop}:{each.step}" for each in (rows, columns))
    return Padded(wide, padding, (1, 1), {INSIDE: where})
