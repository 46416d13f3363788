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
from resformer.compiler.quantize.choose import QuantizationConfig, choose_plan
from resformer.compiler.quantize.lower import quantize
from resformer.compiler.quantize.plan import LayerPlan, QuantizationPlan
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
