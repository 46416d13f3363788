"""Turn hidden linear layers into convolutions as large as their input, so that neurons read only convolutions."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from typing import Any

import nir
import numpy as np

from resformer.compiler.ir.arrays import Shape
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.messages import names_before
from resformer.compiler.ir.primitives import NEURONS, PER_NEURON, Add, DiscreteCubaLIF, SampleDelay
from resformer.errors import UnsupportedError


def convolve_linear(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """Replace the linear layers that neurons depend on by convolutions, and vectors before neurons by images.

    A linear layer of F outputs that reads a flattened (C, H, W) is a convolution of F kernels of (C, H, W): the same
    products in the same order. Its output is an image of one pixel. The readout, behind all neurons, stays linear
    unless it adds linear layers of several messages: only convolutions are added.

    Raises:
        UnsupportedError: A node reads vectors that were flattened from images of different shapes.
    """
    before = _names_of_images(graph)
    # for each value before neurons, the name of the node that makes it as an image
    images: dict[str, str] = {}
    made: dict[str, Node[nir.NIRNode]] = {}
    for node in graph:
        if node.name not in before:
            made[node.name] = replace(node, inputs=tuple(_as_given(name, images, graph, made) for name in node.inputs))
            continue
        inputs = tuple(images[name] for name in node.inputs)
        if isinstance(node.op, nir.Flatten):
            images[node.name] = inputs[0]
            continue
        images[node.name] = node.name
        made[node.name] = _as_image(node, inputs, [made[name].shape for name in inputs])
    return replace(graph, nodes=tuple(made.values()))


def _names_of_images(graph: Graph[nir.NIRNode]) -> set[str]:
    """The nodes that neurons, delays or sums of linear layers depend on, those included."""
    # neurons send images, so delays read images
    found = set(names_before(graph, SampleDelay, *NEURONS))
    for node in reversed(graph.nodes):
        sums = isinstance(node.op, Add) and any(
            isinstance(graph[name].op, nir.Linear | nir.Affine) for name in node.inputs
        )
        if sums or any(reader.name in found for reader in graph.consumers[node.name]):
            found.add(node.name)
    return found


def _as_image(node: Node[nir.NIRNode], inputs: tuple[str, ...], shapes: list[Shape]) -> Node[nir.NIRNode]:
    """A node changed so that it reads images and makes an image."""
    op = node.op
    if isinstance(op, nir.Linear | nir.Affine):
        outputs = len(op.weight)
        conv = nir.Conv2d(
            input_shape=shapes[0][1:],
            weight=op.weight.reshape(outputs, *shapes[0]),
            stride=(1, 1),
            padding=(0, 0),
            dilation=(1, 1),
            groups=1,
            bias=op.bias if isinstance(op, nir.Affine) else np.zeros(outputs),
            metadata=dict(op.metadata),
        )
        return Node(node.name, conv, inputs, (outputs, 1, 1))
    if len(node.shape) == 3 or isinstance(op, nir.Input):
        return replace(node, inputs=inputs)
    if len(set(shapes)) > 1 or math.prod(shapes[0]) != math.prod(node.shape):
        raise UnsupportedError(
            f"{node.name}: reads vectors made of images of shapes {', '.join(map(str, shapes))}; put a linear layer "
            "or neurons behind each flatten"
        )
    if isinstance(op, (SampleDelay, *NEURONS)):
        names = PER_NEURON if isinstance(op, DiscreteCubaLIF) else [each.name for each in dataclasses.fields(op)]
        fields = {name: getattr(op, name) for name in names}  # recurrent synapses take vectors as images already
        arrays: dict[str, Any] = {
            name: value.reshape(shapes[0]) for name, value in fields.items() if isinstance(value, np.ndarray)
        }
        op = replace(op, **arrays, metadata=dict(op.metadata))
    return Node(node.name, op, inputs, shapes[0])


def _as_given(name: str, images: dict[str, str], graph: Graph[nir.NIRNode], made: dict[str, Node[nir.NIRNode]]) -> str:
    """The name of a value in the shape that it has in the given graph, for its readers behind all neurons."""
    source = images.get(name, name)
    if made[source].shape == graph[name].shape:
        return source
    flat = name if name not in made else f"{name}.flatten"
    if flat not in made:
        made[flat] = Node(
            flat, nir.Flatten({"input": np.array(made[source].shape)}, start_dim=0), (source,), graph[name].shape
        )
    return flat
