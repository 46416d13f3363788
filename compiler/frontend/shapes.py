"""The shapes of what a stranger's file computes."""

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
    """The shape that an operation of a file makes of what it reads.

    Args:
        name: Of its node.
        op: The operation.
        inputs: The shapes of what it reads.
        remedy: What to do with a network that was corrected, such as "write it again".

    Raises:
        FileFormatError: Its inputs do not fit it, or it makes more values than any program may, or pads to more.
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
