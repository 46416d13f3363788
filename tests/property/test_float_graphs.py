"""Random small float graphs: their files, their text and their invariants."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import nir
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.compare import first_difference
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.nir_file import read_nir, write_nir
from resformer.compiler.ir.primitives import Add, BatchNorm2d, MaxPool2d, SpikeMatMul, constant
from resformer.compiler.ir.shapes import output_shape
from resformer.compiler.ir.text import format_graph
from resformer.compiler.ir.verify import verify_graph

DT = 1e-4


class Draft:
    """A graph under construction; every value is the name of the node that makes it."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: dict[str, Node[nir.NIRNode]] = {}

    def add(self, kind: str, op: nir.NIRNode, inputs: Sequence[str] = (), shape: tuple[int, ...] | None = None) -> str:
        name = f"stage.{len(self.nodes)}.{kind}"
        made = output_shape(op, [self.nodes[each].shape for each in inputs]) if shape is None else shape
        self.nodes[name] = Node(name, op, tuple(inputs), made)
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        return self.nodes[name].shape

    def conv(self, source: str, outputs: int, kernel: int, stride: int, groups: int) -> str:
        channels, *size = self.shape(source)
        weight = self.rng.normal(size=(outputs, channels // groups, kernel, kernel))
        bias = self.rng.normal(size=outputs) * self.rng.integers(0, 2)
        padding = (kernel // 2, kernel // 2)
        op = nir.Conv2d(tuple(size), weight, (stride, stride), padding, (1, 1), groups, bias)
        return self.add("conv", op, [source])

    def lif(self, source: str, tau_steps: float, parametric: bool) -> str:
        shape = self.shape(source)
        metadata = {"reset": "hard", "fires_at": ">=", "tau_steps": tau_steps}
        if parametric:
            metadata["dt_over_tau"] = 1 / tau_steps
        values = (tau_steps * DT, self.rng.uniform(0.5, 2), 0.0, self.rng.uniform(0.5, 2), 0.0)
        op = nir.LIF(*(constant(value, shape) for value in values), metadata=metadata)
        return self.add("lif", op, [source])

    def norm(self, source: str) -> str:
        weight, bias, mean, var = self.rng.uniform(0.5, 2, size=(4, self.shape(source)[0]))
        return self.add("norm", BatchNorm2d(weight, bias, mean, var, eps=1e-5), [source])

    def scale(self, source: str) -> str:
        channels, *others = self.shape(source)
        per_channel = self.rng.normal(size=(channels, *(1,) * len(others)))
        return self.add("scale", nir.Scale(np.broadcast_to(per_channel, self.shape(source))), [source])

    def attention(self, source: str, heads: int, part: str) -> str:
        """y^T x and y s of one population, as DSSA has them, without its projection."""
        channels, height, width = self.shape(source)
        x = self.lif(source, 2.0, parametric=False)
        y = self.conv(x, channels * (1 if part == "all" else 2), 1, 1, 1)
        scores = self.add("matmul", SpikeMatMul(heads, True, part), [y, x])
        attention = self.lif(scores, 2.0, parametric=False)
        return self.add("matmul", SpikeMatMul(heads, False, part), [y, attention], (channels, height, width))


@st.composite
def graphs(draw: st.DrawFn) -> Graph[nir.NIRNode]:
    """A stem, some layers, and a classifier; real weights, so that no two arrays are alike."""
    draft = Draft(np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
    shape = (draw(st.integers(1, 3)), size := draw(st.integers(4, 6)), size)
    value = draft.add("input", nir.Input({"input": np.array(shape)}), shape=shape)
    value = draft.conv(value, 4, 3, 1, 1)
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["conv", "lif", "norm", "scale", "pool", "add", "attention"]))
        before = value
        if kind == "conv":
            groups = draw(st.sampled_from([1, 2, 4]))
            value = draft.conv(value, 4, draw(st.sampled_from([1, 3])), draw(st.integers(1, 2)), groups)
        elif kind == "lif":
            value = draft.lif(value, draw(st.sampled_from([2.0, 1.5, 3.7])), draw(st.booleans()))
        elif kind == "norm":
            value = draft.norm(value)
        elif kind == "scale":
            value = draft.scale(value)
        elif kind == "pool":
            three, one = np.array([3, 3]), np.array([1, 1])
            value = draft.add("pool", MaxPool2d(three, np.array([2, 2]), one), [value])
        elif kind == "add":
            value = draft.add("add", Add(), [draft.conv(value, 4, 3, 1, 2), before, before])
        else:
            value = draft.attention(value, draw(st.sampled_from([1, 2])), draw(st.sampled_from(["y1", "y2", "all"])))
    window = np.array(draft.shape(value)[1:])
    pool = draw(st.sampled_from([nir.AvgPool2d, nir.SumPool2d]))
    value = draft.add("pool", pool(window, window, np.array([0, 0])), [value])
    value = draft.add("flatten", nir.Flatten({"input": np.array(draft.shape(value))}, start_dim=0), [value])
    weight = draft.rng.normal(size=(3, 4))
    linear = nir.Affine(weight, draft.rng.normal(size=3)) if draw(st.booleans()) else nir.Linear(weight)
    value = draft.add("linear", linear, [value])
    draft.add("output", nir.Output({"output": np.array([3])}), [value])
    metadata = {"dt": DT, "input": draw(st.sampled_from(["static", "frames"])), "answer": draw(st.integers())}
    metadata["answer"] %= 2**62
    return Graph(tuple(draft.nodes.values()), draw(st.integers(1, 4)), metadata)


@settings(deadline=None, max_examples=60)
@given(graphs())
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
        assert set(in_nir.nodes) == {node.name for node in graph}
        nir.write(again, in_nir)
        assert first_difference(graph, read_nir(again)) is None, "what NIR's own tools rewrite must stay the same"


@settings(deadline=None, max_examples=25)
@given(graphs(), st.integers(0, 2**32 - 1))
def test_float32_and_float64_agree_on_shapes(graph: Graph[nir.NIRNode], seed: int) -> None:
    """Every value has the shape that its node says, whatever precedes it."""
    samples = torch.randn(2, *graph.input.shape, generator=torch.Generator().manual_seed(seed))
    shapes: dict[str, tuple[int, ...]] = {}

    def observe(name: str, value: torch.Tensor) -> None:
        shapes[name] = tuple(value.shape)
        if isinstance(graph[name].op, nir.LIF):
            assert ((value == 0) | (value == 1)).all()

    logits = float_interpreter.run(graph, samples, observe=observe)
    assert shapes == {node.name: (graph.timesteps, 2, *node.shape) for node in graph}
    assert logits.shape == (graph.timesteps, 2, 3)
