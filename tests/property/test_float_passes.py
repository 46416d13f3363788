"""Every float pass preserves what the network computes, on random small graphs, and leaves its input untouched."""

from __future__ import annotations

import copy

import nir
import numpy as np
import torch
from hypothesis import given, settings

from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import BatchNorm2d, SpikeMatMul
from resformer.compiler.ir.verify import verify_graph
from resformer.compiler.pipeline import CHECKPOINT
from resformer.compiler.quantize.choose import QuantizationConfig, choose_plan
from resformer.compiler.quantize.lower import quantize
from resformer.compiler.quantize.ranges import estimated_ranges
from support.compare import first_difference
from support.graphs import float_graphs, samples_for

FloatGraph = Graph[nir.NIRNode]

TOLERANCE = 1e-9
"""Relative to the largest value: folding reorders sums of some hundred float64 terms, 2^-52 each, layer after layer."""


def run(graph: FloatGraph) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The logits, and each population's spikes."""
    spikes: dict[str, torch.Tensor] = {}

    def observe(name: str, value: torch.Tensor) -> None:
        if isinstance(graph[name].op, nir.LIF):
            spikes[name] = value

    return float_interpreter.run(graph, samples_for(graph), observe=observe), spikes


def assert_computes_the_same(graph: FloatGraph, expected: tuple[torch.Tensor, dict[str, torch.Tensor]]) -> None:
    logits, spikes = run(graph)
    assert spikes.keys() == expected[1].keys()
    for name, train in spikes.items():
        assert int((train != expected[1][name]).sum()) == 0, name
    torch.testing.assert_close(logits, expected[0], rtol=TOLERANCE, atol=TOLERANCE * float(expected[0].abs().max() + 1))


@settings(max_examples=30)
@given(float_graphs())
def test_each_pass_preserves_every_spike_and_leaves_its_input_untouched(graph: FloatGraph) -> None:
    expected = run(graph)
    for float_pass in CHECKPOINT.float_passes:
        before = copy.deepcopy(graph)
        transformed = float_pass(graph)
        assert first_difference(graph, before) is None, f"{float_pass.__name__} changed its input"
        verify_graph(transformed)
        assert_computes_the_same(transformed, expected)
        graph = transformed
    assert_nothing_is_left_to_fold(graph)


def assert_nothing_is_left_to_fold(graph: FloatGraph) -> None:
    for node in graph:
        assert not isinstance(node.op, (BatchNorm2d, nir.AvgPool2d)), node.name
        assert not isinstance(node.op, SpikeMatMul) or node.op.part == "all", node.name
        assert not isinstance(node.op, nir.Scale) or graph.consumers[node.name] == (graph.output,), node.name
        if isinstance(node.op, nir.LIF):
            decay = graph.metadata["dt"] / node.op.tau
            np.testing.assert_allclose(node.op.r * decay, 1.0, rtol=1e-15)  # r = tau / dt, each rounded once


@settings(max_examples=10)
@given(float_graphs())
def test_passes_change_nothing_the_second_time(graph: FloatGraph) -> None:
    for float_pass in CHECKPOINT.float_passes:
        graph = float_pass(graph)
    for float_pass in CHECKPOINT.float_passes:
        again = float_pass(graph)
        if float_pass.__name__ == "fold_input_gain":  # divides by a gain of one
            assert [node.inputs for node in again] == [node.inputs for node in graph]
        else:
            assert first_difference(again, graph) is None, float_pass.__name__


@settings(max_examples=10)
@given(float_graphs())
def test_quantizing_leaves_its_input_untouched(graph: FloatGraph) -> None:
    for float_pass in CHECKPOINT.float_passes:
        graph = float_pass(graph)
    before = copy.deepcopy(graph)
    quantize(graph, choose_plan(graph, estimated_ranges(graph), QuantizationConfig(), measured=False))
    assert first_difference(graph, before) is None
