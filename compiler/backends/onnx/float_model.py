"""Float graphs as ONNX models of standard operations.

Steps and samples are merged, steps first, into one batch. Neurons and attention's products are model-local functions of
the domain ``resformer``: one node each in a viewer, standard operations to a runtime.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatchmethod
from typing import TYPE_CHECKING, Any

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.primitives import Add, BatchNorm2d, MaxPool2d, SpikeMatMul, collapse
from resformer.errors import BackendMissingError, UnsupportedError

if TYPE_CHECKING:
    import onnx

OPSET = 17
IR_VERSION = 8
"""Both as old as the functions and operations used here allow, so that most runtimes load the model."""

DOMAIN = "resformer"

BATCH = "T*N"
"""The name of the merged axis."""

HEADER = f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>'

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
    v_start = ConstantOfShape (neurons)
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
"""Neurons that start at rest and step over T; as ``float_interpreter.fire``."""

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
        graph: Of real numbers.
        with_spikes: Make each population's spikes, (T * N, ...), an output of its own, under the population's name.

    Raises:
        UnsupportedError: A population's parameters vary between its neurons, or ONNX has no form for a node.
        BackendMissingError: onnx is not installed.
    """
    try:
        from onnx import checker, helper, parser
    except ImportError as error:
        raise BackendMissingError(
            f"onnx cannot be imported ({error}): pip install 'resformer[onnx]' or pip install onnx onnxruntime"
        ) from error
    writer = _Writer(graph)
    for node in graph:
        writer.write(node.op, node)
    outputs = [writer.output]
    if with_spikes:
        populations = [node for node in graph if isinstance(node.op, nir.LIF)]
        outputs += [writer.value_info(node.name, (BATCH, *node.shape)) for node in populations]
    shapes = [writer.value_info(name, shape) for name, shape in writer.shapes.items()]
    kept = {info.name for info in outputs}
    body = helper.make_graph(
        writer.nodes,
        "SpikingResformer",
        [writer.input],
        outputs,
        initializer=writer.initializers,
        value_info=[info for info in shapes if info.name not in kept],
    )
    model: onnx.ModelProto = helper.make_model(
        body,
        functions=[parser.parse_function(HEADER + text) for text in (LIF_FUNCTION, SPIKE_MATMUL_FUNCTION)],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        ir_version=IR_VERSION,
        producer_name="resformer",
    )
    helper.set_model_props(model, {"timesteps": str(graph.timesteps)})
    checker.check_model(model)
    return model


class _Writer:
    """Collects ONNX nodes; each graph node's value has the node's name and is (T * N, ...)."""

    def __init__(self, graph: Graph[nir.NIRNode]) -> None:
        self._graph = graph
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.shapes: dict[str, tuple[int | str, ...]] = {}
        self.input: Any = None
        self.output: Any = None

    def value_info(self, name: str, shape: Sequence[int | str]) -> Any:
        """A float32 value's name and shape; an axis given by a name is free."""
        from onnx import TensorProto, helper

        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    def _add(self, op: str, name: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> None:
        """Append an ONNX node, which makes the value of its own name unless another is given."""
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output or name], name=name, **attributes))

    def _constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """Add a constant under a name, floats as float32, and return the name."""
        from onnx import numpy_helper

        narrow = array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(narrow), name))
        return name

    def _shape_constant(self, name: str, shape: Sequence[int]) -> str:
        return self._constant(name, np.array(shape, dtype=np.int64))

    @singledispatchmethod
    def write(self, op: nir.NIRNode, node: Node[nir.NIRNode]) -> None:
        """Append what computes one graph node."""
        raise UnsupportedError(f"{node.name}: {type(op).__name__} has no ONNX form; run the simulator instead")

    @write.register
    def _(self, op: nir.Input, node: Node[nir.NIRNode]) -> None:  # noqa: ARG002
        name, steps = node.name, self._graph.timesteps
        if self._graph.metadata.get("input") == "frames":
            self.input = self.value_info(name, ("N", steps, *node.shape))
            self._add("Transpose", f"{name}.by_step", [name], perm=[1, 0, *range(2, 2 + len(node.shape))])
        else:
            self.input = self.value_info(name, ("N", *node.shape))
            repeats = self._shape_constant(f"{name}.repeats", (steps, *(1,) * (1 + len(node.shape))))
            self._add("Expand", f"{name}.by_step", [name, repeats])
        merged = self._shape_constant(f"{name}.merged", (-1, *node.shape))
        self._add("Reshape", self._value(name), [f"{name}.by_step", merged])

    @write.register
    def _(self, op: nir.Output, node: Node[nir.NIRNode]) -> None:  # noqa: ARG002
        by_step = self._shape_constant(f"{node.name}.split", (self._graph.timesteps, -1, *node.shape))
        self._add("Reshape", f"{node.name}.by_step", [*self._inputs(node), by_step])
        axes = range(2, 2 + len(node.shape))
        self._add("Transpose", node.name, [f"{node.name}.by_step"], output="logits", perm=[1, 0, *axes])
        self.output = self.value_info("logits", ("N", self._graph.timesteps, *node.shape))

    @write.register
    def _(self, op: nir.Conv2d, node: Node[nir.NIRNode]) -> None:
        inputs = [*self._inputs(node), self._constant(f"{node.name}.weight", op.weight)]
        if np.any(op.bias):
            inputs.append(self._constant(f"{node.name}.bias", op.bias))
        self._write(
            "Conv",
            node,
            inputs,
            strides=_ints(op.stride),
            pads=_ints(op.padding) * 2,
            dilations=_ints(op.dilation),
            group=int(op.groups),
        )

    @write.register
    def _(self, op: BatchNorm2d, node: Node[nir.NIRNode]) -> None:
        fields = ("weight", "bias", "running_mean", "running_var")
        constants = [self._constant(f"{node.name}.{field}", getattr(op, field)) for field in fields]
        self._write("BatchNormalization", node, [*self._inputs(node), *constants], epsilon=float(op.eps))

    @write.register
    def _(self, op: MaxPool2d, node: Node[nir.NIRNode]) -> None:
        kernel, stride, padding = _ints(op.kernel_size), _ints(op.stride), _ints(op.padding)
        self._write("MaxPool", node, self._inputs(node), kernel_shape=kernel, strides=stride, pads=padding * 2)

    @write.register
    def _(self, op: nir.AvgPool2d, node: Node[nir.NIRNode]) -> None:
        self._write(
            "AveragePool",
            node,
            self._inputs(node),
            kernel_shape=_ints(op.kernel_size),
            strides=_ints(op.stride),
            pads=_ints(op.padding) * 2,
            count_include_pad=1,
        )

    @write.register
    def _(self, op: nir.SumPool2d, node: Node[nir.NIRNode]) -> None:
        # ONNX has no sum over windows: a convolution of ones, a channel at a time.
        channels, kernel = node.shape[0], _ints(op.kernel_size)
        ones = self._constant(f"{node.name}.ones", np.ones((channels, 1, *kernel)))
        stride, pads = _ints(op.stride), _ints(op.padding) * 2
        self._write("Conv", node, [*self._inputs(node), ones], strides=stride, pads=pads, group=channels)

    @write.register(nir.Linear)
    @write.register(nir.Affine)
    def _(self, op: nir.Linear | nir.Affine, node: Node[nir.NIRNode]) -> None:
        inputs = [*self._inputs(node), self._constant(f"{node.name}.weight", op.weight)]
        if isinstance(op, nir.Affine):
            inputs.append(self._constant(f"{node.name}.bias", op.bias))
        self._write("Gemm", node, inputs, transB=1)

    @write.register
    def _(self, op: nir.Scale, node: Node[nir.NIRNode]) -> None:
        self._write("Mul", node, [*self._inputs(node), self._constant(f"{node.name}.scale", collapse(op.scale))])

    @write.register
    def _(self, op: nir.Flatten, node: Node[nir.NIRNode]) -> None:  # noqa: ARG002
        self._write("Flatten", node, self._inputs(node), axis=1)

    @write.register
    def _(self, op: Add, node: Node[nir.NIRNode]) -> None:  # noqa: ARG002
        self._write("Sum", node, self._inputs(node))

    @write.register
    def _(self, op: nir.LIF, node: Node[nir.NIRNode]) -> None:
        dt = float(self._graph.metadata["dt"])
        parameters = {"dt_over_tau": dt / collapse(op.tau)}
        parameters |= {field: collapse(getattr(op, field)) for field in ("r", "v_leak", "v_threshold", "v_reset")}
        attributes = {name: _uniform(node.name, name, values) for name, values in parameters.items()}
        self._write("LIF", node, self._inputs(node), domain=DOMAIN, timesteps=self._graph.timesteps, **attributes)

    @write.register
    def _(self, op: SpikeMatMul, node: Node[nir.NIRNode]) -> None:
        y, spikes = (self._graph[name].shape for name in node.inputs)
        channels = y[0] // op.num_heads
        first, last = {"y1": (0, channels // 2), "y2": (channels // 2, channels), "all": (0, channels)}[op.part]
        rows = last - first if op.transpose else math.prod(y[1:])
        self._write(
            "SpikeMatMul",
            node,
            self._inputs(node),
            domain=DOMAIN,
            y_shape=[0, op.num_heads, channels, math.prod(y[1:])],
            first=[first],
            last=[last],
            perm=[0, 1, 3, 2] if op.transpose else [0, 1, 2, 3],
            spikes_shape=[0, op.num_heads, rows, math.prod(spikes) // (op.num_heads * rows)],
            output_shape=[0, *node.shape],
        )

    def _write(self, op: str, node: Node[nir.NIRNode], inputs: Sequence[str], **attributes: Any) -> None:
        """Append the ONNX node that bears a graph node's name."""
        self._add(op, node.name, inputs, **attributes)
        self.shapes[node.name] = (BATCH, *node.shape)

    def _inputs(self, node: Node[nir.NIRNode]) -> list[str]:
        return [self._value(source) for source in node.inputs]

    def _value(self, name: str) -> str:
        """The name of a node's value: its own, but for the input, whose name the unmerged samples have."""
        return f"{name}.frames" if name == self._graph.input.name else name


def _uniform(name: str, parameter: str, values: npt.NDArray[np.float64]) -> float:
    if np.ptp(values):
        raise UnsupportedError(
            f"{name}: {parameter} varies from {values.min():.4g} to {values.max():.4g} within the population; "
            "ONNX export needs one value for all its neurons"
        )
    return float(values.flat[0])


def _ints(values: Any) -> list[int]:
    return [int(value) for value in values]
