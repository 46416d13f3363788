"""Random small float graphs, before, between and after the float passes: their files, text and values."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nir
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resformer.compiler.files.nir import read_nir, write_nir
from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import Add, BatchNorm2d, MaxPool2d, SpikeMatMul
from resformer.compiler.ir.text import format_graph
from resformer.compiler.ir.verify import verify_graph
from resformer.compiler.pipeline import CHECKPOINT
from support.compare import first_difference
from support.graphs import float_graphs, graphs_of_nirs_nodes, samples_for


@st.composite
def graphs_after_some_passes(draw: st.DrawFn) -> Graph[nir.NIRNode]:
    graph = draw(float_graphs())
    for float_pass in CHECKPOINT.float_passes[: draw(st.integers(0, len(CHECKPOINT.float_passes)))]:
        graph = float_pass(graph)
    return graph


@settings(max_examples=30)
@given(graphs_after_some_passes())
def test_files_hold_graphs_without_loss(graph: Graph[nir.NIRNode]) -> None:
    verify_graph(graph)
    with tempfile.TemporaryDirectory() as folder:
        path, again = Path(folder) / "a.nir", Path(folder) / "b.nir"
        write_nir(graph, path)
        read = read_nir(path)
        assert first_difference(graph, read) is None
        assert format_graph(graph) == format_graph(read)

        write_nir(read, again)
        assert path.read_bytes() == again.read_bytes(), "equal graphs must make equal files"

        in_nir = nir.read(path)
        sums = {node.name for node in graph if isinstance(node.op, Add)}
        plain = not any(isinstance(node.op, (BatchNorm2d, MaxPool2d, SpikeMatMul)) for node in graph) and all(
            node.op.groups == 1 for node in graph if isinstance(node.op, nir.Conv2d)
        )
        assert (type(in_nir) is nir.NIRGraph) == plain
        assert set(in_nir.nodes) == {node.name for node in graph} - (sums if plain else set())
        nir.write(again, in_nir)
        assert first_difference(graph, read_nir(again)) is None, "what NIR's own tools rewrite must stay the same"


@settings(max_examples=15)
@given(graphs_of_nirs_nodes())
def test_graphs_of_nirs_nodes_are_plain_files(graph: Graph[nir.NIRNode]) -> None:
    verify_graph(graph)
    with tempfile.TemporaryDirectory() as folder:
        path, again = Path(folder) / "a.nir", Path(folder) / "b.nir"
        write_nir(graph, path)
        read = read_nir(path)
        assert first_difference(graph, read) is None
        in_nir = nir.read(path)
        assert type(in_nir) is nir.NIRGraph
        assert {type(node).__module__.partition(".")[0] for node in in_nir.nodes.values()} == {"nir"}
        nir.write(again, in_nir)
        assert first_difference(graph, read_nir(again)) is None, "what NIR's own tools rewrite must stay the same"
    samples = samples_for(graph)
    assert torch.equal(float_interpreter.run(graph, samples), float_interpreter.run(read, samples))


@settings(max_examples=25)
@given(graphs_after_some_passes())
def test_values_have_the_shapes_that_nodes_say_and_spikes_are_binary(graph: Graph[nir.NIRNode]) -> None:
    shapes: dict[str, tuple[int, ...]] = {}

    def observe(name: str, value: torch.Tensor) -> None:
        shapes[name] = tuple(value.shape)
        if isinstance(graph[name].op, nir.LIF):
            assert ((value == 0) | (value == 1)).all()

    samples = samples_for(graph)
    logits = float_interpreter.run(graph, samples, observe=observe)
    assert shapes == {node.name: (graph.timesteps, len(samples), *node.shape) for node in graph}
    frames = np.repeat(samples[:, None], graph.timesteps, axis=1)
    assert torch.equal(logits, float_interpreter.run(graph, frames)), "frames that are all alike are a static image"
