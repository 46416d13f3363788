"""Float graphs as ONNX models of standard operations.

Neurons and attention's products are model-local functions of the domain ``resformer``: one node each in a viewer,
standard operations to a runtime.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import singledispatchmethod
from typing import TYPE_CHECKING, Any

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.export.onnx import require
from resformer.compiler.export.onnx.model_writer import DOMAIN, ModelWriter, ints, without_clashes
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.primitives import (
    Add,
    BatchNorm2d,
    MaxPool2d,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
    collapse,
    window_of,
)
from resformer.errors import UnsupportedError

if TYPE_CHECKING:
    import onnx

LIF_FUNCTION = """
LIF <timesteps, dt_over_tau, r, v_leak, v_threshold, v_reset> (current) => (spikes)
{
    steps = Constant <value_int: int = @timesteps> ()
    one = Constant <value_ints = [1]> ()
    all_others = Constant <value_ints = [-1]> ()
    steps_axis = Reshape (steps, one)
    by_step = Concat <axis = 0> (steps_axis, all_others)
    factor = Constant <value_float: float = @dt_over_tau> ()
    resistance = Constant <value_float: float = @r> ()
    leak = Constant <value_float: float = @v_leak> ()
    threshold = Constant <value_float: float = @v_threshold> ()
    reset = Constant <value_float: float = @v_reset> ()
    current_by_step = Reshape (current, by_step)
    neurons = Shape <start = 1> (current_by_step)
    zeros = ConstantOfShape (neurons)
    v_start = Add (zeros, reset)
    v_end, spikes_by_step = Scan <num_scan_inputs = 1, body = step
        (float[] v, float[] now) => (float[] v_next, float[] spike)
        {
            leaked = Sub (leak, v)
            driven = Mul (resistance, now)
            drive = Add (leaked, driven)
            change = Mul (drive, factor)
            charged = Add (v, change)
            fires = GreaterOrEqual (charged, threshold)
            v_next = Where (fires, reset, charged)
            spike = Cast <to = 1> (fires)
        }> (v_start, current_by_step)
    shape = Shape (current)
    spikes = Reshape (spikes_by_step, shape)
}
"""
"""Neurons that start at rest and step over T, as ``float_interpreter.fire`` computes them."""

SPIKE_MATMUL_FUNCTION = """
SpikeMatMul <y_shape, first, last, perm, spikes_shape, output_shape> (y, spikes) => (product)
{
    heads_of_y = Constant <value_ints: ints = @y_shape> ()
    start = Constant <value_ints: ints = @first> ()
    end = Constant <value_ints: ints = @last> ()
    channel_axis = Constant <value_ints = [2]> ()
    heads_of_spikes = Constant <value_ints: ints = @spikes_shape> ()
    merged = Constant <value_ints: ints = @output_shape> ()
    y_by_head = Reshape (y, heads_of_y)
    part = Slice (y_by_head, start, end, channel_axis)
    real = Transpose <perm: ints = @perm> (part)
    gates = Reshape (spikes, heads_of_spikes)
    sums = MatMul (real, gates)
    product = Reshape (sums, merged)
}
"""
"""A product of attention: ``y``, or one half of each head's channels, transposed or not, times the spikes."""


def export_float(graph: Graph[nir.NIRNode], *, with_spikes: bool = False) -> onnx.ModelProto:
    """A float graph as an ONNX model in float32, before or after any float pass.

    Its input is (N, C, H, W), or (N, T, C, H, W) where the graph's metadata say that input comes in frames; its output
    ``logits`` is (N, T, classes). N is free. Nodes and the values that they make bear the network's names.

    Args:
        graph: The float graph.
        with_spikes: Make each population's spikes, (T * N, ...), an output of its own, under the population's name.

    Raises:
        UnsupportedError: A population's parameters vary between its neurons, ONNX has no form for a node, or spikes
            would be an output of a name that the model needs itself.
        BackendMissingError: onnx is not installed.
    """
    require("onnx")

    def write(network: Graph[nir.NIRNode], originals: Mapping[str, str]) -> _Writer:
        writer = _Writer(network, originals)
        for node in network:
            writer.write(node.op, node)
        return writer

    writer = without_clashes(graph, write)
    writer.output("logits")
    if with_spikes:
        for node in writer.graph:
            if isinstance(node.op, nir.LIF):
                writer.record(node)
    return writer.model((LIF_FUNCTION, SPIKE_MATMUL_FUNCTION))


class _Writer(ModelWriter):
    """Writes a float graph, with one method for each type of node."""

    @singledispatchmethod
    def write(self, op: nir.NIRNode, node: Node[nir.NIRNode]) -> None:
        """Append the ONNX nodes that compute one graph node."""
        raise UnsupportedError(f"{node.name}: {type(op).__name__} has no ONNX form; run the simulator instead")

    @write.register
    def _(self, op: nir.Input, node: Node[nir.NIRNode]) -> None:  # noqa: ARG002
        self.take_samples(node, np.float32)

    @write.register
    def _(self, op: nir.Output, node: Node[nir.NIRNode]) -> None:  # noqa: ARG002
        (source,) = self.inputs(node)
        self.by_sample(node, source, "logits", np.float32)

    @write.register
    def _(self, op: nir.Conv2d, node: Node[nir.NIRNode]) -> None:
        inputs = [*self.inputs(node), self._real(f"{node.name}.weight", op.weight)]
        if np.any(op.bias):
            inputs.append(self._real(f"{node.name}.bias", op.bias))
        self._write(
            "Conv",
            node,
            inputs,
            strides=ints(op.stride),
            pads=ints(op.padding) * 2,
            dilations=ints(op.dilation),
            group=int(op.groups),
        )

    @write.register
    def _(self, op: BatchNorm2d, node: Node[nir.NIRNode]) -> None:
        fields = ("weight", "bias", "running_mean", "running_var")
        constants = [self._real(f"{node.name}.{field}", getattr(op, field)) for field in fields]
        self._write("BatchNormalization", node, [*self.inputs(node), *constants], epsilon=float(op.eps))

    @write.register
    def _(self, op: MaxPool2d, node: Node[nir.NIRNode]) -> None:
        kernel, stride, padding = ints(op.kernel_size), ints(op.stride), ints(op.padding)
        below, right = window_of(op).beyond
        pads = (*padding, padding[0] + below, padding[1] + right)
        self._write("MaxPool", node, self.inputs(node), kernel_shape=kernel, strides=stride, pads=pads)

    @write.register
    def _(self, op: nir.AvgPool2d, node: Node[nir.NIRNode]) -> None:
        self._write(
            "AveragePool",
            node,
            self.inputs(node),
            kernel_shape=ints(op.kernel_size),
            strides=ints(op.stride),
            pads=ints(op.padding) * 2,
            count_include_pad=1,
        )

    @write.register
    def _(self, op: nir.SumPool2d, node: Node[nir.NIRNode]) -> None:
        # ONNX has no sum over windows, so it is a convolution of each channel with weights of one
        channels, kernel = node.shape[0], ints(op.kernel_size)
        ones = self._real(f"{node.name}.ones", np.ones((channels, 1, *kernel)))
        stride, pads = ints(op.stride), ints(op.padding) * 2
        self._write("Conv", node, [*self.inputs(node), ones], strides=stride, pads=pads, group=channels)

    @write.register(nir.Linear)
    @write.register(nir.Affine)
    def _(self, op: nir.Linear | nir.Affine, node: Node[nir.NIRNode]) -> None:
        inputs = [*self.inputs(node), self._real(f"{node.name}.weight", op.weight)]
        if isinstance(op, nir.Affine):
            inputs.append(self._real(f"{node.name}.bias", op.bias))
        self._write("Gemm", node, inputs, transB=1)

    @write.register
    def _(self, op: nir.Scale, node: Node[nir.NIRNode]) -> None:
        self._write("Mul", node, [*self.inputs(node), self._real(f"{node.name}.scale", collapse(op.scale))])

    @write.register
    def _(self, op: nir.Flatten, node: Node[nir.NIRNode]) -> None:  # noqa: ARG002
        self._write("Flatten", node, self.inputs(node), axis=1)

    @write.register
    def _(self, op: Add, node: Node[nir.NIRNode]) -> None:  # noqa: ARG002
        self._write("Sum", node, self.inputs(node))

    @write.register
    def _(self, op: nir.LIF, node: Node[nir.NIRNode]) -> None:
        if op.metadata.get("fires_at") == ">":
            raise UnsupportedError(
                f"{node.name}: fires above its threshold, and the float ONNX model's neurons at it; export "
                "the integer model instead"
            )
        dt = float(self.graph.metadata["dt"])
        parameters = {"dt_over_tau": dt / collapse(op.tau)}
        parameters |= {field: collapse(getattr(op, field)) for field in ("r", "v_leak", "v_threshold", "v_reset")}
        attributes = {name: _uniform(node.name, name, values) for name, values in parameters.items()}
        self._write("LIF", node, self.inputs(node), domain=DOMAIN, timesteps=self.graph.timesteps, **attributes)

    @write.register
    def _(self, op: SpikeMatMul, node: Node[nir.NIRNode]) -> None:
        y, spikes = (self.graph[name].shape for name in node.inputs)
        channels = y[0] // op.num_heads
        first, last = {"y1": (0, channels // 2), "y2": (channels // 2, channels), "all": (0, channels)}[op.part]
        rows = last - first if op.transpose else math.prod(y[1:])
        self._write(
            "SpikeMatMul",
            node,
            self.inputs(node),
            domain=DOMAIN,
            y_shape=[0, op.num_heads, channels, math.prod(y[1:])],
            first=[first],
            last=[last],
            perm=[0, 1, 3, 2] if op.transpose else [0, 1, 2, 3],
            spikes_shape=[0, op.num_heads, rows, math.prod(spikes) // (op.num_heads * rows)],
            output_shape=[0, *node.shape],
        )

    @write.register
    def _(self, op: SpikeGate, node: Node[nir.NIRNode]) -> None:
        made, *others = self.spread_inputs(node, self.inputs(node))
        for index, other in enumerate(others, 1):
            name = f"{node.name}.gated{index}"
            if op.kind == "iand":  # for values 0 and 1, a - b is positive only where a is 1 and b is 0
                self.add("Sub", f"{node.name}.less{index}", [made, other])
                self.add("Relu", name, [f"{node.name}.less{index}"])
            else:
                self.add("Mul" if op.kind == "and" else "Max", name, [made, other])
            made = name
        self._write("Identity", node, [made])

    @write.register
    def _(self, op: SpikeAttention, node: Node[nir.NIRNode]) -> None:
        first, second = self.attention_products(node, self.inputs(node), op.num_heads)
        self.add("MatMul", f"{node.name}.first", first)
        self.add("MatMul", f"{node.name}.counts", second)
        scale = self._real(f"{node.name}.scale", np.array(2.0**-op.shift))
        self.add("Mul", f"{node.name}.scaled", [f"{node.name}.counts", scale])
        shape = self.shape_constant(f"{node.name}.shape", (0, *node.shape))
        self._write("Reshape", node, [f"{node.name}.scaled", shape])

    def _write(self, op: str, node: Node[nir.NIRNode], inputs: Sequence[str], **attributes: Any) -> None:
        """Append the ONNX node that has a graph node's name and computes its output."""
        self.add_for(node, op, inputs, np.float32, **attributes)

    def _real(self, name: str, array: npt.NDArray[np.float64]) -> str:
        """Add real numbers under a name, and return the name."""
        return self.constant(name, array.astype(np.float32))


def _uniform(name: str, parameter: str, values: npt.NDArray[np.float64]) -> float:
    if np.ptp(values):
        raise UnsupportedError(
            f"{name}: {parameter} varies from {values.min():.4g} to {values.max():.4g} within the population; "
            "ONNX export needs one value for all its neurons"
        )
    return float(values.flat[0])
