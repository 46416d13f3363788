"""``strips`` behind checks of its arguments: its loops index arrays without checking bounds.

Each function checks the arrays once a call, and then calls the function of the same name in ``strips``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from resformer.compiler.backends.sim import strips
from resformer.compiler.backends.sim.guarded_loops import require_room
from resformer.compiler.backends.sim.products import STRIP_ROWS
from resformer.compiler.backends.sim.widths import LANES, TILE_BYTES
from resformer.compiler.ir.arrays import require

Array = npt.NDArray[Any]


class Sizes(NamedTuple):
    """Sizes of a block's attention: samples, heads, channels of a head, positions of a sample, columns of the map."""

    samples: int
    heads: int
    width: int
    positions: int
    patches: int


class StripHalf(NamedTuple):
    """One of the two products of ``strips``, with the neurons that read it: matrices, constants and y.

    Attributes:
        spikes: (T, 16, depth), uint8: room for a strip's spikes.
        digits: (T, depth / 4, columns), int32: room for the digits, or words, of y + bias.
        sums: (T, 16, columns), int32: room for the product.
        second: Where in depth the higher digit begins; None: both matrices are of words.
        neurons: The product's limit; the neurons' bias, the share of the potential that is kept, threshold and floor.
        y: (T, samples * patches, all channels), float32.
        first: The first channel of the block in y.
        bias: What is added to y, (channels of the block,), float32.
        tie: The potential that is counted as a tie; None: ties are not counted.
    """

    spikes: Array
    digits: Array
    sums: Array
    second: int | None
    neurons: tuple[np.int32, np.float32, np.float32, np.float32, np.float32]
    y: Array
    first: int
    bias: Array
    tie: np.float32 | None


def multiply_all(shapes: Array | None, second: int | None, a: Array, b: Array, c: Array) -> None:
    """The products of all steps of a strip.

    Raises:
        InvariantError: The matrices do not fit each other.
    """
    _require_shapes(shapes, second)
    _require_matrices(a, b, c)
    strips.multiply_all(shapes, second, a, b, c)


def spread_spikes(x: Array, row0: int, first: int, rows: int, width: int, half: StripHalf) -> None:
    """Copy a strip's spikes into its matrix.

    Raises:
        InvariantError: x does not have these rows and channels, or the matrix has no room for them.
    """
    _require_half(half, width, half.digits.shape[2])
    _require_strip(x, row0, first, rows, width, len(half.spikes))
    strips.spread_spikes(x, row0, first, rows, width, half.second, half.spikes)


def digits_by_row(half: StripHalf, sizes: Sizes, sample: int, head: int) -> None:
    """The second product's y + bias as a matrix of digits whose depth is y's rows.

    Raises:
        InvariantError: y or the matrix is too small.
    """
    _require_half(half, sizes.patches, sizes.width)
    strips.digits_by_row(*_require_digits(half, sizes, sample, head), sizes.patches, half.second, half.digits)


def digits_by_channel(half: StripHalf, sizes: Sizes, sample: int, head: int) -> None:
    """The first product's y + bias as a matrix of digits whose depth is y's channels.

    Raises:
        InvariantError: y or the matrix is too small.
    """
    _require_half(half, sizes.width, sizes.patches)
    strips.digits_by_channel(*_require_digits(half, sizes, sample, head), sizes.patches, half.second, half.digits)


def fire_into_strip(first: StripHalf, second: StripHalf, sizes: Sizes, rows: int) -> tuple[int, int, int]:
    """Fire the neurons that read the first product, and write their spikes as the second product's matrix of spikes.

    Raises:
        InvariantError: The matrices do not fit.
    """
    _require_halves(first, second, sizes)
    require(0 <= rows <= STRIP_ROWS, f"a strip of {rows} rows")
    found: tuple[int, int, int] = strips.fire_into_strip(
        first.sums, rows, sizes.patches, first.neurons, first.tie, second.second, second.spikes
    )
    return found


def fire_into_rows(
    half: StripHalf, rows: int, width: int, spikes: Array, row0: int, first: int
) -> tuple[int, int, int]:
    """Fire the neurons that read the second product.

    Raises:
        InvariantError: The spikes have no room.
    """
    _require_sums(half, width)
    _require_strip(spikes, row0, first, rows, width, len(half.sums))
    found: tuple[int, int, int] = strips.fire_into_rows(
        half.sums, rows, width, half.neurons, half.tie, spikes, row0, first
    )
    return found


def attend(
    shapes: Array | None,
    sizes: Sizes,
    x: Array,
    x0: int,
    first: StripHalf,
    second: StripHalf,
    spikes: Array,
    p0: int,
    positions: tuple[int, int],
) -> tuple[int, int, int, int, int, int]:
    """Both products of all heads of a block, and their neurons, at ``positions`` (first and end) of each sample.

    Raises:
        InvariantError: An array is too small for what is read or written.
    """
    _require_shapes(shapes, first.second)
    _require_halves(first, second, sizes)
    require(min(sizes) >= 0, f"sizes {sizes}")
    require(0 <= positions[0] <= positions[1] <= sizes.positions, f"positions {positions} of {sizes}")
    steps = len(first.spikes)
    require(x.dtype == spikes.dtype == np.uint8, "x or spikes are no bytes")
    for name, array, channel in (("x", x, x0), ("spikes", spikes, p0)):
        require_room(name, array, channel, sizes.heads * sizes.width, sizes.samples * sizes.positions, steps)
    for half in (first, second):
        _require_y(half, sizes)
    found: tuple[int, int, int, int, int, int] = strips.attend(
        shapes, (*sizes, *positions), x, x0, tuple(first[:-1]), first.tie, tuple(second[:-1]), second.tie, spikes, p0
    )
    return found


def _require_shapes(shapes: Array | None, second: int | None) -> None:
    require(shapes is None or second is not None, "tiles multiply bytes, and no words")
    fits = shapes is None or (shapes.shape == (64,) and shapes.dtype == np.uint8 and shapes.flags.c_contiguous)
    require(fits, "shapes of tiles are 64 bytes")


def _require_matrices(a: Array, b: Array, c: Array) -> None:
    types = a.dtype == np.uint8 and b.dtype == np.int32 and c.dtype == np.int32
    whole = all(each.ndim == 3 and each.flags.c_contiguous for each in (a, b, c))
    fits = types and whole and len(a) == len(b) == len(c) and a.shape[1] == c.shape[1] == STRIP_ROWS
    fits = fits and a.shape[2] == 4 * b.shape[1] and b.shape[2] == c.shape[2]
    fits = fits and a.shape[2] % TILE_BYTES == 0 and b.shape[2] % LANES == 0
    require(fits, f"matrices of a strip do not fit each other: {a.shape}, {b.shape}, {c.shape}")


def _require_half(half: StripHalf, depth: int, columns: int) -> None:
    """Check that the matrices have room for two digits of ``depth``, in whole vectors, and for ``columns`` columns."""
    _require_matrices(half.spikes, half.digits, half.sums)
    held = -(-depth // LANES) * LANES
    second = held if half.second is None else half.second
    fits = depth >= 0 and second % 4 == 0 and held <= second and second + held <= half.spikes.shape[2]
    require(fits, f"two digits of depth {depth}, the second at {half.second}, in {half.spikes.shape}")
    require(0 <= columns <= half.digits.shape[2], f"{columns} columns in digits of {half.digits.shape}")


def _require_halves(first: StripHalf, second: StripHalf, sizes: Sizes) -> None:
    _require_half(first, sizes.width, sizes.patches)
    _require_half(second, sizes.patches, sizes.width)
    require(len(first.sums) == len(second.sums), f"{len(first.sums)} steps, and {len(second.sums)}")
    require((first.second is None) == (second.second is None), "one product of words, and one of bytes")


def _require_sums(half: StripHalf, width: int) -> None:
    sums = half.sums
    fits = sums.ndim == 3 and sums.flags.c_contiguous and sums.dtype == np.int32 and sums.shape[1] == STRIP_ROWS
    require(fits and 0 <= width <= sums.shape[2] and sums.shape[2] % LANES == 0, f"{width} columns of {sums.shape}")


def _require_y(half: StripHalf, sizes: Sizes) -> None:
    channels = sizes.heads * sizes.width
    require(half.y.dtype == half.bias.dtype == np.float32, "y or its biases are no float32")
    require(half.bias.shape == (channels,) and half.bias.flags.c_contiguous, f"biases of {half.bias.shape}")
    require_room("y", half.y, half.first, channels, sizes.samples * sizes.patches, len(half.digits))


def _require_digits(half: StripHalf, sizes: Sizes, sample: int, head: int) -> tuple[Array, int, int, Array]:
    """For one head of one sample: y, its first row and first channel there, and the biases."""
    _require_y(half, sizes)
    require(0 <= sample < sizes.samples and 0 <= head < sizes.heads, f"head {head} of sample {sample}")
    channel = head * sizes.width
    return half.y, sample * sizes.patches, half.first + channel, half.bias[channel : channel + sizes.width]


def _require_strip(x: Array, row0: int, first: int, rows: int, width: int, steps: int) -> None:
    require(row0 >= 0 and 0 <= rows <= STRIP_ROWS and x.dtype == np.uint8, f"{rows} rows from {row0} of {x.dtype}")
    require_room("spikes", x, first, width, row0 + rows, steps)
