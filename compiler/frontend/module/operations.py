"""Operations of PyTorch in, nodes of a float graph out, one function an operation.

Nodes are named by their paths in the state dict, and what has no parameters by the module that it runs in. For each
value it is followed which of its axes are time and batch, so that samples cannot be mixed up unseen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TypeAlias

import nir
import numpy as np
import torch
from torch import fx, nn

from resformer.compiler.frontend.module.neurons import (
    Draft,
    average_pool,
    batch_norm,
    flatten,
    float64,
    linear,
    neurons,
    pair,
)
from resformer.compiler.frontend.module.tracing import TRACED_BATCH, user_line
from resformer.compiler.ir.arrays import Shape
from resformer.compiler.ir.primitives import HELD_BIAS, Add, MaxPool2d
from resformer.compiler.ir.window import Window
from resformer.errors import InputError, UnsupportedError


class Axes(Enum):
    """Which axes come before a sample's own."""

    STATIC = "N"
    """The same at all steps."""
    UNREPEATED = "1, N"
    TIMED = "T, N"
    MERGED = "T * N"
    REDUCED = "N, over all steps"


@dataclass(frozen=True)
class Value:
    """A tensor of the traced code.

    Attributes:
        node: The node whose value it holds.
        axes: What comes before a sample's own axes.
        shape: Those.
    """

    node: str
    axes: Axes
    shape: Shape


@dataclass
class Tracing:
    """One traced module on its way to a graph.

    Attributes:
        module: Whose tensors are read.
        exported: Its operations.
        draft: The nodes so far.
        timesteps: T, once it is known.
        values: Of each operation so far.
        tensors: For each operation that is a parameter or buffer, its path.
    """

    module: nn.Module
    exported: torch.export.ExportedProgram
    draft: Draft
    timesteps: int | None
    values: dict[fx.Node, Value] = field(default_factory=dict)
    tensors: dict[fx.Node, str] = field(default_factory=dict)

    def run(self, axes: Axes, shape: Shape) -> Value:
        """Import all operations, and return what the module returns."""
        signature = self.exported.graph_signature
        paths = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        for node in self.exported.graph.nodes:
            if node.op == "placeholder" and node.name in paths:
                self.tensors[node] = paths[node.name]
            elif node.op == "placeholder" and node.name in signature.user_inputs:
                source = self.draft.input
                if self.draft.shape(source) != shape:
                    source = self.draft.add("input.flatten", flatten(self.draft.shape(source)), source)
                self.values[node] = Value(source, axes, shape)
            elif node.op == "call_function":
                self.values[node] = self._import(node)
            elif node.op == "output":
                return self._returned(node)
        raise AssertionError("torch.export wrote no output")

    def _import(self, node: fx.Node) -> Value:
        importer = OPERATIONS.get(str(node.target))
        if importer is None:
            kind = str(node.target).removeprefix("aten.").partition(".")[0]
            raise self.refusal(
                node,
                f"no lowering for {kind}",
                "the compiler knows convolution, linear layers, batch normalisation, pools, flatten, sums, repetition "
                "over time, a mean over time at the end, and SpikingJelly's IF, LIF and PLIF neurons",
            )
        value = importer(self, node, *node.args, **node.kwargs)
        made, wanted = (*self.lead(value.axes), *value.shape), tuple(node.meta["val"].shape)
        if made != wanted:
            raise self.refusal(
                node,
                f"makes {wanted}, where its lowering makes {made}",
                "write it with arguments that leave no shape to guess",
            )
        return value

    def _returned(self, node: fx.Node) -> Value:
        returned = node.args[0]
        found = returned[0] if isinstance(returned, tuple) and len(returned) == 1 else None
        if not isinstance(found, fx.Node) or found not in self.values:
            raise UnsupportedError(
                f"{type(self.module).__name__}: returns something other than one tensor computed from its input; "
                "wrap it in a module that returns the logits alone"
            )
        value = self.values[found]
        if value.axes not in (Axes.TIMED, Axes.REDUCED):
            raise self.refusal(
                found,
                f"what the module returns has axes ({value.axes.value}, ...)",
                "return (T, N, classes), or its mean over T",
            )
        return value

    def lead(self, axes: Axes) -> Shape:
        """The sizes of the axes before a sample's own."""
        steps = self.timesteps or 0
        return {
            Axes.STATIC: (TRACED_BATCH,),
            Axes.UNREPEATED: (1, TRACED_BATCH),
            Axes.TIMED: (steps, TRACED_BATCH),
            Axes.MERGED: (steps * TRACED_BATCH,),
            Axes.REDUCED: (TRACED_BATCH,),
        }[axes]

    def value(self, node: fx.Node, argument: object, *axes: Axes) -> Value:
        """An argument that must be a value of the network, with some of these axes if they are given."""
        if not isinstance(argument, fx.Node) or argument not in self.values:
            raise self.refusal(
                node,
                "computes with a weight or a constant rather than a value of the network",
                "put what it amounts to into a layer before compiling",
            )
        value = self.values[argument]
        if value.axes is Axes.REDUCED or (axes and value.axes not in axes):
            wanted = " or ".join(f"({each.value}, ...)" for each in axes) or "values of single steps"
            raise self.refusal(node, f"reads axes ({value.axes.value}, ...)", f"give it {wanted}")
        return value

    def tensor(self, node: fx.Node, argument: object) -> tuple[str, torch.Tensor]:
        """The path and value of an argument that must be a parameter or buffer."""
        if not isinstance(argument, fx.Node) or argument not in self.tensors:
            raise self.refusal(
                node,
                "its weights are computed by the code rather than held",
                "put what they amount to into the layer before compiling, and leave the computation out",
            )
        path = self.tensors[argument]
        owner, _, name = path.rpartition(".")
        return path, getattr(self.module.get_submodule(owner), name)

    def optional(self, node: fx.Node, argument: object) -> torch.Tensor | None:
        """The same of one that may be absent."""
        return None if argument is None else self.tensor(node, argument)[1]

    def name(self, node: fx.Node) -> str:
        """What to call an operation without parameters: after the module that it is, or runs in."""
        stack = list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())
        path, kind = str(stack[-1][0]), str(stack[-1][1])
        if not path or not re.match(r"(<class ')?(torch\.nn|spikingjelly)\.", kind) or "contain" in kind.lower():
            path = f"{path}.{node.name.rstrip('0123456789').rstrip('_')}".removeprefix(".")
        unique, count = path, 1
        while unique in self.draft.nodes:
            unique, count = f"{path}.{count}", count + 1
        return unique

    def add(self, node: fx.Node, name: str, op: nir.NIRNode, *inputs: str) -> str:
        """Append a node that bears a path of its own."""
        if name in self.draft.nodes:
            raise self.refusal(
                node,
                "runs more than once in one forward",
                "in a loop over time, use step mode 'm' instead (functional.set_step_mode(net, 'm')) and give the "
                "network [T, N, ...]; else give each use a module of its own",
            )
        try:
            return self.draft.add(name, op, *inputs)
        except AssertionError as error:
            raise self.refusal(node, f"{name}: {error}", "bring the values to that shape") from error

    def refusal(self, node: fx.Node, problem: str, remedy: str) -> UnsupportedError:
        """Why an operation has no lowering, and where it stands."""
        name = node.args[1] if node.target is torch.ops.resformer.neurons.default else self.name(node)
        return UnsupportedError(f"{name}: {problem}; {remedy} ({user_line(node)})")


def same_steps(wanted: int | None, found: int) -> int:
    """T as the module has it.

    Raises:
        InputError: Another is asked for, or was found before.
    """
    if wanted is not None and wanted != found:
        raise InputError(f"timesteps: {wanted} are asked for, but the module runs {found}; leave the option out")
    return found


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
    value = tracing.value(node, x, Axes.STATIC, Axes.MERGED)
    path, tensor = tracing.tensor(node, weight)
    held = tracing.optional(node, bias)
    op = nir.Conv2d(
        input_shape=value.shape[1:],
        weight=float64(tensor),
        stride=pair(stride),
        padding=pair(padding),
        dilation=pair(dilation),
        groups=groups,
        bias=np.zeros(len(tensor)) if held is None else float64(held),
        metadata={} if held is None else {HELD_BIAS: 1},
    )
    name = tracing.add(node, path.removesuffix(".weight"), op, value.node)
    return Value(name, value.axes, tracing.draft.shape(name))


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
    rows, columns = tracing.tensor(node, weight)[1].shape[2:]
    window = Window((rows, columns), dilation=pair(dilation))
    around = window.same_padding if padding == "same" else window.padding
    if around is None:
        raise tracing.refusal(node, "padding 'same' is one-sided here", "pad both sides alike, in numbers")
    return _convolution(tracing, node, x, weight, bias, stride, around, dilation, groups)


def _linear(tracing: Tracing, node: fx.Node, x: object, weight: object, bias: object = None) -> Value:
    value = tracing.value(node, x)
    if len(value.shape) != 1:
        raise tracing.refusal(node, f"a linear layer reads values of shape {value.shape}", "flatten them before it")
    path, tensor = tracing.tensor(node, weight)
    op = linear(tensor, tracing.optional(node, bias))
    name = tracing.add(node, path.removesuffix(".weight"), op, value.node)
    return Value(name, value.axes, (len(tensor),))


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
    value = tracing.value(node, x, Axes.STATIC, Axes.MERGED)
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
    return Value(tracing.add(node, path.removesuffix(".running_mean"), op, value.node), value.axes, value.shape)


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
    value = tracing.value(node, x, Axes.STATIC, Axes.MERGED)
    if ceil_mode or pair(dilation) != (1, 1):
        raise tracing.refusal(node, "has windows beyond the image, or dilated ones", "use plain windows")
    pool = MaxPool2d(
        kernel_size=np.array(pair(kernel)), stride=np.array(pair(stride or kernel)), padding=np.array(pair(padding))
    )
    name = tracing.draft.add(tracing.name(node), pool, value.node)
    return Value(name, value.axes, tracing.draft.shape(name))


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
    value = tracing.value(node, x, Axes.STATIC, Axes.MERGED)
    size, around = pair(kernel), pair(padding)
    if ceil_mode or divisor not in (None, math.prod(size)) or (any(around) and not count_include_pad):
        raise tracing.refusal(
            node, "divides by something other than its window's area", "use the plain average of whole windows"
        )
    return _pooled(tracing, node, value, average_pool(size, pair(stride or kernel), around))


def _adaptive_average_pool(tracing: Tracing, node: fx.Node, x: object, size: object) -> Value:
    value = tracing.value(node, x, Axes.STATIC, Axes.MERGED)
    wanted = pair(size)
    if any(have % want for have, want in zip(value.shape[1:], wanted, strict=True)):
        raise tracing.refusal(
            node, f"averages {value.shape[1:]} to {wanted} by windows of several sizes", "choose a size that divides"
        )
    window = (value.shape[1] // wanted[0], value.shape[2] // wanted[1])
    return _pooled(tracing, node, value, average_pool(window, window))


def _pooled(tracing: Tracing, node: fx.Node, value: Value, pool: nir.AvgPool2d) -> Value:
    """A pool's node; windows of one pixel are none."""
    if not any(pool.padding) and tuple(pool.kernel_size) == tuple(pool.stride) == (1, 1):
        return value
    name = tracing.draft.add(tracing.name(node), pool, value.node)
    return Value(name, value.axes, tracing.draft.shape(name))


def _mean(tracing: Tracing, node: fx.Node, x: object, dims: list[int], keepdim: bool = False) -> Value:
    """Over time, at the end of a network, or over all pixels."""
    value = tracing.value(node, x)
    lead = len(tracing.lead(value.axes))
    over = sorted(each % (lead + len(value.shape)) for each in dims)
    if over == [0] and value.axes is Axes.TIMED and not keepdim:
        return Value(value.node, Axes.REDUCED, value.shape)
    if len(value.shape) == 3 and over == [lead + 1, lead + 2]:
        pooled = _pooled(tracing, node, value, average_pool(value.shape[1:], value.shape[1:]))
        return pooled if keepdim else _reshape(tracing, node, pooled)
    raise tracing.refusal(
        node, f"averages axes {over} of ({value.axes.value}, ...)", "average over all pixels, or over time at the end"
    )


def _sum(tracing: Tracing, node: fx.Node, x: object, y: object, *, alpha: float = 1) -> Value:
    left, right = tracing.value(node, x), tracing.value(node, y)
    if alpha != 1 or (left.axes, left.shape) != (right.axes, right.shape):
        raise tracing.refusal(
            node,
            f"adds ({left.axes.value}, ...) of {left.shape} and ({right.axes.value}, ...) of {right.shape}"
            + (f" times {alpha}" if alpha != 1 else ""),
            "add values of one shape, as they are",
        )
    return Value(tracing.add(node, tracing.name(node), Add(), left.node, right.node), left.axes, left.shape)


def _sum_in_place(tracing: Tracing, node: fx.Node, x: fx.Node, y: object, *, alpha: float = 1) -> Value:
    """What is read from the first operand after this is the sum."""
    value = tracing.values[x] = _sum(tracing, node, x, y, alpha=alpha)
    return value


def _fire(tracing: Tracing, node: fx.Node, x: object, name: str) -> Value:
    value = tracing.value(node, x)
    population = tracing.module.get_submodule(name)
    multi_step = "use step mode 'm' (functional.set_step_mode(net, 'm'))"
    if value.axes is Axes.MERGED:
        raise tracing.refusal(
            node,
            "neurons read (T * N, ...), so that time runs on from sample to sample and a sample's spikes "
            "depend on its place in the batch",
            f"{multi_step} and give them (T, N, ...)",
        )
    if value.axes is not Axes.TIMED:
        raise tracing.refusal(
            node,
            f"neurons read ({value.axes.value}, ...), which has no axis of time",
            f"{multi_step} and repeat the input over time first: x.unsqueeze(0).repeat(T, 1, 1, 1, 1)",
        )
    if population.step_mode != "m":
        raise tracing.refusal(node, f"neurons in step mode {population.step_mode!r} take T steps as one", multi_step)
    try:
        op = neurons(name, population, value.shape)
    except UnsupportedError as error:
        raise UnsupportedError(f"{error} ({user_line(node)})") from error
    return Value(tracing.add(node, name, op, value.node), value.axes, value.shape)


def _count_votes(tracing: Tracing, node: fx.Node, x: object, name: str, size: int) -> Value:
    """Means of so many neighbours: their sums, and a division of the logits."""
    value = tracing.value(node, x)
    if len(value.shape) != 1 or value.shape[0] % size:
        raise tracing.refusal(node, f"votes of {size} are counted over values of shape {value.shape}", "flatten them")
    classes = value.shape[0] // size
    votes = tracing.add(node, name, nir.Linear(np.repeat(np.eye(classes), size, axis=1)), value.node)
    scale = tracing.add(node, f"{name}.scale", nir.Scale(np.full(classes, 1.0 / size)), votes)
    return Value(scale, value.axes, (classes,))


def _reshaped(tracing: Tracing, node: fx.Node, x: object, *_sizes: object, **_more: object) -> Value:
    """View, flatten and the like: what became of the axes is seen from the sizes."""
    return _reshape(tracing, node, tracing.value(node, x))


def _reshape(tracing: Tracing, node: fx.Node, value: Value) -> Value:
    """The value with the sizes that the operation makes, if that mixes nothing up."""
    sizes, draft = tuple(node.meta["val"].shape), tracing.draft
    for axes in (value.axes, *REGROUPED.get(value.axes, ())):
        lead = tracing.lead(axes)
        if sizes[: len(lead)] != lead:
            continue
        shape = sizes[len(lead) :]
        if shape == value.shape:
            return Value(value.node, axes, shape)
        if shape == (math.prod(value.shape),):
            return Value(draft.add(tracing.name(node), flatten(value.shape), value.node), axes, shape)
        before = draft.nodes[value.node]
        if isinstance(before.op, nir.Flatten) and draft.shape(before.inputs[0]) == shape:
            return Value(before.inputs[0], axes, shape)
    raise tracing.refusal(
        node,
        f"makes {sizes} of {(*tracing.lead(value.axes), *value.shape)}, T being {tracing.timesteps} and N "
        f"{TRACED_BATCH}",
        "merge T and N and part them again, or flatten a sample, and nothing else",
    )


REGROUPED: Mapping[Axes, tuple[Axes, ...]] = MappingProxyType(
    {
        Axes.STATIC: (Axes.UNREPEATED,),
        Axes.UNREPEATED: (Axes.STATIC,),
        Axes.TIMED: (Axes.MERGED,),
        Axes.MERGED: (Axes.TIMED,),
    }
)
"""What axes may become by reshaping."""


def _repeated(tracing: Tracing, node: fx.Node, x: object, sizes: list[int], **_more: object) -> Value:
    """Repetition over time."""
    value, made = tracing.value(node, x), tuple(node.meta["val"].shape)
    if made == (*tracing.lead(value.axes), *value.shape):
        return value
    if value.axes not in (Axes.STATIC, Axes.UNREPEATED) or made[1:] != (TRACED_BATCH, *value.shape):
        raise tracing.refusal(
            node, f"repeats ({value.axes.value}, ...) {sizes} times", "repeat over time alone, T first"
        )
    tracing.timesteps = same_steps(tracing.timesteps, made[0])
    return Value(value.node, Axes.TIMED, value.shape)


def _stacked(tracing: Tracing, node: fx.Node, parts: list[fx.Node], dim: int = 0) -> Value:
    """One value, once for each step."""
    value = tracing.value(node, parts[0], Axes.STATIC)
    if dim != 0 or any(part is not parts[0] for part in parts):
        raise tracing.refusal(
            node,
            "stacks what several steps made",
            "use step mode 'm' (functional.set_step_mode(net, 'm')) rather than a loop over time",
        )
    tracing.timesteps = same_steps(tracing.timesteps, len(parts))
    return Value(value.node, Axes.TIMED, value.shape)


def _dropped(tracing: Tracing, node: fx.Node, x: object, p: float, train: bool) -> Value:
    if train and p:
        raise tracing.refusal(node, "drops values at random", "give dropout self.training")
    return tracing.value(node, x)


def _same(tracing: Tracing, node: fx.Node, x: object, *_options: object, **_more: object) -> Value:
    return tracing.value(node, x)


Importer: TypeAlias = Callable[..., Value]

OPERATIONS: Mapping[str, Importer] = MappingProxyType(
    {
        "aten.conv2d.default": _convolution,
        "aten.linear.default": _linear,
        "aten.batch_norm.default": _batch_norm,
        "aten.max_pool2d.default": _max_pool,
        "aten.avg_pool2d.default": _average_pool,
        "aten.adaptive_avg_pool2d.default": _adaptive_average_pool,
        "aten.mean.dim": _mean,
        "aten.add.Tensor": _sum,
        "aten.add_.Tensor": _sum_in_place,
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
        "aten.repeat.default": _repeated,
        "aten.expand.default": _repeated,
        "aten.stack.default": _stacked,
        "aten.dropout.default": _dropped,
        **dict.fromkeys(
            ("aten.clone.default", "aten.contiguous.default", "aten.detach.default", "aten.alias.default"), _same
        ),
    }
)
"""How each operation of PyTorch is imported."""
