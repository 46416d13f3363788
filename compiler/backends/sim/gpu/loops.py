"""The kernels for a GPU, compiled by Triton: synapses with the neurons that read them, attention, pools.

Sums are int32: a step is bound to a kernel only if bounds prove that all its sums fit. Spikes, digits and mantissas are
int8. Potentials are in 1/64 of the input, as everywhere. Each kernel runs all T steps, so that potentials stay in
registers.

Arguments in capitals are compile-time constants. Offsets within one step are 32 bits wide; a step with larger values is
not bound to these kernels.
"""

from __future__ import annotations

import triton
import triton.language as tl

POINTWISE, TAPS, FLAT = 0, 1, 2
"""How synapses gather what they read. ``POINTWISE`` reads one position, and ``TAPS`` a run of channels for each tap.
``FLAT`` reads each tap and channel separately, where a tap has too few channels to fill a product's depth."""

_SIZES = (
    "rows", "made_height", "made_width", "height", "width", "steps", "taps",
    "stride_rows", "stride_columns", "top", "left", "dilation_rows", "dilation_columns", "relay_limit", "relay_shift",
    "relay_half", "threshold", "blocks", "count_clips",
)  # fmt: skip


@triton.jit
def _decayed(v, SHIFT: tl.constexpr, KEEP: tl.constexpr):
    """v * KEEP / 4096, rounded toward zero; v / 2^SHIFT if SHIFT is not negative."""
    if SHIFT >= 0:
        result = v // (1 << SHIFT)  # toward zero, as in C
    else:
        result = (v.to(tl.int64) * KEEP // 4096).to(tl.int32)
    return result


@triton.jit
def _add(counts, at, found):
    """Add the number of true elements of a tile to a 64-bit count."""
    count = tl.sum(found.to(tl.int32))
    if count > 0:
        tl.atomic_add(counts + at, count.to(tl.int64))


@triton.jit
def _of(values, channel, there, WHOLE: tl.constexpr):
    """Load one parameter for each channel."""
    if WHOLE:
        result = tl.load(values + channel)
    else:
        result = tl.load(values + channel, mask=there, other=0)
    return result


@triton.jit
def _read(values, at, inside, FULL: tl.constexpr):
    """Load a tile as int32."""
    if FULL:
        result = tl.load(values + at).to(tl.int32)
    else:
        result = tl.load(values + at, mask=inside, other=0).to(tl.int32)
    return result


@triton.jit
def _put(values, at, tile, inside, FULL: tl.constexpr):
    """Store a tile."""
    if FULL:
        tl.store(values + at, tile.to(values.dtype.element_ty))
    else:
        tl.store(values + at, tile.to(values.dtype.element_ty), mask=inside)


@triton.jit
def _first(
    row, made_height, made_width, stride_rows, stride_columns, top, left,
):  # fmt: skip
    """For each output position, its image, and the row and column that its first tap reads."""
    column = row % made_width
    rest = row // made_width
    return rest // made_height, (rest % made_height) * stride_rows - top, column * stride_columns - left


@triton.jit
def _seen(
    first_row, first_column, height, width, taps, dilation_rows, dilation_columns, ROWS: tl.constexpr,
    TAPS_WIDE: tl.constexpr,
):  # fmt: skip
    """For each output position, a number whose bit ``tap`` says whether that tap lies within the image."""
    seen = tl.zeros((ROWS,), tl.int32)
    for tap in range(taps):
        y = first_row + (tap // TAPS_WIDE) * dilation_rows
        z = first_column + (tap % TAPS_WIDE) * dilation_columns
        there = (y >= 0) & (y < height) & (z >= 0) & (z < width)
        seen |= there.to(tl.int32) << tap
    return seen


@triton.jit
def _window(
    x, weight, base, seen, first_row, first_column, output, there,
    height, width, channels, group_channels, depth, taps, dilation_rows, dilation_columns,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr, GATHER: tl.constexpr, PADDED: tl.constexpr,
    EVEN: tl.constexpr, WHOLE: tl.constexpr, CHUNKS: tl.constexpr, TAPS_WIDE: tl.constexpr,
):  # fmt: skip
    """The sums of one tile, (ROWS, OUTPUTS), not yet multiplied by each output's scale.

    Args:
        base: (ROWS,), the offset in x of the first number that each output position reads.
        seen: (ROWS,), from ``_seen`` if ``PADDED``; otherwise it is not used.
        first_row: (ROWS,), from ``_first``; only ``FLAT`` uses it and ``first_column``.
        output: (OUTPUTS,), the indices of the tile's outputs.
        there: (OUTPUTS,), whether each output of the tile exists.
    """
    sums = tl.zeros((ROWS, OUTPUTS), tl.int32)
    k = tl.arange(0, DEPTH)
    weights = weight + output * depth
    if GATHER == 2:
        for start in range(0, depth, DEPTH):
            each = start + k
            tap = each // group_channels
            down = (tap // TAPS_WIDE) * dilation_rows
            along = (tap % TAPS_WIDE) * dilation_columns
            y = first_row[:, None] + down[None, :]
            z = first_column[:, None] + along[None, :]
            whole = each < depth
            inside = (y >= 0) & (y < height) & (z >= 0) & (z < width) & whole[None, :]
            at = (down * width + along) * channels + each % group_channels
            a = tl.load(x + base[:, None] + at[None, :], mask=inside, other=0)
            b = tl.load(weights[None, :] + each[:, None], mask=whole[:, None] & there[None, :], other=0)
            sums = tl.dot(a, b, sums, out_dtype=tl.int32)
    else:
        turns = CHUNKS if GATHER == 0 else taps * CHUNKS
        for turn in range(turns):
            if GATHER == 0:
                start = turn * DEPTH
                from_x = start
                from_weights = start
            else:
                tap = turn // CHUNKS
                start = (turn % CHUNKS) * DEPTH
                moved = (tap // TAPS_WIDE) * dilation_rows * width + (tap % TAPS_WIDE) * dilation_columns
                from_x = moved * channels + start
                from_weights = tap * group_channels + start
            a_at = x + from_x + base[:, None] + k[None, :]
            b_at = weights[None, :] + (from_weights + k)[:, None]
            if EVEN:
                if PADDED:
                    a = tl.load(a_at, mask=((seen >> tap) & 1)[:, None] != 0, other=0)
                else:
                    a = tl.load(a_at)
                if WHOLE:
                    b = tl.load(b_at)
                else:
                    b = tl.load(b_at, mask=there[None, :], other=0)
            else:
                whole = start + k < group_channels
                if PADDED:
                    a = tl.load(a_at, mask=(((seen >> tap) & 1)[:, None] != 0) & whole[None, :], other=0)
                else:
                    a = tl.load(a_at, mask=whole[None, :], other=0)
                b = tl.load(b_at, mask=whole[:, None] & there[None, :], other=0)
            sums = tl.dot(a, b, sums, out_dtype=tl.int32)
    return sums


@triton.jit
def _relayed(x, bias, inside, counts, limit, shift, half, count, FULL: tl.constexpr):
    """Apply a relay's bias, shift and saturation; clips are counted if ``count`` is not zero."""
    whole = (x + bias[None, :] + half) >> shift
    kept = tl.minimum(tl.maximum(whole, -limit), limit)
    if count != 0:
        _add(counts, 0, (kept != whole) if FULL else (kept != whole) & inside)
    return kept


@triton.jit
def _fired(
    driven, v, tie, inside, counts, threshold, FULL: tl.constexpr, FLOORS: tl.constexpr, TIES: tl.constexpr,
    V_MAX: tl.constexpr, SHIFT: tl.constexpr, KEEP: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """One step of neurons: the spikes, and the potentials that are left. ``driven`` is in 1/64 of the neurons' input.

    If ``MASK``, bit operations find the spikes, which takes fewer instructions; otherwise a comparison does, which
    takes fewer registers.
    """
    free = _decayed(v, SHIFT, KEEP) + driven
    kept = free
    if FLOORS:
        kept = tl.maximum(free, -V_MAX)
        _add(counts, 1, (kept != free) if FULL else (kept != free) & inside)
    if TIES:
        _add(counts, 2, (free == tie) if FULL else (free == tie) & inside)
    if MASK:
        fired = (threshold - kept) >> 31  # all bits are set where a neuron fires
        result = (fired & 1).to(tl.int8)
        left = kept & ~fired
    else:
        over = kept > threshold
        result = over.to(tl.int8)
        left = tl.where(over, 0, kept)
    return result, left


@triton.jit(do_not_specialize=_SIZES)
def synapses(
    x, weight, scale, bias, drive_scale, drive_bias, other, relay_bias, lif_bias, tie, sums, stream, spikes, counts,
    rows, made_height, made_width, height, width, steps, x_step, other_step,
    channels, group_channels, depth, outputs, group_outputs,
    taps, stride_rows, stride_columns, top, left, dilation_rows, dilation_columns,
    relay_limit, relay_shift, relay_half, threshold, blocks,
    count_clips,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr, GATHER: tl.constexpr, EVEN: tl.constexpr,
    CHUNKS: tl.constexpr, TAPS_WIDE: tl.constexpr, WHOLE: tl.constexpr, FULL: tl.constexpr, PADDED: tl.constexpr,
    STATIC: tl.constexpr, OTHER: tl.constexpr, RELAY: tl.constexpr, SUMS: tl.constexpr,
    STREAM: tl.constexpr, FLOORS: tl.constexpr, TIES: tl.constexpr, FIRE: tl.constexpr, SHIFT: tl.constexpr,
    KEEP: tl.constexpr, V_MAX: tl.constexpr,
):  # fmt: skip
    """A convolution of int8 values, and what follows it: a second summand, a relay, neurons, each of them optional.

    Args:
        x: (steps or 1, images * height * width, channels), int8.
        weight: (outputs, depth), int8; depth is taps times group_channels, with taps as the outer axis.
        scale: (outputs,), int32: the power of two by which each sum is multiplied.
        bias: (outputs,), int32.
        drive_scale: (outputs,), int32: the scale in 1/64 of the neurons' input.
        drive_bias: (outputs,), int32: all biases together, in 1/64 of the neurons' input.
        other: (steps or 1, rows, outputs): the second summand.
        relay_bias: (outputs,), int32.
        lif_bias: (outputs,), int32: the neurons' bias, in 1/64 of their input.
        tie: (outputs,), int32: the potentials that are counted as ties.
        sums: (steps or 1, rows, outputs): receives the sums of the synapses alone.
        stream: (steps or 1, rows, outputs): receives what the neurons read.
        spikes: (steps, rows, outputs), int8: receives the spikes.
        counts: (3,), int64, to which the kernel adds: sums clipped by the relay, potentials clipped from below, ties.
        rows: The number of images times the output positions of an image.
        x_step: Elements from one step of ``x`` to the next; 0 if all its steps are alike.
        other_step: Elements from one step of ``other`` to the next; 0 if all its steps are alike.
        blocks: The number of tiles of outputs in a group.
    """
    tile = tl.program_id(1)
    group = tile // blocks
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    first = (tile % blocks) * OUTPUTS
    output = group * group_outputs + first + tl.arange(0, OUTPUTS)
    there = first + tl.arange(0, OUTPUTS) < group_outputs
    inside = (row < rows)[:, None] & there[None, :]
    read_row = row if FULL else tl.minimum(row, rows - 1)
    first_row, first_column, seen = read_row, read_row, read_row
    if GATHER == 0:
        base = read_row * channels + group * group_channels
    else:
        image, first_row, first_column = _first(
            read_row, made_height, made_width, stride_rows, stride_columns, top, left
        )  # fmt: skip
        base = ((image * height + first_row) * width + first_column) * channels + group * group_channels
        if PADDED:
            seen = _seen(
                first_row, first_column, height, width, taps, dilation_rows, dilation_columns, ROWS, TAPS_WIDE
            )  # fmt: skip
    at = row[:, None] * outputs + output[None, :]
    step = rows.to(tl.int64) * outputs
    # Triton makes an argument whose value is 1 a compile-time constant, which has no .to()
    wide_x, wide_other = tl.cast(x_step, tl.int64), tl.cast(other_step, tl.int64)
    if FIRE:
        v = tl.zeros((ROWS, OUTPUTS), tl.int32)
    if STATIC:
        own = _window(
            x, weight, base, seen, first_row, first_column, output, there,
            height, width, channels, group_channels, depth, taps, dilation_rows, dilation_columns,
            ROWS, OUTPUTS, DEPTH, GATHER, PADDED, EVEN, WHOLE, CHUNKS, TAPS_WIDE,
        )  # fmt: skip
    for t in range(steps):
        if STATIC:
            current = own
        else:
            current = _window(
                x + t * wide_x, weight, base, seen, first_row, first_column, output, there,
                height, width, channels, group_channels, depth, taps, dilation_rows, dilation_columns,
                ROWS, OUTPUTS, DEPTH, GATHER, PADDED, EVEN, WHOLE, CHUNKS, TAPS_WIDE,
            )  # fmt: skip
        if SUMS or RELAY or STREAM:
            now = current * _of(scale, output, there, WHOLE)[None, :] + _of(bias, output, there, WHOLE)[None, :]
        if SUMS and (not STATIC or t == 0):
            _put(sums + t * step, at, now, inside, FULL)
        if OTHER:
            added = _read(other + t * wide_other, at, inside, FULL)
            if RELAY or STREAM:
                now += added
        if RELAY:
            relayed = _of(relay_bias, output, there, WHOLE)
            now = _relayed(now, relayed, inside, counts, relay_limit, relay_shift, relay_half, count_clips, FULL)
        if STREAM:
            _put(stream + t * step, at, now, inside, FULL)
        if FIRE:
            if RELAY or (SUMS and not OTHER):
                driven = now * 64 + _of(lif_bias, output, there, WHOLE)[None, :]
            else:
                driven = current * _of(drive_scale, output, there, WHOLE)[None, :]
                driven += _of(drive_bias, output, there, WHOLE)[None, :]
                if OTHER:
                    driven += added * 64
            met = _of(tie, output, there, WHOLE)[None, :] if TIES else 0
            fired, v = _fired(driven, v, met, inside, counts, threshold, FULL, FLOORS, TIES, V_MAX, SHIFT, KEEP, True)
            _put(spikes + t * step, at, fired, inside, FULL)


@triton.jit(do_not_specialize=_SIZES)
def neurons(
    x, other, relay_bias, lif_bias, tie, stream, spikes, counts,
    rows, steps, x_step, other_step, channels, relay_limit, relay_shift, relay_half, threshold,
    count_clips,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, OTHER: tl.constexpr, RELAY: tl.constexpr, STREAM: tl.constexpr,
    FLOORS: tl.constexpr, TIES: tl.constexpr, FIRE: tl.constexpr, SHIFT: tl.constexpr, KEEP: tl.constexpr,
    V_MAX: tl.constexpr,
):  # fmt: skip
    """A sum, a relay and neurons, with the arguments of ``synapses``; x is (steps or 1, rows, channels)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = channel < channels
    inside = (row < rows)[:, None] & there[None, :]
    at = row[:, None] * channels + channel[None, :]
    step = rows.to(tl.int64) * channels
    # Triton makes an argument whose value is 1 a compile-time constant, which has no .to()
    wide_x, wide_other = tl.cast(x_step, tl.int64), tl.cast(other_step, tl.int64)
    if FIRE:
        v = tl.zeros((ROWS, CHANNELS), tl.int32)
    for t in range(steps):
        now = _read(x + t * wide_x, at, inside, False)
        if OTHER:
            now += _read(other + t * wide_other, at, inside, False)
        if RELAY:
            relayed = _of(relay_bias, channel, there, False)
            now = _relayed(now, relayed, inside, counts, relay_limit, relay_shift, relay_half, count_clips, False)
        if STREAM:
            _put(stream + t * step, at, now, inside, False)
        if FIRE:
            driven = now * 64 + _of(lif_bias, channel, there, False)[None, :]
            met = _of(tie, channel, there, False)[None, :] if TIES else 0
            fired, v = _fired(driven, v, met, inside, counts, threshold, False, FLOORS, TIES, V_MAX, SHIFT, KEEP, True)
            _put(spikes + t * step, at, fired, inside, False)


@triton.jit(do_not_specialize=("patches",))
def digits(
    y, bias, planes, rows, patches, channels,
    PADDED: tl.constexpr, DIGITS: tl.constexpr, BY_CHANNEL: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """y + bias as digits to the base 256, each from -128 to 127, the most significant plane first.

    Args:
        y: (images, patches, channels), integers.
        bias: (channels,), int32.
        planes: int8, receives the digits: (DIGITS, images, channels, PADDED) if ``BY_CHANNEL``, otherwise (DIGITS,
            images, PADDED, channels). Patches of padding are zero.
        rows: The number of images times PADDED.
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
def _columns(y, of_head, WIDTH: tl.constexpr, DEPTH: tl.constexpr):
    """Load digits of y2, (patches, DEPTH); the channels of a head are padded to a power of two."""
    if WIDTH == DEPTH:
        result = tl.load(y)
    else:
        result = tl.load(y, mask=of_head[None, :], other=0)
    return result


@triton.jit
def _scores(
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
        _add(counts, 0, kept != sums)  # padded patches and positions sum to zero, so they are not counted
    fired, v = _fired(
        kept * 64 + bias, v, tie, inside, counts, threshold, not TIES, FLOORS, TIES, V_MAX, SHIFT, KEEP, False
    )
    return fired, v


@triton.jit(do_not_specialize=("positions", "patches", "steps", "images", "heads", "limit1", "limit2", "bias1", "bias2",
                               "tie1", "tie2", "threshold1", "threshold2"))  # fmt: skip
def attention(
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
        planes2: y2 as ``digits`` makes it ``BY_CHANNEL``, (DIGITS2, steps * images, channels, PADDED).
        spikes: (steps, images * positions, channels), int8: receives the spikes of the second product's neurons.
        counts1: (3,), int64: clipped sums, potentials clipped from below, and ties of the first product's neurons.
        counts2: (3,), int64: the same counts for the second product and its neurons.
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
            _add(counts2, 0, kept != sums)
        fired, v2 = _fired(
            kept * 64 + bias2, v2, tie2, inside, counts2, threshold2, not TIES2, FLOORS2, TIES2, V_MAX, SHIFT2, KEEP2,
            False,
        )  # fmt: skip
        tl.store(spikes + t * step + at, fired, mask=inside)


@triton.jit(do_not_specialize=("rows", "made_height", "made_width", "height", "width", "kernel_height", "kernel_width",
                               "stride_rows", "stride_columns", "top", "left"))  # fmt: skip
def pool(
    x, made, rows, made_height, made_width, height, width, channels, kernel_height, kernel_width, stride_rows,
    stride_columns, top, left,
    LARGEST: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Maxima, or sums, over windows; positions outside the image never win a maximum, and add nothing to a sum.

    Args:
        x: (images, height, width, channels), integers.
        made: (rows, channels): receives the result. There are as many rows as images times windows of an image.
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
