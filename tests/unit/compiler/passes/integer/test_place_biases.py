"""Where each bias is placed, and that none is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resformer.compiler.ir import ops, reference
from resformer.compiler.ir.ops import LIF, Conv2d, Dense, Relay, SpikeMatMul
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import Signal, SignalKind
from resformer.compiler.ir.verify import verify_program
from resformer.compiler.passes.integer.place_biases import place_biases
from resformer.errors import RangeError
from support.programs import CURRENT, GRADED, ProgramByHand

ONE = np.ones((1, 1, 1, 1))
TWO = np.eye(2).reshape(2, 2, 1, 1)


def finish(build: ProgramByHand, last: str, timesteps: int = 2) -> Program:
    """End a network with a classifier of one class for each channel."""
    value = build.add("pool", ops.SumPool2d(Signal(CURRENT, 0), build.nodes[last].shape[1:], (1, 1)), last)  # type: ignore[arg-type]
    value = build.add("flatten", ops.Flatten(Signal(CURRENT, 0)), value)
    build.output(build.dense("classifier", value, np.eye(build.nodes[last].shape[0])))
    return build.finish(timesteps)


def neurons(program: Program, name: str) -> tuple[list[int], list[int]]:
    op = program[name].op
    assert isinstance(op, LIF)
    return op.bias_mant.tolist(), op.bias_exp.tolist()


def relays(program: Program) -> dict[str, list[int]]:
    return {node.name: node.op.bias.tolist() for node in program if isinstance(node.op, Relay)}


def assert_no_synapse_keeps_a_bias(program: Program) -> None:
    for node in program:
        assert not isinstance(node.op, (Conv2d, Dense)) or not node.op.bias.any(), node.name


def pooled(bias: int) -> Program:
    """A stream of one channel, pooled over four positions and shifted by three bits for the classifier."""
    build = ProgramByHand((1, 2, 2), scale_exp=3)
    value = build.add(
        "pool", ops.SumPool2d(Signal(CURRENT, 3), (2, 2), (1, 1)), build.conv("conv", "input", ONE, bias, scale_exp=3)
    )
    value = build.add("relay", Relay(Signal(GRADED, 0), np.zeros(1, dtype=np.int32), 1000, 3), value)
    value = build.add("flatten", ops.Flatten(Signal(GRADED, 0)), value)
    build.output(build.dense("classifier", value, [[1]]))
    return build.finish()


def test_a_relay_that_shifts_takes_the_bias_before_it_does() -> None:
    placed = place_biases(pooled(5))
    verify_program(placed)
    assert_no_synapse_keeps_a_bias(placed)
    assert relays(placed) == {"relay": [20]}
    output: Any = placed.output.op
    assert output.bias.tolist() == [0]


def test_a_pooled_bias_beyond_32_bits_is_refused() -> None:
    with pytest.raises(RangeError, match="relay: its bias becomes 2147483648, the limit is 2147483647"):
        place_biases(pooled(2**29))


def test_biases_of_a_stream_add_up_in_its_neurons() -> None:
    build = ProgramByHand((2, 2, 2))
    stem = build.conv("stem", "input", TWO, [1, -2])
    first = build.lif("first", stem, 10)
    stream = build.sum("add", build.conv("conv", first, TWO, [30, 40]), stem)
    last = build.lif("last", stream, 10)
    program = finish(build, build.sum("add2", build.conv("conv2", last, TWO, [500, 0]), stream))
    placed = place_biases(program)
    verify_program(placed)
    assert_no_synapse_keeps_a_bias(placed)
    # in units of the synaptic input, which are 64 of the bias
    assert neurons(placed, "first") == ([1, -2], [6, 6])
    assert neurons(placed, "last") == ([31, 38], [6, 6])
    assert relays(placed) == {}
    # four positions of the pool each bring the stream's bias
    output: Any = placed.output.op
    assert output.bias.tolist() == [4 * 531, 4 * 38]


def test_biases_pass_through_a_max_pool() -> None:
    build = ProgramByHand((2, 2, 2))
    stem = build.conv("stem", "input", TWO, [-7, 3])
    pooled = build.add("maxpool", ops.MaxPool2d(Signal(GRADED, 0), (2, 2), (1, 1), (1, 1)), stem)
    placed = place_biases(finish(build, build.lif("lif", pooled, 2)))
    assert neurons(placed, "lif") == ([-7, 3], [6, 6])


def test_a_product_adds_its_bias_to_y() -> None:
    build = ProgramByHand((2, 2, 2))
    x = build.lif("x", build.conv("stem", "input", TWO), 2)
    y = build.conv("y", x, np.ones((2, 2, 2, 2)), [5, 6], stride=2)
    product = SpikeMatMul(Signal(CURRENT, 0), 1, True, np.zeros(2, dtype=np.int32), 1000)
    value = build.add("product", product, y, x)
    build.lif("attention", value, 3)
    y2 = build.conv("y2", x, np.ones((2, 2, 2, 2)), [-8, 9], stride=2)
    product = SpikeMatMul(Signal(CURRENT, 0), 1, False, np.zeros(2, dtype=np.int32), 1000)
    build.add("product2", product, y2, "attention", shape=(2, 2, 2))
    placed = place_biases(finish(build, build.lif("out", "product2", 3)))
    verify_program(placed)
    for name, bias in (("product", [5, 6]), ("product2", [-8, 9])):
        op = placed[name].op
        assert isinstance(op, SpikeMatMul)
        assert op.bias.tolist() == bias
    assert not any(neurons(placed, "attention")[0] + neurons(placed, "out")[0])


@pytest.mark.parametrize("bias", [4095, -4095, 4096, -4096])
def test_a_bias_too_large_for_a_neuron_goes_to_a_relay(bias: int) -> None:
    build = ProgramByHand((2, 2, 2))
    stem = build.conv("stem", "input", TWO, [1, bias])
    first = build.lif("first", stem, 10)
    stream = build.sum("add", build.conv("conv", first, TWO, [2, 3]), stem)
    placed = place_biases(finish(build, build.lif("last", stream, 10)))
    verify_program(placed)
    if abs(bias) <= 4095:
        assert neurons(placed, "first") == ([1, bias], [6, 6])
        assert list(relays(placed)) == (["add.relay"] if bias > 0 else [])
        return
    # the relay holds all of the stem's bias, for the neurons and for the stream
    assert relays(placed) == {"stem.relay": [1, bias]}
    assert placed["first"].inputs == ("stem.relay",)
    assert placed["add"].inputs == ("conv", "stem.relay")
    assert not any(neurons(placed, "first")[0])
    assert neurons(placed, "last") == ([2, 3], [6, 6])


def test_a_bias_before_a_kernel_goes_to_a_relay() -> None:
    """Zeros of the padding lack the bias, so it is not constant behind the kernel."""
    build = ProgramByHand((2, 2, 2))
    stem = build.conv("stem", "input", TWO, [3, 4])
    conv = build.conv("conv", stem, np.ones((2, 2, 3, 3)), [1, 1], padding=1)
    program = finish(build, build.lif("lif", conv, 10))
    placed = place_biases(program)
    assert relays(placed) == {"stem.relay": [3, 4]}
    assert neurons(placed, "lif") == ([1, 1], [6, 6])
    samples = np.arange(-8, 8).reshape(2, 2, 2, 2)
    before, after = (reference.run(each, samples, record=True) for each in (program, placed))
    np.testing.assert_array_equal(before.spikes["lif"].dense(), after.spikes["lif"].dense())
    assert 0 < after.spikes["lif"].count < after.spikes["lif"].size


def test_a_product_and_a_biased_current_can_meet() -> None:
    build = ProgramByHand((2, 2, 2))
    x = build.lif("x", build.conv("stem", "input", TWO), 2)
    attention = build.lif(
        "attention",
        build.add(
            "product",
            SpikeMatMul(Signal(CURRENT, 0), 1, True, np.zeros(2, dtype=np.int32), 99),
            build.conv("y", x, np.ones((2, 2, 2, 2)), stride=2),
            x,
        ),
        3,
    )
    product = SpikeMatMul(Signal(CURRENT, 0), 1, False, np.zeros(2, dtype=np.int32), 99)
    value = build.add("product2", product, "y", attention, shape=(2, 2, 2))
    value = build.sum("sum", value, build.conv("conv", x, TWO, [1, 2]))
    placed = place_biases(finish(build, build.lif("lif", value, 3)))
    assert neurons(placed, "lif") == ([1, 2], [6, 6])


def test_the_classifier_s_own_bias_and_the_stream_s_become_the_logits() -> None:
    build = ProgramByHand((2, 1, 1))
    value = build.add("flatten", ops.Flatten(Signal(CURRENT, 0)), build.conv("conv", "input", TWO, [3, 5], scale_exp=2))
    weight = np.array([[1, 2], [3, -4], [0, 0]], dtype=np.int8)
    dense = Dense(Signal(SignalKind.CURRENT, 3), weight, 1, np.array([100, 200, 300], dtype=np.int32))
    build.output(build.add("classifier", dense, value), divisor=5)
    program = build.finish()
    placed = place_biases(program)
    assert_no_synapse_keeps_a_bias(placed)
    output: Any = placed.output.op
    expected = (2 * (weight @ [3, 5]) + [100, 200, 300]) / (2.0**3 * 5)
    np.testing.assert_allclose(output.bias, expected, rtol=1e-15)
    samples = np.array([[7, -8], [1, 2]]).reshape(2, 2, 1, 1)
    before, after = (reference.run(each, samples).logits for each in (program, placed))
    np.testing.assert_allclose(before / 40, after / 40 + output.bias, rtol=1e-12)


def test_placing_biases_twice_is_our_mistake() -> None:
    build = ProgramByHand((2, 2, 2))
    placed = place_biases(finish(build, build.lif("lif", build.conv("stem", "input", TWO, 5000), 10)))
    with pytest.raises(AssertionError, match=r"stem.relay: a Relay before place_biases"):
        place_biases(placed)
