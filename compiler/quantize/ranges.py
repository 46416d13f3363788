"""How large each current gets: measured on calibration data, or estimated from the weights alone.

Scales are chosen from these ranges. They are no proof: what cannot be proved is saturated (``bound_ranges``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import (
    NEURONS,
    Add,
    DiscreteCubaLI,
    MaxPool2d,
    MultiSpikeIF,
    SampleDelay,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
    collapse,
)
from resformer.compiler.target import LOIHI
from resformer.errors import RangeError

if TYPE_CHECKING:
    import torch

Float64Array = npt.NDArray[np.float64]

ESTIMATED_RATE = 0.25
"""Firing probability that the estimate gives every neuron; trained networks fire at 0.1 to 0.25."""
ESTIMATED_COUNT = 0.5
"""Mean count of spikes in a step that the estimate gives every neuron that may fire several."""
ESTIMATED_INPUT_RANGE = 4.0
"""Largest magnitude that the estimate gives a pixel; images normalised as for ImageNet reach 2.64."""
ESTIMATED_DEVIATIONS = 6.0
"""Standard deviations from the mean that the estimate allows for."""
MEASURED_HEADROOM = 1.5
"""Factor by which a current may exceed what calibration samples, or a module's example, made of it."""
CALIBRATION_VALUES = 2**24
"""The most values of one node that are held at once, 128 MiB; a single sample may have more."""


def measured_ranges(graph: Graph[nir.NIRNode], samples: npt.NDArray[np.floating[Any]]) -> dict[str, float]:
    """The largest magnitude of each node's output on calibration samples.

    Args:
        graph: A float graph after all float passes.
        samples: (N, C, H, W) or (N, T, C, H, W), as the network expects them.
    """
    largest = {graph.input.name: float(np.abs(samples).max())}

    def note(name: str, value: torch.Tensor) -> None:
        largest[name] = max(largest.get(name, 0.0), float(value.abs().max()))

    count = max(CALIBRATION_VALUES // (graph.timesteps * max(math.prod(node.shape) for node in graph)), 1)
    for start in range(0, len(samples), count):
        float_interpreter.run(graph, samples[start : start + count], observe=note)
    return largest


@dataclass(frozen=True)
class _Moments:
    """Mean and variance of a node's output, per channel, (C,)."""

    mean: Float64Array
    variance: Float64Array

    @property
    def bound(self) -> float:
        return float(np.max(np.abs(self.mean) + ESTIMATED_DEVIATIONS * np.sqrt(self.variance)))


def pixel_deviation(largest: float) -> float:
    """The standard deviation of pixels whose largest magnitude is known: 1, as for images, if that is from 1 to 4.

    Above 4, it is in proportion to the magnitude; below 1, it is the least power of two that is no smaller.
    """
    if 0 < largest < 1:
        return 2.0 ** -math.floor(-math.log2(largest))
    return max(largest / ESTIMATED_INPUT_RANGE, 1.0)


def require_graded(name: str, largest: float) -> None:
    """Refuse values of the input that no scale makes small enough for a graded spike.

    Args:
        name: The input's name.
        largest: The largest magnitude.

    Raises:
        RangeError: It is too large.
    """
    if largest > LOIHI.graded_max:
        raise RangeError(
            f"{name}: values up to {largest:.4g}, the limit of a 24-bit value is {LOIHI.graded_max}; normalise the "
            "samples"
        )


def estimated_ranges(graph: Graph[nir.NIRNode], input_range: float | None = None) -> dict[str, float]:
    """A statistical bound on each node's output, from the weights alone.

    Args:
        graph: A float graph after all float passes.
        input_range: The largest magnitude of a pixel, if it is known; see ``pixel_deviation``.

    Every neuron is taken to fire with probability ``ESTIMATED_RATE``, independently of all others. Pixels have zero
    mean; unless their range is known, they have unit variance and magnitudes up to ``ESTIMATED_INPUT_RANGE``. The bound
    is ``ESTIMATED_DEVIATIONS`` standard deviations beyond the mean of the channel that reaches furthest. Sums add means
    and variances, except in DSSA's products, whose terms are taken to deviate together.

    Raises:
        RangeError: A pixel is too large for a graded spike at any scale.
    """
    largest = ESTIMATED_INPUT_RANGE if input_range is None else input_range
    require_graded(graph.input.name, largest)
    pixels = pixel_deviation(largest)
    moments: dict[str, _Moments] = {}
    for node in graph:
        inputs = [(moments[name], graph[name].shape) for name in node.inputs]
        moments[node.name] = _propagate(node.op, node.shape, inputs, pixels)
    return {name: each.bound for name, each in moments.items()} | {graph.input.name: largest}


def _propagate(
    op: nir.NIRNode, shape: tuple[int, ...], inputs: list[tuple[_Moments, tuple[int, ...]]], pixels: float
) -> _Moments:
    """The moments of one node's output from its inputs' moments and shapes, and from the deviation of ``pixels``."""
    if isinstance(op, nir.Input):
        return _Moments(np.zeros(shape[0]), np.full(shape[0], pixels**2))
    if isinstance(op, MultiSpikeIF):
        # each further spike of a step is as likely as the first: a geometric count
        mean = np.full(shape[0], ESTIMATED_COUNT)
        return _Moments(mean, mean * (1 + mean))
    if isinstance(op, NEURONS):
        rate = np.full(shape[0], ESTIMATED_RATE)
        return _Moments(rate, rate * (1 - rate))
    (x, x_shape), *others = inputs
    match op:
        case nir.Conv2d():
            outputs, inputs_per_group = op.weight.shape[:2]
            group = np.arange(outputs) // (outputs // op.groups)
            channels = group[:, None] * inputs_per_group + np.arange(inputs_per_group)
            taps, squares = op.weight.sum(axis=(2, 3)), (op.weight**2).sum(axis=(2, 3))
            return _Moments((taps * x.mean[channels]).sum(1) + op.bias, (squares * x.variance[channels]).sum(1))
        case nir.Linear() | nir.Affine():
            bias = op.bias if isinstance(op, nir.Affine) else 0.0
            return _Moments(op.weight @ x.mean + bias, op.weight**2 @ x.variance)
        case Add():
            means, variances = [x.mean], [x.variance]
            for other, _ in others:
                means.append(other.mean)
                variances.append(other.variance)
            return _Moments(np.sum(means, axis=0), np.sum(variances, axis=0))
        case SpikeMatMul():
            # a sum of y over the head's channels, or over y's positions, each taken with the estimated rate
            # as if all of them deviated together: in trained networks they nearly do
            mean, deviation = ESTIMATED_RATE * x.mean, ESTIMATED_RATE * np.sqrt(x.variance + x.mean**2)
            if op.transpose:
                mean, deviation = (each.reshape(op.num_heads, -1).sum(1) for each in (mean, deviation))
            else:
                mean, deviation = (each * math.prod(x_shape[1:]) for each in (mean, deviation))
            return _Moments(mean, deviation**2)
        case SpikeAttention(num_heads=heads, shift=shift):
            (k, _), (v, v_shape) = others
            meeting = (x.mean * k.mean).reshape(heads, -1).sum(1)
            mean = v.mean * np.repeat(meeting, len(v.mean) // heads) * math.prod(v_shape[1:]) * 2.0**-shift
            # as if all counts deviated together, as DSSA's products do
            return _Moments(mean, mean**2)
        case SpikeGate(kind=kind):
            rates = [np.repeat(each.mean, shape[0] // len(each.mean)) for each, _ in inputs]
            if kind == "and":
                rate = np.prod(rates, axis=0)
            else:
                silent = np.prod([1 - each for each in rates[kind == "iand" :]], axis=0)
                rate = rates[0] * silent if kind == "iand" else 1 - silent
            return _Moments(rate, rate * (1 - rate))
        case nir.SumPool2d():
            area = math.prod(int(size) for size in op.kernel_size)
            return _Moments(x.mean * area, x.variance * area**2)
        case nir.Flatten():
            return _Moments(np.repeat(x.mean, math.prod(x_shape[1:])), np.repeat(x.variance, math.prod(x_shape[1:])))
        case nir.Scale():
            gain = collapse(op.scale).reshape(-1)
            return _Moments(x.mean * gain, x.variance * gain**2)
        case MaxPool2d() | nir.Output() | DiscreteCubaLI() | SampleDelay():
            # the choice of scales works out how far an integrator goes in a sample
            return x
        case _:
            raise AssertionError(f"no estimate for {type(op).__name__}")
