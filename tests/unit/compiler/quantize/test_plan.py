"""The plan of a quantization: what it says, its file form, and networks that it does not fit."""

from __future__ import annotations

import json
from dataclasses import replace

import nir
import numpy as np
import pytest

from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.ops import Conv2d
from resformer.compiler.ir.text import format_graph
from resformer.compiler.quantize.lower import quantize
from resformer.compiler.quantize.plan import LayerPlan, QuantizationConfig, QuantizationPlan, choose_plan
from resformer.compiler.quantize.ranges import estimated_ranges
from resformer.errors import FileFormatError
from support.graphs import GraphBuilder
from support.programs import fold


def network(channels: int = 2, scale: float = 1.0) -> Graph[nir.NIRNode]:
    build = GraphBuilder((1, 2, 2))
    weight = scale * np.linspace(-1, 1, channels).reshape(-1, 1, 1, 1)
    build.head(build.lif("lif", build.conv("conv", "input", weight)))
    return fold(build.finish())


def plan_for(graph: Graph[nir.NIRNode], bits: int = 8) -> QuantizationPlan:
    return choose_plan(graph, estimated_ranges(graph), QuantizationConfig(bits), measured=False)


def test_a_plan_outlives_its_file_and_gives_the_same_program() -> None:
    graph = network()
    plan = plan_for(graph)
    read = QuantizationPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert read == plan
    assert format_graph(quantize(graph, read)) == format_graph(quantize(graph, plan))


def test_a_plan_names_every_node_and_every_channel() -> None:
    graph = network(channels=3)
    plan = plan_for(graph, bits=4)
    assert plan.scale_exps.keys() == graph.by_name.keys()
    assert {name: len(layer.weight_exp) for name, layer in plan.layers.items()} == {"conv": 3, "classifier": 1}
    assert {layer.mantissa_max for layer in plan.layers.values()} == {7}


def test_other_weights_under_an_old_plan_keep_its_scales_and_are_clipped() -> None:
    plan = plan_for(network())
    before, after = (quantize(network(scale=scale), plan)["conv"].op for scale in (1.0, 2.0))
    assert isinstance(before, Conv2d)
    assert isinstance(after, Conv2d)
    assert after.signal == before.signal
    assert np.array_equal(after.weight_exp, before.weight_exp)
    assert np.abs(before.weight).max() == 64
    assert after.weight.reshape(-1).tolist() == [-127, 127]


def test_a_plan_of_another_network_is_refused() -> None:
    plan = plan_for(network())
    with pytest.raises(FileFormatError, match=r"conv: the quantization plan holds 2 exponents for 3 channels"):
        quantize(network(channels=3), plan)
    for name, where in (("avgpool", "network"), ("other", "plan")):
        exps = dict(plan.scale_exps)
        exps.pop(name) if name in exps else exps.update({name: 3})
        with pytest.raises(FileFormatError, match=rf"{name}: a node of the {where} alone"):
            quantize(network(), replace(plan, scale_exps=exps))
    with pytest.raises(FileFormatError, match="more: a layer with weights of the plan alone"):
        quantize(network(), replace(plan, layers={**plan.layers, "more": LayerPlan(8, (0,))}))


@pytest.mark.parametrize("content", [{}, {"input_high": 1, "scale_exps": [], "layers": {}}, {"input_high": "x"}])
def test_a_damaged_plan_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(FileFormatError, match="quantization plan: damaged"):
        QuantizationPlan.from_json(content)


def test_a_layer_that_reads_sums_of_spikes_has_room_for_them() -> None:
    """Sixteen spikes meet where one would: the scale leaves four bits."""
    exps = []
    for size in (1, 4):
        build = GraphBuilder((1, 4, 4))
        value = build.lif("lif", build.conv("stem", "input", np.ones((256, 1, 1, 1))))
        window = np.full(2, size)
        value = build.add("sum", nir.SumPool2d(window, window, np.zeros(2, dtype=np.int64)), value)
        build.head(build.lif("out", build.conv("conv", value, np.full((1, 256, 1, 1), 8.0))))
        graph = fold(build.finish())
        ranges = dict.fromkeys(graph.by_name, 1.0)
        exps.append(choose_plan(graph, ranges, QuantizationConfig(), measured=False).scale_exps["conv"])
    assert exps[0] - exps[1] == 4


def choose(graph: Graph[nir.NIRNode], *, measured: bool = False) -> QuantizationPlan:
    """The plan where no current exceeds one."""
    return choose_plan(graph, dict.fromkeys(graph.by_name, 1.0), QuantizationConfig(), measured=measured)


def test_calibration_makes_pixels_one_bit_finer() -> None:
    """Weights of 2^-7 at the finest scale, 2^13: pixels of 2^-3 cost as much, of 2^-4 where weights are calibrated."""
    build = GraphBuilder((1, 2, 2))
    build.head(build.lif("lif", build.conv("conv", "input", np.full((1, 1, 1, 1), 2.0**-7))))
    graph = fold(build.finish())
    exps = [choose(graph, measured=measured).scale_exps["input"] for measured in (False, True)]
    assert exps == [(13 - 7) // 2, (13 - 7) // 2 + 1]


@pytest.mark.parametrize("silent", [0, 50])
@pytest.mark.parametrize(("large", "exp"), [(89, 12), (90, 11)])
def test_a_scale_resolves_the_weights_of_nine_channels_in_ten(large: int, exp: int, silent: int) -> None:
    """Of a hundred that have weights, the ninetieth largest fills its mantissa; the last ten may be coarser."""
    build = GraphBuilder((1, 2, 2))
    spikes = build.lif("lif", build.conv("stem", "input", np.ones((1, 1, 1, 1))))
    # 127 finest steps at 2^11, 2^12 and 2^13
    weight = np.repeat([127 / 2**11, 127 / 2**12, 127 / 2**13, 0.0], [large, 1, 99 - large, silent])
    build.head(build.lif("out", build.conv("conv", spikes, weight.reshape(-1, 1, 1, 1))))
    assert choose(fold(build.finish())).scale_exps["conv"] == exp


@pytest.mark.parametrize(
    ("taps", "weight", "halvings"),
    [
        (100, 0.1, 3),  # multiples of 1/8 hold 0.1 well: 100 errors of 1/40, where larger steps lose 1/10 each
        (400, 0.05, 0),  # only multiples of 1/16 would hold 0.05, and that is one halving too many
    ],
)
def test_a_step_is_halved_three_times_at_most(taps: int, weight: float, halvings: int) -> None:
    """With two bits, a weight is -1, 0 or 1 step: the largest asks for a step of 1, and all others are small."""
    build = GraphBuilder((1, 1, 1))
    spikes = build.lif("lif", build.conv("stem", "input", np.ones((taps + 1, 1, 1, 1))))
    rows = np.array([[0.8] + [weight] * taps])
    errors = []
    for step in (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16):
        stored = [min(round(each / step), 1) * step for each in rows[0]]
        errors.append(sum((each - kept) ** 2 for each, kept in zip(rows[0], stored, strict=True)))
    assert errors.index(min(errors[:4])) == halvings
    assert (min(errors) < min(errors[:4])) == (halvings == 0), "a fourth halving would gain where three do not"
    build.head(build.lif("out", build.conv("conv", spikes, rows.reshape(1, -1, 1, 1))))
    graph = fold(build.finish())
    plan = choose_plan(
        graph, dict.fromkeys(graph.by_name, 1.0), QuantizationConfig(2, input_scale_exp=0), measured=False
    )
    (exponent,) = plan.layers["conv"].weight_exp
    assert exponent - plan.scale_exps["conv"] == -halvings
