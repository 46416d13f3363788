"""Conversion between real numbers and the integers that a program takes and gives."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.ops import Output
from resformer.compiler.ir.program import Program

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Encoded:
    """Samples as a program takes them.

    Attributes:
        values: The integers, in the shape of the samples.
        clipped: How many values the input's range could not hold.
        largest: The largest magnitude of any value before it was encoded.
    """

    values: npt.NDArray[np.int32]
    clipped: int
    largest: float


def encode(samples: Float64Array, program: Program) -> Encoded:
    """Round real samples to the input's integers: rint(x * 2^k), clipped to what range analysis assumed.

    Args:
        samples: Finite, (N, C, H, W) or (N, T, C, H, W).
        program: The program; its input's signal gives k and the range.
    """
    values, clipped = program.input.op.signal.integers(samples)
    return Encoded(values, clipped, float(max(samples.max(initial=0), -samples.min(initial=0))))


def checksums(encoded: npt.NDArray[np.int32]) -> list[int]:
    """CRC-32 of each encoded sample, the same on every machine; it tells whether two samples are the same."""
    return [zlib.crc32(np.ascontiguousarray(each, dtype="<i4").tobytes()) for each in encoded]


def real_range(program: Program) -> tuple[float, float]:
    """The least and the largest real number that a program takes without clipping it."""
    signal = program.input.op.signal
    assert signal.low is not None
    assert signal.high is not None
    return signal.low * 2.0**-signal.scale_exp, signal.high * 2.0**-signal.scale_exp


def decode(values: npt.NDArray[np.integer], program: Program) -> Float64Array:
    """The exact real numbers that encoded samples stand for: the input of a float network for a fair comparison."""
    return values.astype(np.float64) * 2.0**-program.input.op.signal.scale_exp


def real_logits(logits: npt.NDArray[np.integer], program: Program) -> Float64Array:
    """The real logits that a program's output stands for.

    Args:
        logits: (..., classes), integers.
        program: The program; its output's signal, divisor and bias give the integers their meaning.
    """
    output = program.output.op
    assert isinstance(output, Output)
    return logits.astype(np.float64) * (2.0**-output.signal.scale_exp / output.divisor) + output.bias


def predict(logits: Float64Array) -> npt.NDArray[np.int64]:
    """The class of each sample, (N,), from real logits (T, N, classes): the largest mean over T, the first if equal."""
    classes: npt.NDArray[np.int64] = logits.mean(axis=0).argmax(axis=-1).astype(np.int64)
    return classes
