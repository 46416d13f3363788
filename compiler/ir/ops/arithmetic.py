"""Exact integer arithmetic in numpy, for the definitions of operations."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from resformer.compiler.ir.arrays import Int64Array, require
from resformer.compiler.ir.interval import EXACT_IN_FLOAT64
from resformer.compiler.ir.window import Pair, Window

TAPS_AT_ONCE = 2**21
"""Elements of the matrix of taps that a convolution lays out at once: 16 MiB."""


def matmul(left: Int64Array, right: npt.NDArray[np.integer[Any]]) -> Int64Array:
    """An exact product of integers through float64's matrix product.

    Raises:
        InvariantError: Its sums may leave what float64 holds exactly.
    """
    bound = int(np.abs(left).max(initial=0)) * int(np.abs(right).max(initial=0)) * left.shape[-1]
    require(bound < EXACT_IN_FLOAT64, f"sums may reach {bound}, beyond what float64 holds exactly")
    product: npt.NDArray[np.float64] = np.matmul(left.astype(np.float64), right.astype(np.float64))
    return product.astype(np.int64)


def convolve(x: Int64Array, weight: npt.NDArray[np.integer[Any]], window: Window, groups: int) -> Int64Array:
    """A correlation, as PyTorch's convolutions are.

    Args:
        x: (T, N, C, H, W).
        weight: (C_out, C / groups, K_h, K_w), integers: mantissa * 2^exponent.
        window: What each target reads.
        groups: Blocks of channels that do not mix.

    Returns:
        (T, N, C_out, rows, columns).
    """
    frames = pad(x.reshape(-1, *x.shape[2:]), window.padding, 0)
    windows = sliding_window_view(frames, window.span, axis=(2, 3))
    (down, across), (gap_rows, gap_columns) = window.stride, window.dilation
    windows = windows[:, :, ::down, ::across, ::gap_rows, ::gap_columns]
    rows, columns = windows.shape[2:4]
    outputs, inputs_per_group, *kernel = weight.shape
    taps = inputs_per_group * math.prod(kernel)
    matrices = weight.reshape(groups, outputs // groups, taps)
    result = np.empty((len(frames), groups, outputs // groups, rows * columns), dtype=np.int64)
    # few frames at a time: the taps of a frame take as many times its memory as the kernel has positions
    count = max(TAPS_AT_ONCE // (taps * rows * columns), 1)
    for start, group in itertools.product(range(0, len(frames), count), range(groups)):
        part = windows[start : start + count, group * inputs_per_group : (group + 1) * inputs_per_group]
        # (M, C, R, S, K, L) to a matrix of the taps of each position, (M, C * K * L, R * S)
        matrix = part.transpose(0, 1, 4, 5, 2, 3).reshape(-1, taps, rows * columns)
        result[start : start + count, group] = matmul(matrices[group], matrix)
    return result.reshape(*x.shape[:2], outputs, rows, columns)


def pad(x: Int64Array, padding: Pair, fill: int) -> Int64Array:
    """Pad the last two axes."""
    rows, columns = padding
    return np.pad(x, [(0, 0)] * (x.ndim - 2) + [(rows, rows), (columns, columns)], constant_values=fill)


def windows(x: Int64Array, window: Window) -> Int64Array:
    """Windows without dilation over the last two axes: (..., H, W) to (..., rows, columns, K_h, K_w)."""
    return sliding_window_view(x, window.kernel, axis=(-2, -1))[..., :: window.stride[0], :: window.stride[1], :, :]


def per_channel(values: npt.NDArray[np.integer[Any]], axes: int) -> Int64Array:
    """Values (C,), or (1,) for all, shaped to broadcast against a population of ``axes`` axes, channels first."""
    return values.astype(np.int64).reshape(-1, *(1,) * (axes - 1))
