"""Calibration on small networks: what it must keep, what it must lower, and what each step does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nir
import numpy as np
import numpy.typing as npt
import pytest
import torch

from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir import ops as integer
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import RecurrentCubaLIF
from resformer.compiler.ir.text import format_graph
from resformer.compiler.quantize import calibrate as calibration
from resformer.compiler.quantize.calibrate import Calibrated, CalibrationSteps, calibrate
from resformer.compiler.quantize.choose import QuantizationConfig, choose_plan
from resformer.compiler.quantize.lower import quantize, round_layer
from resformer.compiler.quantize.plan import QuantizationPlan
from resformer.compiler.quantize.ranges import measured_ranges
from support.graphs import GraphBuilder
from support.programs import fold

RNG = np.random.default_rng(5)
WEIGHTS = (RNG.normal(size=(8, 3, 3, 3)), RNG.normal(size=(12, 4, 3, 3)), RNG.normal(size=(6, 12, 1, 1)))
SAMPLES = RNG.random((12, 3, 8, 8)).round(3)


def network() -> Graph[nir.NIRNode]:
    """Three convolutions, the second strided and grouped, with a sum at the end."""
    build = GraphBuilder((3, 8, 8))
    spikes = build.lif("lif", build.conv("conv", "input", 0.3 * WEIGHTS[0], np.full(8, 0.1), padding=1))
    spikes = build.lif("lif2", build.conv("conv2", spikes, 0.4 * WEIGHTS[1], stride=2, padding=1, groups=2))
    build.head(build.lif("lif3", build.conv("conv3", spikes, WEIGHTS[2])))
    return fold(build.finish())


def recurrent_network(kernel: int, groups: int) -> Graph[nir.NIRNode]:
    """Twelve channels of few inputs, so that their spikes are similar, with recurrent synapses."""
    rng = np.random.default_rng(8)
    build = GraphBuilder((3, 8, 8))
    current = build.conv("conv", "input", rng.normal(size=(12, 3, 1, 1)) + 0.3, np.full(12, 0.1))
    shape = build.shape(current)
    one = np.ones(shape)
    neurons = RecurrentCubaLIF(
        syn_decay=0.5 * one,
        mem_decay=0.25 * one,
        v_threshold=2.0 * one,
        v_bias=0.0 * one,
        v_drop=2.0 * one,
        soft_reset=True,
        weight=rng.normal(scale=0.4 / kernel, size=(12, 12 // groups, kernel, kernel)),
        bias=rng.normal(scale=0.1, size=12),
        padding=(kernel // 2, kernel // 2),
        dilation=(1, 1),
        groups=groups,
    )
    build.head(build.add("recurrent", neurons, current))
    return fold(build.finish(timesteps=6))


def plan_for(graph: Graph[nir.NIRNode], bits: int = 4) -> QuantizationPlan:
    return choose_plan(graph, measured_ranges(graph, SAMPLES), QuantizationConfig(bits), measured=True)


def sent(graph: Graph[nir.NIRNode], calibrated: Calibrated, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's outputs for the float network's values, with weights as trained and as rounded."""
    values: dict[str, torch.Tensor] = {}
    float_interpreter.run(graph, SAMPLES, observe=values.__setitem__)
    node, plan = graph[name], calibrated.plan
    synapses, read = node.op, values[node.inputs[0]]
    if isinstance(node.op, RecurrentCubaLIF):
        synapses, read = node.op.synapses(), torch.zeros_like(values[name])
        read[1:] = values[name][:-1]
    integers = calibrated.rounded[name] if calibrated.rounded else round_layer(plan, node)
    weight = integers.real_weight(plan.layers[name], plan.weight_unit_exp(node))
    op = nir.Conv2d(
        None,
        weight,
        synapses.stride,
        synapses.padding,
        synapses.dilation,
        synapses.groups,
        integers.bias * 2.0 ** -plan.current_exp(node),
    )
    return float_interpreter.evaluate(synapses, read), float_interpreter.evaluate(op, read)


def error(graph: Graph[nir.NIRNode], calibrated: Calibrated, name: str) -> float:
    exact, rounded = sent(graph, calibrated, name)
    return float((exact - rounded).square().mean())


@pytest.mark.parametrize("bits", [3, 4])
def test_each_layer_loses_less_than_by_the_nearest(bits: int) -> None:
    graph = network()
    plan = plan_for(graph, bits)
    calibrated = calibrate(graph, SAMPLES, plan)
    for name in ("conv", "conv2", "conv3"):
        assert error(graph, calibrated, name) < 0.8 * error(graph, Calibrated(plan, {}), name)


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 2)])
def test_recurrent_synapses_lose_less_than_by_the_nearest(kernel: int, groups: int, bits: int) -> None:
    graph = recurrent_network(kernel, groups)
    plan = plan_for(graph, bits)
    calibrated = calibrate(graph, SAMPLES, plan)
    assert error(graph, calibrated, "recurrent") < 0.6 * error(graph, Calibrated(plan, {}), "recurrent")
    exact, rounded = sent(graph, calibrated, "recurrent")
    lacks = (exact - rounded).mean((0, 1, 3, 4)).abs().max() * 2.0 ** plan.current_exp(graph["recurrent"])
    assert lacks <= 0.51, "the mean is over all steps, the first, where no spike has come back, included"


def test_recurrent_synapses_of_the_program_are_what_was_rounded() -> None:
    graph = recurrent_network(3, 2)
    plan = plan_for(graph, 4)
    calibrated = calibrate(graph, SAMPLES, plan)
    neurons = quantize(graph, calibrated.plan, calibrated.rounded)["recurrent"].op
    assert isinstance(neurons, integer.RecurrentCubaLIF)
    rounded, nearest = calibrated.rounded["recurrent"], round_layer(plan, graph["recurrent"])
    assert (rounded.weight != nearest.weight).any()
    assert (rounded.bias != nearest.bias).any()
    assert np.array_equal(neurons.weight, rounded.weight)
    assert np.array_equal(neurons.weight_exp, calibrated.plan.layers["recurrent"].weight_exp)
    assert np.array_equal(neurons.u_bias.flatten(), 64 * rounded.bias)


@pytest.mark.parametrize("bits", [2, 4])
def test_a_layer_of_one_exponent_keeps_one(bits: int) -> None:
    graph = network()
    config = QuantizationConfig(bits, per_channel=False)
    plan = choose_plan(graph, measured_ranges(graph, SAMPLES), config, measured=True)
    calibrated = calibrate(graph, SAMPLES, plan, per_channel=False)
    for name, layer in calibrated.plan.layers.items():
        assert len(set(layer.weight_exp)) == 1, name
        if name != "classifier":
            assert error(graph, calibrated, name) < error(graph, Calibrated(plan, {}), name)
    free = calibrate(graph, SAMPLES, plan).plan.layers
    assert any(len(set(layer.weight_exp)) > 1 for layer in free.values()), "this test cannot fail"


@pytest.mark.parametrize("steps", [CalibrationSteps(), CalibrationSteps(correct_bias=False, second_order=False)])
def test_mean_currents_are_right_to_half_a_unit_of_the_bias_if_it_is_corrected(steps: CalibrationSteps) -> None:
    graph = network()
    calibrated = calibrate(graph, SAMPLES, plan_for(graph, 3), steps)
    units = []
    for name in ("conv2", "conv3"):
        exact, rounded = sent(graph, calibrated, name)
        lacks = (exact - rounded).mean((0, 1, 3, 4)).abs().max()
        units.append(float(lacks) * 2.0 ** calibrated.plan.scale_exps[name])
    assert (max(units) <= 0.51) == steps.correct_bias


def test_the_same_data_give_the_same_integers_and_nothing_given_changes() -> None:
    graph = network()
    before = format_graph(graph)
    plan = plan_for(graph)
    kept, samples = plan.to_json(), SAMPLES.copy()
    first, second = (calibrate(graph, samples, plan) for _ in range(2))
    assert first.plan == second.plan
    for name, integers in first.rounded.items():
        assert np.array_equal(integers.weight, second.rounded[name].weight)
        assert np.array_equal(integers.bias, second.rounded[name].bias)
    assert format_graph(graph) == before
    assert plan.to_json() == kept
    assert np.array_equal(samples, SAMPLES)


def test_a_calibrated_plan_and_its_integers_make_a_program() -> None:
    graph = network()
    calibrated = calibrate(graph, SAMPLES, plan_for(graph))
    program = quantize(graph, calibrated.plan, calibrated.rounded)
    assert np.array_equal(program["conv2"].op.weight, calibrated.rounded["conv2"].weight)  # type: ignore[attr-defined]
    assert max(abs(each.weight).max() for each in calibrated.rounded.values()) <= 7


def test_exponents_only_shrink_and_only_if_searched_for() -> None:
    graph = network()
    plan = plan_for(graph, 2)
    for search in (False, True):
        layers = calibrate(graph, SAMPLES, plan, CalibrationSteps(search=search)).plan.layers
        falls = [
            old - new
            for name, layer in layers.items()
            for old, new in zip(plan.layers[name].weight_exp, layer.weight_exp, strict=True)
        ]
        assert min(falls) >= 0
        assert (max(falls) > 0) == search


def test_progress_names_each_layer() -> None:
    told: list[tuple[str, float, float]] = []
    graph = network()
    calibrate(graph, SAMPLES, plan_for(graph), progress=lambda *each: told.append(each))
    assert told[0] == ("calibrating conv", 1, 4)
    assert told[-1] == ("calibrating classifier", 4, 4)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"stride": 2, "padding": 1},
        {"groups": 2, "padding": 2, "dilation": 2},
        {"groups": 4, "stride": 3},
    ],
)
def test_taps_times_weights_are_the_convolution(form: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "TAPS", 100)  # a few positions at a time
    groups = form.get("groups", 1)
    weight: npt.NDArray[Any] = RNG.normal(size=(8, 4 // groups, 3, 3))
    pairs = {key: (form.get(key, default),) * 2 for key, default in (("stride", 1), ("padding", 0), ("dilation", 1))}
    op = nir.Conv2d((9, 9), weight, groups=groups, bias=np.zeros(8), **pairs)
    x = torch.from_numpy(RNG.normal(size=(2, 3, 4, 9, 9)))
    wanted = float_interpreter.evaluate(op, x).flatten(0, 1).flatten(2).transpose(1, 2).reshape(-1, 8)
    chosen = torch.arange(0, len(wanted), 3)
    taps = torch.cat(list(calibration._taps(op, x, chosen)), dim=1)
    made = torch.einsum("gpd,gcd->pgc", taps, torch.from_numpy(weight).reshape(groups, 8 // groups, -1))
    assert torch.allclose(made.reshape(len(chosen), 8), wanted[chosen])


def test_more_samples_than_memory_holds_are_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network()
    monkeypatch.setattr(calibration, "VALUES", 3 * 2 * 8 * 8 * 8)
    kept = calibration._affordable(graph, SAMPLES)
    assert len(kept) == 3
    assert np.array_equal(kept, SAMPLES[[0, 6, 11]])
    assert len(calibration._affordable(replace(graph, timesteps=1), SAMPLES)) == 6
