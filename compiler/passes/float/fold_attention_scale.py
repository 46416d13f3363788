"""Fold DSSA's scales c1 and c2 into the convolutions that make y1 and y2."""

from __future__ import annotations

import nir
import numpy as np

from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import SpikeMatMul, with_weight
from resformer.errors import UnsupportedError


def fold_attention_scale(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """Multiply the weights and biases of y's convolution by the scale of the product that reads it.

    The firing rates that c1 and c2 are computed from are buffers, so at inference both are constants for each head.

    Raises:
        UnsupportedError: A scale is not constant over a head, the product does not read a convolution of its own, or
            something else reads the product.
    """
    edit = graph.edit()
    for node in graph:
        if not isinstance(node.op, nir.Scale):
            continue
        product = graph[node.inputs[0]]
        if not isinstance(product.op, SpikeMatMul):
            continue
        if len(graph.consumers[product.name]) > 1:
            readers = ", ".join(reader.name for reader in graph.consumers[product.name])
            raise UnsupportedError(f"{node.name}: must be all that reads {product.name}, which {readers} read")
        source = graph[product.inputs[0]]
        if not isinstance(source.op, nir.Conv2d) or len(graph.consumers[source.name]) > 1 or product.op.part != "all":
            raise UnsupportedError(
                f"{node.name}: the scale of {product.name} can be folded only into a convolution that no other product "
                f"reads; {source.name} ({type(source.op).__name__}) is not one"
            )
        scale = np.broadcast_to(node.op.scale, node.shape)
        per_head = scale.reshape(product.op.num_heads, -1)
        if np.ptp(per_head, axis=1).any():
            raise UnsupportedError(f"{node.name}: the scale varies within a head; one value a head is supported")
        channels = source.op.weight.shape[0]
        gain = np.repeat(per_head[:, 0], channels // product.op.num_heads)
        edit.set_op(
            source.name,
            with_weight(source.op, weight=source.op.weight * gain[:, None, None, None], bias=source.op.bias * gain),
        )
        edit.bypass(node.name)
    return edit.finish()
