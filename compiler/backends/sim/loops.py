"""The memory-bound loops of a CPU, compiled by numba: sums, relays and neurons in one pass over T.

Numbers are integers in float32, where bounds prove that exact; adding,
halving, truncating and comparing them in whatever order and vector width gives the same bits. Inner loops are kept
short and over few arrays, or LLVM gives up proving that they do not overlap and stops using vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from resformer.compiler.target import LOIHI

UNIT = np.float32(1 << LOIHI.a_shift)
"""Neurons count in 1/64 of their input. An int here would make numba compute in float64."""
NOTHING = np.float32(0)


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def neurons(
    a: Any, a0: int, b: Any, b0: int, bias: Any, limit: Any, stream: Any, s0: int, fire: Any, tie: Any, spikes: Any,
    p0: int, width: int, steps: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Sum, relay and neurons of one block of channels.

    Args:
        a: (T or 1, rows, channels), of which ``width`` channels from ``a0`` on are read; so all that follow.
        b: A second summand, or None.
        bias: The relay's, (width,), or None: no relay.
        limit: The relay's.
        stream: Where the neurons' input is kept, or None.
        fire: None, or the neurons' (bias, keep, threshold, floor) in units of 1/64.
        tie: (width,), the potentials that are counted as ties, or None: none is counted.
        spikes: uint8; its type alone matters where ``fire`` is None.
        steps: How many steps to compute: T, or 1 where all are alike.

    Returns:
        How many sums the relay clipped, how many potentials were clipped from below, and how many were ties.
    """
    saturated: Any = 0
    floored: Any = 0
    ties: Any = 0
    x = np.empty(width, np.float32)
    v = np.empty(width, np.float32)
    for row in range(a.shape[1]):
        for c in range(width):
            v[c] = NOTHING
        for t in range(steps):
            a_row = a[t if a.shape[0] > 1 else 0, row, a0 : a0 + width]
            if b is None:
                for c in range(width):
                    x[c] = a_row[c]
            else:
                b_row = b[t if b.shape[0] > 1 else 0, row, b0 : b0 + width]
                for c in range(width):
                    x[c] = a_row[c] + b_row[c]
            if bias is not None:
                count = np.int32(0)
                for c in range(width):
                    whole = x[c] + bias[c]
                    kept = min(max(whole, -limit), limit)
                    count += np.int32(kept != whole)
                    x[c] = kept
                saturated += count
            if stream is not None:
                stream_row = stream[t, row, s0 : s0 + width]
                for c in range(width):
                    stream_row[c] = x[c]
            if fire is not None:
                lif_bias, keep, threshold, floor = fire
                count = np.int32(0)
                spike_row = spikes[t, row, p0 : p0 + width]
                for c in range(width):
                    free = np.trunc(v[c] * keep) + (x[c] * UNIT + lif_bias[c])
                    count += np.int32(free < floor)
                    free = max(free, floor)
                    fired = free > threshold
                    spike_row[c] = fired
                    v[c] = NOTHING if fired else free
                floored += count
                if tie is not None:
                    # a tie does not fire, so it is what the potential was left at
                    count = np.int32(0)
                    for c in range(width):
                        count += np.int32(v[c] == tie[c])
                    ties += count
    return saturated, floored, ties


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def product_neurons(
    sums: Any, digits: int, limit: Any, bias: Any, keep: Any, threshold: Any, floor: Any, tie: Any, spikes: Any,
    row0: int, p0: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Neurons that read a product's sums of digits: put together, clipped, integrated.

    Args:
        sums: (T, rows, digits * width), int32: for each digit of y, the sums over that digit, least first.
        digits: To the base 256.
        limit: The product's.
        bias: What all neurons add, in units of 1/64 of the input.
        keep: Share of the potential that one step keeps.
        threshold: In units of 1/64 of the input, as ``floor``.
        floor: The least potential.
        tie: The potential that is counted as a tie, or None: none is counted.
        spikes: (T, all rows, all channels), uint8, of which rows from ``row0`` and channels from ``p0`` are written.

    Returns:
        How many sums were clipped, how many potentials from below, and how many were ties.
    """
    steps, rows, _ = sums.shape
    width = sums.shape[2] // digits
    x = np.empty(width, np.int32)
    v = np.empty(width, np.float32)
    saturated: Any = 0
    floored: Any = 0
    ties: Any = 0
    for row in range(rows):
        for c in range(width):
            v[c] = NOTHING
        for t in range(steps):
            last = sums[t, row, (digits - 1) * width : digits * width]
            for c in range(width):
                x[c] = last[c]
            for digit in range(digits - 2, -1, -1):
                digit_row = sums[t, row, digit * width : (digit + 1) * width]
                for c in range(width):
                    x[c] = (x[c] << 8) + digit_row[c]
            spike_row = spikes[t, row0 + row, p0 : p0 + width]
            clipped = np.int32(0)
            count = np.int32(0)
            for c in range(width):
                kept = min(max(x[c], -limit), limit)
                clipped += np.int32(kept != x[c])
                free = np.trunc(v[c] * keep) + (np.float32(kept) * UNIT + bias)
                count += np.int32(free < floor)
                free = max(free, floor)
                fired = free > threshold
                spike_row[c] = fired
                v[c] = NOTHING if fired else free
            saturated += clipped
            floored += count
            if tie is not None:
                count = np.int32(0)
                for c in range(width):
                    count += np.int32(v[c] == tie)
                ties += count
    return saturated, floored, ties


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def largest(y: Any, first: int, bias: Any) -> Any:
    """The largest magnitude of y + bias; y (T, rows, channels), of which ``len(bias)`` from ``first`` on."""
    most = np.int32(0)  # the maximum of floats would keep LLVM from using vectors, for the sake of NaN
    for t in range(y.shape[0]):
        for row in range(y.shape[1]):
            y_row = y[t, row, first : first + len(bias)]
            for c in range(len(bias)):
                most = max(most, abs(np.int32(y_row[c] + bias[c])))
    return most


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def split_digits(y: Any, row0: int, first: int, bias: Any, digits: int, by_row: bool, out: Any) -> None:
    """y + bias as digits to the base 256, each from -128 to 127.

    Args:
        y: (T, all rows, all channels), of which rows from ``row0`` and ``len(bias)`` channels from ``first`` are read.
        row0: Likewise.
        first: Likewise.
        bias: (width,).
        digits: How many.
        by_row: Whether digits follow each other row by row (rows first) or as blocks of columns.
        out: int8, (T, digits * rows, width) if ``by_row``, else (T, rows, digits * width).
    """
    width = len(bias)
    rows = out.shape[1] // digits if by_row else out.shape[1]
    rest = np.empty(width, np.int32)
    for t in range(y.shape[0]):
        for row in range(rows):
            y_row = y[t, row0 + row, first : first + width]
            for c in range(width):
                rest[c] = np.int32(y_row[c] + bias[c])
            for digit in range(digits):
                place = (digit * rows + row, 0) if by_row else (row, digit * width)
                out_row = out[t, place[0], place[1] : place[1] + width]
                for c in range(width):
                    low = ((rest[c] + 128) & 255) - 128
                    out_row[c] = low
                    rest[c] = (rest[c] - low) >> 8
