"""The memory-bound loops of a CPU, compiled by numba: sums, relays and neurons in one pass over T.

Numbers are integers in float32, where bounds prove that this is exact. Adding, halving, truncating and comparing them
then gives the same bits in any order and any vector width. Arrays are contiguous. 16 neighbouring channels go through
all steps at once (``lanes``), so that potentials and counts stay in registers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from resformer.compiler.backends.sim.lanes import (
    as_floats,
    chosen,
    counted,
    differs,
    equals,
    exceeds,
    first_lanes,
    floats,
    greater,
    integers,
    lesser,
    load,
    plus,
    store,
    store_choices,
    times,
    total,
    truncated,
)
from resformer.compiler.backends.sim.widths import LANES
from resformer.compiler.target import LOIHI

UNIT = np.float32(1 << LOIHI.a_shift)
"""One unit of the input, in neurons' units of 1/64 of it. An int here would make numba compute in float64."""
NOTHING = np.float32(0)
COUNTED_ROWS = 256
"""After this many rows, counts of 32 bits in lanes are added to totals of 64 bits."""


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def integrate(x: Any, v: Any, bias: Any, keep: Any, threshold: Any, floor: Any, floored: Any, mask: Any) -> Any:
    """One step of 16 neurons: whether they fire, their potentials, and the count of those clipped from below."""
    free = plus(truncated(times(v, floats(keep))), plus(times(x, floats(UNIT)), bias))
    least = floats(floor)
    floored = counted(floored, exceeds(least, free), mask)
    free = greater(free, least)
    fired = exceeds(free, floats(threshold))
    return fired, chosen(fired, floats(NOTHING), free), floored


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _neurons_of_lanes(
    a: Any, a_at: int, a_step: int, b: Any, b_at: int, b_step: int, bias: Any, limit: Any, stream: Any, s_at: int,
    s_step: int, fire: Any, tie: Any, spikes: Any, p_at: int, p_step: int, c: int, steps: int, mask: Any, counts: Any,
) -> Any:  # fmt: skip
    """Sum, relay and neurons of 16 channels of one row, from channel ``c`` of the block on, at all steps."""
    saturated, floored, ties = counts
    v = floats(NOTHING)
    relay_bias, lif_bias, ties_at = v, v, v
    if bias is not None:
        relay_bias = load(bias, c, mask)
    if fire is not None:
        each_bias, keep, threshold, floor = fire
        lif_bias = load(each_bias, c, mask)
    if tie is not None:
        ties_at = load(tie, c, mask)
    for t in range(steps):
        x = load(a, a_at + t * a_step, mask)
        if b is not None:
            x = plus(x, load(b, b_at + t * b_step, mask))
        if bias is not None:
            whole = plus(x, relay_bias)
            x = lesser(greater(whole, floats(-limit)), floats(limit))
            saturated = counted(saturated, differs(x, whole), mask)
        if stream is not None:
            store(stream, s_at + t * s_step, x, mask)
        if fire is not None:
            fired, v, floored = integrate(x, v, lif_bias, keep, threshold, floor, floored, mask)
            store_choices(spikes, p_at + t * p_step, fired, 1, mask)
            if tie is not None:
                # a tie does not fire, so the potential still stands at it
                ties = counted(ties, equals(v, ties_at), mask)
    return saturated, floored, ties


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _product_neurons_of_lanes(
    sums: Any, s_at: int, digits: int, width: int, limit: Any, bias: Any, keep: Any, threshold: Any, floor: Any,
    tie: Any, spikes: Any, p_at: int, mask: Any, counts: Any,
) -> Any:  # fmt: skip
    """16 neurons that read a product's sums of digits, at all steps."""
    saturated, floored, ties = counts
    s_step, p_step = sums.shape[1] * sums.shape[2], spikes.shape[1] * spikes.shape[2]
    v = floats(NOTHING)
    for t in range(len(sums)):
        whole = integers(np.int32(0))
        for digit in range(digits - 1, -1, -1):
            each = load(sums, s_at + t * s_step + digit * width, mask)
            whole = plus(times(whole, integers(np.int32(256))), each)
        kept = lesser(greater(whole, integers(-limit)), integers(limit))
        saturated = counted(saturated, differs(kept, whole), mask)
        fired, v, floored = integrate(as_floats(kept), v, floats(bias), keep, threshold, floor, floored, mask)
        store_choices(spikes, p_at + t * p_step, fired, 1, mask)
        if tie is not None:
            ties = counted(ties, equals(v, floats(tie)), mask)
    return saturated, floored, ties


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def neurons(
    a: Any, a0: int, b: Any, b0: int, bias: Any, limit: Any, stream: Any, s0: int, fire: Any, tie: Any, spikes: Any,
    p0: int, width: int, steps: int, first: int, last: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Sum, relay and neurons of some rows of one block of channels.

    Args:
        a: The first summand, (T or 1, rows, channels). An array of one step stands for all steps. ``a``, ``b``,
            ``stream`` and ``spikes`` are such arrays; ``width`` channels of each are used, from its first channel on.
        a0: The first channel in a.
        b: The second summand, (T or 1, rows, channels), or None.
        b0: The first channel in b.
        bias: The relay's biases, (width,); None: there is no relay.
        limit: The relay's limit.
        stream: Where the neurons' input is kept, (steps, rows, channels), or None.
        s0: The first channel in the stream.
        fire: The neurons' (bias, keep, threshold, floor), in units of 1/64 of the input except ``keep``, the share of
            the potential that one step keeps; None: there are no neurons.
        tie: (width,), the potentials that are counted as ties; None: ties are not counted.
        spikes: (steps, rows, channels), uint8; only its type and number of axes matter where ``fire`` is None.
        p0: The first channel in the spikes.
        width: The number of channels.
        steps: The number of steps to compute: T, or 1 where all steps are alike.
        first: The first row.
        last: The row after the last.

    Returns:
        The number of sums that the relay clipped, of potentials that were clipped from below, and of ties.
    """
    rows = a.shape[1]
    # an array of one step stands for all steps
    a_step, p_step = rows * a.shape[2] * (len(a) > 1), spikes.shape[1] * spikes.shape[2]
    b_row, b_step, s_row, s_step = 0, 0, 0, 0
    if b is not None:
        b_row = b.shape[2]
        b_step = b.shape[1] * b_row * (len(b) > 1)
    if stream is not None:
        s_row = stream.shape[2]
        s_step = stream.shape[1] * s_row
    whole = width // LANES * LANES
    saturated, floored, ties = 0, 0, 0
    for first_row in range(first, last, COUNTED_ROWS):
        none = integers(np.int32(0))
        counts = none, none, none
        for row in range(first_row, min(first_row + COUNTED_ROWS, last)):
            a_at, b_at = row * a.shape[2] + a0, row * b_row + b0
            s_at, p_at = row * s_row + s0, row * spikes.shape[2] + p0
            for c in range(0, whole, LANES):
                counts = _neurons_of_lanes(
                    a, a_at + c, a_step, b, b_at + c, b_step, bias, limit, stream, s_at + c, s_step, fire, tie,
                    spikes, p_at + c, p_step, c, steps, None, counts,
                )  # fmt: skip
            if whole < width:
                c, mask = whole, first_lanes(width - whole)
                counts = _neurons_of_lanes(
                    a, a_at + c, a_step, b, b_at + c, b_step, bias, limit, stream, s_at + c, s_step, fire, tie,
                    spikes, p_at + c, p_step, c, steps, mask, counts,
                )  # fmt: skip
        saturated, floored, ties = saturated + total(counts[0]), floored + total(counts[1]), ties + total(counts[2])
    return saturated, floored, ties


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def product_neurons(
    sums: Any, digits: int, limit: Any, bias: Any, keep: Any, threshold: Any, floor: Any, tie: Any, spikes: Any,
    row0: int, p0: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Neurons that read a product's sums of digits; these are combined, clipped, and integrated.

    Args:
        sums: (T, rows, digits * width), int32: for each digit of y, the sums of that digit, lowest digit first.
        digits: The number of digits, to the base 256.
        limit: The product's limit.
        bias: The bias of all neurons, in units of 1/64 of the input.
        keep: The share of the potential that one step keeps.
        threshold: The threshold, in units of 1/64 of the input.
        floor: The least potential, in units of 1/64 of the input.
        tie: The potential that is counted as a tie; None: ties are not counted.
        spikes: (T, all rows, all channels), uint8; rows from ``row0`` and channels from ``p0`` are written.
        row0: The first row in the spikes.
        p0: The first channel in the spikes.

    Returns:
        The number of sums that were clipped, of potentials that were clipped from below, and of ties.
    """
    _, rows, columns = sums.shape
    width, channels = columns // digits, spikes.shape[2]
    saturated, floored, ties = 0, 0, 0
    for row in range(rows):
        none = integers(np.int32(0))
        counts = none, none, none
        for c in range(0, width, LANES):
            s_at, p_at = row * columns + c, (row0 + row) * channels + p0 + c
            counts = _product_neurons_of_lanes(
                sums, s_at, digits, width, limit, bias, keep, threshold, floor, tie, spikes, p_at,
                first_lanes(width - c), counts,
            )  # fmt: skip
        saturated, floored, ties = saturated + total(counts[0]), floored + total(counts[1]), ties + total(counts[2])
    return saturated, floored, ties


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def largest(y: Any, first: int, bias: Any) -> Any:
    """The largest magnitude of y + bias, over ``len(bias)`` channels from ``first`` of y, (T, rows, channels)."""
    most = np.int32(0)  # with a maximum of floats, which may be NaN, LLVM would use no vectors
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
        y: (T, all rows, all channels); rows from ``row0`` and ``len(bias)`` channels from ``first`` are read.
        row0: The first row.
        first: The first channel.
        bias: (width,).
        digits: The number of digits.
        by_row: True: digits are blocks of rows, one below the other. False: they are blocks of columns, side by side.
        out: int8, (T, digits * rows, width) if ``by_row``, else (T, rows, digits * width); lowest digit first.
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
