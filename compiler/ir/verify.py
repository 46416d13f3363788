"""The invariants of graphs and programs: what every pass may rely on and must keep.

A broken one is a mistake of ours, hence an ``AssertionError`` that names the node; what users do wrong has errors of
its own elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import nir
import numpy as np

from resformer.compiler.ir import program as integer
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.neurons import RESETS
from resformer.compiler.ir.primitives import (
    NEURONS,
    BatchNorm2d,
    DiscreteCubaLI,
    DiscreteCubaLIF,
    SpikeMatMul,
    collapse,
)
from resformer.compiler.ir.program import Program, Signal, SignalKind, hop_steps
from resformer.compiler.ir.shapes import check_shape
from resformer.compiler.target import LOIHI

TAU_TOLERANCE = 1e-12
"""Relative; tau in seconds is a rounded product of tau in steps and dt."""

WEIGHT_MAX = 2 ** (LOIHI.weight_bits_max - 1) - 1
"""Largest magnitude of a weight's mantissa; the most negative value of its width is not used."""
STACKED_MAX = 2 ** (LOIHI.stacked_bits_max - 1) - 1
"""Of a mantissa that is still to be stacked."""


def verify_graph(graph: Graph[nir.NIRNode]) -> None:
    """Check a float graph.

    Neurons are our ``DiscreteCubaLIF``, or NIR's ``LIF``, ``IF`` or ``CubaLIF``, whose metadata say what NIR leaves
    open: ``reset`` is one of ``ir.neurons.RESETS``. ``fires_at`` is ">=" or ">" among the metadata of all. A LIF's
    ``tau_steps``, if it is there, is tau in steps, exactly, as SpikingJelly divides by it; ``dt_over_tau``, if it is
    there, is the factor to use instead. The graph's metadata hold ``dt``, in seconds.

    Raises:
        AssertionError: An invariant is broken; the message begins with the node's name.
    """
    _verify_structure(graph, nir.Input, nir.Output)
    dt = graph.metadata.get("dt")
    assert isinstance(dt, float), f"metadata: dt is {dt!r}, not a number of seconds"
    assert dt > 0, f"metadata: dt is {dt}, not positive"
    for node in graph:
        with _naming(node.name):
            check_shape(node.op, [graph[name].shape for name in node.inputs], node.shape)
            _verify_arrays_finite(node.op)
            _verify_float_op(graph, node, dt)


def verify_program(program: Program) -> None:
    """Check a program, whichever integer passes have run: ranges are checked where signals have them, and the schedule
    where there is one.

    Raises:
        AssertionError: An invariant is broken; the message begins with the node's name.
    """
    _verify_structure(program, integer.Input, integer.Output)
    for node in program:
        with _naming(node.name):
            check_shape(node.op, [program[name].shape for name in node.inputs], node.shape)
            _verify_arrays_finite(node.op)
            _verify_dtypes(node.op)
            _verify_formats(node.op)
            _verify_signals(node.op, [program[name].op.signal for name in node.inputs])
            if program.offsets is not None:
                stacked = not isinstance(node.op, integer.Conv2d) or node.op.weight.dtype == np.int8
                assert stacked, "weight is int16 in a scheduled program: stack_synapses has not run"
                _verify_schedule(program, program.offsets, node)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put a node's name before what is asserted of it."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from error


def _verify_structure(graph: Graph[Any], input_type: type[Any], output_type: type[Any]) -> None:
    """One input, first; one output, last; unique names; each node after what it reads; all but the output read."""
    assert graph.nodes, "a graph without nodes"
    assert isinstance(graph.timesteps, int), f"timesteps is {graph.timesteps!r}"
    assert graph.timesteps >= 1, f"timesteps is {graph.timesteps}"
    for key, value in graph.metadata.items():
        assert isinstance(value, (str, int, float)), f"metadata: {key} is a {type(value).__name__}"
    seen: set[str] = set()
    read: set[str] = set()
    for index, node in enumerate(graph):
        name = node.name
        assert name not in seen, f"{name}: two nodes have this name"
        for source in node.inputs:
            assert source in seen, f"{name}: reads {source}, which does not come before it"
        first, last = index == 0, index == len(graph) - 1
        assert isinstance(node.op, input_type) == first, f"{name}: the input must come first, and nothing else"
        assert isinstance(node.op, output_type) == last, f"{name}: the output must come last, and nothing else"
        seen.add(name)
        read.update(node.inputs)
    unread = [node.name for node in graph.nodes[:-1] if node.name not in read]
    assert not unread, f"{unread[0]}: nothing reads it"


def _verify_arrays_finite(op: Any) -> None:
    for name, array in _arrays(op).items():
        assert np.isfinite(collapse(array)).all(), f"{name} holds NaN or infinite values"


def _verify_float_op(graph: Graph[nir.NIRNode], node: Node[nir.NIRNode], dt: float) -> None:
    op = node.op
    if not isinstance(op, (nir.Input, nir.Output, nir.Flatten)):
        for name, array in _arrays(op).items():
            assert array.dtype == np.float64 or name in _SIZES, f"{name} is {array.dtype}, not float64"
    match op:
        case BatchNorm2d():
            assert (op.running_var + op.eps > 0).all(), "running_var + eps is not positive"
        case nir.LIF() | nir.IF() | nir.CubaLIF():
            _verify_neurons(op, dt)
        case DiscreteCubaLIF() | DiscreteCubaLI():  # recurrent ones too
            if isinstance(op, DiscreteCubaLIF):
                _verify_fires_at(op)
            for name in ("syn_decay", "mem_decay"):
                decay = collapse(getattr(op, name))
                assert ((decay >= 0) & (decay <= 1)).all(), f"{name} is not within 0 and 1"
        case SpikeMatMul():
            assert op.part in ("y1", "y2", "all"), f"part is {op.part!r}"
            gate = graph[node.inputs[1]]
            assert isinstance(gate.op, NEURONS), f"is gated by {gate.name} ({type(gate.op).__name__}), no neurons"
        case _:
            pass


_SIZES = frozenset({"steps", "kernel_size", "stride", "padding", "dilation", "input_shape"})


def _verify_fires_at(op: nir.NIRNode) -> str:
    fires_at: str = op.metadata.get("fires_at", "")
    assert fires_at in (">=", ">"), f"metadata: fires_at is {fires_at!r}, not '>=' or '>'"
    return fires_at


def _verify_neurons(op: nir.LIF | nir.IF | nir.CubaLIF, dt: float) -> None:
    metadata = op.metadata
    assert metadata.get("reset") in RESETS, f"metadata: reset is {metadata.get('reset')!r}, none of {RESETS}"
    fires_at = _verify_fires_at(op)
    assert (collapse(op.v_threshold) > 0).all() or fires_at == ">", "v_threshold is not positive"
    if isinstance(op, nir.IF):
        return
    for name in ("tau_syn", "tau_mem") if isinstance(op, nir.CubaLIF) else ("tau",):
        assert (collapse(getattr(op, name)) > 0).all(), f"{name} is not positive"
    if isinstance(op, nir.CubaLIF):
        return
    tau = collapse(op.tau)
    if "tau_steps" in metadata:
        steps = float(metadata["tau_steps"])
        assert np.allclose(tau / dt, steps, rtol=TAU_TOLERANCE), f"tau_steps is {steps}, but tau / dt is not"
    if "dt_over_tau" in metadata:
        factor = float(metadata["dt_over_tau"])
        assert np.allclose(dt / tau, factor, rtol=TAU_TOLERANCE), f"dt_over_tau is {factor}, but dt / tau is not"


_DTYPES: dict[tuple[type[integer.Op], str], type[np.generic]] = {
    (integer.Conv2d, "weight"): np.int8,
    (integer.Conv2d, "weight_exp"): np.int8,
    (integer.Conv2d, "bias"): np.int32,
    (integer.Dense, "weight"): np.int8,
    (integer.Dense, "bias"): np.int32,
    (integer.Relay, "bias"): np.int32,
    (integer.LIF, "bias_mant"): np.int16,
    (integer.LIF, "bias_exp"): np.int8,
    (integer.CubaLIF, "vth"): np.int32,
    (integer.CubaLIF, "v_drop"): np.int32,
    (integer.CubaLIF, "du"): np.int16,
    (integer.CubaLIF, "dv"): np.int16,
    (integer.CubaLIF, "u_bias"): np.int32,
    (integer.CubaLIF, "v_bias"): np.int32,
    (integer.SampleDelay, "steps"): np.int32,
    (integer.CubaLI, "du"): np.int16,
    (integer.CubaLI, "dv"): np.int16,
    (integer.CubaLI, "u_bias"): np.int32,
    (integer.RecurrentCubaLIF, "weight"): np.int8,
    (integer.RecurrentCubaLIF, "weight_exp"): np.int8,
    (integer.SpikeMatMul, "bias"): np.int32,
    (integer.Output, "bias"): np.float64,
}


def _verify_dtypes(op: integer.Op) -> None:
    for name, array in _arrays(op).items():
        kind = integer.CubaLIF if isinstance(op, integer.CubaLIF) and name in integer.CUBA_ARRAYS else type(op)
        wanted = _DTYPES[kind, name]
        if array.dtype == np.int16 and (kind, name) == (integer.Conv2d, "weight"):
            continue  # until stack_synapses has run
        assert array.dtype == wanted, f"{name} is {array.dtype}, not {wanted.__name__}"


def _verify_formats(op: integer.Op) -> None:
    """Each number fits the target's format."""
    match op:
        case integer.Conv2d():
            largest = WEIGHT_MAX if op.weight.dtype == np.int8 else STACKED_MAX
            _in_range("weight", op.weight, -largest, largest)
            _in_range("weight_exp", op.weight_exp, 0, LOIHI.weight_exp_max)
            assert op.weight_exp.shape == op.weight.shape[:1], f"weight_exp has shape {op.weight_exp.shape}"
        case integer.Dense():
            _in_range("weight", op.weight, -WEIGHT_MAX, WEIGHT_MAX)
            _in_range("weight_exp", op.weight_exp, 0, LOIHI.weight_exp_max)
        case integer.LIF():
            _in_range("vth", op.vth, 0, LOIHI.vth_mantissa_max)
            _in_range("du", op.du, 0, LOIHI.decay_unity - 1)
            _in_range("dv", op.dv, 0, LOIHI.decay_unity)
            _in_range("bias_mant", op.bias_mant, -LOIHI.bias_mantissa_max, LOIHI.bias_mantissa_max)
            _in_range("bias_exp", op.bias_exp, 0, LOIHI.bias_exp_max)
            assert op.bias_mant.shape == op.bias_exp.shape, "bias_mant and bias_exp differ in shape"
        case integer.CubaLIF():
            if isinstance(op, integer.RecurrentCubaLIF):
                _verify_formats(op.synapses())
            _in_range("vth", op.vth, 0, LOIHI.vth_mantissa_max)
            _in_range("v_drop", op.v_drop, 0, LOIHI.v_max if op.soft_reset else 0)
            _in_range("du", op.du, 0, LOIHI.decay_unity - 1)
            _in_range("dv", op.dv, 0, LOIHI.decay_unity)
            _in_range("u_bias", op.u_bias, -LOIHI.v_max, LOIHI.v_max)
            _in_range("v_bias", op.v_bias, -LOIHI.v_max, LOIHI.v_max)
        case integer.CubaLI():
            _in_range("du", op.du, 0, LOIHI.decay_unity - 1)
            _in_range("dv", op.dv, 0, LOIHI.decay_unity)
            _in_range("u_bias", op.u_bias, -LOIHI.v_max, LOIHI.v_max)
        case integer.Relay():
            _in_range("limit", op.limit, 0, LOIHI.graded_max)
            _in_range("shift", op.shift, 0, LOIHI.graded_max.bit_length())
        case integer.SpikeMatMul():
            _in_range("limit", op.limit, 0, LOIHI.graded_max)
        case integer.SampleDelay():
            _in_range("steps", op.steps, 0, np.iinfo(np.int32).max)
        case integer.Delay():
            assert op.steps >= 1, f"delays by {op.steps} steps"
        case integer.Output():
            assert op.divisor >= 1, f"divisor is {op.divisor}"
        case _:
            pass


def _verify_signals(op: integer.Op, inputs: Sequence[Signal]) -> None:
    """What comes in is what the operation takes, and what goes out is what it makes."""
    signal = op.signal
    if signal.low is not None and signal.high is not None:
        assert signal.low <= signal.high, f"low {signal.low} above high {signal.high}"
        if signal.kind is SignalKind.GRADED:
            _in_range("a graded value", (signal.low, signal.high), -LOIHI.graded_max - 1, LOIHI.graded_max)
    made = {
        integer.LIF: SignalKind.SPIKE,
        integer.CubaLIF: SignalKind.SPIKE,
        integer.RecurrentCubaLIF: SignalKind.SPIKE,
        integer.Relay: SignalKind.GRADED,
        integer.CubaLI: SignalKind.GRADED,
        integer.Conv2d: SignalKind.CURRENT,
        integer.Dense: SignalKind.CURRENT,
        integer.SumPool2d: SignalKind.CURRENT,
        integer.SpikeMatMul: SignalKind.CURRENT,
        integer.Delay: inputs[0].kind if inputs else None,
        integer.SampleDelay: inputs[0].kind if inputs else None,
        integer.Flatten: inputs[0].kind if inputs else None,
    }.get(type(op), signal.kind)
    assert signal.kind is made, f"makes a {signal.kind.value}, where it should make a {made.value if made else None}"

    match op:
        case integer.LIF():
            (current,) = inputs
            assert current.kind is not SignalKind.SPIKE, "neurons read a spike, which no synapse has weighted"
            if current.low is not None and current.high is not None:
                _in_range("a neuron's input", (current.low, current.high), -LOIHI.a_max, LOIHI.a_max)
        case integer.CubaLIF() | integer.CubaLI():
            (current,) = inputs
            if isinstance(op, integer.CubaLI):
                wanted = current.scale_exp + LOIHI.a_shift
                assert signal.scale_exp == wanted, f"scale 2^{signal.scale_exp} is not its input's and 6 bits more"
            assert current.kind is not SignalKind.SPIKE, "neurons read a spike, which no synapse has weighted"
            if current.low is not None and current.high is not None:
                bound = LOIHI.accumulator_max
                _in_range("a neuron's input", (current.low, current.high), -bound, bound)
        case integer.SpikeMatMul():
            y, gate = inputs
            assert y.kind is not SignalKind.SPIKE, "y is a spike"
            assert gate.kind is SignalKind.SPIKE, f"is gated by a {gate.kind.value}, not by spikes"
            assert signal.scale_exp == y.scale_exp, f"scale 2^{signal.scale_exp}, but y has 2^{y.scale_exp}"
        case integer.Relay(shift=shift):
            for each in inputs:
                assert each.scale_exp == signal.scale_exp + shift, (
                    f"scale 2^{signal.scale_exp} reads 2^{each.scale_exp} shifted by {shift}"
                )
        case integer.SampleDelay():
            (sent,) = inputs
            assert sent.kind is not SignalKind.CURRENT, "delays a current, which nothing sends"
            assert sent.scale_exp == signal.scale_exp, f"scale 2^{signal.scale_exp} reads 2^{sent.scale_exp}"
        case integer.Add() | integer.Delay() | integer.Flatten() | integer.MaxPool2d():
            for each in inputs:
                assert each.scale_exp == signal.scale_exp, f"scale 2^{signal.scale_exp} reads 2^{each.scale_exp}"
        case _:
            pass


def _verify_schedule(program: Program, offsets: dict[str, int], node: Node[integer.Op]) -> None:
    """Inputs meet at one step, and the output leaves as many steps later as the operation takes."""
    assert node.name in offsets, "has no step in the schedule"
    meet = {offsets[name] for name in node.inputs}
    assert len(meet) <= 1, "inputs meet at steps " + ", ".join(f"{name} {offsets[name]}" for name in node.inputs)
    wanted = meet.pop() + hop_steps(node.op) if meet else 0
    assert offsets[node.name] == wanted, f"is at step {offsets[node.name]}, but its inputs imply {wanted}"
    if isinstance(node.op, (integer.Conv2d, integer.Dense, integer.SumPool2d)):
        sent = program[node.inputs[0]].op.signal.kind
        assert sent is not SignalKind.CURRENT, f"synapses read {node.inputs[0]}, a current that no neuron sends"


def _in_range(name: str, values: Any, low: int, high: int) -> None:
    array = np.asarray(values)
    if array.size:
        least, most = int(array.min()), int(array.max())
        assert low <= least <= most <= high, f"{name} spans [{least}, {most}], beyond [{low}, {high}]"


def _arrays(op: Any) -> dict[str, np.ndarray[Any, Any]]:
    """An operation's arrays, under their names."""
    values = {field.name: getattr(op, field.name) for field in dataclasses.fields(op)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
