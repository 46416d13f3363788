"""Our LIF step against the code of Lava's own process model, run without Lava's runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from resformer.compiler.backends.lava._compat import import_lava
from resformer.compiler.ir import fixedpoint
from resformer.compiler.target import LOIHI

NEURONS = 2000
STEPS = 14
INTERVAL = 7


class Port:
    """Stands for Lava's in-port, which yields given data, and for its out-port, which keeps what it is sent."""

    def __init__(self) -> None:
        self.data: npt.NDArray[Any] = np.zeros(0)

    def recv(self) -> npt.NDArray[Any]:
        return self.data

    def send(self, data: npt.NDArray[Any]) -> None:
        self.data = data


def lava_neurons(
    *, vth: int, du: int, dv: int, bias_mant: npt.NDArray[np.int16], bias_exp: npt.NDArray[np.int8]
) -> Any:
    """Lava's ``LIFReset`` in fixed point, its variables in the types that it declares."""
    import_lava()
    from lava.proc.lif.models import PyLifResetModelBitAcc

    model = PyLifResetModelBitAcc({"reset_interval": INTERVAL, "reset_offset": 1})
    model.u, model.v = (np.zeros(NEURONS, dtype=np.int32) for _ in range(2))
    model.vth, model.du, model.dv = np.int32(vth), np.uint16(du), np.uint16(dv)
    model.bias_mant, model.bias_exp = bias_mant, bias_exp.astype(np.int16)
    model.a_in, model.s_out = Port(), Port()
    return model


@pytest.mark.parametrize("dv", [0, 1, 1365, 2048, 4095])
@pytest.mark.parametrize(("vth", "scale"), [(2**11, 2**11), (2**17 - 1, 2**17 - 1), (3, 4), (0, 2)])
@pytest.mark.parametrize("du", [4095, 3000])
def test_spikes_and_states_are_lavas(vth: int, scale: int, dv: int, du: int) -> None:
    rng = np.random.default_rng(dv + vth)
    bias_mant = rng.integers(-min(scale, 4095), min(scale, 4095) + 1, NEURONS).astype(np.int16)
    bias_exp = rng.integers(0, 8, NEURONS).astype(np.int8)
    lava = lava_neurons(vth=vth, du=du, dv=dv, bias_mant=bias_mant, bias_exp=bias_exp)
    bias = fixedpoint.scale_bias(bias_mant, bias_exp)
    largest = scale if du == LOIHI.du_no_memory else 7 * scale // 10
    u = v = np.zeros(NEURONS, dtype=np.int64)
    fired = 0
    for time_step in range(1, STEPS + 1):
        a = rng.integers(-largest // 2, largest + 1, NEURONS)
        if (time_step - 1) % INTERVAL == 0:
            u = v = np.zeros(NEURONS, dtype=np.int64)
        step = fixedpoint.lif_step(u, v, a, bias=bias, vth=vth, du=du, dv=dv)
        u, v = step.u, step.v
        lava.time_step, lava.a_in.data = time_step, a.astype(np.int32)
        lava.run_spk()
        np.testing.assert_array_equal(step.spikes, lava.s_out.data)
        np.testing.assert_array_equal(u, lava.u)
        np.testing.assert_array_equal(v, lava.v)
        fired += int(step.spikes.sum())
    # with the widest threshold and v forgotten at once, no input is large enough
    assert fired or (vth, dv) == (LOIHI.vth_mantissa_max, 4095), "no neuron ever fired, so this compared little"


def test_lava_would_wrap_where_we_refuse() -> None:
    """Beyond a_max, Lava's u wraps around."""
    zero = np.zeros(NEURONS, dtype=np.int16)
    for a, wraps in ((LOIHI.a_max, False), (LOIHI.a_max + 2, True), (-LOIHI.a_max, False), (-LOIHI.a_max - 1, True)):
        lava = lava_neurons(vth=1, du=4095, dv=2048, bias_mant=zero, bias_exp=zero.astype(np.int8))
        lava.time_step, lava.a_in.data = 2, np.full(NEURONS, a, dtype=np.int32)
        lava.run_spk()
        assert bool((lava.u != 64 * a).any()) is wraps
