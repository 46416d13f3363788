"""Delay balancing: samples that stream through a clocked chip leave the very traces that the reference defines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resformer.compiler.ir import ops, reference
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import SPIKE, Signal, SignalKind
from resformer.compiler.ir.trace import Trace
from resformer.compiler.ir.verify import verify_program
from resformer.compiler.passes.integer.balance_delays import balance_delays
from support.clocked import run_clocked
from support.graphs import samples_for
from support.programs import Lowered, ProgramByHand, encode, lowered_graphs


def assert_traces_equal(left: Trace, right: Trace) -> None:
    assert left.spikes.keys() == right.spikes.keys()
    assert left.graded.keys() == right.graded.keys()
    for name, train in left.spikes.items():
        np.testing.assert_array_equal(train.dense(), right.spikes[name].dense(), err_msg=name)
    for name, values in left.graded.items():
        np.testing.assert_array_equal(values, right.graded[name], err_msg=name)
    np.testing.assert_array_equal(left.logits, right.logits)


@settings(max_examples=25)
@given(lowered_graphs(), st.integers(1, 3), st.booleans())
def test_streamed_samples_leave_the_reference_s_trace_as_soon_as_can_be(
    lowered: Lowered, count: int, as_frames: bool
) -> None:
    program = lowered.program
    samples = samples_for(lowered.folded, count)
    if as_frames:
        samples = np.stack([samples + 0.3 * step for step in range(program.timesteps)], axis=1)
    encoded = encode(program, samples)
    assert_traces_equal(run_clocked(program, encoded), reference.run(program, encoded, record=True))
    verify_program(program)
    assert program.latency == longest_path(program)


def longest_path(program: Program) -> int:
    """How many synapses lie between the input and the output at most."""
    longest: dict[str, int] = {}
    for node in program:
        hops = 0 if isinstance(node.op, ops.Delay) else node.op.hop
        longest[node.name] = hops + max((longest[source] for source in node.inputs), default=0)
    return longest[program.output.name]


def diamond(long: int, short: int) -> Program:
    """Paths of ``long`` and ``short`` convolutions that meet in a sum, which also reads the input itself."""
    build = ProgramByHand((1, 1, 1))
    ends = ["input"]
    for path, length in (("long", long), ("short", short)):
        value = "input"
        for index in range(length):
            value = build.conv(f"{path}{index}", value, np.ones((1, 1, 1, 1)))
        ends.append(value)
    value = build.add("flatten", ops.Flatten(Signal(SignalKind.CURRENT, 0)), build.sum("sum", *ends))
    build.output(build.dense("classifier", value, [[1]]))
    return build.finish(timesteps=3)


def test_each_early_path_waits_for_the_latest() -> None:
    program = balance_delays(diamond(3, 1))
    waits = {node.name: (node.inputs, node.op.steps) for node in program if isinstance(node.op, ops.Delay)}
    assert waits == {"sum.delay0": (("input",), 3), "sum.delay1": (("short0",), 2)}
    assert program["sum"].inputs == ("sum.delay0", "long2", "sum.delay1")
    assert program["long0"].inputs == program["short0"].inputs == ("input",)
    assert program.latency == 4


def test_paths_of_one_length_wait_for_nothing() -> None:
    build = ProgramByHand((1, 1, 1))
    one = np.ones((1, 1, 1, 1))
    value = build.sum("sum", build.conv("a", "input", one), build.conv("b", "input", one))
    build.output(
        build.dense("classifier", build.add("flatten", ops.Flatten(Signal(SignalKind.CURRENT, 0)), value), [[1]])
    )
    program = build.finish()
    assert [node.name for node in balance_delays(program)] == [node.name for node in program]


def test_a_value_read_twice_waits_once() -> None:
    build = ProgramByHand((1, 1, 1))
    value = build.sum("sum", "input", build.conv("a", "input", np.ones((1, 1, 1, 1))), "input")
    build.output(
        build.dense("classifier", build.add("flatten", ops.Flatten(Signal(SignalKind.CURRENT, 0)), value), [[1]])
    )
    program = balance_delays(build.finish())
    assert program["sum"].inputs == ("sum.delay", "a", "sum.delay")


def test_balancing_leaves_its_input_untouched_and_is_idempotent() -> None:
    program = diamond(2, 0)
    names = [node.name for node in program]
    balanced = balance_delays(program)
    assert program.offsets is None
    assert [node.name for node in program] == names
    again = balance_delays(balanced)
    assert again.offsets == balanced.offsets
    assert [node.name for node in again] == [node.name for node in balanced]


@pytest.mark.parametrize("off_by", [-1, 1])
def test_a_wrong_delay_or_offset_would_be_noticed(off_by: int) -> None:
    """The clocked simulation notices it, which is its purpose."""
    program = balance_delays(diamond(3, 0))
    frames = np.arange(12, dtype=np.int32).reshape(2, 6, 1, 1, 1)[:, 1:4] - 5
    expected = reference.run(program, frames, record=True)
    assert_traces_equal(run_clocked(program, frames), expected)

    edit = program.edit()
    delay = next(node for node in program if isinstance(node.op, ops.Delay))
    assert isinstance(delay.op, ops.Delay)
    edit.set_op(delay.name, replace(delay.op, steps=delay.op.steps + off_by))
    with pytest.raises(AssertionError):
        assert_traces_equal(run_clocked(edit.finish(), frames), expected)

    assert program.offsets is not None
    moved: dict[str, int] = program.offsets | {"output": program.latency + off_by}
    with pytest.raises(AssertionError):
        assert_traces_equal(run_clocked(replace(program, offsets=moved), frames), expected)


def test_neurons_are_reset_where_their_own_sample_begins() -> None:
    """If they were reset a step early or late, potentials would leak from sample to sample."""
    build = ProgramByHand((1, 1, 1))
    value = build.lif("lif", build.conv("conv", "input", np.ones((1, 1, 1, 1))), 10, bias=63, exp=0)
    build.output(build.dense("classifier", build.add("flatten", ops.Flatten(SPIKE), value), [[1]]))
    program = balance_delays(build.finish(timesteps=3))
    samples = np.array([7, 4, 6, 8, 6], dtype=np.int32).reshape(-1, 1, 1, 1)
    expected = reference.run(program, samples, record=True)
    assert_traces_equal(run_clocked(program, samples), expected)
    for off_by in (-1, 1):
        wrong = replace(program, offsets={**(program.offsets or {}), "lif": 1 + off_by})
        clocked = run_clocked(wrong, samples)
        with pytest.raises(AssertionError):
            np.testing.assert_array_equal(clocked.logits, expected.logits)
