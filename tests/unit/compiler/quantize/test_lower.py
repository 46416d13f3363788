"""The lowering by a plan: weights, classifier and neurons, and its refusals."""

from __future__ import annotations

import nir
import numpy as np
import pytest

from resformer.compiler.ir.ops import LIF, Conv2d, Dense, Output, Relay
from resformer.compiler.ir.primitives import constant
from resformer.compiler.passes.float.fold_input_gain import fold_input_gain
from resformer.errors import RangeError, UnsupportedError
from support.graphs import GraphBuilder, lif
from support.lowering import lower, quantize_folded, scale, two_layers
from support.programs import fold

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


# Refusals


def test_a_bias_beyond_24_bits_is_refused() -> None:
    with pytest.raises(RangeError, match=r"conv: a bias becomes 81920000, the limit .* 8388607; normalise"):
        lower(two_layers(1.0, bias=1e4), {"conv": 1.0})


def test_operations_without_an_integer_form_are_refused() -> None:
    build = GraphBuilder((1, 2, 2))
    conv = build.conv("conv", "input", np.ones((1, 1, 1, 1)))
    value = build.add("gain", nir.Scale(np.full((1, 2, 2), 0.3)), conv)
    build.head(build.lif("lif", value))
    with pytest.raises(UnsupportedError, match="gain: Scale has no integer form; the compiler lowers Conv2d, Linear"):
        lower(build.finish())
