"""Shapes of the values that the network in an untrusted file computes, checked against limits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import nir

from resformer.compiler.ir.arrays import Shape
from resformer.compiler.ir.primitives import MaxPool2d, window_of
from resformer.compiler.ir.shapes import output_shape
from resformer.errors import FileFormatError
from resformer.models.limits import MOST_VALUES, require_within


def checked_shape(name: str, op: nir.NIRNode, inputs: Sequence[Shape], *, remedy: str) -> Shape:
    """The shape of what an operation makes of its inputs.

    Args:
        name: The name of the operation's node, for errors.
        op: The operation.
        inputs: The shapes of the operation's inputs.
        remedy: What the user does with the network after correcting it, such as "write it again".

    Raises:
        FileFormatError: The inputs do not fit the operation, or its output or its padded input has more values than
            any program may have.
    """
    try:
        shape = output_shape(op, inputs)
    except AssertionError as error:
        raise FileFormatError(f"{name}: {error}; correct the network and {remedy}") from error
    require_within(math.prod(shape), MOST_VALUES, f"{name}: makes {{}} values a step")
    if isinstance(op, nir.Conv2d | nir.AvgPool2d | nir.SumPool2d | MaxPool2d):
        channels, *size = inputs[0]
        padded = channels * math.prod(window_of(op).padded(tuple(size)))
        require_within(padded, MOST_VALUES, f"{name}: pads what it reads to {{}} values a step")
    return shape
