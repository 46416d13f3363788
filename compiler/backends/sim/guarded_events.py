"""Convolutions by events behind checks of what their loops are given, with weights laid out for them."""

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
"""Of what :func:`_room` gives."""
CACHE_LINE = 64
SHARED_PRODUCTS = 1 << 24
"""As many as make a convolution worth another thread's attention, those of zeros included."""
_SCRATCH = threading.local()


@dataclass(frozen=True, eq=False)
class Lines:
    """What each group of a convolution sums: rows of the kernel, of parts of its channels.

    Attributes:
        parts: Of a group's channels.
        kernel_rows: (lines,): which row of the kernel each is of.
        part: (lines,): and of which part.
        chunks: (chunks + 1,), int64: lines from one to the next fit 16 bits.
    """

    parts: int
    kernel_rows: Array
    part: Array
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
        require(weight.dtype == np.int8 and weight.ndim == 4, f"{synapses.name}: weights of {weight.dtype}")
        outputs, channels, _, self._taps = weight.shape
        require(groups >= 1 and outputs % groups == 0, f"{synapses.name}: {outputs} outputs in {groups} groups")
        for array in (synapses.weight_exp, synapses.bias):
            require(array.shape == (outputs,), f"{synapses.name}: {array.shape} values for {outputs} outputs")
        (top, left), (rows, columns) = synapses.padding, synapses.size
        # a row ends where the next one's zeros begin: the zeros on one side are those on the other, too
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
        # places are uint16; where a list begins is an int32, and so is a row's, counted from the first column
        places = longest * self._width, self._weights[0].size
        if channels > UINT16_MAX or max(self._room["listed"], *places) > INT32_MAX:
            raise KernelRefusedError(f"{synapses.name}: {channels} channels of {synapses.size} are too large")
        # rows from a target to the next, and how many a target reads
        self._window = synapses.stride[0], (synapses.kernel[0] - 1) * synapses.dilation[0] + 1
        row = synapses.dilation[0] * self._frame[2] * groups * self._lines.parts
        self._reads = self._lines.kernel_rows * row + self._lines.part
        self._require_reads()

    def _by_group(self, values: Array) -> Array:
        """(outputs,) as (groups, outputs of a group in whole blocks), float32."""
        each = values.reshape(self._groups, -1).astype(np.float32)
        held = len(self._weights) // self._groups * self._width
        return np.pad(each, ((0, 0), (0, held - each.shape[1])))

    def _laid_out(self, weight: Array) -> Array:
        """(groups, outputs, channels, K_h, K_w) as (blocks, rows, width).

        A group's rows by chunk, column of the kernel, line and channel, then zeros.
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
        """See that the last target's last column is one that there is, and its last line a list that there is."""
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
        """Sum the spikes of images, (images, H, W, channels), uint8: (images * R * S, outputs), float32.

        Args:
            image: The images.
            team: What shares the rows of targets.

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
        """Some of each image's rows of targets."""
        room = {name: _room(name, size) for name, size in self._room.items()}
        held = self._scale.shape[1]
        events.convolve(
            image, self._frame, self._window, (*self._made, first, last), (self._groups, self._lines.parts),
            self._columns, self._firsts, self._taps, self._reads, self._lines.chunks, self._weights, self._width,
            self._scale, self._bias, room["starts"], room["listed"], room["rows"], room["bounds"],
            room["sums"].reshape(-1, held), room["spare"].reshape(1, held), out,
        )  # fmt: skip


def _aligned(size: int) -> Array:
    """So many int8 from the beginning of a cache line on: a row crosses no more lines than it must."""
    memory = np.empty(size + CACHE_LINE, np.int8)
    return memory[-memory.ctypes.data % CACHE_LINE :][:size]


def _width(outputs: int) -> int:
    """How wide a block is: what leaves the fewest outputs empty, and of those the widest."""
    return min((ROW_BYTES * each for each in events.WIDTHS), key=lambda width: (-(-outputs // width) * width, -width))


def _lines(synapses: Synapses) -> Lines:
    """What a group sums, in chunks that fit 16 bits."""
    channels = synapses.weight.shape[1]
    # the largest sums of a line: of each sign, the worst output's
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
    """Where the lists of each column that is read are, and which is each target's first; a target's are neighbours."""
    along, taps, step = synapses.dilation[1], synapses.kernel[1], synapses.stride[1]
    firsts = np.arange(synapses.window.targets(synapses.size)[1]) * step
    read = np.unique(firsts[:, None] + np.arange(taps) * along)
    # columns that one target reads are ``along`` apart
    ordered = read[np.lexsort((read, read % along))]
    at = {column: index for index, column in enumerate(ordered.tolist())}
    return ordered, np.array([at[first] for first in firsts.tolist()])


def _room(name: str, size: int) -> Array:
    """Memory of this thread, which its next convolution writes over."""
    held = getattr(_SCRATCH, name, None)
    if held is None or len(held) < size:
        held = np.empty(size, TYPES[name])
        setattr(_SCRATCH, name, held)
    room: Array = held[:size]
    return room
