"""Imports PyTorch's convolutions, linear layers, batch normalisations and padding as synapses of a float graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import nir
import numpy as np
import torch
from torch import fx

from resformer.compiler.frontend.module.layout import Layout, atoms, whole
from resformer.compiler.frontend.module.neurons import batch_norm, flatten, float64, linear, pair
from resformer.compiler.frontend.module.values import (
    IMAGES,
    Tracing,
    Value,
)
from resformer.compiler.frontend.module.windows import PADDED, padded_alike
from resformer.compiler.ir.primitives import (
    BIAS_SHARES,
    FIXED,
    HELD_BIAS,
    SPREAD,
    AdaptiveAvgPool2d,
    BatchNorm2d,
    own_targets,
    with_weight,
)

WeighedT = TypeVar("WeighedT", bound="nir.Conv2d | nir.Linear | nir.Affine | BatchNorm2d")


def convolution(
    tracing: Tracing,
    node: fx.Node,
    x: object,
    weight: object,
    bias: object = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> Value:
    """A convolution that pads both sides alike."""
    rows, columns = pair(padding)
    return convolved(tracing, node, x, weight, bias, stride, (rows, rows, columns, columns), dilation, groups)


def convolved(
    tracing: Tracing,
    node: fx.Node,
    x: object,
    weight: object,
    bias: object,
    stride: object,
    around: tuple[int, int, int, int],
    dilation: object,
    groups: int,
    *,
    kernel_shape: Sequence[int] | None = None,
) -> Value:
    """A convolution that pads by (top, bottom, left, right); ``kernel_shape`` reshapes the weights of a Conv1d."""
    value = tracing.plain(node, x, *IMAGES)
    path, tensor = tracing.tensor(node, weight)
    tensor = tensor if kernel_shape is None else tensor.reshape(tuple(kernel_shape))
    held = tracing.optional(node, bias)
    pad = tracing.draft.nodes[value.node]
    if PADDED in pad.op.metadata and around == (0, 0, 0, 0):
        top, bottom, left, right = (int(each) for each in str(pad.op.metadata[PADDED]).split(","))
        around = (top, bottom, left, right)
        value = replace(value, node=pad.inputs[0], shape=tracing.draft.shape(pad.inputs[0]))
    window = padded_alike(float64(tensor), pair(dilation), around)
    op = nir.Conv2d(
        input_shape=value.shape[1:],
        weight=window.weight,
        stride=pair(stride),
        padding=window.padding,
        dilation=window.dilation,
        groups=groups,
        bias=np.zeros(len(tensor)) if held is None else float64(held),
        metadata=window.metadata | _origins(tracing, weight, bias),
    )
    op = at_each_step(value, op)
    return made_by_layer(tracing, value, tracing.add(node, path.removesuffix(".weight"), op, value.node))


def _origins(tracing: Tracing, weight: object, bias: object) -> dict[str, str | int]:
    """A layer's metadata on its numbers: whether it holds a bias, and whether the code computes the weight or bias."""
    computed = tracing.is_computed(weight) or tracing.is_computed(bias)
    return {**({} if bias is None else {HELD_BIAS: 1}), **({FIXED: 1} if computed else {})}


def made_by_layer(tracing: Tracing, value: Value, name: str) -> Value:
    """The value of a node that was made of a plain value, whose axes of time and samples it keeps."""
    shape = tracing.draft.shape(name)
    own = tuple(atoms(dim, size) for dim, size in enumerate(shape))
    return Value(name, shape, Layout((*value.lead, *own)), over_time=value.over_time)


def at_each_step(value: Value, op: WeighedT) -> WeighedT:
    """A layer behind a reduction over time as a layer of each step, whose bias is divided by ``value.over_time``."""
    shares = 1.0 if value.over_time is None else value.over_time
    if shares == 1 or isinstance(op, nir.Linear):
        return op
    if isinstance(op, BatchNorm2d):
        return replace(op, bias=op.bias / shares, running_mean=op.running_mean / shares)
    made = with_weight(op, weight=op.weight, bias=op.bias / shares)
    made.metadata[BIAS_SHARES] = shares
    return made  # type: ignore[return-value]


def per_token(
    tracing: Tracing,
    node: fx.Node,
    value: Value,
    axis: int,
    weight: object,
    bias: object,
    groups: int = 1,
) -> Value:
    """A layer that weighs channels alike at each pixel, as a 1x1 convolution; the channels are the axis ``axis``."""
    channels = whole(value.shape, (0,))
    path, tensor = tracing.tensor(node, weight)
    held = tracing.optional(node, bias)
    if len(value.shape) != 3 or not value.layout.shows_all(value.shape) or value.layout.axes[axis] != channels:
        raise tracing.refusal(
            node,
            f"a layer for channels reads axes {value.layout} of {value.node}, of shape {value.shape}",
            "flatten them before it, or give it all channels of a map on one axis",
        )
    op = nir.Conv2d(
        input_shape=value.shape[1:],
        weight=float64(tensor.flatten(1))[..., None, None],
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=groups,
        bias=np.zeros(len(tensor)) if held is None else float64(held),
        metadata=_origins(tracing, weight, bias),
    )
    name = tracing.add(node, path.removesuffix(".weight"), at_each_step(value, op), value.node)
    axes = list(value.layout.axes)
    axes[axis % len(axes)] = atoms(0, len(tensor))
    return replace(value, node=name, shape=tracing.draft.shape(name), layout=Layout(tuple(axes)))


def padded_convolution(
    tracing: Tracing,
    node: fx.Node,
    x: object,
    weight: object,
    bias: object = None,
    stride: object = 1,
    padding: str = "valid",
    dilation: object = 1,
    groups: int = 1,
) -> Value:
    """A convolution whose padding is "same" or "valid"."""
    kernel = tracing.tensor(node, weight)[1].shape[2:]
    sizes = zip(kernel, pair(dilation), strict=True)
    (top, bottom), (left, right) = (around_same(padding, size, gap) for size, gap in sizes)
    return convolved(tracing, node, x, weight, bias, stride, (top, bottom, left, right), dilation, groups)


def around_same(padding: str, size: int, gap: int) -> tuple[int, int]:
    """The number of zeros before and behind an axis, if ``padding`` is "same" or "valid"."""
    beyond = gap * (size - 1) if padding == "same" else 0
    return beyond // 2, beyond - beyond // 2


def padded(
    tracing: Tracing, node: fx.Node, x: object, sizes: list[int], mode: str = "constant", fill: float | None = None
) -> Value:
    """Zeros around an image, or a crop: a layer that passes on its input, and that a convolution behind can absorb."""
    if mode != "constant" or fill or len(sizes) > 4:
        raise tracing.refusal(
            node, f"pads {sizes} in mode {mode!r} with {fill or 0:g}", "pad rows and columns with zeros"
        )
    value = tracing.plain(node, x)
    if len(value.shape) != 3:
        raise tracing.refusal(node, f"pads axes {value.named_axes} of {value.shape}", "pad images")
    left, right, top, bottom = (*sizes, 0, 0)[:4]
    channels = value.shape[0]
    window = padded_alike(np.ones((channels, 1, 1, 1)), (1, 1), (top, bottom, left, right))
    op = nir.Conv2d(
        input_shape=value.shape[1:],
        weight=window.weight,
        stride=(1, 1),
        padding=window.padding,
        dilation=(1, 1),
        groups=channels,
        bias=np.zeros(channels),
        metadata={PADDED: f"{top},{bottom},{left},{right}"},
    )
    return made_by_layer(tracing, value, tracing.add(node, tracing.name(node), op, value.node))


def linear_layer(tracing: Tracing, node: fx.Node, x: object, weight: object, bias: object = None) -> Value:
    """A linear layer of vectors, or of the channels of tokens."""
    value = tracing.value(node, x)
    if value.axes is None or len(value.layout.axes) != len(value.lead) + 1:
        return per_token(tracing, node, value, -1, weight, bias)
    path, tensor = tracing.tensor(node, weight)
    value = tracing.as_plain(node, value)
    value, tensor, metadata = _of_own_pixels(tracing, value, tensor)
    op = at_each_step(value, linear(tensor, tracing.optional(node, bias)))
    op.metadata.update(metadata)
    if tracing.is_computed(weight) or tracing.is_computed(bias):
        op.metadata[FIXED] = 1
    return made_by_layer(tracing, value, tracing.add(node, path.removesuffix(".weight"), op, value.node))


def _of_own_pixels(
    tracing: Tracing, value: Value, tensor: torch.Tensor
) -> tuple[Value, torch.Tensor, dict[str, str | int]]:
    """The input, weights and metadata of a linear layer; it reads an image's own pixels if the code enlarges the image.

    An adaptive average pool enlarges an image if it has more windows than pixels, such as VGG's 7 x 7 windows.
    """
    flat = tracing.draft.nodes[value.node]
    pool = tracing.draft.nodes[flat.inputs[0]] if isinstance(flat.op, nir.Flatten) else flat
    if type(pool.op) is not AdaptiveAvgPool2d:
        return value, tensor, {}
    shape = tracing.draft.shape(pool.inputs[0])
    down, right = (pool.op.shares(axis, shape[1 + axis]) for axis in range(2))
    rows, columns = own_targets(down), own_targets(right)
    if rows is None or columns is None:
        return value, tensor, {}
    wide = float64(tensor).reshape(len(tensor), *pool.shape)
    weight = np.einsum("fcij,ih,jw->fchw", wide, down, right, optimize=True).reshape(len(tensor), -1)
    name = f"{pool.name}.flatten"
    if name not in tracing.draft.nodes:
        tracing.draft.add(name, flatten(shape), pool.inputs[0])
    where = ";".join(",".join(map(str, each)) for each in (rows, columns))
    said: dict[str, str | int] = {SPREAD: f"{pool.shape[1]}x{pool.shape[2]};{where}"}
    return made_by_layer(tracing, value, name), torch.from_numpy(weight), said


def normalised(
    tracing: Tracing,
    node: fx.Node,
    x: object,
    weight: object,
    bias: object,
    mean: object,
    variance: object,
    training: bool,
    _momentum: float,
    eps: float,
    _cudnn: bool,
) -> Value:
    """Batch normalisation in eval mode."""
    value = tracing.value(node, x)
    if len(value.layout.axes) < 2 or value.layout.axes[1] != whole(value.shape, (0,)) or value.layout.starts:
        value = tracing.plain(node, x, *IMAGES)
    if training or mean is None:
        raise tracing.refusal(
            node,
            "normalises by the batch, so that a sample's spikes depend on the others",
            "track running statistics and use them",
        )
    path, running_mean = tracing.tensor(node, mean)
    op = batch_norm(
        running_mean,
        tracing.tensor(node, variance)[1],
        tracing.optional(node, weight),
        tracing.optional(node, bias),
        eps,
    )
    return tracing.elementwise(node, path.removesuffix(".running_mean"), at_each_step(value, op), value)
