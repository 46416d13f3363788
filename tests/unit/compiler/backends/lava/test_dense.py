"""The faster model of Lava's Dense against Lava's own, on random weights."""

from typing import Any

import resformer.compiler.backends.lava  # noqa: F401 # First: since Python 3.11, Lava cannot be imported without it.

# isort: split

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lava.proc.dense.models import PyDenseModelBitAcc
from lava.utils.weightutils import SignMode
from numpy.testing import assert_array_equal

from resformer.compiler.backends.lava.processes.dense import PyFastDenseModel
from support.wires import Wire

LARGEST = {np.float32: 2**13, np.float64: 2**14, None: 2**31 - 1}
"""The largest messages for each way in which the faster model sums; with the last, sums wrap around."""


def three_steps(
    model_class: type, parameters: dict[str, Any], bits: int, weights: np.ndarray, message: np.ndarray
) -> Any:
    """A model after three steps, its weights doubled before the third."""
    model = model_class(parameters)
    model.weights, model.num_message_bits = weights.copy(), np.array([bits])
    model.a_buff = np.zeros(len(weights), dtype=np.int32)
    model.s_in = model.a_out = Wire(message)
    model.run_spk()
    model.weights *= 2
    model.on_var_update()
    model.run_spk()
    model.run_spk()
    return model


@pytest.mark.parametrize("dtype", LARGEST)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_sends_what_the_stock_model_sends(dtype: type | None, data: st.DataObject) -> None:
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    # Mixed weights are clipped beyond nine bits, and lose their last.
    weights = rng.integers(-300, 301, (draw(st.integers(1, 4)), draw(st.integers(1, 6))), dtype=np.int32)
    parameters: dict[str, Any] = {"weight_exp": draw(st.integers(-9, 9))}
    parameters |= draw(st.sampled_from([{}, {"sign_mode": SignMode.MIXED}, {"num_weight_bits": 5}]))
    message = rng.integers(-LARGEST[dtype], LARGEST[dtype], weights.shape[1], dtype=np.int32)
    bits = draw(st.sampled_from([0, 24]))

    stock, fast = (
        three_steps(model, parameters, bits, weights, message) for model in (PyDenseModelBitAcc, PyFastDenseModel)
    )

    for expected, found in zip(stock.a_out.sent, fast.a_out.sent, strict=True):
        assert_array_equal(found.astype(np.int32), expected.astype(np.int32))


@pytest.mark.parametrize("dtype", LARGEST)
def test_it_takes_the_narrowest_type_that_is_exact(dtype: type | None) -> None:
    message = np.full(4, LARGEST[dtype], dtype=np.int32)
    model = three_steps(PyFastDenseModel, {}, 24, np.full((1, 4), 255, dtype=np.int32), message)
    assert model.matrices.keys() == ({dtype} if dtype else set())
