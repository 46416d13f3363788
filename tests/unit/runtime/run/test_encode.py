"""Real numbers to integers and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import Input, Output
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import Signal, SignalKind
from resformer.runtime.run.encode import decode, encode, predict, real_logits


def program(*, scale_exp: int = 6, low: int = -256, high: int = 256) -> Program:
    entry = Input(Signal(SignalKind.GRADED, scale_exp, low, high))
    output = Output(Signal(SignalKind.CURRENT, 3), divisor=49, bias=np.array([0.5, -1.0]))
    return Program((Node("input", entry, (), (1, 2, 2)), Node("output", output, ("input",), (2,))), timesteps=4)


@given(st.lists(st.floats(-3.9, 3.9), min_size=4, max_size=4), st.integers(0, 8))
def test_encoding_rounds_to_the_nearest(values: list[float], scale_exp: int) -> None:
    samples = np.array(values).reshape(1, 1, 2, 2)
    encoded = encode(samples, program(scale_exp=scale_exp, low=-(2**12), high=2**12))
    assert encoded.values.dtype == np.int32
    assert encoded.clipped == 0
    assert np.abs(decode(encoded.values, program(scale_exp=scale_exp)) - samples).max() <= 0.5 * 2.0**-scale_exp


def test_ties_go_to_even() -> None:
    samples = np.array([0.5, 1.5, 2.5, -0.5]).reshape(1, 1, 2, 2) / 64
    assert encode(samples, program()).values.ravel().tolist() == [0, 2, 2, 0]


def test_what_does_not_fit_is_clipped_and_counted() -> None:
    samples = np.array([4.0, 4.1, -4.0, -1e9]).reshape(1, 1, 2, 2)
    encoded = encode(samples, program())
    assert encoded.values.ravel().tolist() == [256, 256, -256, -256]
    assert encoded.clipped == 2


def test_decoding_undoes_encoding_exactly() -> None:
    values = np.arange(-256, 257, dtype=np.int32)
    again = encode(decode(values, program()), program())
    np.testing.assert_array_equal(again.values, values)


def test_logits_are_scaled_divided_and_biased() -> None:
    logits = np.array([[[392, 0], [-392, 49]]])
    expected = [[[1.5, -1.0], [-0.5, -1.0 + 1 / 8]]]
    np.testing.assert_allclose(real_logits(logits, program()), expected, rtol=1e-15)


def test_the_prediction_is_the_largest_mean_and_the_first_of_equals() -> None:
    # (T, N, classes)
    logits = np.array([[[0.0, 3.0, 0.0], [1.0, 1.0, 0.0]], [[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    predictions = predict(logits)
    assert predictions.tolist() == [1, 0]
    assert predictions.dtype == np.int64


def test_an_input_without_bounds_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        encode(np.zeros((1, 1, 2, 2)), program(low=None, high=None))  # type: ignore[arg-type]
