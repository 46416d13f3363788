"""The compiled loops behind checks of their arguments: numba's loops index arrays without checking bounds.

A program comes from a file, so a mistake in the plan or in a shape rule must end in an error, not in an access to other
memory. Each function checks the arrays once a call, and then calls the function of the same name in ``loops``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.backends.sim import loops
from resformer.compiler.ir.arrays import InvariantError, require

Array = npt.NDArray[Any]


def neurons(
    a: Array, a0: int, b: Array | None, b0: int, bias: Array | None, limit: Any, stream: Array | None, s0: int,
    fire: tuple[Any, ...] | None, tie: Array | None, spikes: Array, p0: int, width: int, steps: int, first: int,
    last: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Sum, relay and neurons of some rows of one block of channels.

    Raises:
        InvariantError: An array is too small for what is read or written.
    """
    require(first >= 0, f"row {first}")
    require_room("an input", a, a0, width, last, steps, one_for_all=True)
    if b is not None:
        require_room("a second input", b, b0, width, last, steps, one_for_all=True)
    if stream is not None:
        require_room("a stream", stream, s0, width, last, steps)
    _require_width("a relay's biases", bias, width)
    if fire is not None:
        _require_width("neurons' biases", fire[0], width)
        _require_width("potentials of ties", tie, width)
        require_room("spikes", spikes, p0, width, last, steps)
    found: tuple[int, int, int] = loops.neurons(
        a, a0, b, b0, bias, limit, stream, s0, fire, tie, spikes, p0, width, steps, first, last
    )
    return found


def product_neurons(
    sums: Array,
    digits: int,
    limit: np.int32,
    bias: np.float32,
    keep: np.float32,
    threshold: np.float32,
    floor: np.float32,
    tie: np.float32 | None,
    spikes: Array,
    row0: int,
    first: int,
) -> tuple[int, int, int]:
    """Neurons that read a product's sums of digits.

    Raises:
        InvariantError: The spikes have no room, or the sums are not of whole digits.
    """
    steps, rows, columns = sums.shape
    require(digits >= 1 and columns % digits == 0, f"{columns} columns of sums are not {digits} digits")
    require(row0 >= 0, f"row {row0}")
    require_room("spikes", spikes, first, columns // digits, row0 + rows, steps)
    found: tuple[int, int, int] = loops.product_neurons(
        sums, digits, limit, bias, keep, threshold, floor, tie, spikes, row0, first
    )
    return found


def largest(y: Array, first: int, bias: Array) -> int:
    """The largest magnitude of y + bias.

    Raises:
        InvariantError: There are fewer channels than biases.
    """
    require_room("y", y, first, len(bias), 0, len(y), one_for_all=True)
    return int(loops.largest(y, first, bias))


def split_digits(y: Array, row0: int, first: int, bias: Array, digits: int, by_row: bool, out: Array) -> None:
    """y + bias as digits to the base 256.

    Raises:
        InvariantError: y or the digits' array is too small.
    """
    width = len(bias)
    rows = out.shape[1] // digits if by_row else out.shape[1]
    require(row0 >= 0, f"row {row0}")
    require_room("y", y, first, width, row0 + rows, len(out))
    wanted = (len(y), digits * rows, width) if by_row else (len(y), rows, digits * width)
    require(out.shape == wanted, f"digits of shape {out.shape}, not {wanted}")
    loops.split_digits(y, row0, first, bias, digits, by_row, out)


def _require_width(name: str, array: Array | None, width: int) -> None:
    """Check that an array has one value for each channel of a block; None, for no array, passes."""
    if array is not None and (array.shape != (width,) or not array.flags.c_contiguous):
        raise InvariantError(f"{name} of shape {array.shape} do not fit {width} channels")


def require_room(
    name: str, array: Array, first: int, width: int, rows: int, steps: int, *, one_for_all: bool = False
) -> None:
    """Check that an array (steps, rows, channels) has all the steps, rows and channels that a loop uses.

    Args:
        name: The array's name in the error.
        array: The array.
        first: The first channel used.
        width: The number of channels used.
        rows: The number of rows used, from the first on.
        steps: The number of steps used.
        one_for_all: Whether the array may have a single step that stands for all.

    Raises:
        InvariantError: The array is too small, or not contiguous.
    """
    fits = array.ndim == 3 and array.flags.c_contiguous and first >= 0 and width >= 0
    fits = fits and first + width <= array.shape[2] and 0 <= rows <= array.shape[1]
    fits = fits and (steps <= array.shape[0] or (one_for_all and array.shape[0] == 1))
    if not fits:  # the message is made only here: it costs more than the check
        raise InvariantError(
            f"{name} of shape {array.shape} has no {steps} steps, {rows} rows and channels {first} to {first + width}"
        )
