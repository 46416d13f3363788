"""The plan of a network whose numbers are the chip's integers already: nothing is chosen, and nothing rounded."""

from __future__ import annotations

import nir
import numpy as np

from resformer.compiler.ir.arrays import Int64Array, require
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import DiscreteCubaLI, SampleDelay, as_weighted
from resformer.compiler.ir.storage import mantissa_max, whole_exponent
from resformer.compiler.quantize.plan import CONVOLUTIONAL, WEIGHTED, LayerPlan, QuantizationPlan
from resformer.compiler.target import LOIHI


def exact_plan(graph: Graph[nir.NIRNode], input_high: int) -> QuantizationPlan:
    """The plan by which every integer stands for itself.

    A layer's mantissas are its weights over the largest power of two that divides all of them, as netx stores them; all
    channels share one exponent.

    Args:
        graph: A graph whose weights are whole numbers, of at most 15 bits.
        input_high: The input's integers lie within plus and minus this.

    Raises:
        InvariantError: A weight is no whole number, or needs more bits.
    """
    scales: dict[str, int] = {}
    layers: dict[str, LayerPlan] = {}
    for node in graph:
        integrates = isinstance(node.op, DiscreteCubaLI) or (
            isinstance(node.op, nir.Flatten | nir.Output | SampleDelay) and bool(scales[node.inputs[0]])
        )
        scales[node.name] = LOIHI.a_shift if integrates else 0
        if isinstance(node.op, WEIGHTED):
            weight = as_weighted(node.op).weight
            require(bool((weight == np.rint(weight)).all()), f"{node.name}: its weights are no whole numbers")
            plan = _layer(weight.astype(np.int64))
            require(plan.bits <= LOIHI.stacked_bits_max, f"{node.name}: its weights need {plan.bits} bits")
            channels = len(weight) if isinstance(node.op, CONVOLUTIONAL) else 1
            layers[node.name] = LayerPlan(plan.bits, plan.weight_exp * channels)
    return QuantizationPlan(input_high, scales, layers)


def _layer(weight: Int64Array) -> LayerPlan:
    """The width and the exponent of a layer whose weights are whole numbers."""
    exponent = whole_exponent(weight)
    largest, bits = int(np.abs(weight >> exponent).max(initial=0)), LOIHI.weight_bits_max
    while largest > mantissa_max(bits):
        bits += 1
    return LayerPlan(bits, (exponent,))
