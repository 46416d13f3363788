"""Whether two graphs, or two programs, are the same: names, order, types, every bit of every array."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from resformer.compiler.ir.graph import Graph

DERIVED = frozenset({"input_type", "output_type"})
"""Fields of NIR's nodes that NIR fills in from the others."""


def first_difference(left: Graph[Any], right: Graph[Any]) -> str | None:
    """Where two graphs first differ, in words, or None if they are equal.

    Arrays are equal if type, shape and all values are, whatever their layout in memory.
    """
    if type(left) is not type(right):
        return f"{type(left).__name__} against {type(right).__name__}"
    for field in dataclasses.fields(left):
        if field.name != "nodes" and not _equal(getattr(left, field.name), getattr(right, field.name)):
            return f"{field.name}: {getattr(left, field.name)} against {getattr(right, field.name)}"
    names = [node.name for node in left], [node.name for node in right]
    if names[0] != names[1]:
        unequal = [pair for pair in zip(*names, strict=False) if pair[0] != pair[1]]
        return (
            f"nodes: {unequal[0][0]} against {unequal[0][1]}" if unequal else f"{len(left)} nodes against {len(right)}"
        )
    for one, other in zip(left, right, strict=True):
        if (one.inputs, one.shape) != (other.inputs, other.shape):
            return f"{one.name}: {one.inputs} -> {one.shape} against {other.inputs} -> {other.shape}"
        if type(one.op) is not type(other.op):
            return f"{one.name}: {type(one.op).__name__} against {type(other.op).__name__}"
        for field in dataclasses.fields(one.op):
            values = getattr(one.op, field.name), getattr(other.op, field.name)
            if field.name not in DERIVED and not _equal(*values):
                return f"{one.name}: {field.name} differs: {values[0]} against {values[1]}"
    return None


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return (
            isinstance(left, np.ndarray)
            and isinstance(right, np.ndarray)
            and left.dtype == right.dtype
            and np.array_equal(left, right)
        )
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    return type(left) is type(right) and bool(left == right)
