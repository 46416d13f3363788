"""Turn batch normalisations that follow no layer, and factors, into layers with weights."""

from __future__ import annotations

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.messages import names_before_neurons
from resformer.compiler.ir.primitives import FIXED, BatchNorm2d, SpikeMatMul, collapse
from resformer.errors import UnsupportedError

Float64Array = npt.NDArray[np.float64]


def weigh_factors(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """Replace each normalisation that cannot be folded backwards, and each factor, by a layer that scales each channel.

    ``merge_chains`` merges it with the layer that reads it. Factors of attention's products, and divisions of the
    logits by one whole number, stay, because other passes and the quantization handle them.

    Raises:
        UnsupportedError: A factor varies within a channel.
    """
    before = names_before_neurons(graph)
    edit = graph.edit()
    for node in graph:
        match node.op:
            case BatchNorm2d() if not _folds(graph, node):
                norm = node.op
                gain = norm.weight / np.sqrt(norm.running_var + norm.eps)
                edit.set_op(node.name, _layer(node, gain, norm.bias - norm.running_mean * gain))
            case nir.Scale() if not isinstance(graph[node.inputs[0]].op, SpikeMatMul):
                if node.name in before or not _divides(graph, node):
                    gain = _of_channels(node)
                    edit.set_op(node.name, _layer(node, gain, np.zeros(len(gain))))
            case _:
                pass
    return edit.finish()


def _folds(graph: Graph[nir.NIRNode], node: Node[nir.NIRNode]) -> bool:
    """Whether a normalisation follows a layer that nothing else reads, and is no constant of the module's code."""
    source = graph[node.inputs[0]]
    if FIXED in node.op.metadata:
        return False
    return isinstance(source.op, nir.Conv2d | nir.Linear | nir.Affine) and len(graph.consumers[source.name]) == 1


def _divides(graph: Graph[nir.NIRNode], node: Node[nir.NIRNode]) -> bool:
    """Whether a factor divides the logits by one whole number."""
    assert isinstance(node.op, nir.Scale)
    scale = collapse(node.op.scale)
    whole = scale.flat[0] > 0 and (scale == 1.0 / max(round(1 / scale.flat[0]), 1)).all()
    return bool(whole) and graph.consumers[node.name] == (graph.output,)


def _of_channels(node: Node[nir.NIRNode]) -> Float64Array:
    """The factor of each channel, (C,)."""
    assert isinstance(node.op, nir.Scale)
    scale = np.broadcast_to(node.op.scale, node.shape).reshape(node.shape[0], -1)
    if (scale != scale[:, :1]).any():
        raise UnsupportedError(
            f"{node.name}: multiplies by {scale.min():.4g} to {scale.max():.4g} within a channel; use one factor a "
            "channel"
        )
    return scale[:, 0].copy()


def _layer(node: Node[nir.NIRNode], gain: Float64Array, bias: Float64Array) -> nir.Conv2d | nir.Affine:
    """A layer that multiplies each channel by a number and adds another."""
    if len(node.shape) == 1:
        return nir.Affine(np.diag(gain), bias)
    return nir.Conv2d(
        input_shape=node.shape[1:],
        weight=gain.reshape(-1, 1, 1, 1),
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=len(gain),
        bias=bias,
    )
