"""E2, operation by operation: sim against the reference interpreter, on shapes drawn at random."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from resformer.compiler.ir import reference
from resformer.compiler.ir.ops import LIF, Delay, MaxPool2d, Relay
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import SPIKE
from resformer.compiler.target import LOIHI
from support.networks import with_input_range
from support.program_builder import GRADED, ProgramBuilder
from support.sim_runs import assert_sim_is_the_reference, examples, sim_backend

SEEDS = st.integers(0, 2**16)
SIZES = st.integers(1, 6)
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
EXAMPLES = settings(max_examples=examples(20))


def finish(net: ProgramBuilder, samples: np.ndarray, *, timesteps: int, promised: bool) -> Program:
    program = net.finish(timesteps=timesteps)
    return with_input_range(program, samples) if promised else program


@EXAMPLES
@given(
    seed=SEEDS,
    groups=st.integers(1, 4),
    per_group=st.tuples(SIZES, SIZES),
    kernel=PAIRS,
    stride=PAIRS,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=PAIRS,
    size=st.tuples(st.integers(7, 10), st.integers(7, 10)),
    timesteps=st.integers(1, 3),
    from_spikes=st.booleans(),
    promised=st.booleans(),
)
def test_convolutions(
    seed, groups, per_group, kernel, stride, padding, dilation, size, timesteps, from_spikes, promised
) -> None:
    net = ProgramBuilder((groups * per_group[0], *size), seed)
    source = "input"
    if from_spikes:
        source = net.lif("lif", net.relay("relay", source, limit=500))
    net.conv(
        "conv",
        source,
        groups * per_group[1],
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    samples = net.samples(3, timesteps=timesteps, largest=1000)
    assert_sim_is_the_reference(finish(net, samples, timesteps=timesteps, promised=promised), samples)


@pytest.mark.parametrize("channels", [16, 64])
def test_convolutions_as_wide_as_real_ones(channels: int) -> None:
    """Blocks of channels, and the widths that int8 kernels are made for."""
    net = ProgramBuilder((channels, 6, 5))
    spikes = net.lif("lif", net.relay("relay", "input", limit=500))
    middle = net.lif("middle", net.conv("up", spikes, 2 * channels))
    mixed = net.conv("mixed", middle, 2 * channels, (3, 3), padding=(1, 1), groups=4)
    net.conv("down", net.lif("last", net.plus("add", mixed, "up")), channels)
    samples = net.samples(3, timesteps=4, largest=1000)
    for promised in (True, False):
        assert_sim_is_the_reference(finish(net, samples, timesteps=4, promised=promised), samples)
        del net.nodes["output"]


def test_convolution_with_the_largest_weights_of_the_largest_exponent() -> None:
    """Sums just below and just above what float32 holds."""
    for inputs in (1032, 1033):
        net = ProgramBuilder((inputs, 1, 2))
        spikes = net.add("lif", LIF(SPIKE, 0, 4095, 2048, *(np.zeros(1, t) for t in (np.int16, np.int8))), "input")
        conv = net.conv("conv", spikes, 16)
        op = replace(
            net.nodes[conv].op,
            weight=np.full((16, inputs, 1, 1), 127, np.int8),
            weight_exp=np.full(16, 7, np.int8),
            bias=np.full(16, 1, np.int32),
        )
        net.nodes[conv] = replace(net.nodes[conv], op=op)
        samples = np.ones((2, inputs, 1, 2), np.int32)
        expected = assert_sim_is_the_reference(finish(net, samples, timesteps=1, promised=True), samples)
        assert expected.logits.max() == inputs * 127 * 128 + 1


def test_biases_of_convolutions_and_of_the_classifier() -> None:
    """Before biases are placed in neurons, synapses hold them."""
    net = ProgramBuilder((4, 5, 5))
    net.lif("lif", net.conv("first", "input", 8))
    net.conv("second", "lif", 8, (3, 3), groups=2)
    net.dense("dense", net.flatten("flatten", net.relay("relay", "second", limit=900)), 3)
    for name in ("first", "second", "dense"):
        op = net.nodes[name].op
        bias = net.rng.integers(-900, 900, op.bias.shape).astype(np.int32)
        net.nodes[name] = replace(net.nodes[name], op=replace(op, bias=bias))
    samples = net.samples(3)
    for promised in (True, False):
        assert_sim_is_the_reference(finish(net, samples, timesteps=2, promised=promised), samples)
        del net.nodes["output"]


@EXAMPLES
@given(
    seed=SEEDS,
    channels=SIZES,
    timesteps=st.integers(1, 8),
    dv=st.sampled_from([0, 1000, 2048, 3072, 4000, 4096]),
    du=st.sampled_from([4095, 4095, 4095, 2000, 0]),
    vth=st.sampled_from([0, 100, 2**17 - 1]),
    promised=st.booleans(),
    scale=st.sampled_from([200, 2**13, LOIHI.a_max]),
)
def test_neurons(seed, channels, timesteps, dv, du, vth, promised, scale) -> None:
    """Any decay, ties, potentials that are clipped, biases finer than the input."""
    net = ProgramBuilder((channels, 3, 5), seed)
    # Where u decays slowly, inputs add up, and must not wrap.
    largest = scale if du == LOIHI.du_no_memory else min(scale, LOIHI.a_max // timesteps)
    mantissas = net.rng.integers(-4095, 4096, channels).astype(np.int16)
    exponents = net.rng.integers(0, 8, channels).astype(np.int8)
    net.add("lif", LIF(SPIKE, vth, du, dv, mantissas, exponents), "input")
    samples = net.samples(2, timesteps=timesteps, largest=largest)
    samples[:, :, :, 0] = vth
    samples[:, :, :, 1] = -largest
    samples = np.clip(samples, -largest, largest)
    program = finish(net, samples, timesteps=timesteps, promised=promised)
    assert_sim_is_the_reference(program, samples)


@pytest.mark.parametrize("dv", [1, 1000, 2047, 2048, 3001])
def test_large_potentials_decay_to_the_last_bit(dv: int) -> None:
    """Products of 23-bit and 12-bit integers, which float32 rounds, bring neurons to their threshold or just above."""
    channels, vth = 64, 100_000
    net = ProgramBuilder((channels, 1, 2))
    bias, samples = np.zeros(channels, np.int16), np.zeros((1, 2, channels, 1, 2), np.int32)
    for channel in range(channels):
        missing = 1
        while missing % 64:
            first, mantissa = int(net.rng.integers(70_000, 90_000)), int(net.rng.integers(-4095, 4096))
            kept = (64 * first + mantissa) * (4096 - dv) // 4096
            missing = 64 * vth + channel % 2 - kept - mantissa
        bias[channel] = mantissa
        samples[0, :, channel, 0, 0] = first, missing // 64
    net.add("lif", LIF(SPIKE, vth, 4095, dv, bias, np.zeros(channels, np.int8)), "input")
    expected = assert_sim_is_the_reference(finish(net, samples, timesteps=2, promised=True), samples)
    assert_array_equal(expected.spikes["lif"].dense()[1, 0, :, 0, 0], np.arange(channels) % 2 == 1)


@pytest.mark.parametrize("promised", [True, False])
def test_potentials_are_clipped_and_counted(promised: bool) -> None:
    """A clipped potential is odd: halved, it is truncated toward zero, which brings this one just above threshold."""
    net = ProgramBuilder((2, 2, 2))
    net.lif("lif", "input", vth=65535, bias=0)
    samples = np.full((2, 3, 2, 2, 2), -LOIHI.a_max, np.int32)
    samples[:, 2] = LOIHI.a_max
    expected = assert_sim_is_the_reference(finish(net, samples, timesteps=3, promised=promised), samples)
    assert expected.saturated["lif"] == 2 * 8
    assert expected.spikes["lif"].count == 2 * 8


def test_a_current_that_would_wrap_is_refused() -> None:
    net = ProgramBuilder((2, 2, 2))
    net.lif("lif", "input")
    samples = np.full((1, 2, 2, 2), LOIHI.a_max + 1, np.int32)
    for promised in (True, False):
        program = finish(net, samples, timesteps=2, promised=promised)
        del net.nodes["output"]
        with pytest.raises(AssertionError, match="wrap"):
            reference.run(program, samples)
        with pytest.raises(AssertionError, match="lif: a current would wrap"):
            sim_backend().run(program, samples)


@EXAMPLES
@given(
    seed=SEEDS,
    channels=SIZES,
    summands=st.integers(2, 4),
    limit=st.sampled_from([0, 50, 2000]),
    frames=st.booleans(),
    promised=st.booleans(),
    timesteps=st.integers(1, 3),
)
def test_sums_relays_and_neurons(seed, channels, summands, limit, frames, promised, timesteps) -> None:
    """Sums with values that are the same at all steps, and nodes that are read more than once."""
    net = ProgramBuilder((channels, 3, 4), seed)
    first = net.lif("first", net.conv("conv0", "input", channels))
    parts = [net.conv(f"part{index}", first, channels) for index in range(summands - 1)]
    stream = net.relay("relay", net.plus("sum", *parts, "input"), limit=limit)
    last = net.conv("last", net.lif("second", stream), channels)
    net.relay("again", net.plus("total", last, stream, "sum"), limit=300)
    samples = net.samples(3, timesteps=timesteps if frames else None, largest=60)
    assert_sim_is_the_reference(finish(net, samples, timesteps=timesteps, promised=promised), samples)


@EXAMPLES
@given(
    seed=SEEDS,
    kind=st.sampled_from(["max", "sum"]),
    kernel=PAIRS,
    stride=PAIRS,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    frames=st.booleans(),
    promised=st.booleans(),
)
def test_pools(seed, kind, kernel, stride, padding, frames, promised) -> None:
    net = ProgramBuilder((3, 6, 5), seed)
    if kind == "max":
        # every window holds something that is not padding
        padding = tuple(min(pad, taps - 1) for pad, taps in zip(padding, kernel, strict=True))
        net.add("pool", MaxPool2d(GRADED, kernel, stride, padding), "input")
    else:
        net.sum_pool("pool", "input", kernel, stride)
    samples = net.samples(2, timesteps=2 if frames else None, largest=1000) - 900
    assert_sim_is_the_reference(finish(net, samples, timesteps=2, promised=promised), samples)


@EXAMPLES
@given(
    seed=SEEDS,
    heads=st.integers(1, 3),
    per_head=st.integers(1, 5),
    patch=PAIRS,
    patches=PAIRS,
    transpose=st.booleans(),
    limit=st.sampled_from([100, 131071]),
    scale=st.sampled_from([1, 100, 30_000, 2**23 - 60]),
)
def test_products(seed, heads, per_head, patch, patches, transpose, limit, scale) -> None:
    """Products that are not fused with neurons: a y of one digit or of four, saturating or not."""
    size = tuple(one * many for one, many in zip(patch, patches, strict=True))
    net = ProgramBuilder((heads * per_head, *size), seed)
    y = net.max_pool("y", "input", patch, patch, (0, 0))
    x = net.lif("x", net.relay("to_x", "input", limit=400))
    scores = net.matmul("scores", y, x, heads=heads, transpose=True, limit=limit)
    if not transpose:
        gates = net.lif("gates", net.relay("to_gates", scores, limit=400))
        net.add("mixed", replace(net.nodes[scores].op, transpose=False), y, gates, shape=net.shape("input"))
    samples = net.samples(2, timesteps=2, largest=scale)
    assert_sim_is_the_reference(finish(net, samples, timesteps=2, promised=True), samples)


@EXAMPLES
@given(
    seed=SEEDS,
    heads=st.integers(1, 3),
    per_head=st.sampled_from([1, 3, 16, 32]),
    patch=st.integers(1, 3),
    patches=st.integers(1, 4),
    limits=st.tuples(st.sampled_from([300, 131071]), st.sampled_from([300, 131071])),
    weight_exp=st.sampled_from([0, 7]),
    timesteps=st.integers(1, 5),
    dv=st.sampled_from([2048, 2048, 1500]),
)
def test_attention(seed, heads, per_head, patch, patches, limits, weight_exp, timesteps, dv) -> None:
    """Both products and their neurons, fused where that is exact."""
    channels = heads * per_head
    net = ProgramBuilder((channels, patch * patches, patch * patches), seed)
    x = net.lif("x", "input", vth=20)
    pair = (patch, patch)
    for name in ("y1", "y2"):
        conv = net.conv(name, x, channels, pair, stride=pair)
        op = replace(net.nodes[conv].op, weight_exp=np.full(channels, weight_exp, np.int8))
        net.nodes[conv] = replace(net.nodes[conv], op=op)
    scores = net.matmul("scores", "y1", x, heads=heads, transpose=True, limit=limits[0])
    gates = net.lif("gates", scores, vth=100, dv=dv, bias=0)
    mixed = net.matmul("mixed", "y2", gates, heads=heads, transpose=False, limit=limits[1])
    net.conv("last", net.lif("out", mixed, vth=100, dv=dv, bias=0), channels)
    samples = net.samples(2, timesteps=timesteps, largest=40)
    assert_sim_is_the_reference(finish(net, samples, timesteps=timesteps, promised=True), samples)


def test_attention_over_more_steps_than_potentials_have_fraction_bits() -> None:
    """Small sums and thresholds: after seven steps halving truncates, and half a unit decides whether neurons fire."""
    channels, heads = 16, 2
    net = ProgramBuilder((channels, 8, 8))
    x = net.lif("x", "input", vth=20, bias=0)
    for name in ("y1", "y2"):
        net.conv(name, x, channels, (2, 2), stride=(2, 2), largest=1)
        net.nodes[name] = replace(
            net.nodes[name], op=replace(net.nodes[name].op, weight_exp=np.zeros(channels, np.int8))
        )
    scores = net.matmul("scores", "y1", x, heads=heads, transpose=True, limit=20)
    mixed = net.matmul("mixed", "y2", net.lif("gates", scores, vth=2, bias=0), heads=heads, transpose=False, limit=20)
    net.conv("last", net.lif("out", mixed, vth=2, bias=0), channels)
    for name in ("scores", "mixed"):
        op = replace(net.nodes[name].op, bias=np.zeros(channels, np.int32))
        net.nodes[name] = replace(net.nodes[name], op=op)
    samples = net.samples(4, timesteps=12, largest=40)
    assert_sim_is_the_reference(finish(net, samples, timesteps=12, promised=True), samples)


def test_spikes_of_a_map_gate_the_second_product() -> None:
    """Spikes (C, H, W) are read as (heads, n, H * W)."""
    net = ProgramBuilder((2, 4, 9))
    spikes = net.lif("spikes", "input", vth=5)
    y = net.conv("y", net.lif("z", net.conv("to_z", "input", 6)), 6)
    op = net.nodes[net.matmul("scores", y, "z", heads=2, transpose=True, limit=1000)].op
    del net.nodes["scores"]
    y4 = net.max_pool("y4", y, (2, 5), (2, 4), (0, 0))
    assert net.shape(y4) == (6, 2, 2)
    net.add("product", replace(op, transpose=False), y4, spikes, shape=(6, 3, 3))
    samples = net.samples(3, largest=20)
    expected = assert_sim_is_the_reference(finish(net, samples, timesteps=3, promised=True), samples)
    assert expected.logits.any()


def test_an_attention_map_is_read_as_a_map() -> None:
    """A convolution, a pool and a flattening of (heads, n, H * W)."""
    net = ProgramBuilder((6, 3, 3))
    z = net.lif("z", "input", vth=5)
    y = net.conv("y", z, 6)
    scores = net.matmul("scores", y, z, heads=2, transpose=True, limit=1000)
    gates = net.lif("gates", scores, vth=50)
    made = net.conv("conv", gates, 4, (3, 3), padding=(1, 1))
    pooled = net.max_pool("pool", scores, (3, 3), (1, 1), (1, 1))
    joined = net.plus("joined", made, net.conv("wide", net.lif("lif", pooled), 4))
    flat = net.flatten("flatten", net.relay("relay", joined, limit=2000))
    net.dense("dense", flat, 3)
    samples = net.samples(3, largest=20)
    assert_sim_is_the_reference(finish(net, samples, timesteps=3, promised=True), samples)


@EXAMPLES
@given(
    seed=SEEDS,
    shape=st.tuples(SIZES, SIZES, SIZES),
    outputs=SIZES,
    weight_exp=st.integers(0, 7),
    largest=st.sampled_from([1, 1000, 2**22]),
    promised=st.booleans(),
)
def test_dense_layers(seed, shape, outputs, weight_exp, largest, promised) -> None:
    net = ProgramBuilder(shape, seed)
    first = net.dense("first", net.flatten("flatten", "input"), outputs, weight_exp=weight_exp)
    net.dense("second", net.relay("relay", first, limit=LOIHI.graded_max), 3)
    samples = net.samples(3, largest=largest)
    assert_sim_is_the_reference(finish(net, samples, timesteps=2, promised=promised), samples)


def test_delays_flattened_spikes_and_populations_without_a_map() -> None:
    net = ProgramBuilder((2, 3, 4))
    spikes = net.lif("spikes", "input", vth=3)
    flat = net.dense("dense", net.flatten("flatten", spikes), 5)
    net.dense("last", net.lif("neurons", flat, vth=100), 5)
    late = net.dense("late", net.lif("more", "last", vth=100), 5)
    net.relay("relay", net.plus("sum", late, "last", flat), limit=200)
    samples = net.samples(4)
    program = finish(net, samples, timesteps=3, promised=True)
    assert any(isinstance(node.op, Delay) for node in program)
    assert_sim_is_the_reference(program, samples)


def test_programs_of_one_node_or_two() -> None:
    net = ProgramBuilder((2, 3, 4))
    bias = np.array([1, -2], np.int32)
    for op, shape in (
        (None, (2, 3, 4)),
        (Relay(GRADED, bias, 3), (2, 3, 4)),
        (Relay(replace(GRADED, scale_exp=-1), bias, 2, shift=1), (2, 3, 4)),
    ):
        if op is not None:
            net.add("relay", op, "input", shape=shape)
        samples = net.samples(3)
        program = finish(net, samples, timesteps=2, promised=True)
        del net.nodes["output"]
        assert_sim_is_the_reference(program, samples)
