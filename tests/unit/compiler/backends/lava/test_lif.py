"""The faster model of Lava's LIFReset against Lava's own, step by step, beyond what a program can ask for."""

from typing import Any

import resformer.compiler.backends.lava  # noqa: F401 # First: since Python 3.11, Lava cannot be imported without it.

# isort: split

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lava.proc.lif.models import PyLifResetModelBitAcc
from numpy.testing import assert_array_equal

from resformer.compiler.backends.lava.processes import lif
from resformer.compiler.backends.lava.processes.lif import PyFastLifResetModel
from support.wires import Wire

MAGNITUDES = (2**4, 2**17, 2**22, 2**31)
"""Sizes of inputs: u holds the first; the second wraps u; the third leaves 24 bits even so; the last wraps 32 bits."""

EDGES = (2**17, -(2**17), 2**17 + 1, -(2**17) - 1)
"""Inputs on both sides of the limits beyond which a u that keeps nothing wraps around."""


def model(model_class: type[PyLifResetModelBitAcc], state: dict[str, Any], reset: tuple[int, int]) -> Any:
    made = model_class({"reset_interval": reset[0], "reset_offset": reset[1]})
    for name, value in state.items():
        setattr(made, name, value.copy() if isinstance(value, np.ndarray) else value)
    made.a_in, made.s_out = Wire(), Wire()
    return made


def step(model: Any, activation: np.ndarray) -> tuple[np.ndarray, ...]:
    model.a_in.message = activation
    model.time_step += 1
    model.run_spk()
    return model.s_out.sent.pop(), model.u.copy(), model.v.copy()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_it_does_what_the_stock_model_does(data: st.DataObject) -> None:
    draw = data.draw
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mantissas, exponents = (draw(st.sampled_from([shape, shape[-1:]])) for _ in range(2))
    state = {
        "du": draw(st.sampled_from([4095, 2047, 1000, 0])),
        "dv": draw(st.sampled_from([2048, 0, 1, 1365, 4096])),
        "vth": draw(st.sampled_from([0, 1000, 2**17 - 1])),
        "u": rng.integers(-(2**23) + 1, 2**23, shape, dtype=np.int32),
        "v": rng.integers(-(2**23) + 1, 2**23, shape, dtype=np.int32),
        "bias_mant": np.broadcast_to(rng.integers(-4096, 4096, mantissas, dtype=np.int16), shape),
        "bias_exp": np.broadcast_to(rng.integers(-2, 8, exponents, dtype=np.int16), shape),
    }
    interval = draw(st.integers(1, 5))
    reset = interval, draw(st.integers(0, 5))
    tile = draw(st.integers(1, 40))
    stock, fast = model(PyLifResetModelBitAcc, state, reset), model(PyFastLifResetModel, state, reset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lif, "TILE", tile)
        for _ in range(6):
            magnitude = draw(st.sampled_from(MAGNITUDES))
            activation = rng.integers(-magnitude, magnitude, shape, dtype=np.int32)
            activation.flat[0] = draw(st.sampled_from(EDGES))
            for expected, found in zip(step(stock, activation), step(fast, activation), strict=True):
                assert_array_equal(found, expected)


def test_what_is_set_between_steps_counts_as_in_the_stock_model() -> None:
    zeros = np.zeros(3, dtype=np.int32)
    state = {"du": 4095, "dv": 0, "vth": 10, "u": zeros, "v": zeros, "bias_mant": zeros, "bias_exp": zeros}
    stock, fast = model(PyLifResetModelBitAcc, state, (100, 0)), model(PyFastLifResetModel, state, (100, 0))
    for each in (stock, fast):
        step(each, np.array([1, 2, 3]))
        each.bias_mant[...], each.vth, each.dv = [700, -5, 9], 5, 2048
        each.on_var_update()
    for expected, found in zip(step(stock, zeros), step(fast, zeros), strict=True):
        assert_array_equal(found, expected)


def test_spikes_leave_as_bytes() -> None:
    zeros = np.zeros((2, 2), dtype=np.int32)
    state = {"du": 4095, "dv": 0, "vth": 0, "u": zeros, "v": zeros, "bias_mant": zeros, "bias_exp": zeros}
    made = model(PyFastLifResetModel, state, (4, 1))
    spikes, _, _ = step(made, np.array([[1, 0], [-1, 2]]))
    assert spikes.dtype == np.bool_
    assert_array_equal(spikes, [[True, False], [False, True]])
