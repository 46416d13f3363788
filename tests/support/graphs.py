"""Small float graphs, built node by node: by hand, or drawn by hypothesis."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from resformer.compiler.ir.arrays import Shape
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.primitives import Add, BatchNorm2d, MaxPool2d, SpikeMatMul, constant
from resformer.compiler.ir.shapes import output_shape

DT = 1e-4

Float64Array = npt.NDArray[np.float64]


class GraphBuilder:
    """The nodes so far; each method appends one or more and returns the last one's name."""

    def __init__(self, input_shape: Shape, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: dict[str, Node[nir.NIRNode]] = {}
        self.add("input", nir.Input({"input": np.array(input_shape)}))

    def add(self, name: str, op: nir.NIRNode, *inputs: str, shape: Shape | None = None) -> str:
        made = output_shape(op, [self.nodes[each].shape for each in inputs]) if shape is None else shape
        self.nodes[name] = Node(name, op, inputs, made)
        return name

    def shape(self, name: str) -> Shape:
        return self.nodes[name].shape

    def conv(
        self,
        name: str,
        source: str,
        weight: Float64Array,
        bias: Float64Array | None = None,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> str:
        pairs = {"stride": (stride, stride), "padding": (padding, padding), "dilation": (1, 1)}
        bias = np.zeros(len(weight)) if bias is None else bias
        size = self.shape(source)[1:]
        return self.add(name, nir.Conv2d(input_shape=size, weight=weight, bias=bias, groups=groups, **pairs), source)

    def random_conv(
        self, name: str, source: str, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> str:
        """A convolution whose sums have a variance of about one where a fifth of its inputs fire."""
        per_group = self.shape(source)[0] // groups
        spread = np.sqrt(5 / (per_group * kernel**2))
        weight = spread * self.rng.standard_normal((outputs, per_group, kernel, kernel))
        return self.conv(name, source, weight, stride=stride, padding=padding, groups=groups)

    def norm(self, name: str, source: str) -> str:
        channels = self.shape(source)[0]
        uniform = self.rng.uniform
        op = BatchNorm2d(
            weight=uniform(0.8, 1.8, channels),
            bias=uniform(-0.2, 0.6, channels),
            running_mean=uniform(-0.2, 0.2, channels),
            running_var=uniform(0.5, 1.5, channels),
            eps=1e-5,
        )
        return self.add(name, op, source)

    def lif(self, name: str, source: str, **parameters: Any) -> str:
        return self.add(name, lif(self.shape(source), **parameters), source)

    def attention(self, name: str, source: str, *, heads: int, patch: int) -> str:
        """DSSA, as the frontend imports it."""
        channels, rows, columns = self.shape(source)
        x = self.lif(f"{name}.activation_in", source)
        y = self.norm(f"{name}.norm", self.random_conv(f"{name}.W", x, 2 * channels, patch, stride=patch))
        value = self.add(f"{name}.matmul1", SpikeMatMul(num_heads=heads, transpose=True, part="y1"), y, x)
        value = self._scale(f"{name}.scale1", value, self.rng.uniform(0.5, 1.5, heads))
        attention = self.lif(f"{name}.activation_attn", value)
        product = SpikeMatMul(num_heads=heads, transpose=False, part="y2")
        value = self.add(f"{name}.matmul2", product, y, attention, shape=(channels, rows, columns))
        value = self._scale(f"{name}.scale2", value, np.repeat(self.rng.uniform(0.5, 1.5, heads), channels // heads))
        value = self.lif(f"{name}.activation_out", value)
        value = self.norm(f"{name}.norm_proj", self.random_conv(f"{name}.Wproj", value, channels, 1))
        return self.add(f"{name}.add", Add(), value, source)

    def _scale(self, name: str, source: str, values: Float64Array) -> str:
        shape = self.shape(source)
        return self.add(name, nir.Scale(np.broadcast_to(values[:, None, None], shape)), source)

    def pool(self, name: str, source: str, kernel: int, stride: int, padding: int) -> str:
        sizes = (np.full(2, each) for each in (kernel, stride, padding))
        return self.add(name, MaxPool2d(*sizes), source)

    def head(self, source: str, classes: int = 3, *, weight: Float64Array | None = None) -> str:
        """Global average pool, flatten, linear, output."""
        channels, *size = self.shape(source)
        kernel = np.array(size)
        value = self.add("avgpool", nir.AvgPool2d(kernel, kernel, np.zeros(2, dtype=np.int64)), source)
        value = self.add("flatten", nir.Flatten({"input": np.array(self.shape(value))}, start_dim=0), value)
        weight = self.rng.standard_normal((classes, channels)) if weight is None else weight
        value = self.add("classifier", nir.Linear(weight), value)
        return self.output(value)

    def output(self, source: str) -> str:
        return self.add("output", nir.Output({"output": np.array(self.shape(source))}), source)

    def finish(self, timesteps: int = 2, **metadata: str | float) -> Graph[nir.NIRNode]:
        facts: dict[str, str | float] = {"dt": DT, "input": "static"}
        return Graph(tuple(self.nodes.values()), timesteps, facts | metadata)


def lif(shape: Shape, *, tau_steps: float = 2.0, v_threshold: float = 1.0) -> nir.LIF:
    """SpikingJelly's LIF in NIR's terms."""
    return nir.LIF(
        tau=constant(tau_steps * DT, shape),
        r=constant(1.0, shape),
        v_leak=constant(0.0, shape),
        v_threshold=constant(v_threshold, shape),
        v_reset=constant(0.0, shape),
        metadata={"reset": "hard", "fires_at": ">=", "tau_steps": tau_steps},
    )


@st.composite
def float_graphs(draw: st.DrawFn, *, timesteps: st.SearchStrategy[int] | None = None) -> Graph[nir.NIRNode]:
    """Networks of a stem, up to three blocks of any kind, and a head, before all passes."""
    build = GraphBuilder((draw(st.integers(1, 2)), 8, 8), seed=draw(st.integers(0, 2**16)))
    tau_steps = draw(st.sampled_from([2.0, 2.0, 1.7, 3.1]))
    kernel = draw(st.sampled_from([1, 3]))
    value = build.norm("stem.1", build.random_conv("stem.0", "input", 4, kernel, padding=kernel // 2))
    if draw(st.booleans()):
        value = build.pool("stem.2", value, *draw(st.sampled_from([(3, 2, 1), (2, 2, 0), (3, 1, 1)])))
    for index, kind in enumerate(
        draw(st.lists(st.sampled_from(["attention", "residual", "down"]), min_size=1, max_size=3))
    ):
        name = f"layers.{index}"
        channels, size, _ = build.shape(value)
        if kind == "residual":
            groups, kernel = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 3]))
            spikes = build.lif(f"{name}.0", value, tau_steps=tau_steps)
            widened = build.norm(f"{name}.2", build.random_conv(f"{name}.1", spikes, 2 * channels, 1))
            spikes = build.lif(f"{name}.3", widened, tau_steps=tau_steps)
            conv = build.random_conv(f"{name}.4", spikes, 2 * channels, kernel, padding=kernel // 2, groups=groups)
            mixed = build.add(f"{name}.add_inner", Add(), build.norm(f"{name}.5", conv), widened)
            spikes = build.lif(f"{name}.6", mixed, tau_steps=tau_steps)
            narrowed = build.norm(f"{name}.8", build.random_conv(f"{name}.7", spikes, channels, 1))
            value = build.add(f"{name}.add", Add(), narrowed, value)
        elif kind == "down" and size > 1:
            spikes = build.lif(f"{name}.activation", value, tau_steps=tau_steps)
            conv = build.random_conv(f"{name}.conv", spikes, channels, 3, stride=2, padding=1)
            value = build.norm(f"{name}.norm", conv)
        elif kind == "attention":
            patch = draw(st.sampled_from([p for p in (1, 2) if size % p == 0]))
            value = build.attention(name, value, heads=draw(st.sampled_from([1, 2])), patch=patch)
    build.head(value)
    return build.finish(draw(timesteps or st.integers(1, 4)))


@st.composite
def graphs_of_nirs_nodes(draw: st.DrawFn) -> Graph[nir.NIRNode]:
    """Networks of NIR's own nodes and sums, as modules are imported: sums of sums, shortcuts, vectors."""
    build = GraphBuilder((draw(st.integers(1, 2)), 6, 6), seed=draw(st.integers(0, 2**16)))
    value = build.random_conv("stem", "input", 3, 3, padding=1)
    for index, kind in enumerate(draw(st.lists(st.sampled_from(["sum", "sums", "pool", "plain"]), max_size=4))):
        name = f"layers.{index}"
        spikes = build.add(f"{name}.if", integrate(build.shape(value)), value)
        if kind == "pool" and build.shape(spikes)[1] > 1:
            two = np.full(2, 2)
            spikes = build.add(f"{name}.pool", nir.AvgPool2d(two, two, np.zeros(2, dtype=np.int64)), spikes)
        branch = build.random_conv(f"{name}.0", spikes, 3, 3, padding=1)
        if kind == "sum":
            branch = build.add(f"{name}.add", Add(), branch, value)
        if kind == "sums":
            other = build.add(f"{name}.add", Add(), build.random_conv(f"{name}.1", spikes, 3, 1), branch)
            branch = build.add(f"{name}.add.1", Add(), other, value, spikes)
        value = branch
    value = build.lif("lif", value, tau_steps=draw(st.sampled_from([2.0, 3.1])))
    value = build.add("flatten", nir.Flatten({"input": np.array(build.shape(value))}, start_dim=0), value)
    weight = build.rng.standard_normal((4, build.shape(value)[0]))
    value = build.add("fc", nir.Affine(weight, build.rng.standard_normal(4)), value)
    build.output(value)
    return build.finish(draw(st.integers(1, 4)))


def integrate(shape: Shape) -> nir.IF:
    """SpikingJelly's IF in NIR's terms."""
    parameters = (constant(value, shape) for value in (1 / DT, 1.0, 0.0))
    return nir.IF(
        **dict(zip(("r", "v_threshold", "v_reset"), parameters, strict=True)),
        metadata={"reset": "hard", "fires_at": ">="},
    )


def samples_for(graph: Graph[nir.NIRNode], count: int = 2, seed: int = 0) -> Float64Array:
    """Random images, (N, C, H, W), of about unit variance."""
    return np.random.default_rng(seed).standard_normal((count, *graph.input.shape))
