"""Layers along one axis, (N, C, L), as layers of images of one row or column: convolutions, pools and padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from resformer.compiler.frontend.module.layout import BATCH, TIME, Layout, atoms, plain, whole
from resformer.compiler.frontend.module.pools import averaged_adaptively, averaged_windows, max_pool
from resformer.compiler.frontend.module.synapses import (
    around_same,
    convolved,
    padded,
    per_token,
)
from resformer.compiler.frontend.module.values import Tracing, Value

ALONG_ROWS, ALONG_COLUMNS = 1, 2
"""The dimension that the axis is in an image: its rows in an image of one column, its columns in one of one row."""


def _along(tracing: Tracing, node: fx.Node, value: Value) -> int:
    """The dimension of its node that a value shows behind samples and channels; the other spatial one has size one.

    Raises:
        UnsupportedError: The value shows something else: windows would reach from step to step, or from the end of a
            row into the next row.
    """
    axes = value.layout.axes
    if len(axes) == 3 and any(atom.dim in (TIME, BATCH) for atom in (*axes[1], *axes[2])):
        raise tracing.refusal(
            node,
            f"its windows run over axes {value.layout}, so that they mix steps or samples",
            "let it run over pixels alone, (T * N, C, L), and leave time to the neurons",
        )
    if len(value.shape) == 3 and len(axes) == 3 and value.axes is not None and not value.layout.starts:
        for dim, other in ((ALONG_COLUMNS, ALONG_ROWS), (ALONG_ROWS, ALONG_COLUMNS)):
            own = whole(value.shape, (0,)), whole(value.shape, (dim,))
            if value.shape[other] == 1 and axes[1:] == own:
                return dim
    raise tracing.refusal(
        node,
        f"its windows run over axes {value.layout} of {value.node}, of shape {value.shape}",
        "give it all channels and the pixels of one row, (T * N, C, L), or use a layer of images, (T * N, C, H, W)",
    )


def _in_image(
    tracing: Tracing, node: fx.Node, x: fx.Node, make: Callable[[Callable[[int, int], tuple[int, int]]], Value]
) -> Value:
    """Apply a layer of images to a value of one axis, and return the result as a value of one axis.

    Args:
        tracing: The traced module.
        node: The layer.
        x: What the layer reads; while ``make`` runs, it is an image.
        make: Applies the layer. It is given a function that makes (rows, columns) of a size along the axis and a size
            across it.
    """
    value = tracing.value(node, x)
    dim = _along(tracing, node, value)
    tracing.values[x] = replace(value, layout=plain(value.lead, value.shape), made_by=None)
    try:
        made = make(lambda along, across: (across, along) if dim == ALONG_COLUMNS else (along, across))
    finally:
        tracing.values[x] = value
    shape = made.shape
    return replace(made, layout=Layout((*made.lead, atoms(0, shape[0]), atoms(dim, shape[dim]))))


def _one(size: Any) -> int:
    """The number of an argument that PyTorch takes as one number or as a list of one."""
    return int(size[0]) if isinstance(size, Sequence) else int(size)


def convolution_along(
    tracing: Tracing,
    node: fx.Node,
    x: fx.Node,
    weight: object,
    bias: object = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> Value:
    """A Conv1d: with one tap, a 1x1 convolution of the map that the tokens show; else a convolution along one axis."""
    tensor = tracing.tensor(node, weight)[1]
    taps, gap, step = tensor.shape[2], _one(dilation), _one(stride)
    if isinstance(padding, str):
        before, behind = around_same(padding, taps, gap)
    else:
        before = behind = _one(padding)
    if (taps, step, before, behind) == (1, 1, 0, 0):
        return per_token(tracing, node, tracing.value(node, x), 1, weight, bias, groups)

    def make(pair: Callable[[int, int], tuple[int, int]]) -> Value:
        (top, left), (bottom, right) = pair(before, 0), pair(behind, 0)
        shape = *tensor.shape[:2], *pair(taps, 1)
        around = top, bottom, left, right
        return convolved(
            tracing, node, x, weight, bias, pair(step, 1), around, pair(gap, 1), groups, kernel_shape=shape
        )

    return _in_image(tracing, node, x, make)


def max_pool_along(
    tracing: Tracing,
    node: fx.Node,
    x: fx.Node,
    kernel: object,
    stride: object = (),
    padding: object = 0,
    dilation: object = 1,
    ceil_mode: bool = False,
) -> Value:
    """The maximum of each window."""
    step = _one(stride or kernel)
    return _in_image(
        tracing,
        node,
        x,
        lambda pair: max_pool(
            tracing,
            node,
            x,
            pair(_one(kernel), 1),
            pair(step, 1),
            pair(_one(padding), 0),
            pair(_one(dilation), 1),
            ceil_mode,
        ),
    )


def averaged_along(
    tracing: Tracing,
    node: fx.Node,
    x: fx.Node,
    kernel: object,
    stride: object = (),
    padding: object = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Value:
    """The mean of each window."""
    step = _one(stride or kernel)
    return _in_image(
        tracing,
        node,
        x,
        lambda pair: averaged_windows(
            tracing,
            node,
            x,
            pair(_one(kernel), 1),
            pair(step, 1),
            pair(_one(padding), 0),
            ceil_mode,
            count_include_pad,
        ),
    )


def averaged_adaptively_along(tracing: Tracing, node: fx.Node, x: fx.Node, size: object) -> Value:
    """The mean of each of ``size`` windows, which cover the axis."""
    return _in_image(tracing, node, x, lambda pair: averaged_adaptively(tracing, node, x, pair(_one(size), 1)))


def padded_along(
    tracing: Tracing, node: fx.Node, x: fx.Node, sizes: list[int], mode: str = "constant", fill: float | None = None
) -> Value:
    """Zeros around an image, or before and behind the one axis."""
    value = tracing.value(node, x)
    if len(value.layout.axes) != 3 or len(sizes) != 2:
        return padded(tracing, node, x, sizes, mode, fill)

    def make(pair: Callable[[int, int], tuple[int, int]]) -> Value:
        (top, left), (bottom, right) = pair(sizes[0], 0), pair(sizes[1], 0)
        return padded(tracing, node, x, [left, right, top, bottom], mode, fill)

    return _in_image(tracing, node, x, make)
