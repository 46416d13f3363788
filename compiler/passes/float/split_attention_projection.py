"""Split the convolution that makes y1 and y2 into two, one for each product of DSSA."""

from __future__ import annotations

import nir

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.primitives import SpikeMatMul, half_rows, with_weight
from resformer.errors import UnsupportedError


def split_attention_projection(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """Give each product a convolution of its own, ``W.y1`` and ``W.y2``, and with it a scale of its own.

    The channels of W are split into heads, and those of each head into y1 and y2 (the authors'
    ``models/spikingresformer.py``).

    Raises:
        UnsupportedError: A product reads half of something that is not a convolution, two products read the same half,
            or something else reads the convolution.
    """
    edit = graph.edit()
    emptied: dict[str, None] = {}
    for node in graph:
        product = node.op
        if not isinstance(product, SpikeMatMul) or product.part == "all":
            continue
        source = graph[node.inputs[0]]
        if not isinstance(source.op, nir.Conv2d):
            raise UnsupportedError(
                f"{node.name}: reads half the channels of {source.name} ({type(source.op).__name__}); "
                "only a convolution, its batch normalisation folded, can be split into y1 and y2"
            )
        halves = [getattr(reader.op, "part", "all") for reader in graph.consumers[source.name]]
        if "all" in halves or len(set(halves)) < len(halves):
            readers = ", ".join(reader.name for reader in graph.consumers[source.name])
            raise UnsupportedError(
                f"{source.name}: is read by {readers}; only one product for y1 and one for y2 may read the convolution "
                "that makes both"
            )
        rows = half_rows(source.op.weight.shape[0], product.num_heads, product.part)
        half: Node[nir.NIRNode] = Node(
            f"{source.name}.{product.part}",
            with_weight(source.op, weight=source.op.weight[rows], bias=source.op.bias[rows]),
            inputs=source.inputs,
            shape=(len(rows), *source.shape[1:]),
        )
        edit.add(half)
        edit.redirect(source.name, half.name, readers=(node.name,))
        edit.set_op(node.name, SpikeMatMul(num_heads=product.num_heads, transpose=product.transpose, part="all"))
        emptied[source.name] = None
    for name in emptied:
        edit.remove(name)
    return edit.finish()
