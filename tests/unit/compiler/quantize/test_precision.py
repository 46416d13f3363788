"""Widths by layer: what is measured, and how a budget is spent."""

from __future__ import annotations

import numpy as np
import pytest

from resformer.compiler.quantize.calibrate import moments
from resformer.compiler.quantize.choose import QuantizationConfig, choose_plan
from resformer.compiler.quantize.plan import QuantizationPlan
from resformer.compiler.quantize.precision import Sensitivity, choose_widths, sensitivities
from resformer.compiler.quantize.ranges import estimated_ranges
from resformer.errors import RangeError
from support.graphs import GraphBuilder
from support.programs import fold

RNG = np.random.default_rng(2)


def layer(name: str, weights: int, loss: float) -> Sensitivity:
    """A layer whose loss is four times as large with each bit less, as rounding noise is."""
    widths = range(4, 10)
    memory = {bits: weights * bits for bits in widths} | {9: round(8.4 * weights)}
    return Sensitivity(name, weights, {bits: loss * 4.0 ** (8 - bits) for bits in widths}, memory)


def memory(widths: dict[str, int], layers: list[Sensitivity]) -> int:
    return sum(widths[each.name] * each.weights for each in layers)


@pytest.mark.parametrize("budget", [0.5, 0.6, 0.75, 0.9, 1.0])
def test_widths_keep_to_the_budget_and_waste_none_of_it(budget: float) -> None:
    layers = [layer("a", 100, 1e-5), layer("b", 50, 1e-3), layer("c", 10, 1e-4)]
    widths = choose_widths(layers, 8, budget)
    allowed = budget * 8 * 160
    assert all(4 <= bits <= 8 for bits in widths.values())
    assert allowed - 100 < memory(widths, layers) <= allowed


def test_bits_go_where_they_save_most() -> None:
    layers = [layer("robust", 100, 1e-6), layer("sensitive", 100, 1e-2)]
    assert choose_widths(layers, 8, 0.75) == {"robust": 4, "sensitive": 8}
    layers = [layer("large", 1000, 1e-4), layer("small", 10, 1e-4)]
    assert choose_widths(layers, 8, 0.9) == {"large": 7, "small": 8}


def test_the_ninth_bit_is_bought_first_for_it_costs_least() -> None:
    layers = [layer("a", 100, 1e-4), layer("b", 100, 1e-4)]
    assert choose_widths(layers, 9, 1.05) == {"a": 9, "b": 9}
    assert choose_widths(layers, 9, 1.03) == {"a": 8, "b": 9}
    assert choose_widths(layers, 9, 1.0) == {"a": 8, "b": 8}


def test_no_layer_is_wider_than_the_widest() -> None:
    assert choose_widths([layer("a", 10, 1e-4), layer("b", 10, 1e-4)], 6, 1.0) == {"a": 6, "b": 6}


def test_fewer_bits_than_the_narrowest_are_refused() -> None:
    plan = QuantizationPlan(1, {}, {})
    with pytest.raises(RangeError, match=r"weight bits: 3 at most .* --weight-bits to 4 or more"):
        sensitivities([], plan, 3, per_channel=True, index_bits=12)


def test_a_budget_below_the_narrowest_is_refused() -> None:
    with pytest.raises(RangeError, match=r"synapse budget: 49% of the memory .* at least 50%, or set --weight-bits"):
        choose_widths([layer("a", 10, 1e-4)], 8, 0.49)


def test_a_layer_loses_four_times_as_much_for_each_bit_less() -> None:
    build = GraphBuilder((3, 8, 8))
    weight = RNG.normal(size=(16, 3, 3, 3))
    spikes = build.lif("lif", build.conv("conv", "input", weight, padding=1))
    build.head(build.lif("lif2", build.conv("conv2", spikes, RNG.normal(size=(8, 8, 3, 3)), groups=2)))
    graph = fold(build.finish())
    plan = choose_plan(graph, estimated_ranges(graph), QuantizationConfig(), measured=False)
    samples = RNG.normal(size=(16, 3, 8, 8))
    for per_channel in (True, False):
        found = sensitivities(moments(graph, samples, plan), plan, 8, per_channel=per_channel, index_bits=12)
        assert [(each.name, each.weights) for each in found] == [("conv", 432), ("conv2", 576)]
        for each in found:
            assert list(each.losses) == [4, 5, 6, 7, 8]
            assert 4**3.5 < each.losses[4] / each.losses[8] < 4**4.5
            assert 1e-6 < each.losses[8] < 1e-3


def test_a_bit_less_is_priced_by_what_it_adds_to_the_loss() -> None:
    """It is not priced by the total loss: in a layer that has lost much already, a bit may cost next to nothing."""
    memory = {bits: 100 * bits for bits in range(4, 9)}
    lossy = Sensitivity("lossy", 100, {8: 1.0, 7: 1.1, 6: 1.2, 5: 1.3, 4: 1.4}, memory)
    precise = Sensitivity("precise", 100, {8: 0.1, 7: 0.5, 6: 0.9, 5: 1.3, 4: 1.7}, memory)
    # 0.1 a bit for one, 0.4 for the other; 15 of 16 bits, then 12
    assert choose_widths([lossy, precise], 8, 15 / 16) == {"lossy": 7, "precise": 8}
    assert choose_widths([lossy, precise], 8, 12 / 16) == {"lossy": 4, "precise": 8}
