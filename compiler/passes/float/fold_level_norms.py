"""Let layers read levels as whole numbers: factors between levels and a layer become part of the layer's weights."""

from __future__ import annotations

import nir

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.primitives import (
    LEVEL_NORM,
    Add,
    IntegerLIF,
    MaxPool2d,
    SampleDelay,
    as_layer,
    bias_of,
    collapse,
    with_weight,
)

PASSES = (MaxPool2d, nir.AvgPool2d, nir.SumPool2d, nir.Flatten, SampleDelay)
"""Operations whose result is the same whether a positive factor comes before or after them."""


def fold_level_norms(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """Multiply the weights of layers by the factor, such as I-LIF's norm, that scales the levels which they read.

    If something other than layers, such as a sum, reads the scaled levels, the factor stays a node of its own.
    """
    edit = graph.edit()
    factors: dict[str, float] = {}
    for node in graph:
        if not _scales_levels(graph, node):
            continue
        assert isinstance(node.op, nir.Scale)
        readers = _readers(graph, node)
        if not all(isinstance(each.op, nir.Conv2d | nir.Linear | nir.Affine) for each in readers):
            continue
        for reader in readers:
            factors[reader.name] = factors.get(reader.name, 1.0) * float(collapse(node.op.scale).flat[0])
        edit.bypass(node.name)
    for name, factor in factors.items():
        layer = as_layer(graph[name].op)
        made: nir.Conv2d | nir.Linear | nir.Affine
        if isinstance(layer, nir.Linear):
            made = nir.Linear(layer.weight * factor, metadata=dict(layer.metadata))
        else:
            made = with_weight(layer, weight=layer.weight * factor, bias=bias_of(layer))
        made.metadata[LEVEL_NORM] = 1 / factor
        edit.set_op(name, made, inputs=None)
    return edit.finish()


def _scales_levels(graph: Graph[nir.NIRNode], node: Node[nir.NIRNode]) -> bool:
    """Whether a node multiplies levels, or sums and maxima of them, by one positive number."""
    if not isinstance(node.op, nir.Scale):
        return False
    scale = collapse(node.op.scale)
    return bool((scale == scale.flat[0]).all() and scale.flat[0] > 0) and _is_levels(graph, node.inputs[0])


def _is_levels(graph: Graph[nir.NIRNode], name: str) -> bool:
    """Whether a value is made of levels alone, through ``PASSES``, sums and factors."""
    node = graph[name]
    if isinstance(node.op, (*PASSES, Add, nir.Scale)):
        return all(_is_levels(graph, each) for each in node.inputs)
    return isinstance(node.op, IntegerLIF)


def _readers(graph: Graph[nir.NIRNode], node: Node[nir.NIRNode]) -> list[Node[nir.NIRNode]]:
    """The nodes that read a value, directly or through ``PASSES`` and factors on levels."""
    found: list[Node[nir.NIRNode]] = []
    for each in graph.consumers[node.name]:
        passes = isinstance(each.op, PASSES) or _scales_levels(graph, each)
        found += _readers(graph, each) if passes else [each]
    return found
