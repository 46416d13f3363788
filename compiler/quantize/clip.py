"""Clipping: the range of mantissas that loses least of a channel's weights, and the exponents that reach it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.storage import mantissa_max
from resformer.compiler.quantize.plan import weight_exp_max
from resformer.errors import RangeError

Float64Array = npt.NDArray[np.float64]

MOST_HALVINGS = 3
"""How often the step that fits a channel's largest weight may be halved, clipping that weight."""


def kept_magnitudes(weight: Float64Array, bits: int) -> Float64Array:
    """The magnitude that each row's mantissas should reach: the row's largest, or less where clipping loses less.

    Args:
        weight: (C, taps).
        bits: Width of a mantissa.

    Returns:
        The magnitudes, (C,). Where one or more halvings of the step lower the sum of squared errors, a row's magnitude
        is the largest that still fits with the best of these steps.
    """
    span = mantissa_max(bits) + 0.5
    kept: Float64Array = np.abs(weight).max(axis=1, initial=0.0)
    fitting = 2.0 ** np.ceil(np.log2(np.maximum(kept, np.finfo(np.float64).tiny) / span))
    # without clipping, no weight loses more than half a step; halving can only help if clipping the largest weight
    # costs less than that loss of all weights
    rows = np.flatnonzero((kept / fitting - span / 2) ** 2 < weight.shape[1] / 4)
    # in units of the step that fits, which keeps squares of huge weights finite
    weight, largest = weight[rows] / fitting[rows, None], kept[rows] / fitting[rows]
    least = _squared_error(weight, 1.0, bits)
    for step in 0.5 ** np.arange(1, MOST_HALVINGS + 1):
        open_ = np.flatnonzero((largest - span * step) ** 2 < least)
        error = _squared_error(weight[open_], step, bits)
        better = open_[error < least[open_]]
        kept[rows[better]] = span * step * fitting[rows[better]]
        least[open_] = np.minimum(least[open_], error)
    return kept


def _squared_error(weight: Float64Array, step: float, bits: int) -> Float64Array:
    """The squared error of rounding each row to multiples of a step, clipping included, (C,)."""
    largest = mantissa_max(bits)
    scaled = weight / step
    error: Float64Array = ((np.clip(np.rint(scaled), -largest, largest) - scaled) ** 2).sum(axis=1) * step**2
    return error


def least_exponents(largest: Float64Array, bits: int) -> Float64Array:
    """The least exponents that let weights of these magnitudes, in units of the finest step, fit their mantissas."""
    exponents: Float64Array = np.ceil(np.log2(np.maximum(largest, 1.0) / (mantissa_max(bits) + 0.5)))
    return np.maximum(exponents, 0)


def fitting_exponents(name: str, largest: Float64Array, bits: int) -> tuple[int, ...]:
    """The exponents of :func:`least_exponents`, if Loihi has them.

    Raises:
        RangeError: A weight needs a larger exponent.
    """
    exponent = least_exponents(largest, bits)
    if exponent.max(initial=0) > weight_exp_max(bits):
        raise RangeError(
            f"{name}: a weight needs exponent {exponent.max():.0f}, Loihi's limit is {weight_exp_max(bits)}; "
            "normalise the layer or use more weight bits"
        )
    return tuple(int(each) for each in exponent)
