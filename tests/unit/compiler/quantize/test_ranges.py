"""Measured and estimated magnitudes of currents."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import pytest
import torch

from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.primitives import Add
from resformer.compiler.quantize.ranges import (
    ESTIMATED_DEVIATIONS,
    ESTIMATED_INPUT_RANGE,
    ESTIMATED_RATE,
    estimated_ranges,
    measured_ranges,
)
from support.graphs import GraphBuilder, samples_for
from support.programs import fold


def network() -> Any:
    """All kinds of nodes, folded."""
    build = GraphBuilder((2, 8, 8), seed=3)
    value = build.pool("stem.2", build.norm("stem.1", build.random_conv("stem.0", "input", 8, 3, padding=1)), 2, 2, 0)
    build.head(build.attention("dssa", value, heads=2, patch=2))
    return fold(build.finish(timesteps=3))


@pytest.mark.parametrize("count", [1, 16, 17, 40])
def test_measured_ranges_are_the_largest_magnitudes_of_all_samples(count: int) -> None:
    graph = network()
    samples = samples_for(graph, count)
    seen: dict[str, float] = {}
    float_interpreter.run(graph, samples, observe=lambda name, value: seen.update({name: float(value.abs().max())}))
    assert measured_ranges(graph, samples) == seen
    assert seen["input"] == np.abs(samples).max()


def test_every_node_gets_an_estimate() -> None:
    graph = network()
    estimates = estimated_ranges(graph)
    assert estimates.keys() == set(graph.by_name)
    assert estimates["input"] == ESTIMATED_INPUT_RANGE
    assert all(estimate > 0 for estimate in estimates.values())


def moments(values: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, (C,)."""
    channels = values.transpose(0, 1).flatten(1)
    return channels.mean(1).numpy(), channels.std(1).numpy()


def expected_bound(values: torch.Tensor) -> float:
    mean, deviation = moments(values)
    return float((np.abs(mean) + ESTIMATED_DEVIATIONS * deviation).max())


def test_estimates_of_convolutions_and_sums_are_their_moments() -> None:
    """Random spikes at the estimated rate, a hundred thousand of them a channel, without padding."""
    rng = np.random.default_rng(0)
    build = GraphBuilder((2, 4, 4))
    stem = build.conv("stem", "input", rng.standard_normal((4, 2, 1, 1)), rng.standard_normal(4))
    spikes = build.lif("lif", stem)
    conv = build.conv("conv", spikes, rng.standard_normal((4, 2, 1, 1)), rng.standard_normal(4), groups=2)
    build.head(build.add("sum", Add(), conv, stem))
    graph = fold(build.finish())
    estimates = estimated_ranges(graph)

    pixels = torch.from_numpy(rng.standard_normal((6000, 2, 4, 4)))
    fired = torch.from_numpy((rng.random((6000, 4, 4, 4)) < ESTIMATED_RATE).astype(np.float64))
    real = {
        name: float_interpreter.evaluate(graph[name].op, source[None])[0]
        for name, source in (("stem", pixels), ("conv", fired))
    }
    real["sum"] = real["stem"] + real["conv"]
    for name, values in real.items():
        # 96,000 samples of a channel tell its deviation to about 0.3 %
        assert estimates[name] == pytest.approx(expected_bound(values), rel=0.02), name


def test_the_bias_of_a_classifier_counts() -> None:
    build = GraphBuilder((2, 1, 1))
    flat = build.add("flatten", nir.Flatten({"input": np.array([2, 1, 1])}, start_dim=0), "input")
    build.output(build.add("classifier", nir.Affine(np.eye(2), np.array([100.0, -200.0])), flat))
    assert estimated_ranges(build.finish())["classifier"] == 200 + ESTIMATED_DEVIATIONS


def test_products_deviate_with_all_their_terms_together() -> None:
    """y is 3 everywhere; four channels a head, and four patches."""
    graph = network()
    y1, y2 = graph["dssa.W.y1"], graph["dssa.W.y2"]
    edit = graph.edit()
    for node in (y1, y2):
        op = node.op
        edit.set_op(
            node.name,
            nir.Conv2d(op.input_shape, 0 * op.weight, op.stride, op.padding, op.dilation, op.groups, 0 * op.bias + 3.0),
        )
    estimates = estimated_ranges(edit.finish())
    per_head, patches = 4, 4
    one_term = ESTIMATED_RATE * 3.0 * (1 + ESTIMATED_DEVIATIONS)
    assert estimates["dssa.matmul1"] == pytest.approx(per_head * one_term)
    assert estimates["dssa.matmul2"] == pytest.approx(patches * one_term)


def test_a_sum_over_a_window_may_deviate_with_all_its_terms_together() -> None:
    """Six pixels, which are similar as neighbours are: six times the mean and six times the deviation."""
    build = GraphBuilder((1, 2, 3))
    conv = build.conv("conv", "input", np.full((1, 1, 1, 1), 2.0), np.ones(1))
    size = np.array([2, 3])
    build.output(build.add("pool", nir.SumPool2d(size, size, np.zeros(2, dtype=np.int64)), conv))
    estimates = estimated_ranges(build.finish())
    # a mean of 1 and a deviation of 2, and six deviations
    assert estimates["conv"] == pytest.approx(1 + 6 * 2)
    assert estimates["pool"] == pytest.approx(6 * (1 + 6 * 2))
