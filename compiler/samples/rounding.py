"""The error of rounding samples to the steps of a network's input, and the warning if it is large."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from resformer.compiler.samples.arrays import ArraySamples, Samples

FRACTION_SHARE = 0.001
"""At steps of 1: the largest error that is worth no warning, as a share of the samples' root mean square."""
LOST_SHARE = 0.1
"""At finer steps, or where the input takes only whole numbers: the largest error that is worth no warning, as a share
of the samples' root mean square. Pixels at steps of 1/64 lose a hundredth."""
VALUES_AT_ONCE = 2**20
"""The most values that are looked at together, 8 MiB; a single sample of more values is looked at whole."""
LOOKED_AT = 16
"""The number of samples on which the error of fine steps is measured; at steps of 1, all samples are looked at."""
WANTED_SHARE = 0.01
"""The largest error of a recommended scale, as a share of the samples' root mean square."""


@dataclass(frozen=True)
class RoundingCost:
    """How far encoded samples are from the samples.

    Attributes:
        scale_exp: The samples were rounded to multiples of 2^-scale_exp.
        largest: The largest error.
        rms: The root mean square of the errors.
        signal: The root mean square of the samples.
    """

    scale_exp: int
    largest: float
    rms: float
    signal: float

    @property
    def finer_exp(self) -> int:
        """The k at which the error is ``WANTED_SHARE`` or less; the error of a step is its length over sqrt(12)."""
        step = WANTED_SHARE * self.signal * math.sqrt(12)
        return max(self.scale_exp + 1, math.ceil(-math.log2(step)))

    @property
    def matters(self) -> bool:
        """Whether the error is worth a warning: at steps of 1 if fractions are lost, at finer steps if it is large."""
        return self.rms > (FRACTION_SHARE if self.scale_exp == 0 else LOST_SHARE) * self.signal


def rounding_cost(samples: Samples, scale_exp: int) -> RoundingCost:
    """The error of rounding samples to multiples of 2^-scale_exp; if steps are fine, of the first samples only.

    Args:
        samples: The samples as the network gets them.
        scale_exp: The exponent k of the scale of the network's input.
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
    """The warning that rounding changes the samples much, one sentence; None if the error is small.

    Args:
        cost: The error of rounding the samples.
        source: What messages call the samples.
        finest_exp: The largest k that the input can have; 0: the input takes only whole numbers.
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
