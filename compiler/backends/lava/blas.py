"""Sums of integers through BLAS; they are exact while a float type holds every partial sum exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from resformer.compiler.ir.arrays import require

EXACT_IN_FLOAT32 = 2**24
EXACT_IN_FLOAT64 = 2**53


def exact_float(bound: int) -> type[np.floating[Any]]:
    """The fastest float type in which every sum of integers is exact, given a bound on its magnitude.

    Raises:
        InvariantError: No float type is exact up to this bound.
    """
    require(bound < EXACT_IN_FLOAT64, f"sums may reach {bound}, beyond what float64 holds exactly")
    return np.float32 if bound < EXACT_IN_FLOAT32 else np.float64


def matmul(
    left: npt.NDArray[np.signedinteger[Any]], right: npt.NDArray[np.signedinteger[Any]]
) -> npt.NDArray[np.int64]:
    """An exact product of two stacks of matrices of integers.

    Raises:
        InvariantError: The sums may exceed what float64 holds exactly.
    """
    # No partial sum exceeds the sum of magnitudes in a row of left, times the largest magnitude in right.
    bound = int(np.abs(left).sum(axis=-1).max(initial=0)) * int(np.abs(right).max(initial=0))
    dtype = exact_float(bound)
    product: npt.NDArray[np.floating[Any]] = np.matmul(left.astype(dtype), right.astype(dtype))
    return product.astype(np.int64)


@contextmanager
def one_thread_in_children() -> Iterator[None]:
    """Let BLAS use one thread in processes forked inside: Lava runs a process for each layer, and they share the cores.

    Setting the limit in each process instead would take each of them some milliseconds.
    """
    token = _INHERITED.set(True)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        _INHERITED.reset(token)


def limit_to_one_thread() -> None:
    """Let BLAS use one thread in this process, unless its parent has already set this limit."""
    if not _INHERITED.get():
        threadpool_limits(limits=1, user_api="blas")


_INHERITED: ContextVar[bool] = ContextVar("inherited", default=False)
