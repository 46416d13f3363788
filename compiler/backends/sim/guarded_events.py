"""Convolutions by events: lays out weights for the loops of ``events``, and checks every argument of them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.backends.sim import events
from resformer.compiler.backends.sim.products import KernelRefusedError, Synapses
from resformer.compiler.backends.sim.team import ALONE, Team
from resformer.compiler.backends.sim.widths import INTERLEAVED, LANES, ROW_BYTES
from resformer.compiler.ir.arrays import require
from resformer.compiler.ir.interval import INT32_MAX

Array = npt.NDArray[Any]

INT16_MAX, UINT16_MAX = 2**15 - 1, 2**16 - 1
TYPES = {
    "starts": np.int32,
    "listed": np.uint16,
    "rows": np.int32,
    "bounds": np.int64,
    "sums": np.int32,
    "spare": np.float32,
}
"""The type of each array that :func:`_room` gives."""
CACHE_LINE = 64
SHARED_PRODUCTS = 1 << 24
"""A convolution of fewer products, products with zeros included, runs on one thread."""
_SCRATCH = threading.local()


@dataclass(frozen=True, eq=False)
class Lines:
    """The lines that each group of a convolution sums: a line is one row of the kernel for one part of the channels.

    Attributes:
        parts: The number of parts that a group's channels are cut into.
        kernel_rows: (lines,): the row of the kernel of each line.
        part: (lines,): the part of the channels of each line.
        chunks: (chunks + 1,), int64: where each chunk begins, and the end; the lines of a chunk fit 16-bit sums.
    """

    parts: int
    kernel_rows: Array
    part: Array
    chunks: Array


class Convolution:
    """One convolution of spikes, for images of one size.

    Args:
        synapses: The convolution; it reads spikes and has 8-bit mantissas.

    Raises:
        InvariantError: The weights, the window and the outputs do not fit each other.
        KernelRefusedError: There are more channels or weights than the integer types of its lists can number, or one
            channel's row of the kernel does not fit a 16-bit sum.
    """

    def __init__(self, synapses: Synapses) -> None:
        weight, groups = synapses.weight, synapses.groups
        require(weight.dtype == np.int8 and weight.ndim == 4, f"{synapses.name}: weights of {weight.dtype}")
        outputs, channels, _, self._taps = weight.shape
        require(groups >= 1 and outputs % groups == 0, f"{synapses.name}: {outputs} outputs in {groups} groups")
        for array in (synapses.weight_exp, synapses.bias):
            require(array.shape == (outputs,), f"{synapses.name}: {array.shape} values for {outputs} outputs")
        (top, left), (rows, columns) = synapses.padding, synapses.size
        # a padded row ends with the image's last column: the zeros on its right are those on the next row's left
        self._frame = top, left, left + columns
        self._groups, self._shape = groups, (*synapses.size, groups * channels)
        self._depth, self._outputs, self._made = synapses.depth, outputs, synapses.window.targets(synapses.size)
        self._lines = _lines(synapses)
        columns_read, self._firsts = _columns(synapses)
        self._columns = columns_read * groups * self._lines.parts
        self._width = _width(outputs // groups)
        self._weights = self._laid_out(weight.reshape(groups, -1, *weight.shape[1:]))
        self._scale = self._by_group(np.exp2(synapses.weight_exp.astype(np.float32)))
        self._bias = self._by_group(synapses.bias)
        pixels = (rows + 2 * top) * self._frame[2] + left
        held, rows_at_once = self._scale.shape[1], max(events.TARGETS // self._made[1], 1)
        longest = len(self._columns) * max(np.diff(self._lines.chunks)) * channels // self._lines.parts
        self._room = {
            "starts": pixels * groups * self._lines.parts + 1,
            "listed": rows * columns * groups * channels + LANES,
            "rows": rows_at_once * longest + LANES,
            "bounds": rows_at_once * (len(self._columns) + 1),
            "sums": rows_at_once * self._made[1] * held,
            "spare": held,
        }
        # a channel's number is uint16; the begin of a list and the place of a row of weights are int32
        places = longest * self._width, self._weights[0].size
        if channels > UINT16_MAX or max(self._room["listed"], *places) > INT32_MAX:
            raise KernelRefusedError(f"{synapses.name}: {channels} channels of {synapses.size} are too large")
        # the stride in rows, and the rows that a target's kernel spans
        self._window = synapses.stride[0], (synapses.kernel[0] - 1) * synapses.dilation[0] + 1
        row = synapses.dilation[0] * self._frame[2] * groups * self._lines.parts
        self._reads = self._lines.kernel_rows * row + self._lines.part
        self._require_reads()

    def _by_group(self, values: Array) -> Array:
        """Values (outputs,) as (groups, outputs of a group in whole blocks), float32, padded with zeros."""
        each = values.reshape(self._groups, -1).astype(np.float32)
        held = len(self._weights) // self._groups * self._width
        return np.pad(each, ((0, 0), (0, held - each.shape[1])))

    def _laid_out(self, weight: Array) -> Array:
        """Weights (groups, outputs, channels, K_h, K_w) as (blocks, rows, width).

        A group's rows are ordered by chunk, column of the kernel, line and channel; a row of zeros comes last.
        """
        lines, width = self._lines, self._width
        groups, outputs, channels, *kernel = weight.shape
        # (parts, K_h, K_w, channels of a part, groups, outputs)
        by_part = weight.reshape(groups, outputs, lines.parts, channels // lines.parts, *kernel)
        by_line = by_part.transpose(2, 4, 5, 3, 0, 1)[lines.part, lines.kernel_rows]
        by_chunk = [
            by_line[first:last].swapaxes(0, 1).reshape(-1, groups, outputs)
            for first, last in zip(lines.chunks[:-1], lines.chunks[1:], strict=True)
        ]
        rows = np.concatenate(by_chunk).transpose(1, 0, 2)
        blocks = -(-outputs // width)
        padded = np.zeros((groups, rows.shape[1] + 1, blocks * width), np.int8)
        padded[:, :-1, :outputs] = rows
        padded = padded.reshape(groups, -1, blocks * width // ROW_BYTES, ROW_BYTES)[..., INTERLEAVED]
        laid_out = _aligned(padded.size).reshape(groups, blocks, -1, width)
        laid_out[...] = padded.reshape(groups, -1, blocks, width).swapaxes(1, 2)
        return laid_out.reshape(groups * blocks, -1, width)

    def _require_reads(self) -> None:
        """Check that the columns, the lists and the rows of weights that targets read all exist."""
        parts = self._lines.parts
        all_parts = self._groups * parts
        last_row = (self._made[0] - 1) * self._window[0] * self._frame[2] * all_parts
        last = last_row + (self._groups - 1) * parts + self._columns.max() + self._reads.max()
        require(min(self._reads.min(), self._columns.min()) >= 0, "a target reads a list before the first")
        require(last + 1 < self._room["starts"], f"a target reads list {last}")
        require(self._firsts.min() >= 0, "a target reads a column before the first")
        require(self._firsts.max() + self._taps <= len(self._columns), "a target reads a column beyond the last")
        rows = self._taps * len(self._reads) * (self._shape[2] // all_parts)
        require(self._weights.shape[1] == rows + 1, f"{self._weights.shape[1]} rows of weights, not {rows} and one")

    def __call__(self, image: Array, team: Team = ALONE) -> Array:
        """Sum the spikes of images; returns (images * R * S, outputs), float32.

        Args:
            image: The images, (images, H, W, channels), uint8.
            team: The threads that share the rows of targets.

        Raises:
            InvariantError: The images have another shape or type.
        """
        fits = image.dtype == np.uint8 and image.ndim == 4 and image.shape[1:] == self._shape
        require(fits and image.flags.c_contiguous, f"images of {image.shape}, {image.dtype}, not {self._shape}")
        out = np.empty((len(image) * self._made[0] * self._made[1], self._outputs), np.float32)
        if out.size * self._depth < SHARED_PRODUCTS:
            team = ALONE
        team.share(self._made[0], lambda first, last: self._make_rows(image, first, last, out))
        return out

    def _make_rows(self, image: Array, first: int, last: int, out: Array) -> None:
        """Make the rows of targets from ``first`` up to ``last``, which is excluded, of each image."""
        room = {name: _room(name, size) for name, size in self._room.items()}
        held = self._scale.shape[1]
        events.convolve(
            image, self._frame, self._window, (*self._made, first, last), (self._groups, self._lines.parts),
            self._columns, self._firsts, self._taps, self._reads, self._lines.chunks, self._weights, self._width,
            self._scale, self._bias, room["starts"], room["listed"], room["rows"], room["bounds"],
            room["sums"].reshape(-1, held), room["spare"].reshape(1, held), out,
        )  # fmt: skip


def _aligned(size: int) -> Array:
    """An array of ``size`` int8 that begins with a cache line, so that rows cross as few cache lines as possible."""
    memory = np.empty(size + CACHE_LINE, np.int8)
    return memory[-memory.ctypes.data % CACHE_LINE :][:size]


def _width(outputs: int) -> int:
    """The width of a block: the one that pads the outputs least; among equals, the widest."""
    return min((ROW_BYTES * each for each in events.WIDTHS), key=lambda width: (-(-outputs // width) * width, -width))


def _lines(synapses: Synapses) -> Lines:
    """Cut what a group sums into lines, and lines into chunks that fit 16 bits, with as few parts as possible."""
    channels = synapses.weight.shape[1]
    # for each output and line, the sum of its positive weights and that of its negative ones: no sum is beyond these
    for parts in (each for each in range(1, channels + 1) if channels % each == 0):
        by_part = synapses.weight.reshape(len(synapses.weight), parts, channels // parts, *synapses.kernel)
        whole = by_part.astype(np.int64)
        # (outputs, parts, K_h) to (outputs, lines)
        above, below = (np.maximum(each, 0).sum(axis=(2, 4)).reshape(len(whole), -1) for each in (whole, -whole))
        if max(above.max(), below.max()) <= INT16_MAX:
            break
    else:
        raise KernelRefusedError(f"{synapses.name}: a row of {synapses.kernel[1]} weights of a channel is too large")
    chunks = [0]
    for line in range(above.shape[1]):
        first = chunks[-1]
        if max(each[:, first : line + 1].sum(axis=1).max() for each in (above, below)) > INT16_MAX:
            chunks.append(line)
    chunks.append(above.shape[1])
    part, kernel_rows = np.divmod(np.arange(above.shape[1]), synapses.kernel[0])
    return Lines(parts, kernel_rows, part, np.array(chunks, np.int64))


def _columns(synapses: Synapses) -> tuple[Array, Array]:
    """The columns that are read, in an order in which one target's are neighbours; the index of each target's first."""
    along, taps, step = synapses.dilation[1], synapses.kernel[1], synapses.stride[1]
    firsts = np.arange(synapses.window.targets(synapses.size)[1]) * step
    read = np.unique(firsts[:, None] + np.arange(taps) * along)
    # the columns that one target reads are ``along`` apart
    ordered = read[np.lexsort((read, read % along))]
    at = {column: index for index, column in enumerate(ordered.tolist())}
    return ordered, np.array([at[first] for first in firsts.tolist()])


def _room(name: str, size: int) -> Array:
    """Memory that belongs to this thread; the thread's next convolution overwrites it."""
    held = getattr(_SCRATCH, name, None)
    if held is None or len(held) < size:
        held = np.empty(size, TYPES[name])
        setattr(_SCRATCH, name, held)
    room: Array = held[:size]
    return room
