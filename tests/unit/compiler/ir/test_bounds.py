"""How large each integer can get: bounds by hand, and random programs that never leave theirs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resformer.compiler.ir import ops, reference
from resformer.compiler.ir.arrays import InvariantError
from resformer.compiler.ir.bounds import check_declared, magnitudes
from resformer.compiler.ir.interval import Interval, Magnitude
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import Signal
from resformer.compiler.passes.integer.bound_ranges import bound_ranges
from support.networks import with_input_range
from support.program_builder import ProgramBuilder
from support.programs import CURRENT, GRADED, SPIKE, Lowered, ProgramByHand, lowered_graphs

IntArray = npt.NDArray[np.int64]

A_MAX, V_MAX = 2**17 - 1, 2**23 - 1


def bound(build: ProgramByHand, name: str) -> Magnitude:
    return magnitudes(build.finish())[name]


def both(value: int) -> Magnitude:
    """A bound that holds for the output and for every partial sum."""
    return Magnitude(value, value)


def test_inputs_have_the_larger_of_their_ends() -> None:
    assert bound(ProgramByHand((1, 1, 1), low=-9, high=4), "input") == both(9)
    assert bound(ProgramByHand((1, 1, 1), low=0, high=4), "input") == both(4)


def test_an_input_without_a_range_is_any_32_bits() -> None:
    program = ProgramByHand((1, 1, 1)).finish()
    (node,) = program.nodes
    free = replace(node, op=replace(node.op, signal=Signal(GRADED, 0)))
    assert magnitudes(replace(program, nodes=(free,)))["input"] == both(2**31)


def test_convolutions_sum_the_magnitudes_of_a_row() -> None:
    build = ProgramByHand((2, 3, 3), low=-10, high=5)
    weight = np.array([[[[1, -2]], [[3, -4]]], [[[5, 0]], [[0, 0]]]])
    build.conv("conv", "input", weight, [7, -8], exp=[1, 2])
    # (1 + 2 + 3 + 4) * 2 is as much as 5 * 4
    assert bound(build, "conv") == both(20 * 10 + 8)


def test_groups_sum_their_own_channels_only() -> None:
    build = ProgramByHand((4, 1, 1), low=-10, high=10)
    build.conv("conv", "input", np.full((4, 2, 1, 1), 3), groups=2)
    assert bound(build, "conv") == both(2 * 3 * 10)


def test_dense_layers_sum_the_magnitudes_of_a_row() -> None:
    build = ProgramByHand((3,), low=-10, high=10)
    build.dense("dense", "input", [[1, -2, 3], [0, 0, -5]], [4, 0], exp=3)
    assert bound(build, "dense") == both(6 * 8 * 10 + 4)


def test_rows_of_many_large_weights_do_not_overflow() -> None:
    build = ProgramByHand((2**12,), low=-(2**31), high=2**31 - 1)
    build.dense("dense", "input", np.full((1, 2**12), 127), exp=7)
    wide = 2**12 * 127 * 2**7 * 2**31
    assert wide > 2**53
    assert bound(build, "dense") == both(wide)


def test_sums_add_and_pools_multiply() -> None:
    build = ProgramByHand((1, 2, 3), low=-10, high=10)
    conv = build.conv("conv", "input", [[[[2]]]])
    total = build.sum("sum", conv, conv, build.conv("other", "input", [[[[-1]]]]))
    build.add("pool", ops.SumPool2d(Signal(CURRENT, 0), (2, 3), (2, 3)), total)
    build.add("max", ops.MaxPool2d(Signal(CURRENT, 0), (2, 3), (2, 3), (0, 0)), total)
    assert bound(build, "sum") == both(20 + 20 + 10)
    assert bound(build, "pool") == both(6 * 50)
    assert bound(build, "max") == both(50)


@pytest.mark.parametrize(("limit", "shift", "expected"), [(1000, 0, 107), (50, 0, 50), (1000, 2, 27), (1000, 3, 13)])
def test_relays_add_their_bias_shift_and_clip(limit: int, shift: int, expected: int) -> None:
    """107 quarters are 26.75 and round up; 107 eighths, 13.375, round down."""
    build = ProgramByHand((1, 1, 1), low=-100, high=100)
    build.add("relay", ops.Relay(Signal(GRADED, 0), np.array([-7], np.int32), limit, shift), "input")
    assert bound(build, "relay") == both(expected)


def test_spikes_are_one_at_most() -> None:
    build = ProgramByHand((1, 1, 1))
    build.lif("lif", build.conv("conv", "input", [[[[1]]]]), 5)
    assert bound(build, "lif") == both(1)
    net = ProgramBuilder((1, 3, 3))
    net.cuba_lif("recurrent", net.conv("conv", net.cuba_lif("cuba", "input"), 1), kernel=(3, 3))
    net.dense("dense", net.flatten("flatten", "recurrent"), 1)
    program = net.finish()
    assert magnitudes(program)["cuba"] == magnitudes(program)["recurrent"] == both(1)


def test_neurons_that_do_not_fire_send_their_potential() -> None:
    """It gathers, and may take 24 bits however small the input is; nodes that read it must allow for that."""
    net = ProgramBuilder((1, 1, 1))
    net.cuba_li("cuba", "input")
    net.dense("dense", net.flatten("flatten", "cuba"), 1, largest=1)
    op: Any = net.nodes["dense"].op
    net.nodes["dense"] = replace(net.nodes["dense"], op=replace(op, weight=np.full((1, 1), 3, np.int8)))
    found = magnitudes(with_input_range(net.finish(), np.ones((1, 1, 1, 1), np.int32)))
    assert found["cuba"] == both(V_MAX)
    assert found["flatten"] == both(V_MAX)
    assert found["dense"] == both(3 * V_MAX)


@pytest.mark.parametrize(
    ("transpose", "limit", "expected"),
    [(True, A_MAX, 3 * 25), (False, A_MAX, 4 * 25), (True, 40, 40)],
)
def test_products_sum_a_heads_channels_or_all_positions(transpose: bool, limit: int, expected: int) -> None:
    """Six channels in two heads, four positions; each value is 20 at most, and 5 is added to it."""
    build = ProgramByHand((6, 2, 2), low=-20, high=20)
    gates = build.lif("gates", "input", 5)
    if not transpose:
        zero = np.zeros(6, dtype=np.int32)
        build.add("scores", ops.SpikeMatMul(Signal(CURRENT, 0), 2, True, zero, A_MAX), "input", gates)
        gates = build.lif("attention", "scores", 5)
    bias = np.array([0, 0, 0, -5, 5, 0], dtype=np.int32)
    product = ops.SpikeMatMul(Signal(CURRENT, 0), 2, transpose, bias, limit)
    build.add("product", product, "input", gates, shape=None if transpose else (6, 2, 2))
    assert bound(build, "product") == both(expected)


def test_what_analysis_proved_bounds_the_output_but_not_its_partial_sums() -> None:
    """Weights of 1 and -1 on values from 0 to 10 stay within 10, and a kernel may add up 20 before it subtracts."""
    build = ProgramByHand((2, 1, 1), low=0, high=10)
    build.conv("conv", "input", np.array([[[[1]], [[-1]]]]))
    program = build.finish()
    assert magnitudes(program)["conv"] == both(20)
    edit = program.edit()
    edit.set_op("conv", replace(program["conv"].op, signal=Signal(CURRENT, 0, -10, 10)))
    assert magnitudes(edit.finish())["conv"] == Magnitude(value=10, sums=20)


KINDS = ("lif", "cuba", "recurrent", "residual", "relay", "max", "attention")


@st.composite
def programs(draw: st.DrawFn) -> tuple[Program, int]:
    """A program of random operations and weights, and its input's largest magnitude."""
    net = ProgramBuilder((2, 4, 4), seed=draw(st.integers(0, 2**16)))
    value = net.conv("stem", "input", 4, (3, 3), padding=(1, 1))
    for index, kind in enumerate(draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))):
        name = f"{index}.{kind}"
        match kind:
            case "lif":
                value = net.conv(f"{name}.conv", net.lif(name, value), 4, (3, 3), padding=(1, 1), groups=2)
            case "cuba":
                value = net.conv(f"{name}.conv", net.cuba_lif(name, value, soft_reset=draw(st.booleans())), 4)
            case "recurrent":
                value = net.conv(f"{name}.conv", net.cuba_lif(name, value, kernel=(3, 3)), 4)
            case "residual":
                value = net.plus(f"{name}.add", net.conv(f"{name}.conv", net.lif(name, value), 4), value)
            case "relay":
                value = net.relay(name, value, limit=draw(st.sampled_from([50, 5000, A_MAX])))
            case "max":
                value = net.max_pool(name, value, (3, 3), (1, 1), (1, 1))
            case _:
                value = net.attention(name, value, heads=2, patch=2)
    if draw(st.booleans()):
        value = net.cuba_li("gather", value)
    else:
        value = net.sum_pool("pool", net.relay("last", value, limit=A_MAX), (2, 4), (2, 4))
        value = net.relay("pooled", value, limit=V_MAX, shift=draw(st.integers(0, 3)))
    net.dense("classifier", net.flatten("flatten", value), 3)
    reach = draw(st.sampled_from([1, 40, 2**10]))
    ends = np.array([-reach, reach], dtype=np.int32)
    return with_input_range(net.finish(), ends), reach


def terms(op: ops.Op, sources: list[IntArray]) -> IntArray | None:
    """The sum of the magnitudes of all that an operation adds; None if it adds nothing, or clips what it added."""
    sizes = [np.abs(each) for each in sources]
    match op:
        case ops.Conv2d() | ops.Dense():
            return replace(op, weight=np.abs(op.weight), bias=np.abs(op.bias)).evaluate(*sizes).value
        case ops.SumPool2d() | ops.Add():
            return op.evaluate(*sizes).value
        case _:
            return None


def check(program: Program, images: npt.NDArray[np.int32], rng: np.random.Generator) -> None:
    """Run a program, as it is and with forced spikes, and require every value and sum to lie within its bound."""
    found = magnitudes(program)
    shape = (program.timesteps, len(images))
    for density in (None, 0.0, 0.5, 1.0):
        spikes = {
            name: (rng.random((*shape, *program[name].shape)) < density).astype(np.int64)
            for name in program.lif_names
            if density is not None
        }
        values: dict[str, IntArray] = {}
        reference.run(program, images, overrides=spikes, observe=values.__setitem__)
        for node in program:
            assert np.abs(values[node.name]).max() <= found[node.name].value, node.name
            sums = terms(node.op, [spikes.get(name, values[name]) for name in node.inputs])
            assert sums is None or sums.max() <= found[node.name].sums, node.name


@settings(max_examples=40)
@given(programs(), st.integers(0, 2**16))
def test_random_programs_never_leave_their_bounds(case: tuple[Program, int], seed: int) -> None:
    program, reach = case
    rng = np.random.default_rng(seed)
    check(program, rng.choice([-reach, reach], (2, *program.input.shape)).astype(np.int32), rng)


@settings(max_examples=15)
@given(lowered_graphs(), st.integers(0, 2**16))
def test_compiled_programs_never_leave_theirs(lowered: Lowered, seed: int) -> None:
    program, rng = lowered.program, np.random.default_rng(seed)
    signal = program.input.op.signal
    assert signal.low is not None
    assert signal.high is not None
    images = rng.choice([signal.low, signal.high], (2, *program.input.shape)).astype(np.int32)
    check(program, images, rng)


@pytest.mark.parametrize("du", [4095, 2047, 0])
def test_a_current_with_a_memory_gathers_no_more_than_it_holds(du: int) -> None:
    """If each step keeps the share k, a constant input makes a current of 1 + k + k^2 times it in the third step."""
    keep = (4095 - du) / 4096
    most = int(A_MAX / (1 + keep + keep**2))
    neurons = ops.LIF(SPIKE, 1, du, 2048, np.zeros(1, dtype=np.int16), np.zeros(1, dtype=np.int8))
    neurons.check_states([Interval.between(-most, 0)], timesteps=3)
    neurons.check_states([Interval.between(0, most)], timesteps=3)
    with pytest.raises(InvariantError, match=r"its current may reach 131\d\d\d or more, and wraps above 131071"):
        neurons.check_states([Interval.between(-most - 1, 0)], timesteps=3)


def test_a_current_that_no_longer_grows_is_not_followed_to_the_end() -> None:
    neurons = ops.LIF(SPIKE, 1, 2047, 2048, np.zeros(1, dtype=np.int16), np.zeros(1, dtype=np.int8))
    neurons.check_states([Interval.between(0, 100)], timesteps=2**60)


def test_a_program_whose_current_may_wrap_is_refused_by_name() -> None:
    build = ProgramByHand((1, 1, 1), low=-A_MAX, high=A_MAX)
    build.lif("lif", "input", 3)
    program = bound_ranges(build.finish(timesteps=2))
    check_declared(program)
    edit = program.edit()
    edit.set_op("lif", replace(program["lif"].op, du=2047))
    with pytest.raises(InvariantError, match=r"^lif: its current may reach 196606 or more"):
        check_declared(edit.finish())
