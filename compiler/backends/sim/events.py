"""Convolutions of spikes by events: a row of weights is added for each spike, and for nothing else.

A processor without VNNI multiplies bytes in vectors of 16 bits. Where a fifth of all inputs spike, adding the weights
of the inputs that spike takes fewer instructions than multiplying all inputs. Sums are kept in registers, in 16 bits.
A partial sum may wrap; the final sum is right all the same, since it fits 16 bits.

Each pixel's spikes are listed once for an image; where channels are cut into parts, each pixel has a list for each
part. For a row of targets (output positions), these lists are put one after the other, column by column, so that the
spikes that one target reads are neighbours. There, each spike stands as the place of the row of weights to add, counted
from the first column; a target subtracts the place at which its own first column begins.

Nothing here checks bounds: ``guarded_events`` does, once a call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from resformer.compiler.backends.sim.lanes import PLACES, integers, list_eight, load_places, plus, spiking, store, times
from resformer.compiler.backends.sim.tiles import add_rows
from resformer.compiler.backends.sim.widths import LANES, ROW_BYTES

TARGETS = 32
"""The most targets that are summed one after the other for a block of outputs, so that its weights stay in the cache.

Whole rows of targets are taken, as many as have at most this number of targets in all; a longer row is taken alone."""
WIDTHS = (6, 4, 3, 2, 1)
"""The widths that a block of outputs may have, in vectors of 32 outputs; registers hold the sums of six at most."""


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def list_spikes(image: Any, frame: Any, first: int, last: int, parts: int, starts: Any, listed: Any) -> None:
    """List the spikes of some rows of an image, by pixel and part of its channels.

    Args:
        image: (H, W, channels), uint8: a value that is not zero is a spike.
        frame: Three numbers of the padded image: the rows of zeros above the image (there are at least as many below),
            the columns of zeros on its left, and the pixels of a padded row, which end with the image's last column.
            The zeros on the right of a row are those on the left of the next one.
        first: The first row to list, counted in the padded image.
        last: The row after the last.
        parts: The number of parts that channels are cut into; it divides the number of channels.
        starts: (pixels * parts + 1,), int32: where each list begins, which is where the one before it ends; the padding
            has lists, too, which are empty.
        listed: uint16: the lists; an entry is the number of a channel within its part.
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
    """Append the spikes that a row of targets reads to ``rows``, as places of weights; returns the new count."""
    size = integers(np.int32(width))
    base = 0
    for column in range(len(columns)):
        bounds[b_at + column] = count
        for line in range(len(lines)):
            at = offset + columns[column] + lines[line]
            begin, end = starts[at], starts[at + 1]
            first = integers(np.int32(base))
            for o in range(0, end - begin, LANES):
                # whole vectors are written: the next list overwrites what is beyond the end of this one
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
        frame: As in :func:`list_spikes`.
        window: The stride in rows, and the rows that a target's kernel spans, with those that a dilation skips.
        made: R and S, the rows and columns of an image's targets; the first row of targets to make, and the row after
            the last.
        parts: The number of groups, and the number of parts that each group's channels are cut into.
        columns: (columns,), int64: the offset of each column that is read, in lists, from the first list of a row of
            targets. The columns that one target reads are neighbours in this array.
        firsts: (S,), int64: the index in ``columns`` of each target's first column.
        taps: The number of columns that a target reads.
        lines: (lines,), int64: a line is one row of the kernel for one part of the channels; the offset of each line's
            list, in lists, from the first list of a column.
        chunks: (chunks + 1,), int64: where each chunk of lines begins, and the end. A chunk's sums fit 16 bits; the
            chunks' sums are added in 32 bits.
        weights: (blocks of all groups, rows of weights of a group and one row of zeros, width), int8; rows are ordered
            by chunk, column of the kernel, line and channel.
        width: Outputs of a block, ``ROW_BYTES`` times one of ``WIDTHS``.
        scale: (groups, outputs of a group in whole blocks), float32: powers of two that sums are multiplied by.
        bias: (groups, outputs of a group in whole blocks), float32: added after ``scale``.
        starts: As in :func:`list_spikes`.
        listed: As in :func:`list_spikes`, with room for all channels of an image, and a vector more.
        rows: int32, with room for all spikes that one chunk adds for the targets at a time, and a vector more.
        bounds: int64: where the spikes of each column begin in ``rows``, and where those of the last column end. Each
            row of targets at a time takes one number more than there are columns.
        sums: (targets at a time, outputs of a group in whole blocks), int32: the sums of the chunks before.
        spare: (1, outputs of a group in whole blocks), float32: results of a block of which only a part is outputs.
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
    """Call ``add_rows``, which needs a literal width, with a width that is known only at run time."""
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
