"""Interval analysis by hand: bounds, relays, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from resformer.compiler.ir import ops, reference
from resformer.compiler.ir.ops import Op, Relay, SpikeMatMul
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import SPIKE, Signal, SignalKind
from resformer.compiler.passes.integer.bound_ranges import bound_ranges
from resformer.errors import RangeError
from support.networks import with_input_range
from support.program_builder import ProgramBuilder
from support.programs import CURRENT, GRADED, ProgramByHand

A_MAX, GRADED_MAX, ACCUMULATOR_MAX, DENSE_MAX = 2**17 - 1, 2**23 - 1, 2**23 - 1, 2**30 - 1

ONE = np.ones((1, 1, 1, 1))


def bounds(program: Program, name: str) -> tuple[int | None, int | None]:
    return program[name].op.signal.low, program[name].op.signal.high


def relays(program: Program) -> dict[str, int]:
    return {node.name: node.op.limit for node in program if isinstance(node.op, Relay)}


def head(build: ProgramByHand, source: str, weight: Any = ((1,),), *, exp: int = 0) -> Program:
    value = build.add("flatten", ops.Flatten(Signal(build.nodes[source].op.signal.kind, 0)), source)
    build.output(build.dense("classifier", value, weight, exp=exp))
    return build.finish()


def test_weights_take_each_bound_by_their_sign() -> None:
    build = ProgramByHand((2, 1, 1), low=-3, high=10)
    conv = build.conv("conv", "input", np.array([[1, -2], [4, 5]]).reshape(2, 2, 1, 1), exp=[0, 1])
    program = bound_ranges(head(build, build.lif("lif", conv, 5), [[7, -1]]))
    # channel 0: from -3 - 20 to 10 + 6; channel 1: from -24 - 30 to 80 + 100
    assert bounds(program, "conv") == (-54, 180)
    assert bounds(program, "classifier") == bounds(program, "output") == (-1, 7)
    assert program["lif"].op.signal == SPIKE


def test_padding_counts_as_an_input_of_zero() -> None:
    """Even where no input can be zero, such as pixels from 5 to 9."""
    build = ProgramByHand((1, 1, 1), low=5, high=9)
    program = bound_ranges(
        head(build, build.lif("lif", build.conv("conv", "input", np.full((1, 1, 3, 3), -1), padding=1), 5))
    )
    assert bounds(program, "conv") == (-81, 0)


def test_a_relay_s_bias_does_not_keep_zero_away() -> None:
    """The relay sends 100 to 101, but the padding of the kernel behind it is zero all the same."""
    build = ProgramByHand((1, 1, 1), low=0, high=0)
    spikes = build.lif("spikes", build.conv("stem", "input", 0 * ONE), 1)
    relay = Relay(Signal(GRADED, 0), np.array([100], dtype=np.int32), 1000)
    build.add("relay", relay, build.conv("conv", spikes, ONE))
    kernel = build.conv("kernel", "relay", np.full((1, 1, 3, 3), -1), padding=1)
    program = bound_ranges(head(build, build.lif("lif", kernel, 5)))
    assert bounds(program, "relay") == (0, 101)
    assert bounds(program, "kernel") == (-909, 0)


def test_groups_take_the_bounds_of_their_own_channels() -> None:
    build = ProgramByHand((2, 1, 1), low=0, high=1)
    first = build.conv("first", "input", np.array([100, -1]).reshape(2, 1, 1, 1), groups=2)
    build.add("relay", Relay(Signal(GRADED, 0), np.zeros(2, dtype=np.int32), 1000), first)
    second = build.conv("second", "relay", np.array([1, 1]).reshape(2, 1, 1, 1), groups=2)
    program = bound_ranges(head(build, build.lif("lif", second, 5), [[1, 1]]))
    assert bounds(program, "second") == (-1, 100)


def test_sums_pools_and_reshaping_add_up() -> None:
    build = ProgramByHand((1, 2, 2), low=-2, high=3)
    conv = build.conv("conv", "input", 10 * ONE)
    build.lif("lif", build.add("max", ops.MaxPool2d(Signal(GRADED, 0), (2, 2), (1, 1), (1, 1)), conv), 9)
    spikes = build.conv("conv2", "lif", ONE)
    total = build.sum("sum", spikes, spikes, spikes)
    pool = build.add("pool", ops.SumPool2d(Signal(CURRENT, 0), (3, 3), (1, 1)), total)
    program = bound_ranges(head(build, pool))
    assert bounds(program, "max") == bounds(program, "conv") == (-20, 30)
    assert bounds(program, "sum") == (0, 3)
    assert bounds(program, "pool") == (0, 27)
    assert bounds(program, "flatten") == (0, 27)


def test_a_sum_pool_adds_a_value_for_each_place_of_its_window() -> None:
    """Two rows and five columns: ten values from -30 to 70."""
    build = ProgramByHand((1, 2, 5), low=-3, high=7)
    relay = Relay(Signal(GRADED, 0), np.zeros(1, dtype=np.int32), 1000)
    conv = build.add("relay", relay, build.conv("conv", "input", 10 * ONE))
    pool = build.add("pool", ops.SumPool2d(Signal(CURRENT, 0), (2, 5), (2, 5)), conv)
    program = bound_ranges(head(build, pool))
    assert bounds(program, "pool") == (-300, 700)


@pytest.mark.parametrize(("transpose", "expected"), [(True, (-11 + 0, 9 + 11)), (False, (4 * -11, 4 * 11))])
def test_products_sum_channels_or_positions(transpose: bool, expected: tuple[int, int]) -> None:
    """With its bias, y is from -11 to 9 in channel 0 and from 9 to 11 in channel 1, where no spike means zero."""
    build = ProgramByHand((2, 2, 2), low=0, high=0)
    x = build.lif("x", build.conv("stem", "input", np.zeros((2, 2, 1, 1))), 1)
    weight = np.zeros((2, 2, 1, 1))
    weight[0] = [[[10]], [[-10]]]
    weight[1] = [[[1]], [[-1]]]
    y = build.conv("y", x, weight)
    bias = np.array([-1, 10], dtype=np.int32)
    gates = x
    if not transpose:
        first = SpikeMatMul(Signal(CURRENT, 0), 1, True, np.zeros(2, dtype=np.int32), A_MAX)
        gates = build.lif("attention", build.add("first", first, y, x), 1)
    product = SpikeMatMul(Signal(CURRENT, 0), 1, transpose, bias, A_MAX)
    build.add("product", product, y, gates, shape=None if transpose else (2, 2, 2))
    lif = build.lif("lif", "product", 1)
    count = int(np.prod(build.nodes[lif].shape))
    program = bound_ranges(head(build, lif, np.ones((1, count))))
    assert bounds(program, "product") == expected


def test_products_saturate_and_say_so() -> None:
    build = ProgramByHand((2, 2, 2), low=0, high=0)
    x = build.lif("x", build.conv("stem", "input", np.zeros((2, 2, 1, 1))), 1)
    y = build.conv("y", x, np.full((2, 2, 1, 1), 127), exp=7)
    product = SpikeMatMul(Signal(CURRENT, 0), 1, True, np.zeros(2, dtype=np.int32), 20000)
    lif = build.lif("lif", build.add("product", product, y, x), 1)
    program = bound_ranges(head(build, lif, np.ones((1, 16))))
    assert bounds(program, "product") == (0, 20000)
    assert relays(program) == {}


# Relays


def wide(weights: int, *, exp: int = 7) -> tuple[ProgramByHand, str]:
    """A current of up to ``weights`` times 127 * 2^``exp``."""
    build = ProgramByHand((weights, 1, 1), low=0, high=0)
    spikes = build.lif("spikes", build.conv("stem", "input", np.zeros((weights, weights, 1, 1))), 1)
    return build, build.conv("conv", spikes, np.full((1, weights, 1, 1), 127), exp=exp)


@pytest.mark.parametrize(("weights", "relayed"), [(8, False), (9, True)])
def test_a_current_beyond_17_bits_gets_a_relay_before_its_neurons(weights: int, relayed: bool) -> None:
    build, conv = wide(weights)
    program = bound_ranges(head(build, build.lif("lif", conv, 5)))
    assert bounds(program, "conv") == (0, weights * 127 * 128)
    assert relays(program) == ({"conv.relay": A_MAX} if relayed else {})
    assert program["lif"].inputs == ("conv.relay" if relayed else "conv",)
    if relayed:
        assert bounds(program, "conv.relay") == (0, A_MAX)
        assert program["conv.relay"].op.signal.kind is SignalKind.GRADED


def test_a_relay_serves_all_readers_so_a_stream_saturates_once() -> None:
    build, conv = wide(9)
    build.lif("first", conv, 5)
    total = build.sum("sum", build.conv("conv2", "first", ONE), conv)
    program = bound_ranges(head(build, build.lif("last", total, 5)))
    assert relays(program) == {"conv.relay": A_MAX, "sum.relay": A_MAX}
    assert program["sum"].inputs == ("conv2", "conv.relay")
    assert bounds(program, "sum") == (0, A_MAX + 1)


def test_a_max_pool_gets_a_relay_behind_it() -> None:
    build, conv = wide(9)
    pool = build.add("pool", ops.MaxPool2d(Signal(GRADED, 0), (1, 1), (1, 1), (0, 0)), conv)
    program = bound_ranges(head(build, build.lif("lif", pool, 5)))
    assert relays(program) == {"pool.relay": A_MAX}


def test_a_relay_that_is_there_already_is_tightened() -> None:
    build, conv = wide(9)
    relay = build.add("relay", Relay(Signal(GRADED, 0), np.array([-100], dtype=np.int32), GRADED_MAX), conv)
    program = bound_ranges(head(build, build.lif("lif", relay, 5)))
    assert relays(program) == {"relay": A_MAX}
    assert bounds(program, "relay") == (-100, A_MAX)


def test_bounds_of_a_relay_that_shifts() -> None:
    build, conv = wide(9)
    op = Relay(Signal(GRADED, -4), np.array([-100], dtype=np.int32), GRADED_MAX, shift=4)
    value = build.add("flatten", ops.Flatten(Signal(GRADED, -4)), build.add("relay", op, conv))
    build.output(build.dense("classifier", value, np.ones((1, build.nodes[value].shape[0]))))
    program = bound_ranges(build.finish())
    assert bounds(program, conv) == (0, 146304)
    assert relays(program) == {"relay": GRADED_MAX}
    assert bounds(program, "relay") == (-6, 9138)  # sixteenths of -100 and of 146204: -6.25 and 9137.75


def test_synapses_read_currents_through_a_relay() -> None:
    """A pool and a classifier behind a sum, as at the network's end; reshaping is no process of its own."""
    build = ProgramByHand((1, 2, 2), low=0, high=0)
    conv = build.conv("conv", build.lif("lif", build.conv("stem", "input", ONE), 1), 5 * ONE)
    pool = build.add("pool", ops.SumPool2d(Signal(CURRENT, 0), (2, 2), (1, 1)), conv)
    program = bound_ranges(head(build, pool))
    assert relays(program) == {"conv.relay": ACCUMULATOR_MAX // 4, "pool.relay": GRADED_MAX}
    assert program["flatten"].inputs == ("pool.relay",)
    assert program["flatten"].op.signal.kind is SignalKind.GRADED


def test_a_relay_keeps_the_classifier_s_sums_in_their_accumulator() -> None:
    build, conv = wide(9)
    program = bound_ranges(head(build, conv, [[127], [-127]], exp=7))
    limit = DENSE_MAX // (127 * 128)
    assert relays(program) == {"conv.relay": limit}
    assert bounds(program, "classifier") == (-limit * 127 * 128, limit * 127 * 128)


def test_saturation_holds_the_bounds_at_run_time() -> None:
    build, conv = wide(9)
    program = bound_ranges(head(build, build.lif("lif", conv, 5)))
    spikes = np.ones((2, 1, 9, 1, 1), dtype=np.int64)
    trace = reference.run(program, np.zeros((1, 9, 1, 1), dtype=np.int32), record=True, overrides={"spikes": spikes})
    assert trace.saturated["conv.relay"] == 2
    assert trace.graded["conv.relay"].reshape(-1).tolist() == [A_MAX, A_MAX]


# Refusals


def test_a_convolution_beyond_its_accumulator_is_refused() -> None:
    build = ProgramByHand((1, 1, 1), low=-600, high=600)
    program = head(build, build.lif("lif", build.conv("prologue.0", "input", 127 * ONE, exp=7), 5))
    with pytest.raises(RangeError, match=r"prologue.0: its sums may reach 9753600, .* is 8388607; lower --input-scale"):
        bound_ranges(program)


def test_a_sum_beyond_24_bits_is_refused() -> None:
    build, conv = wide(400)
    program = head(build, build.lif("lif", build.sum("sum", conv, conv), 5))
    with pytest.raises(RangeError, match=r"sum: its sums may reach 13004800, the limit of its accumulator is 8388607"):
        bound_ranges(program)


def test_a_y_beyond_a_graded_value_is_refused() -> None:
    build = ProgramByHand((2, 1, 1), low=0, high=0)
    x = build.lif("x", build.conv("stem", "input", np.zeros((2, 2, 1, 1))), 1)
    bias = np.full(2, GRADED_MAX, dtype=np.int32)
    product = SpikeMatMul(Signal(CURRENT, 0), 1, True, bias, A_MAX)
    lif = build.lif("lif", build.add("product", product, build.conv("y", x, np.ones((2, 2, 1, 1))), x), 1)
    with pytest.raises(RangeError, match=r"product: y may reach 8388609, the limit of a graded value is 8388607; norm"):
        bound_ranges(head(build, lif, np.ones((1, 1))))


@pytest.mark.parametrize("name", ["conv", "classifier"])
def test_a_bias_in_a_synapse_is_our_mistake(name: str) -> None:
    build = ProgramByHand((1, 1, 1))
    program = head(build, build.lif("lif", build.conv("conv", "input", ONE), 5))
    edit = program.edit()
    op: Any = program[name].op
    edit.set_op(name, replace(op, bias=np.ones(1, dtype=np.int32)))
    with pytest.raises(AssertionError, match=f"{name}: place_biases has not run"):
        bound_ranges(edit.finish())


def test_an_operation_without_an_interval_is_our_mistake() -> None:
    build = ProgramByHand((1, 1, 1))
    build.lif("lif", build.add("odd", Op(Signal(CURRENT, 0)), "input", shape=(1, 1, 1)), 5)
    with pytest.raises(AssertionError, match="odd: no interval for Op"):
        bound_ranges(head(build, "lif"))


def test_recurrent_sums_beyond_24_bits_are_refused() -> None:
    build = ProgramBuilder((600, 1, 1))
    op = build.nodes[build.cuba_lif("cuba", "input", kernel=(1, 1), spread=(False,) * 3)].op
    weight, exponent = np.full((600, 600, 1, 1), 127, np.int8), np.full(600, 7, np.int8)
    build.nodes["cuba"] = replace(build.nodes["cuba"], op=replace(op, weight=weight, weight_exp=exponent))
    with pytest.raises(RangeError, match=r"cuba: its recurrent sums may reach 9753600, the limit of its accumulator"):
        bound_ranges(with_input_range(build.finish(), np.ones((1, 600, 1, 1), np.int32)))
