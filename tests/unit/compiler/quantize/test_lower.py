"""The choices of quantization one at a time, and its refusals."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import pytest

from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.ops import LIF, Conv2d, Dense, Input, Output, Relay
from resformer.compiler.ir.primitives import Add, constant
from resformer.compiler.ir.program import Program
from resformer.compiler.passes.float.fold_input_gain import fold_input_gain
from resformer.compiler.quantize.lower import quantize
from resformer.compiler.quantize.plan import MEASURED_HEADROOM, QuantizationConfig, choose_plan
from resformer.errors import RangeError, UnsupportedError
from support.graphs import GraphBuilder, lif
from support.programs import fold


def two_layers(
    first: Any, second: Any = 1.0, *, bias: float = 0.0, tau_steps: float = 2.0, **facts: Any
) -> nir.NIRNode:
    """input - conv - lif - conv2 - lif2 - head, a 1x1 convolution of one input channel each; not folded."""
    build = GraphBuilder((1, 2, 2))
    weight = np.atleast_1d(np.asarray(first, dtype=np.float64)).reshape(-1, 1, 1, 1)
    spikes = build.lif("lif", build.conv("conv", "input", weight, np.full(len(weight), bias)), tau_steps=tau_steps)
    weight = np.atleast_1d(np.asarray(second, dtype=np.float64)).reshape(-1, 1, 1, 1)
    weight = np.repeat(weight, build.shape("lif")[0], axis=1)
    spikes = build.lif("lif2", build.conv("conv2", spikes, weight))
    build.head(spikes, weight=np.array([[0.5] * len(weight), [-0.25] * len(weight)]))
    return build.finish(**facts)


def lower(graph: Graph[nir.NIRNode], reach: dict[str, float] | None = None, **config: Any) -> Program:
    """The graph quantized with these magnitudes of its nodes' outputs, 1 for those not given."""
    folded = fold(graph)
    return quantize_folded(folded, reach, **config)


def quantize_folded(graph: Graph[nir.NIRNode], reach: dict[str, float] | None = None, **config: Any) -> Program:
    """Likewise, for a graph after all float passes."""
    ranges = dict.fromkeys(graph.by_name, 1.0) | (reach or {})
    return quantize(graph, choose_plan(graph, ranges, QuantizationConfig(**config), measured=False))


def scale(program: Program, name: str) -> int:
    return program[name].op.signal.scale_exp


# Scales


def test_without_other_bounds_a_scale_resolves_the_weights() -> None:
    """127 units for the largest weight: at k = 11, 1/16 is 128 units, of which the mantissa holds 127."""
    assert scale(lower(two_layers(1.0, 1 / 16)), "conv2") == 11
    assert scale(lower(two_layers(1.0, 127 / 2**11)), "conv2") == 11
    assert scale(lower(two_layers(1.0, 127 / 2**11), weight_bits=4), "conv2") == 10


def test_biases_and_thresholds_want_a_scale_of_2_to_the_10() -> None:
    assert scale(lower(two_layers(1.0, 2.0)), "conv2") == 10


def test_no_scale_is_finer_than_2_to_the_13() -> None:
    assert scale(lower(two_layers(1.0, 1e-3)), "conv2") == 13


def test_pixels_make_the_stem_s_scale_finer() -> None:
    """The weight counts in units of 2^-(k - 6)."""
    assert scale(lower(two_layers(1.0)), "conv") == 13
    assert scale(lower(two_layers(1.0), input_scale_exp=5), "conv") == 12
    assert scale(lower(two_layers(1.0), input_scale_exp=0), "conv") == 10


@pytest.mark.parametrize(("reach", "exp"), [(15.9, 13), (16.1, 12), (1000.0, 7), (1100.0, 6)])
def test_a_scale_keeps_the_current_within_a_neuron_s_input(reach: float, exp: int) -> None:
    program = lower(two_layers(1.0, 1e-3), {"conv2": reach})
    assert scale(program, "conv2") == exp
    assert reach * 2**exp <= 2**17 - 1 < reach * 2 ** (exp + 1) or exp == 13


def test_a_scale_lets_the_largest_weight_fit_its_exponent() -> None:
    """A single weight of 32: 127 * 2^7 units at most, so k = 8."""
    program = lower(two_layers(1.0, [32.0] + [0.01] * 15))
    assert scale(program, "conv2") == 8
    op = program["conv2"].op
    assert isinstance(op, Conv2d)
    assert op.weight_exp.tolist() == [7] + [0] * 15
    assert op.weight[0].reshape(-1).tolist() == [64]


def test_a_scale_lets_the_threshold_fit() -> None:
    """A threshold of 40, times 2: 1638 * 80 = 131040, within 17 bits; k = 10."""
    build = GraphBuilder((1, 2, 2))
    spikes = build.lif("lif", build.conv("conv", "input", np.full((1, 1, 1, 1), 1e-3)), v_threshold=40.0)
    build.head(spikes)
    program = lower(build.finish())
    assert scale(program, "conv") == 10
    op = program["lif"].op
    assert isinstance(op, LIF)
    assert op.vth == 80 * 2**10


def test_all_that_meet_in_sums_take_the_coarsest_bound() -> None:
    build = GraphBuilder((1, 4, 4))
    stream = build.conv("stem", "input", np.full((1, 1, 1, 1), 0.01))
    for index in range(3):
        spikes = build.lif(f"lif{index}", stream)
        conv = build.conv(f"conv{index}", spikes, np.full((1, 1, 1, 1), 0.01))
        stream = build.add(f"add{index}", Add(), conv, stream)
    build.head(build.lif("last", stream))
    program = lower(build.finish(), {"conv1": 100.0})
    assert {scale(program, name) for name in ("stem", "conv0", "conv1", "add1", "conv2", "add2")} == {10}


def test_measured_magnitudes_get_headroom() -> None:
    folded = fold(two_layers(1.0, 1e-3))
    ranges = dict.fromkeys(folded.by_name, 1.0) | {"conv2": 12.0}
    for measured, exp in ((False, 13), (True, 12)):
        program = quantize(folded, choose_plan(folded, ranges, QuantizationConfig(), measured=measured))
        assert scale(program, "conv2") == exp
    assert 12.0 * MEASURED_HEADROOM * 2**13 > 2**17


def test_channels_without_weights_ask_for_no_resolution() -> None:
    assert scale(lower(two_layers(1.0, [0.5] + [0.0] * 9)), "conv2") == 10
    assert scale(lower(two_layers(1.0, [0.5] + [0.001] * 9)), "conv2") == 13


def test_a_convolution_s_worst_sum_fits_half_its_accumulator() -> None:
    """Rounding can double a sum of small weights. 16 of 64 against pixels up to 4: 2^12; so k = 22 - 12."""
    weight = np.full((1, 1, 4, 4), 64.0)
    build = GraphBuilder((1, 8, 8))
    build.head(build.lif("lif", build.conv("conv", "input", weight)))
    for reach, exp in ((3.9, 9), (1.9, 10)):
        assert scale(lower(build.finish(), {"input": reach}), "conv") == exp


def test_counts_of_events_make_the_stem_s_scale_coarser() -> None:
    """Pixels of up to 256 against a weight of 60 would sum to 2^23 at k = 10."""
    program = lower(two_layers([60.0]), {"input": 1.0})
    assert scale(program, "conv") == 10
    program = lower(two_layers([60.0], input="frames"), {"input": 1.0})
    assert scale(program, "conv") == 8


# Weights


def test_channels_without_weights_are_zero_with_the_least_exponent() -> None:
    op = lower(two_layers(1.0, [0.5, 0.0]))["conv2"].op
    assert isinstance(op, Conv2d)
    assert op.weight.reshape(-1).tolist() == [64, 0]  # 0.5 at k = 10 is 512 units, and 127 * 4 is not enough
    assert op.weight_exp.tolist() == [3, 0]


def test_a_network_of_zeros_has_a_program() -> None:
    program = lower(two_layers(0.0, 0.0), dict.fromkeys(("conv", "conv2", "avgpool", "flatten", "classifier"), 0.0))
    for name in ("conv", "conv2"):
        op = program[name].op
        assert isinstance(op, Conv2d)
        assert not op.weight.any()


def test_one_exponent_a_layer_is_that_of_its_largest_weight() -> None:
    fine, coarse = (
        lower(two_layers(1.0, [4.0, 0.125]), per_channel=per_channel)["conv2"].op for per_channel in (True, False)
    )
    assert isinstance(fine, Conv2d)
    assert isinstance(coarse, Conv2d)
    assert fine.weight_exp.tolist() == [6, 1]
    assert coarse.weight_exp.tolist() == [6, 6]
    assert coarse.weight.reshape(-1).tolist() == [64, 2]


@pytest.mark.parametrize(
    ("bits", "weights"), [(2, [1, 1, 0, 0, -1]), (3, [3, 2, 1, 0, -3]), (8, [100, 50, 25, 0, -100])]
)
def test_widths_from_2_to_8_bits(bits: int, weights: list[int]) -> None:
    op = lower(two_layers(1.0, np.array([100, 50, 25, 0, -100]) / 1024), weight_bits=bits, per_channel=False)[
        "conv2"
    ].op
    assert isinstance(op, Conv2d)
    assert op.weight.reshape(-1).tolist() == weights


def test_ties_between_weights_go_to_the_even_one() -> None:
    op = lower(two_layers(1.0, np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5]) / 1024), per_channel=False)["conv2"].op
    assert isinstance(op, Conv2d)
    assert op.weight.reshape(-1).tolist() == [127, 0, 2, 2, 0, -2]


# The classifier


def test_the_classifier_has_a_scale_of_its_own() -> None:
    program = lower(two_layers(1.0))
    op = program["classifier"].op
    assert isinstance(op, Dense)
    assert (op.weight_exp, op.weight.tolist()) == (0, [[64], [-32]])
    assert scale(program, "classifier") - scale(program, "flatten") == 7


@pytest.mark.parametrize(("reach", "shift"), [(2.0**24, 0), (2.0**25, 1), (2.0**27, 3)])
def test_the_classifier_reads_coarser_values_where_its_sums_would_leave_its_accumulator(
    reach: float, shift: int
) -> None:
    program = lower(two_layers(1.0), {"flatten": reach * 0.99})
    assert scale(program, "classifier") - scale(program, "flatten") == 7  # all bits of the weights, whatever the shift
    assert scale(program, "avgpool") - scale(program, "flatten") == shift  # 2^24 * 0.5 * 2^7 is 2^30
    assert ("avgpool.relay" in program) == (shift > 0)
    if shift:
        op = program["avgpool.relay"].op
        assert isinstance(op, Relay)
        assert (op.shift, op.limit) == (shift, 2**23 - 1)


def test_the_pool_s_area_divides_the_logits() -> None:
    op = lower(two_layers(1.0))["output"].op
    assert isinstance(op, Output)
    assert op.divisor == 4


@pytest.mark.parametrize("factor", [0.3, 2.0, -0.25, 0.0])
def test_logits_times_anything_but_a_fraction_are_refused(factor: float) -> None:
    folded = fold(two_layers(1.0))
    edit = folded.edit()
    edit.set_op("classifier.scale", nir.Scale(np.full(2, factor)))
    with pytest.raises(
        UnsupportedError, match=rf"classifier.scale: multiplies the logits by {factor:g} .* whole number"
    ):
        quantize_folded(edit.finish())


# Neurons


@pytest.mark.parametrize(
    ("tau_steps", "dv", "vth"),
    [(2.0, 2048, 2 * 2**13), (3.0, 1365, 3 * 2**13), (1.6, 2560, 13107), (1.0, 4095, 2**13), (1 - 1e-7, 4095, 2**13)],
)
def test_leak_and_threshold_are_rounded_once_each(tau_steps: float, dv: int, vth: int) -> None:
    op = lower(two_layers(0.1, tau_steps=tau_steps))["lif"].op
    assert isinstance(op, LIF)
    assert (op.dv, op.vth, op.du) == (dv, vth, 4095)


def test_only_a_halving_leak_and_seven_steps_are_dyadic() -> None:
    assert lower(two_layers(1.0, tau_steps=2.0)).is_dyadic
    assert not lower(two_layers(1.0, tau_steps=2.1)).is_dyadic


@pytest.mark.parametrize("tau_steps", [0.9, 8192.0])
def test_a_leak_that_12_bits_cannot_hold_is_refused(tau_steps: float) -> None:
    with pytest.raises(UnsupportedError, match=rf"lif: tau is {tau_steps:.4g} steps; .* 12 bits .* train"):
        lower(two_layers(1.0, tau_steps=tau_steps), input_scale_exp=0)


def test_the_slowest_leak_loses_something() -> None:
    op = lower(two_layers(1.0, tau_steps=8000.0), input_scale_exp=0)["lif"].op
    assert isinstance(op, LIF)
    assert op.dv == 1


@pytest.mark.parametrize("parameter", ["v_leak", "v_reset"])
def test_neurons_that_rest_elsewhere_than_at_zero_are_refused(parameter: str) -> None:
    folded = fold(two_layers(1.0))
    edit = folded.edit()
    op = lif((1, 2, 2))
    setattr(op, parameter, constant(0.5, (1, 2, 2)))
    edit.set_op("lif", op)
    with pytest.raises(UnsupportedError, match="lif: v_leak and v_reset must be 0"):
        quantize_folded(fold_input_gain(edit.finish()))


def test_thresholds_that_vary_within_a_population_are_refused() -> None:
    folded = fold(two_layers(1.0))
    edit = folded.edit()
    op = lif((1, 2, 2))
    op.v_threshold = np.arange(1.0, 5.0).reshape(1, 2, 2)
    edit.set_op("lif", op)
    with pytest.raises(UnsupportedError, match="lif: v_threshold varies from 2 to 8 within"):
        quantize_folded(fold_input_gain(edit.finish()))


def test_quantizing_before_the_gain_is_folded_is_our_mistake() -> None:
    graph = two_layers(1.0)
    with pytest.raises(AssertionError, match="lif: fold_input_gain has not run"):
        quantize_folded(graph)


# Input


def test_images_count_in_64ths_and_frames_in_events() -> None:
    for kind, exp, high in (("static", 6, 64), ("frames", 0, 256)):
        program = lower(two_layers(1.0, input=kind))
        op = program.input.op
        assert isinstance(op, Input)
        assert (op.signal.scale_exp, op.signal.low, op.signal.high) == (exp, -high, high)
        assert program.metadata["input"] == kind


@pytest.mark.parametrize(
    ("weight", "reach", "exp"),
    [(1.0, 31.0, 6), (1 / 4, 31.0, 5), (1 / 16, 31.0, 4), (1 / 16, 500.0, 2), (1e-3, 1e3, 0)],
)
def test_pixels_are_as_coarse_as_the_weights_that_they_meet(weight: float, reach: float, exp: int) -> None:
    """At k = 12, a weight's step is 2^exp / 2^12: with exp = 5, it is 1/32 of a weight of 1/4, and so is a pixel's."""
    program = lower(two_layers(weight), {"conv": reach})
    assert scale(program, "input") == exp
    assert scale(lower(two_layers(weight), {"conv": reach}, input_scale_exp=6), "input") == 6


@pytest.mark.parametrize(("reach", "high"), [(1.0, 64), (1.01, 128), (2.64, 256), (0.0, 1)])
def test_the_input_s_range_is_the_next_power_of_two(reach: float, high: int) -> None:
    assert lower(two_layers(1.0), {"input": reach}).input.op.signal.high == high


def test_inputs_beyond_24_bits_are_refused() -> None:
    with pytest.raises(RangeError, match=r"input: values up to 2e\+05 become 16777216 .* 8388607; lower --input-scale"):
        lower(two_layers(1.0), {"input": 2e5})


# Refusals


@pytest.mark.parametrize("bits", [1, 16, 0, -3])
def test_widths_that_no_synapse_stores_are_refused(bits: int) -> None:
    with pytest.raises(RangeError, match=rf"weight bits: {bits} is outside 2 to 15"):
        QuantizationConfig(weight_bits=bits)


@pytest.mark.parametrize("exp", [-1, 14, 1000])
def test_input_scales_that_no_program_needs_are_refused(exp: int) -> None:
    with pytest.raises(RangeError, match=rf"input scale: 2\^{exp} is outside 2\^0 to 2\^13"):
        QuantizationConfig(input_scale_exp=exp)


def test_currents_too_large_for_any_scale_are_refused_and_the_largest_named() -> None:
    with pytest.raises(RangeError, match=r"conv: no scale fits its currents: conv reaches 1e\+06, which leaves 2\^-3"):
        lower(two_layers(1.0), {"conv": 1e6})
    with pytest.raises(RangeError, match=r"conv2: no scale fits its currents: conv2 has a weight of 1e\+05"):
        lower(two_layers(1.0, 1e5))


def test_pixels_are_as_fine_as_there_is_a_scale_for() -> None:
    reach = {"conv": 5e3}  # which leaves 2^4
    program = lower(two_layers(1.0), reach)
    assert 0 < scale(program, "input") <= scale(program, "conv") == 4
    with pytest.raises(RangeError, match="no scale fits its currents: conv reaches 5000, which leaves 2\\^4"):
        lower(two_layers(1.0), reach, input_scale_exp=5)


@pytest.mark.parametrize("weight", [1e6, 1e60, 1e300])
def test_a_classifier_s_weight_too_large_for_its_exponent_is_refused(weight: float) -> None:
    folded = fold(two_layers(1.0))
    edit = folded.edit()
    edit.set_op("classifier", nir.Linear(np.array([[weight], [1.0]])))
    with pytest.raises(RangeError, match=r"classifier: a weight needs exponent \d+, Loihi's limit is 7; normalise"):
        quantize_folded(edit.finish())


def test_a_bias_beyond_24_bits_is_refused() -> None:
    with pytest.raises(RangeError, match=r"conv: a bias becomes 81920000, the limit .* 8388607; normalise"):
        lower(two_layers(1.0, bias=1e4), {"conv": 1.0})


def test_a_convolution_of_a_current_is_refused() -> None:
    build = GraphBuilder((1, 2, 2))
    one = np.ones((1, 1, 1, 1))
    build.head(build.lif("lif", build.conv("second", build.conv("first", "input", one), one)))
    with pytest.raises(UnsupportedError, match=r"second: reads first \(Conv2d\), a current; .* put neurons between"):
        lower(build.finish())


def test_neurons_and_sums_of_currents_read_currents_alone() -> None:
    build = GraphBuilder((1, 2, 2))
    build.head(build.lif("lif", build.pool("pool", "input", 2, 2, 0)))
    with pytest.raises(UnsupportedError, match="lif: reads pool, which is no current; only what convolutions make"):
        lower(build.finish())
    build = GraphBuilder((1, 2, 2))
    conv = build.conv("conv", "input", np.ones((1, 1, 1, 1)))
    build.head(build.lif("lif", build.add("add", Add(), conv, "input")))
    with pytest.raises(UnsupportedError, match="add: reads input, which is no current; only what convolutions make"):
        lower(build.finish())


def test_operations_without_an_integer_form_are_refused() -> None:
    build = GraphBuilder((1, 2, 2))
    conv = build.conv("conv", "input", np.ones((1, 1, 1, 1)))
    value = build.add("gain", nir.Scale(np.full((1, 2, 2), 0.3)), conv)
    build.head(build.lif("lif", value))
    with pytest.raises(UnsupportedError, match="gain: Scale has no integer form; the compiler lowers Conv2d, Linear"):
        lower(build.finish())
