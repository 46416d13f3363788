"""Loihi's arithmetic against plain Python integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resformer.compiler.ir import fixedpoint
from resformer.compiler.target import LOIHI

V_MAX = 2**23 - 1
A_MAX = 2**17 - 1

potentials = st.integers(-V_MAX, V_MAX)
currents = st.one_of(st.integers(-A_MAX, A_MAX), st.integers(-64, 64), st.sampled_from([-A_MAX, 0, A_MAX]))
decays = st.one_of(st.integers(0, 4095), st.sampled_from([0, 2048, 4095]))
biases = st.one_of(st.integers(-4095, 4095), st.just(0))


def towards_zero(numerator: int, denominator: int) -> int:
    """The quotient without its fraction."""
    quotient = abs(numerator) // denominator
    return -quotient if numerator < 0 else quotient


@dataclass
class Neuron:
    """One neuron of Lava's ``PyLifResetModelBitAcc``, restated with Python's integers, which neither wrap nor round."""

    vth: int
    du: int
    dv: int
    bias_mant: int
    bias_exp: int
    u: int = 0
    v: int = 0
    clipped: int = 0

    def step(self, a: int) -> bool:
        self.u = towards_zero(self.u * (4096 - (self.du + 1)), 4096) + 64 * a
        v = towards_zero(self.v * (4096 - self.dv), 4096) + self.u + self.bias_mant * 2**self.bias_exp
        self.clipped += v < -V_MAX
        self.v = max(-V_MAX, min(V_MAX, v))
        fires = self.v > 64 * self.vth
        if fires:
            self.v = 0
        return fires


@given(x=potentials, shift=st.integers(0, 23))
@example(x=-1, shift=1)
@example(x=3, shift=1)
@example(x=-5, shift=0)
def test_shifts_round_to_the_nearest_and_ties_upward(x: int, shift: int) -> None:
    rounded = math.floor(Fraction(x, 2**shift) + Fraction(1, 2))
    assert fixedpoint.shift_right(np.array([x]), shift).tolist() == [rounded]


@given(x=potentials, amount=st.integers(0, 4096))
@example(x=-1, amount=2048)
@example(x=-4097, amount=4095)
@example(x=-V_MAX, amount=0)
def test_decay_rounds_towards_zero(x: int, amount: int) -> None:
    assert fixedpoint.decay(np.array([x]), amount).tolist() == [towards_zero(x * (4096 - amount), 4096)]


@dataclass
class CubaNeuron:
    """One neuron of the reference's ``CubaLIF``, restated with Python's integers, which neither wrap nor round."""

    vth: int
    v_drop: int
    du: int
    dv: int
    u_bias: int
    v_bias: int
    soft_reset: bool
    u: int = 0
    v: int = 0
    clipped: int = 0

    def step(self, a: int) -> bool:
        u = towards_zero(self.u * (4095 - self.du), 4096) + 64 * a + self.u_bias
        self.u = max(-V_MAX, min(V_MAX, u))
        v = towards_zero(self.v * (4096 - self.dv), 4096) + self.u + self.v_bias
        self.v = max(-V_MAX, min(V_MAX, v))
        # a neuron that is clipped from above and then reset to zero has lost nothing
        self.clipped += (self.u != u) + (self.v > v or (self.v < v and self.soft_reset))
        fires = self.v > 64 * self.vth
        if fires:
            self.v = self.v - self.v_drop if self.soft_reset else 0
        return fires


@given(
    vth=st.one_of(st.integers(0, 2**17 - 1), st.integers(0, 100)),
    v_drop=st.integers(0, V_MAX),
    du=decays,
    dv=st.integers(0, 4096),
    biases=st.tuples(potentials, potentials) | st.just((0, 0)),
    soft_reset=st.booleans(),
    inputs=st.lists(st.one_of(currents, potentials), min_size=1, max_size=20),
)
@example(vth=2**17 - 1, v_drop=1, du=0, dv=0, biases=(0, 0), soft_reset=True, inputs=[V_MAX] * 4)
@example(vth=0, v_drop=0, du=4095, dv=4096, biases=(0, -1), soft_reset=True, inputs=[1, 0, -1])
@example(vth=3, v_drop=0, du=2048, dv=1, biases=(-V_MAX, V_MAX), soft_reset=False, inputs=[-V_MAX, V_MAX, 5])
def test_neurons_with_a_current_step_as_their_restatement(
    vth: int, v_drop: int, du: int, dv: int, biases: tuple[int, int], soft_reset: bool, inputs: list[int]
) -> None:
    neuron = CubaNeuron(vth, v_drop if soft_reset else 0, du, dv, *biases, soft_reset)
    arrays = (np.array([each]) for each in (vth, neuron.v_drop, du, dv, *biases))
    parameters = fixedpoint.CubaParameters(*arrays, soft_reset)
    u = v = np.zeros(1, dtype=np.int64)
    clipped = 0
    for a in inputs:
        step = fixedpoint.cuba_lif_step(u, v, np.array([a]), parameters)
        u, v, clipped = step.u, step.v, clipped + step.clipped
        assert (step.spikes.tolist(), u.tolist(), v.tolist()) == ([neuron.step(a)], [neuron.u], [neuron.v])
    assert clipped == neuron.clipped


@given(
    du=decays,
    dv=st.integers(0, 4096),
    u_bias=potentials,
    inputs=st.lists(st.one_of(currents, potentials), min_size=1, max_size=20),
)
@example(du=0, dv=0, u_bias=0, inputs=[V_MAX, V_MAX, -V_MAX])
def test_integrators_are_neurons_that_never_fire(du: int, dv: int, u_bias: int, inputs: list[int]) -> None:
    u = v = np.zeros(1, dtype=np.int64)
    clipped = restated_u = restated_v = restated_clipped = 0
    parameters = fixedpoint.CubaLiParameters(*(np.array([each]) for each in (du, dv, u_bias)))
    for a in inputs:
        step = fixedpoint.cuba_li_step(u, v, np.array([a]), parameters)
        u, v, clipped = step.u, step.v, clipped + step.clipped
        whole_u = towards_zero(restated_u * (4095 - du), 4096) + 64 * a + u_bias
        restated_u = max(-V_MAX, min(V_MAX, whole_u))
        whole_v = towards_zero(restated_v * (4096 - dv), 4096) + restated_u
        restated_v = max(-V_MAX, min(V_MAX, whole_v))
        restated_clipped += (whole_u != restated_u) + (whole_v != restated_v)
        assert (u.tolist(), v.tolist(), clipped) == ([restated_u], [restated_v], restated_clipped)


@given(
    vth=st.one_of(st.integers(0, 2**17 - 1), st.integers(0, 100)),
    dv=decays,
    bias_mant=biases,
    bias_exp=st.integers(0, 7),
    inputs=st.lists(currents, min_size=1, max_size=20),
)
@example(vth=2**17 - 1, dv=0, bias_mant=4095, bias_exp=7, inputs=[A_MAX] * 5)
@example(vth=2**17 - 1, dv=0, bias_mant=-4095, bias_exp=7, inputs=[-A_MAX] * 5)
@example(vth=1, dv=0, bias_mant=-63, bias_exp=0, inputs=[-A_MAX, 0])
@example(vth=16, dv=2048, bias_mant=0, bias_exp=0, inputs=[16, 8, 16, 8])
def test_neurons_step_as_their_restatement(vth: int, dv: int, bias_mant: int, bias_exp: int, inputs: list[int]) -> None:
    neuron = Neuron(vth, du=4095, dv=dv, bias_mant=bias_mant, bias_exp=bias_exp)
    bias = fixedpoint.scale_bias(np.array([bias_mant], dtype=np.int16), np.array([bias_exp], dtype=np.int8))
    u = v = np.zeros(1, dtype=np.int64)
    clipped = 0
    for a in inputs:
        step = fixedpoint.lif_step(u, v, np.array([a]), bias=bias, vth=vth, du=4095, dv=dv)
        u, v, clipped = step.u, step.v, clipped + step.clipped
        assert (step.spikes.tolist(), u.tolist(), v.tolist()) == ([neuron.step(a)], [neuron.u], [neuron.v])
    assert clipped == neuron.clipped


@given(du=st.integers(0, 4095), inputs=st.lists(st.integers(-2000, 2000), min_size=1, max_size=20))
def test_currents_with_memory_step_as_their_restatement(du: int, inputs: list[int]) -> None:
    neuron = Neuron(1000, du=du, dv=2048, bias_mant=0, bias_exp=0)
    u = v = np.zeros(1, dtype=np.int64)
    for a in inputs:
        step = fixedpoint.lif_step(u, v, np.array([a]), bias=np.zeros(1, np.int64), vth=1000, du=du, dv=2048)
        u, v = step.u, step.v
        assert (step.spikes.tolist(), u.tolist(), v.tolist()) == ([neuron.step(a)], [neuron.u], [neuron.v])


@given(vth=st.integers(0, 2**17 - 1), v=potentials, dv=decays)
def test_a_tie_does_not_fire_and_one_unit_more_does(vth: int, v: int, dv: int) -> None:
    zero = np.zeros(1, dtype=np.int64)
    missing = 64 * vth - towards_zero(v * (4096 - dv), 4096)

    def fires(bias: int) -> bool:
        step = fixedpoint.lif_step(zero, np.array([v]), zero, bias=np.array([bias]), vth=vth, du=4095, dv=dv)
        return bool(step.spikes[0])

    assert not fires(missing)
    assert fires(missing + 1)


def test_a_current_that_would_wrap_is_refused() -> None:
    zero = np.zeros(2, dtype=np.int64)
    for a in (A_MAX + 1, -A_MAX - 1):
        with pytest.raises(AssertionError, match="wrap"):
            fixedpoint.lif_step(zero, zero, np.array([0, a]), bias=zero, vth=1, du=4095, dv=2048)


@given(
    rows=st.lists(
        st.tuples(st.lists(st.integers(-127, 127), min_size=3, max_size=3), st.integers(0, 7)), min_size=1, max_size=4
    )
)
def test_weights_are_shifted_by_the_exponent_of_their_output(rows: list[tuple[list[int], int]]) -> None:
    weight = np.array([values for values, _ in rows], dtype=np.int8)
    exponents = np.array([exponent for _, exponent in rows], dtype=np.int8)
    expected = [[value * 2**exponent for value in values] for values, exponent in rows]
    assert fixedpoint.scale_weight(weight, exponents).tolist() == expected
    kernels = weight.reshape(len(rows), 3, 1, 1)
    assert fixedpoint.scale_weight(kernels, exponents).reshape(len(rows), 3).tolist() == expected
    assert fixedpoint.scale_weight(weight, 3).tolist() == [[8 * value for value in values] for values, _ in rows]


@given(mantissa=st.integers(-4095, 4095), exponent=st.integers(0, 7))
def test_biases_are_shifted_without_wrapping(mantissa: int, exponent: int) -> None:
    scaled = fixedpoint.scale_bias(np.array([mantissa], dtype=np.int16), np.array([exponent], dtype=np.int8))
    assert scaled.tolist() == [mantissa * 2**exponent]


@given(values=st.lists(st.integers(-300, 300), max_size=10), limit=st.integers(0, 200))
def test_saturation_clips_both_ways_and_counts(values: list[int], limit: int) -> None:
    clipped, count = fixedpoint.saturate(np.array(values, dtype=np.int64), limit)
    assert clipped.tolist() == [max(-limit, min(limit, value)) for value in values]
    assert count == sum(abs(value) > limit for value in values)


@given(
    values=st.lists(st.integers(-(2**62), 2**62) | st.integers(-300, 300), max_size=10),
    exponent=st.integers(0, 24),
    limit=st.integers(0, 2**23 - 1),
)
def test_scaled_values_saturate_before_they_wrap(values: list[int], exponent: int, limit: int) -> None:
    clipped, count = fixedpoint.scale_and_saturate(np.array(values, dtype=np.int64), exponent, limit)
    assert clipped.tolist() == [max(-limit, min(limit, value * 2**exponent)) for value in values]
    assert count == sum(abs(value) * 2**exponent > limit for value in values)


def test_the_limits_are_those_of_the_restatement() -> None:
    assert (LOIHI.v_max, LOIHI.a_max, LOIHI.decay_unity, LOIHI.a_shift) == (V_MAX, A_MAX, 4096, 6)
