"""Graphs and programs as text, one node a line, the same on every machine: for ``--dump-after`` and golden files.

Weights appear as a short hash. The hash of floats uses 20 bits of each mantissa, which leaves out the last bits, in
which machines may differ.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.ops import Op
from resformer.compiler.ir.primitives import collapse
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import Signal, SignalKind

HASH_DIGITS = 8
HASHED_MANTISSA_BITS = 20
SIZES = frozenset({"kernel_size", "stride", "padding", "dilation"})
"""Fields of (rows, columns), written out as 3x3."""
DERIVED = frozenset({"input_type", "output_type", "input_shape"})
"""Fields of NIR's nodes that only repeat shapes."""


def format_graph(graph: Graph[Any]) -> str:
    """A graph or a program as lines ``name = op(inputs) -> shape fields``, ended by a newline.

    Lines of a program's nodes also give their signal (kind, scale, bounds, bits) and, once scheduled, their step.
    """
    facts = "".join(f" {key}={_scalar(value)}" for key, value in sorted(graph.metadata.items()))
    level = "program" if isinstance(graph, Program) else "graph"
    lines = [f"{level} timesteps={graph.timesteps}{facts}"]
    lines += [_format_node(node, _step(graph, node.name)) for node in graph]
    return "\n".join(lines) + "\n"


def content_hash(array: npt.NDArray[Any]) -> str:
    """A short hash of an array's values and shape, whatever its memory layout."""
    digest = hashlib.sha256(str(array.shape).encode())
    if np.issubdtype(array.dtype, np.floating):
        mantissa, exponent = np.frexp(array)
        digest.update(np.rint(np.ldexp(mantissa, HASHED_MANTISSA_BITS)).astype("<i8").tobytes())
        digest.update(exponent.astype("<i8").tobytes())
    else:
        digest.update(array.astype("<i8").tobytes())
    return digest.hexdigest()[:HASH_DIGITS]


def _format_node(node: Node[Any], step: str) -> str:
    shape = "x".join(map(str, node.shape))
    fields = {
        field.name: getattr(node.op, field.name)
        for field in dataclasses.fields(node.op)
        if field.name not in DERIVED and field.name not in ("signal", "metadata")
    }
    fields |= dict(sorted(getattr(node.op, "metadata", {}).items()))
    parts = [f"{node.name} = {type(node.op).__name__}({', '.join(node.inputs)}) -> {shape}"]
    if isinstance(node.op, Op):
        parts.append(_signal(node.op.signal))
    parts += [f"{name}={_value(name, value)}" for name, value in fields.items()]
    return " ".join(parts) + step


def _signal(signal: Signal) -> str:
    if signal.kind is SignalKind.SPIKE:
        return "spike"
    bounds = "" if signal.low is None else f" [{signal.low}, {signal.high}] {signal.bits} bits"
    return f"{signal.kind.value} 2^{signal.scale_exp}{bounds}"


def _step(graph: Graph[Any], name: str) -> str:
    if isinstance(graph, Program) and graph.offsets is not None:
        return f" @{graph.offsets[name]}"
    return ""


def _value(name: str, value: Any) -> str:
    if name in SIZES and np.ndim(value) == 1:
        return "x".join(str(int(each)) for each in value)
    if not isinstance(value, np.ndarray):
        return _scalar(value)
    distinct = collapse(value)
    if distinct.size and not (distinct != distinct.flat[0]).any():
        return _scalar(distinct.flat[0].item())
    bounds = f"{value.min()}..{value.max()}" if np.issubdtype(value.dtype, np.integer) else ""
    return f"{bounds}#{content_hash(value)}"


def _scalar(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
