"""What the float and the integer ONNX models have in common: how they take samples, name values and hold constants.

Steps and samples are merged, steps first, into one batch. The value that a node of the network makes has the node's
name, or, if the model needs that name for a value of its own, such as ``logits``, the name with a number behind it.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.ops.counts import attention_sizes
from resformer.errors import UnsupportedError

if TYPE_CHECKING:
    import onnx

OPSET = 17
IR_VERSION = 8
"""``OPSET`` and ``IR_VERSION`` are as old as the functions and operations used here allow, so that most runtimes load
the model."""

DOMAIN = "resformer"

BATCH = "T*N"
"""The name of the merged axis."""

HEADER = f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>'

Element: TypeAlias = type[np.generic]

GraphT = TypeVar("GraphT", bound="Graph[Any]")
WriterT = TypeVar("WriterT", bound="ModelWriter")


class ModelWriter:
    """Collects ONNX nodes.

    Args:
        graph: The network.
        originals: The names that nodes had before they got new ones, by the new names.

    Attributes:
        values: For each node written so far, the name of the value that holds its output, (T * N, ...).
    """

    def __init__(self, graph: Graph[Any], originals: Mapping[str, str]) -> None:
        self.graph = graph
        self.originals = originals
        self._made: Counter[str] = Counter()
        self.values: dict[str, str] = {}
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []
        self._described: dict[str, Any] = {}
        self._input: Any = None
        self._outputs: list[Any] = []

    def add(self, op: str, name: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> None:
        """Append an ONNX node; its output has the node's own name, unless other names are given."""
        from onnx import helper

        self._made.update(outputs or [name])
        self._nodes.append(helper.make_node(op, inputs, outputs or [name], name=name, **attributes))

    def add_for(self, node: Node[Any], op: str, inputs: Sequence[str], element: Element, **attributes: Any) -> None:
        """Append the ONNX node that has a network node's name and computes its output."""
        self.add(op, node.name, inputs, **attributes)
        self.made(node, element)

    def made(self, node: Node[Any], element: Element) -> None:
        """Record that the value with a network node's name holds the node's output, and describe that value."""
        self.values[node.name] = node.name
        self.describe(node.name, element, (BATCH, *node.shape))

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """Add a constant under a name, and return the name."""
        from onnx import numpy_helper

        self._made[name] += 1
        self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def shape_constant(self, name: str, shape: Sequence[int]) -> str:
        """Add a shape, or other ONNX indices, under a name, and return the name."""
        return self.constant(name, np.array(shape, dtype=np.int64))

    def describe(self, name: str, element: Element, shape: Sequence[int | str]) -> None:
        """State a value's type and shape; an axis given by a name is free."""
        self._described[name] = self._value_info(name, element, shape)

    def output(self, name: str) -> None:
        """Make a value, which must have been described, an output of the model."""
        self._outputs.append(self._described[name])

    def record(self, node: Node[Any]) -> None:
        """Make the value of a network node an output, under the node's name.

        Raises:
            UnsupportedError: The model has a value of its own under that name.
        """
        if node.name in self.originals:
            raise UnsupportedError(
                f"{self.originals[node.name]}: cannot be recorded in an ONNX model, which has a value of its own under "
                "that name; rename the layer, or run the simulator instead"
            )
        self.output(node.name)

    @property
    def clashes(self) -> tuple[str, ...]:
        """The names that nodes had at first, of those whose values have the name of another value of the model."""
        return tuple(self.originals.get(node.name, node.name) for node in self.graph if self._made[node.name] > 1)

    def inputs(self, node: Node[Any]) -> list[str]:
        """The names of the values that a network node reads."""
        return [self.values[source] for source in node.inputs]

    def take_samples(self, node: Node[Any], element: Element) -> None:
        """Append the input: samples (N, C, H, W), or frames (N, T, C, H, W) where the graph's metadata say so."""
        name, steps = node.name, self.graph.timesteps
        self._made[name] += 1
        if self.graph.metadata.get("input") == "frames":
            self._input = self._value_info(name, element, ("N", steps, *node.shape))
            self.add("Transpose", f"{name}.by_step", [name], perm=[1, 0, *range(2, 2 + len(node.shape))])
        else:
            self._input = self._value_info(name, element, ("N", *node.shape))
            repeats = self.shape_constant(f"{name}.repeats", (steps, *(1,) * (1 + len(node.shape))))
            self.add("Expand", f"{name}.by_step", [name, repeats])
        merged = self.shape_constant(f"{name}.merged", (-1, *node.shape))
        self.values[name] = f"{name}.frames"
        self.add("Reshape", f"{name}.frames", [f"{name}.by_step", merged])

    def by_sample(self, node: Node[Any], source: str, result: str, element: Element) -> None:
        """Append the ONNX nodes that turn ``source``, (T * N, ...) of a node's shape, into ``result``, (N, T, ...)."""
        by_step = self.shape_constant(f"{node.name}.split", (self.graph.timesteps, -1, *node.shape))
        self.add("Reshape", f"{node.name}.by_step", [source, by_step])
        axes = range(2, 2 + len(node.shape))
        self.add("Transpose", node.name, [f"{node.name}.by_step"], result, perm=[1, 0, *axes])
        self.describe(result, element, ("N", self.graph.timesteps, *node.shape))

    def spread_inputs(self, node: Node[Any], values: Sequence[str]) -> list[str]:
        """The values that a gate reads, with channels repeated where needed to broadcast against the gate's output."""
        channels, *_ = node.shape
        spread = []
        for index, (value, source) in enumerate(zip(values, node.inputs, strict=True)):
            given, *size = self.graph[source].shape
            if given not in (1, channels):  # each channel of the value stands for several neighbouring ones of the gate
                name = f"{node.name}.spread{index}"
                each = channels // given
                for op, step, shape in (
                    ("Reshape", f"{name}.apart", (0, given, 1, *size)),
                    ("Expand", f"{name}.repeated", (1, given, each, *size)),
                    ("Reshape", name, (0, channels, *size)),
                ):
                    self.add(op, step, [value, self.shape_constant(f"{step}.shape", shape)])
                    value = step
            spread.append(value)
        return spread

    def attention_products(
        self, node: Node[Any], values: Sequence[str], heads: int
    ) -> tuple[tuple[str, str], tuple[str, str]]:
        """The operands of both products of an attention of counts; the second reads the first as ``NODE.first``.

        Args:
            node: The attention, which reads q, k and v.
            values: The names of the values of q, k and v, (T * N, C, H, W).
            heads: The number of heads, which are blocks of channels.
        """
        shapes = [self.graph[source].shape for source in node.inputs]
        made = []
        for letter, value, (channels, *size) in zip("qkv", values, shapes, strict=True):
            name = f"{node.name}.{letter}"
            by_head = self.shape_constant(f"{name}.shape", (0, heads, channels // heads, math.prod(size)))
            self.add("Reshape", name, [value, by_head])
            made.append(name)
        q, k, v = made
        keys, first = f"{node.name}.keys", f"{node.name}.first"
        self.add("Transpose", keys, [k], perm=[0, 1, 3, 2])
        if attention_sizes(shapes, heads).scores_first:
            return (keys, q), (v, first)
        return (v, keys), (first, q)

    def model(self, functions: Iterable[str]) -> onnx.ModelProto:
        """The model of all that was appended, checked; ``functions`` are model-local ones in ONNX's text syntax."""
        from onnx import checker, helper, parser

        kept = {info.name for info in self._outputs}
        body = helper.make_graph(
            self._nodes,
            "SpikingResformer",
            [self._input],
            self._outputs,
            initializer=self._initializers,
            value_info=[info for name, info in self._described.items() if name not in kept],
        )
        model: onnx.ModelProto = helper.make_model(
            body,
            functions=[parser.parse_function(HEADER + text) for text in functions],
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
            ir_version=IR_VERSION,
            producer_name="resformer",
        )
        helper.set_model_props(model, {"timesteps": str(self.graph.timesteps)})
        checker.check_model(model)
        return model

    @staticmethod
    def _value_info(name: str, element: Element, shape: Sequence[int | str]) -> Any:
        from onnx import helper

        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(element)), shape)


def without_clashes(graph: GraphT, write: Callable[[GraphT, Mapping[str, str]], WriterT]) -> WriterT:
    """The writer of a network whose nodes have new names where these are the names of other values of the model.

    Args:
        graph: The network.
        write: Writes a network with new names, given the names that these nodes had.
    """
    writer = write(graph, {})
    names: dict[str, str] = {}
    counts = itertools.count(1)
    while writer.clashes:
        for name in writer.clashes:
            names[name] = next(new for new in (f"{name}.{count}" for count in counts) if new not in graph)
        writer = write(_renamed(graph, names), {new: name for name, new in names.items()})
    return writer


def _renamed(graph: GraphT, names: Mapping[str, str]) -> GraphT:
    """A network whose nodes have new names."""
    nodes = (
        replace(node, name=names.get(node.name, node.name), inputs=tuple(names.get(each, each) for each in node.inputs))
        for node in graph
    )
    return replace(graph, nodes=tuple(nodes))


def ints(values: Any) -> list[int]:
    """Plain integers, as ONNX's attributes want them."""
    return [int(value) for value in values]
