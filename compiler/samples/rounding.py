"""What rounding samples to the steps of a network's input costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from resformer.compiler.samples.arrays import ArraySamples, Samples

FRACTION_SHARE = 0.001
"""Of the samples' root mean square: fractions that whole numbers lose beside less are worth no warning."""
LOST_SHARE = 0.1
"""Of the samples' root mean square: a larger error of rounding is worth a warning. Pixels at 1/64 lose a hundredth."""
VALUES_AT_ONCE = 2**20
"""Values that are looked at together: 8 MiB, if a single sample has no more."""
LOOKED_AT = 16
"""Samples that tell what fine steps cost; whole numbers among fractions are looked for in all."""
WANTED_SHARE = 0.01
"""Of the samples' root mean square: what a scale that is recommended loses at most."""


@dataclass(frozen=True)
class RoundingCost:
    """How far encoded samples are from the samples.

    Attributes:
        scale_exp: They were rounded to multiples of 2^-scale_exp.
        largest: The largest error.
        rms: The root mean square of the errors.
        signal: That of the samples.
    """

    scale_exp: int
    largest: float
    rms: float
    signal: float

    @property
    def finer_exp(self) -> int:
        """The k at which the error is small: a step's is its length over the root of 12."""
        step = WANTED_SHARE * self.signal * math.sqrt(12)
        return max(self.scale_exp + 1, math.ceil(-math.log2(step)))

    @property
    def matters(self) -> bool:
        """Whether whole steps lose fractions, or finer ones much of the samples."""
        return self.rms > (FRACTION_SHARE if self.scale_exp == 0 else LOST_SHARE) * self.signal


def rounding_cost(samples: Samples, scale_exp: int) -> RoundingCost:
    """What it costs to round samples to multiples of 2^-scale_exp; measured on some where steps are fine.

    Args:
        samples: As the network is given them.
        scale_exp: k of the network's input.
    """
    if isinstance(samples, ArraySamples) and (samples.is_whole or samples.may_be_spikes):
        return RoundingCost(scale_exp, 0.0, 0.0, 1.0)
    count = len(samples) if scale_exp == 0 else min(len(samples), LOOKED_AT)
    largest, errors, powers, values = 0.0, 0.0, 0.0, 0
    at_once = max(VALUES_AT_ONCE // samples.real(0, 1).size, 1)
    for start in range(0, count, at_once):
        real = samples.real(start, min(start + at_once, count))
        off = np.abs(np.rint(real * 2.0**scale_exp) * 2.0**-scale_exp - real)
        largest = max(largest, float(off.max()))
        errors, powers, values = errors + float((off**2).sum()), powers + float((real**2).sum()), values + real.size
    return RoundingCost(scale_exp, largest, math.sqrt(errors / values), math.sqrt(powers / values))


def rounding_warning(cost: RoundingCost, source: str, finest_exp: int) -> str | None:
    """What a reader should know of the cost of rounding, in a sentence; None where it is small.

    Args:
        cost: Of rounding the samples.
        source: What messages call them.
        finest_exp: The largest k that an input can have; 0: it takes whole numbers and nothing else.
    """
    fixed = finest_exp == 0
    if not cost.matters or (fixed and cost.rms <= LOST_SHARE * cost.signal):
        return None
    remedy = (
        "the network is given whole numbers alone, so scale the samples to such"
        if fixed
        else f"compile with such samples as --calibration, or with --input-scale-exp {min(cost.finer_exp, finest_exp)}"
    )
    share = f"{cost.rms / cost.signal:.0%} of the samples' own" if cost.signal else "of samples that are zero"
    steps = "whole numbers" if cost.scale_exp == 0 else f"multiples of 2^-{cost.scale_exp}"
    return (
        f"{source}: the build rounds its input to {steps}, which changes these values by up to {cost.largest:.3g} and "
        f"by {cost.rms:.3g} in root mean square, {share}; {remedy}"
    )
