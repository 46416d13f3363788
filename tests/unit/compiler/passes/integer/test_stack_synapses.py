"""Weights of more than eight bits as two synapses each: no bit is lost, and everything else sees one layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from resformer.compiler.ir import reference
from resformer.compiler.ir.ops import Add, Conv2d, Flatten
from resformer.compiler.ir.program import Program, layer_names, layer_weight, real_weight
from resformer.compiler.ir.signal import SPIKE
from resformer.compiler.ir.storage import mantissa_max, split_mantissas
from resformer.compiler.ir.verify import verify_program
from resformer.compiler.passes.integer.bound_ranges import bound_ranges
from resformer.compiler.passes.integer.place_biases import place_biases
from resformer.compiler.passes.integer.stack_synapses import stack_synapses
from resformer.compiler.quantize.choose import QuantizationConfig, choose_plan
from resformer.compiler.quantize.lower import quantize
from resformer.compiler.quantize.plan import LayerPlan
from resformer.compiler.quantize.ranges import estimated_ranges
from resformer.compiler.target import LOIHI
from resformer.errors import FileFormatError, InputError, RangeError, UnsupportedError
from support.graphs import GraphBuilder
from support.programs import ProgramByHand, fold, lower

RNG = np.random.default_rng(4)
LARGEST = 2 ** (LOIHI.stacked_bits_max - 1) - 1


def wide(weight: Any, exp: int = 0) -> Program:
    """One convolution, named conv, of mantissas of 16 bits."""
    build = ProgramByHand((1, 4, 4), low=-8, high=8)
    build.conv("conv", "input", np.zeros_like(weight, dtype=np.int8), [5, -7], exp=exp, padding=1)
    build.lif("lif", "conv", 300)
    build.add("flatten", Flatten(SPIKE), "lif")
    build.output(build.dense("dense", "flatten", np.ones((2, 32))))
    program = build.finish()
    edit = program.edit()
    op: Any = program["conv"].op
    edit.set_op("conv", replace(op, weight=np.asarray(weight, dtype=np.int16)))
    return edit.finish()


def random_weight(largest: int) -> np.ndarray[Any, Any]:
    return RNG.integers(-largest, largest, (2, 1, 3, 3), endpoint=True)


@pytest.mark.parametrize("bits", range(2, LOIHI.stacked_bits_max + 1))
def test_every_mantissa_is_the_sum_of_its_parts(bits: int) -> None:
    largest = mantissa_max(bits)
    mantissas = np.arange(-largest, largest + 1).astype(np.int16)
    high, low, shift = split_mantissas(mantissas)
    assert shift == (bits - LOIHI.weight_bits_max if bits > 9 else 0)
    assert high.dtype == low.dtype == np.int8
    assert max(np.abs(high.astype(int)).max(), np.abs(low.astype(int)).max()) <= 127
    np.testing.assert_array_equal(high.astype(int) * 2**shift + low, mantissas)
    assert (high.astype(int) * low >= 0).all(), "of one sign"


def test_nine_bits_are_second_synapses_for_what_one_cannot_hold() -> None:
    weight = random_weight(127)
    weight[0, 0, 0, :2] = 128, -254
    stacked = stack_synapses(wide(weight))
    high, low = (stacked[name].op for name in stacked["conv"].inputs)
    assert isinstance(high, Conv2d)
    assert isinstance(low, Conv2d)
    assert (high.weight_exp == low.weight_exp).all()
    assert np.argwhere(high.weight).tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]
    assert high.weight[0, 0, 0, :2].tolist() == [1, -127]


@given(arrays.arrays(np.int16, (2, 1, 3, 3), elements=st.integers(-LARGEST, LARGEST)))
def test_a_stack_has_the_layer_s_weight(weight: np.ndarray[Any, Any]) -> None:
    program = wide(weight)
    stacked = stack_synapses(program)
    verify_program(stacked)
    np.testing.assert_array_equal(layer_weight(stacked, "conv"), weight)
    np.testing.assert_array_equal(real_weight(stacked, "conv"), real_weight(program, "conv"))
    assert all(node.op.weight.dtype == np.int8 for node in stacked if isinstance(node.op, Conv2d))


def test_the_sum_keeps_the_name_and_makes_the_same_current() -> None:
    program = wide(random_weight(2047), exp=3)
    stacked = stack_synapses(program)
    assert [node.name for node in stacked] == [
        "input",
        "conv.hi",
        "conv.lo",
        "conv",
        "lif",
        "flatten",
        "dense",
        "output",
    ]
    assert isinstance(stacked["conv"].op, Add)
    assert layer_names(stacked) == layer_names(program) == ("conv", "dense")
    high, low = (stacked[name].op for name in stacked["conv"].inputs)
    assert isinstance(high, Conv2d)
    assert isinstance(low, Conv2d)
    assert (high.weight_exp == 7).all()
    assert (low.weight_exp == 3).all()
    samples = RNG.integers(-1, 2, (3, 1, 4, 4)).astype(np.int32)
    traces = [reference.run(each, samples, record=True) for each in (program, stacked)]
    assert traces[0].spikes["lif"].mismatches(traces[1].spikes["lif"]) == 0
    assert 0 < traces[0].spikes["lif"].count < traces[0].spikes["lif"].size


def test_range_analysis_proves_as_much_of_a_stack() -> None:
    program = wide(random_weight(LARGEST))
    bounds = [bound_ranges(place_biases(each))["conv"].op.signal for each in (program, stack_synapses(program))]
    assert bounds[0] == bounds[1]
    assert bounds[0].low is not None


def test_what_a_stack_reads_is_bounded_for_both_parts_together() -> None:
    build = ProgramByHand((1, 2, 2))
    build.conv("wide", build.conv("conv", "input", [[[[127]]]], exp=7), [[[[1]]]], exp=3)
    build.output(
        build.dense("dense", build.add("flatten", Flatten(SPIKE), build.lif("lif", "wide", 9)), np.ones((1, 4)))
    )
    program = build.finish()
    edit = program.edit()
    op: Any = program["wide"].op
    edit.set_op("wide", replace(op, weight=np.full((1, 1, 1, 1), 2047, dtype=np.int16)))
    bounded = bound_ranges(place_biases(stack_synapses(edit.finish())))
    relay: Any = bounded["conv.relay"].op
    assert relay.limit == LOIHI.accumulator_max // (2047 * 8)


def test_what_fits_one_synapse_stays_one() -> None:
    stacked = stack_synapses(wide(random_weight(127)))
    assert [node.name for node in stacked] == ["input", "conv", "lif", "flatten", "dense", "output"]
    verify_program(stacked)


def test_a_name_that_is_taken_is_refused() -> None:
    build = ProgramByHand((1, 4, 4))
    build.conv("conv.hi", build.conv("conv", "input", np.ones((1, 1, 1, 1))), np.ones((1, 1, 1, 1)))
    build.output("conv.hi")
    program = build.finish()
    edit = program.edit()
    op: Any = program["conv"].op
    edit.set_op("conv", replace(op, weight=np.full((1, 1, 1, 1), 999, dtype=np.int16)))
    with pytest.raises(UnsupportedError, match=r"conv\.hi: is the name of a part of conv, .* rename the layer"):
        stack_synapses(edit.finish())


def test_a_schedule_has_no_wide_mantissas() -> None:
    program = wide(random_weight(2047))
    verify_program(program)
    steps = {"input": 0, "conv": 1, "lif": 1, "flatten": 1, "dense": 2, "output": 2}
    with pytest.raises(AssertionError, match=r"conv: weight is int16 .* stack_synapses has not run"):
        verify_program(replace(program, offsets=steps))


def network() -> Any:
    """Two convolutions between neurons, and a classifier."""
    build = GraphBuilder((3, 8, 8))
    spikes = build.lif("lif", build.conv("conv", "input", RNG.normal(size=(8, 3, 3, 3)) / 5, padding=1))
    build.head(build.lif("lif2", build.conv("conv2", spikes, RNG.normal(size=(8, 8, 3, 3)) / 9)))
    return fold(build.finish())


def test_more_bits_lose_less() -> None:
    graph = network()
    errors = []
    for bits in (8, 10, 12):
        lowered = lower(graph, weight_bits=bits)
        errors.append(float(np.abs(real_weight(lowered.program, "conv2") - graph["conv2"].op.weight).max()))
        kinds = {node.name for node in lowered.program if isinstance(node.op, Add)}
        assert ("conv2" in kinds) == (bits > 8)
    assert errors[2] < errors[1] / 3 < errors[0] / 9


def test_one_layer_s_width() -> None:
    graph = network()
    program = lower(graph, layer_bits={"conv2": 11}).program
    assert [node.name for node in program if isinstance(node.op, Add)] == ["conv2"]


def test_only_convolutions_are_stacked() -> None:
    graph = network()
    classifier = next(node.name for node in graph if type(node.op).__name__ == "Linear")
    plan = choose_plan(graph, estimated_ranges(graph), QuantizationConfig(12), measured=False)
    assert plan.layers[classifier].bits == 8
    assert plan.layers["conv2"].bits == 12
    with pytest.raises(RangeError, match=rf"{classifier}: 9 bits, the limit is 8, for only convolutions"):
        lower(graph, layer_bits={classifier: 9})
    wrong = replace(plan, layers={**plan.layers, classifier: LayerPlan(9, (0,))})
    with pytest.raises(FileFormatError, match=rf"{classifier}: .* 9 bits"):
        quantize(graph, wrong)
    wrong = replace(plan, layers={**plan.layers, "conv2": LayerPlan(12, (4,) * 8)})
    with pytest.raises(FileFormatError, match=r"conv2: .* weight exponent 4, where 0 to 3 would do"):
        quantize(graph, wrong)


def test_widths_of_unknown_layers_are_refused() -> None:
    with pytest.raises(InputError, match=r"layer bits: conv3: no layer with weights has that name; there are conv, "):
        lower(network(), layer_bits={"conv3": 9, "conv": 4})
