"""E2, operation by operation: stock Lava's processes and ours against the reference interpreter."""

from collections.abc import Callable

import numpy as np
import pytest

from resformer.compiler.backends.lava.backend import LavaBackend
from resformer.compiler.ir import reference
from resformer.compiler.ir.ops import LIF, Relay
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import SPIKE
from resformer.compiler.target import LOIHI
from support.program_builder import CURRENT, GRADED, ProgramBuilder
from support.traces import assert_same_trace

Case = tuple[Program, np.ndarray]


def conv() -> Case:
    """Nothing about it is square."""
    net = ProgramBuilder((4, 9, 12))
    net.conv("conv", "input", 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 3), groups=2)
    return net.finish(timesteps=2), net.samples(3, largest=200)


def conv_of_frames() -> Case:
    """A frame for each step, as in event data; its values are small, but take more than one bit."""
    net = ProgramBuilder((2, 4, 3))
    net.conv("conv", "input", 3, (1, 3))
    return net.finish(timesteps=3), net.samples(4, timesteps=3, largest=2)


def synapses_of_spikes() -> Case:
    net = ProgramBuilder((4, 5, 3))
    spikes = net.lif("lif", net.conv("first", "input", 5))
    net.conv("second", spikes, 6, (3, 3), padding=(1, 1))
    return net.finish(), net.samples(3)


def dense_of_graded() -> Case:
    """Odd weights and the most extreme weights, at exponents 0 and above."""
    net = ProgramBuilder((6, 1, 1))
    first = net.dense("first", net.flatten("flatten", "input"), 7)
    relay = net.relay("relay", first, limit=LOIHI.graded_max)
    net.dense("second", relay, 5, weight_exp=3)
    return net.finish(timesteps=2), net.samples(3, largest=100)


def dense_of_spikes() -> Case:
    net = ProgramBuilder((3, 4, 2))
    spikes = net.lif("lif", net.conv("conv", "input", 3))
    net.dense("dense", net.flatten("flatten", spikes), 4, weight_exp=1)
    return net.finish(), net.samples(3)


def sum_pool() -> Case:
    """More channels than 8 bits count."""
    net = ProgramBuilder((130, 6, 4))
    net.sum_pool("pool", "input", (3, 2), (2, 1))
    return net.finish(timesteps=1), net.samples(2, largest=1000)


def max_pool() -> Case:
    """A pool of negative values: a padding that counted as zero would be the maximum."""
    net = ProgramBuilder((3, 8, 5))
    net.max_pool("pool", "input", (3, 2), (2, 1), (1, 0))
    return net.finish(timesteps=2), -np.abs(net.samples(3, largest=1000)) - 1


def relay() -> Case:
    net = ProgramBuilder((3, 4, 5))
    net.relay("relay", net.conv("conv", "input", 6), limit=500)
    return net.finish(timesteps=2), net.samples(3)


def delays() -> Case:
    """Paths of 0 to 3 synapses meet in sums of sums, two of which other nodes read as well."""
    net = ProgramBuilder((2, 3, 4))
    one = net.relay("one", net.conv("first", "input", 2), limit=4000)
    two = net.conv("second", one, 2, largest=5)
    inner = net.plus("inner", two, "input")
    three = net.conv("third", net.relay("again", inner, limit=4000), 2, largest=5)
    outer = net.plus("outer", three, net.relay("other", inner, limit=4000), inner, one)
    net.plus("last", outer, net.lif("lif", outer))
    return net.finish(timesteps=3), net.samples(4)


def products() -> Case:
    """Both products of DSSA, on images that are not square, one of them saturating."""
    net = ProgramBuilder((4, 4, 6))
    x = net.lif("x", net.conv("to_x", "input", 4))
    y = net.conv("y", x, 4, (2, 3), stride=(2, 3))
    scores = net.matmul("scores", y, x, heads=2, transpose=True, limit=400)
    gates = net.lif("gates", scores, vth=100)
    op = net.nodes[scores].op
    mixed = net.add("mixed", type(op)(CURRENT, 2, False, op.bias, 500), y, gates, shape=(4, 4, 6))
    net.relay("relay", mixed, limit=LOIHI.a_max)
    return net.finish(), net.samples(3)


def many_populations() -> Case:
    """More populations than one probe has ports."""
    net = ProgramBuilder((3, 3, 3))
    x = net.conv("features.conv", "input", 5)
    for index in range(9):
        net.lif(f"features.{index}", x, vth=100 * index)
    net.plus("features.add", *(f"features.{index}" for index in range(9)))
    return net.finish(timesteps=3), net.samples(3)


CASES = [
    conv,
    conv_of_frames,
    synapses_of_spikes,
    dense_of_graded,
    dense_of_spikes,
    sum_pool,
    max_pool,
    relay,
    delays,
    products,
    many_populations,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_operation_is_the_reference(case: Callable[[], Case]) -> None:
    program, samples = case()
    expected = reference.run(program, samples, record=True)
    assert expected.logits.any()
    trace = LavaBackend().run(program, samples, record=True)
    assert_same_trace(trace, expected)
    for name, count in trace.saturated.items():
        assert count or program[name].op.limit > 1000, f"{name} never saturates"


@pytest.mark.parametrize(
    ("timesteps", "du", "dv"),
    [(1, 4095, 2048), (4, 4095, 2048), (7, 4095, 0), (3, 1000, 500), (2, 0, 4096)],
)
def test_neurons_are_the_reference(timesteps: int, du: int, dv: int) -> None:
    """Neurons without synapses, so that the input is their a: the most extreme values, and ties to the last bit."""
    net = ProgramBuilder((4, 6, 5))
    vth, mantissas = 1000, np.array([0, 4095, -4095, 1], dtype=np.int16)
    net.add("relay", Relay(GRADED, np.zeros(4, dtype=np.int32), LOIHI.a_max), "input")
    net.add("lif", LIF(SPIKE, vth, du, dv, mantissas, np.array([0, 7, 7, 6], dtype=np.int8)), "relay")
    program = net.finish(timesteps=timesteps)
    samples = net.samples(6, timesteps=timesteps, largest=2 * vth)
    # Where u decays slowly, inputs add up, and must not wrap.
    extreme = LOIHI.a_max if du == LOIHI.du_no_memory else LOIHI.a_max // timesteps
    samples[1, :, :, 4] = extreme
    samples[2:4, :, :, 4] = -extreme
    samples[:, :, 0, :2] = vth
    samples[:, :, 3, :2] = vth - 1  # With a bias of 64: v is the threshold at once, and a tie does not fire.

    expected = reference.run(program, samples, record=True)
    fired = expected.spikes["lif"].dense()
    assert fired.any()
    assert not fired[0, :, [0, 3], :2].any()
    assert expected.saturated["lif"] or dv == LOIHI.decay_unity or timesteps == 1
    assert_same_trace(LavaBackend().run(program, samples, record=True), expected)
