"""What running a whole program means: records, overrides, promises kept and broken."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from resformer.compiler.ir import ops, reference
from resformer.compiler.ir.ops import arithmetic
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import Signal, SignalKind
from support.networks import with_input_range
from support.program_builder import ProgramBuilder
from support.programs import CURRENT, ProgramByHand

ONE = np.ones((1, 1, 1, 1))


def chain() -> Program:
    """input - conv (times 3) - lif (fires above 4) - conv2 (times 5) - lif2 (fires above 4) - logits (times 2)."""
    build = ProgramByHand((1, 1, 1))
    value = build.conv("conv", "input", 3 * ONE)
    value = build.lif("lif", value, 4)
    value = build.conv("conv2", value, 5 * ONE)
    value = build.lif("lif2", value, 4)
    value = build.conv("conv3", value, 2 * ONE)
    value = build.add("flatten", ops.Flatten(Signal(CURRENT, 0)), value)
    build.output(build.dense("classifier", value, [[1], [-1]]))
    return build.finish(timesteps=3)


def images(*values: int) -> npt.NDArray[np.int32]:
    return np.array(values, dtype=np.int32).reshape(-1, 1, 1, 1)


def test_a_chain_by_hand() -> None:
    # 2 * 3 = 6 fires each step; 1 * 3 gives 3, then 4.5, which fires, then 3 again
    trace = reference.run(chain(), images(2, 1, 0), record=True)
    assert trace.spikes["lif"].dense().reshape(3, 3).tolist() == [
        [True, False, False],
        [True, True, False],
        [True, False, False],
    ]
    assert trace.logits[:, :, 0].tolist() == [[2, 0, 0], [2, 2, 0], [2, 0, 0]]
    np.testing.assert_array_equal(trace.logits[:, :, 1], -trace.logits[:, :, 0])
    assert trace.saturated == {"lif": 0, "lif2": 0}


def test_an_image_is_the_same_frame_at_each_step() -> None:
    still = reference.run(chain(), images(2, 1))
    frames = reference.run(chain(), np.stack([images(2, 1)] * 3, axis=1))
    np.testing.assert_array_equal(still.logits, frames.logits)


def test_frames_come_one_a_step() -> None:
    frames = np.array([2, 0, 2, 0, 0, 2], dtype=np.int32).reshape(2, 3, 1, 1, 1)
    trace = reference.run(chain(), frames, record=True)
    assert trace.spikes["lif"].dense().reshape(3, 2).T.tolist() == [[True, False, True], [False, False, True]]


def test_a_wrong_number_of_frames_is_refused() -> None:
    with pytest.raises(AssertionError, match="2 frames for 3 steps"):
        reference.run(chain(), np.zeros((1, 2, 1, 1, 1), dtype=np.int32))


def test_nothing_is_kept_unless_asked_for() -> None:
    trace = reference.run(chain(), images(2))
    assert (trace.spikes, trace.graded) == ({}, {})


def test_overrides_reach_readers_while_the_record_keeps_what_was_computed() -> None:
    silent = np.zeros((3, 1, 1, 1, 1), dtype=np.int64)
    trace = reference.run(chain(), images(2), record=True, overrides={"lif": silent})
    assert trace.spikes["lif"].count == 3
    assert trace.spikes["lif2"].count == 0
    assert not trace.logits.any()


def test_overrides_come_back_to_recurrent_neurons_a_step_late() -> None:
    """They then fire as neurons without memory or synapses do on an input that already holds the feedback."""
    net = ProgramBuilder((2, 3, 3), seed=4)
    name = net.cuba_lif("cuba", "input", vth=60, kernel=(3, 3))
    forgetful = {"du": np.int16(4095), "dv": np.int16(4096), "u_bias": np.int32(0), "v_bias": np.int32(0)}
    arrays = {key: np.full((1, 1, 1), value) for key, value in forgetful.items()}
    net.nodes[name] = replace(net.nodes[name], op=replace(net.nodes[name].op, **arrays))
    samples = net.samples(2, timesteps=4, largest=100)
    program = with_input_range(net.finish(timesteps=4), samples)
    op = program["cuba"].op
    assert isinstance(op, ops.RecurrentCubaLIF)
    sent = net.rng.integers(0, 2, (4, 2, 2, 3, 3))
    arriving = samples.swapaxes(0, 1).astype(np.int64)
    for step in range(1, 4):
        arriving[step] += op.synapses().evaluate(sent[step - 1 : step])[0][0]
    trace = reference.run(program, samples, record=True, overrides={"cuba": sent})
    assert np.array_equal(trace.spikes["cuba"].dense(), arriving > op.vth)
    assert (trace.spikes["cuba"].dense() != sent).any()


def test_overriding_a_node_that_does_not_exist_is_refused() -> None:
    with pytest.raises(AssertionError, match="nowhere"):
        reference.run(chain(), images(2), overrides={"nowhere": np.zeros((3, 1, 1, 1, 1), dtype=np.int64)})


def test_overrides_of_another_shape_are_refused() -> None:
    with pytest.raises(AssertionError, match="lif"):
        reference.run(chain(), images(2, 1), overrides={"lif": np.zeros((3, 1, 1, 1, 1), dtype=np.int64)})


def test_observers_see_each_node_in_order() -> None:
    seen: dict[str, tuple[int, ...]] = {}
    program = chain()
    reference.run(program, images(2, 1), observe=lambda name, value: seen.update({name: value.shape}))
    assert seen == {node.name: (3, 2, *node.shape) for node in program}
    assert list(seen) == [node.name for node in program]


@pytest.mark.parametrize(("low", "high"), [(-6, 5), (7, 20), (-20, -1)])
def test_a_value_outside_its_proven_bounds_is_our_mistake(low: int, high: int) -> None:
    program = chain()
    edit = program.edit()
    edit.set_op("conv", replace(program["conv"].op, signal=Signal(SignalKind.CURRENT, 0, low, high)))
    with pytest.raises(reference.BoundsError, match=r"conv: \[6, 6\] leaves the proven"):
        reference.run(edit.finish(), images(2))


def test_samples_beyond_the_input_s_bounds_are_refused() -> None:
    with pytest.raises(AssertionError, match=r"input: \[9, 9\] leaves"):
        reference.run(chain(), images(9))


def test_graded_values_and_clips_are_recorded_by_node() -> None:
    build = ProgramByHand((1, 1, 1), low=-100, high=100)
    value = build.conv("conv", "input", 3 * ONE)
    signal = Signal(SignalKind.GRADED, 0)
    value = build.add("relay", ops.Relay(signal, np.array([1], dtype=np.int32), 10), value)
    value = build.add("pool", ops.MaxPool2d(signal, (1, 1), (1, 1), (0, 0)), value)
    value = build.add("flatten", ops.Flatten(signal), build.lif("lif", value, 4))
    build.output(build.dense("classifier", value, [[1]]))
    trace = reference.run(build.finish(timesteps=2), images(2, -50), record=True)
    assert trace.graded["relay"].reshape(2, 2).tolist() == [[7, -10], [7, -10]]
    np.testing.assert_array_equal(trace.graded["pool"], trace.graded["relay"])
    assert trace.saturated == {"relay": 2, "lif": 0}
    assert {value.dtype for value in trace.graded.values()} == {np.dtype(np.int32)}


def test_a_potential_clipped_from_below_is_counted_each_time() -> None:
    build = ProgramByHand((1, 1, 1), low=-(2**17) + 1, high=0)
    value = build.lif("lif", build.conv("conv", "input", ONE), 4, dv=0)
    build.output(build.dense("classifier", build.add("flatten", ops.Flatten(Signal(CURRENT, 0)), value), [[1]]))
    trace = reference.run(build.finish(timesteps=4), images(-(2**17) + 1, 0))
    assert trace.saturated == {"lif": 3}  # the first step reaches 2**23 - 64, the next three clip


def test_sums_that_float64_might_round_are_refused() -> None:
    build = ProgramByHand((1, 1, 1))
    build.conv("conv", "input", 127 * ONE, exp=7)
    op = build.nodes["conv"].op
    largest = (2**53 - 1) // (127 * 2**7)
    value, _ = op.evaluate(np.full((1, 1, 1, 1, 1), largest))
    assert value.item() == largest * 127 * 2**7
    with pytest.raises(AssertionError, match="float64"):
        op.evaluate(np.full((1, 1, 1, 1, 1), largest + 1))


def wide_convolution(rng: np.random.Generator) -> tuple[ops.Conv2d, npt.NDArray[np.int64]]:
    """A convolution of 49 taps a channel in two groups, and 12 frames for it."""
    op = ops.Conv2d(
        Signal(CURRENT, 0),
        weight=rng.integers(-127, 128, (4, 8, 7, 7)).astype(np.int8),
        weight_exp=rng.integers(0, 3, 4).astype(np.int8),
        bias=rng.integers(-9, 10, 4).astype(np.int32),
        stride=(1, 1),
        padding=(3, 3),
        dilation=(1, 1),
        groups=2,
    )
    return op, rng.integers(0, 2, (4, 3, 16, 28, 28))


@pytest.mark.parametrize("frames", [0.5, 1, 5, 12])
def test_frames_taken_together_change_nothing(frames: float, monkeypatch: pytest.MonkeyPatch) -> None:
    op, x = wide_convolution(np.random.default_rng(0))
    one_by_one = np.concatenate([op.evaluate(x[:, index : index + 1])[0] for index in range(3)], axis=1)
    monkeypatch.setattr(arithmetic, "TAPS_AT_ONCE", int(frames * 8 * 49 * 28 * 28))
    np.testing.assert_array_equal(op.evaluate(x)[0], one_by_one)


def test_a_convolution_takes_memory_for_few_frames_taps() -> None:
    op, x = wide_convolution(np.random.default_rng(0))
    x = np.tile(x, (1, 8, 1, 1, 1))
    all_taps = 8 * 49 * x[:, :, 0].size * 8
    tracemalloc.start()
    op.evaluate(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # the taps come twice, as integers and as float64; the input is padded
    assert peak < 2 * x.nbytes + 3 * 8 * arithmetic.TAPS_AT_ONCE < all_taps / 3


def test_an_operation_without_a_definition_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="no definition for Op"):
        ops.Op(Signal(CURRENT, 0)).evaluate()
