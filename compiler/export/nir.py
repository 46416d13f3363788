"""The quantized network as NIR: dyadic weights as real numbers, and the integers that they stand for as metadata.

Its neurons fire above their thresholds, as NIR's and Loihi's do. Where the program fires at a threshold too, the
threshold in the file is lowered to a value that no potential takes, so that firing at it and firing above it are the
same. There are two exceptions. A soft reset subtracts the threshold, so that threshold stays, and the metadata say that
the neurons fire at it. If only some channels of a population fire at ties, the bias of the layer before them is raised
instead. In float64 (and in float32, as long as sums stay below 2^24 units) any tool that follows NIR gives the
program's spikes, if no decay is rounded and nothing saturates.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.export.checkpoint import folded_pool_area
from resformer.compiler.ir import fixedpoint, primitives
from resformer.compiler.ir import ops as integer
from resformer.compiler.ir.arrays import Int64Array
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.ops import (
    LIF,
    Add,
    Conv2d,
    CubaLI,
    CubaLIF,
    Delay,
    Dense,
    Flatten,
    Input,
    IntegerLIF,
    MaxPool2d,
    Output,
    Relay,
    SampleDelay,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
    Spiking,
    SumPool2d,
)
from resformer.compiler.ir.ops.arithmetic import per_channel
from resformer.compiler.ir.primitives import (
    POOL_AREA,
    DiscreteCubaLIF,
    Layer,
    RecurrentCubaLIF,
    as_layer,
    collapse,
    constant,
    with_weight,
)
from resformer.compiler.ir.program import Program, real_weight
from resformer.compiler.ir.tie_shifts import FIRES_AT, RAISED, TIES
from resformer.compiler.target import LOIHI
from resformer.errors import UnsupportedError

Float64Array = npt.NDArray[np.float64]

INTEGERS = "integers"
"""The key of a node's metadata under which its integers are, named as in the program."""
UNCHANGED = (
    Input,
    Output,
    Add,
    Relay,
    SumPool2d,
    MaxPool2d,
    Flatten,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
    CubaLI,
    Delay,
    SampleDelay,
)
"""Integer operations whose float nodes are kept unchanged."""
FIRES_ABOVE = {"fires_at": ">"}


def quantized_graph(graph: Graph[nir.NIRNode], folded: Graph[nir.NIRNode], quantized: Program) -> Graph[nir.NIRNode]:
    """A float graph with the numbers of a quantized program in place of its own.

    Args:
        graph: ``folded``, or the graph before its means became sums; its layers have the same names.
        folded: The float graph that the program was made from.
        quantized: The program as ``quantize`` returns it: each layer of synapses still holds its own bias.

    Raises:
        UnsupportedError: An operation has no form in NIR; the message names its node.
    """
    signal, edit = quantized.input.op.signal, graph.edit()
    pool_area = folded_pool_area(quantized, folded, graph)
    # where the graph's layers and neurons read a mean, the program's may read a sum or have their output divided
    areas = {} if graph is folded else {each.name: int(each.op.metadata.get(POOL_AREA, 1)) for each in folded}
    for node in graph:
        op = quantized[node.name].op if node.name in quantized else None
        if isinstance(op, Conv2d | Dense):
            area = areas.get(node.name, 1)
            divisor = pool_area if isinstance(op, Dense) else 1
            whole_bias = op.bias + _held_surplus(quantized, node.name) / 2**LOIHI.a_shift
            grain = 2.0**-op.signal.scale_exp / divisor
            bias = whole_bias * grain
            integers = {
                "weight": op.weight,
                "weight_exp": op.weight_exp,
                "bias": op.bias,
                "scale_exp": op.signal.scale_exp,
                "input_scale_exp": quantized[quantized[node.name].inputs[0]].op.signal.scale_exp,
            }
            made = _layer(as_layer(node.op), real_weight(quantized, node.name) * area, bias, integers)
            if (added := _held_surplus(quantized, node.name)).any():
                made.metadata[TIES] = {RAISED: added * (grain / 2**LOIHI.a_shift)}
            edit.set_op(node.name, made)
        elif isinstance(op, LIF | CubaLIF):
            unit = 2.0 ** -quantized[quantized[node.name].inputs[0]].op.signal.scale_exp / areas.get(node.name, 1)
            held = _surplus_is_before(quantized, quantized[node.name])
            edit.set_op(node.name, _neurons(node, op, unit, float(graph.metadata["dt"]), surplus_before=held))
        elif isinstance(op, IntegerLIF):
            unit = 2.0 ** -quantized[quantized[node.name].inputs[0]].op.signal.scale_exp
            edit.set_op(node.name, _levels(node, op, unit))
        elif op is not None and not isinstance(op, UNCHANGED):
            raise UnsupportedError(
                f"{node.name}: a quantized {type(op).__name__} has no form in NIR; compile without --target nir"
            )
    assert signal.low is not None
    assert signal.high is not None
    facts = {"input_scale_exp": signal.scale_exp, "input_low": signal.low, "input_high": signal.high}
    return replace(edit.finish(), metadata={**graph.metadata, **facts})


def _layer(layer: Layer, weight: Float64Array, bias: Float64Array, integers: dict[str, Any]) -> Layer:
    """A layer with dyadic weights and bias."""
    weight = weight.reshape(layer.weight.shape)
    made: Layer
    if isinstance(layer, nir.Linear):
        made = nir.Linear(weight, metadata=dict(layer.metadata))
    else:
        made = with_weight(layer, weight=weight, bias=bias)
    made.metadata[INTEGERS] = integers
    return made


def _neurons(
    node: Node[nir.NIRNode], op: LIF | CubaLIF, unit: float, dt: float, *, surplus_before: bool
) -> nir.NIRNode:
    """A population with its thresholds and decays rounded.

    Args:
        node: The population at the float level.
        op: The population's integers.
        unit: The real number that a current of 1 stands for.
        dt: Seconds a step.
        surplus_before: Whether the bias of the layer before it holds the surplus that makes it fire at ties.
    """
    neurons, shape = node.op, node.shape
    # in such neurons, one number is both the threshold and what a spike subtracts
    at_threshold = bool(op.surplus.all()) and isinstance(op, CubaLIF) and op.soft_reset
    at_threshold = at_threshold and not isinstance(neurons, DiscreteCubaLIF)
    integers = {name: getattr(op, name) for name in ("vth", "dv", "du")}
    if isinstance(op, CubaLIF):
        integers |= {name: getattr(op, name) for name in ("v_drop", "v_bias")}
    metadata = {**neurons.metadata, **({} if at_threshold else FIRES_ABOVE), INTEGERS: integers}
    decay = np.asarray(op.dv) / LOIHI.decay_unity
    height = meant = np.asarray(op.meant_thresholds * unit)
    if not (at_threshold or surplus_before):
        height = (op.thresholds + _between_potentials(op, len(shape))) * unit
    raised = np.asarray(height - meant)
    if metadata[FIRES_AT] != neurons.metadata[FIRES_AT]:
        metadata[TIES] = _ties(raised, str(neurons.metadata[FIRES_AT]))
    if isinstance(neurons, DiscreteCubaLIF):
        assert isinstance(op, CubaLIF)
        fine = unit / 2**LOIHI.a_shift
        values = {
            "syn_decay": (op.du.astype(np.float64) + 1) / LOIHI.decay_unity,
            "mem_decay": decay,
            "v_threshold": height,
            "v_bias": op.meant_v_bias * fine,
            "v_drop": op.v_drop * fine,
        }
        fields: dict[str, Any] = {name: _spread(value, shape) for name, value in values.items()}
        fields |= {"soft_reset": op.soft_reset, "metadata": metadata}
        if not isinstance(neurons, RecurrentCubaLIF):
            return DiscreteCubaLIF(**fields)
        assert isinstance(op, integer.RecurrentCubaLIF)
        weight: Float64Array = fixedpoint.scale_weight(op.weight, op.weight_exp).astype(np.float64) * unit
        integers |= {name: getattr(op, name) for name in ("weight", "weight_exp", "u_bias")}
        return replace(
            neurons,
            **fields,
            weight=weight,
            bias=np.broadcast_to((op.u_bias * fine).reshape(-1), neurons.bias.shape).copy(),
        )
    if isinstance(neurons, nir.IF):
        gain = collapse(neurons.r) * dt
        if TIES in metadata:
            metadata[TIES] = _ties(raised * gain, metadata[TIES][FIRES_AT])
        threshold = _spread(neurons.v_reset.flat[0] + height * gain, shape)
        return nir.IF(r=neurons.r, v_threshold=threshold, v_reset=neurons.v_reset, metadata=metadata)
    assert isinstance(neurons, nir.LIF)
    steps = 1 / float(np.unique(decay).item())
    # either an input of one adds one to the potential, or r stays and the input is scaled by dt / tau
    r = steps if np.allclose(collapse(neurons.r) * dt, collapse(neurons.tau)) else float(neurons.r.flat[0])
    metadata |= {"tau_steps": steps}
    if TIES in metadata:
        metadata[TIES] = _ties(raised * (r / steps), metadata[TIES][FIRES_AT])
    metadata.pop("dt_over_tau", None)
    return nir.LIF(
        tau=constant(steps * dt, shape),
        r=constant(r, shape),
        v_leak=neurons.v_leak,
        v_threshold=_spread(neurons.v_reset.flat[0] + height * (r / steps), shape),
        v_reset=neurons.v_reset,
        metadata=metadata,
    )


def _levels(node: Node[nir.NIRNode], op: IntegerLIF, unit: float) -> nir.NIRNode:
    """A population that sends levels, with its thresholds and its decay rounded."""
    neurons = node.op
    assert isinstance(neurons, primitives.IntegerLIF)
    made = replace(
        neurons, v_threshold=_spread(op.vth.astype(np.float64) * unit, node.shape), mem_decay=op.dv / LOIHI.decay_unity
    )
    made.metadata = neurons.metadata | {INTEGERS: {name: getattr(op, name) for name in ("vth", "dv")}}
    return made


def _ties(raised: Float64Array, fires_at: str) -> dict[str, Any]:
    """What a population's metadata say of ties; a shift that is the same for all neurons is one number."""
    return {FIRES_AT: fires_at, RAISED: float(raised.flat[0]) if raised.size == 1 else raised}


def _between_potentials(op: Spiking, axes: int) -> Float64Array:
    """What is added to a threshold, in units of the input, where neurons fire at ties; 0 elsewhere.

    The result lies between two potentials that are possible, so that firing at it and firing above it are the same.
    Potentials are whole units where the program lowers its threshold, and multiples of 2/64 or more where it does not.
    """
    step = 2.0**-LOIHI.a_shift
    settled = per_channel(op.surplus, axes) > 0
    return np.where(settled, step if op.lowers_threshold else -step, 0.0)


def _held_surplus(quantized: Program, name: str) -> Int64Array:
    """The surplus, in 1/64 of the current, that a layer's bias holds in place of the thresholds of its only reader.

    This is so if some of the reader's channels fire at ties and some do not, since tools such as snnTorch read one
    threshold for all channels. Otherwise the surplus is zero.
    """
    readers = quantized.consumers[name]
    if len(readers) != 1 or not _surplus_is_before(quantized, readers[0]):
        return np.zeros(1, dtype=np.int64)
    assert isinstance(readers[0].op, Spiking)
    return readers[0].op.added_surplus


def _surplus_is_before(quantized: Program, node: Node[integer.Op]) -> bool:
    """Whether the bias of the layer before a population holds the population's surplus."""
    source = node.inputs[0]
    return (
        isinstance(node.op, LIF)
        and bool(node.op.surplus.any())
        and not node.op.surplus.all()
        and isinstance(quantized[source].op, Conv2d)
        and quantized.consumers[source] == (node,)
    )


def _spread(value: Float64Array, shape: tuple[int, ...]) -> Float64Array:
    """A parameter of a program's population in the shape of the float one; one value for all takes no memory."""
    if value.size == 1:
        return constant(float(value.flat[0]), shape)
    return np.broadcast_to(value, shape) if value.ndim == len(shape) else value.reshape(shape)
