"""DSSA in one compiled loop, a strip of 16 positions at a time, so that its sums never leave the nearest caches.

For all steps, a strip's spikes are multiplied with the digits of the first y and the neurons fire; their spikes are
multiplied with the digits of the second y, and the neurons that read this product fire.

Some processors multiply bytes (AMX, VNNI). For them, y + bias is held in two digits to the base 255, from -127 to 127,
one below the other in depth. Spikes stand twice in a row of their matrix, as 1 for the lower digit and as 255 for the
higher, so that one sum in 32 bits is the product. A partial sum of digits may wrap; the final sum is right all the
same, since it fits. Other processors multiply words of 16 bits (AVX2). For them, y + bias is one word, and a spike is a
word that stands once and is 1. Most pairs of neighbouring spikes are both zero; these pairs are skipped. Bytes and
words take the same memory. The argument ``second`` tells them apart: for bytes, it is where in depth the higher digit
begins; for words, it is None. numba compiles each case by itself.

Matrices of spikes are (steps, 16, depth) of bytes. Matrices of y are (steps, depth / 4, columns) of int32; each int32
holds four int8, or two int16, that are neighbours in depth. Depth, in bytes, is a multiple of 64; columns are a
multiple of 16. The padding is zero in the matrix of y and may be anything in the matrix of spikes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from resformer.compiler.backends.sim.lanes import (
    PLACES,
    as_floats,
    counted,
    differs,
    equals,
    first_lanes,
    floats,
    four_bytes,
    greater,
    integers,
    lesser,
    list_eight,
    load,
    nearest,
    plus,
    spiking,
    store,
    store_choices,
    store_low_bits,
    times,
    total,
    two_words,
)
from resformer.compiler.backends.sim.loops import NOTHING, integrate
from resformer.compiler.backends.sim.products import STRIP_ROWS
from resformer.compiler.backends.sim.tiles import (
    add_pairs,
    clear_tile,
    configure_tiles,
    dot_bytes,
    dot_tiles,
    load_tile,
    release_tiles,
    store_tile,
)
from resformer.compiler.backends.sim.widths import BASE, LANES, TILE_BYTES, WORD_LANES


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def multiply(shapes: Any, second: Any, a: Any, t: int, b: Any, c: Any) -> None:
    """One step's product of a strip.

    Args:
        shapes: The shapes of AMX's tiles, which were configured with them; None: do not use tiles.
        second: None: a and b hold words. Otherwise they hold bytes, which tiles multiply, or VNNI where ``shapes`` is
            None.
        a: (steps, 16, depth), uint8: spikes.
        t: The step.
        b: (steps, depth / 4, columns), int32: digits or words of y.
        c: (steps, 16, columns), int32: where the sums are written.
    """
    depth, columns = a.shape[2], b.shape[2]
    a_at, b_at, c_at = t * STRIP_ROWS * depth, t * b.shape[1] * columns, t * STRIP_ROWS * columns
    if shapes is not None:
        step = 4 * columns
        fours = columns // (4 * LANES) * (4 * LANES)
        for n in range(0, fours, 4 * LANES):
            clear_tile(0)
            clear_tile(1)
            clear_tile(2)
            clear_tile(3)
            for k in range(0, depth, TILE_BYTES):
                at = b_at + k // 4 * columns + n
                load_tile(4, a, a_at + k, depth)
                load_tile(5, b, at, step)
                dot_tiles(0, 4, 5)
                load_tile(6, b, at + LANES, step)
                dot_tiles(1, 4, 6)
                load_tile(7, b, at + 2 * LANES, step)
                dot_tiles(2, 4, 7)
                load_tile(5, b, at + 3 * LANES, step)
                dot_tiles(3, 4, 5)
            store_tile(0, c, c_at + n, step)
            store_tile(1, c, c_at + n + LANES, step)
            store_tile(2, c, c_at + n + 2 * LANES, step)
            store_tile(3, c, c_at + n + 3 * LANES, step)
        for n in range(fours, columns, LANES):
            clear_tile(0)
            for k in range(0, depth, TILE_BYTES):
                load_tile(4, a, a_at + k, depth)
                load_tile(5, b, b_at + k // 4 * columns + n, step)
                dot_tiles(0, 4, 5)
            store_tile(0, c, c_at + n, step)
    elif second is None:
        pairs, listed = a.view(np.int32), np.empty(depth // 4 + LANES, np.uint16)
        for row in range(STRIP_ROWS):
            left, out = a_at // 4 + row * depth // 4, c_at + row * columns
            count = 0
            for pair in range(0, depth // 4, LANES):
                bits = spiking(pairs, left + pair)
                count += list_eight(PLACES, bits & 255, pair, listed, count)
                count += list_eight(PLACES, bits >> 8, pair + 8, listed, count)
            n = 0
            while n + 12 * WORD_LANES <= columns:
                add_pairs(12, pairs, left, b, b_at + n, columns, listed, count, c, out + n)
                n += 12 * WORD_LANES
            while n + 8 * WORD_LANES <= columns:
                add_pairs(8, pairs, left, b, b_at + n, columns, listed, count, c, out + n)
                n += 8 * WORD_LANES
            while n < columns:
                add_pairs(2, pairs, left, b, b_at + n, columns, listed, count, c, out + n)
                n += 2 * WORD_LANES
    else:
        threes = columns // (3 * LANES) * (3 * LANES)
        for row in range(0, STRIP_ROWS, 8):
            left, out = a_at + row * depth, c_at + row * columns
            for n in range(0, threes, 3 * LANES):
                dot_bytes(8, 3, a, left, depth, b, b_at + n, columns, depth // 4, c, out + n, columns)
            for n in range(threes, columns, LANES):
                dot_bytes(8, 1, a, left, depth, b, b_at + n, columns, depth // 4, c, out + n, columns)


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def multiply_all(shapes: Any, second: Any, a: Any, b: Any, c: Any) -> None:
    """The products of all steps; arguments are those of :func:`multiply`."""
    if shapes is not None:
        configure_tiles(shapes)
    for t in range(len(a)):
        multiply(shapes, second, a, t, b, c)
    if shapes is not None:
        release_tiles()


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def spread_spikes(x: Any, row0: int, first: int, rows: int, width: int, second: Any, a: Any) -> None:
    """Copy a strip's spikes into its matrix, once for each digit.

    Args:
        x: (steps, all rows, all channels), uint8; ``rows`` rows from ``row0`` and ``width`` channels from ``first`` are
            read.
        row0: The first row.
        first: The first channel.
        rows: The number of rows, at most 16.
        width: The number of channels.
        second: Where in depth the higher digit begins; None: spikes become words.
        a: (steps, 16, depth), uint8.
    """
    words = a.view(np.int16)
    for t in range(len(a)):
        for row in range(rows):
            x_row = x[t, row0 + row, first : first + width]
            if second is None:
                word = words[t, row, :width]
                for c in range(width):
                    word[c] = x_row[c]
            else:
                low, high = a[t, row, :width], a[t, row, second : second + width]
                for c in range(width):
                    low[c] = x_row[c]
                for c in range(width):
                    high[c] = np.uint8(BASE) * x_row[c]


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def words_of(y: Any, at: int, bias: Any, c: int, mask: Any) -> Any:
    """16 values of y + bias, int32."""
    return nearest(plus(load(y, at, mask), load(bias, c, mask)))


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def digits_of(y: Any, at: int, bias: Any, c: int, mask: Any) -> Any:
    """16 values of y + bias as lower and higher digits, int32; rounding meets no halves, since 255 is odd."""
    whole = plus(load(y, at, mask), load(bias, c, mask))
    high = nearest(times(whole, floats(np.float32(1 / BASE))))
    return plus(nearest(whole), times(high, integers(np.int32(-BASE)))), high


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def words_by_row(y: Any, row0: int, first: int, bias: Any, rows: int, b: Any) -> None:
    """y + bias as a matrix of words whose depth is y's rows and whose columns are its channels.

    Arguments are those of :func:`digits_by_row`.
    """
    width, channels = len(bias), y.shape[2]
    b[:] = 0
    for t in range(len(b)):
        for two in range(0, rows, 2):
            for c in range(0, width, LANES):
                mask = first_lanes(width - c)
                at = (t * y.shape[1] + row0 + two) * channels + first + c
                low, high = words_of(y, at, bias, c, mask), integers(np.int32(0))
                if two + 1 < rows:
                    high = words_of(y, at + channels, bias, c, mask)
                store(b, (t * b.shape[1] + two // 2) * b.shape[2] + c, two_words(low, high), None)


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def words_by_channel(y: Any, row0: int, first: int, bias: Any, rows: int, b: Any) -> None:
    """y + bias as a matrix of words whose depth is y's channels and whose columns are its rows.

    Arguments are those of :func:`digits_by_row`.
    """
    width = len(bias)
    words = np.zeros((width + LANES - 1) // LANES * LANES, np.int16)
    pairs = words.view(np.int32)
    b[:] = 0
    for t in range(len(b)):
        for row in range(rows):
            at = (t * y.shape[1] + row0 + row) * y.shape[2] + first
            for c in range(0, width, LANES):
                store_low_bits(words, c, words_of(y, at + c, bias, c, first_lanes(width - c)), None)
            for two in range(len(pairs)):
                b[t, two, row] = pairs[two]


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def digits_by_row(y: Any, row0: int, first: int, bias: Any, rows: int, second: Any, b: Any) -> None:
    """y + bias as a matrix of digits whose depth is y's rows and whose columns are its channels.

    Args:
        y: (steps, all rows, all channels), float32; ``rows`` rows from ``row0`` and ``len(bias)`` channels from
            ``first`` are read; magnitudes of y + bias are at most ``HELD``.
        row0: The first row.
        first: The first channel.
        bias: (width,), float32.
        rows: The number of rows.
        second: Where in depth the higher digit begins, a multiple of 4; None: y + bias becomes words.
        b: (steps, depth / 4, columns), int32.
    """
    if second is None:
        words_by_row(y, row0, first, bias, rows, b)
        return
    width, channels = len(bias), y.shape[2]
    zero = integers(np.int32(0))
    b[:] = 0
    for t in range(len(b)):
        for four in range(0, rows, 4):
            for c in range(0, width, LANES):
                mask = first_lanes(width - c)
                at = (t * y.shape[1] + row0 + four) * channels + first + c
                low0, high0 = digits_of(y, at, bias, c, mask)
                low1, high1, low2, high2, low3, high3 = zero, zero, zero, zero, zero, zero
                if four + 1 < rows:
                    low1, high1 = digits_of(y, at + channels, bias, c, mask)
                if four + 2 < rows:
                    low2, high2 = digits_of(y, at + 2 * channels, bias, c, mask)
                if four + 3 < rows:
                    low3, high3 = digits_of(y, at + 3 * channels, bias, c, mask)
                to = (t * b.shape[1] + four // 4) * b.shape[2] + c
                store(b, to, four_bytes(low0, low1, low2, low3), None)
                store(b, to + second // 4 * b.shape[2], four_bytes(high0, high1, high2, high3), None)


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def digits_by_channel(y: Any, row0: int, first: int, bias: Any, rows: int, second: Any, b: Any) -> None:
    """y + bias as a matrix of digits whose depth is y's channels and whose columns are its rows.

    Arguments are those of :func:`digits_by_row`; ``second`` is at least the number of channels, rounded up to a
    multiple of 16.
    """
    if second is None:
        words_by_channel(y, row0, first, bias, rows, b)
        return
    width = len(bias)
    held = (width + LANES - 1) // LANES * LANES
    low_bytes, high_bytes = np.zeros(held, np.uint8), np.zeros(held, np.uint8)
    low_words, high_words = low_bytes.view(np.int32), high_bytes.view(np.int32)
    b[:] = 0
    for t in range(len(b)):
        for row in range(rows):
            at = (t * y.shape[1] + row0 + row) * y.shape[2] + first
            for c in range(0, width, LANES):
                low, high = digits_of(y, at + c, bias, c, first_lanes(width - c))
                store_low_bits(low_bytes, c, low, None)
                store_low_bits(high_bytes, c, high, None)
            for four in range(held // 4):
                b[t, four, row] = low_words[four]
                b[t, second // 4 + four, row] = high_words[four]


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _fire_lanes(
    sums: Any, s_at: int, s_step: int, steps: int, half: Any, tie: Any, out: Any, o_at: int, o_step: int, second: Any,
    mask: Any, padded: Any, counts: Any,
) -> Any:  # fmt: skip
    """16 neurons, over all steps; ``padded`` is None where lanes outside the mask must not be written."""
    saturated, floored, ties = counts
    most, bias, keep, threshold, floor = half
    v = floats(NOTHING)
    for t in range(steps):
        whole = load(sums, s_at + t * s_step, None)
        kept = lesser(greater(whole, integers(-most)), integers(most))
        saturated = counted(saturated, differs(kept, whole), mask)
        fired, v, floored = integrate(as_floats(kept), v, floats(bias), keep, threshold, floor, floored, mask)
        at = o_at + t * o_step
        if padded is None:
            store_choices(out, at, fired, 1, mask)
        else:
            store_choices(out, at, fired, 1, None)
            if second is not None:
                store_choices(out, at + second, fired, BASE, None)
        if tie is not None:
            # a tie does not fire, so the potential still stands at it
            ties = counted(ties, equals(v, floats(tie)), mask)
    return saturated, floored, ties


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _fire(
    sums: Any,
    rows: int,
    width: int,
    half: Any,
    tie: Any,
    out: Any,
    at: int,
    row_step: int,
    o_step: int,
    second: Any,
    padded: Any,
) -> tuple[int, int, int]:
    steps, s_step = sums.shape[0], STRIP_ROWS * sums.shape[2]
    none = integers(np.int32(0))
    counts = none, none, none
    whole = width // LANES * LANES
    for row in range(rows):
        s_at, o_at = row * sums.shape[2], at + row * row_step
        for c in range(0, whole, LANES):
            counts = _fire_lanes(
                sums, s_at + c, s_step, steps, half, tie, out, o_at + c, o_step, second, None, padded, counts
            )  # fmt: skip
        if whole < width:
            mask = first_lanes(width - whole)
            counts = _fire_lanes(
                sums, s_at + whole, s_step, steps, half, tie, out, o_at + whole, o_step, second, mask, padded, counts
            )  # fmt: skip
    return total(counts[0]), total(counts[1]), total(counts[2])


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def fire_into_strip(sums: Any, rows: int, width: int, half: Any, tie: Any, second: Any, a: Any) -> tuple[int, int, int]:
    """Fire the neurons that read a strip's product, and write their spikes as the matrix of the next product.

    Args:
        sums: (steps, 16, columns), int32: the product.
        rows: The number of rows that are real, at most 16.
        width: The number of columns that are real.
        half: The product's limit; the neurons' bias, the share of the potential that one step keeps, threshold and
            floor.
        tie: The potential that is counted as a tie; None: ties are not counted.
        second: Where in depth the spikes stand again for the higher digit; None: spikes are words.
        a: (steps, 16, depth), uint8: where spikes are written.

    Returns:
        The number of sums that were clipped, of potentials that were clipped from below, and of ties.
    """
    found: tuple[int, int, int]
    if second is None:
        words = a.view(np.int16)
        found = _fire(sums, rows, width, half, tie, words, 0, words.shape[2], STRIP_ROWS * words.shape[2], second, True)
    else:
        found = _fire(sums, rows, width, half, tie, a, 0, a.shape[2], STRIP_ROWS * a.shape[2], second, True)
    return found


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def fire_into_rows(
    sums: Any, rows: int, width: int, half: Any, tie: Any, spikes: Any, row0: int, first: int
) -> tuple[int, int, int]:
    """Fire neurons into rows from ``row0`` and channels from ``first`` of (steps, all rows, all channels)."""
    channels = spikes.shape[2]
    at = row0 * channels + first
    step = spikes.shape[1] * channels
    found: tuple[int, int, int] = _fire(sums, rows, width, half, tie, spikes, at, channels, step, 0, None)
    return found


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def attend(
    shapes: Any, sizes: Any, x: Any, x0: int, first: Any, tie1: Any, second: Any, tie2: Any, spikes: Any, p0: int
) -> tuple[int, int, int, int, int, int]:  # fmt: skip
    """Both products of all heads of a block, and their neurons.

    Args:
        shapes: As in :func:`multiply`.
        sizes: The numbers of samples, heads, channels of a head, positions of a sample, and columns of the attention
            map; then the first position to compute in each sample, and the one after the last.
        x: (steps, samples * positions, all channels), uint8.
        x0: The first head's first channel in x.
        first: What the first product needs, in this order: its matrix of spikes; its matrix of digits; its sums; where
            in depth the higher digit begins, or None for words; ``half`` as in :func:`fire_into_strip`; y; the first
            head's first channel in y; the biases that are added to y.
        tie1: The potential of the first product's neurons that is counted as a tie; None: ties are not counted.
        second: What the second product needs, in the same order. The first product's neurons fire into its matrix of
            spikes.
        tie2: The potential of the second product's neurons that is counted as a tie; None: ties are not counted.
        spikes: (steps, samples * positions, all channels), uint8: where the second product's neurons fire.
        p0: The first head's first channel in ``spikes``.

    Returns:
        Of the first product, the number of sums that were clipped, of potentials of its neurons that were clipped from
        below, and of ties; then the same three numbers of the second product.
    """
    samples, heads, width, positions, patches, first_position, last_position = sizes
    a1, b1, sums1, second1, half1, y1, y1_first, bias1 = first
    a2, b2, sums2, second2, half2, y2, y2_first, bias2 = second
    saturated1, floored1, ties1, saturated2, floored2, ties2 = 0, 0, 0, 0, 0, 0
    if shapes is not None:
        configure_tiles(shapes)
    if second1 is None:
        # padding may be anything for bytes, but words would list it as spikes
        a1[:], a2[:] = 0, 0
    for sample in range(samples):
        y_row, row0 = sample * patches, sample * positions
        for head in range(heads):
            c = head * width
            digits_by_channel(y1, y_row, y1_first + c, bias1[c : c + width], patches, second1, b1)
            digits_by_row(y2, y_row, y2_first + c, bias2[c : c + width], patches, second2, b2)
            for start in range(first_position, last_position, STRIP_ROWS):
                rows = min(STRIP_ROWS, last_position - start)
                spread_spikes(x, row0 + start, x0 + c, rows, width, second1, a1)
                for t in range(len(a1)):
                    multiply(shapes, second1, a1, t, b1, sums1)
                found = fire_into_strip(sums1, rows, patches, half1, tie1, second2, a2)
                saturated1, floored1, ties1 = saturated1 + found[0], floored1 + found[1], ties1 + found[2]
                for t in range(len(a2)):
                    multiply(shapes, second2, a2, t, b2, sums2)
                found = fire_into_rows(sums2, rows, width, half2, tie2, spikes, row0 + start, p0 + c)
                saturated2, floored2, ties2 = saturated2 + found[0], floored2 + found[1], ties2 + found[2]
    if shapes is not None:
        release_tiles()
    return saturated1, floored1, ties1, saturated2, floored2, ties2
