"""The kernels of a GPU, compiled by Triton: synapses with the neurons that read them, attention, pools.

All numbers are int32, which the binding's bounds prove to hold every sum; spikes, digits and mantissas are int8. A
potential is counted in 1/64 of the input, as everywhere. Each kernel runs all T steps, so that potentials stay in
registers.

Arguments in capitals are compiled in. Offsets within one step are 32 bits wide: binding refuses larger values.
"""

from __future__ import annotations

import triton
import triton.language as tl

POINTWISE, TAPS, FLAT = 0, 1, 2
"""How synapses gather what they read: one position; a run of channels for each tap; or each tap and channel by itself,
where a tap has too few channels to fill a product's depth."""

_SIZES = (
    "rows", "made_height", "made_width", "height", "width", "steps", "x_step", "other_step", "taps", "kernel_width",
    "stride_rows", "stride_columns", "top", "left", "dilation_rows", "dilation_columns", "relay_limit", "relay_shift",
    "relay_half", "threshold", "blocks", "count_clips",
)  # fmt: skip


@triton.jit
def _decayed(v, SHIFT: tl.constexpr, KEEP: tl.constexpr):  # type: ignore[no-untyped-def]
    """v * KEEP / 4096, rounded toward zero; by a shift where KEEP is a power of two."""
    if SHIFT >= 0:
        result = (v + ((v >> 31) & ((1 << SHIFT) - 1))) >> SHIFT
    else:
        wide = v.to(tl.int64) * KEEP
        result = ((wide + ((wide >> 63) & 4095)) >> 12).to(tl.int32)
    return result


@triton.jit
def _add(counts, at, found):  # type: ignore[no-untyped-def]
    """Add how many of a tile were found to a count of 64 bits."""
    count = tl.sum(tl.sum(found.to(tl.int32), axis=1), axis=0)
    if count > 0:
        tl.atomic_add(counts + at, count.to(tl.int64))


@triton.jit
def _window(  # type: ignore[no-untyped-def]
    x, weight, row, group, output, there,
    made_height, made_width, height, width, channels, group_channels, taps, kernel_width, stride_rows,
    stride_columns, top, left, dilation_rows, dilation_columns,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr, GATHER: tl.constexpr, EVEN: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """The sums of one tile, (ROWS, OUTPUTS), in units of each output's exponent."""
    sums = tl.zeros((ROWS, OUTPUTS), tl.int32)
    k = tl.arange(0, DEPTH)
    depth = taps * group_channels
    weights = weight + output * depth
    if GATHER == 0:
        base = row * channels + group * group_channels
        for start in range(0, group_channels, DEPTH):
            if EVEN:
                a = tl.load(x + base[:, None] + (start + k)[None, :])
                if WHOLE:
                    b = tl.load(weights[None, :] + (start + k)[:, None])
                else:
                    b = tl.load(weights[None, :] + (start + k)[:, None], mask=there[None, :], other=0)
            else:
                whole = start + k < group_channels
                a = tl.load(x + base[:, None] + (start + k)[None, :], mask=whole[None, :], other=0)
                b = tl.load(weights[None, :] + (start + k)[:, None], mask=whole[:, None] & there[None, :], other=0)
            sums = tl.dot(a, b, sums, out_dtype=tl.int32)
    else:
        column = row % made_width
        rest = row // made_width
        image = rest // made_height
        first_row = (rest % made_height) * stride_rows - top
        first_column = column * stride_columns - left
        if GATHER == 1:
            chunks = (group_channels + DEPTH - 1) // DEPTH
            for turn in range(taps * chunks):
                tap = turn // chunks
                start = (turn % chunks) * DEPTH
                y = first_row + (tap // kernel_width) * dilation_rows
                z = first_column + (tap % kernel_width) * dilation_columns
                image_has = (y >= 0) & (y < height) & (z >= 0) & (z < width)
                base = ((image * height + y) * width + z) * channels + group * group_channels + start
                at = tap * group_channels + start
                if EVEN:
                    a = tl.load(x + base[:, None] + k[None, :], mask=image_has[:, None], other=0)
                    if WHOLE:
                        b = tl.load(weights[None, :] + (at + k)[:, None])
                    else:
                        b = tl.load(weights[None, :] + (at + k)[:, None], mask=there[None, :], other=0)
                else:
                    whole = start + k < group_channels
                    a = tl.load(x + base[:, None] + k[None, :], mask=image_has[:, None] & whole[None, :], other=0)
                    b = tl.load(weights[None, :] + (at + k)[:, None], mask=whole[:, None] & there[None, :], other=0)
                sums = tl.dot(a, b, sums, out_dtype=tl.int32)
        else:
            for start in range(0, depth, DEPTH):
                each = start + k
                tap = each // group_channels
                y = first_row[:, None] + ((tap // kernel_width) * dilation_rows)[None, :]
                z = first_column[:, None] + ((tap % kernel_width) * dilation_columns)[None, :]
                whole = each < depth
                image_has = (y >= 0) & (y < height) & (z >= 0) & (z < width) & whole[None, :]
                at = ((image[:, None] * height + y) * width + z) * channels + group * group_channels
                a = tl.load(x + at + (each % group_channels)[None, :], mask=image_has, other=0)
                b = tl.load(weights[None, :] + each[:, None], mask=whole[:, None] & there[None, :], other=0)
                sums = tl.dot(a, b, sums, out_dtype=tl.int32)
    return sums


@triton.jit
def _relayed(x, bias, inside, counts, limit, shift, half, count):  # type: ignore[no-untyped-def]
    """A relay's bias, shift and saturation."""
    whole = (x + bias[None, :] + half) >> shift
    kept = tl.minimum(tl.maximum(whole, -limit), limit)
    if count != 0:
        _add(counts, 0, (kept != whole) & inside)
    return kept


@triton.jit
def _fired(  # type: ignore[no-untyped-def]
    x, v, bias, tie, inside, counts, threshold, FLOORS: tl.constexpr, TIES: tl.constexpr,
    V_MAX: tl.constexpr, SHIFT: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """One step of neurons: who fires, and the potentials that are left."""
    free = _decayed(v, SHIFT, KEEP) + (x * 64 + bias)
    kept = free
    if FLOORS:
        kept = tl.maximum(free, -V_MAX)
        _add(counts, 1, (kept != free) & inside)
    if TIES:
        _add(counts, 2, (free == tie) & inside)
    fired = kept > threshold
    return fired, tl.where(fired, 0, kept)


@triton.jit(do_not_specialize=_SIZES)
def synapses(  # type: ignore[no-untyped-def]
    x, weight, scale, bias, other, relay_bias, lif_bias, tie, sums, stream, spikes, counts,
    rows, made_height, made_width, height, width, steps, x_step, other_step,
    channels, group_channels, outputs, group_outputs,
    taps, kernel_width, stride_rows, stride_columns, top, left, dilation_rows, dilation_columns,
    relay_limit, relay_shift, relay_half, threshold, blocks,
    count_clips,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr, GATHER: tl.constexpr, EVEN: tl.constexpr,
    WHOLE: tl.constexpr, STATIC: tl.constexpr, OTHER: tl.constexpr, RELAY: tl.constexpr, SUMS: tl.constexpr,
    STREAM: tl.constexpr, FLOORS: tl.constexpr, TIES: tl.constexpr, FIRE: tl.constexpr, SHIFT: tl.constexpr, KEEP: tl.constexpr, V_MAX: tl.constexpr,
):  # fmt: skip
    """A convolution of spikes, and what reads it: a second summand, a relay, neurons.

    Args:
        x: (steps or 1, images * height * width, channels), int8.
        weight: (outputs, taps * group_channels), int8, taps first.
        scale: (outputs,), int32: what each sum is multiplied by, a power of two.
        bias: (outputs,), int32.
        other: (steps or 1, rows, outputs), what is added.
        relay_bias: (outputs,), int32.
        lif_bias: (outputs,), int32, in 1/64 of the input.
        tie: (outputs,), int32, the potentials that are counted as ties.
        sums: (steps or 1, rows, outputs): what the synapses alone make.
        stream: (steps or 1, rows, outputs): what the neurons read.
        spikes: (steps, rows, outputs), int8.
        counts: (3,), int64: clipped by the relay, potentials clipped from below, ties.
        rows: Images times positions made.
        x_step: Numbers from one step of x to the next.
        other_step: The same of ``other``; 0 where all its steps are alike.
        blocks: Tiles of outputs a group.
    """
    tile = tl.program_id(1)
    group = tile // blocks
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    first = (tile % blocks) * OUTPUTS
    output = group * group_outputs + first + tl.arange(0, OUTPUTS)
    if WHOLE:
        there = tl.full((OUTPUTS,), True, tl.int1)
        inside = (row < rows)[:, None]
    else:
        there = first + tl.arange(0, OUTPUTS) < group_outputs
        inside = (row < rows)[:, None] & there[None, :]
    read_row = tl.minimum(row, rows - 1)
    at = row[:, None] * outputs + output[None, :]
    step = rows.to(tl.int64) * outputs
    wide_x, wide_other = x_step.to(tl.int64), other_step.to(tl.int64)
    if FIRE:
        v = tl.zeros((ROWS, OUTPUTS), tl.int32)
    if STATIC:
        own = _window(
            x, weight, read_row, group, output, there,
            made_height, made_width, height, width, channels, group_channels, taps, kernel_width, stride_rows,
            stride_columns, top, left, dilation_rows, dilation_columns, ROWS, OUTPUTS, DEPTH, GATHER, EVEN, WHOLE,
        )  # fmt: skip
        own = own * tl.load(scale + output, mask=there)[None, :] + tl.load(bias + output, mask=there)[None, :]
        if SUMS:
            tl.store(sums + at, own.to(sums.dtype.element_ty), mask=inside)
    for t in range(steps):
        if STATIC:
            now = own
        else:
            now = _window(
                x + t * wide_x, weight, read_row, group, output, there,
                made_height, made_width, height, width, channels, group_channels, taps, kernel_width, stride_rows,
                stride_columns, top, left, dilation_rows, dilation_columns, ROWS, OUTPUTS, DEPTH, GATHER, EVEN, WHOLE,
            )  # fmt: skip
            now = now * tl.load(scale + output, mask=there)[None, :] + tl.load(bias + output, mask=there)[None, :]
            if SUMS:
                tl.store(sums + t * step + at, now.to(sums.dtype.element_ty), mask=inside)
        if OTHER:
            now += tl.load(other + t * wide_other + at, mask=inside, other=0).to(tl.int32)
        if RELAY:
            relayed = tl.load(relay_bias + output, mask=there)
            now = _relayed(now, relayed, inside, counts, relay_limit, relay_shift, relay_half, count_clips)
        if STREAM:
            tl.store(stream + t * step + at, now.to(stream.dtype.element_ty), mask=inside)
        if FIRE:
            driven = tl.load(lif_bias + output, mask=there)[None, :]
            met = tl.load(tie + output, mask=there)[None, :] if TIES else 0
            fired, v = _fired(now, v, driven, met, inside, counts, threshold, FLOORS, TIES, V_MAX, SHIFT, KEEP)
            tl.store(spikes + t * step + at, fired.to(tl.int8), mask=inside)


@triton.jit(do_not_specialize=_SIZES)
def neurons(  # type: ignore[no-untyped-def]
    x, other, relay_bias, lif_bias, tie, stream, spikes, counts,
    rows, steps, x_step, other_step, channels, relay_limit, relay_shift, relay_half, threshold,
    count_clips,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, OTHER: tl.constexpr, RELAY: tl.constexpr, STREAM: tl.constexpr,
    FLOORS: tl.constexpr, TIES: tl.constexpr, FIRE: tl.constexpr, SHIFT: tl.constexpr, KEEP: tl.constexpr,
    V_MAX: tl.constexpr,
):  # fmt: skip
    """A sum, a relay and neurons, as ``synapses`` has them; x is (steps or 1, rows, channels)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = channel < channels
    inside = (row < rows)[:, None] & there[None, :]
    at = row[:, None] * channels + channel[None, :]
    step = rows.to(tl.int64) * channels
    wide_x, wide_other = x_step.to(tl.int64), other_step.to(tl.int64)
    if FIRE:
        v = tl.zeros((ROWS, CHANNELS), tl.int32)
    for t in range(steps):
        now = tl.load(x + t * wide_x + at, mask=inside, other=0).to(tl.int32)
        if OTHER:
            now += tl.load(other + t * wide_other + at, mask=inside, other=0).to(tl.int32)
        if RELAY:
            relayed = tl.load(relay_bias + channel, mask=there)
            now = _relayed(now, relayed, inside, counts, relay_limit, relay_shift, relay_half, count_clips)
        if STREAM:
            tl.store(stream + t * step + at, now.to(stream.dtype.element_ty), mask=inside)
        if FIRE:
            driven = tl.load(lif_bias + channel, mask=there)[None, :]
            met = tl.load(tie + channel, mask=there)[None, :] if TIES else 0
            fired, v = _fired(now, v, driven, met, inside, counts, threshold, FLOORS, TIES, V_MAX, SHIFT, KEEP)
            tl.store(spikes + t * step + at, fired.to(tl.int8), mask=inside)


@triton.jit(do_not_specialize=("rows", "patches"))
def digits(  # type: ignore[no-untyped-def]
    y, bias, planes, rows, patches, channels,
    PADDED: tl.constexpr, DIGITS: tl.constexpr, BY_CHANNEL: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """y + bias as digits to the base 256, each from -128 to 127, the most significant plane first.

    Args:
        y: (images, patches, channels), integers.
        bias: (channels,), int32.
        planes: int8, (DIGITS, images, PADDED, channels), or with the last two axes swapped ``BY_CHANNEL``; what pads
            patches is zero.
        rows: Images times PADDED.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    image = row // PADDED
    patch = row % PADDED
    inside = (row < rows)[:, None] & (channel < channels)[None, :]
    there = inside & (patch < patches)[:, None]
    rest = tl.load(y + (image * patches + patch)[:, None] * channels + channel[None, :], mask=there, other=0)
    rest = rest.to(tl.int32) + tl.load(bias + channel, mask=channel < channels, other=0)[None, :]
    rest = tl.where(there, rest, 0)
    if BY_CHANNEL:
        at = (image[:, None] * channels + channel[None, :]) * PADDED + patch[:, None]
    else:
        at = row[:, None] * channels + channel[None, :]
    plane = rows.to(tl.int64) * channels
    for digit in tl.static_range(DIGITS - 1, -1, -1):
        low = ((rest + 128) & 255) - 128
        tl.store(planes + digit * plane + at, low.to(tl.int8), mask=inside)
        rest = (rest - low) >> 8


@triton.jit
def _columns(y, of_head, WIDTH: tl.constexpr, DEPTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Digits of y2, (patches, DEPTH); heads are padded to a power of two."""
    if WIDTH == DEPTH:
        result = tl.load(y)
    else:
        result = tl.load(y, mask=of_head[None, :], other=0)
    return result


@triton.jit
def _scores(  # type: ignore[no-untyped-def]
    gates, y, v, patch, there, of_head, counts, plane, patches, limit, bias, tie, threshold,
    ROWS: tl.constexpr, PART: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr, DIGITS: tl.constexpr,
    CLIPS: tl.constexpr, FLOORS: tl.constexpr, TIES: tl.constexpr, V_MAX: tl.constexpr, SHIFT: tl.constexpr,
    KEEP: tl.constexpr,
):  # fmt: skip
    """The attention map of some patches at one step, (ROWS, PART), and the potentials that are left."""
    sums = tl.zeros((ROWS, PART), tl.int32)
    for digit in tl.static_range(0, DIGITS):
        if WIDTH == DEPTH:
            part = tl.load(y + digit * plane)
        else:
            part = tl.load(y + digit * plane, mask=of_head[:, None], other=0)
        sums = tl.dot(gates, part, sums << 8, out_dtype=tl.int32)
    kept = tl.minimum(tl.maximum(sums, -limit), limit)
    inside = there & (patch < patches)[None, :]
    if CLIPS:
        _add(counts, 0, (kept != sums) & inside)
    fired, v = _fired(kept, v, bias, tie, inside, counts, threshold, FLOORS, TIES, V_MAX, SHIFT, KEEP)
    return fired.to(tl.int8), v


@triton.jit(do_not_specialize=("positions", "patches", "steps", "images", "heads", "limit1", "limit2", "bias1", "bias2",
                               "tie1", "tie2", "threshold1", "threshold2"))  # fmt: skip
def attention(  # type: ignore[no-untyped-def]
    x, planes1, planes2, spikes, counts1, counts2,
    positions, patches, steps, images, heads, channels, limit1, limit2, bias1, bias2, tie1, tie2, threshold1,
    threshold2,
    ROWS: tl.constexpr, PADDED: tl.constexpr, PART: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
    DIGITS1: tl.constexpr, DIGITS2: tl.constexpr, CLIPS1: tl.constexpr, CLIPS2: tl.constexpr,
    FLOORS1: tl.constexpr, FLOORS2: tl.constexpr, TIES1: tl.constexpr, TIES2: tl.constexpr,
    SHIFT1: tl.constexpr, SHIFT2: tl.constexpr, KEEP1: tl.constexpr, KEEP2: tl.constexpr, V_MAX: tl.constexpr,
):  # fmt: skip
    """Both of DSSA's products and the neurons after each, for one head and some positions, over all steps.

    Args:
        x: (steps, images * positions, channels), int8; head h has WIDTH channels from h * WIDTH on.
        planes1: y1 as ``digits`` makes it, (DIGITS1, steps * images, PADDED, channels).
        planes2: y2 likewise, (DIGITS2, steps * images, channels, PADDED).
        spikes: (steps, images * positions, channels), int8.
        counts1: (3,), int64: clipped sums, potentials clipped from below and ties, of the first half.
        counts2: Of the second.
    """
    image = tl.program_id(1) // heads
    head = tl.program_id(1) % heads
    position = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = (position < positions)[:, None]
    row = image * positions + tl.minimum(position, positions - 1)
    patch = tl.arange(0, PART)
    depth = tl.arange(0, DEPTH)
    channel = head * WIDTH + depth
    of_head = depth < WIDTH
    inside = there & of_head[None, :]
    at = row[:, None] * channels + channel[None, :]
    step = (images * positions).to(tl.int64) * channels
    plane_step = (images * PADDED).to(tl.int64) * channels
    plane = plane_step * steps
    at1 = image * PADDED * channels + patch[None, :] * channels + channel[:, None]
    at2 = image * PADDED * channels + channel[None, :] * PADDED + patch[:, None]
    v1 = tl.zeros((ROWS, PART), tl.int32)
    beyond = tl.zeros((ROWS, PART), tl.int32)
    v2 = tl.zeros((ROWS, DEPTH), tl.int32)
    for t in range(steps):
        gates = tl.load(x + t * step + at, mask=inside, other=0)
        y1 = planes1 + t * plane_step + at1
        chosen, v1 = _scores(
            gates, y1, v1, patch, there, of_head, counts1, plane, patches, limit1, bias1, tie1, threshold1,
            ROWS, PART, WIDTH, DEPTH, DIGITS1, CLIPS1, FLOORS1, TIES1, V_MAX, SHIFT1, KEEP1,
        )  # fmt: skip
        if PART < PADDED:
            also, beyond = _scores(
                gates, y1 + PART * channels, beyond, patch + PART, there, of_head, counts1, plane, patches, limit1,
                bias1, tie1, threshold1,
                ROWS, PART, WIDTH, DEPTH, DIGITS1, CLIPS1, FLOORS1, TIES1, V_MAX, SHIFT1, KEEP1,
            )  # fmt: skip
        sums = tl.zeros((ROWS, DEPTH), tl.int32)
        for digit in tl.static_range(0, DIGITS2):
            y2 = planes2 + digit * plane + t * plane_step + at2
            sums = tl.dot(chosen, _columns(y2, of_head, WIDTH, DEPTH), sums << 8, out_dtype=tl.int32)
            if PART < PADDED:
                sums = tl.dot(also, _columns(y2 + PART, of_head, WIDTH, DEPTH), sums, out_dtype=tl.int32)
        kept = tl.minimum(tl.maximum(sums, -limit2), limit2)
        if CLIPS2:
            _add(counts2, 0, (kept != sums) & inside)
        fired, v2 = _fired(
            kept, v2, bias2, tie2, inside, counts2, threshold2, FLOORS2, TIES2, V_MAX, SHIFT2, KEEP2,
        )  # fmt: skip
        tl.store(spikes + t * step + at, fired.to(tl.int8), mask=inside)


@triton.jit(do_not_specialize=("rows", "made_height", "made_width", "height", "width", "kernel_height", "kernel_width",
                               "stride_rows", "stride_columns", "top", "left"))  # fmt: skip
def pool(  # type: ignore[no-untyped-def]
    x, made, rows, made_height, made_width, height, width, channels, kernel_height, kernel_width, stride_rows,
    stride_columns, top, left,
    LARGEST: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Maxima, or sums, over windows; what lies outside the image never wins.

    Args:
        x: (images, height, width, channels), integers.
        made: (rows, channels), rows being images times positions made.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (row < rows)[:, None] & (channel < channels)[None, :]
    column = row % made_width
    rest = row // made_width
    image = rest // made_height
    first_row = (rest % made_height) * stride_rows - top
    first_column = column * stride_columns - left
    least = -2147483648 if LARGEST else 0
    total = tl.full((ROWS, CHANNELS), least, tl.int32)
    for tap in range(kernel_height * kernel_width):
        y = first_row + tap // kernel_width
        z = first_column + tap % kernel_width
        there = inside & ((y >= 0) & (y < height) & (z >= 0) & (z < width))[:, None]
        at = ((image * height + y) * width + z)[:, None] * channels + channel[None, :]
        value = tl.load(x + at, mask=there, other=0).to(tl.int32)
        total = tl.maximum(total, tl.where(there, value, least)) if LARGEST else total + value
    tl.store(made + row[:, None] * channels + channel[None, :], total.to(made.dtype.element_ty), mask=inside)
