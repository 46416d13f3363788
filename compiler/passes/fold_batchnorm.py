"""Fold each batch normalisation into the convolution before it."""

from __future__ import annotations

import nir
import numpy as np

from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import BatchNorm2d
from resformer.errors import UnsupportedError


def fold_batchnorm(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """Scale each convolution's rows by weight / sqrt(running_var + eps) and move the rest into its bias, in float64.

    Raises:
        UnsupportedError: A batch normalisation does not follow a convolution of its own.
    """
    edit = graph.edit()
    for node in graph:
        norm = node.op
        if not isinstance(norm, BatchNorm2d):
            continue
        source = graph[node.inputs[0]]
        if not isinstance(source.op, nir.Conv2d) or len(graph.consumers[source.name]) > 1:
            raise UnsupportedError(
                f"{node.name}: batch normalisation can be folded only into a convolution that nothing else reads, "
                f"and {source.name} ({type(source.op).__name__}) is none; put it right behind its convolution"
            )
        gain = norm.weight / np.sqrt(norm.running_var + norm.eps)
        edit.set_op(
            source.name,
            with_weight(
                source.op,
                weight=source.op.weight * gain[:, None, None, None],
                bias=(source.op.bias - norm.running_mean) * gain + norm.bias,
            ),
        )
        edit.bypass(node.name)
    return edit.finish()


def with_weight(conv: nir.Conv2d, *, weight: np.ndarray, bias: np.ndarray) -> nir.Conv2d:
    """The same convolution with other weights."""
    return nir.Conv2d(
        input_shape=conv.input_shape,
        weight=weight,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=bias,
        metadata=dict(conv.metadata),
    )
