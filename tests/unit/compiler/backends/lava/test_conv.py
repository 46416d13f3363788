"""The faster model of Lava's Conv against Lava's own, on random convolutions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from resformer.compiler.backends.lava.processes.conv import PyFastConvModel, PyWideConvModel
from support.wires import Wire

LARGEST = {"float32": (20, 1000), "float64": (2**13, 2**10), "stock": (2**13, 2**20)}
"""The largest weights and messages for each way in which the faster model sums; the last two let sums wrap around."""

OVERFLOW = "ignore:invalid value encountered in cast:RuntimeWarning"
"""Stock Lava's sums may leave 32 bits."""


def two_steps(
    model_class: type[PyWideConvModel], weight: np.ndarray, message: np.ndarray, bits: int, geometry: np.ndarray
) -> list[np.ndarray]:
    """What a model sends in its first and its second step."""
    model = model_class({})
    model.kernel_size = np.array(weight.shape[1:3])
    model.stride, model.padding, model.dilation = geometry
    model.groups = np.array([message.shape[-1] // weight.shape[-1]])
    model.weight, model.num_message_bits = weight, np.array([bits])
    model.a_buf = np.zeros((1,), dtype=np.int32)
    model.s_in = model.a_out = Wire(message)
    model.run_spk()
    model.run_spk()
    return model.a_out.sent


@pytest.mark.filterwarnings(OVERFLOW)
@pytest.mark.parametrize("size", LARGEST)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_sends_what_the_stock_model_sends(size: str, data: st.DataObject) -> None:
    draw, pairs = data.draw, lambda low, high: st.tuples(*[st.integers(low, high)] * 2)
    groups, per_group, kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(pairs(1, 3))
    geometry = np.array([draw(pairs(1, 3)), draw(pairs(0, 2)), draw(pairs(1, 2))])
    span = geometry[2] * (np.array(kernel) - 1) + 1
    extent = np.maximum(span - 2 * geometry[1], 1) + draw(pairs(0, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weight_max, message_max = LARGEST[size]
    weight = rng.integers(-weight_max, weight_max + 1, (groups * draw(st.integers(1, 3)), *kernel, per_group))
    message = rng.integers(-message_max, message_max + 1, (*extent, groups * per_group)).astype(np.int32)
    bits = draw(st.sampled_from([0, 24]))

    stock, fast = (
        two_steps(model, weight.astype(np.int32), message, bits, geometry)
        for model in (PyWideConvModel, PyFastConvModel)
    )

    assert_array_equal(fast[0], stock[0])
    assert_array_equal(fast[1], stock[1])
    assert fast[1].dtype == stock[1].dtype == np.int32


@pytest.mark.filterwarnings(OVERFLOW)
@pytest.mark.parametrize(("size", "ways"), [("float32", {np.float32}), ("float64", {np.float64}), ("stock", set())])
def test_it_takes_the_narrowest_type_that_is_exact(size: str, ways: set[type]) -> None:
    weight_max, message_max = LARGEST[size]
    model = PyFastConvModel({})
    model.kernel_size, model.stride, model.padding, model.dilation = np.array([[3, 3], [1, 1], [0, 0], [1, 1]])
    model.groups, model.weight = np.array([1]), np.full((2, 3, 3, 4), weight_max, dtype=np.int32)
    model.convolve(np.full((3, 3, 4), message_max, dtype=np.int32))
    assert model.products.keys() == ways


def test_new_weights_take_effect() -> None:
    model = PyFastConvModel({})
    model.kernel_size, model.stride, model.padding, model.dilation = np.array([[1, 1], [1, 1], [0, 0], [1, 1]])
    model.groups, model.weight = np.array([1]), np.full((1, 1, 1, 1), 3, dtype=np.int32)
    message = np.full((1, 1, 1), 5, dtype=np.int32)
    assert model.convolve(message) == 15
    model.weight = np.full((1, 1, 1, 1), 4, dtype=np.int32)
    model.on_var_update()
    assert model.convolve(message) == 20
