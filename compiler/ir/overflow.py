"""Refuse networks whose values make float64 overflow; the error names the smallest and the largest of these values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import nir
import numpy as np

from resformer.compiler.ir.arrays import NotFiniteError, arrays_of
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import collapse
from resformer.errors import UnsupportedError


@contextlib.contextmanager
def overflow_refused(graph: Graph[nir.NIRNode]) -> Iterator[None]:
    """Refuse a float network whose values are so large or so small that results computed from them are not finite.

    Args:
        graph: The float graph as it was imported.

    Raises:
        UnsupportedError: A sum, product or quotient overflows; the message names the largest and the smallest value.
    """
    try:
        with np.errstate(over="raise", divide="raise", invalid="raise"):
            yield
    except (FloatingPointError, NotFiniteError) as error:
        smallest, largest = _extremes(graph)
        raise UnsupportedError(
            f"the network's values span too many magnitudes, from {smallest} to {largest}: {error}; bring weights, "
            "thresholds and time constants nearer to 1"
        ) from error


def _extremes(graph: Graph[nir.NIRNode]) -> tuple[str, str]:
    """The values other than 0 of the smallest and the largest magnitude, as text with the places where they are."""
    found: list[tuple[float, str]] = []
    for node in graph:
        for field, array in arrays_of(node.op).items():
            values = np.abs(collapse(array).astype(np.float64))
            values = values[(values > 0) & np.isfinite(values)]
            if values.size:
                found += [(value, f"{value:.4g} ({node.name}'s {field})") for value in (values.min(), values.max())]
    return min(found)[1], max(found)[1]
