"""Integer sums through BLAS: exact while no partial sum leaves the integers that a float type holds."""

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
    """The fastest float type in which every sum of integers up to this magnitude is exact.

    Raises:
        InvariantError: There is none.
    """
    require(bound < EXACT_IN_FLOAT64, f"sums may reach {bound}, beyond what float64 holds exactly")
    return np.float32 if bound < EXACT_IN_FLOAT32 else np.float64


def matmul(
    left: npt.NDArray[np.signedinteger[Any]], right: npt.NDArray[np.signedinteger[Any]]
) -> npt.NDArray[np.int64]:
    """An exact product of two stacks of matrices of integers.

    Raises:
        InvariantError: Its sums may leave what float64 holds exactly.
    """
    # No partial sum of a row exceeds the sum of its magnitudes.
    bound = int(np.abs(left).sum(axis=-1).max(initial=0)) * int(np.abs(right).max(initial=0))
    dtype = exact_float(bound)
    product: npt.NDArray[np.floating[Any]] = np.matmul(left.astype(dtype), right.astype(dtype))
    return product.astype(np.int64)


@contextmanager
def one_thread_in_children() -> Iterator[None]:
    """Let BLAS use one thread in processes forked inside: Lava runs one process a layer, and they share the cores.

    To ask for it in each process takes each some milliseconds.
    """
    token = _INHERITED.set(True)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        _INHERITED.reset(token)


def limit_to_one_thread() -> None:
    """Let BLAS use one thread in this process, unless its parent has seen to it."""
    if not _INHERITED.get():
        threadpool_limits(limits=1, user_api="blas")


_INHERITED: ContextVar[bool] = ContextVar("inherited", default=False)
