"""The invariants of graphs and programs: what every pass may rely on and must keep.

A broken invariant is a bug of ours. It raises an ``InvariantError`` (an ``AssertionError`` that ``python -O`` keeps)
that names the node. Mistakes of users have errors of their own elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import nir
import numpy as np

from resformer.compiler.ir.arrays import InvariantError, NotFiniteError, arrays_of, require
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.messages import sends_counts, sends_spikes
from resformer.compiler.ir.neurons import RESETS
from resformer.compiler.ir.ops import Conv2d, Input, Op, Output, RecurrentCubaLIF
from resformer.compiler.ir.ops.formats import in_range
from resformer.compiler.ir.primitives import (
    ATTENTION_SHIFT_MAX,
    GATE_KINDS,
    NEURONS,
    BatchNorm2d,
    DiscreteCubaLI,
    DiscreteCubaLIF,
    IntegerLIF,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
    collapse,
)
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.shapes import check_shape
from resformer.compiler.ir.signal import Signal, SignalKind
from resformer.compiler.target import LOIHI

TAU_TOLERANCE = 1e-12
"""The relative tolerance of tau in seconds, which is a rounded product of tau in steps and dt."""


def verify_graph(graph: Graph[nir.NIRNode]) -> None:
    """Check a float graph.

    Neurons that fire at most once a step are our ``DiscreteCubaLIF``, or NIR's ``LIF``, ``IF`` or ``CubaLIF``. The
    metadata of all of them hold ``fires_at``, ">=" or ">"; those of NIR's also hold ``reset``, one of
    ``ir.neurons.RESETS``. NIR leaves both open. A LIF's metadata may hold ``tau_steps``, tau in steps, exactly the
    number that SpikingJelly divides by, or ``dt_over_tau``, the factor to use instead. The graph's metadata hold
    ``dt``, in seconds.

    Raises:
        InvariantError: An invariant is broken; the message begins with the node's name.
    """
    _verify_structure(graph, nir.Input, nir.Output)
    dt = graph.metadata.get("dt")
    if not isinstance(dt, float):
        raise InvariantError(f"metadata: dt is {dt!r}, not a number of seconds")
    require(dt > 0, f"metadata: dt is {dt}, not positive")
    for node in graph:
        with _naming(node.name):
            check_shape(node.op, [graph[name].shape for name in node.inputs], node.shape)
            _verify_arrays_finite(node.op)
            _verify_float_op(graph, node, dt)


def verify_program(program: Program) -> None:
    """Check a program, whichever integer passes have run.

    Ranges are checked where signals have bounds, and the schedule where there is one.

    Raises:
        InvariantError: An invariant is broken; the message begins with the node's name.
    """
    _verify_structure(program, Input, Output)
    for node in program:
        with _naming(node.name):
            check_shape(node.op, [program[name].shape for name in node.inputs], node.shape)
            node.op.check_fields()
            _verify_signal(node.op, [program[name].op.signal for name in node.inputs])
            if program.offsets is not None:
                stacked = not isinstance(node.op, Conv2d | RecurrentCubaLIF) or node.op.weight.dtype == np.int8
                require(stacked, "weight is int16 in a scheduled program: stack_synapses has not run")
                _verify_schedule(program, program.offsets, node)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put a node's name in front of the messages of ``InvariantError``."""
    try:
        yield
    except InvariantError as error:
        raise type(error)(f"{name}: {error}") from error


def _verify_structure(graph: Graph[Any], input_type: type[Any], output_type: type[Any]) -> None:
    """Check that a graph has one input, first, and one output, last, and that its nodes are in order with unique names.

    Each node comes after what it reads, and every node but the output is read.
    """
    require(bool(graph.nodes), "a graph without nodes")
    require(isinstance(graph.timesteps, int), f"timesteps is {graph.timesteps!r}")
    require(graph.timesteps >= 1, f"timesteps is {graph.timesteps}")
    for key, value in graph.metadata.items():
        require(isinstance(value, (str, int, float)), f"metadata: {key} is a {type(value).__name__}")
    seen: set[str] = set()
    read: set[str] = set()
    for index, node in enumerate(graph):
        name = node.name
        require(name not in seen, f"{name}: two nodes have this name")
        for source in node.inputs:
            require(source in seen, f"{name}: reads {source}, which does not come before it")
        first, last = index == 0, index == len(graph) - 1
        require(isinstance(node.op, input_type) == first, f"{name}: the input must come first, and nothing else")
        require(isinstance(node.op, output_type) == last, f"{name}: the output must come last, and nothing else")
        seen.add(name)
        read.update(node.inputs)
    unread = [node.name for node in graph.nodes[:-1] if node.name not in read]
    if unread:
        raise InvariantError(f"{unread[0]}: nothing reads it")


def _verify_arrays_finite(op: Any) -> None:
    for name, array in arrays_of(op).items():
        if not np.isfinite(collapse(array)).all():
            raise NotFiniteError(f"{name} holds NaN or infinite values")


def _verify_float_op(graph: Graph[nir.NIRNode], node: Node[nir.NIRNode], dt: float) -> None:
    op = node.op
    if not isinstance(op, (nir.Input, nir.Output, nir.Flatten)):
        for name, array in arrays_of(op).items():
            require(array.dtype == np.float64 or name in _SIZES, f"{name} is {array.dtype}, not float64")
    match op:
        case BatchNorm2d():
            require((op.running_var + op.eps > 0).all(), "running_var + eps is not positive")
        case nir.LIF() | nir.IF() | nir.CubaLIF():
            _verify_neurons(op, dt)
        case DiscreteCubaLIF() | DiscreteCubaLI():  # recurrent ones too
            if isinstance(op, DiscreteCubaLIF):
                _verify_fires_at(op)
            for name in ("syn_decay", "mem_decay"):
                decay = collapse(getattr(op, name))
                require(((decay >= 0) & (decay <= 1)).all(), f"{name} is not within 0 and 1")
        case IntegerLIF(mem_decay=decay):
            require(0 <= decay <= 1, f"mem_decay is {decay}, not within 0 and 1")
            require((collapse(op.v_threshold) > 0).all(), "v_threshold is not positive")
        case SpikeMatMul():
            require(op.part in ("y1", "y2", "all"), f"part is {op.part!r}")
            gate = graph[node.inputs[1]]
            require(isinstance(gate.op, NEURONS), f"is gated by {gate.name} ({type(gate.op).__name__}), no neurons")
        case SpikeGate(kind=kind):
            require(kind in GATE_KINDS, f"kind is {kind!r}, none of {GATE_KINDS}")
            _verify_spikes(graph, node)
        case SpikeAttention(shift=shift):
            require(0 <= shift <= ATTENTION_SHIFT_MAX, f"shift is {shift}, not within 0 and {ATTENTION_SHIFT_MAX}")
            for name in node.inputs:
                made = type(graph[name].op).__name__
                require(sends_counts(graph, name), f"reads {name} ({made}), where it takes spikes or counts of them")
        case _:
            pass


def _verify_spikes(graph: Graph[nir.NIRNode], node: Node[nir.NIRNode]) -> None:
    """Check that all inputs of a node are 0 or 1."""
    for name in node.inputs:
        kind = type(graph[name].op).__name__
        require(sends_spikes(graph, name), f"reads {name} ({kind}), where it takes spikes")


_SIZES = frozenset({"steps", "kernel_size", "stride", "padding", "beyond", "dilation", "input_shape"})


def _verify_fires_at(op: nir.NIRNode) -> str:
    fires_at: str = op.metadata.get("fires_at", "")
    require(fires_at in (">=", ">"), f"metadata: fires_at is {fires_at!r}, not '>=' or '>'")
    return fires_at


def _verify_neurons(op: nir.LIF | nir.IF | nir.CubaLIF, dt: float) -> None:
    metadata = op.metadata
    require(metadata.get("reset") in RESETS, f"metadata: reset is {metadata.get('reset')!r}, none of {RESETS}")
    fires_at = _verify_fires_at(op)
    require((collapse(op.v_threshold) > 0).all() or fires_at == ">", "v_threshold is not positive")
    if isinstance(op, nir.IF):
        return
    for name in ("tau_syn", "tau_mem") if isinstance(op, nir.CubaLIF) else ("tau",):
        require((collapse(getattr(op, name)) > 0).all(), f"{name} is not positive")
    if isinstance(op, nir.CubaLIF):
        return
    tau = collapse(op.tau)
    if "tau_steps" in metadata:
        steps = float(metadata["tau_steps"])
        require(np.allclose(tau / dt, steps, rtol=TAU_TOLERANCE), f"tau_steps is {steps}, but tau / dt is not")
    if "dt_over_tau" in metadata:
        factor = float(metadata["dt_over_tau"])
        require(np.allclose(dt / tau, factor, rtol=TAU_TOLERANCE), f"dt_over_tau is {factor}, but dt / tau is not")


def _verify_signal(op: Op, inputs: Sequence[Signal]) -> None:
    """Check an operation's output signal, and that its inputs' signals are those that it takes."""
    signal = op.signal
    if signal.bounds is not None:
        require(signal.bounds[0] <= signal.bounds[1], f"low {signal.low} above high {signal.high}")
        if signal.kind is SignalKind.GRADED:
            in_range("a graded value", signal.bounds, -LOIHI.graded_max - 1, LOIHI.graded_max)
    made = op.kind_made(inputs)
    fits = made is None or signal.kind is made
    require(fits, f"makes a {signal.kind.value}, where it should make a {made.value if made else None}")
    op.check_signals(inputs)


def _verify_schedule(program: Program, offsets: dict[str, int], node: Node[Op]) -> None:
    """Check that inputs meet at one step, and that the output leaves ``Op.hop`` steps later."""
    require(node.name in offsets, "has no step in the schedule")
    meet = {offsets[name] for name in node.inputs}
    require(len(meet) <= 1, "inputs meet at steps " + ", ".join(f"{name} {offsets[name]}" for name in node.inputs))
    wanted = meet.pop() + node.op.hop if meet else 0
    require(offsets[node.name] == wanted, f"is at step {offsets[node.name]}, but its inputs imply {wanted}")
    if node.op.is_synapse:
        sent = program[node.inputs[0]].op.signal.kind
        require(sent is not SignalKind.CURRENT, f"synapses read {node.inputs[0]}, a current that no neuron sends")
