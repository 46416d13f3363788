"""The choices of a plan one at a time, and what no plan fits."""

from __future__ import annotations

import nir
import numpy as np
import pytest

from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.ops import LIF, Conv2d, Input
from resformer.compiler.ir.primitives import Add
from resformer.compiler.quantize.choose import QuantizationConfig, choose_plan
from resformer.compiler.quantize.lower import quantize
from resformer.compiler.quantize.plan import QuantizationPlan
from resformer.compiler.quantize.ranges import MEASURED_HEADROOM
from resformer.errors import RangeError, UnsupportedError
from support.graphs import GraphBuilder
from support.lowering import lower, quantize_folded, scale, two_layers
from support.programs import fold

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


@pytest.mark.parametrize("weight", [0.0, 255.0, 2000.0])
def test_a_current_is_no_coarser_than_the_pixels_it_is_made_of(weight: float) -> None:
    """Weights of zero want no scale, and weights beyond 254 one that is coarser than their input's."""
    program = lower(two_layers(weight), {"conv": 1.0}, input_scale_exp=11)
    assert scale(program, "conv") == 11


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


def test_a_layer_that_reads_sums_of_spikes_has_room_for_them() -> None:
    """Sixteen spikes arrive where one would otherwise: the scale leaves four bits."""
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


@pytest.mark.parametrize("weight", [1e6, 1e60, 1e300])
def test_a_classifier_s_weight_too_large_for_its_exponent_is_refused(weight: float) -> None:
    folded = fold(two_layers(1.0))
    edit = folded.edit()
    edit.set_op("classifier", nir.Linear(np.array([[weight], [1.0]])))
    with pytest.raises(RangeError, match=r"classifier: a weight needs exponent \d+, Loihi's limit is 7; normalise"):
        quantize_folded(edit.finish())


def choose(graph: Graph[nir.NIRNode], *, measured: bool = False) -> QuantizationPlan:
    """The plan for a graph in which no value exceeds one."""
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
    """Of a hundred channels with weights, the ninetieth largest fills its mantissa; the last ten may be coarser."""
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
