"""Turn an average pool into a sum, and its division into a factor on the logits, which no spike depends on."""

from __future__ import annotations

import math

import nir
import numpy as np

from resformer.compiler.ir.graph import Graph, Node
from resformer.errors import UnsupportedError


def fold_average_pool(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """Replace average pool, flatten, linear by sum pool, flatten, linear, scale by 1 / area.

    The linear layer may be missing; if it has a bias, the bias is multiplied by the area.

    Raises:
        UnsupportedError: The pool has padding, or is not followed by flatten, perhaps a linear layer, and the output.
    """
    edit = graph.edit()
    for node in graph:
        pool = node.op
        if not isinstance(pool, nir.AvgPool2d):
            continue
        chain = [node]
        while len(graph.consumers[chain[-1].name]) == 1:
            chain.append(graph.consumers[chain[-1].name][0])
        kinds = [type(each.op) for each in chain[1:]]
        if kinds not in _TAILS or np.any(pool.padding):
            followers = ", ".join(kind.__name__ for kind in kinds)
            raise UnsupportedError(
                f"{node.name}: an average pool is supported, without padding, before flatten, a linear layer and the "
                f"output; it is followed by {followers or 'several readers'}"
            )
        edit.set_op(node.name, nir.SumPool2d(kernel_size=pool.kernel_size, stride=pool.stride, padding=pool.padding))
        last, area = chain[-2], math.prod(int(size) for size in pool.kernel_size)
        if isinstance(last.op, nir.Affine):
            affine = nir.Affine(last.op.weight, last.op.bias * area, metadata=dict(last.op.metadata))
            edit.set_op(last.name, affine)
        scale: Node[nir.NIRNode] = Node(
            f"{last.name}.scale",
            nir.Scale(scale=np.full(last.shape, 1.0 / area)),
            inputs=(last.name,),
            shape=last.shape,
        )
        edit.insert_after(last.name, scale)
    return edit.finish()


_TAILS: tuple[list[type[nir.NIRNode]], ...] = (
    [nir.Flatten, nir.Linear, nir.Output],
    [nir.Flatten, nir.Affine, nir.Output],
    [nir.Flatten, nir.Output],
)
"""What may follow a pool at the end of a network."""
