"""NIR nodes for what NIR lacks, registered with NIR so that ``nir.read`` returns them.

NIR 1.0.8 can write any dataclass but reads a closed list of types; :func:`register` extends that list. Importing
``resformer`` calls it.

Array shapes follow NIR: kernel sizes, strides and paddings are (rows, columns).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nir
import nir.ir
import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

Types = dict[str, Any]


@dataclass(eq=False)
class BatchNorm2d(nir.NIRNode):  # type: ignore[misc]
    """Batch normalisation at inference: (x - running_mean) / sqrt(running_var + eps) * weight + bias, per channel."""

    weight: Float64Array
    bias: Float64Array
    running_mean: Float64Array
    running_var: Float64Array
    eps: float

    def __post_init__(self) -> None:
        self.input_type, self.output_type = _untyped()


@dataclass(eq=False)
class MaxPool2d(nir.NIRNode):  # type: ignore[misc]
    """Maxima over windows; padding never wins."""

    kernel_size: IntArray
    stride: IntArray
    padding: IntArray

    def __post_init__(self) -> None:
        self.input_type, self.output_type = _untyped()


@dataclass(eq=False)
class SpikeMatMul(nir.NIRNode):  # type: ignore[misc]
    """One of the two products of Dual Spike Self-Attention (arXiv 2403.14302, equations 8 to 11).

    Inputs, in this order: y, real, of shape (channels, h, w), and spikes. y's channels are split into heads first and
    then, if ``part`` is "y1" or "y2", the head's first or second half of them is used. With d channels a head and
    n = h * w, each head computes

    - y^T x, of shape (n, H * W), if ``transpose``: spikes x of shape (heads * d, H, W), output (heads, n, H * W);
    - y s otherwise: spikes s of shape (heads, n, H * W), output (heads * d, H, W).
    """

    num_heads: int
    transpose: bool
    part: str

    def __post_init__(self) -> None:
        self.num_heads, self.transpose = int(self.num_heads), bool(self.transpose)
        self.input_type, self.output_type = _untyped()


@dataclass(eq=False)
class Add(nir.NIRNode):  # type: ignore[misc]
    """A named junction: the sum of its inputs, left to right, as NIR sums the edges that meet at any node."""

    def __post_init__(self) -> None:
        self.input_type, self.output_type = _untyped()


EXTENSIONS: tuple[type[nir.NIRNode], ...] = (BatchNorm2d, MaxPool2d, SpikeMatMul, Add)


def register() -> None:
    """Let ``nir.read`` and ``nir.dict2NIRNode`` build our nodes; calling it again changes nothing."""
    for extension in EXTENSIONS:
        if extension.__name__ not in nir.ir.__all_ir:
            nir.ir.__all_ir.append(extension.__name__)
            setattr(nir.ir, extension.__name__, extension)


def half_rows(channels: int, num_heads: int, part: str) -> IntArray:
    """The channels of W that hold y1 or y2, head by head."""
    by_head = np.arange(channels).reshape(num_heads, 2, channels // (2 * num_heads))
    return by_head[:, ("y1", "y2").index(part)].reshape(-1)


def constant(value: float, shape: tuple[int, ...]) -> Float64Array:
    """An array of one value that takes no memory: how a whole population's parameters are held."""
    return np.broadcast_to(np.float64(value), shape)


def collapse(array: npt.NDArray[np.float64]) -> Float64Array:
    """The array with each broadcast axis cut to length one, so that work on :func:`constant` arrays stays small."""
    return array[tuple(slice(None) if stride else slice(0, 1) for stride in array.strides)]


def _untyped() -> tuple[Types, Types]:
    """NIR's way to say that a node's shapes follow from its neighbours."""
    return {"input": None}, {"output": None}


register()
