"""Integer sums through BLAS: exact while no partial sum leaves the integers that a float type holds."""

from __future__ import annotations

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

EXACT_IN_FLOAT32 = 2**24
EXACT_IN_FLOAT64 = 2**53


def exact_float(bound: int) -> type[np.floating[Any]]:
    """The fastest float type in which every sum of integers up to this magnitude is exact.

    Raises:
        AssertionError: There is none.
    """
    assert bound < EXACT_IN_FLOAT64, f"sums may reach {bound}, beyond what float64 holds exactly"
    return np.float32 if bound < EXACT_IN_FLOAT32 else np.float64


def limit_to_one_thread() -> None:
    """Let BLAS use one thread in this process: Lava runs one process a layer, and they share the cores."""
    threadpool_limits(limits=1, user_api="blas")
