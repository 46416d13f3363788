"""Fold each batch normalisation into the convolution, or linear layer, before it."""

from __future__ import annotations

import nir
import numpy as np

from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import BatchNorm2d, with_weight
from resformer.errors import UnsupportedError


def fold_batchnorm(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """Scale each layer's rows by weight / sqrt(running_var + eps) and move the rest into its bias, in float64.

    Raises:
        UnsupportedError: A batch normalisation does not follow a layer with weights that nothing else reads.
    """
    edit = graph.edit()
    for node in graph:
        norm = node.op
        if not isinstance(norm, BatchNorm2d):
            continue
        source = graph[node.inputs[0]]
        if not isinstance(source.op, nir.Conv2d | nir.Linear | nir.Affine) or len(graph.consumers[source.name]) > 1:
            raise UnsupportedError(
                f"{node.name}: batch normalisation can be folded only into a layer with weights that nothing else "
                f"reads, and {source.name} ({type(source.op).__name__}) is none; put it right behind its layer"
            )
        gain = norm.weight / np.sqrt(norm.running_var + norm.eps)
        bias = 0.0 if isinstance(source.op, nir.Linear) else source.op.bias
        edit.set_op(
            source.name,
            with_weight(
                source.op,
                weight=source.op.weight * gain.reshape(-1, *(1,) * (source.op.weight.ndim - 1)),
                bias=(bias - norm.running_mean) * gain + norm.bias,
            ),
        )
        edit.bypass(node.name)
    return edit.finish()
