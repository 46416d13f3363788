"""The array types of both levels, and the check of an invariant with its errors."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Int8Array: TypeAlias = npt.NDArray[np.int8]
Int16Array: TypeAlias = npt.NDArray[np.int16]
WeightArray: TypeAlias = npt.NDArray[np.int8 | np.int16]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]
Float64Array: TypeAlias = npt.NDArray[np.float64]

Shape: TypeAlias = tuple[int, ...]
"""The shape of a value without time and batch: (C, H, W), or (F,)."""


class InvariantError(AssertionError):
    """An invariant of a graph or a program is broken: a mistake of ours, or of whoever wrote the file it came from.

    It is raised, not asserted, so that ``python -O`` keeps it; readers of files turn it into a ``FileFormatError``.
    """


class NotFiniteError(InvariantError):
    """A float graph holds NaN or an infinite value."""


def arrays_of(op: Any) -> dict[str, npt.NDArray[Any]]:
    """An operation's arrays, under their names."""
    values = {field.name: getattr(op, field.name) for field in dataclasses.fields(op)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def require(holds: bool | np.bool_, message: str) -> None:
    """See that an invariant holds.

    Raises:
        InvariantError: It does not.
    """
    if not holds:
        raise InvariantError(message)
