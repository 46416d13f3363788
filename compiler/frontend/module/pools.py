"""Pools, sums and means over pixels and over time."""

from __future__ import annotations

import math
from dataclasses import replace

import nir
import numpy as np
from torch import fx

from resformer.compiler.frontend.module.gates import sends
from resformer.compiler.frontend.module.layout import TIME, Atom, Layout, whole
from resformer.compiler.frontend.module.neurons import average_pool, pair
from resformer.compiler.frontend.module.synapses import made_by_layer
from resformer.compiler.frontend.module.values import (
    IMAGES,
    Tracing,
    Value,
)
from resformer.compiler.frontend.module.windows import PADDED
from resformer.compiler.ir.arrays import Shape
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.messages import sends_counts
from resformer.compiler.ir.primitives import (
    CONCATENATED,
    FIXED,
    AdaptiveAvgPool2d,
    CeilMaxPool2d,
    EdgeAvgPool2d,
    MaxPool2d,
)
from resformer.compiler.ir.window import Window


def max_pool(
    tracing: Tracing,
    node: fx.Node,
    x: object,
    kernel: object,
    stride: object = (),
    padding: object = 0,
    dilation: object = 1,
    ceil_mode: bool = False,
) -> Value:
    """The maximum of each window."""
    tracing.stepwise(node, x)
    value = tracing.plain(node, x, *IMAGES)
    size, step, around = pair(kernel), pair(stride or kernel), pair(padding)
    if pair(dilation) != (1, 1):
        raise tracing.refusal(node, "takes maxima over dilated windows", "use windows without gaps")
    beyond = _beyond(value, size, step, around) if ceil_mode else (0, 0)
    source = tracing.draft.nodes[value.node]
    if PADDED in source.op.metadata and not any(around) and sends_counts(tracing.draft.nodes, source.inputs[0]):
        window = _of_padded(source, value.shape, size, step, beyond)
        if window is not None:  # the pad's zeros never exceed spikes
            around, beyond = window
            value = replace(value, node=source.inputs[0], shape=tracing.draft.shape(source.inputs[0]))
    pool = MaxPool2d(kernel_size=np.array(size), stride=np.array(step), padding=np.array(around))
    if any(beyond):
        pool = CeilMaxPool2d(pool.kernel_size, pool.stride, pool.padding, np.array(beyond))
    joined = tracing.draft.nodes[value.node]
    if CONCATENATED in joined.op.metadata:
        raise tracing.refusal(
            node, "takes maxima of values side by side", "take those of each, and concatenate them behind the pool"
        )
    return made_by_layer(tracing, value, tracing.draft.add(tracing.name(node), pool, value.node))


def _beyond(value: Value, size: tuple[int, int], step: tuple[int, int], around: tuple[int, int]) -> tuple[int, int]:
    """How many rows and columns ceil_mode's windows reach beyond the padding; no window begins behind the image."""
    found = []
    for window, stride, pad, have in zip(size, step, around, value.shape[1:], strict=True):
        free = have + 2 * pad - window
        last = -(-free // stride) * stride
        found.append(max(0, (last if last < have + pad else last - stride) - free))
    return found[0], found[1]


def _of_padded(
    pad: Node[nir.NIRNode], shape: Shape, size: tuple[int, int], step: tuple[int, int], beyond: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """For windows behind a pad: their padding if they read the pad's source, and their reach beyond it; else None."""
    top, bottom, left, right = (int(each) for each in str(pad.op.metadata[PADDED]).split(","))
    around, reach = (top, left), []
    counts = Window(size, step, beyond=beyond).targets(shape[1:])
    have = shape[1] - top - bottom, shape[2] - left - right
    for axis, behind in enumerate((bottom, right)):
        first, last = around[axis], (counts[axis] - 1) * step[axis] + size[axis] - have[axis] - around[axis]
        # no window may lie in the padding alone
        if min(first, behind) < 0 or max(first, last) >= size[axis]:
            return None
        reach.append(max(last - first, 0))
    found = Window(size, step, around, beyond=(reach[0], reach[1]))
    return (around, found.beyond) if found.targets(have) == counts else None


def averaged_windows(
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
    """The mean of each window."""
    value = tracing.plain(node, x, *IMAGES)
    size, around = pair(kernel), pair(padding)
    step = pair(stride or kernel)
    if divisor not in (None, math.prod(size)):
        raise tracing.refusal(
            node,
            f"divides by something other than its window's area: by {divisor}, not {math.prod(size)}",
            "leave divisor_override out, and scale the weights behind the pool",
        )
    beyond = _beyond(value, size, step, around) if ceil_mode else (0, 0)
    if any(beyond) or (any(around) and not count_include_pad):
        window = Window(size, step, around, beyond=beyond)
        pool = EdgeAvgPool2d(window.targets(value.shape[1:]), size, step, around, count_include_pad)
        return made_by_layer(tracing, value, tracing.draft.add(tracing.name(node), pool, value.node))
    return _pooled(tracing, node, value, average_pool(size, step, around))


def averaged_adaptively(tracing: Tracing, node: fx.Node, x: object, size: object) -> Value:
    """The mean of each of ``size`` windows, which cover the image."""
    value = tracing.plain(node, x, *IMAGES)
    wanted = pair(size)
    if any(have % want for have, want in zip(value.shape[1:], wanted, strict=True)):
        return made_by_layer(
            tracing, value, tracing.draft.add(tracing.name(node), AdaptiveAvgPool2d(wanted), value.node)
        )
    window = (value.shape[1] // wanted[0], value.shape[2] // wanted[1])
    return _pooled(tracing, node, value, average_pool(window, window))


def _pooled(tracing: Tracing, node: fx.Node, value: Value, pool: nir.AvgPool2d) -> Value:
    """The value of a pool's node; a pool of single pixels needs no node."""
    if not any(pool.padding) and tuple(pool.kernel_size) == tuple(pool.stride) == (1, 1):
        return value
    return made_by_layer(tracing, value, tracing.draft.add(tracing.name(node), pool, value.node))


def averaged(tracing: Tracing, node: fx.Node, x: object, dims: list[int] | None = None, keepdim: bool = False) -> Value:
    """A mean over time, behind all neurons, or over all pixels, or over both."""
    return _reduced(tracing, node, x, dims, keepdim=keepdim, pool=nir.AvgPool2d)


def added_up(
    tracing: Tracing, node: fx.Node, x: object, dims: list[int] | None = None, keepdim: bool = False, **_more: object
) -> Value:
    """A sum over time, over pixels or over channels of heads; a sum over time is T times the mean."""
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
    """A reduction over time, over pixels or over channels of heads; the nodes that it appends make a value per step."""
    value = tracing.value(node, x)
    layout = value.layout
    over = sorted(each % len(layout.axes) for each in (dims or range(len(layout.axes))))
    steps = [each for each in over if layout.axes[each] == (time_atom(tracing),)]
    if steps and value.over_time is None:
        value = replace(value, layout=layout.without(steps, keepdim=keepdim), over_time=1.0)
        over = [each - (0 if keepdim else sum(step < each for step in steps)) for each in over if each not in steps]
        layout = value.layout
    if not over:
        return value
    of_groups = _over_groups(tracing, node, value, over, keepdim=keepdim) if pool is nir.SumPool2d else None
    if of_groups is not None:
        return of_groups
    averaged = [layout.axes[each] for each in over]
    pixels = {atom for axis in averaged for atom in axis}
    if len(value.shape) == 3 and layout.shows_all(value.shape) and pixels == set(whole(value.shape, (1, 2))):
        name, size = value.node, np.array(value.shape[1:])
        if pixels:
            name = tracing.draft.add(tracing.name(node), pool(size, size, 0 * size), value.node)
        pooled = layout.without(over, keepdim=keepdim)
        made_by = None if keepdim else node
        return replace(value, node=name, shape=tracing.draft.shape(name), layout=pooled, made_by=made_by)
    if not any(averaged):
        # there is one channel per head, so nothing to reduce
        return replace(value, layout=layout.without(over, keepdim=keepdim))
    raise tracing.refusal(
        node,
        f"{'averages' if pool is nir.AvgPool2d else 'sums'} axes {over} of {value.named_axes}",
        "average or sum over all pixels, or over time behind all neurons",
    )


def _over_groups(tracing: Tracing, node: fx.Node, value: Value, over: list[int], *, keepdim: bool) -> Value | None:
    """A sum of what neurons send over each head's channels, or all channels, as a convolution of ones; else None."""
    layout = value.layout
    atoms_over = [atom for each in over for atom in layout.axes[each]]
    if len(value.shape) != 3 or len(atoms_over) != 1 or not layout.shows_all(value.shape):
        return None
    depth = atoms_over[0].size
    if atoms_over[0] != Atom(0, depth) or not sends(tracing, value.node):
        return None
    groups = value.shape[0] // depth
    op = nir.Conv2d(
        input_shape=value.shape[1:],
        weight=np.ones((groups, depth, 1, 1)),
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=groups,
        bias=np.zeros(groups),
        metadata={FIXED: 1},
    )
    kept = layout.without(over, keepdim=keepdim)
    axes = (
        tuple(replace(atom, stride=atom.stride // depth) if atom.dim == 0 else atom for atom in axis)
        for axis in kept.axes
    )
    name = tracing.add(node, tracing.name(node), op, value.node)
    return replace(value, node=name, shape=tracing.draft.shape(name), layout=Layout(tuple(axes)), made_by=node)


def time_atom(tracing: Tracing) -> Atom:
    """The atom that runs over all steps."""
    return Atom(TIME, tracing.timesteps or 0)
