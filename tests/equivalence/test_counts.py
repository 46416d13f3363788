"""Attention of counts and gates that are spread: their definitions against plain torch, and E2 of every backend."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resformer.compiler.backends import open_backend
from resformer.compiler.ir import reference
from resformer.compiler.ir.ops import SpikeAttention, SpikeGate
from resformer.compiler.ir.program import Program
from support.networks import with_input_range
from support.program_builder import CURRENT, ProgramBuilder
from support.sim_runs import assert_sim_is_the_reference
from support.traces import assert_same_trace

SIZES = [
    pytest.param((2, 6, 3, 3), id="scores-first"),
    pytest.param((2, 2, 5, 4), id="values-first"),
    pytest.param((1, 5, 18, 15), id="wide-counts"),
]
"""Heads, channels of one, rows and columns; 270 tokens make the first product exceed a byte."""


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
) -> tuple[Program, np.ndarray]:
    """Populations that fire often, an attention of them, and neurons and synapses behind it."""
    net = ProgramBuilder((3, rows, columns), seed)
    channels = {"q": heads * depth, "k": heads * depth, "v": heads * (depth if width is None else width)}
    q, k, v = (net.lif(name, net.conv(f"conv_{name}", "input", count), vth=150) for name, count in channels.items())
    op = SpikeAttention(CURRENT, num_heads=heads, weight_exp=weight_exp, limit=limit)
    attention = net.add("attention", op, q, k, v)
    vth = max(heads * depth * rows * columns * 2**weight_exp // 12, 1)
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
    """q k^T v in torch, whatever order the definition takes, and of q's tokens and k's that are not as many."""
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
    # some counts reach the limit, which is counted
    program, samples = attending(*sizes, weight_exp=2, limit=4 * sizes[1] * sizes[2] * sizes[3] // 4)
    program = with_input_range(program, samples)
    expected = reference.run(program, samples, record=True)
    assert_same_trace(open_backend(backend)(program, samples, record=True), expected)
    assert expected.saturated["attention"] > 0
    assert 0 < expected.spikes["lif"].dense().mean() < 1


def spread_gates() -> tuple[Program, np.ndarray]:
    """Masks over the channels of each head, and over all tokens, as token attention and SDSA have them."""
    net = ProgramBuilder((3, 4, 5), 5)
    spikes = net.lif("lif", net.conv("conv", "input", 6), vth=150)
    heads = net.lif("heads", net.conv("by_head", spikes, 2, groups=2), vth=100)
    tokens = net.lif("tokens", net.conv("over_tokens", spikes, 6, (4, 5), groups=6))
    by_head = net.add("by_head.mask", SpikeGate.of("and", 2), spikes, heads)
    by_token = net.add("by_token.mask", SpikeGate.of("iand", 2), spikes, tokens)
    either = net.add("either", SpikeGate.of("or", 2), by_head, by_token)
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
    either = 1 - (1 - by_head) * (1 - by_token)
    expected = {"by_head.mask": by_head, "by_token.mask": by_token, "either": either, "last": either * (1 - rows)}
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
