"""Operations that change no numbers: reshaping, permuting, slicing, repeating, stacking, concatenating and casting."""

from __future__ import annotations

from dataclasses import replace

import nir
import numpy as np
import torch
from torch import fx

from resformer.compiler.frontend.module.gates import is_binary
from resformer.compiler.frontend.module.layout import TIME, Layout, atoms, whole
from resformer.compiler.frontend.module.pools import time_atom
from resformer.compiler.frontend.module.populations import samples_atom
from resformer.compiler.frontend.module.rows import whole_of
from resformer.compiler.frontend.module.tracing import TRACED_BATCH
from resformer.compiler.frontend.module.values import (
    SamplesFirstError,
    Tracing,
    Value,
)
from resformer.compiler.ir.messages import sends_counts
from resformer.compiler.ir.primitives import (
    CONCATENATED,
    Add,
)


def concatenated(tracing: Tracing, node: fx.Node, parts: list[fx.Node], dim: int = 0) -> Value:
    """Concatenated channels, as a sum of layers that each put a part in place; a convolution behind takes it apart."""
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
        key = "cat", tuple((each.node, each.layout, each.over_time) for each in values), axis
        return replace(tracing.once(key, lambda: _side_by_side(tracing, node, values, axis)), steps=steps)
    return _side_by_side(tracing, node, values, axis)


def _side_by_side(tracing: Tracing, node: fx.Node, values: list[Value], axis: int) -> Value:
    """Concatenate the channels of values that are all of one step, or all of every step."""
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


def reshaped(tracing: Tracing, node: fx.Node, x: object, *_sizes: object, **_more: object) -> Value:
    """View, flatten and the like; the sizes before and after show how the axes changed."""
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
    """The same value with another layout."""
    if layout.axes[len(value.lead) :] == value.layout.axes[len(value.lead) :]:
        return replace(value, layout=layout)
    # merging or parting T and N alone does not change which operation flattened a value
    tail = layout.axes[-1:]
    return replace(value, layout=layout, made_by=value.made_by if tail == value.layout.axes[-1:] else node)


def permuted(tracing: Tracing, node: fx.Node, x: object, dims: list[int]) -> Value:
    """The same axes in another order."""
    value = tracing.value(node, x)
    count = len(value.layout.axes)
    return _viewed(node, value, value.layout.permuted([each % count for each in dims]))


def transposed(tracing: Tracing, node: fx.Node, x: object, first: int = -2, second: int = -1) -> Value:
    """Two axes exchanged."""
    count = len(tracing.value(node, x).layout.axes)
    order = list(range(count))
    order[first % count], order[second % count] = second % count, first % count
    return permuted(tracing, node, x, order)


def turned(tracing: Tracing, node: fx.Node, x: object) -> Value:
    """All axes in reverse order; ``t`` has at most two."""
    return permuted(tracing, node, x, list(range(len(tracing.value(node, x).layout.axes)))[::-1])


def moved(tracing: Tracing, node: fx.Node, x: object, source: int | list[int], target: int | list[int]) -> Value:
    """Axes moved to other places; the other axes keep their order."""
    count = len(tracing.value(node, x).layout.axes)
    sources, targets = (
        [each % count for each in ([axes] if isinstance(axes, int) else axes)] for axes in (source, target)
    )
    others = iter(axis for axis in range(count) if axis not in sources)
    moves = dict(zip(targets, sources, strict=True))
    return permuted(tracing, node, x, [moves[axis] if axis in moves else next(others) for axis in range(count)])


def narrowed(tracing: Tracing, node: fx.Node, x: object, dim: int, start: int, length: int) -> Value:
    """``length`` indices of an axis, from ``start`` on."""
    first = start % tracing.value(node, x).layout.sizes[dim]
    return sliced(tracing, node, x, dim, first, first + length)


def sliced(
    tracing: Tracing,
    node: fx.Node,
    x: object,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    """The indices of an axis from ``start`` on, before ``end``."""
    value = tracing.value(node, x)
    size = value.layout.sizes[dim]
    first, last, _ = slice(start, end).indices(size)
    if step != 1:
        raise tracing.refusal(node, "no lowering for slice of every so many indices", "take a run of them")
    return _part(tracing, node, value, dim, first, last, "slice")


def _part(tracing: Tracing, node: fx.Node, value: Value, dim: int, first: int, last: int, kind: str) -> Value:
    """The indices of an axis from ``first`` on, before ``last``."""
    index = dim % len(value.layout.axes)
    if (first, last) == (0, value.layout.sizes[index]):
        return value
    if value.layout.axes[index] == (time_atom(tracing),) and last - first == 1 and value.over_time is None:
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


def selected(tracing: Tracing, node: fx.Node, x: object, dim: int, index: int) -> Value:
    """One index of an axis; the axis is removed."""
    value = tracing.value(node, x)
    at = index % value.layout.sizes[dim]
    if value.layout.axes[dim] == (time_atom(tracing),) and value.over_time is None:
        return replace(value, layout=value.layout.without([dim % len(value.layout.axes)]), steps=(at,))
    first = value.layout.axes[:2] == ((time_atom(tracing),), (samples_atom(),))
    if first and value.layout.axes[dim] == (samples_atom(),) and value.node in (tracing.draft.input, "input.flatten"):
        refusal = tracing.refusal(node, "takes a sample of (T, N, ...)", "give it (N, T, ...), or select steps")
        raise SamplesFirstError(str(refusal))
    if value.layout.sizes[dim] == 1 and value.layout.axes[dim]:
        raise tracing.refusal(node, "no lowering for select of a step or a sample", "keep time and samples whole")
    part = _part(tracing, node, value, dim, at, at + 1, "select")
    return _viewed(node, part, part.layout.without([dim % len(part.layout.axes)]))


def split(tracing: Tracing, node: fx.Node, x: object, size: int | list[int], dim: int = 0) -> tuple[Value, ...]:
    """An axis split into parts of one size, or of the given sizes."""
    value = tracing.value(node, x)
    total = value.layout.sizes[dim]
    sizes = size if isinstance(size, list | tuple) else [min(size, total - at) for at in range(0, total, size)]
    ends = np.cumsum(sizes).tolist()
    parts = zip([0, *ends], ends, strict=False)
    return tuple(_part(tracing, node, value, dim, first, last, "split") for first, last in parts)


def chunked(tracing: Tracing, node: fx.Node, x: object, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    """An axis split into at most ``chunks`` parts of one size; the last part may be smaller."""
    total = tracing.value(node, x).layout.sizes[dim]
    return split(tracing, node, x, -(-total // chunks), dim)


def unbound(tracing: Tracing, node: fx.Node, x: object, dim: int = 0) -> tuple[Value, ...]:
    """Each index of an axis as a value of its own."""
    count = tracing.value(node, x).layout.sizes[dim]
    return tuple(selected(tracing, node, x, dim, index) for index in range(count))


def item(tracing: Tracing, node: fx.Node, several: fx.Node, index: int) -> Value:
    """One of several values that an operation made."""
    values = tracing.values[several]
    if not isinstance(values, tuple):
        raise tracing.refusal(node, "no lowering for getitem", "name what is taken")
    return values[index]


def repeated(tracing: Tracing, node: fx.Node, x: object, sizes: list[int], **_more: object) -> Value:
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
            tracing.found_steps(made[index])
            repeated = (*own[:index], (time_atom(tracing),), *own[index + 1 :])
            return replace(value, layout=replace(value.layout, axes=repeated))
    if made == value.layout.sizes:
        return value
    raise tracing.refusal(node, f"repeats {value.named_axes} {sizes} times", "repeat over time alone, T first")


def stacked(tracing: Tracing, node: fx.Node, parts: list[fx.Node], dim: int = 0) -> Value:
    """One value repeated for each step, or the values that a loop over time made at each step, in order."""
    return _in_steps(tracing, node, [tracing.value(node, each) for each in parts], dim)


def _in_steps(tracing: Tracing, node: fx.Node, values: list[Value], dim: int) -> Value:
    """Values, one for each step, stacked along a new axis of time."""
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
    tracing.found_steps(len(values))
    place = dim % (len(value.layout.axes) + 1)
    axes = (*value.layout.axes[:place], (time_atom(tracing),), *value.layout.axes[place:])
    return replace(value, layout=replace(value.layout, axes=axes), steps=None)


def dropped(tracing: Tracing, node: fx.Node, x: object, p: float, train: bool) -> Value:
    """Dropout in eval mode: the same values."""
    if train and p:
        raise tracing.refusal(node, "drops values at random", "give dropout self.training")
    return tracing.value(node, x)


def same(tracing: Tracing, node: fx.Node, x: object, *_options: object, **_more: object) -> Value:
    """The same values in a type that can hold them: a float, a whole number for counts, or a bool for spikes."""
    value, kind = tracing.value(node, x), node.meta["val"].dtype
    counts = kind is not torch.bool and sends_counts(tracing.draft.nodes, value.node)
    of_one_step = value.over_time is None and len(value.steps or ()) < 2
    holds = of_one_step and (counts or is_binary(tracing, value.node))
    is_cast = isinstance(x, fx.Node) and x.meta["val"].dtype is not kind
    if is_cast and kind not in (torch.float32, torch.float64) and not holds:
        name = str(kind).removeprefix("torch.")
        remedy = "leave it a float" if not kind.is_floating_point else "leave it float32: fewer bits round it"
        raise tracing.refusal(node, f"makes {name} of {value.node}, which is no spike", remedy)
    return value
