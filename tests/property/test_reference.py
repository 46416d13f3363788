"""Each integer operation of the reference equals an independent restatement exactly, on random shapes."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from resformer.compiler.ir import ops
from resformer.compiler.ir.shapes import output_shape
from resformer.compiler.ir.signal import SPIKE, Signal, SignalKind

CURRENT = Signal(SignalKind.CURRENT, 0)
GRADED = Signal(SignalKind.GRADED, 0)

IntArray = npt.NDArray[np.int64]

seeds = st.integers(0, 2**16)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def integers(rng: np.random.Generator, low: int, high: int, *shape: int) -> IntArray:
    return rng.integers(low, high + 1, shape)


def as_torch(x: IntArray) -> torch.Tensor:
    """(T, N, ...) as a batch of float64, which holds these integers exactly."""
    return torch.from_numpy(x.reshape(-1, *x.shape[2:])).double()


def plain(result: tuple[IntArray, int | None], op: ops.Op, *inputs: IntArray) -> IntArray:
    """The output of an operation that never clips; its shape is what the shape rules say."""
    value, clipped = result
    assert clipped is None
    assert value.shape[2:] == output_shape(op, [each.shape[2:] for each in inputs])
    return value


@st.composite
def conv_cases(draw: st.DrawFn) -> tuple[ops.Conv2d, IntArray]:
    rng = np.random.default_rng(draw(seeds))
    groups, per_group, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel, stride, dilation = draw(pairs), draw(pairs), draw(pairs)
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    # at least one window must fit
    size = [max(dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i], 1) + draw(st.integers(0, 4)) for i in range(2)]
    op = ops.Conv2d(
        CURRENT,
        weight=integers(rng, -127, 127, outputs * groups, per_group, *kernel).astype(np.int8),
        weight_exp=integers(rng, 0, 7, outputs * groups).astype(np.int8),
        bias=integers(rng, -5000, 5000, outputs * groups).astype(np.int32),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    return op, integers(rng, -(2**16), 2**16, draw(st.integers(1, 2)), 2, per_group * groups, *size)


@given(conv_cases())
def test_convolutions_are_torchs_in_float64(case: tuple[ops.Conv2d, IntArray]) -> None:
    op, x = case
    value = plain(op.evaluate(x), op, x)
    weight = op.weight.astype(np.float64) * 2.0 ** op.weight_exp[:, None, None, None]
    bias = torch.from_numpy(op.bias).double()
    expected = F.conv2d(as_torch(x), torch.from_numpy(weight), bias, op.stride, op.padding, op.dilation, op.groups)
    np.testing.assert_array_equal(value.reshape(expected.shape), expected.numpy())


def test_a_convolution_by_hand() -> None:
    """A check that does not rest on torch: a correlation, not flipped, with zeros as padding."""
    op = ops.Conv2d(
        CURRENT,
        weight=np.array([[[[1, 2, 3]]]], dtype=np.int8),
        weight_exp=np.array([1], dtype=np.int8),
        bias=np.array([7], dtype=np.int32),
        stride=(1, 2),
        padding=(0, 1),
        dilation=(1, 1),
        groups=1,
    )
    value, _ = op.evaluate(np.array([10, 20, 30]).reshape(1, 1, 1, 1, 3))
    assert value.reshape(-1).tolist() == [7 + 2 * (2 * 10 + 3 * 20), 7 + 2 * (1 * 20 + 2 * 30)]


@given(seeds, st.integers(1, 6), st.integers(1, 6), st.integers(0, 7))
def test_dense_layers_are_sums_of_products(seed: int, outputs: int, inputs: int, exponent: int) -> None:
    rng = np.random.default_rng(seed)
    weight, bias = integers(rng, -127, 127, outputs, inputs), integers(rng, -5000, 5000, outputs)
    op = ops.Dense(CURRENT, weight.astype(np.int8), exponent, bias.astype(np.int32))
    x = integers(rng, -(2**20), 2**20, 2, 2, inputs)
    value = plain(op.evaluate(x), op, x)
    for step, sample in np.ndindex(2, 2):
        for out in range(outputs):
            terms = [int(w) * 2**exponent * int(a) for w, a in zip(weight[out], x[step, sample], strict=True)]
            assert value[step, sample, out] == sum(terms) + bias[out]


@given(seeds, pairs, pairs, st.tuples(st.integers(0, 4), st.integers(0, 4)))
def test_sum_pools_are_torchs(
    seed: int, kernel: tuple[int, int], stride: tuple[int, int], extra: tuple[int, int]
) -> None:
    x = integers(np.random.default_rng(seed), -(2**20), 2**20, 2, 1, 2, kernel[0] + extra[0], kernel[1] + extra[1])
    op = ops.SumPool2d(CURRENT, kernel, stride)
    value = plain(op.evaluate(x), op, x)
    expected = F.avg_pool2d(as_torch(x), kernel, stride, divisor_override=1)
    np.testing.assert_array_equal(value.reshape(expected.shape), expected.numpy())


@given(seeds, pairs, pairs, st.booleans(), st.tuples(st.integers(0, 4), st.integers(0, 4)), st.booleans())
def test_max_pools_are_torchs(
    seed: int, kernel: tuple[int, int], stride: tuple[int, int], pads: bool, extra: tuple[int, int], below_zero: bool
) -> None:
    """Where all values are below zero, a padding of zeros would be the maximum."""
    low, high = (-100, -1) if below_zero else (-100, 100)
    padding = (kernel[0] // 2, kernel[1] // 2) if pads else (0, 0)
    x = integers(np.random.default_rng(seed), low, high, 2, 2, 2, kernel[0] + extra[0], kernel[1] + extra[1])
    op = ops.MaxPool2d(GRADED, kernel, stride, padding)
    value = plain(op.evaluate(x), op, x)
    expected = F.max_pool2d(as_torch(x), kernel, stride, padding)
    np.testing.assert_array_equal(value.reshape(expected.shape), expected.numpy())


@given(seeds, st.integers(2, 4))
def test_adds_sum_all_inputs(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = [integers(rng, -1000, 1000, 2, 2, 3, 2, 2) for _ in range(count)]
    op = ops.Add(CURRENT)
    np.testing.assert_array_equal(plain(op.evaluate(*inputs), op, *inputs), np.sum(inputs, axis=0))


@given(seeds, st.integers(0, 150), st.integers(0, 5))
def test_relays_add_their_bias_then_shift_clip_and_count(seed: int, limit: int, shift: int) -> None:
    rng = np.random.default_rng(seed)
    x, bias = integers(rng, -100, 100, 2, 2, 3, 2, 2), integers(rng, -100, 100, 3)
    value, clipped = ops.Relay(GRADED, bias.astype(np.int32), limit, shift).evaluate(x)
    count = 0
    for index in np.ndindex(x.shape):
        free = math.floor(Fraction(int(x[index]) + int(bias[index[2]]), 2**shift) + Fraction(1, 2))
        assert value[index] == max(-limit, min(limit, free))
        count += abs(free) > limit
    assert clipped == count


@given(seeds, st.integers(1, 2), st.integers(1, 3), st.booleans(), st.integers(1, 3), st.integers(10, 3000))
def test_products_are_loops_over_heads_and_spikes(
    seed: int, heads: int, per_head: int, transpose: bool, rows: int, limit: int
) -> None:
    """Equations 9 and 10 of arXiv 2403.14302, one term at a time."""
    rng = np.random.default_rng(seed)
    channels, patches, positions = heads * per_head, rows * 2, 6
    y, bias = integers(rng, -500, 500, 2, 2, channels, rows, 2), integers(rng, -500, 500, channels)
    op = ops.SpikeMatMul(CURRENT, heads, transpose, bias.astype(np.int32), limit)
    gates = integers(rng, 0, 1, 2, 2, *((channels, 2, 3) if transpose else (heads, patches, positions)))
    value, clipped = op.evaluate(y, gates)
    made = output_shape(op, [y.shape[2:], gates.shape[2:]])
    value = value.reshape(2, 2, *made)
    count = 0
    for step, sample, head, k, j in itertools.product(range(2), range(2), range(heads), range(patches), range(6)):
        if transpose:
            free = 0
            for channel in range(head * per_head, (head + 1) * per_head):
                gate = gates[step, sample, channel, j // 3, j % 3]
                free += int(gate) * int(y[step, sample, channel, k // 2, k % 2] + bias[channel])
            assert value[step, sample, head, k, j] == max(-limit, min(limit, free))
            count += abs(free) > limit
    if not transpose:
        for step, sample, channel, j in itertools.product(range(2), range(2), range(channels), range(positions)):
            free = 0
            for k in range(patches):
                gate = gates[step, sample, channel // per_head, k, j]
                free += int(gate) * int(y[step, sample, channel, k // 2, k % 2] + bias[channel])
            assert value[step, sample, channel, j] == max(-limit, min(limit, free))
            count += abs(free) > limit
    assert clipped == count


@given(seeds, st.integers(1, 9), st.sampled_from([2048, 1365, 0, 4095]), st.booleans())
def test_populations_are_loops_over_neurons(seed: int, steps: int, dv: int, one_bias: bool) -> None:
    """Every neuron starts at zero, whatever the others and the other samples do."""
    rng = np.random.default_rng(seed)
    mantissa, exponent = integers(rng, -200, 400, 1 if one_bias else 3), integers(rng, 0, 7, 1 if one_bias else 3)
    op = ops.LIF(SPIKE, 300, 4095, dv, mantissa.astype(np.int16), exponent.astype(np.int8))
    a = integers(rng, -300, 600, steps, 2, 3, 1, 2)
    spikes, clipped = op.evaluate(a)
    assert clipped == 0
    for sample, channel, column in np.ndindex(2, 3, 2):
        v, which = 0, 0 if one_bias else channel
        for step in range(steps):
            decayed = abs(v) * (4096 - dv) // 4096
            v = (-decayed if v < 0 else decayed) + 64 * int(a[step, sample, channel, 0, column])
            v += int(mantissa[which]) << int(exponent[which])
            assert spikes[step, sample, channel, 0, column] == (v > 300 * 64)
            v = 0 if v > 300 * 64 else v


@given(seeds)
def test_reshaping_and_waiting_change_no_value(seed: int) -> None:
    x = integers(np.random.default_rng(seed), -9, 9, 2, 2, 3, 2, 2)
    flat = ops.Flatten(CURRENT)
    np.testing.assert_array_equal(plain(flat.evaluate(x), flat, x), x.reshape(2, 2, 12))
    delay: Any = ops.Delay(CURRENT, steps=3)
    np.testing.assert_array_equal(plain(delay.evaluate(x), delay, x), x)
    output = ops.Output(CURRENT, divisor=7, bias=np.ones((3, 2, 2)))
    np.testing.assert_array_equal(plain(output.evaluate(x), output, x), x)
