"""A width for each layer, under a budget of synapse memory: bits go where their loss is measured to cost most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import nir
import numpy as np
import torch

from resformer.compiler.ir.graph import Node
from resformer.compiler.passes.calibrate import Moments
from resformer.compiler.passes.scales import kept_magnitudes, mantissa_max
from resformer.compiler.target import LOIHI
from resformer.errors import RangeError

NARROWEST = 4
"""The least width that is chosen; fewer bits lose more than a layer's neighbours can spare."""


@dataclass(frozen=True)
class Sensitivity:
    """What a layer loses at each width.

    Attributes:
        name: The layer.
        weights: How many it stores.
        losses: By width, the error of its current over the current's own variation: a ratio of mean squares.
    """

    name: str
    weights: int
    losses: Mapping[int, float]


def sensitivities(
    layers: Iterable[tuple[Node[nir.NIRNode], Moments]], widest: int, *, per_channel: bool
) -> list[Sensitivity]:
    """Measure every convolution at all widths that may be chosen.

    Args:
        layers: From ``passes.calibrate.moments``.
        widest: The most bits.
        per_channel: Whether each output channel has an exponent of its own.
    """
    return [
        Sensitivity(
            node.name,
            node.op.weight.size,
            {bits: _loss(node.op.weight, seen, bits, per_channel) for bits in range(NARROWEST, widest + 1)},
        )
        for node, seen in layers
        if isinstance(node.op, nir.Conv2d)
    ]


def _loss(weight: np.ndarray[tuple[int, ...], np.dtype[np.float64]], seen: Moments, bits: int, channels: bool) -> float:
    """The error's mean square, once its mean is corrected, over the current's, both over all channels."""
    rows = weight.reshape(len(weight), -1) if channels else weight.reshape(1, -1)
    step = 2.0 ** np.ceil(np.log2(np.maximum(kept_magnitudes(rows, bits), 1e-30) / (mantissa_max(bits) + 0.5)))
    largest = mantissa_max(bits)
    rounded = np.clip(np.rint(rows / step[:, None]), -largest, largest) * step[:, None]
    groups, taps = len(seen.gram), seen.gram.shape[1] - 1
    exact, error = (
        torch.from_numpy(np.ascontiguousarray(each)).reshape(groups, -1, taps) for each in (rows, rounded - rows)
    )
    mean = seen.mean[:, :-1]
    covariance = seen.gram[:, :-1, :-1] - mean[:, :, None] * mean[:, None, :]
    power, lost = (float(((each @ covariance) * each).sum()) for each in (exact, error))
    return lost / power if power > 0 else 0.0


def choose_widths(layers: list[Sensitivity], widest: int, budget: float) -> dict[str, int]:
    """Widths that lose least in all and keep to a budget.

    From the widest everywhere, the layer gives up a bit whose loss rises least for each bit of memory that it frees,
    until all fits.

    Args:
        layers: What each loses.
        widest: The most bits.
        budget: Of the memory that ``LOIHI.weight_bits_max`` bits everywhere take, the share that the weights may take.

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
    used = widest * total
    while used > allowed:
        candidates = [layer for layer in layers if widths[layer.name] > NARROWEST]
        least = min(candidates, key=lambda layer: (_price(layer, widths[layer.name]), layer.name))
        widths[least.name] -= 1
        used -= least.weights
    return widths


def _price(layer: Sensitivity, bits: int) -> float:
    """What a layer loses more with a bit less, for each bit of memory."""
    return (layer.losses[bits - 1] - layer.losses[bits]) / layer.weights
