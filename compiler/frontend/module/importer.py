"""Imports PyTorch modules in memory as float graphs, by running the user's own code.

``tracing.export`` runs the code and records its operations; ``operations`` says how each becomes nodes of the graph.
"""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np
import numpy.typing as npt
import torch
from spikingjelly.activation_based import base
from torch import nn
from torch.nn.parameter import is_lazy

from resformer.compiler.frontend.module.counts import check_products
from resformer.compiler.frontend.module.filled import stack_what_fills
from resformer.compiler.frontend.module.kinds import is_population, reset
from resformer.compiler.frontend.module.layout import Layout
from resformer.compiler.frontend.module.levels import LevelCall, level_calls, mark
from resformer.compiler.frontend.module.neurons import DT, Draft
from resformer.compiler.frontend.module.operations import OPERATIONS
from resformer.compiler.frontend.module.recurrence import check_parted
from resformer.compiler.frontend.module.rows import check_parts, whole_of
from resformer.compiler.frontend.module.tracing import TRACED_BATCH, export, first_line
from resformer.compiler.frontend.module.values import Axes, SamplesFirstError, Tracing, same_steps
from resformer.compiler.ir.arrays import Shape
from resformer.compiler.ir.graph import Graph, needed
from resformer.compiler.ir.primitives import NEURONS, InputKind
from resformer.errors import InputError, UnsupportedError

SAMPLE_AXES = (1, 2, 3)
"""The possible numbers of a sample's axes: samples are vectors, rows of pixels, or images."""

ALONG_ONE_AXIS = (nn.Conv1d, nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d)
"""Layers whose presence lets samples be read as rows of pixels, (C, L)."""


@dataclass(frozen=True)
class Traced:
    """A module as a float graph.

    Attributes:
        graph: The float graph, with float64 weights.
        axes: The axes in front of the samples that the module takes: ``STATIC`` if the module repeats samples over
            time itself, else ``TIMED``, or ``SAMPLES_FIRST`` if the module transposes time and samples itself.
        over_time: What the module returns is this factor times the mean of its logits over time, such as 1 for a mean
            and T for a sum; None: the module returns the logits of each step.
        layouts: For each population whose values in the module are not (T, N, ...) with the axes of its node, the
            layout of these values.
        stepwise: The populations that the module's own code runs one step at a time.
        sample_axes: The number of a sample's axes in the module: 1 for (F,), 2 for (C, L), 3 for (C, H, W).
        alone: The populations that the module's code gives (T * N, ...), which is right for a single sample only; each
            with the message that refuses several samples at once.
        levels: For each rounding that the module's code runs, in order, the population that it belongs to, or None.
            If the code writes neurons out, each of its comparisons is in this order, too.
    """

    graph: Graph[nir.NIRNode]
    axes: Axes
    over_time: float | None
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    stepwise: frozenset[str] = frozenset()
    sample_axes: int = 3
    alone: Mapping[str, str] = field(default_factory=dict)
    levels: tuple[LevelCall | None, ...] = ()


def in_float64(module: nn.Module) -> nn.Module:
    """A copy of a module in float64 on the CPU, in eval mode and without state; the module itself is reset, too.

    Raises:
        InputError: The argument is not a module, cannot be copied, or holds values that are not finite or no tensors.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"module: is a {type(module).__name__}; give a torch.nn.Module")
    # torch.compile's wrapper cannot be traced; where nobody used it, its package, which is slow, is not loaded either
    wrapper = getattr(sys.modules.get("torch._dynamo.eval_frame"), "OptimizedModule", ())
    while isinstance(module, wrapper):
        module = module.get_submodule("_orig_mod")
    # potentials of a run with gradients cannot be copied
    reset(module)
    try:
        twin: nn.Module = copy.deepcopy(module, _detached(module)).cpu().double().eval()
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"{type(module).__name__}: cannot be copied ({first_line(error)}); take what cannot be copied, such as an "
            "open file or a lock, out of the module"
        ) from error
    for name, tensor in twin.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            raise InputError(
                f"{name}: its module's get_extra_state returns a {type(tensor).__name__}, and a network's state is of "
                "tensors alone; remove get_extra_state from the class"
            )
        if is_lazy(tensor):
            raise InputError(f"{name}: has no values before its lazy layer first runs; run the module once on samples")
        if not tensor.isfinite().all():
            raise InputError(f"{name}: holds NaN or infinite values; training diverged, so take earlier weights")
    node: Any
    for node in twin.modules():
        keeps = isinstance(node, base.MemoryModule) or is_population(node)
        if keeps and getattr(node, "backend", "torch") != "torch":
            node.backend = "torch"
        if keeps and getattr(node, "store_v_seq", False):
            node.store_v_seq = False
    return twin


def _detached(module: nn.Module) -> dict[int, Any]:
    """Detached copies, by id, of tensors with a gradient history, such as weight_norm's weights, for a deep copy."""
    return {
        id(held): held.detach().clone()
        for each in module.modules()
        for held in vars(each).values()
        if isinstance(held, torch.Tensor) and not held.is_leaf
    }


def import_module(
    module: nn.Module, example: torch.Tensor, *, timesteps: int | None = None, input_kind: InputKind = "static"
) -> Traced:
    """The float graph of a SpikingJelly module.

    Args:
        module: A module of SpikingJelly's layers and neurons in step mode "m", as ``in_float64`` returns it.
        example: Samples as the module's ``forward`` takes them: (T, N, C, H, W) or (T, N, F), or (N, C, H, W) or (N, F)
            if the module repeats them T times itself. Only the shape matters.
        timesteps: T, if known; None: T of the example, or of the module's own repetition.
        input_kind: Whether samples are real numbers ("static") or counts of events ("frames").

    Raises:
        UnsupportedError: The module branches on values, mixes time and samples, or does something that has no lowering;
            the message names the node and the line of code.
        InputError: The example is not a tensor, is empty, or has other axes than those above.
    """
    traced = _imported(module, example, timesteps, input_kind)
    if traced.alone and example.shape[traced.axes is Axes.TIMED] > 1:
        raise UnsupportedError(next(iter(traced.alone.values())))
    return traced


def _imported(module: nn.Module, example: torch.Tensor, timesteps: int | None, input_kind: InputKind) -> Traced:
    """As :func:`import_module`, but without the check of modules that may be given one sample only."""
    if not isinstance(example, torch.Tensor):
        raise InputError(f"example_input: is a {type(example).__name__}; give a torch.Tensor")
    if not example.numel():
        raise InputError(f"example_input: its shape is {tuple(example.shape)}; give at least one step and one sample")
    forms = _forms(module, example)
    if not forms:
        raise InputError(
            f"example_input: its shape is {tuple(example.shape)}; a module takes (T, N, C, H, W), (T, N, C, L) or "
            "(T, N, F), or (N, C, H, W), (N, C, L) or (N, F) if it repeats samples over time itself"
        )
    (is_timed, shape), *others = forms
    try:
        return _traced_as(module, example, timesteps, input_kind, shape, is_timed=is_timed)
    except (UnsupportedError, InputError) as error:
        if not others:
            raise
        refused: UnsupportedError | InputError = error
    is_timed, shape = others[0]
    try:
        return _traced_as(module, example, timesteps, input_kind, shape, is_timed=is_timed)
    except (UnsupportedError, InputError):
        raise refused from None


def _forms(module: nn.Module, example: torch.Tensor) -> list[tuple[bool, Shape]]:
    """The possible meanings of an example: whether it has an axis of time, and the shape of a sample.

    An example of shape (4, 2, 3, 8) is four images, or, for layers along one axis, four steps of two samples.
    """
    forms = [(lead == 2, tuple(example.shape[lead:])) for lead in (2, 1) if example.dim() - lead in SAMPLE_AXES]
    if any(isinstance(each, ALONG_ONE_AXIS) for each in module.modules()):
        return sorted(forms, key=lambda form: len(form[1]) != 2)
    return [form for form in forms if len(form[1]) != 2]


def _traced_as(
    module: nn.Module,
    example: torch.Tensor,
    timesteps: int | None,
    input_kind: InputKind,
    shape: Shape,
    *,
    is_timed: bool,
) -> Traced:
    """The float graph of a module that is given samples of ``shape``, with an axis of time if ``is_timed``."""
    if not is_timed:
        return _traced(module, Axes.STATIC, shape, timesteps, input_kind)
    try:
        return _traced(module, Axes.TIMED, shape, same_steps(timesteps, example.shape[0]), input_kind)
    except SamplesFirstError as error:
        # the code shows that the second of the two axes is time
        try:
            return _traced(module, Axes.SAMPLES_FIRST, shape, same_steps(timesteps, example.shape[1]), input_kind)
        except SamplesFirstError:
            raise error from None


def as_image(shape: Shape) -> Shape:
    """The shape of a sample in programs, (C, H, W): a vector is an image of one pixel, and (C, L) is one row."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else (*shape, 1, 1)[:3]


def _traced(module: nn.Module, axes: Axes, shape: Shape, timesteps: int | None, input_kind: InputKind) -> Traced:
    """The float graph of a module that is given samples of ``shape`` with the axes ``axes`` in front."""
    lead = {
        Axes.STATIC: (TRACED_BATCH,),
        Axes.TIMED: (timesteps or 0, TRACED_BATCH),
        Axes.SAMPLES_FIRST: (TRACED_BATCH, timesteps or 0),
    }[axes]
    exported = export(module, torch.zeros(*lead, *shape, dtype=torch.float64))
    stack_what_fills(exported)
    marked = mark(exported, module)
    entry, end = (_free_name(module, wanted) for wanted in ("input", "output"))
    tracing = Tracing(module, exported, Draft(as_image(shape), name=entry), timesteps, OPERATIONS, whole_of)
    result = tracing.run(axes, shape)
    _check_calls(tracing)
    draft = tracing.draft
    if len(draft.shape(result.node)) != 1:
        raise UnsupportedError(
            f"{result.node}: the module returns values of shape {draft.shape(result.node)} for each sample; it must "
            "return a vector, so flatten them"
        )
    draft.add(end, nir.Output({"output": np.array(draft.shape(result.node))}), result.node)
    nodes = needed(draft.nodes, first=draft.input, last=end)
    by_name = {node.name: node for node in nodes}
    check_parts(by_name)
    check_parted(tracing, nodes)
    check_products(by_name)
    if not any(isinstance(node.op, NEURONS) for node in nodes):
        raise UnsupportedError(f"{type(module).__name__}: its output depends on no spiking neurons")
    assert tracing.timesteps is not None
    graph = Graph(nodes, tracing.timesteps, {"dt": DT, "input": input_kind, "source": "module"})
    return Traced(
        graph,
        axes,
        result.over_time,
        tracing.layouts,
        frozenset(tracing.called) | tracing.stepping,
        len(shape),
        tracing.alone,
        level_calls(tracing, marked),
    )


def _free_name(module: nn.Module, wanted: str) -> str:
    """A name for a node that is none of the module's, which are named after its layers and parameters."""
    taken = {name for name, _ in module.named_children()} | {key.split(".")[0] for key in module.state_dict()}
    names = itertools.chain([wanted, f"network_{wanted}"], (f"network_{wanted}{count}" for count in itertools.count(1)))
    return next(name for name in names if name not in taken)


def _check_calls(tracing: Tracing) -> None:
    """Check that a loop over time ran every population once per step.

    Raises:
        UnsupportedError: The loop ran a population more or less often.
    """
    for name, calls in tracing.called.items():
        if len(calls) != tracing.timesteps:
            raise UnsupportedError(
                f"{name}: runs {len(calls)} times in a forward of {tracing.timesteps} steps; let the loop over time "
                "run it once a step"
            )


def as_samples(example: torch.Tensor, axes: Axes, sample_axes: int | None = None) -> npt.NDArray[np.float64]:
    """An example as a program's samples: (N, C, H, W) or (N, T, C, H, W); a vector becomes an image of one pixel.

    Args:
        example: The samples as the module takes them.
        axes: The example's axes in front of a sample's own.
        sample_axes: The number of a sample's own axes; None: 3 if the example has more than three axes, else 1.

    Raises:
        InputError: The example holds values that are not finite.
    """
    example = example.detach().cpu().double()
    if not example.isfinite().all():
        raise InputError("example_input: holds NaN or infinite values; the input's range is read off it, so repair it")
    example = example.transpose(0, 1) if axes is Axes.TIMED else example
    if sample_axes is None:
        sample_axes = 3 if example.dim() > 3 else 1
    lead = example.dim() - sample_axes
    image = as_image(tuple(example.shape[lead:]))
    samples: npt.NDArray[np.float64] = example.reshape(*example.shape[:lead], *image).numpy()
    return samples


def import_as(
    module: nn.Module, axes: Axes, shape: Shape, *, timesteps: int | None = None, input_kind: InputKind = "static"
) -> Traced:
    """The float graph of a module, if it is known how the module takes samples; see :func:`import_module`.

    Args:
        module: The module, as ``in_float64`` returns it.
        axes: The axes in front of a sample's own in what the module takes.
        shape: The shape of a sample in the module.
        timesteps: T; None is allowed for a module that repeats samples itself.
        input_kind: Whether samples are real numbers ("static") or counts of events ("frames").
    """
    return _traced(module, axes, shape, timesteps, input_kind)
