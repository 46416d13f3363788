"""Convolutions of spikes by events: a row of weights is added for each spike, and for nothing else.

A processor without VNNI multiplies bytes in vectors of 16 bits. Where a fifth of all inputs spike, to add the weights
of those that do takes fewer instructions than to multiply all. Sums are of 16 bits, in registers; they may wrap on
their way, and are right all the same, since they fit.

An image's spikes are listed once, pixel by pixel (and part by part of its channels). What a target reads is a list of
such lists, one for each tap; put one after the other, for some targets, they are rows of weights to be added.

Nothing here looks at bounds: ``guarded_events`` does, once a call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from resformer.compiler.backends.sim.lanes import integers, list_eight, load_places, plus, spiking, store, times
from resformer.compiler.backends.sim.tiles import add_rows
from resformer.compiler.backends.sim.widths import LANES, ROW_BYTES, ROWS_AT_ONCE

TARGETS = 32
"""How many are summed one after the other, block by block of outputs, so that a block's weights stay in the cache."""
WIDTHS = (6, 4, 3, 2, 1)
"""How many vectors of 32 outputs a block may have: as many as there are registers for, or fewer."""


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def list_spikes(image: Any, top: int, left: int, row: int, parts: int, places: Any, starts: Any, listed: Any) -> None:
    """List an image's spikes, by pixel and part of its channels.

    Args:
        image: (H, W, channels), uint8: what is not zero is a spike.
        top: Rows of zeros above, and at least as many below.
        left: Columns of zeros on the left.
        row: How many pixels a row has with those on the left and on the right.
        parts: Of the channels, which they divide.
        places: (256, 8), uint16, as :func:`list_eight` has it.
        starts: (pixels * parts + 1,), int32: where each list begins and the one before it ends, all zeros included.
        listed: uint16: the lists, of channels' numbers in their part.
    """
    height, columns, channels = image.shape
    part_channels = channels // parts
    whole = part_channels // LANES * LANES
    count = 0
    for pixel in range(top * row * parts):
        starts[pixel] = 0
    at = top * row * parts
    for y in range(height):
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
                    count += list_eight(places, bits & 255, c, listed, count)
                    count += list_eight(places, bits >> 8, c + 8, listed, count)
                for c in range(whole, part_channels):
                    listed[count] = c
                    count += image[y, x, part * part_channels + c] != 0
        for _ in range((row - left - columns) * parts):
            starts[at] = count
            at += 1
    for rest in range(at, len(starts)):
        starts[rest] = count


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _gather(
    starts: Any, listed: Any, pixels: Any, bases: Any, first: int, last: int, offset: int, width: int, none: int,
    rows: Any, count: int,
) -> int:  # fmt: skip
    """Put the lists of some segments of a target behind what is there, as rows; returns how much that is then."""
    size = integers(np.int32(width))
    for segment in range(first, last):
        at = offset + pixels[segment]
        begin, end = starts[at], starts[at + 1]
        base = integers(bases[segment])
        for o in range(0, end - begin, LANES):
            # whole vectors: the next list is written over what is beyond
            store(rows, count + o, plus(times(load_places(listed, begin + o), size), base), None)
        count += end - begin
    store(rows, count, integers(np.int32(none)), None)
    return (count + ROWS_AT_ONCE - 1) // ROWS_AT_ONCE * ROWS_AT_ONCE


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def convolve(
    image: Any, frame: Any, stride: Any, made: Any, parts: Any, pixels: Any, bases: Any, chunks: Any, weights: Any,
    width: int, scale: Any, bias: Any, places: Any, starts: Any, listed: Any, rows: Any, sums: Any, out: Any,
) -> None:  # fmt: skip
    """Sum the spikes of some images.

    Args:
        image: (images, H, W, channels), uint8.
        frame: Zeros above and on the left, and how many pixels a row has with them.
        stride: (rows, columns).
        made: (R, S), targets of an image.
        parts: How many groups there are, and how many parts each has.
        pixels: (segments,), int64: what each segment of a group, a tap of a part, adds to a target's first list.
        bases: (segments,), int32: where its rows begin in a block of weights.
        chunks: (chunks + 1,), int64: segments from one to the next are summed in 16 bits; then all in 32.
        weights: (blocks of all groups, rows of a group and one of zeros, width), int8.
        width: Outputs of a block, ``ROW_BYTES`` times one of ``WIDTHS``.
        scale: (outputs,), float32: powers of two.
        bias: (outputs,), float32.
        places: As :func:`list_spikes` has them.
        starts: As it has them.
        listed: As it has them, with room for all channels of an image, and a vector more.
        rows: int32, with room for all that ``TARGETS`` targets read, ``ROWS_AT_ONCE`` more of each, and a vector more.
        sums: (TARGETS, outputs of a group in whole blocks), int32.
        out: (images * R * S, outputs), float32.
    """
    top, left, row = frame
    groups, per_group = parts
    all_parts = groups * per_group
    blocks = len(weights) // groups
    outputs = out.shape[1] // groups
    targets = made[0] * made[1]
    held = sums.shape[1]
    block_size = weights.shape[1] * width
    none = block_size - width
    bounds = np.empty(TARGETS + 1, np.int64)
    for index in range(len(image)):
        list_spikes(image[index], top, left, row, all_parts, places, starts, listed)
        for target0 in range(0, targets, TARGETS):
            some = min(TARGETS, targets - target0)
            for group in range(groups):
                for chunk in range(len(chunks) - 1):
                    count = 0
                    for each in range(some):
                        y, x = (target0 + each) // made[1], (target0 + each) % made[1]
                        offset = (y * stride[0] * row + x * stride[1]) * all_parts + group * per_group
                        bounds[each] = count
                        count = _gather(
                            starts, listed, pixels, bases, chunks[chunk], chunks[chunk + 1], offset, width, none,
                            rows, count,
                        )  # fmt: skip
                    bounds[some] = count
                    for block in range(blocks):
                        w_at = (group * blocks + block) * block_size
                        for each in range(some):
                            s_at = each * held + block * width
                            first, last = bounds[each], bounds[each + 1]
                            if width == 6 * ROW_BYTES:
                                add_rows(6, weights, w_at, rows, first, last, sums, s_at, chunk > 0)
                            elif width == 4 * ROW_BYTES:
                                add_rows(4, weights, w_at, rows, first, last, sums, s_at, chunk > 0)
                            elif width == 3 * ROW_BYTES:
                                add_rows(3, weights, w_at, rows, first, last, sums, s_at, chunk > 0)
                            elif width == 2 * ROW_BYTES:
                                add_rows(2, weights, w_at, rows, first, last, sums, s_at, chunk > 0)
                            else:
                                add_rows(1, weights, w_at, rows, first, last, sums, s_at, chunk > 0)
                first_output = group * outputs
                for each in range(some):
                    at = index * targets + target0 + each
                    for o in range(outputs):
                        whole = np.float32(sums[each, o])
                        out[at, first_output + o] = whole * scale[first_output + o] + bias[first_output + o]
