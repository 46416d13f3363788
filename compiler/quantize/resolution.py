"""What a network loses whose values are too small for the scales of its currents, as sentences for its user."""

from __future__ import annotations

import nir
import numpy as np

from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.ops import Conv2d, Dense, RecurrentCubaLIF
from resformer.compiler.ir.primitives import DiscreteCubaLIF, MultiSpikeIF, as_weighted, collapse
from resformer.compiler.ir.program import Unscheduled
from resformer.compiler.ir.summary import listed
from resformer.compiler.quantize.choose import SCALE_EXP_ENOUGH
from resformer.compiler.quantize.plan import SCALE_EXP_MAX, WEIGHTED, QuantizationPlan

FEWEST_UNITS = 4
"""Rounding moves a threshold of fewer units than this by up to an eighth, or by more."""


def resolution_warnings(graph: Graph[nir.NIRNode], plan: QuantizationPlan, program: Unscheduled) -> tuple[str, ...]:
    """Warn of thresholds that are rounded to a few units or to none, and of layers whose weights all round to zero.

    Args:
        graph: The float graph after all float passes.
        plan: The plan of this network.
        program: The integers that the graph became.
    """
    return (*_coarse_thresholds(graph, plan), *_lost_weights(graph, plan, program))


def _coarse_thresholds(graph: Graph[nir.NIRNode], plan: QuantizationPlan) -> list[str]:
    """A warning for all populations whose thresholds are too small for the scale of their currents."""
    found: list[tuple[float, float, int, str]] = []
    for node in graph:
        if not isinstance(node.op, nir.LIF | nir.IF | DiscreteCubaLIF | MultiSpikeIF):
            continue
        exp = plan.scale_exps[node.inputs[0]]
        thresholds = collapse(node.op.v_threshold)
        least = float(thresholds.min(where=thresholds > 0, initial=np.inf))
        units = least * 2.0**exp
        if units < FEWEST_UNITS and units != round(units):
            found.append((units, least, exp, node.name))
    if not found:
        return []
    units, least, exp, name = min(found)
    names = [each for *_, each in found]
    of = "" if len(names) == 1 else f" of {name}"
    remedy = (
        f"{_too_small()} weights, biases and threshold up by the same factor"
        if exp >= SCALE_EXP_ENOUGH
        else "a finer scale does not hold its currents: bring the threshold nearer to the size of its currents"
    )
    rounded = f"is {units:.2g} units of the scale 2^{-exp} of its current, and is rounded to {round(units)}"
    return [f"{listed(names)}: the threshold{of}, {least:.3g}, {rounded}; {remedy}"]


def _lost_weights(graph: Graph[nir.NIRNode], plan: QuantizationPlan, program: Unscheduled) -> list[str]:
    """A warning for all layers whose weights all round to zero, though they are not zero."""
    found: list[tuple[float, int, str]] = []
    for node in graph:
        if not isinstance(node.op, WEIGHTED):
            continue
        largest = float(np.abs(as_weighted(node.op).weight).max(initial=0.0))
        op = program[node.name].op
        assert isinstance(op, Conv2d | Dense | RecurrentCubaLIF)
        if largest and not op.weight.any():
            found.append((largest, plan.weight_unit_exp(node), node.name))
    if not found:
        return []
    largest, unit_exp, name = min(found)
    names = [each for *_, each in found]
    whose = "the" if len(names) == 1 else f"{name}'s"
    return [
        (
            f"{listed(names)}: all weights round to 0: {whose} largest is {largest:.3g}, in units of 2^{-unit_exp}; "
            f"{_too_small()} the weights up, and with them the biases and thresholds that they meet, by the same factor"
        )
    ]


def _too_small() -> str:
    return f"its values are too small for Loihi's scales, of which the finest is 2^-{SCALE_EXP_MAX}: scale"
