"""Facts that programs and their signals tell about themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resformer.compiler.ir import ops
from resformer.compiler.ir.ops import LIF
from resformer.compiler.ir.program import Program, require_schedule
from resformer.compiler.ir.signal import SPIKE, Signal, SignalKind
from resformer.compiler.passes.integer.balance_delays import balance_delays
from support.programs import CURRENT, ProgramByHand


@given(st.integers(-(2**24), 0), st.integers(0, 2**24))
def test_bits_are_the_least_in_two_s_complement(low: int, high: int) -> None:
    bits = Signal(SignalKind.CURRENT, 3, low, high).bits
    assert bits is not None
    assert -(2 ** (bits - 1)) <= low <= high < 2 ** (bits - 1)
    assert bits == 1 or low < -(2 ** (bits - 2)) or high >= 2 ** (bits - 2)


def test_spikes_have_one_bit_and_unknown_ranges_none() -> None:
    assert SPIKE.bits == 1
    assert Signal(SignalKind.GRADED, 0).bits is None
    assert Signal(SignalKind.GRADED, 0, low=0).bits is None


def one_layer(timesteps: int = 7, **neurons: Any) -> Program:
    build = ProgramByHand((1, 1, 1))
    lif = build.lif("lif", build.conv("conv", "input", np.ones((1, 1, 1, 1))), 3)
    value = build.add("flatten", ops.Flatten(Signal(CURRENT, 0)), lif)
    build.output(build.dense("classifier", value, [[1]]))
    edit = build.finish(timesteps).edit()
    lif_op = build.nodes["lif"].op
    assert isinstance(lif_op, LIF)
    edit.set_op("lif", replace(lif_op, **neurons))
    return edit.finish()


def test_programs_are_dyadic_while_nothing_is_truncated() -> None:
    assert one_layer(timesteps=7).is_dyadic
    assert not one_layer(timesteps=8).is_dyadic
    assert not one_layer(dv=2047).is_dyadic
    assert not one_layer(du=4094).is_dyadic


def test_biases_that_halving_would_truncate_are_not_dyadic() -> None:
    """A bias of 1/64 halves to nothing; one of 2^(T - 1) / 64 survives T - 1 halvings."""
    bias = np.array([1], dtype=np.int16)
    for timesteps, exponent, dyadic in ((1, 0, True), (2, 0, False), (4, 3, True), (4, 2, False), (7, 6, True)):
        program = one_layer(timesteps, bias_mant=bias, bias_exp=np.array([exponent], dtype=np.int8))
        assert program.is_dyadic is dyadic, (timesteps, exponent)


def test_latency_needs_a_schedule() -> None:
    program = one_layer()
    with pytest.raises(AssertionError, match="balance_delays has not run"):
        require_schedule(program)
    assert balance_delays(program).latency == 2
    assert program.lif_names == ("lif",)


def test_synapses_and_delays_take_steps_and_nothing_else_does() -> None:
    signal = Signal(CURRENT, 0)
    bias = np.zeros(1, dtype=np.int32)
    assert ops.Delay(signal, 5).hop == 5
    assert ops.SpikeMatMul(signal, 1, True, bias, 9).hop == 1
    assert ops.SumPool2d(signal, (1, 1), (1, 1)).hop == 1
    program = one_layer()
    assert {node.name: node.op.hop for node in program} == {
        "input": 0, "conv": 1, "lif": 0, "flatten": 0, "classifier": 1, "output": 0,
    }  # fmt: skip
    for op in (ops.Relay(signal, bias, 9), ops.Add(signal), ops.MaxPool2d(signal, (1, 1), (1, 1), (0, 0))):
        assert op.hop == 0
