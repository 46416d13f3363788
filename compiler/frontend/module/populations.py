"""Calls of neurons, of delays and of layers that count votes: whole sequences, or a step of a loop over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import nir
import numpy as np
from torch import fx

from resformer.compiler.frontend.module.counts import gained
from resformer.compiler.frontend.module.gates import sends
from resformer.compiler.frontend.module.kinds import multi_step, step_mode
from resformer.compiler.frontend.module.layout import BATCH, TIME, Atom
from resformer.compiler.frontend.module.neurons import neurons
from resformer.compiler.frontend.module.pools import time_atom
from resformer.compiler.frontend.module.recurrence import is_inside
from resformer.compiler.frontend.module.rows import whole_of
from resformer.compiler.frontend.module.synapses import made_by_layer
from resformer.compiler.frontend.module.tracing import TRACED_BATCH, user_line
from resformer.compiler.frontend.module.values import (
    Axes,
    SamplesFirstError,
    Tracing,
    Value,
)
from resformer.compiler.ir.primitives import (
    SampleDelay,
)
from resformer.compiler.ir.summary import ordinal
from resformer.errors import UnsupportedError


def fire(tracing: Tracing, node: fx.Node, x: object, name: str) -> Value:
    """A call of neurons."""
    value = tracing.stepwise(node, x)
    population = tracing.module.get_submodule(name)
    mode, remedy = step_mode(population), multi_step(name, population)
    first = value.layout.axes[:1]
    if mode == "s" and not value.layout.has(TIME) and first == ((samples_atom(),),):
        return fire_once(tracing, node, value, name)
    if mode == "s" and is_inside(tracing, name, value):
        tracing.stepping.add(name)
        return _population(tracing, node, whole_of(tracing, node, value), name)
    if not value.layout.has(TIME):
        raise tracing.refusal(
            node,
            f"neurons read {value.named_axes}, which has no axis of time",
            f"{remedy} and repeat the input over time first: x.unsqueeze(0).repeat(T, 1, 1, 1, 1)",
        )
    if value.axes is Axes.SAMPLES_FIRST:
        refusal = tracing.refusal(node, "neurons read (N, T, ...)", "give them (T, N, ...): x.transpose(0, 1)")
        raise SamplesFirstError(str(refusal))
    if first != ((time_atom(tracing),),):
        refusal = tracing.refusal(
            node,
            f"neurons read {value.named_axes}, so that time runs on from sample to sample and a sample's spikes "
            "depend on its place in the batch",
            f"{remedy} and give them (T, N, ...), or give the module one sample at a time, as the example too",
        )
        if first == ((samples_atom(), time_atom(tracing)),):
            raise SamplesFirstError(str(refusal))
        if first != ((time_atom(tracing), samples_atom()),):
            raise refusal
        tracing.alone.setdefault(name, str(refusal))
    value = whole_of(tracing, node, value)
    if mode != "m":
        raise tracing.refusal(node, f"neurons in step mode {mode!r} take T steps as one", remedy)
    return _population(tracing, node, value, name)


def _population(tracing: Tracing, node: fx.Node, value: Value, name: str) -> Value:
    """Append the node of a population."""
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
        if name in tracing.alone:
            own = (*((each,) for each in own[0]), *own[1:])
        tracing.layouts[name] = replace(value.layout, axes=own if timed else ((Atom(TIME, 0),), *own))
    return tracing.elementwise(node, name, op, value)


def fire_once(
    tracing: Tracing,
    node: fx.Node,
    value: Value,
    name: str,
    write: Callable[[Tracing, fx.Node, Value, str], Value] | None = None,
) -> Value:
    """One step of neurons that a loop over time runs; the first step appends the node that serves all steps.

    Args:
        tracing: The traced module.
        node: The operation of this step.
        value: What the neurons are given in this step.
        name: The population's name.
        write: Appends the population's node; None: the population is the module's submodule of this name.
    """
    value = whole_of(tracing, node, value)
    calls = tracing.called.setdefault(name, [])
    step = len(calls)
    if value.steps not in (None, (step,)):
        shown = ", ".join(map(str, value.steps or ()))
        raise tracing.refusal(
            node,
            f"is given step {shown} when it runs for the {ordinal(step + 1)} time",
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
        (write or _population)(tracing, node, replace(value, steps=None), name)
    return replace(value, node=name, steps=(step,))


def delayed(tracing: Tracing, node: fx.Node, x: object, name: str, steps: int) -> Value:
    """What neurons send, ``steps`` steps later."""
    value = tracing.stepwise(node, x)
    if not value.layout.has(TIME):
        raise tracing.refusal(
            node,
            f"{name}: delays {value.named_axes}, which has no axis of time",
            "use step mode 'm' (functional.set_step_mode(net, 'm')) and give it (T, N, ...)",
        )
    if tracing.module.get_submodule(name).step_mode != "m":
        raise tracing.refusal(
            node,
            "a delay in step mode 's' takes T steps as one",
            "use step mode 'm' (functional.set_step_mode(net, 'm'))",
        )
    if value.layout.axes[0] != (time_atom(tracing),):
        refusal = tracing.refusal(
            node,
            f"delays {value.named_axes}, so that a sample's values reach other samples of the batch",
            "give it (T, N, ...)",
        )
        raise SamplesFirstError(str(refusal)) if value.axes is Axes.SAMPLES_FIRST else refusal
    if not sends(tracing, value.node):
        raise tracing.refusal(
            node,
            f"{name}: delays what {value.node} makes, a current",
            "on Loihi what neurons send can wait, so put the delay behind neurons or the input",
        )
    return tracing.elementwise(node, name, SampleDelay(np.full(value.shape, steps, dtype=np.int64)), value)


def samples_atom() -> Atom:
    """The atom that runs over all samples."""
    return Atom(BATCH, TRACED_BATCH)


def count_votes(tracing: Tracing, node: fx.Node, x: object, name: str, size: int) -> Value:
    """The means of groups of ``size`` neighbours: a linear layer adds up each group, and a scale divides the sums."""
    value = tracing.plain(node, x)
    if len(value.shape) != 1:
        raise tracing.refusal(node, f"votes of {size} are counted over values of shape {value.shape}", "flatten them")
    if value.shape[0] % size:
        raise tracing.refusal(
            node,
            f"{value.shape[0]} values are no whole number of votes of {size}",
            f"give it a multiple of {size} values",
        )
    classes = value.shape[0] // size
    votes = tracing.add(node, name, nir.Linear(np.repeat(np.eye(classes), size, axis=1)), value.node)
    scale = tracing.add(node, f"{name}.scale", nir.Scale(np.full(classes, 1.0 / size)), votes)
    return made_by_layer(tracing, value, scale)
