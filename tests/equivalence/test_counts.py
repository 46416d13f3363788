"""Attention of counts, and gates of spikes that are broadcast: definitions against plain torch, E2 of each backend."""

from __future__ import annotations

import itertools
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resformer.compiler.backends import open_backend
from resformer.compiler.chips.chip import load_chip
from resformer.compiler.export.onnx.float_model import export_float
from resformer.compiler.files.build import read_build
from resformer.compiler.files.nir import read_nir, write_nir
from resformer.compiler.ir import float_interpreter, primitives, reference
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.ops import SpikeAttention, SpikeGate
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.text import format_graph
from resformer.compiler.passes.integer.place_biases import place_biases
from resformer.compiler.pipeline import CompileOptions, compile_network
from resformer.compiler.placement.activity import measure
from resformer.compiler.placement.place import place
from resformer.compiler.quantize.lower import quantize
from resformer.compiler.samples.arrays import check_samples
from resformer.compiler.save.build import write_build
from resformer.runtime.run.encode import encode
from resformer.runtime.verify.verify import Comparing, verify
from support.graphs import GraphBuilder
from support.networks import with_input_range
from support.program_builder import CURRENT, ProgramBuilder
from support.sim_runs import assert_sim_is_the_reference
from support.traces import assert_same_trace

SIZES = [
    pytest.param((2, 9, 3, 2), id="scores-first"),
    pytest.param((2, 2, 5, 4), id="values-first"),
    pytest.param((1, 2000, 2, 1), id="wide scores"),
    pytest.param((1, 5, 50, 40), id="wide values"),
]
"""Heads, channels of a head, rows, columns; with 2000 channels or tokens, values of the first product exceed a byte."""


def attending(
    heads: int,
    depth: int,
    rows: int,
    columns: int,
    *,
    width: int | None = None,
    weight_exp: int = 0,
    limit: int = 2**17 - 1,
    seed: int = 0,
    timesteps: int = 3,
    counts: str = "",
) -> tuple[Program, np.ndarray]:
    """Populations that fire often, an attention of them, and neurons and synapses behind it.

    The populations that ``counts`` names fire several spikes a step.
    """
    net = ProgramBuilder((3, rows, columns), seed)
    channels = {"q": heads * depth, "k": heads * depth, "v": heads * (depth if width is None else width)}
    q, k, v = (
        (net.multi_spike if name in counts else net.lif)(name, net.conv(f"conv_{name}", "input", count), vth=150)
        for name, count in channels.items()
    )
    op = SpikeAttention(CURRENT, num_heads=heads, weight_exp=weight_exp, limit=limit)
    attention = net.add("attention", op, q, k, v)
    vth = max(heads * depth * rows * columns * 2**weight_exp // 24, 1)
    net.conv("after", net.lif("lif", attention, vth=vth, bias=0), 4)
    return net.finish(timesteps=timesteps), net.samples(2, timesteps=timesteps)


def by_token(spikes: np.ndarray, heads: int) -> torch.Tensor:
    """(T, N, C, H, W) as the authors of Spikformer hold it: (T, N, heads, tokens, channels of a head)."""
    steps, samples, channels, *_ = spikes.shape
    return torch.from_numpy(spikes).double().reshape(steps, samples, heads, channels // heads, -1).transpose(-1, -2)


@settings(max_examples=25, deadline=None)
@given(
    heads=st.integers(1, 3),
    depth=st.integers(1, 4),
    width=st.integers(1, 4),
    tokens=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    more=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 2**16),
)
def test_it_is_the_authors_attention(heads, depth, width, tokens, more, seed) -> None:
    """It is q k^T v in torch, in either order of the products, also if q and k have different numbers of tokens."""
    rng = np.random.default_rng(seed)
    q, k, v = (
        rng.integers(0, 2, (2, 1, heads * channels, *size))
        for channels, size in ((depth, tokens), (depth, more), (width, more))
    )
    made = SpikeAttention(CURRENT, num_heads=heads, weight_exp=2, limit=10**6).evaluate(q, k, v)
    q_, k_, v_ = (by_token(each, heads) for each in (q, k, v))
    expected = ((q_ @ k_.transpose(-2, -1)) @ v_).transpose(-1, -2).reshape(2, 1, heads * width, *tokens)
    assert np.array_equal(made.value, 4 * expected.numpy())
    assert made.clipped == 0


@settings(max_examples=8, deadline=None)
@given(
    heads=st.integers(1, 3),
    depth=st.integers(1, 9),
    width=st.integers(1, 5),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    weight_exp=st.integers(0, 3),
    seed=st.integers(0, 2**16),
)
def test_sim(heads, depth, width, size, weight_exp, seed) -> None:
    assert_sim_is_the_reference(*attending(heads, depth, *size, width=width, weight_exp=weight_exp, seed=seed))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("backend", ["sim", "lava", "onnx"])
def test_backends(backend: str, sizes: tuple[int, int, int, int]) -> None:
    pytest.importorskip({"lava": "lava", "onnx": "onnxruntime", "sim": "torch"}[backend])
    # some values are clipped at the limit, and these are counted
    program, samples = attending(*sizes, weight_exp=2, limit=sizes[1] * sizes[2] * sizes[3] // 3)
    program = with_input_range(program, samples)
    expected = reference.run(program, samples, record=True)
    assert_same_trace(open_backend(backend)(program, samples, record=True), expected)
    if max(sizes) == 2000:
        q, k, v = (by_token(expected.spikes[name].dense(), sizes[0]) for name in "qkv")
        first = q @ k.transpose(-2, -1) if sizes[1] == 2000 else k.transpose(-2, -1) @ v
        assert first.max() > 255
    assert expected.saturated["attention"] > 0
    assert 0 < expected.spikes["lif"].dense().mean() < 1


@pytest.mark.parametrize("sizes", SIZES[:2])
@pytest.mark.parametrize(
    ("backend", "counts"), [*itertools.product(["sim", "onnx"], ["q", "kv", "qkv"]), ("lava", "qkv")]
)
def test_attention_of_several_spikes_a_step(backend: str, sizes: tuple[int, int, int, int], counts: str) -> None:
    pytest.importorskip({"lava": "lava", "onnx": "onnxruntime", "sim": "torch"}[backend])
    program, samples = attending(*sizes, counts=counts)
    program = with_input_range(program, samples)
    expected = reference.run(program, samples, record=True)
    assert max(expected.graded[name].max() for name in counts) > 1
    assert_same_trace(open_backend(backend)(program, samples, record=True), expected)


def spread_gates() -> tuple[Program, np.ndarray]:
    """Masks over the channels of each head, and over all tokens, as token attention and SDSA have them."""
    net = ProgramBuilder((3, 4, 5), 5)
    spikes = net.lif("lif", net.conv("conv", "input", 6), vth=150)
    heads = net.lif("heads", net.conv("by_head", spikes, 2, groups=2), vth=100)
    tokens = net.lif("tokens", net.conv("over_tokens", spikes, 6, (4, 5), groups=6))
    by_head = net.add("by_head.mask", SpikeGate.of("and", 2), spikes, heads)
    by_token = net.add("by_token.mask", SpikeGate.of("iand", 2), spikes, tokens)
    lonely = net.add("lonely", SpikeGate.of("iand", 2), heads, by_head)
    either = net.add("either", SpikeGate.of("or", 2), lonely, by_token)
    rows = net.lif("rows", net.conv("over_columns", spikes, 1, (1, 5)), vth=600)
    net.conv("after", net.add("last", SpikeGate.of("iand", 2), either, rows), 4)
    return net.finish(timesteps=3), net.samples(2, timesteps=3)


def test_gates_that_are_spread() -> None:
    program, samples = spread_gates()
    trace = reference.run(program, samples, record=True)
    fired = {name: torch.from_numpy(each.dense().astype(np.int64)) for name, each in trace.spikes.items()}
    lif, heads, tokens, rows = (fired[name] for name in ("lif", "heads", "tokens", "rows"))
    by_head = (lif.unflatten(2, (2, 3)) * heads.unsqueeze(3)).flatten(2, 3)
    by_token = (1 - tokens) * lif
    lonely = heads.repeat_interleave(3, dim=2) * (1 - by_head)
    either = 1 - (1 - lonely) * (1 - by_token)
    expected = {
        "by_head.mask": by_head,
        "by_token.mask": by_token,
        "lonely": lonely,
        "either": either,
        "last": either * (1 - rows),
    }
    for name, each in expected.items():
        assert torch.equal(fired[name], each), name
        assert 0 < each.double().mean() < 1


@pytest.mark.parametrize("backend", ["sim", "lava", "onnx"])
def test_gates_that_are_spread_on_backends(backend: str) -> None:
    pytest.importorskip({"lava": "lava", "onnx": "onnxruntime", "sim": "torch"}[backend])
    program, samples = spread_gates()
    program = with_input_range(program, samples)
    expected = reference.run(program, samples, record=True)
    assert_same_trace(open_backend(backend)(program, samples, record=True), expected)


def float_network(kind: str) -> Graph[nir.NIRNode]:
    """A layer of spikes, one kind of attention or of gate, and a classifier.

    Weights are whole sixteenths, which quantization keeps, and potentials often meet a threshold exactly.
    """
    build, heads, channels, size = GraphBuilder((3, 4, 4), seed=3), 2, 8, (4, 4)

    def spikes(name: str, source: str) -> str:
        weight = build.rng.integers(-8, 13, (channels, build.shape(source)[0], 1, 1)) / 16
        return build.lif(f"{name}_lif", build.conv(f"{name}_conv", source, weight), v_threshold=0.25)

    x = spikes("stem", "input")
    q, k = spikes("q", x), spikes("k", x)
    if kind == "self-attention":  # Spikformer's
        counts = build.add("attention", primitives.SpikeAttention(heads, 3), q, k, spikes("v", x))
        made = build.lif("attention_lif", counts, v_threshold=0.5)
    elif kind == "token attention":  # QKFormer's
        ones = np.ones((heads, channels // heads, 1, 1))
        mask = build.lif("token_lif", build.conv("token_sum", q, ones, groups=heads))
        made = build.add("mask", primitives.SpikeGate("and"), k, mask)
    elif kind == "SDSA":  # Spike-driven Transformer's
        both = build.add("both", primitives.SpikeGate("and"), k, spikes("v", x))
        ones = np.ones((channels, 1, *size))
        mask = build.lif("channel_lif", build.conv("channel_sum", both, ones, groups=channels), v_threshold=2.0)
        made = build.add("mask", primitives.SpikeGate("and"), q, mask)
    else:  # SEW-ResNet's, behind a pool of spikes
        pooled = build.pool("pool", x, 2, 1, 0)
        either = build.add("or", primitives.SpikeGate("or"), q, k)
        made = build.add("iand", primitives.SpikeGate("iand"), pooled, build.pool("or_pool", either, 2, 1, 0))
    last = spikes("last", made)
    build.head(last)
    return build.finish(timesteps=4, source="module", reset="hard")


KINDS = ["self-attention", "token attention", "SDSA", "IAND"]


@pytest.mark.parametrize("kind", KINDS)
def test_networks_from_end_to_end(kind: str, tmp_path: Path) -> None:
    """A NIR file of ours compiles, and E1, E2 and E4 have no mismatch, since all neurons fire at ties."""
    graph = float_network(kind)
    write_nir(graph, tmp_path / "own.nir")
    assert format_graph(read_nir(tmp_path / "own.nir")) == format_graph(graph)
    options = CompileOptions()
    compilation = compile_network(tmp_path / "own.nir", options)
    write_build(compilation, tmp_path / "build", ["sim", "onnx", "nir"], options)
    build = read_build(tmp_path / "build")
    program = build.program()
    samples = np.random.default_rng(2).integers(-4, 5, (4, 3, 4, 4)) / 2  # encoding keeps halves
    given = check_samples(samples, program, "x")
    result = verify(build, given, program, Comparing("sim"), model=tmp_path / "own.nir", local=True)
    assert {name: check.mismatched for name, check in result.checks.items()} == dict.fromkeys(result.checks, 0)
    assert len(result.checks) == 3
    # without the surplus some of these ties would not fire
    encoded = encode(samples, program).values
    without = place_biases(quantize(compilation.folded, compilation.plan, ties=False))
    late = reference.run(without, encoded)
    assert sum(late.ties.values()) > 0
    trace = reference.run(program, encoded, record=True)
    assert sum(trace.ties.values()) == 0
    assert all(0 < each.dense().mean() < 1 for each in trace.spikes.values())
    # the quantized file, run in float64, fires the same spikes
    observed: dict[str, torch.Tensor] = {}
    float_interpreter.run(read_nir(tmp_path / "build" / "quantized.nir"), samples, observe=observed.__setitem__)
    for name, each in trace.spikes.items():
        assert np.array_equal(observed[name].numpy(), each.dense()), name
    assert_same_trace(open_backend("onnx")(program, encoded, record=True), trace)


def test_counts_of_spikes_from_end_to_end(tmp_path: Path) -> None:
    """Neurons that fire several times a step before an attention, and LIFs on both sides that fire at ties."""
    build, channels = GraphBuilder((3, 4, 4), seed=3), 4

    def weighted(name: str, source: str) -> str:
        weight = build.rng.integers(-8, 13, (channels, build.shape(source)[0], 1, 1)) / 16
        return build.conv(f"{name}_conv", source, weight)

    x = build.lif("lif", weighted("stem", "input"), v_threshold=0.25)
    values = (primitives.constant(value, (channels, 4, 4)) for value in (0.25, -4.0))
    neurons = primitives.MultiSpikeIF(*values, 4)
    counts = [build.add(name, neurons, weighted(name, x)) for name in "qkv"]
    attention = build.add("attention", primitives.SpikeAttention(2, 3), *counts)
    build.head(build.lif("attended", attention, v_threshold=8.0))
    graph = build.finish(timesteps=3, source="module", reset="hard")
    write_nir(graph, tmp_path / "own.nir")
    program = compile_network(tmp_path / "own.nir", CompileOptions()).program
    samples = np.random.default_rng(2).integers(-4, 5, (4, 3, 4, 4)) / 2
    encoded = encode(samples, program).values
    trace = reference.run(program, encoded, record=True)
    observed: dict[str, torch.Tensor] = {}
    float_interpreter.run(graph, samples, observe=observed.__setitem__)
    for name in ("lif", "attended"):
        assert np.array_equal(observed[name].numpy(), trace.spikes[name].dense()), name
        assert 0 < trace.spikes[name].dense().mean() < 1
    for name in "qkv":
        assert np.array_equal(observed[name].numpy(), trace.graded[name]), name
        assert trace.graded[name].max() > 1
    assert_same_trace(open_backend("sim")(program, encoded, record=True), trace)


@pytest.mark.parametrize("kind", KINDS)
def test_float_onnx(kind: str) -> None:
    """The float model in ONNX Runtime: whole sixteenths and counts are exact in float32 too."""
    ort = pytest.importorskip("onnxruntime")
    graph = float_network(kind)
    samples = np.random.default_rng(2).integers(-4, 5, (4, 3, 4, 4)) / 2
    model = export_float(graph, with_spikes=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    made = dict(zip(names, session.run(None, {"input": samples.astype(np.float32)}), strict=True))
    observed: dict[str, torch.Tensor] = {}
    logits = float_interpreter.run(graph, samples, observe=observed.__setitem__).numpy()
    assert {"stem_lif", "q_lif", "last_lif"} < made.keys()
    for name in made.keys() - {"logits"}:
        assert np.array_equal(made[name], observed[name].flatten(0, 1).numpy()), name
    assert np.abs(made["logits"] - logits.swapaxes(0, 1)).max() < 1e-5  # float32 against float64


@pytest.mark.parametrize("sizes", SIZES[:2])
def test_what_it_costs(sizes: tuple[int, int, int, int]) -> None:
    """SOPs as the authors' monitor counts them, with ones for all gated values; and the populations that are placed."""
    heads, depth, rows, columns = sizes
    width, tokens = depth + 1, rows * columns
    program, samples = attending(*sizes, width=width)
    spikes = reference.run(program, samples, record=True).spikes
    q, k, v = (by_token(spikes[name].dense(), heads) for name in "qkv")
    ones, scores_first = torch.ones_like, tokens * (depth + width) <= 2 * depth * width
    first = q @ ones(k).transpose(-2, -1) if scores_first else ones(k).transpose(-2, -1) @ v
    second = ones(q @ k.transpose(-2, -1)) @ v if scores_first else q @ ones(k.transpose(-2, -1) @ v)
    wanted = (first.sum((1, 2, 3, 4)) + second.sum((1, 2, 3, 4))).tolist()
    assert measure(program, spikes).sops["attention"].tolist() == wanted
    placed = {each.population.name: each.population for each in place(program, load_chip("loihi2")).layers}
    product, neurons = placed["attention.first"], placed["lif"]
    assert product.shape == ((heads, tokens, tokens) if scores_first else (heads, depth, width))
    assert [(edge.source, edge.delay) for edge in product.edges] == [("k", 0), ("q" if scores_first else "v", 0)]
    assert neurons.nodes == ("attention", "lif")
    # the other operand of the second product waits a step for the first product
    late = ("v", 1) if scores_first else ("q", 1)
    assert {(edge.source, edge.delay) for edge in neurons.edges} == {("attention.first", 0), late}
