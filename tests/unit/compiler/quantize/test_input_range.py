"""The input's scale and range, chosen from samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resformer.compiler.ir.graph import Graph
from resformer.compiler.quantize.choose import QuantizationConfig, choose_plan
from resformer.compiler.quantize.input_range import InputData, describe_input, example_ranges, input_data
from resformer.compiler.quantize.plan import QuantizationPlan
from resformer.compiler.quantize.ranges import estimated_ranges, measured_ranges, pixel_deviation
from resformer.errors import InputError, RangeError
from support.graphs import GraphBuilder
from support.lowering import fold

ESTIMATED = 4.0


def network(kind: str, weight: float = 0.3) -> Graph[Any]:
    """Vectors of four into eight neurons."""
    build = GraphBuilder((4, 1, 1))
    weights = np.random.default_rng(0).normal(0, weight, (8, 4, 1, 1))
    build.head(build.lif("lif", build.conv("conv", "input", weights)))
    return fold(build.finish(input=kind))


def calibrated(kind: str, samples: Any, **config: Any) -> QuantizationPlan:
    graph = network(kind)
    seen = input_data(samples, "samples")
    ranges = measured_ranges(graph, samples)
    return choose_plan(graph, ranges, QuantizationConfig(**config), measured=True, seen=seen)


def reach(plan: QuantizationPlan) -> float:
    """The largest real input that is not clipped."""
    return float(plan.input_high * 2.0 ** -plan.scale_exps["input"])


def vectors(high: float) -> Any:
    return np.random.default_rng(1).random((50, 4, 1, 1)) * high


def test_what_samples_say() -> None:
    assert input_data(np.array([[[[-3.0]]], [[[2.0]]]]), "x") == InputData(3.0, True, "x")
    assert input_data(np.array([[[[-3.0]]], [[[2.5]]]]), "x") == InputData(3.0, False, "x")


def test_whole_counts_have_steps_of_one_and_a_range_that_holds_them() -> None:
    for largest, high in ((3.0, 256), (200.0, 512), (1000.0, 2048)):
        plan = calibrated("frames", np.round(vectors(1) * largest))
        assert plan.scale_exps["input"] == 0
        assert plan.input_high == high


def test_fractional_frames_have_the_scale_of_pixels() -> None:
    for largest in (0.9, 3.0, 60.0):
        samples = vectors(largest)
        frames, images = (calibrated(kind, samples) for kind in ("frames", "static"))
        assert frames.scale_exps["input"] == images.scale_exps["input"] > 0
        assert reach(frames) >= samples.max()
    assert calibrated("frames", samples, input_scale_exp=0).scale_exps["input"] == 0


def test_smaller_pixels_have_finer_steps_and_larger_ones_coarser() -> None:
    exps = [calibrated("static", vectors(high)).scale_exps["input"] for high in (1 / 64, 1 / 8, 1, 3.9, 64, 1024)]
    assert exps == sorted(exps, reverse=True)
    assert exps[0] > exps[1] > 6 >= exps[2] == exps[3] > exps[4] > exps[5] == 0
    assert [pixel_deviation(each) for each in (0, 1 / 8, 0.9, 1, 4, 8)] == [1, 1 / 8, 1, 1, 1, 2]


def test_a_range_that_is_said() -> None:
    graph = network("static")
    for said, high in ((1.0, 1), (0.1, 0.125), (100.0, 128)):
        config = QuantizationConfig(input_range=said)
        plan = choose_plan(graph, estimated_ranges(graph, said), config, measured=False)
        assert reach(plan) == high
    usual = estimated_ranges(graph)["conv"]
    for said, ratio in ((0.125, 1 / 8), (1.0, 1.0), (ESTIMATED, 1.0), (16.0, 4.0)):
        assert estimated_ranges(graph, said)["conv"] == pytest.approx(ratio * usual, rel=1e-12)
    assert reach(calibrated("frames", np.round(vectors(3)), input_range=2.0)) == 2
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(RangeError, match="input range"):
            QuantizationConfig(input_range=wrong)


@pytest.mark.parametrize("said", [1e9, 1e200, 1e300])
def test_a_range_that_no_scale_holds_is_refused(said: float) -> None:
    with pytest.raises(RangeError, match=r"input: values up to 1e\+\d+, the limit of a 24-bit value is 8388607; norm"):
        estimated_ranges(network("static"), said)
    with pytest.raises(RangeError, match=r"input: values up to 1e\+\d+, the limit"):
        calibrated("static", vectors(1.0), input_range=said)


@pytest.mark.parametrize("kind", ["frames", "static"])
def test_samples_of_zeros_alone_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match="calibration: all values of all samples are 0"):
        calibrated(kind, vectors(0.0))


@pytest.mark.parametrize("high", [0.0, 0.01, 1.0, 5.0, 300.0])
def test_an_example_s_values_and_currents_fit(high: float) -> None:
    graph, samples = network("static"), vectors(high)
    ranges, measured, estimated = (
        example_ranges(graph, samples),
        measured_ranges(graph, samples),
        estimated_ranges(graph),
    )
    plan = choose_plan(graph, ranges, QuantizationConfig(), measured=False, seen=input_data(samples, "x"))
    assert reach(plan) >= samples.max()
    assert ranges["conv"] >= 1.5 * measured["conv"]
    if high in (0.0, 1.0):
        assert ranges == estimated, "as without an example"
    if high > ESTIMATED:
        assert ranges["conv"] > estimated["conv"]


def test_the_range_in_words() -> None:
    graph = network("frames")
    counts = choose_plan(graph, estimated_ranges(graph), QuantizationConfig(), measured=False)
    assert describe_input(graph, counts, "!") == "input: frames of events from -256 to 256, rounded to whole numbers!"
    graph = network("static")
    pixels = choose_plan(graph, estimated_ranges(graph), QuantizationConfig(input_scale_exp=5), measured=False)
    assert describe_input(graph, pixels, "") == "input: real numbers from -4 to 4, in steps of 2^-5"
