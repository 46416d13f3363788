"""What ``report.json`` says about nodes."""

from __future__ import annotations

import math
from dataclasses import replace

import nir
import numpy as np
import pytest
import torch

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.ops import LIF, Conv2d, Dense, Input, IntegerLIF, RecurrentCubaLIF, Relay
from resformer.compiler.ir.program import Program, connections, may_clip, real_weight
from resformer.compiler.ir.signal import SPIKE, Signal, SignalKind
from resformer.compiler.save.report import sqnr_db, weight_memory_bits
from resformer.compiler.target import LOIHI
from support.program_builder import ProgramBuilder

INDEX_BITS = 12


def current(low: int, high: int, scale_exp: int = 4) -> Signal:
    return Signal(SignalKind.CURRENT, scale_exp, low, high)


def conv(
    shape: tuple[int, int, int, int], *, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1
) -> Conv2d:
    weight = np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)
    exp = (np.arange(shape[0]) % 3).astype(np.int8)
    pairs = [(each, each) for each in (stride, padding, dilation)]
    return Conv2d(current(-9, 9), weight, exp, np.zeros(shape[0], np.int32), *pairs, groups)


def program(op: Conv2d | Dense, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> Program:
    entry = Node("input", Input(Signal(SignalKind.GRADED, 2, -8, 8)), (), in_shape)
    return Program((entry, Node("layer", op, ("input",), out_shape)), timesteps=4)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"), [(1, 0, 1, 1), (2, 1, 1, 2), (1, 2, 2, 1), (3, 3, 1, 4), (2, 3, 1, 1)]
)
def test_synapses_into_the_padding_do_not_count(stride: int, padding: int, dilation: int, groups: int) -> None:
    op = conv((8, 4 // groups, 3, 3), stride=stride, padding=padding, dilation=dilation, groups=groups)
    ones, taps = torch.ones(1, 4, 9, 9), torch.ones(*op.weight.shape)
    touched = torch.conv2d(ones, taps, None, stride, padding, dilation, groups)
    made = program(op, (4, 9, 9), tuple(touched.shape[1:]))
    assert connections(made, "layer", INDEX_BITS) == int(touched.sum())
    # only a tenth of the weights is stored, each with an index
    few = replace(op, weight=np.where(np.random.default_rng(1).random(op.weight.shape) < 0.1, op.weight, np.int8(0)))
    touched = torch.conv2d(
        ones, torch.from_numpy((few.weight != 0) * 1.0).float(), None, stride, padding, dilation, groups
    )
    made = program(few, (4, 9, 9), tuple(touched.shape[1:]))
    assert connections(made, "layer", INDEX_BITS) == int(touched.sum())


def test_dense_synapses_are_all_pairs() -> None:
    dense = Dense(current(-9, 9), np.ones((5, 7), np.int8), 0, np.zeros(5, np.int32))
    made = program(dense, (7,), (5,))
    assert connections(made, "layer", INDEX_BITS) == 35


@pytest.mark.parametrize("bits", [8, 12])
def test_weight_memory_holds_recurrent_synapses(bits: int) -> None:
    net = ProgramBuilder((4, 3, 3))
    net.cuba_lif("cuba", net.conv("conv", "input", 4), kernel=(3, 3), groups=2, weight_bits=bits)
    made = net.finish(timesteps=2)
    recurrent = made["cuba"].op
    assert isinstance(recurrent, RecurrentCubaLIF)
    stored = [made["conv"].op.weight, *(part.weight for part in recurrent.parts())]
    assert len(stored) == (2 if bits == 8 else 3)
    # without indices all weights are stored, each in the bits of the largest of its array
    largest = [int(np.abs(each.astype(np.int64)).max()) for each in stored]
    expected = sum(each.size * (1 + most.bit_length()) for each, most in zip(stored, largest, strict=True))
    assert weight_memory_bits(made, 0) == expected


def test_real_weights_and_their_errors() -> None:
    op = conv((3, 2, 1, 1))
    made = program(op, (2, 4, 4), (3, 4, 4))
    expected = op.weight * 2.0 ** op.weight_exp[:, None, None, None] / 2**2  # from scale 2^2 to 2^4
    np.testing.assert_array_equal(real_weight(made, "layer"), expected)

    def folded(weight: np.ndarray) -> Graph[nir.NIRNode]:
        layer = nir.Conv2d(None, weight, 1, 0, 1, 1, np.zeros(3))
        return Graph((Node("layer", layer, (), (3, 4, 4)),), timesteps=4)

    assert sqnr_db(folded(expected), made, "layer") is None, "nothing was rounded"
    tenth = sqnr_db(folded(expected / 1.1), made, "layer")
    assert tenth is not None
    assert math.isclose(tenth, 20.0, abs_tol=1e-9)


def lif_of(du: int, dv: int, bias: int = 0) -> LIF:
    return LIF(SPIKE, 16, du, dv, np.array([bias], np.int16), np.array([6], np.int8))


def clips(lif: LIF, low: int, timesteps: int) -> bool:
    """Whether neurons clip a potential if each step gives them the same value."""
    return bool(lif.evaluate(np.full((timesteps, 1, 1, 1, 1), low, dtype=np.int64)).clipped)


def lif_after(low: int, *, dv: int, du: int = LOIHI.du_no_memory, bias: int = 0, timesteps: int = 4) -> bool:
    source = Node("input", Input(Signal(SignalKind.GRADED, 4, low, 0)), (), (1, 1, 1))
    node = Node("lif", lif_of(du, dv, bias), ("input",), (1, 1, 1))
    return may_clip(Program((source, node), timesteps=timesteps), "lif")


def test_potentials_saturate_where_their_worst_sum_leaves_24_bits() -> None:
    # halving, v sums to 64 * a * (2 - 2^(1 - T)), T = 4: 120 a
    largest = LOIHI.v_max // 120
    assert not lif_after(-largest, dv=2048)
    assert lif_after(-largest - 1, dv=2048)
    assert lif_after(-largest + 10, dv=2048, bias=-20)
    assert not lif_after(-largest - 1, dv=2048, timesteps=1)
    assert lif_after(-largest, dv=1024)


def test_a_current_with_memory_gathers_until_potentials_saturate() -> None:
    # both halving, u is 64 a (1, 3/2, 7/4, 15/8) and v ends as 64 a (15/8 + 7/8 + 3/8 + 1/8) = 208 a
    largest = LOIHI.v_max // 208
    for low, expected in ((-largest, False), (-largest - 1, True)):
        assert lif_after(low, du=2047, dv=2048) is expected
        assert clips(lif_of(2047, 2048), low, 4) is expected
    assert not lif_after(-largest - 1, dv=2048)


def test_a_spike_resets_the_potential_and_not_what_its_current_gathered() -> None:
    """A bias makes the first step fire; what the input gathers in the current then pushes down from zero."""
    lows = range(-3750, -3650)
    found = [clips(lif_of(0, 0, bias=4000), low, 9) for low in lows]
    assert 0 < sum(found) < len(lows)
    assert [lif_after(low, du=0, dv=0, bias=4000, timesteps=9) for low in lows] == found


def test_rounded_counts_leave_potentials_that_saturate_below() -> None:
    vth, low, high = 71_875, -25_000, 35_938
    held = {"vth": vth, "floor": -LOIHI.v_max, "bias": 0}
    op = IntegerLIF(
        Signal(SignalKind.GRADED, 0),
        **{name: np.array([[[each]]], dtype=np.int32) for name, each in held.items()},
        max_spikes=4,
        dv=0,
        even=False,
    )
    # half of the threshold makes one spike, which leaves the other half below zero
    given = np.array([high, low, low, low, low], dtype=np.int64).reshape(5, 1, 1, 1, 1)
    for timesteps, expected in ((4, False), (5, True)):
        assert bool(op.evaluate(given[:timesteps]).clipped) is expected
        assert op.may_clip([current(low, high, 0)], timesteps) is expected
    assert not op.may_clip([current(low, 0, 0)], 4)


@pytest.mark.parametrize(("low", "high"), [(-90, 0), (0, 95)])
def test_relays_saturate_where_bounds_leave_their_limit(low: int, high: int) -> None:
    source = Node("input", Input(Signal(SignalKind.GRADED, 4, low, high)), (), (2, 1, 1))
    op = Relay(current(-100, 100), np.array([5, -10], np.int32), limit=100)
    for limit, shift, expected in ((100, 0, False), (99, 0, True), (25, 2, False), (24, 2, True)):
        node = Node("relay", replace(op, limit=limit, shift=shift), ("input",), (2, 1, 1))
        assert may_clip(Program((source, node), timesteps=4), "relay") is expected
