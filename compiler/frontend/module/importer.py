"""Modules in memory in, float graphs out: the graph comes from running the user's own code.

``export`` runs it, ``operations`` makes nodes of what it did.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np
import numpy.typing as npt
import torch
from spikingjelly.activation_based import base
from torch import nn

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
"""Samples are vectors, rows of pixels, or images."""

ALONG_ONE_AXIS = (nn.Conv1d, nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d)
"""Layers whose presence lets samples be read as rows of pixels, (C, L)."""


@dataclass(frozen=True)
class Traced:
    """A module as a float graph.

    Attributes:
        graph: Of float64 weights.
        axes: Of the samples that the module takes: ``STATIC`` if it repeats them itself, else ``TIMED``, or
            ``SAMPLES_FIRST`` if it transposes them itself.
        over_time: By which factor what it returns is its logits' mean over time: 1, or T of a sum; None: it returns
            those of each step.
        layouts: For each population that is not given (T, N, ...) in the order of its node, how its values lie.
        stepwise: The populations that the module's own code steps one by one.
        sample_axes: How many axes a sample has to the module: 1, (F,); 2, (C, L); or 3, (C, H, W).
        alone: The populations that its code gives (T * N, ...), so that it is right of one sample at a time; and why it
            is refused of more.
        levels: For each rounding that its code runs, in order, the population of levels that it is.
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
    """A copy of a module in float64 on the CPU, in eval mode, that remembers nothing; the module forgets too.

    Raises:
        InputError: It is no module, cannot be copied, or holds what is not finite.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"module: is a {type(module).__name__}; give a torch.nn.Module")
    # potentials of a run with gradients cannot be copied
    reset(module)
    try:
        twin: nn.Module = copy.deepcopy(module, _detached(module)).cpu().double().eval()
    except RuntimeError as error:
        raise InputError(f"{type(module).__name__}: cannot be copied ({first_line(error)})") from error
    for name, tensor in twin.state_dict().items():
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
    """What a copy has in place of tensors that hold a history, such as the weights that weight_norm computes."""
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
    traced = _imported(module, example, timesteps, input_kind)
    if traced.alone and example.shape[traced.axes is Axes.TIMED] > 1:
        raise UnsupportedError(next(iter(traced.alone.values())))
    return traced


def _imported(module: nn.Module, example: torch.Tensor, timesteps: int | None, input_kind: InputKind) -> Traced:
    """The same, whether or not it may be given several samples."""
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
    """How an example may be meant: whether it has an axis of time, and the shape of a sample.

    (4, 2, 3, 8) are four images, or, to layers along one axis, four steps of two samples.
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
    """The float graph of a module that is given samples of a shape, repeated by itself or not."""
    if not is_timed:
        return _traced(module, Axes.STATIC, shape, timesteps, input_kind)
    try:
        return _traced(module, Axes.TIMED, shape, same_steps(timesteps, example.shape[0]), input_kind)
    except SamplesFirstError as error:
        # its code says which of the two axes is time
        try:
            return _traced(module, Axes.SAMPLES_FIRST, shape, same_steps(timesteps, example.shape[1]), input_kind)
        except SamplesFirstError:
            raise error from None


def as_image(shape: Shape) -> Shape:
    """The shape of a sample as programs have it, (C, H, W): vectors have one pixel, and (C, L) one row."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else (*shape, 1, 1)[:3]


def _traced(module: nn.Module, axes: Axes, shape: Shape, timesteps: int | None, input_kind: InputKind) -> Traced:
    """The float graph of a module that is given samples of a shape behind some axes."""
    lead = {
        Axes.STATIC: (TRACED_BATCH,),
        Axes.TIMED: (timesteps or 0, TRACED_BATCH),
        Axes.SAMPLES_FIRST: (TRACED_BATCH, timesteps or 0),
    }[axes]
    exported = export(module, torch.zeros(*lead, *shape, dtype=torch.float64))
    stack_what_fills(exported)
    marked = mark(exported, module)
    tracing = Tracing(module, exported, Draft(as_image(shape)), timesteps, OPERATIONS, whole_of)
    result = tracing.run(axes, shape)
    _check_calls(tracing)
    draft = tracing.draft
    if len(draft.shape(result.node)) != 1:
        raise UnsupportedError(
            f"{result.node}: the module returns values of shape {draft.shape(result.node)} for each sample; it must "
            "return a vector, so flatten them"
        )
    draft.add("output", nir.Output({"output": np.array(draft.shape(result.node))}), result.node)
    nodes = needed(draft.nodes, first=draft.input, last="output")
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


def _check_calls(tracing: Tracing) -> None:
    """See that a loop over time ran every population once a step.

    Raises:
        UnsupportedError: It ran one more or less often.
    """
    for name, calls in tracing.called.items():
        if len(calls) != tracing.timesteps:
            raise UnsupportedError(
                f"{name}: runs {len(calls)} times in a forward of {tracing.timesteps} steps; let the loop over time "
                "run it once a step"
            )


def as_samples(example: torch.Tensor, axes: Axes, sample_axes: int | None = None) -> npt.NDArray[np.float64]:
    """An example as a program's samples: (N, C, H, W) or (N, T, C, H, W), vectors being images of one pixel.

    Args:
        example: What the module takes.
        axes: Which of its axes come first.
        sample_axes: How many come behind; None: those of vectors or images, as there are too few for images or not.

    Raises:
        InputError: It holds values that are not finite.
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
    """The float graph of a module of which it is known how it takes samples; see :func:`import_module`.

    Args:
        module: As ``in_float64`` returns it.
        axes: Which axes of what it is given come first.
        shape: Of a sample.
        timesteps: T, which a module that repeats samples itself need not be told.
        input_kind: Whether samples are real numbers or counts of events.
    """
    return _traced(module, axes, shape, timesteps, input_kind)
