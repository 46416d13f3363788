"""Modules in memory in, float graphs out: the graph comes from running the user's own code.

``torch.export`` runs ``forward`` on tensors that have shapes but no values, and records every ATen operation with the
lines of code that it came from. So a branch on values cannot be taken, and is refused, while loops, branches on shapes
and Python of any kind are simply run; ``torch.fx``'s symbolic tracing, which knows no shapes either, would refuse these
too, and has to be told which modules not to look into. SpikingJelly's neurons are not looked into: each is recorded as
one operation that bears its path.

Nodes are named by their paths in the state dict, and what has no parameters by the module that it runs in. For each
value the frontend follows which of its axes are time and batch, so that samples cannot be mixed up unseen.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import math
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import nir
import numpy as np
import spikingjelly
import torch
from spikingjelly.activation_based import base, functional, layer, neuron
from torch import fx, nn

from resformer.compiler.frontend.spikingjelly import (
    DT,
    Draft,
    average_pool,
    batch_norm,
    flatten,
    float64,
    linear,
    neurons,
    pair,
)
from resformer.compiler.ir.graph import Graph, topological_order
from resformer.compiler.ir.primitives import HELD_BIAS, Add, MaxPool2d
from resformer.compiler.ir.shapes import Shape
from resformer.errors import InputError, UnsupportedError

TRACED_BATCH = 11
"""Samples that the code is traced with: a number that no other axis is likely to have."""
SAMPLE_AXES = (1, 3)
"""Samples are vectors or images."""
TORCH, SPIKINGJELLY, PYTHON = (str(Path(inspect.getfile(each)).parent) for each in (torch, spikingjelly, contextlib))
LIBRARIES = (TORCH, PYTHON, str(Path(__file__).parent))
"""Where code is not the user's; nor is SpikingJelly's, but for the networks that come with it."""


class Axes(Enum):
    """Which axes come before a sample's own."""

    STATIC = "N"
    """The same at all steps."""
    UNREPEATED = "1, N"
    TIMED = "T, N"
    MERGED = "T * N"
    REDUCED = "N, over all steps"


@dataclass(frozen=True)
class Traced:
    """A module as a float graph.

    Attributes:
        graph: Of float64 weights.
        axes: Of the samples that the module takes: ``STATIC`` if it repeats them itself, else ``TIMED``.
        mean_over_time: Whether what it returns is its logits' mean over time rather than those of each step.
    """

    graph: Graph[nir.NIRNode]
    axes: Axes
    mean_over_time: bool


def in_float64(module: nn.Module) -> nn.Module:
    """A copy of a module in float64 on the CPU, in eval mode, that remembers nothing; the module forgets too.

    Raises:
        InputError: It is no module, cannot be copied, or holds what is not finite.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"module: is a {type(module).__name__}; give a torch.nn.Module")
    # potentials of a run with gradients cannot be copied
    functional.reset_net(module)
    try:
        twin: nn.Module = copy.deepcopy(module).cpu().double().eval()
    except RuntimeError as error:
        raise InputError(f"{type(module).__name__}: cannot be copied ({_first_line(error)})") from error
    for name, tensor in twin.state_dict().items():
        if not tensor.isfinite().all():
            raise InputError(f"{name}: holds NaN or infinite values; training diverged, so take earlier weights")
    for node in twin.modules():
        if isinstance(node, base.MemoryModule) and getattr(node, "backend", "torch") != "torch":
            node.backend = "torch"
        if isinstance(node, neuron.BaseNode) and node.store_v_seq:
            node.store_v_seq = False
    return twin


def import_module(
    module: nn.Module, example: torch.Tensor, *, timesteps: int | None = None, input_kind: str = "static"
) -> Traced:
    """The float graph of a SpikingJelly module.

    Args:
        module: Of SpikingJelly's layers and neurons in step mode "m", as ``in_float64`` returns it.
        example: Samples as its ``forward`` takes them: (T, N, C, H, W) or (T, N, F), or (N, C, H, W) or (N, F) if it
            repeats them T times itself. Only the shape matters.
        timesteps: T, if known; else the example's or that of the repetition.
        input_kind: Whether samples are real numbers ("static") or counts of events ("frames").

    Raises:
        UnsupportedError: The module branches on values, mixes time and samples, or does what has no lowering; the
            message names the node and the line of code.
        InputError: The example is no tensor, is empty, or has no such axes.
    """
    if not isinstance(example, torch.Tensor):
        raise InputError(f"example_input: is a {type(example).__name__}; give a torch.Tensor")
    if not example.numel():
        raise InputError(f"example_input: its shape is {tuple(example.shape)}; give at least one step and one sample")
    if example.dim() - 1 in SAMPLE_AXES:
        axes, shape = Axes.STATIC, tuple(example.shape[1:])
    elif example.dim() - 2 in SAMPLE_AXES:
        axes, shape, timesteps = Axes.TIMED, tuple(example.shape[2:]), _same_steps(timesteps, example.shape[0])
    else:
        raise InputError(
            f"example_input: its shape is {tuple(example.shape)}; a module takes (T, N, C, H, W) or (T, N, F), or "
            "(N, C, H, W) or (N, F) if it repeats samples over time itself"
        )
    lead = (TRACED_BATCH,) if axes is Axes.STATIC else (example.shape[0], TRACED_BATCH)
    exported = _export(module, torch.zeros(*lead, *shape, dtype=torch.float64))
    tracing = _Tracing(module, exported, Draft(shape if len(shape) == 3 else (*shape, 1, 1)), timesteps)
    result = tracing.run(axes, shape)
    draft = tracing.draft
    if len(draft.shape(result.node)) != 1:
        raise UnsupportedError(
            f"{result.node}: the module returns values of shape {draft.shape(result.node)} for each sample; it must "
            "return a vector, so flatten them"
        )
    draft.add("output", nir.Output({"output": np.array(draft.shape(result.node))}), result.node)
    needed = _needed(draft)
    if not any(isinstance(each.op, nir.LIF | nir.IF) for each in needed.values()):
        raise UnsupportedError(f"{type(module).__name__}: its output depends on no spiking neurons")
    assert tracing.timesteps is not None
    graph = Graph(topological_order(needed), tracing.timesteps, {"dt": DT, "input": input_kind, "source": "module"})
    return Traced(graph, axes, result.axes is Axes.REDUCED)


def _same_steps(wanted: int | None, found: int) -> int:
    if wanted is not None and wanted != found:
        raise InputError(f"timesteps: {wanted} are asked for, but the module runs {found}; leave the option out")
    return found


def _needed(draft: Draft) -> dict[str, Any]:
    """The nodes that the output depends on, in the order of the draft."""
    wanted, stack = {draft.input}, ["output"]
    while stack:
        name = stack.pop()
        if name not in wanted:
            wanted.add(name)
            stack.extend(draft.nodes[name].inputs)
    return {name: node for name, node in draft.nodes.items() if name in wanted}


# Running the user's code


@torch.library.custom_op("resformer::neurons", mutates_args=())
def _population(current: torch.Tensor, name: str) -> torch.Tensor:  # noqa: ARG001
    """Stands for a population while a module is traced."""
    raise AssertionError(f"{name}: is only traced")


@_population.register_fake
def _(current: torch.Tensor, name: str) -> torch.Tensor:  # noqa: ARG001
    return torch.empty_like(current)


@torch.library.custom_op("resformer::vote", mutates_args=())
def _vote(spikes: torch.Tensor, name: str, size: int) -> torch.Tensor:  # noqa: ARG001
    """Stands for a VotingLayer while a module is traced."""
    raise AssertionError(f"{name}: is only traced")


@_vote.register_fake
def _(spikes: torch.Tensor, name: str, size: int) -> torch.Tensor:  # noqa: ARG001
    return spikes.new_empty(*spikes.shape[:-1], spikes.shape[-1] // size)


def _export(module: nn.Module, example: torch.Tensor) -> torch.export.ExportedProgram:
    """Run a module's code on a tensor without values.

    Raises:
        UnsupportedError: The code looks at values.
    """
    module = copy.deepcopy(module)
    for name, node in module.named_modules():
        if isinstance(node, neuron.BaseNode):
            node.forward = lambda current, name=name: torch.ops.resformer.neurons(current, name)
        if isinstance(node, layer.VotingLayer):
            size = node.voting_size
            node.forward = lambda spikes, name=name, size=size: torch.ops.resformer.vote(spikes, name, size)
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(module, (example,), strict=False)
    except UnsupportedError:
        raise
    except Exception as error:  # torch.export raises whatever the user's code does, and errors of many kinds of its own
        frames = [(each.filename, each.lineno, each.line) for each in traceback.extract_tb(error.__traceback__)]
        where, kind = _line(frames), type(error).__name__
        if "DataDependent" in kind or "data-dependent" in str(error):
            raise UnsupportedError(
                f"{where}: the code branches on, or takes a number from, values that only a sample decides; compute "
                "it from shapes or from constants"
            ) from error
        raise UnsupportedError(
            f"{where}: cannot be traced ({kind}: {_first_line(error)}); use operations of PyTorch on tensors of any "
            "batch size"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch.export logs and prints about code that it cannot trace: our error says it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in .*\n\s*(?P<code>.*)')


def _source(node: fx.Node) -> str:
    """The user's line of code that an operation came from."""
    frames = [(each["file"], int(each["line"]), each["code"]) for each in _FRAME.finditer(node.stack_trace or "")]
    return _line(frames)


def _line(frames: Sequence[tuple[str, int | None, str | None]]) -> str:
    """The innermost of some places in the code that is not in a library."""
    known = [frame for frame in frames if not frame[0].startswith(LIBRARIES)] or list(frames)
    own = [frame for frame in known if not frame[0].startswith(SPIKINGJELLY)] or known
    if not own:
        return "the module"
    file, line, code = own[-1]
    return f"{file}:{line}: {(code or '').strip()}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


# From operations to nodes


@dataclass(frozen=True)
class _Value:
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
class _Tracing:
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
    values: dict[fx.Node, _Value] = field(default_factory=dict)
    tensors: dict[fx.Node, str] = field(default_factory=dict)

    def run(self, axes: Axes, shape: Shape) -> _Value:
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
                self.values[node] = _Value(source, axes, shape)
            elif node.op == "call_function":
                self.values[node] = self._import(node)
            elif node.op == "output":
                return self._returned(node)
        raise AssertionError("torch.export wrote no output")

    def _import(self, node: fx.Node) -> _Value:
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
        assert made == wanted, f"{node.name}: makes {wanted}, not {made}"
        return value

    def _returned(self, node: fx.Node) -> _Value:
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

    def value(self, node: fx.Node, argument: object, *axes: Axes) -> _Value:
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
        return UnsupportedError(f"{name}: {problem}; {remedy} ({_source(node)})")


def _convolution(
    tracing: _Tracing,
    node: fx.Node,
    x: object,
    weight: object,
    bias: object = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> _Value:
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
    return _Value(name, value.axes, tracing.draft.shape(name))


def _padded_convolution(
    tracing: _Tracing,
    node: fx.Node,
    x: object,
    weight: object,
    bias: object = None,
    stride: object = 1,
    padding: str = "valid",
    dilation: object = 1,
    groups: int = 1,
) -> _Value:
    """A convolution whose padding is "same" or "valid"."""
    spans = [
        gap * (size - 1) for gap, size in zip(pair(dilation), tracing.tensor(node, weight)[1].shape[2:], strict=True)
    ]
    if padding == "same" and any(span % 2 for span in spans):
        raise tracing.refusal(node, "padding 'same' is one-sided here", "pad both sides alike, in numbers")
    around = [span // 2 if padding == "same" else 0 for span in spans]
    return _convolution(tracing, node, x, weight, bias, stride, around, dilation, groups)


def _linear(tracing: _Tracing, node: fx.Node, x: object, weight: object, bias: object = None) -> _Value:
    value = tracing.value(node, x)
    if len(value.shape) != 1:
        raise tracing.refusal(node, f"a linear layer reads values of shape {value.shape}", "flatten them before it")
    path, tensor = tracing.tensor(node, weight)
    op = linear(tensor, tracing.optional(node, bias))
    name = tracing.add(node, path.removesuffix(".weight"), op, value.node)
    return _Value(name, value.axes, (len(tensor),))


def _batch_norm(
    tracing: _Tracing,
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
) -> _Value:
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
    return _Value(tracing.add(node, path.removesuffix(".running_mean"), op, value.node), value.axes, value.shape)


def _max_pool(
    tracing: _Tracing,
    node: fx.Node,
    x: object,
    kernel: object,
    stride: object = (),
    padding: object = 0,
    dilation: object = 1,
    ceil_mode: bool = False,
) -> _Value:
    value = tracing.value(node, x, Axes.STATIC, Axes.MERGED)
    if ceil_mode or pair(dilation) != (1, 1):
        raise tracing.refusal(node, "has windows beyond the image, or dilated ones", "use plain windows")
    sizes = (np.array(pair(each)) for each in (kernel, stride or kernel, padding))
    name = tracing.draft.add(
        tracing.name(node), MaxPool2d(**dict(zip(("kernel_size", "stride", "padding"), sizes, strict=True))), value.node
    )
    return _Value(name, value.axes, tracing.draft.shape(name))


def _average_pool(
    tracing: _Tracing,
    node: fx.Node,
    x: object,
    kernel: object,
    stride: object = (),
    padding: object = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> _Value:
    value = tracing.value(node, x, Axes.STATIC, Axes.MERGED)
    size, around = pair(kernel), pair(padding)
    if ceil_mode or divisor not in (None, math.prod(size)) or (any(around) and not count_include_pad):
        raise tracing.refusal(
            node, "divides by something other than its window's area", "use the plain average of whole windows"
        )
    return _pooled(tracing, node, value, average_pool(size, pair(stride or kernel), around))


def _adaptive_average_pool(tracing: _Tracing, node: fx.Node, x: object, size: object) -> _Value:
    value = tracing.value(node, x, Axes.STATIC, Axes.MERGED)
    wanted = pair(size)
    if any(have % want for have, want in zip(value.shape[1:], wanted, strict=True)):
        raise tracing.refusal(
            node, f"averages {value.shape[1:]} to {wanted} by windows of several sizes", "choose a size that divides"
        )
    window = (value.shape[1] // wanted[0], value.shape[2] // wanted[1])
    return _pooled(tracing, node, value, average_pool(window, window))


def _pooled(tracing: _Tracing, node: fx.Node, value: _Value, pool: nir.AvgPool2d) -> _Value:
    """A pool's node; windows of one pixel are none."""
    if not any(pool.padding) and tuple(pool.kernel_size) == tuple(pool.stride) == (1, 1):
        return value
    name = tracing.draft.add(tracing.name(node), pool, value.node)
    return _Value(name, value.axes, tracing.draft.shape(name))


def _mean(tracing: _Tracing, node: fx.Node, x: object, dims: list[int], keepdim: bool = False) -> _Value:
    """Over time, at the end of a network, or over all pixels."""
    value = tracing.value(node, x)
    lead = len(tracing.lead(value.axes))
    over = sorted(each % (lead + len(value.shape)) for each in dims)
    if over == [0] and value.axes is Axes.TIMED and not keepdim:
        return _Value(value.node, Axes.REDUCED, value.shape)
    if len(value.shape) == 3 and over == [lead + 1, lead + 2]:
        pooled = _pooled(tracing, node, value, average_pool(value.shape[1:], value.shape[1:]))
        return pooled if keepdim else _reshape(tracing, node, pooled)
    raise tracing.refusal(
        node, f"averages axes {over} of ({value.axes.value}, ...)", "average over all pixels, or over time at the end"
    )


def _sum(tracing: _Tracing, node: fx.Node, x: object, y: object, *, alpha: float = 1) -> _Value:
    left, right = tracing.value(node, x), tracing.value(node, y)
    if alpha != 1 or (left.axes, left.shape) != (right.axes, right.shape):
        raise tracing.refusal(
            node,
            f"adds ({left.axes.value}, ...) of {left.shape} and ({right.axes.value}, ...) of {right.shape}"
            + (f" times {alpha}" if alpha != 1 else ""),
            "add values of one shape, as they are",
        )
    return _Value(tracing.add(node, tracing.name(node), Add(), left.node, right.node), left.axes, left.shape)


def _sum_in_place(tracing: _Tracing, node: fx.Node, x: fx.Node, y: object, *, alpha: float = 1) -> _Value:
    """What is read from the first operand after this is the sum."""
    value = tracing.values[x] = _sum(tracing, node, x, y, alpha=alpha)
    return value


def _fire(tracing: _Tracing, node: fx.Node, x: object, name: str) -> _Value:
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
        raise UnsupportedError(f"{error} ({_source(node)})") from error
    return _Value(tracing.add(node, name, op, value.node), value.axes, value.shape)


def _count_votes(tracing: _Tracing, node: fx.Node, x: object, name: str, size: int) -> _Value:
    """Means of so many neighbours: their sums, and a division of the logits."""
    value = tracing.value(node, x)
    if len(value.shape) != 1 or value.shape[0] % size:
        raise tracing.refusal(node, f"votes of {size} are counted over values of shape {value.shape}", "flatten them")
    classes = value.shape[0] // size
    votes = tracing.add(node, name, nir.Linear(np.kron(np.eye(classes), np.ones((1, size)))), value.node)
    scale = tracing.add(node, f"{name}.scale", nir.Scale(np.full(classes, 1.0 / size)), votes)
    return _Value(scale, value.axes, (classes,))


def _reshaped(tracing: _Tracing, node: fx.Node, x: object, *_sizes: object, **_more: object) -> _Value:
    """View, flatten and the like: what became of the axes is seen from the sizes."""
    return _reshape(tracing, node, tracing.value(node, x))


def _reshape(tracing: _Tracing, node: fx.Node, value: _Value) -> _Value:
    """The value with the sizes that the operation makes, if that mixes nothing up."""
    sizes, draft = tuple(node.meta["val"].shape), tracing.draft
    for axes in (value.axes, *REGROUPED.get(value.axes, ())):
        lead = tracing.lead(axes)
        if sizes[: len(lead)] != lead:
            continue
        shape = sizes[len(lead) :]
        if shape == value.shape:
            return _Value(value.node, axes, shape)
        if shape == (math.prod(value.shape),):
            return _Value(draft.add(tracing.name(node), flatten(value.shape), value.node), axes, shape)
        before = draft.nodes[value.node]
        if isinstance(before.op, nir.Flatten) and draft.shape(before.inputs[0]) == shape:
            return _Value(before.inputs[0], axes, shape)
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


def _repeated(tracing: _Tracing, node: fx.Node, x: object, sizes: list[int], **_more: object) -> _Value:
    """Repetition over time."""
    value, made = tracing.value(node, x), tuple(node.meta["val"].shape)
    if made == (*tracing.lead(value.axes), *value.shape):
        return value
    if value.axes not in (Axes.STATIC, Axes.UNREPEATED) or made[1:] != (TRACED_BATCH, *value.shape):
        raise tracing.refusal(
            node, f"repeats ({value.axes.value}, ...) {sizes} times", "repeat over time alone, T first"
        )
    tracing.timesteps = _same_steps(tracing.timesteps, made[0])
    return _Value(value.node, Axes.TIMED, value.shape)


def _stacked(tracing: _Tracing, node: fx.Node, parts: list[fx.Node], dim: int = 0) -> _Value:
    """One value, once for each step."""
    value = tracing.value(node, parts[0], Axes.STATIC)
    if dim != 0 or any(part is not parts[0] for part in parts):
        raise tracing.refusal(
            node,
            "stacks what several steps made",
            "use step mode 'm' (functional.set_step_mode(net, 'm')) rather than a loop over time",
        )
    tracing.timesteps = _same_steps(tracing.timesteps, len(parts))
    return _Value(value.node, Axes.TIMED, value.shape)


def _dropped(tracing: _Tracing, node: fx.Node, x: object, p: float, train: bool) -> _Value:
    if train and p:
        raise tracing.refusal(node, "drops values at random", "give dropout self.training")
    return tracing.value(node, x)


def _same(tracing: _Tracing, node: fx.Node, x: object, *_options: object, **_more: object) -> _Value:
    return tracing.value(node, x)


Importer: TypeAlias = Callable[..., _Value]

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
