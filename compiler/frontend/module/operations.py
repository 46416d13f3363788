"""Operations of PyTorch in, nodes of a float graph out, one function an operation.

What they have in common, and how values are followed, is in ``values``; products and scales are in ``products``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

import nir
import numpy as np
import torch
from torch import fx

from resformer.compiler.frontend.module.counts import gained
from resformer.compiler.frontend.module.gates import at_most_one, both, complement, either, is_binary, sends, union
from resformer.compiler.frontend.module.in_place import check_unread
from resformer.compiler.frontend.module.layout import BATCH, TIME, Atom, Layout, atoms, whole
from resformer.compiler.frontend.module.neurons import average_pool, batch_norm, float64, linear, neurons, pair
from resformer.compiler.frontend.module.products import divided, multiplied, named_product, product
from resformer.compiler.frontend.module.rows import whole_of
from resformer.compiler.frontend.module.tracing import TRACED_BATCH, user_line
from resformer.compiler.frontend.module.values import (
    IMAGES,
    Axes,
    Importer,
    SamplesFirstError,
    Tracing,
    Value,
    same_steps,
)
from resformer.compiler.frontend.module.windows import PADDED, padded_alike
from resformer.compiler.ir.messages import sends_counts
from resformer.compiler.ir.primitives import (
    BIAS_SHARES,
    CONCATENATED,
    FIXED,
    HELD_BIAS,
    AdaptiveAvgPool2d,
    Add,
    BatchNorm2d,
    MaxPool2d,
    SampleDelay,
    with_weight,
)
from resformer.errors import UnsupportedError

WeighedT = TypeVar("WeighedT", bound="nir.Conv2d | nir.Linear | nir.Affine | BatchNorm2d")


def _convolution(
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
    rows, columns = pair(padding)
    return _convolved(tracing, node, x, weight, bias, stride, (rows, rows, columns, columns), dilation, groups)


def _convolved(
    tracing: Tracing,
    node: fx.Node,
    x: object,
    weight: object,
    bias: object,
    stride: object,
    around: tuple[int, int, int, int],
    dilation: object,
    groups: int,
) -> Value:
    """A convolution that pads by (top, bottom, left, right)."""
    value = tracing.plain(node, x, *IMAGES)
    path, tensor = tracing.tensor(node, weight)
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
    op = _at_each_step(value, op)
    return _made(tracing, value, tracing.add(node, path.removesuffix(".weight"), op, value.node))


def _origins(tracing: Tracing, weight: object, bias: object) -> dict[str, str | int]:
    """What a layer's metadata say of its numbers: whether it holds a bias, and whether the code computes any."""
    computed = tracing.is_computed(weight) or tracing.is_computed(bias)
    return {**({} if bias is None else {HELD_BIAS: 1}), **({FIXED: 1} if computed else {})}


def _made(tracing: Tracing, value: Value, name: str) -> Value:
    """A node that was made of a plain value, its axes of time and samples as they were."""
    shape = tracing.draft.shape(name)
    own = tuple(atoms(dim, size) for dim, size in enumerate(shape))
    return Value(name, shape, Layout((*value.lead, *own)), over_time=value.over_time)


def _at_each_step(value: Value, op: WeighedT) -> WeighedT:
    """A layer that reads a sum over all steps as one that reads each step: T of its biases' shares make a bias."""
    shares = 1.0 if value.over_time is None else value.over_time
    if shares == 1 or isinstance(op, nir.Linear):
        return op
    if isinstance(op, BatchNorm2d):
        return replace(op, bias=op.bias / shares, running_mean=op.running_mean / shares)
    made = with_weight(op, weight=op.weight, bias=op.bias / shares)
    made.metadata[BIAS_SHARES] = shares
    return made  # type: ignore[return-value]


def _convolution_of_taps(
    tracing: Tracing,
    node: fx.Node,
    x: object,
    weight: object,
    bias: object = None,
    stride: object = 1,
    padding: object = 0,
    _dilation: object = 1,
    groups: int = 1,
) -> Value:
    """A Conv1d of one tap over tokens: a 1x1 convolution of the map that the tokens show."""
    value = tracing.value(node, x)
    tensor = tracing.tensor(node, weight)[1]
    if tensor.shape[2] != 1 or pair(stride)[0] != 1 or pair(padding)[0] != 0:
        raise tracing.refusal(
            node,
            "no lowering for conv1d of several taps",
            f"give it images of one row, (T, N, C, 1, L), and use Conv2d with a kernel of (1, {tensor.shape[2]})",
        )
    return _tokenwise(tracing, node, value, 1, weight, bias, groups)


def _tokenwise(
    tracing: Tracing,
    node: fx.Node,
    value: Value,
    axis: int,
    weight: object,
    bias: object,
    groups: int = 1,
) -> Value:
    """A layer with weights for the channels, which are one axis of the value, and none for its pixels."""
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
    name = tracing.add(node, path.removesuffix(".weight"), _at_each_step(value, op), value.node)
    axes = list(value.layout.axes)
    axes[axis % len(axes)] = atoms(0, len(tensor))
    return replace(value, node=name, shape=tracing.draft.shape(name), layout=Layout(tuple(axes)))


def _padded_convolution(
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
    beyond = [gap * (size - 1) if padding == "same" else 0 for gap, size in zip(pair(dilation), kernel, strict=True)]
    (top, bottom), (left, right) = ((each // 2, each - each // 2) for each in beyond)
    return _convolved(tracing, node, x, weight, bias, stride, (top, bottom, left, right), dilation, groups)


def _padded(
    tracing: Tracing, node: fx.Node, x: object, sizes: list[int], mode: str = "constant", fill: float | None = None
) -> Value:
    """Zeros around an image, or less of it: a layer that passes on what it reads, part of a convolution behind it."""
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
    return _made(tracing, value, tracing.add(node, tracing.name(node), op, value.node))


def _concatenated(tracing: Tracing, node: fx.Node, parts: list[fx.Node], dim: int = 0) -> Value:
    """Channels side by side: a sum of parts, each put in its place by a layer; convolutions behind take it apart."""
    values = [tracing.value(node, each) for each in parts]
    first = values[0]
    axis = dim % len(first.layout.axes)
    if first.steps is not None and first.layout.axes[axis] == () and len({each.node for each in values}) == 1:
        return _in_steps(tracing, node, [replace(each, layout=each.layout.without([axis])) for each in values], axis)
    steps = first.steps
    if any(each.steps != steps for each in values):
        raise tracing.refusal(node, "puts values of several steps side by side", "concatenate values of one step")
    values = [replace(whole_of(tracing, node, each), steps=None) for each in values]
    if not first.layout.has(TIME):
        key = "cat", tuple((each.node, each.layout) for each in values), axis
        return replace(tracing.once(key, lambda: _side_by_side(tracing, node, values, axis)), steps=steps)
    return _side_by_side(tracing, node, values, axis)


def _side_by_side(tracing: Tracing, node: fx.Node, values: list[Value], axis: int) -> Value:
    """Channels of values of one step, or of all."""
    first = values[0]
    for each in values:
        alike = each.layout.without([axis]) == first.layout.without([axis]) and each.over_time == first.over_time
        own = (whole(each.shape, (0,)), ()) if each.shape[0] == 1 else (whole(each.shape, (0,)),)
        if not alike or each.shape[1:] != first.shape[1:] or each.layout.axes[axis] not in own:
            raise tracing.refusal(
                node,
                f"puts {' and '.join(f'{each.layout} of {each.shape}' for each in values)} side by side on axis {axis}",
                "concatenate channels of images of one size, or whole vectors",
            )
    total, start, made = sum(each.shape[0] for each in values), 0, []
    name = tracing.name(node)
    for index, each in enumerate(values):
        size = each.shape[0]
        rows = np.zeros((total, size))
        rows[start : start + size] = np.eye(size)
        op: nir.NIRNode
        if len(each.shape) == 1:
            op = nir.Affine(rows, np.zeros(total), metadata={CONCATENATED: start})
        else:
            op = nir.Conv2d(
                input_shape=each.shape[1:],
                weight=rows[:, :, None, None],
                stride=(1, 1),
                padding=(0, 0),
                dilation=(1, 1),
                groups=1,
                bias=np.zeros(total),
                metadata={CONCATENATED: start},
            )
        made.append(tracing.add(node, f"{name}.part{index}", op, each.node))
        start += size
    joined = Add()
    joined.metadata[CONCATENATED] = 1
    axes = list(first.layout.axes)
    axes[axis] = atoms(0, total)
    name = tracing.draft.add(name, joined, *made)
    return replace(first, node=name, shape=tracing.draft.shape(name), layout=replace(first.layout, axes=tuple(axes)))


def _linear(tracing: Tracing, node: fx.Node, x: object, weight: object, bias: object = None) -> Value:
    value = tracing.value(node, x)
    if value.axes is None or len(value.layout.axes) != len(value.lead) + 1:
        return _tokenwise(tracing, node, value, -1, weight, bias)
    path, tensor = tracing.tensor(node, weight)
    value = tracing.as_plain(node, value)
    op = _at_each_step(value, linear(tensor, tracing.optional(node, bias)))
    if tracing.is_computed(weight) or tracing.is_computed(bias):
        op.metadata[FIXED] = 1
    return _made(tracing, value, tracing.add(node, path.removesuffix(".weight"), op, value.node))


def _batch_norm(
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
    return tracing.elementwise(node, path.removesuffix(".running_mean"), _at_each_step(value, op), value)


def _max_pool(
    tracing: Tracing,
    node: fx.Node,
    x: object,
    kernel: object,
    stride: object = (),
    padding: object = 0,
    dilation: object = 1,
    ceil_mode: bool = False,
) -> Value:
    tracing.stepwise(node, x)
    value = tracing.plain(node, x, *IMAGES)
    size, step, around = pair(kernel), pair(stride or kernel), pair(padding)
    if pair(dilation) != (1, 1):
        raise tracing.refusal(node, "has windows beyond the image, or dilated ones", "use plain windows")
    if ceil_mode:
        _check_whole(tracing, node, value, (size, step, around))
    pool = MaxPool2d(kernel_size=np.array(size), stride=np.array(step), padding=np.array(around))
    joined = tracing.draft.nodes[value.node]
    if CONCATENATED in joined.op.metadata:
        raise tracing.refusal(
            node, "takes maxima of values side by side", "take those of each, and concatenate them behind the pool"
        )
    return _made(tracing, value, tracing.draft.add(tracing.name(node), pool, value.node))


def _check_whole(
    tracing: Tracing,
    node: fx.Node,
    value: Value,
    window: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    *,
    divides: bool = False,
) -> None:
    """See that rounding up the number of windows adds none.

    Raises:
        UnsupportedError: It does.
    """
    for size, step, around, have in zip(*window, value.shape[1:], strict=True):
        rest = (have + 2 * around - size) % step
        if rest and (have + 2 * around - size) // step * step + step < have + around:
            problem = "divides by something other than its window's area" if divides else "has windows beyond the image"
            raise tracing.refusal(
                node,
                f"{problem}: ceil_mode adds one that ends behind its {have} rows or columns",
                "leave ceil_mode out, or give it an image whose size the windows fit",
            )


def _average_pool(
    tracing: Tracing,
    node: fx.Node,
    x: object,
    kernel: object,
    stride: object = (),
    padding: object = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Value:
    value = tracing.plain(node, x, *IMAGES)
    size, around = pair(kernel), pair(padding)
    if divisor not in (None, math.prod(size)) or (any(around) and not count_include_pad):
        raise tracing.refusal(
            node, "divides by something other than its window's area", "use the plain average of whole windows"
        )
    if ceil_mode:
        _check_whole(tracing, node, value, (size, pair(stride or kernel), around), divides=True)
    return _pooled(tracing, node, value, average_pool(size, pair(stride or kernel), around))


def _adaptive_average_pool(tracing: Tracing, node: fx.Node, x: object, size: object) -> Value:
    value = tracing.plain(node, x, *IMAGES)
    wanted = pair(size)
    if any(have % want for have, want in zip(value.shape[1:], wanted, strict=True)):
        return _made(tracing, value, tracing.draft.add(tracing.name(node), AdaptiveAvgPool2d(wanted), value.node))
    window = (value.shape[1] // wanted[0], value.shape[2] // wanted[1])
    return _pooled(tracing, node, value, average_pool(window, window))


def _pooled(tracing: Tracing, node: fx.Node, value: Value, pool: nir.AvgPool2d) -> Value:
    """A pool's node; windows of one pixel are none."""
    if not any(pool.padding) and tuple(pool.kernel_size) == tuple(pool.stride) == (1, 1):
        return value
    return _made(tracing, value, tracing.draft.add(tracing.name(node), pool, value.node))


def _mean(tracing: Tracing, node: fx.Node, x: object, dims: list[int] | None = None, keepdim: bool = False) -> Value:
    """Over time, behind all neurons, or over all pixels, or both."""
    return _reduced(tracing, node, x, dims, keepdim=keepdim, pool=nir.AvgPool2d)


def _added_up(
    tracing: Tracing, node: fx.Node, x: object, dims: list[int] | None = None, keepdim: bool = False, **_more: object
) -> Value:
    """The same as a sum: of steps, T times the mean."""
    made = _reduced(tracing, node, x, dims, keepdim=keepdim, pool=nir.SumPool2d)
    over_time = made.over_time
    if over_time is not None and tracing.value(node, x).over_time is None:
        over_time *= tracing.timesteps or 1
    return replace(made, over_time=over_time)


def _reduced(
    tracing: Tracing,
    node: fx.Node,
    x: object,
    dims: list[int] | None,
    *,
    keepdim: bool,
    pool: type[nir.AvgPool2d | nir.SumPool2d],
) -> Value:
    """A mean over steps, or a pool of all pixels, or both, as nodes of each step."""
    value = tracing.value(node, x)
    layout = value.layout
    over = sorted(each % len(layout.axes) for each in (dims or range(len(layout.axes))))
    steps = [each for each in over if layout.axes[each] == (_time(tracing),)]
    if steps and value.over_time is None:
        value = replace(value, layout=layout.without(steps, keepdim=keepdim), over_time=1.0)
        over = [each - (0 if keepdim else sum(step < each for step in steps)) for each in over if each not in steps]
        layout = value.layout
    if not over:
        return value
    averaged = [layout.axes[each] for each in over]
    pixels = {atom for axis in averaged for atom in axis}
    if len(value.shape) == 3 and layout.shows_all(value.shape) and pixels == set(whole(value.shape, (1, 2))):
        name, size = value.node, np.array(value.shape[1:])
        if pixels:
            name = tracing.draft.add(tracing.name(node), pool(size, size, 0 * size), value.node)
        pooled = layout.without(over, keepdim=keepdim)
        made_by = None if keepdim else node
        return replace(value, node=name, shape=tracing.draft.shape(name), layout=pooled, made_by=made_by)
    raise tracing.refusal(
        node,
        f"{'averages' if pool is nir.AvgPool2d else 'sums'} axes {over} of {value.named_axes}",
        "average or sum over all pixels, or over time behind all neurons",
    )


def _time(tracing: Tracing) -> Atom:
    """All steps."""
    return Atom(TIME, tracing.timesteps or 0)


def _sum(tracing: Tracing, node: fx.Node, x: object, y: object, *, alpha: float = 1) -> Value:
    if x in tracing.constants or y in tracing.constants or not (isinstance(x, fx.Node) and isinstance(y, fx.Node)):
        if x in tracing.values:
            return _shifted(tracing, node, x, y, alpha=alpha)
        return _difference(tracing, node, x, y, alpha=-alpha)
    left, right = tracing.value(node, x), tracing.value(node, y)
    if left.steps is None or right.steps is None:
        # what a loop added up over all steps is no value of each
        left, right = tracing.settled(node, left), tracing.settled(node, right)
    if left.steps != right.steps and left.over_time is right.over_time is None:
        return _sum_of_steps(tracing, node, left, right, alpha=alpha)
    if left.over_time != right.over_time:
        raise tracing.refusal(
            node,
            f"adds axes {left.named_axes} and {right.named_axes}",
            "add values of single steps, or what is reduced over time in one way",
        )
    if alpha == 1 and (left.layout, left.shape) != (right.layout, right.shape) and left.axes is right.axes is not None:
        left, right = tracing.as_plain(node, left), tracing.as_plain(node, right)
    if alpha == -1:
        return _difference(tracing, node, x, y)
    if alpha != 1 or (left.layout, left.shape) != (right.layout, right.shape):
        raise tracing.refusal(
            node,
            f"adds {left.named_axes} of {left.shape} and {right.named_axes} of {right.shape}"
            + (f" times {alpha}" if alpha != 1 else ""),
            "add values of one shape, as they are",
        )
    key = "add", left.node, left.layout, right.node, right.layout, left.over_time
    if left.layout.has(TIME):
        return tracing.elementwise(node, tracing.name(node), Add(), left, right)
    steps, one, other = left.steps, replace(left, steps=None), replace(right, steps=None)
    made = tracing.once(key, lambda: tracing.elementwise(node, tracing.name(node), Add(), one, other))
    return replace(made, steps=steps)


def _sum_of_steps(tracing: Tracing, node: fx.Node, left: Value, right: Value, *, alpha: float) -> Value:
    """What a loop over time adds up of its steps; or a value of one step and one that is the same at all."""
    if left.steps is None or right.steps is None:
        steps = left.steps or right.steps
        one, other = replace(left, steps=None), replace(right, steps=None)
        key = "add", one.node, one.layout, other.node, other.layout
        if (one.layout, one.shape) != (other.layout, other.shape) or alpha != 1:
            raise tracing.refusal(
                node,
                f"adds {left.named_axes} and {right.named_axes} of one step",
                "add values of one shape, as they are",
            )
        found = tracing.once(key, lambda: tracing.elementwise(node, tracing.name(node), Add(), one, other))
        return replace(found, steps=steps)
    alike = (left.node, left.layout) == (right.node, right.layout)
    if not alike or alpha != 1 or set(left.steps) & set(right.steps):
        raise tracing.refusal(
            node,
            f"adds {left.node} of steps {sorted(left.steps)} to {right.node} of steps {sorted(right.steps)}",
            "let neurons carry what the code takes from one step to the next, and sum what one layer makes of all",
        )
    return replace(left, steps=(*left.steps, *right.steps))


def _shifted(tracing: Tracing, node: fx.Node, x: object, constant: object, *, alpha: float) -> Value:
    """A value and a number, or one for each channel."""
    value, added = tracing.settled(node, tracing.value(node, x)), tracing.constants.value(constant) * alpha
    if not added.any():
        return value
    spread = value.layout.spread(added, value.shape) if value.layout.shows_all(value.shape) else None
    per_channel = None if spread is None else spread.reshape(value.shape[0], -1)
    if per_channel is None or (per_channel != per_channel[:, :1]).any() or not np.isfinite(per_channel).all():
        raise tracing.refusal(
            node,
            f"adds a constant of shape {tuple(added.shape)} to {value.layout}",
            "add one number a channel, the same for all pixels, samples and steps",
        )
    ones = np.ones(len(per_channel))
    op = BatchNorm2d(ones, per_channel[:, 0].copy(), 0 * ones, ones, eps=0.0)
    op.metadata[FIXED] = 1
    return tracing.elementwise(node, tracing.name(node), _at_each_step(value, op), value)


def _difference(tracing: Tracing, node: fx.Node, x: object, y: object, *, alpha: float = 1) -> Value:
    """A sum with the second operand's negative."""
    if not isinstance(y, fx.Node) or y in tracing.constants:
        return _shifted(tracing, node, x, y, alpha=-alpha)
    if alpha == 1 and x in tracing.values:
        joined = union(tracing, node, tracing.value(node, x), tracing.value(node, y))
        if joined is not None:
            return joined
    second = multiplied(tracing, node, y, -float(alpha))
    if x not in tracing.values:
        tracing.values[node] = second
        return _shifted(tracing, node, node, x, alpha=1)
    first = tracing.value(node, x)
    if (first.layout, first.shape, first.over_time) != (second.layout, second.shape, second.over_time):
        raise tracing.refusal(
            node,
            f"takes {second.named_axes} of {second.shape} from {first.named_axes} of {first.shape}",
            "use one shape, and single steps or what is reduced over time in one way",
        )
    return tracing.elementwise(node, tracing.name(node), Add(), first, second)


def _taken_from(tracing: Tracing, node: fx.Node, x: object, y: object, alpha: float = 1) -> Value:
    return _difference(tracing, node, y, x, alpha=alpha)


def _negative(tracing: Tracing, node: fx.Node, x: object) -> Value:
    return multiplied(tracing, node, x, -1.0)


def _in_place(importer: Importer) -> Importer:
    """The same, after which what is read from the first operand is the result.

    Raises:
        UnsupportedError: What it writes is read later by another name.
    """

    def imported(tracing: Tracing, node: fx.Node, x: fx.Node, *others: object, **more: object) -> Value:
        check_unread(tracing, node, x)
        value = importer(tracing, node, x, *others, **more)
        assert isinstance(value, Value)
        tracing.values[x] = value
        return value

    return imported


def _fire(tracing: Tracing, node: fx.Node, x: object, name: str) -> Value:
    value = tracing.stepwise(node, x)
    population = tracing.module.get_submodule(name)
    multi_step = "use step mode 'm' (functional.set_step_mode(net, 'm'))"
    first = value.layout.axes[:1]
    if population.step_mode == "s" and not value.layout.has(TIME) and first == ((_samples(),),):
        return _fire_once(tracing, node, value, name)
    if not value.layout.has(TIME):
        raise tracing.refusal(
            node,
            f"neurons read {value.named_axes}, which has no axis of time",
            f"{multi_step} and repeat the input over time first: x.unsqueeze(0).repeat(T, 1, 1, 1, 1)",
        )
    if value.axes is Axes.SAMPLES_FIRST:
        refusal = tracing.refusal(node, "neurons read (N, T, ...)", "give them (T, N, ...): x.transpose(0, 1)")
        raise SamplesFirstError(str(refusal))
    if first != ((_time(tracing),),):
        raise tracing.refusal(
            node,
            f"neurons read {value.named_axes}, so that time runs on from sample to sample and a sample's spikes "
            "depend on its place in the batch",
            f"{multi_step} and give them (T, N, ...)",
        )
    value = whole_of(tracing, node, value)
    if population.step_mode != "m":
        raise tracing.refusal(node, f"neurons in step mode {population.step_mode!r} take T steps as one", multi_step)
    return _population(tracing, node, value, name)


def _population(tracing: Tracing, node: fx.Node, value: Value, name: str) -> Value:
    """Write a population."""
    try:
        op = neurons(name, tracing.module.get_submodule(name), value.shape)
    except UnsupportedError as error:
        raise UnsupportedError(f"{error} ({user_line(node)})") from error
    value, factor = gained(tracing, value)
    if factor != 1:
        op.r = op.r * factor
    if not value.layout.in_order:
        own = value.layout.axes
        timed = value.layout.has(TIME)
        tracing.layouts[name] = value.layout if timed else replace(value.layout, axes=((Atom(TIME, 0),), *own))
    return tracing.elementwise(node, name, op, value)


def _fire_once(tracing: Tracing, node: fx.Node, value: Value, name: str) -> Value:
    """One step of neurons that a loop over time calls: the node of all steps, made at the first."""
    value = whole_of(tracing, node, value)
    calls = tracing.called.setdefault(name, [])
    step = len(calls)
    if value.steps not in (None, (step,)):
        shown = ", ".join(map(str, value.steps or ()))
        raise tracing.refusal(
            node,
            f"is given step {shown} when it runs for the {step + 1}. time",
            "let the loop take the steps in order, each once, and every population run once in each",
        )
    if calls and (calls[0].node, calls[0].layout) != (value.node, value.layout):
        raise tracing.refusal(
            node,
            f"is given {value.node} at step {step} and {calls[0].node} at the first",
            "let the loop do the same at every step, or give each use neurons of its own",
        )
    calls.append(value)
    if step == 0:
        _population(tracing, node, replace(value, steps=None), name)
    return replace(value, node=name, steps=(step,))


def _delayed(tracing: Tracing, node: fx.Node, x: object, name: str, steps: int) -> Value:
    """What neurons send, some steps later."""
    value = tracing.stepwise(node, x)
    if not value.layout.has(TIME):
        raise tracing.refusal(
            node,
            f"{name}: delays {value.named_axes}, which has no axis of time",
            "use step mode 'm' (functional.set_step_mode(net, 'm')) and give it (T, N, ...)",
        )
    if not sends(tracing, value.node):
        raise tracing.refusal(
            node,
            f"{name}: delays what {value.node} makes, a current",
            "on Loihi what neurons send can wait, so put the delay behind neurons or the input",
        )
    return tracing.elementwise(node, name, SampleDelay(np.full(value.shape, steps, dtype=np.int64)), value)


def _samples() -> Atom:
    """All samples."""
    return Atom(BATCH, TRACED_BATCH)


def _count_votes(tracing: Tracing, node: fx.Node, x: object, name: str, size: int) -> Value:
    """Means of ``size`` neighbours each: their sums, and a division of the logits."""
    value = tracing.plain(node, x)
    if len(value.shape) != 1 or value.shape[0] % size:
        raise tracing.refusal(node, f"votes of {size} are counted over values of shape {value.shape}", "flatten them")
    classes = value.shape[0] // size
    votes = tracing.add(node, name, nir.Linear(np.repeat(np.eye(classes), size, axis=1)), value.node)
    scale = tracing.add(node, f"{name}.scale", nir.Scale(np.full(classes, 1.0 / size)), votes)
    return _made(tracing, value, scale)


def _reshaped(tracing: Tracing, node: fx.Node, x: object, *_sizes: object, **_more: object) -> Value:
    """View, flatten and the like: what became of the axes is seen from the sizes."""
    value, sizes = tracing.value(node, x), tuple(node.meta["val"].shape)
    layout = value.layout.reshaped(sizes)
    if layout is None:
        raise tracing.refusal(
            node,
            f"makes {sizes} of {value.layout.sizes}, which is {value.layout}, T being {tracing.timesteps} and N "
            f"{TRACED_BATCH}",
            "merge T and N and part them again, part or join whole axes, and nothing else",
        )
    return _viewed(node, value, layout)


def _viewed(node: fx.Node, value: Value, layout: Layout) -> Value:
    """The same value laid out in another way."""
    if layout.axes[len(value.lead) :] == value.layout.axes[len(value.lead) :]:
        return replace(value, layout=layout)
    # T and N merged or parted leave a flattened value what it is, made where it was flattened
    tail = layout.axes[-1:]
    return replace(value, layout=layout, made_by=value.made_by if tail == value.layout.axes[-1:] else node)


def _permuted(tracing: Tracing, node: fx.Node, x: object, dims: list[int]) -> Value:
    value = tracing.value(node, x)
    count = len(value.layout.axes)
    return _viewed(node, value, value.layout.permuted([each % count for each in dims]))


def _transposed(tracing: Tracing, node: fx.Node, x: object, first: int = -2, second: int = -1) -> Value:
    count = len(tracing.value(node, x).layout.axes)
    order = list(range(count))
    order[first % count], order[second % count] = second % count, first % count
    return _permuted(tracing, node, x, order)


def _sliced(
    tracing: Tracing,
    node: fx.Node,
    x: object,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    value = tracing.value(node, x)
    size = value.layout.sizes[dim]
    first, last, _ = slice(start, end).indices(size)
    if step != 1:
        raise tracing.refusal(node, "no lowering for slice of every so many indices", "take a run of them")
    return _part(tracing, node, value, dim, first, last, "slice")


def _part(tracing: Tracing, node: fx.Node, value: Value, dim: int, first: int, last: int, kind: str) -> Value:
    """Some indices of an axis, in a row."""
    index = dim % len(value.layout.axes)
    if (first, last) == (0, value.layout.sizes[index]):
        return value
    if value.layout.axes[index] == (_time(tracing),) and last - first == 1 and value.over_time is None:
        left = (*value.layout.axes[:index], (), *value.layout.axes[index + 1 :])
        return replace(value, layout=replace(value.layout, axes=left), steps=(first,))
    layout = value.layout.cut(index, first, last) if last > first else None
    if layout is None:
        raise tracing.refusal(
            node,
            f"no lowering for {kind} {first}:{last} of axis {index} of {value.layout}",
            "take a run of channels, heads or pixels, and no part of time or samples",
        )
    return _viewed(node, value, layout)


def _selected(tracing: Tracing, node: fx.Node, x: object, dim: int, index: int) -> Value:
    value = tracing.value(node, x)
    at = index % value.layout.sizes[dim]
    if value.layout.axes[dim] == (_time(tracing),) and value.over_time is None:
        return replace(value, layout=value.layout.without([dim % len(value.layout.axes)]), steps=(at,))
    first = value.layout.axes[:2] == ((_time(tracing),), (_samples(),))
    if first and value.layout.axes[dim] == (_samples(),) and value.node in (tracing.draft.input, "input.flatten"):
        refusal = tracing.refusal(node, "takes a sample of (T, N, ...)", "give it (N, T, ...), or select steps")
        raise SamplesFirstError(str(refusal))
    if value.layout.sizes[dim] == 1 and value.layout.axes[dim]:
        raise tracing.refusal(node, "no lowering for select of a step or a sample", "keep time and samples whole")
    part = _part(tracing, node, value, dim, at, at + 1, "select")
    return _viewed(node, part, part.layout.without([dim % len(part.layout.axes)]))


def _split(tracing: Tracing, node: fx.Node, x: object, size: int | list[int], dim: int = 0) -> tuple[Value, ...]:
    value = tracing.value(node, x)
    total = value.layout.sizes[dim]
    sizes = size if isinstance(size, list | tuple) else [min(size, total - at) for at in range(0, total, size)]
    ends = np.cumsum(sizes).tolist()
    parts = zip([0, *ends], ends, strict=False)
    return tuple(_part(tracing, node, value, dim, first, last, "split") for first, last in parts)


def _chunked(tracing: Tracing, node: fx.Node, x: object, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    total = tracing.value(node, x).layout.sizes[dim]
    return _split(tracing, node, x, -(-total // chunks), dim)


def _unbound(tracing: Tracing, node: fx.Node, x: object, dim: int = 0) -> tuple[Value, ...]:
    count = tracing.value(node, x).layout.sizes[dim]
    return tuple(_selected(tracing, node, x, dim, index) for index in range(count))


def _item(tracing: Tracing, node: fx.Node, several: fx.Node, index: int) -> Value:
    """One of several values that an operation made."""
    values = tracing.values[several]
    if not isinstance(values, tuple):
        raise tracing.refusal(node, "no lowering for getitem", "name what is taken")
    return values[index]


def _repeated(tracing: Tracing, node: fx.Node, x: object, sizes: list[int], **_more: object) -> Value:
    """Repetition over time."""
    value, made = tracing.value(node, x), tuple(node.meta["val"].shape)
    axes = value.layout.axes
    added = len(made) - len(axes)
    if value.over_time is None and (added == 1 or (added == 0 and not value.layout.has(TIME))):
        own = ((), *axes) if added else axes
        known = Layout(own, value.layout.starts).sizes
        grown = [index for index, axis in enumerate(own) if not axis and made[index] != known[index]]
        grown = grown or [index for index in (0, 1) if index < len(own) and not own[index]]
        index = grown[0] if grown else 0
        alone = made[:index] + made[index + 1 :] == known[:index] + known[index + 1 :]
        if grown and alone and index < 2 and not value.layout.has(TIME):
            tracing.timesteps = same_steps(tracing.timesteps, made[index])
            repeated = (*own[:index], (_time(tracing),), *own[index + 1 :])
            return replace(value, layout=replace(value.layout, axes=repeated))
    if made == value.layout.sizes:
        return value
    raise tracing.refusal(node, f"repeats {value.named_axes} {sizes} times", "repeat over time alone, T first")


def _stacked(tracing: Tracing, node: fx.Node, parts: list[fx.Node], dim: int = 0) -> Value:
    """One value, once for each step; or what a loop over time made at each, in order."""
    return _in_steps(tracing, node, [tracing.value(node, each) for each in parts], dim)


def _in_steps(tracing: Tracing, node: fx.Node, values: list[Value], dim: int) -> Value:
    """Values on a new axis of time."""
    value = values[0]
    steps = [each.steps for each in values]
    same = all((each.node, each.layout, each.over_time) == (value.node, value.layout, None) for each in values)
    repeated = all(each is None for each in steps) and not value.layout.has(TIME)
    if not same or not (repeated or steps == [(step,) for step in range(len(steps))]):
        raise tracing.refusal(
            node,
            "stacks values that are no steps of one, in order",
            "stack what one layer makes of each step; to put channels side by side, use torch.cat",
        )
    tracing.timesteps = same_steps(tracing.timesteps, len(values))
    place = dim % (len(value.layout.axes) + 1)
    axes = (*value.layout.axes[:place], (_time(tracing),), *value.layout.axes[place:])
    return replace(value, layout=replace(value.layout, axes=axes), steps=None)


def _dropped(tracing: Tracing, node: fx.Node, x: object, p: float, train: bool) -> Value:
    if train and p:
        raise tracing.refusal(node, "drops values at random", "give dropout self.training")
    return tracing.value(node, x)


def _same(tracing: Tracing, node: fx.Node, x: object, *_options: object, **_more: object) -> Value:
    """The same values, of another type where that holds them: a whole number holds counts, and a bool spikes."""
    value, kind = tracing.value(node, x), node.meta["val"].dtype
    counts = kind is not torch.bool and sends_counts(tracing.draft.nodes, value.node)
    if not kind.is_floating_point and not counts and not is_binary(tracing, value.node):
        raise tracing.refusal(
            node, f"makes {str(kind).removeprefix('torch.')} of {value.node}, which is no spike", "leave it a float"
        )
    return value


OPERATIONS: Mapping[str, Importer] = MappingProxyType(
    {
        "aten.conv2d.default": _convolution,
        "aten.linear.default": _linear,
        "aten.batch_norm.default": _batch_norm,
        "aten.max_pool2d.default": _max_pool,
        "aten.avg_pool2d.default": _average_pool,
        "aten.adaptive_avg_pool2d.default": _adaptive_average_pool,
        "aten.mean.dim": _mean,
        "aten.sum.dim_IntList": _added_up,
        "aten.add.Tensor": _sum,
        "aten.add_.Tensor": _in_place(_sum),
        "aten.sub.Tensor": _difference,
        "aten.sub_.Tensor": _in_place(_difference),
        **dict.fromkeys(("aten.rsub.Scalar", "aten.rsub.Tensor"), _taken_from),
        "aten.neg.default": _negative,
        **dict.fromkeys(("aten.maximum.default", "aten.max.other", "aten.logical_or.default"), either),
        **dict.fromkeys(("aten.bitwise_or.Tensor", "aten.__or__.Tensor"), either),
        **dict.fromkeys(("aten.minimum.default", "aten.min.other", "aten.logical_and.default"), both),
        **dict.fromkeys(("aten.bitwise_and.Tensor", "aten.__and__.Tensor"), both),
        **dict.fromkeys(("aten.logical_not.default", "aten.bitwise_not.default"), complement),
        **dict.fromkeys(("aten.clamp.default", "aten.clip.default"), at_most_one),
        "aten.clamp_max.default": lambda tracing, node, x, most: at_most_one(tracing, node, x, None, most),
        "aten.conv2d.padding": _padded_convolution,
        "resformer.neurons.default": _fire,
        "resformer.vote.default": _count_votes,
        **dict.fromkeys(
            (
                "aten.view.default",
                "aten.reshape.default",
                "aten.flatten.using_ints",
                "aten.unflatten.int",
                "aten.unsqueeze.default",
                "aten.squeeze.default",
                "aten.squeeze.dim",
                "aten.squeeze.dims",
            ),
            _reshaped,
        ),
        "aten.pad.default": _padded,
        "aten.constant_pad_nd.default": lambda tracing, node, x, sizes, fill=0: _padded(
            tracing, node, x, sizes, "constant", fill
        ),
        **dict.fromkeys(("aten.cat.default", "aten.concat.default", "aten.concatenate.default"), _concatenated),
        "aten.conv1d.default": _convolution_of_taps,
        **dict.fromkeys(
            ("aten.transpose.int", "aten.swapaxes.default", "aten.swapdims.default", "aten.mT.default"), _transposed
        ),
        "aten.permute.default": _permuted,
        "aten.slice.Tensor": _sliced,
        "aten.select.int": _selected,
        "aten.split.Tensor": _split,
        "aten.split.sizes": _split,
        "aten.split_with_sizes.default": _split,
        "aten.chunk.default": _chunked,
        "aten.unbind.int": _unbound,
        str(operator.getitem): _item,
        "aten.matmul.default": product,
        "aten.bmm.default": product,
        "aten.einsum.default": named_product,
        **dict.fromkeys(("aten.mul.Tensor", "aten.mul.Scalar"), multiplied),
        **dict.fromkeys(("aten.div.Tensor", "aten.div.Scalar"), divided),
        "aten.mul_.Tensor": _in_place(multiplied),
        "aten.div_.Tensor": _in_place(divided),
        "aten.repeat.default": _repeated,
        "aten.expand.default": _repeated,
        "aten.stack.default": _stacked,
        "aten.dropout.default": _dropped,
        "resformer.delay.default": _delayed,
        **dict.fromkeys(
            (
                "aten.to.dtype",
                "aten._to_copy.default",
                "aten.to.other",
                "aten.to.device",
                "aten.clone.default",
                "aten.contiguous.default",
                "aten.detach.default",
                "aten.alias.default",
            ),
            _same,
        ),
    }
)
"""How each operation of PyTorch is imported."""
