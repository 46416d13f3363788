"""Convolutions by events behind checks of what their loops are given, with weights laid out for them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.backends.sim import events
from resformer.compiler.backends.sim.products import KernelRefusedError, Synapses
from resformer.compiler.backends.sim.widths import INTERLEAVED, LANES, ROW_BYTES, ROWS_AT_ONCE
from resformer.compiler.ir.arrays import require
from resformer.compiler.ir.interval import INT32_MAX

Array = npt.NDArray[Any]

INT16_MAX, UINT16_MAX = 2**15 - 1, 2**16 - 1
_SCRATCH = threading.local()


def _places() -> npt.NDArray[np.uint16]:
    """Of each byte, the places of the bits that are set, then zeros: (256, 8)."""
    places = np.zeros((256, 8), np.uint16)
    for byte in range(256):
        found = [place for place in range(8) if byte >> place & 1]
        places[byte, : len(found)] = found
    return places


PLACES = _places()


@dataclass(frozen=True, eq=False)
class Segments:
    """What each group of a convolution sums: taps of parts of its channels.

    Attributes:
        parts: Of a group's channels.
        pixels: (segments,), int64: what each adds to a target's first list.
        bases: (segments,), int32: its first row in a block of weights, times the block's width.
        chunks: Segments from one to the next fit 16 bits.
    """

    parts: int
    pixels: Array
    bases: Array
    chunks: Array


class Convolution:
    """One convolution of spikes, for images of one size.

    Args:
        synapses: Of spikes, with 8-bit mantissas.

    Raises:
        InvariantError: The weights, the window and the outputs do not fit each other.
        KernelRefusedError: There are more channels or weights than its lists count.
    """

    def __init__(self, synapses: Synapses) -> None:
        weight, groups = synapses.weight, synapses.groups
        outputs, channels = weight.shape[:2]
        require(weight.dtype == np.int8 and weight.ndim == 4, f"{synapses.name}: weights of {weight.dtype}")
        require(groups >= 1 and outputs % groups == 0, f"{synapses.name}: {outputs} outputs in {groups} groups")
        for array in (synapses.weight_exp, synapses.bias):
            require(array.shape == (outputs,), f"{synapses.name}: {array.shape} values for {outputs} outputs")
        (top, left), (rows, columns) = synapses.padding, synapses.size
        # a row ends where the next one's zeros begin: the zeros on one side are those on the other, too
        self._frame = top, left, left + columns
        self._stride, self._groups, self._shape = synapses.stride, groups, (*synapses.size, groups * channels)
        self._made = synapses.window.targets(synapses.size)
        self._segments = _segments(synapses, self._frame[2])
        self._width = _width(outputs // groups)
        self._weights = self._laid_out(weight.reshape(groups, -1, *weight.shape[1:]))
        self._scale = np.exp2(synapses.weight_exp.astype(np.float32))
        self._bias = synapses.bias.astype(np.float32)
        pixels = (rows + 2 * top) * self._frame[2] + left
        self._room = {
            "starts": pixels * groups * self._segments.parts + 1,
            "listed": rows * columns * groups * channels + LANES,
            "rows": events.TARGETS * (synapses.depth + len(self._segments.chunks) * ROWS_AT_ONCE) + LANES,
            "sums": events.TARGETS * len(self._weights) // groups * self._width,
        }
        # places are uint16, and where a list or a row begins is an int32
        if channels > UINT16_MAX or max(self._room["listed"], self._weights[0].size) > INT32_MAX:
            raise KernelRefusedError(f"{synapses.name}: {channels} channels of {synapses.size} are too large")
        self._require_reads()

    def _laid_out(self, weight: Array) -> Array:
        """(groups, outputs, channels, K_h, K_w) as (blocks, rows, width): each group's rows by segment, then zeros."""
        groups, outputs, channels, *_ = weight.shape
        parts, width = self._segments.parts, self._width
        # (groups, parts, taps, channels of a part, outputs)
        by_row = weight.reshape(groups, outputs, parts, channels // parts, -1).transpose(0, 2, 4, 3, 1)
        rows = by_row.reshape(groups, -1, outputs)
        blocks = -(-outputs // width)
        padded = np.zeros((groups, rows.shape[1] + 1, blocks * width), np.int8)
        padded[:, :-1, :outputs] = rows
        padded = padded.reshape(groups, -1, blocks * width // ROW_BYTES, ROW_BYTES)[..., INTERLEAVED]
        return np.ascontiguousarray(padded.reshape(groups, -1, blocks, width).swapaxes(1, 2)).reshape(
            groups * blocks, -1, width
        )

    def _require_reads(self) -> None:
        """See that the last target's last segment is a list that there is, and its last row one of the weights."""
        segments, row = self._segments, self._frame[2]
        steps = [(made - 1) * step for made, step in zip(self._made, self._stride, strict=True)]
        all_parts = self._groups * segments.parts
        last = (steps[0] * row + steps[1]) * all_parts + (self._groups - 1) * segments.parts + segments.pixels.max()
        require(segments.pixels.min() >= 0 and last + 1 < self._room["starts"], f"a target reads list {last}")
        part = self._shape[2] // all_parts
        require((segments.bases.max() // self._width) + part < self._weights.shape[1], "rows beyond the weights")

    def __call__(self, image: Array) -> Array:
        """Sum the spikes of images, (images, H, W, channels), uint8: (images * R * S, outputs), float32.

        Raises:
            InvariantError: The images have another shape or type.
        """
        fits = image.dtype == np.uint8 and image.ndim == 4 and image.shape[1:] == self._shape
        require(fits and image.flags.c_contiguous, f"images of {image.shape}, {image.dtype}, not {self._shape}")
        out = np.empty((len(image) * self._made[0] * self._made[1], len(self._scale)), np.float32)
        sums = _room("sums", self._room["sums"]).reshape(events.TARGETS, -1)
        segments = self._segments
        events.convolve(
            image, self._frame, self._stride, self._made, (self._groups, segments.parts), segments.pixels,
            segments.bases, segments.chunks, self._weights, self._width, self._scale, self._bias,
            PLACES, _room("starts", self._room["starts"]), _room("listed", self._room["listed"], np.uint16),
            _room("rows", self._room["rows"]), sums, out,
        )  # fmt: skip
        return out


def _width(outputs: int) -> int:
    """How wide a block is: what leaves the fewest outputs empty, and of those the widest."""
    return min((ROW_BYTES * each for each in events.WIDTHS), key=lambda width: (-(-outputs // width) * width, -width))


def _segments(synapses: Synapses, row: int) -> Segments:
    """What a group sums, in chunks that fit 16 bits."""
    channels, (tap_rows, tap_columns) = synapses.weight.shape[1], synapses.kernel
    (down, along), groups = synapses.dilation, synapses.groups
    # the largest sums of a channel's tap: of each sign, the worst output's
    for parts in (each for each in range(1, channels + 1) if channels % each == 0):
        whole = synapses.weight.reshape(len(synapses.weight), parts, channels // parts, -1).astype(np.int64)
        # (outputs, parts, taps) to (outputs, segments)
        above, below = (
            np.where(whole > 0, whole, 0).sum(axis=2).reshape(len(whole), -1),
            np.where(whole < 0, -whole, 0).sum(axis=2).reshape(len(whole), -1),
        )
        if max(above.max(), below.max()) <= INT16_MAX:
            break
    chunks = [0]
    for segment in range(above.shape[1]):
        first = chunks[-1]
        if max(each[:, first : segment + 1].sum(axis=1).max() for each in (above, below)) > INT16_MAX:
            chunks.append(segment)
    chunks.append(above.shape[1])
    taps = [(y * down * row + x * along) for y in range(tap_rows) for x in range(tap_columns)]
    pixels = [tap * groups * parts + part for part in range(parts) for tap in taps]
    bases = np.arange(len(pixels)) * (channels // parts) * _width(len(synapses.weight) // groups)
    return Segments(parts, np.array(pixels, np.int64), bases.astype(np.int32), np.array(chunks, np.int64))


def _room(name: str, size: int, dtype: type = np.int32) -> Array:
    """Memory of this thread, which its next convolution writes over."""
    held = getattr(_SCRATCH, name, None)
    if held is None or len(held) < size:
        held = np.empty(size, dtype)
        setattr(_SCRATCH, name, held)
    room: Array = held[:size]
    return room
