"""Loihi's arithmetic, as Lava's fixed-point models compute it: pure functions on integer arrays, defined only here.

Source: Lava 0.10.0, ``lava/proc/lif/models.py``, class ``AbstractPyLifModelFixed``.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.arrays import require
from resformer.compiler.target import LOIHI

IntArray = npt.NDArray[np.signedinteger[Any]]


def decay(x: npt.NDArray[np.int64], amount: npt.NDArray[np.int64] | int) -> npt.NDArray[np.int64]:
    """x * (4096 - amount) / 4096, rounded toward zero.

    Args:
        x: A state, any shape, int64.
        amount: 0 (nothing is lost) to 4096 (everything is lost), broadcast against x.
    """
    product = x * (LOIHI.decay_unity - amount)
    rounded: npt.NDArray[np.int64] = np.sign(product) * (np.abs(product) // LOIHI.decay_unity)
    return rounded


def scale_bias(mantissa: IntArray, exponent: IntArray) -> npt.NDArray[np.int64]:
    """mantissa * 2^exponent, in units of 1/64 of the synaptic input."""
    return np.left_shift(mantissa.astype(np.int64), exponent.astype(np.int64))


def scale_weight(weight: npt.NDArray[np.int8 | np.int16 | np.int32], exponent: IntArray | int) -> npt.NDArray[np.int32]:
    """weight * 2^exponent, with one exponent for each output (first axis) or one for all."""
    shift = np.asarray(exponent, dtype=np.int32)
    return np.left_shift(weight.astype(np.int32), shift.reshape(shift.shape + (1,) * (weight.ndim - shift.ndim)))


class LifStep(NamedTuple):
    """What one step does to a population.

    Attributes:
        u: The new currents.
        v: The new potentials.
        charged: The potentials that were compared with the threshold, before the reset.
        spikes: Which neurons fired.
        clipped: How many values saturated.
    """

    u: npt.NDArray[np.int64]
    v: npt.NDArray[np.int64]
    charged: npt.NDArray[np.int64]
    spikes: npt.NDArray[np.bool_]
    clipped: int


def lif_step(
    u: npt.NDArray[np.int64],
    v: npt.NDArray[np.int64],
    a: npt.NDArray[np.int64],
    *,
    bias: npt.NDArray[np.int64],
    vth: int,
    du: int,
    dv: int,
) -> LifStep:
    """One step of LIF neurons with a hard reset to zero.

    Args:
        u: Currents, any shape.
        v: Membrane potentials.
        a: Synaptic inputs; |a| must stay within the target's ``a_max``, or u would wrap.
        bias: In units of 1/64 of a, broadcast against v.
        vth: Threshold mantissa.
        du: Decay of u, in 1/4096 minus one: 4095 keeps nothing.
        dv: Decay of v, in 1/4096.

    Raises:
        InvariantError: A current would wrap; range analysis promises that none does.
    """
    u = decay(u, du + 1) + (a << LOIHI.a_shift)
    require(int(np.abs(u).max(initial=0)) <= LOIHI.a_max << LOIHI.a_shift, "a current would wrap")
    free = decay(v, dv) + u + bias
    v = np.clip(free, -LOIHI.v_max, LOIHI.v_max)
    spikes = v > (vth << LOIHI.a_shift)
    # A potential clipped from above fires either way and is then reset; one clipped from below changes later steps.
    clipped = int(np.count_nonzero(free < -LOIHI.v_max))
    return LifStep(u, np.where(spikes, 0, v), v, spikes, clipped)


class CubaParameters(NamedTuple):
    """The neurons' parameters for :func:`cuba_lif_step`, int64, broadcast against their state; as in ``CubaLIF``."""

    vth: npt.NDArray[np.int64]
    v_drop: npt.NDArray[np.int64]
    du: npt.NDArray[np.int64]
    dv: npt.NDArray[np.int64]
    u_bias: npt.NDArray[np.int64]
    v_bias: npt.NDArray[np.int64]
    soft_reset: bool
    prompt: bool = False


def cuba_lif_step(
    u: npt.NDArray[np.int64], v: npt.NDArray[np.int64], a: npt.NDArray[np.int64], neurons: CubaParameters
) -> LifStep:
    """One step of neurons whose current has a memory: the current is updated first, then it charges the potential.

    Args:
        u: Currents, any shape.
        v: Membrane potentials.
        a: Synaptic inputs.
        neurons: Their parameters.
    """
    u, lost = _gather(u, a, neurons.du, neurons.u_bias)
    before = v
    free = decay(v, neurons.dv) + u + neurons.v_bias
    v = np.clip(free, -LOIHI.v_max, LOIHI.v_max)
    threshold = neurons.vth << LOIHI.a_shift
    if neurons.prompt:
        threshold = threshold + neurons.v_drop * (before > threshold)
    spikes = v > threshold
    # as in lif_step; but a soft reset leaves the part above the threshold, so clipping from above counts too
    clipped = free != v if neurons.soft_reset else free < -LOIHI.v_max
    after = v - neurons.v_drop if neurons.soft_reset else np.zeros_like(v)
    return LifStep(u, np.where(spikes, after, v), v, spikes, lost + int(np.count_nonzero(clipped)))


def _gather(
    u: npt.NDArray[np.int64], a: npt.NDArray[np.int64], du: npt.NDArray[np.int64], bias: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], int]:
    """The currents after one step, saturated, and how many of them were clipped."""
    return saturate(decay(u, du + 1) + (a << LOIHI.a_shift) + bias, LOIHI.v_max)


class CubaLiParameters(NamedTuple):
    """The neurons' parameters for :func:`cuba_li_step`, int64, broadcast against their state; as in ``CubaLI``."""

    du: npt.NDArray[np.int64]
    dv: npt.NDArray[np.int64]
    u_bias: npt.NDArray[np.int64]


class LiStep(NamedTuple):
    """What one step does to neurons that do not fire: their new currents and potentials, and how many were clipped."""

    u: npt.NDArray[np.int64]
    v: npt.NDArray[np.int64]
    clipped: int


def cuba_li_step(
    u: npt.NDArray[np.int64], v: npt.NDArray[np.int64], a: npt.NDArray[np.int64], neurons: CubaLiParameters
) -> LiStep:
    """One step of neurons that integrate and do not fire: like :func:`cuba_lif_step` without spikes and ``v_bias``.

    Args:
        u: Currents, any shape.
        v: Membrane potentials.
        a: Synaptic inputs.
        neurons: Their parameters.
    """
    u, lost = _gather(u, a, neurons.du, neurons.u_bias)
    v, clipped = saturate(decay(v, neurons.dv) + u, LOIHI.v_max)
    return LiStep(u, v, lost + clipped)


class Rounding(Enum):
    """How a potential, measured in thresholds, is rounded to a count of spikes."""

    DOWN = "the whole ones"
    UP = "the nearest number, the larger of two"
    EVEN = "the nearest number, the even one of two"


class MultiSpikeParameters(NamedTuple):
    """The neurons' parameters for :func:`multi_spike_step`; arrays are int64 and are broadcast against their state."""

    vth: npt.NDArray[np.int64]
    floor: npt.NDArray[np.int64]
    bias: npt.NDArray[np.int64]
    max_spikes: int
    dv: int = 0
    rounding: Rounding = Rounding.DOWN


class MultiSpikeStep(NamedTuple):
    """What one step does to neurons that fire several spikes.

    Attributes:
        v: The new potentials.
        charged: The potentials that counts were made from, before the reset.
        counts: How often each neuron fired.
        clipped: How many values saturated.
    """

    v: npt.NDArray[np.int64]
    charged: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    clipped: int


def multi_spike_step(
    v: npt.NDArray[np.int64], a: npt.NDArray[np.int64], neurons: MultiSpikeParameters
) -> MultiSpikeStep:
    """One step of neurons that fire once for each threshold in their potential; as in ``MultiSpikeIF``, ``IntegerLIF``.

    Args:
        v: Membrane potentials, any shape.
        a: Synaptic inputs.
        neurons: Their parameters.
    """
    threshold = neurons.vth << LOIHI.a_shift
    v, clipped = saturate(decay(v, neurons.dv) + (a << LOIHI.a_shift) + neurons.bias, LOIHI.v_max)
    counts = np.clip(_rounded_quotient(v, threshold, neurons.rounding), 0, neurons.max_spikes)
    return MultiSpikeStep(np.maximum(v - counts * threshold, neurons.floor), v, counts, clipped)


def _rounded_quotient(
    x: npt.NDArray[np.int64], divisor: npt.NDArray[np.int64], rounding: Rounding
) -> npt.NDArray[np.int64]:
    """x / divisor, rounded to a whole number."""
    if rounding is Rounding.DOWN:
        return x // divisor
    nearest, rest = np.divmod(2 * x + divisor, 2 * divisor)
    return nearest - (nearest & 1) * (rest == 0) if rounding is Rounding.EVEN else nearest


def shift_right(x: npt.NDArray[np.int64], shift: int) -> npt.NDArray[np.int64]:
    """x / 2^shift, rounded to the nearest integer, ties upward: half a unit is added and the low bits are dropped."""
    return (x + (1 << shift >> 1)) >> shift


def saturate(x: npt.NDArray[np.int64], limit: int) -> tuple[npt.NDArray[np.int64], int]:
    """Clip x to [-limit, limit], and count the elements that this changed."""
    clipped = np.clip(x, -limit, limit)
    return clipped, int(np.count_nonzero(clipped != x))


def scale_and_saturate(x: npt.NDArray[np.int64], exponent: int, limit: int) -> tuple[npt.NDArray[np.int64], int]:
    """x * 2^exponent clipped to [-limit, limit], and how many elements were clipped; the product may exceed 64 bits."""
    beyond = (limit >> exponent) + 1
    return saturate(np.left_shift(np.clip(x, -beyond, beyond), exponent), limit)
