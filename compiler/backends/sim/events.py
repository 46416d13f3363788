"""Convolutions of spikes by events: a row of weights is added for each spike, and for nothing else.

A processor without VNNI multiplies bytes in vectors of 16 bits. Where a fifth of all inputs spike, to add the weights
of those that do takes fewer instructions than to multiply all. Sums are of 16 bits, in registers; they may wrap on
their way, and are right all the same, since they fit.

An image's spikes are listed once, pixel by pixel (and part by part of its channels). For a row of targets these lists
are put one after the other, column by column: what a target reads are neighbours there, and the place of each in the
list is that of a row of weights to be added, counted from the target's first column.

Nothing here looks at bounds: ``guarded_events`` does, once a call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from resformer.compiler.backends.sim.lanes import PLACES, integers, list_eight, load_places, plus, spiking, store, times
from resformer.compiler.backends.sim.tiles import add_rows
from resformer.compiler.backends.sim.widths import LANES, ROW_BYTES

TARGETS = 32
"""How many are summed one after the other, block by block of outputs, so that a block's weights stay in the cache:
so many rows of targets as have no more, or one."""
WIDTHS = (6, 4, 3, 2, 1)
"""How many vectors of 32 outputs a block may have: as many as there are registers for, or fewer."""


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def list_spikes(image: Any, frame: Any, first: int, last: int, parts: int, starts: Any, listed: Any) -> None:
    """List the spikes of some rows of an image, by pixel and part of its channels.

    Args:
        image: (H, W, channels), uint8: what is not zero is a spike.
        frame: Rows of zeros above, and at least as many below; columns of zeros on the left; how many pixels a row has
            with those on the left. Those on its right are the next row's.
        first: The first of the rows, those of zeros included.
        last: The one after the last.
        parts: Of the channels, which they divide.
        starts: (pixels * parts + 1,), int32: where each list begins and the one before it ends, all zeros included.
        listed: uint16: the lists, of channels' numbers in their part.
    """
    height, columns, channels = image.shape
    top, left, row = frame
    part_channels = channels // parts
    whole = part_channels // LANES * LANES
    count, at = 0, first * row * parts
    for y in range(first - top, last - top):
        if y < 0 or y >= height:
            for _ in range(row * parts):
                starts[at] = count
                at += 1
            continue
        for _ in range(left * parts):
            starts[at] = count
            at += 1
        for x in range(columns):
            for part in range(parts):
                starts[at] = count
                at += 1
                pixel = (y * columns + x) * channels + part * part_channels
                for c in range(0, whole, LANES):
                    bits = spiking(image, pixel + c)
                    count += list_eight(PLACES, bits & 255, c, listed, count)
                    count += list_eight(PLACES, bits >> 8, c + 8, listed, count)
                for c in range(whole, part_channels):
                    listed[count] = c
                    count += image[y, x, part * part_channels + c] != 0
    for _ in range(left * parts + 1):
        starts[at] = count
        at += 1


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _gather(
    starts: Any, listed: Any, offset: int, columns: Any, lines: Any, line_rows: int, width: int, rows: Any, count: int,
    bounds: Any, b_at: int,
) -> int:  # fmt: skip
    """Put what a row of targets reads behind what is there, as rows; returns how much that is then."""
    size = integers(np.int32(width))
    base = 0
    for column in range(len(columns)):
        bounds[b_at + column] = count
        for line in range(len(lines)):
            at = offset + columns[column] + lines[line]
            begin, end = starts[at], starts[at + 1]
            first = integers(np.int32(base))
            for o in range(0, end - begin, LANES):
                # whole vectors: the next list is written over what is beyond
                store(rows, count + o, plus(times(load_places(listed, begin + o), size), first), None)
            count += end - begin
            base += line_rows * width
    bounds[b_at + len(columns)] = count
    return count


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def convolve(
    image: Any, frame: Any, window: Any, made: Any, parts: Any, columns: Any, firsts: Any, taps: int, lines: Any,
    chunks: Any, weights: Any, width: int, scale: Any, bias: Any, starts: Any, listed: Any, rows: Any,
    bounds: Any, sums: Any, spare: Any, out: Any,
) -> None:  # fmt: skip
    """Sum the spikes of some images.

    Args:
        image: (images, H, W, channels), uint8.
        frame: As :func:`list_spikes` has it.
        window: Rows from a target to the next, and how many a target reads, those between included.
        made: R and S, targets of an image; the first of the R rows that are made, and the one after the last.
        parts: How many groups there are, and how many parts each has.
        columns: (columns,), int64: what each column that is read adds to the first list of a row of targets. A
            target's are neighbours.
        firsts: (S,), int64: which is a target's first.
        taps: How many it reads.
        lines: (lines,), int64: what each row of the kernel, of each part, adds to a column's first list.
        chunks: (chunks + 1,), int64: lines from one to the next are summed in 16 bits; then all in 32.
        weights: (blocks of all groups, rows of a group and one of zeros, width), int8: rows by chunk, column of the
            kernel, line and channel.
        width: Outputs of a block, ``ROW_BYTES`` times one of ``WIDTHS``.
        scale: (groups, outputs of a group in whole blocks), float32: powers of two.
        bias: As scale.
        starts: As :func:`list_spikes` has them.
        listed: As it has them, with room for all channels of an image, and a vector more.
        rows: int32, with room for all that targets read at a time, and a vector more.
        bounds: int64, with room for the columns of targets at a time, and one more for each of their rows.
        sums: (targets at a time, outputs of a group in whole blocks), int32.
        spare: (1, outputs of a group in whole blocks), float32.
        out: (images * R * S, outputs), float32.
    """
    row = frame[2]
    down, reach = window
    height, across, first_made, last_made = made
    groups, per_group = parts
    all_parts = groups * per_group
    blocks = len(weights) // groups
    outputs = out.shape[1] // groups
    held = sums.shape[1]
    block_size = weights.shape[1] * width
    line_rows = (weights.shape[1] - 1) // (taps * len(lines))
    at_once = max(TARGETS // across, 1)
    step = len(columns) + 1
    for index in range(len(image)):
        list_spikes(image[index], frame, first_made * down, (last_made - 1) * down + reach, all_parts, starts, listed)
        for y0 in range(first_made, last_made, at_once):
            targets = min(at_once, last_made - y0) * across
            for group in range(groups):
                for chunk in range(len(chunks) - 1):
                    of_chunk = lines[chunks[chunk] : chunks[chunk + 1]]
                    count = 0
                    for y in range(targets // across):
                        offset = (y0 + y) * down * row * all_parts + group * per_group
                        count = _gather(
                            starts, listed, offset, columns, of_chunk, line_rows, width, rows, count, bounds, y * step
                        )
                    more, last = chunk > 0, chunk == len(chunks) - 2
                    column_size = len(of_chunk) * line_rows * width
                    w_first = taps * chunks[chunk] * line_rows * width
                    for block in range(blocks):
                        w_block = (group * blocks + block) * block_size
                        none = w_block + block_size - width
                        f_at = group * held + block * width
                        whole = min(width, outputs - block * width)
                        for each in range(targets):
                            y, x = each // across, each % across
                            b_at = y * step + firsts[x]
                            w_at = w_block + w_first - firsts[x] * column_size
                            span = w_at, none, bounds[b_at], bounds[b_at + taps]
                            s_at = each * held + block * width
                            o_row = (index * height + y0) * across + each
                            o_at = o_row * out.shape[1] + group * outputs + block * width
                            if whole == width:
                                _add(width, weights, span, rows, sums, s_at, more, last, scale, bias, f_at, out, o_at)
                                continue
                            _add(width, weights, span, rows, sums, s_at, more, last, scale, bias, f_at, spare, 0)
                            for o in range(whole if last else 0):
                                out[o_row, group * outputs + block * width + o] = spare[0, o]


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _add(
    width: int, weights: Any, span: Any, rows: Any, sums: Any, s_at: int, more: bool, last: bool, scale: Any, bias: Any,
    f_at: int, out: Any, o_at: int,
) -> None:  # fmt: skip
    """``add_rows`` of a width that is known when it runs."""
    if width == 6 * ROW_BYTES:
        add_rows(6, weights, span, rows, sums, s_at, more, last, scale, bias, f_at, out, o_at)
    elif width == 4 * ROW_BYTES:
        add_rows(4, weights, span, rows, sums, s_at, more, last, scale, bias, f_at, out, o_at)
    elif width == 3 * ROW_BYTES:
        add_rows(3, weights, span, rows, sums, s_at, more, last, scale, bias, f_at, out, o_at)
    elif width == 2 * ROW_BYTES:
        add_rows(2, weights, span, rows, sums, s_at, more, last, scale, bias, f_at, out, o_at)
    else:
        add_rows(1, weights, span, rows, sums, s_at, more, last, scale, bias, f_at, out, o_at)
