"""A run of a layer's channels as a layer of its own, as when code takes queries, keys and values of one projection."""

from __future__ import annotations

from dataclasses import replace

import nir
import numpy as np
from torch import fx

from resformer.compiler.frontend.module.values import Tracing, Value
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.primitives import BatchNorm2d, bias_of, rows_name, rows_of, with_weight
from resformer.errors import UnsupportedError


def whole_of(tracing: Tracing, node: fx.Node, value: Value) -> Value:
    """Turn a value that shows only a run of a layer's channels into the whole value of a layer that makes only these.

    Raises:
        UnsupportedError: The value shows a part that is not a run of an image's channels.
    """
    if value.layout.shows_all(value.shape):
        return value
    start, size = value.layout.start(0), _run(value)
    name = None if size is None else _rows(tracing, value.node, start, size) or _selected(tracing, value, start, size)
    if name is None:
        raise tracing.refusal(
            node,
            f"reads a part of {value.node}, {value.layout}",
            "take a run of channels, of a convolution or linear layer and its normalisation, or give this part a layer "
            "of its own",
        )
    shape = tracing.draft.shape(name)
    return replace(value, node=name, shape=shape, layout=replace(value.layout, starts=()))


def _selected(tracing: Tracing, value: Value, start: int, size: int) -> str | None:
    """The name of a layer that passes on only some channels of an image; None if the value is not an image."""
    if len(value.shape) != 3:
        return None
    name = f"{value.node}.channels{start}to{start + size}"
    if name not in tracing.draft.nodes:
        weight = np.eye(value.shape[0])[start : start + size, :, None, None]
        op = nir.Conv2d(
            input_shape=value.shape[1:],
            weight=weight,
            stride=(1, 1),
            padding=(0, 0),
            dilation=(1, 1),
            groups=1,
            bias=np.zeros(size),
        )
        tracing.draft.add(name, op, value.node)
    return name


def _run(value: Value) -> int | None:
    """The number of consecutive channels that a value shows, each with all its pixels; None for any other view."""
    layout, size = value.layout, 1
    for atom in sorted((each for each in layout.atoms if each.dim == 0), key=lambda each: each.stride):
        if atom.stride != size:
            return None
        size *= atom.size
    starts = tuple((dim, begin) for dim, begin in layout.starts if dim != 0)
    uncut = replace(layout, starts=starts)
    return size if uncut.shows_all((size, *value.shape[1:])) else None


def _rows(tracing: Tracing, name: str, start: int, size: int) -> str | None:
    """The name of a node that makes only some of a layer's channels; None if no layer with weights makes them."""
    made = rows_name(name, start, size)
    if made in tracing.draft.nodes:
        return made
    node = tracing.draft.nodes[name]
    op, part = node.op, slice(start, start + size)
    if isinstance(op, BatchNorm2d):
        source = _rows(tracing, node.inputs[0], start, size)
        if source is None:
            return None
        weight, bias, mean, variance = (each[part] for each in (op.weight, op.bias, op.running_mean, op.running_var))
        return tracing.draft.add(made, BatchNorm2d(weight, bias, mean, variance, op.eps), source)
    if isinstance(op, nir.Linear | nir.Affine) or (isinstance(op, nir.Conv2d) and int(op.groups) == 1):
        piece = with_weight(op, weight=op.weight[part], bias=bias_of(op)[part])
        return tracing.draft.add(made, piece, *node.inputs)
    return None


def check_parts(needed: dict[str, Node[nir.NIRNode]]) -> None:
    """Check that no layer is read both whole and in parts, or in parts that overlap: it would be quantized twice.

    Raises:
        UnsupportedError: A layer is read in this way.
    """
    taken: dict[str, set[int]] = {}
    for name in needed:
        found = rows_of(name)
        if found is None:
            continue
        base, rows = found
        held = taken.setdefault(base, set())
        if base in needed or held.intersection(rows):
            raise UnsupportedError(
                f"{base}: is read whole and in parts, or in parts that overlap; give each part a layer of its own"
            )
        held.update(rows)
