"""A width for each layer, under a budget of synapse memory: bits go where their loss is measured to cost most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import nir
import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.ir.arrays import WeightArray
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.primitives import as_weighted
from resformer.compiler.ir.storage import OUTLIER_BITS, mantissa_max, split_mantissas, stored_bits
from resformer.compiler.quantize.calibrate import Moments
from resformer.compiler.quantize.clip import kept_magnitudes, least_exponents
from resformer.compiler.quantize.plan import QuantizationPlan
from resformer.compiler.target import LOIHI
from resformer.errors import RangeError

Float64Array = npt.NDArray[np.float64]

NARROWEST = 4
"""The least width that is chosen; fewer bits lose more than a layer's neighbours can spare."""
WIDEST = OUTLIER_BITS
"""The largest width, unless another is asked for: 9 bits take little more memory than 8, and 10 bits twice as much."""


@dataclass(frozen=True)
class Sensitivity:
    """What a layer loses at each width.

    Attributes:
        name: The layer.
        weights: The number of its weights.
        losses: For each width, the variance of its current's error over the variance of the current itself.
        memory: For each width, the bits that its weights take.
    """

    name: str
    weights: int
    losses: Mapping[int, float]
    memory: Mapping[int, int]


def sensitivities(
    layers: Iterable[tuple[Node[nir.NIRNode], Moments]],
    plan: QuantizationPlan,
    widest: int,
    *,
    per_channel: bool,
    index_bits: int,
) -> list[Sensitivity]:
    """Measure every convolution at all widths that may be chosen.

    Args:
        layers: Each layer with its moments, from ``quantize.calibrate.moments``.
        plan: The plan with the largest width everywhere; its scales decide the finest steps.
        widest: The largest width, in bits.
        per_channel: Whether each output channel has an exponent of its own.
        index_bits: Bits that a synapse takes beside its weight where it is stored by itself.

    Raises:
        RangeError: The largest width is below ``NARROWEST``.
    """
    if widest < NARROWEST:
        raise RangeError(
            f"weight bits: {widest} at most leave automatic precision nothing to choose, {NARROWEST} being the least; "
            f"set --weight-bits to {NARROWEST} or more, or leave out --precision auto"
        )
    return [
        _measure(node, seen, 2.0 ** -plan.weight_unit_exp(node), range(NARROWEST, widest + 1), per_channel, index_bits)
        for node, seen in layers
        if isinstance(node.op, nir.Conv2d)
    ]


def _measure(
    node: Node[nir.NIRNode], seen: Moments, finest: float, widths: Iterable[int], per_channel: bool, index_bits: int
) -> Sensitivity:
    """Measure one layer, whose steps are ``finest`` times powers of two."""
    weight = as_weighted(node.op).weight
    rows = weight.reshape(len(weight), -1) if per_channel else weight.reshape(1, -1)
    losses, memory = {}, {}
    for bits in widths:
        mantissas, step = _nearest(rows, finest, bits)
        losses[bits] = _loss(rows, mantissas * step, seen)
        memory[bits] = _memory(mantissas.astype(np.int16), bits, index_bits)
    return Sensitivity(node.name, weight.size, losses, memory)


def _nearest(rows: Float64Array, finest: float, bits: int) -> tuple[Float64Array, Float64Array]:
    """The mantissas nearest to rows of weights, and the step of each row, (C, 1)."""
    largest = mantissa_max(bits)
    step = finest * 2.0 ** least_exponents(kept_magnitudes(rows, bits) / finest, bits)[:, None]
    return np.clip(np.rint(rows / step), -largest, largest), step


def _memory(mantissas: WeightArray, bits: int, index_bits: int) -> int:
    """The bits that weights take: their width in one synapse each, or what both parts take in two."""
    if bits <= LOIHI.weight_bits_max:
        return bits * mantissas.size
    high, low, _ = split_mantissas(mantissas)
    return stored_bits(high, index_bits) + stored_bits(low, index_bits)


def _loss(exact: Float64Array, rounded: Float64Array, seen: Moments) -> float:
    """The variance of the current's error over the variance of the current, both summed over all channels."""
    groups, taps = len(seen.gram), seen.gram.shape[1] - 1
    wanted, error = (
        torch.from_numpy(np.ascontiguousarray(each)).reshape(groups, -1, taps) for each in (exact, rounded - exact)
    )
    mean = seen.mean[:, :-1]
    covariance = seen.gram[:, :-1, :-1] - mean[:, :, None] * mean[:, None, :]
    power, lost = (float(((each @ covariance) * each).sum()) for each in (wanted, error))
    return lost / power if power > 0 else 0.0


def choose_widths(layers: list[Sensitivity], widest: int, budget: float) -> dict[str, int]:
    """Choose widths that lose little in all and keep to a budget.

    All layers begin with the largest width. The layer whose loss rises least for each bit of memory that it frees then
    gives up one bit of its width, and so on until all fit.

    Args:
        layers: What each layer loses at each width.
        widest: The largest width, in bits.
        budget: The memory that the weights may take, as a share of what ``LOIHI.weight_bits_max`` bits everywhere take.

    Raises:
        RangeError: Not even the narrowest widths fit.
    """
    widths = {layer.name: widest for layer in layers}
    total = sum(layer.weights for layer in layers)
    allowed = budget * LOIHI.weight_bits_max * total
    if NARROWEST * total > allowed:
        raise RangeError(
            f"synapse budget: {budget:.0%} of the memory at {LOIHI.weight_bits_max} bits is less than {NARROWEST} bits "
            f"everywhere take; allow at least {NARROWEST / LOIHI.weight_bits_max:.0%}, or set --weight-bits"
        )
    used = sum(layer.memory[widest] for layer in layers)
    while used > allowed:
        candidates = [layer for layer in layers if widths[layer.name] > NARROWEST]
        least = min(candidates, key=lambda layer: (_price(layer, widths[layer.name]), layer.name))
        used -= _freed(least, widths[least.name])
        widths[least.name] -= 1
    return widths


def _price(layer: Sensitivity, bits: int) -> float:
    """The rise of a layer's loss if its width falls by one bit, for each bit of memory that this frees."""
    freed = _freed(layer, bits)
    return (layer.losses[bits - 1] - layer.losses[bits]) / freed if freed > 0 else 0.0


def _freed(layer: Sensitivity, bits: int) -> int:
    """The memory that is freed if the width falls by one bit, in bits."""
    return layer.memory[bits] - layer.memory[bits - 1]
