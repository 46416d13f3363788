"""E2 in ONNX Runtime: each operation alone, then whole networks, against the reference interpreter."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resformer.compiler.ir import reference
from resformer.compiler.ir.ops import LIF, Delay, MaxPool2d, Output, SpikeMatMul
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import SPIKE
from resformer.compiler.ir.trace import Trace
from resformer.compiler.pipeline import CompileOptions, compile_checkpoint
from resformer.compiler.target import LOIHI
from resformer.errors import UnsupportedError
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.run.encode import encode, real_logits
from support.networks import compiled, images, with_input_range
from support.program_builder import CURRENT, GRADED, ProgramBuilder, tiny_resformer
from support.programs import Lowered, lowered_graphs
from support.traces import assert_same_trace

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from resformer.compiler.backends.onnx import OnnxBackend  # noqa: E402
from resformer.compiler.export.onnx.integer_model import export_integer  # noqa: E402

SEEDS = st.integers(0, 2**16)
SIZES = st.integers(1, 5)
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
EXAMPLES = settings(max_examples=25)

EXTREMES = (1, 127, 128, 2**15 - 1, 2**15, 2**23 - 1)
"""Values on both sides of what 8, 16 and 24 bits hold."""


def assert_onnx_is_the_reference(program: Program, samples: np.ndarray) -> Trace:
    """Require equal logits, spikes, graded values and counts, recorded or not; returns the reference's trace."""
    expected = reference.run(program, samples, record=True)
    backend = OnnxBackend()
    trace = backend.run(program, samples, record=True)
    assert trace.saturated == expected.saturated
    assert_same_trace(trace, expected)
    unrecorded = backend.run(program, samples)
    np.testing.assert_array_equal(unrecorded.logits, expected.logits)
    assert unrecorded.saturated == expected.saturated
    assert not unrecorded.spikes
    assert not unrecorded.graded
    return expected


def check(net: ProgramBuilder, samples: np.ndarray, *, timesteps: int) -> Trace:
    return assert_onnx_is_the_reference(with_input_range(net.finish(timesteps=timesteps), samples), samples)


def with_extremes(samples: np.ndarray, largest: int) -> np.ndarray:
    """The samples with the largest value of each sign, in opposite corners."""
    samples[..., 0, 0] = largest
    samples[..., -1, -1] = -largest
    return samples


@EXAMPLES
@given(
    seed=SEEDS,
    groups=st.integers(1, 3),
    per_group=st.tuples(st.integers(1, 2), SIZES),
    kernel=PAIRS,
    stride=PAIRS,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=PAIRS,
    size=st.tuples(st.integers(7, 10), st.integers(7, 10)),
    timesteps=st.integers(1, 3),
    biased=st.booleans(),
    largest=st.sampled_from((0, *EXTREMES)),
)
def test_convolutions(
    seed, groups, per_group, kernel, stride, padding, dilation, size, timesteps, biased, largest
) -> None:
    """Convolutions of spikes (where ``largest`` is 0), and of integers of one to three bytes."""
    net = ProgramBuilder((groups * per_group[0], *size), seed)
    source = "input" if largest else net.lif("lif", "input", vth=20, bias=0)
    # sums of the widest integers fit 32 bits only with small weights
    weights = 127 if largest < 2**15 else 1
    conv = net.conv(
        "conv",
        source,
        groups * per_group[1],
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        largest=weights,
    )
    if biased:
        op = net.nodes[conv].op
        bias = net.rng.integers(-900, 900, op.bias.shape).astype(np.int32)
        net.nodes[conv] = replace(net.nodes[conv], op=replace(op, bias=bias))
    samples = with_extremes(net.samples(2, timesteps=timesteps, largest=largest or 60), largest or 60)
    check(net, samples, timesteps=timesteps)


@pytest.mark.parametrize("largest", EXTREMES)
def test_every_byte_of_an_input_counts(largest: int) -> None:
    """One pixel at a time, through weights of both signs, at the edge of an image padded on all sides."""
    net = ProgramBuilder((1, 2, 2))
    conv = net.conv("conv", "input", 2, (3, 3), padding=(1, 1))
    op = net.nodes[conv].op
    weight = np.array([[[[1] * 3] * 3], [[[-2] * 3] * 3]], np.int8)
    net.nodes[conv] = replace(net.nodes[conv], op=replace(op, weight=weight, weight_exp=np.array([0, 3], np.int8)))
    values = sorted({0, 1, -1, 255, 256, -256, -257, 65535, 65536, -65536, largest, -largest})
    samples = np.zeros((len(values), 1, 2, 2), np.int32)
    samples[:, 0, 0, 1] = np.clip(values, -largest, largest)
    logits = check(net, samples, timesteps=1).logits
    np.testing.assert_array_equal(logits[0, :, 0], np.broadcast_to(samples[:, 0, :1, 1:], (len(values), 2, 2)))


@EXAMPLES
@given(
    seed=SEEDS,
    shape=st.tuples(SIZES, SIZES, SIZES),
    outputs=SIZES,
    weight_exp=st.integers(0, 3),
    largest=st.sampled_from([0, 1, 1000, 2**13]),
)
def test_dense_layers(seed, shape, outputs, weight_exp, largest) -> None:
    """Layers that read spikes, integers, and sums that fill 32 bits."""
    net = ProgramBuilder(shape, seed)
    source = "input" if largest else net.lif("lif", "input", vth=5)
    first = net.dense("first", net.flatten("flatten", source), outputs, weight_exp=weight_exp)
    op = net.nodes[first].op
    net.nodes[first] = replace(net.nodes[first], op=replace(op, bias=net.rng.integers(-9, 9, outputs).astype(np.int32)))
    net.dense("second", net.relay("relay", first, limit=2**20 - 1), 3)
    check(net, with_extremes(net.samples(3, largest=largest or 16), largest or 16), timesteps=2)


def test_a_classifier_whose_sums_fill_32_bits() -> None:
    net = ProgramBuilder((4, 1, 1))
    dense = net.dense("dense", net.flatten("flatten", "input"), 2)
    weight = np.array([[127] * 4, [-127, 127, -127, 127]], np.int8)
    net.nodes[dense] = replace(net.nodes[dense], op=replace(net.nodes[dense].op, weight=weight))
    samples = np.full((2, 4, 1, 1), (2**31 - 1) // (4 * 127), np.int32)
    samples[1] *= -1
    assert abs(check(net, samples, timesteps=1).logits).max() == 127 * 4 * samples[0, 0, 0, 0]


@EXAMPLES
@given(
    seed=SEEDS,
    kind=st.sampled_from(["max", "sum"]),
    kernel=PAIRS,
    stride=PAIRS,
    padding=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    of_spikes=st.booleans(),
)
def test_pools(seed, kind, kernel, stride, padding, of_spikes) -> None:
    """Pools of mostly negative values: a padding that counted as zero would be the maximum."""
    net = ProgramBuilder((3, 6, 5), seed)
    source = net.lif("lif", "input", vth=500) if of_spikes else "input"
    if kind == "max":
        # every window holds something that is not padding
        padding = tuple(min(pad, taps // 2) for pad, taps in zip(padding, kernel, strict=True))
        net.add("pool", MaxPool2d(GRADED, kernel, stride, padding), source)
    else:
        net.sum_pool("pool", source, kernel, stride)
    check(net, net.samples(2, timesteps=2, largest=1000) - 900, timesteps=2)


@settings(max_examples=60)
@given(
    seed=SEEDS,
    timesteps=st.integers(1, 8),
    dv=st.one_of(st.sampled_from([0, 1, 2048, 3072, 4095, 4096]), st.integers(0, 4096)),
    du=st.sampled_from([4095, 4095, 4095, 4094, 2000, 0]),
    vth=st.sampled_from([0, 100, 2**17 - 1]),
    scale=st.sampled_from([2, 200, 2**13, LOIHI.a_max]),
)
def test_neurons(seed, timesteps, dv, du, vth, scale) -> None:
    """Any decay, ties, negative potentials that leak, potentials that are clipped, biases finer than the input."""
    net = ProgramBuilder((4, 3, 5), seed)
    # where u decays slowly, inputs add up, and must not wrap
    largest = scale if du == LOIHI.du_no_memory else min(scale, LOIHI.a_max // timesteps)
    mantissas = net.rng.integers(-4095, 4096, 4).astype(np.int16)
    mantissas[:2] = 0
    net.add("lif", LIF(SPIKE, vth, du, dv, mantissas, net.rng.integers(0, 8, 4).astype(np.int8)), "input")
    samples = net.samples(2, timesteps=timesteps, largest=largest)
    samples[..., 0] = vth
    samples[..., 1] = -largest
    check(net, np.clip(samples, -largest, largest), timesteps=timesteps)


def test_neurons_at_their_limits() -> None:
    """A tie does not fire; a negative odd potential leaks toward zero; a clip from below is counted and matters."""
    net = ProgramBuilder((4, 1, 1))
    mantissas, exponents = np.array([0, -1, 0, -63], np.int16), np.zeros(4, np.int8)
    net.add("lif", LIF(SPIKE, 10, 4095, 2048, mantissas, exponents), "input")
    samples = np.zeros((1, 4, 4, 1, 1), np.int32)
    samples[0, :, 0, 0, 0] = 10, 5, 6, 0  # v: 640, a tie; 640 again; 704: fires
    samples[0, :, 1, 0, 0] = 0, 0, 10, 0  # v: -1; trunc(-1 / 2) - 1 = -1, no lower; 639
    samples[0, :, 2, 0, 0] = -LOIHI.a_max, -LOIHI.a_max, LOIHI.a_max, 0  # clipped at the second step
    samples[0, :, 3, 0, 0] = -LOIHI.a_max, 0, 0, 0  # v: -(2^23 - 1), which is not clipped yet
    expected = check(net, samples, timesteps=4)
    fired = expected.spikes["lif"].dense()[:, 0, :, 0, 0]
    assert fired.T.tolist() == [[False, False, True, False], [False] * 4, [False, False, True, False], [False] * 4]
    assert expected.saturated["lif"] == 1


@EXAMPLES
@given(
    seed=SEEDS,
    summands=st.integers(1, 3),
    limit=st.sampled_from([0, 50, 2000]),
    shift=st.sampled_from([0, 0, 1, 5, 23]),
    timesteps=st.integers(1, 3),
)
def test_sums_and_relays(seed, summands, limit, shift, timesteps) -> None:
    """Sums of spikes too, and of the same node twice; relays round where scales differ, and negative ties upward."""
    net = ProgramBuilder((3, 3, 4), seed)
    spikes = net.lif("lif", net.conv("conv", "input", 3))
    parts = [net.conv(f"part{index}", spikes, 3) for index in range(summands - 1)]
    total = net.plus("sum", *parts, "input", "input", spikes, spikes)
    net.relay("relay", total, limit=limit, shift=shift)
    check(net, net.samples(3, timesteps=timesteps, largest=60), timesteps=timesteps)


def test_rounding_of_relays() -> None:
    """Each integer around zero, at each shift."""
    for shift in range(1, 5):
        net = ProgramBuilder((1, 1, 65))
        relay = net.relay("relay", "input", limit=5, shift=shift)
        op = net.nodes[relay].op
        net.nodes[relay] = replace(net.nodes[relay], op=replace(op, bias=np.zeros(1, np.int32)))
        values = np.arange(-32, 33, dtype=np.int32)
        expected = check(net, values.reshape(1, 1, 1, 65), timesteps=1)
        rounded = np.floor(values / 2**shift + 0.5)
        np.testing.assert_array_equal(expected.logits.ravel(), np.clip(rounded, -5, 5))
        assert expected.saturated["relay"] == np.count_nonzero(abs(rounded) > 5)


@EXAMPLES
@given(
    seed=SEEDS,
    heads=st.integers(1, 3),
    per_head=SIZES,
    patch=PAIRS,
    patches=PAIRS,
    limits=st.tuples(st.sampled_from([300, 131071]), st.sampled_from([300, 131071])),
    largest=st.sampled_from([10, 60, 30_000, 32_767 - 50, 32_768 - 50, 2**23 - 60]),
    timesteps=st.integers(1, 3),
)
def test_products(seed, heads, per_head, patch, patches, limits, largest, timesteps) -> None:
    """Both products of DSSA, on images that are not square, with a y of one to three bytes, saturating or not."""
    size = tuple(one * many for one, many in zip(patch, patches, strict=True))
    net = ProgramBuilder((heads * per_head, *size), seed)
    y = net.max_pool("y", "input", patch, patch, (0, 0))
    x = net.lif("x", net.relay("to_x", "input", limit=400))
    scores = net.matmul("scores", y, x, heads=heads, transpose=True, limit=limits[0])
    gates = net.lif("gates", scores)
    op = replace(net.nodes[scores].op, transpose=False, limit=limits[1])
    net.add("mixed", op, y, gates, shape=net.shape("input"))
    samples = with_extremes(net.samples(2, timesteps=timesteps, largest=largest), largest)
    check(net, samples, timesteps=timesteps)


def test_a_map_of_any_kind_of_spikes_gates_a_product() -> None:
    """Spikes (C, H, W) are read as (heads, n, H * W), and in ONNX the maximum of spikes has not the type of spikes."""
    net = ProgramBuilder((2, 4, 9))
    spikes = net.lif("spikes", "input", vth=5)
    maxima = net.add("maxima", MaxPool2d(SPIKE, (3, 1), (1, 1), (1, 0)), spikes)
    y = net.max_pool("y", net.conv("conv", "input", 6), (2, 5), (2, 4), (0, 0))
    assert net.shape(y) == (6, 2, 2)
    op = SpikeMatMul(CURRENT, 2, False, np.array([1, 2, 3, 4, 5, 6], np.int32), 5000)
    net.add("product", op, y, maxima, shape=(6, 3, 3))
    expected = check(net, net.samples(3, largest=20), timesteps=3)
    assert expected.logits.any()
    assert expected.saturated["product"]


def test_delays_vanish_and_spikes_are_flattened() -> None:
    net = ProgramBuilder((2, 3, 4))
    spikes = net.lif("spikes", "input", vth=3)
    flat = net.dense("dense", net.flatten("flatten", spikes), 5)
    net.dense("last", net.lif("neurons", flat, vth=100), 5)
    late = net.dense("late", net.lif("more", "last", vth=100), 5)
    net.relay("relay", net.plus("sum", late, "last", flat), limit=200)
    samples = net.samples(4)
    assert any(isinstance(node.op, Delay) for node in net.finish(timesteps=3))
    del net.nodes["output"]
    check(net, samples, timesteps=3)


def test_logits_are_real_too() -> None:
    """They are exactly those that ``real_logits`` computes from the integers, the scale, the divisor and the bias."""
    net = ProgramBuilder((3, 2, 2))
    net.dense("dense", net.flatten("flatten", "input"), 4)
    signal = replace(CURRENT, scale_exp=7)
    net.nodes["dense"] = replace(net.nodes["dense"], op=replace(net.nodes["dense"].op, signal=signal))
    net.add("output", Output(signal, 49, net.rng.standard_normal(4)), "dense", shape=(4,))
    samples = net.samples(3, timesteps=2)
    program = with_input_range(Program(tuple(net.nodes.values()), 2, {"input": "frames"}), samples)
    session = ort.InferenceSession(export_integer(program).SerializeToString())
    integers, logits = session.run(["logits_int", "logits"], {"input": samples})
    expected = reference.run(program, samples).logits.swapaxes(0, 1)
    assert (integers.dtype, logits.dtype) == (np.int32, np.float64)
    np.testing.assert_array_equal(integers, expected)
    np.testing.assert_array_equal(logits, real_logits(expected, program))


@pytest.mark.parametrize("name", ["logits", "logits_int", "output.real", "input.repeats", "lif.saturated", "lif.bias"])
def test_layers_may_have_the_names_of_the_models_own_values(name: str) -> None:
    net = ProgramBuilder((2, 3, 4))
    spikes = net.lif("lif", net.conv("conv", "input", 4), vth=100)
    net.dense(name, net.flatten(f"{name}.1", spikes), 5)
    assert check(net, net.samples(3), timesteps=2).logits.any()


def test_populations_with_the_names_of_the_models_own_values_are_not_recorded() -> None:
    net = ProgramBuilder((2, 3, 4))
    spikes = net.lif("logits", net.conv("conv", "input", 4), vth=100)
    net.dense("dense", net.flatten("flatten", spikes), 5)
    samples = net.samples(3)
    program = with_input_range(net.finish(timesteps=2), samples)
    found, expected = OnnxBackend().run(program, samples), reference.run(program, samples)
    np.testing.assert_array_equal(found.logits, expected.logits)
    with pytest.raises(UnsupportedError, match=r"logits: cannot be recorded in an ONNX model, .*; rename the"):
        OnnxBackend().run(program, samples, record=True)


@pytest.mark.parametrize("timesteps", range(1, 9))
def test_saturating_networks(timesteps: int) -> None:
    """Static images at odd numbers of steps, event frames at even ones."""
    program, net = tiny_resformer(timesteps=timesteps)
    samples = net.samples(3, timesteps=None if timesteps % 2 else timesteps)
    expected = assert_onnx_is_the_reference(with_input_range(program, samples), samples)
    assert sum(expected.saturated.values()) > 100
    assert expected.logits.any()


def test_onnx_itself_defines_it_so() -> None:
    """The standard's own evaluator, written in numpy by its authors, instead of ONNX Runtime."""
    from onnx.reference import ReferenceEvaluator

    program, net = tiny_resformer(timesteps=3)
    samples = net.samples(2)
    program = with_input_range(program, samples)
    model = export_integer(program, debug=True)
    values = ReferenceEvaluator(model).run(None, {"input": samples})
    found = {output.name: value for output, value in zip(model.graph.output, values, strict=True)}
    expected = reference.run(program, samples, record=True)
    np.testing.assert_array_equal(found["logits_int"], expected.logits.swapaxes(0, 1))
    for name, train in expected.spikes.items():
        np.testing.assert_array_equal(found[name].reshape(train.shape), train.dense(), err_msg=name)
    for name, graded in expected.graded.items():
        np.testing.assert_array_equal(found[name].reshape(graded.shape), graded, err_msg=name)
    assert {name: found[f"{name}.saturated"] for name in expected.saturated} == expected.saturated


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stem": "conv3x3", "timesteps": 1},
        {"stem": "conv3x3", "neuron": "PLIF", "timesteps": 6},
        {"timesteps": 8, "image_size": 32, "in_channels": 3},
    ],
    ids=lambda fields: "_".join(map(str, fields.values())) or "default",
)
def test_compiled_networks(make_model: Callable[..., SpikingResformer], tmp_path: Path, fields: dict[str, Any]) -> None:
    """Compiled networks of tau = 2 and of PLIF, for images and for frames, each run on both kinds of input."""
    program = compiled(make_model(**fields), tmp_path)
    for steps in (None, program.timesteps):
        expected = assert_onnx_is_the_reference(program, images(program, 2, steps))
        assert all(0 < train.count < train.size for train in expected.spikes.values()) or program.timesteps == 1


@settings(max_examples=20)
@given(lowered_graphs())
def test_random_networks(network: Lowered) -> None:
    program = network.program
    signal = program.input.op.signal
    rng = np.random.default_rng(0)
    samples = rng.integers(signal.low, signal.high + 1, (2, *program.input.shape)).astype(np.int32)
    assert_onnx_is_the_reference(program, samples)


def test_mnist(mnist_checkpoint: Path, mnist_images: np.ndarray) -> None:
    """Every LIF of the trained network, every neuron, every step."""
    options = CompileOptions(timesteps=4, image_size=32)
    program = compile_checkpoint(mnist_checkpoint, options).program
    samples = encode(mnist_images[:4].astype(np.float64), program).values
    expected = assert_onnx_is_the_reference(program, samples)
    assert tuple(expected.spikes) == program.lif_names
    assert sum(train.count for train in expected.spikes.values()) > 100_000
