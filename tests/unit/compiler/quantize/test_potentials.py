"""How far potentials go in a sample, and the scales that leave them room."""

from __future__ import annotations

import nir
import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

import resformer
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import Add, DiscreteCubaLIF, RecurrentCubaLIF, constant
from resformer.compiler.quantize import choose
from resformer.compiler.quantize.choose import POTENTIAL_BITS, POTENTIAL_HEADROOM, QuantizationConfig, choose_plan
from resformer.compiler.quantize.input_range import example_ranges
from resformer.compiler.quantize.plan import SCALE_EXP_MAX
from resformer.compiler.quantize.ranges import (
    ESTIMATED_DEVIATIONS,
    ESTIMATED_POTENTIAL_DEVIATIONS,
    ESTIMATED_RATE,
    Ranges,
    estimated_ranges,
    measured_ranges,
)
from resformer.compiler.sources.options import CompileOptions
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, QUANTIZED
from support.graphs import DT, GraphBuilder
from support.programs import fold

STEPS = 4
SHAPE = (2, 1, 1)
CURRENTS = np.array([-2.0, 3.0])
"""Of the two channels, at each step, for a pixel of one."""


def neurons(kind: str, threshold: float = 1.0) -> nir.NIRNode:
    """A population of two channels that adds its input to its potential."""
    if kind == "if":
        facts = {"reset": "hard", "fires_at": ">="}
        return nir.IF(constant(1 / DT, SHAPE), constant(threshold, SHAPE), constant(0.0, SHAPE), metadata=facts)
    fields = {"syn_decay": 1.0, "mem_decay": 0.0, "v_threshold": threshold, "v_bias": 0.0, "v_drop": threshold}
    arrays = {name: constant(value, SHAPE) for name, value in fields.items()}
    if kind == "recurrent":
        synapses = {"weight": -np.ones((2, 2, 1, 1)), "bias": np.zeros(2)}
        return RecurrentCubaLIF(**arrays, soft_reset=False, **synapses, padding=(0, 0), dilation=(1, 1), groups=1)
    return DiscreteCubaLIF(**arrays, soft_reset=kind == "soft")


def network(kind: str, *, bias: float = 0.0, readers: int = 1) -> Graph[nir.NIRNode]:
    """input - conv - neurons, once or several times - head."""
    build = GraphBuilder((1, 1, 1))
    conv = build.conv("conv", "input", CURRENTS.reshape(2, 1, 1, 1), np.full(2, bias))
    made = []
    for index in range(readers):
        name = "neurons" if index == 0 else f"neurons{index}"
        op = neurons(kind) if kind != "lif" else None
        made.append(build.lif(name, conv) if op is None else build.add(name, op, conv))
    build.head(made[0] if readers == 1 else build.add("sum", Add(), *made))
    return fold(build.finish(timesteps=STEPS))


@pytest.mark.parametrize(
    ("kind", "furthest"),
    [
        ("if", 4 * 2.0),  # the other channel fires and forgets, however far it is above
        ("hard", 4 * 2.0),
        ("soft", 4 * 3.0 - 3 * 1.0),  # a spike takes one of the three that each step brings
        ("lif", 2.0 * (1 + 1 / 2 + 1 / 4 + 1 / 8)),
        ("recurrent", 2.0 + 3 * (2.0 + 1.0)),  # the channel that fires takes one from both, a step later
    ],
)
def test_potentials_are_measured_where_clipping_would_be_felt(kind: str, furthest: float) -> None:
    graph = network(kind)
    for pixel in (1.0, 0.5):  # the largest of all samples counts
        ranges = measured_ranges(graph, np.array([pixel, 1.0, 0.25]).reshape(3, 1, 1, 1))
        assert ranges.potentials == {"neurons": furthest}
    assert ranges["conv"] == 3.0


@pytest.mark.parametrize(("kind", "steps"), [("if", 4.0), ("hard", 4.0), ("lif", 1 + 1 / 2 + 1 / 4 + 1 / 8)])
def test_potentials_are_estimated_from_currents_that_last(kind: str, steps: float) -> None:
    """Pixels of unit variance: the second channel deviates most, by three, downwards."""
    ranges = estimated_ranges(network(kind, bias=-0.5))
    assert ranges.potentials == {"neurons": pytest.approx(steps * (ESTIMATED_POTENTIAL_DEVIATIONS * 3.0 + 0.5))}
    assert ranges["conv"] == pytest.approx(ESTIMATED_DEVIATIONS * 3.0 + 0.5)


def test_what_is_fed_back_counts_in_an_estimate() -> None:
    """Two spikes at the estimated rate take as much on average, and deviate as well."""
    mean, variance = -2 * ESTIMATED_RATE, 9.0 + 2 * ESTIMATED_RATE * (1 - ESTIMATED_RATE)
    lowest = mean - ESTIMATED_POTENTIAL_DEVIATIONS * np.sqrt(variance)
    assert estimated_ranges(network("recurrent")).potentials == {"neurons": pytest.approx(-STEPS * lowest)}


def test_an_example_s_potentials_fit() -> None:
    graph = network("if")
    estimated = estimated_ranges(graph).potentials["neurons"]
    for pixel in (1.0, 40.0):
        example = np.full((1, 1, 1, 1), pixel)
        found = example_ranges(graph, example, 4.0).potentials["neurons"]
        assert found == max(estimated, 1.5 * STEPS * 2.0 * pixel)


def exp_of(graph: Graph[nir.NIRNode], potentials: dict[str, float], *, measured: bool = False) -> int:
    """k of the convolution, where potentials go so far and no current exceeds a thousandth."""
    ranges = Ranges(dict.fromkeys(graph.by_name, 1e-3), potentials)
    # what the weights want follows the input's scale, which would follow the convolution's
    config = QuantizationConfig(input_scale_exp=4)
    return choose_plan(graph, ranges, config, measured=measured).scale_exps["conv"]


def test_a_scale_leaves_potentials_room() -> None:
    graph, free = network("if"), exp_of(network("if"), {})
    room = (2**23 - 1) / 64 / 2**free
    assert exp_of(graph, {"neurons": room}) == free
    assert exp_of(graph, {"neurons": 1.01 * room}) == free - 1
    assert exp_of(graph, {"neurons": 2.01 * room}) == free - 2
    assert exp_of(graph, {"neurons": room / POTENTIAL_HEADROOM}, measured=True) == free
    assert exp_of(graph, {"neurons": 1.01 * room / POTENTIAL_HEADROOM}, measured=True) == free - 1


@pytest.mark.parametrize("readers", [1, 3])
def test_room_for_potentials_costs_a_few_bits_at_most(readers: int) -> None:
    """However many populations read a current."""
    graph = network("if", readers=readers)
    names = ["neurons", "neurons1", "neurons2"][:readers]
    free = exp_of(graph, {})
    assert exp_of(graph, {name: 1e9 * 10**index for index, name in enumerate(names)}) == free - POTENTIAL_BITS


def test_neurons_that_do_not_leak_no_longer_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel's current of -6 lasts for four steps, nine others want the finest scale, which holds 16."""
    torch.manual_seed(0)
    model = nn.Sequential(
        layer.Conv2d(1, 10, 1, step_mode="m"),
        neuron.IFNode(step_mode="m"),
        layer.Conv2d(10, 6, 3, padding=1, step_mode="m"),
        neuron.IFNode(step_mode="m"),
        layer.AdaptiveAvgPool2d(1, step_mode="m"),
        layer.Flatten(step_mode="m"),
        layer.Linear(6, 3, step_mode="m"),
    ).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([-6.0, *torch.linspace(0.4, 0.8, 9)]).reshape(10, 1, 1, 1))
        model[0].bias.zero_()
        model[2].weight.abs_()
    samples = np.random.default_rng(0).random((STEPS, 3, 1, 6, 6)).astype(np.float32)
    samples[:, :, :, 0, 0] = 1.0
    example = torch.from_numpy(samples)
    frames = samples.swapaxes(0, 1)
    results = {}
    for bits in (0, POTENTIAL_BITS):
        monkeypatch.setattr(choose, "POTENTIAL_BITS", bits)
        compiled = resformer.compile(model, example, target="sim", options=CompileOptions(calibration=frames))
        results[bits] = compiled.verify(frames)
        assert compiled.program["0"].op.signal.scale_exp == (SCALE_EXP_MAX if bits == 0 else SCALE_EXP_MAX - 1)
    assert results[0].saturation
    assert not results[POTENTIAL_BITS].saturation
    assert results[POTENTIAL_BITS].equivalent
    assert results[POTENTIAL_BITS].checks[QUANTIZED].demanded
    for name in (FLOAT_GRAPH, BACKEND, QUANTIZED):
        check = results[POTENTIAL_BITS].checks[name]
        assert (check.mismatched, check.compared > 0) == (0, True)
