"""The Lava process that each operation becomes: stock Lava's own where there is one, otherwise a process of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, singledispatch
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from lava.magma.core.process.process import AbstractProcess
from lava.proc.conv.process import Conv as LavaConv
from lava.proc.dense.process import Dense as LavaDense
from lava.proc.lif.process import LIFReset
from lava.utils.weightutils import SignMode

from resformer.compiler.backends.lava.clock import SampleClock
from resformer.compiler.backends.lava.layout import Unit, Values, lava_shape
from resformer.compiler.backends.lava.processes.conv import Geometry
from resformer.compiler.backends.lava.processes.counts import SpikeAttention as SpikeAttentionProcess
from resformer.compiler.backends.lava.processes.cuba_lif import CubaLI as CubaLIProcess
from resformer.compiler.backends.lava.processes.cuba_lif import CubaLIF as CubaLIFProcess
from resformer.compiler.backends.lava.processes.cuba_lif import Feedback
from resformer.compiler.backends.lava.processes.delay import Delay as DelayProcess
from resformer.compiler.backends.lava.processes.delay import SampleDelay as SampleDelayProcess
from resformer.compiler.backends.lava.processes.flatten import Flatten as FlattenProcess
from resformer.compiler.backends.lava.processes.gate import SpikeGate as SpikeGateProcess
from resformer.compiler.backends.lava.processes.matmul import SpikeMatMul as SpikeMatMulProcess
from resformer.compiler.backends.lava.processes.max_pool import MaxPool2d as MaxPool2dProcess
from resformer.compiler.backends.lava.processes.multi_spike import MultiSpikeIF as MultiSpikeIFProcess
from resformer.compiler.backends.lava.processes.neurons import NeuronProcess
from resformer.compiler.backends.lava.processes.relay import Relay as RelayProcess
from resformer.compiler.backends.lava.shared import Tally
from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.arrays import require
from resformer.compiler.ir.fixedpoint import CubaLiParameters, CubaParameters, MultiSpikeParameters
from resformer.compiler.ir.ops import (
    LIF,
    Conv2d,
    CubaLI,
    CubaLIF,
    Delay,
    Dense,
    Flatten,
    MaxPool2d,
    MultiSpikeIF,
    Op,
    RecurrentCubaLIF,
    Relay,
    SampleDelay,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
    SumPool2d,
)
from resformer.compiler.ir.ops.counts import attention_sizes
from resformer.compiler.ir.program import ProgramNode, Scheduled, require_schedule
from resformer.compiler.ir.signal import SignalKind
from resformer.errors import UnsupportedError

Parameters = TypeVar("Parameters", CubaParameters, CubaLiParameters, MultiSpikeParameters)

GRADED_BITS = 24
"""Message bits of graded values; with zero message bits, Lava's synapses treat every value except zero as a spike."""


@dataclass(frozen=True)
class Context:
    """What the lowering of an operation must know about the program around it.

    Attributes:
        program: The scheduled program.
        meets: For each node, the values that sum to its own, from ``meeting_values``.
        tally: Gives the tally that counts a node's clipped values.
    """

    program: Scheduled
    meets: Mapping[str, Values]
    tally: Callable[[ProgramNode], Tally]

    def in_shape(self, node: ProgramNode, index: int = 0) -> tuple[int, ...]:
        """The shape of one input of a node, in Lava's order of axes."""
        return lava_shape(self.program[node.inputs[index]].shape)

    def message_bits(self, node: ProgramNode) -> int:
        """How many bits the messages to a synapse have: 0 for spikes."""
        source = self.program[node.inputs[0]]
        return 0 if source.op.signal.kind is SignalKind.SPIKE else GRADED_BITS

    def clock(self, node: ProgramNode) -> SampleClock:
        """When samples begin at a node; Lava's first step is step 1."""
        timesteps = self.program.timesteps
        return SampleClock(timesteps, (1 + require_schedule(self.program)[node.name]) % timesteps)


@dataclass(frozen=True)
class _Lowered:
    """The process of one operation: how to make it, its in-ports in the order of the node's inputs, its out-port."""

    make: Callable[[], AbstractProcess]
    in_ports: tuple[str, ...]
    out_port: str


def lower(node: ProgramNode, context: Context) -> Unit:
    """The unit for a node that is a process: any node except the input, the output and adds."""
    lowered = _lower(node.op, node, context)
    inputs: dict[str, Values] = {}
    for port, source in zip(lowered.in_ports, node.inputs, strict=True):
        inputs[port] = inputs.get(port, ()) + context.meets[source]
    return Unit(node.name, (node.op,), inputs, {node.name: lowered.out_port}, lowered.make)


@singledispatch
def _lower(op: Op, node: ProgramNode, _context: Context) -> _Lowered:
    raise AssertionError(f"{node.name}: no process for {type(op).__name__}")


@_lower.register
def _(op: Conv2d, node: ProgramNode, context: Context) -> _Lowered:
    require(not op.bias.any(), f"{node.name}: a synapse has no bias; place_biases has not run")
    make = partial(
        LavaConv,
        weight=_lava_kernel(op),
        input_shape=context.in_shape(node),
        stride=op.stride[::-1],
        padding=op.padding[::-1],
        dilation=op.dilation[::-1],
        groups=op.groups,
        num_message_bits=context.message_bits(node),
        name=node.name,
    )
    return _Lowered(make, ("s_in",), "a_out")


def _lava_kernel(op: Conv2d) -> npt.NDArray[np.int32]:
    """Weights (C_out, C_in, rows, columns) as Lava's (C_out, x, y, C_in).

    The exponents are applied here, since Lava's fixed-point model ignores weight_exp. The kernel is flipped, since
    Lava's Conv convolves where PyTorch's correlates.
    """
    kernel = fixedpoint.scale_weight(op.weight, op.weight_exp).transpose(0, 3, 2, 1)[:, ::-1, ::-1]
    return np.ascontiguousarray(kernel)


@_lower.register
def _(op: SumPool2d, node: ProgramNode, context: Context) -> _Lowered:
    channels = node.shape[0]
    rows, columns = op.kernel_size
    make = partial(
        LavaConv,
        weight=np.ones((channels, columns, rows, 1), dtype=np.int32),
        input_shape=context.in_shape(node),
        stride=op.stride[::-1],
        groups=channels,
        num_message_bits=context.message_bits(node),
        name=node.name,
    )
    return _Lowered(make, ("s_in",), "a_out")


@_lower.register
def _(op: Dense, node: ProgramNode, context: Context) -> _Lowered:
    require(not op.bias.any(), f"{node.name}: a synapse has no bias; place_biases has not run")
    # In mixed sign mode, Lava's weights are even numbers of nine bits: twice our weights, at half the scale.
    make = partial(
        LavaDense,
        weights=2 * op.weight.astype(np.int32),
        weight_exp=op.weight_exp - 1,
        sign_mode=SignMode.MIXED,
        num_message_bits=context.message_bits(node),
        name=node.name,
    )
    return _Lowered(make, ("s_in",), "a_out")


@_lower.register
def _(op: LIF, node: ProgramNode, context: Context) -> _Lowered:
    shape, clock = lava_shape(node.shape), context.clock(node)
    make = partial(
        LIFReset,
        shape=shape,
        du=op.du,
        dv=op.dv,
        vth=op.vth,
        # Channels come last in Lava, so arrays of one value per channel broadcast.
        bias_mant=np.broadcast_to(op.bias_mant, shape),
        bias_exp=np.broadcast_to(op.bias_exp.astype(np.int16), shape),
        reset_interval=clock.interval,
        reset_offset=clock.offset,
        name=node.name,
    )
    return _Lowered(make, ("a_in",), "s_out")


@_lower.register
def _(op: CubaLIF, node: ProgramNode, context: Context) -> _Lowered:
    make = partial(
        CubaLIFProcess,
        shape=lava_shape(node.shape),
        neurons=_reversed_axes(op.parameters()),
        feedback=_feedback(op.synapses()) if isinstance(op, RecurrentCubaLIF) else None,
        clock=context.clock(node),
        tally=context.tally(node),
        name=node.name,
    )
    return _Lowered(make, ("a_in",), "s_out")


@_lower.register
def _(op: CubaLI, node: ProgramNode, context: Context) -> _Lowered:
    return _neurons(CubaLIProcess, _reversed_axes(op.parameters()), node, context)


@_lower.register
def _(op: MultiSpikeIF, node: ProgramNode, context: Context) -> _Lowered:
    return _neurons(MultiSpikeIFProcess, _reversed_axes(op.parameters()), node, context)


def _neurons(
    process: type[NeuronProcess],
    neurons: CubaLiParameters | MultiSpikeParameters,
    node: ProgramNode,
    context: Context,
) -> _Lowered:
    """The process of neurons without recurrent synapses, whose parameters are in Lava's order of axes."""
    make = partial(
        process,
        shape=lava_shape(node.shape),
        neurons=neurons,
        clock=context.clock(node),
        tally=context.tally(node),
        name=node.name,
    )
    return _Lowered(make, ("a_in",), "s_out")


def _reversed_axes(neurons: Parameters) -> Parameters:
    """The same parameters of neurons, with axes in Lava's order."""
    arrays = {name: each for name, each in neurons._asdict().items() if isinstance(each, np.ndarray)}
    reversed_axes: dict[str, Any] = {name: np.ascontiguousarray(each.T) for name, each in arrays.items()}
    return neurons._replace(**reversed_axes)


def _feedback(op: Conv2d) -> Feedback:
    return Feedback(_lava_kernel(op), Geometry(*op.stride[::-1], *op.padding[::-1], *op.dilation[::-1]), op.groups)


@_lower.register
def _(op: SpikeMatMul, node: ProgramNode, context: Context) -> _Lowered:
    make = partial(
        SpikeMatMulProcess,
        y_shape=context.in_shape(node, 0),
        s_shape=context.in_shape(node, 1),
        out_shape=lava_shape(node.shape),
        num_heads=op.num_heads,
        transpose=op.transpose,
        bias=op.bias,
        limit=op.limit,
        tally=context.tally(node),
        name=node.name,
    )
    return _Lowered(make, ("y_in", "s_in"), "a_out")


@_lower.register
def _(op: SpikeAttention, node: ProgramNode, context: Context) -> _Lowered:
    sizes = attention_sizes([context.program[name].shape for name in node.inputs], op.num_heads)
    make = partial(
        SpikeAttentionProcess,
        q_shape=context.in_shape(node, 0),
        k_shape=context.in_shape(node, 1),
        v_shape=context.in_shape(node, 2),
        num_heads=op.num_heads,
        scores_first=sizes.scores_first,
        weight_exp=op.weight_exp,
        limit=op.limit,
        tally=context.tally(node),
        name=node.name,
    )
    return _Lowered(make, ("q_in", "k_in", "v_in"), "a_out")


@_lower.register
def _(op: MaxPool2d, node: ProgramNode, context: Context) -> _Lowered:
    top, bottom, left, right = op.around
    make = partial(
        MaxPool2dProcess,
        in_shape=context.in_shape(node),
        out_shape=lava_shape(node.shape),
        kernel_size=op.kernel_size[::-1],
        stride=op.stride[::-1],
        padding=((left, right), (top, bottom)),
        name=node.name,
    )
    return _Lowered(make, ("s_in",), "s_out")


@_lower.register
def _(op: Relay, node: ProgramNode, context: Context) -> _Lowered:
    make = partial(
        RelayProcess,
        shape=lava_shape(node.shape),
        bias=op.bias,
        shift=op.shift,
        limit=op.limit,
        tally=context.tally(node),
        name=node.name,
    )
    return _Lowered(make, ("a_in",), "s_out")


@_lower.register
def _(op: Delay, node: ProgramNode, context: Context) -> _Lowered:
    make = partial(DelayProcess, shape=context.in_shape(node), steps=op.steps, name=node.name)
    return _Lowered(make, ("s_in",), "s_out")


@_lower.register
def _(op: SampleDelay, node: ProgramNode, context: Context) -> _Lowered:
    make = partial(
        SampleDelayProcess,
        shape=lava_shape(node.shape),
        steps=np.ascontiguousarray(op.steps.T),
        clock=context.clock(node),
        name=node.name,
    )
    return _Lowered(make, ("s_in",), "s_out")


@_lower.register
def _(op: SpikeGate, node: ProgramNode, context: Context) -> _Lowered:
    if len(set(node.inputs)) < len(node.inputs):
        raise UnsupportedError(f"{node.name}: reads a population twice, and Lava connects two ports only once")
    # the process has two ports, and a port sums its inputs: all inputs of one port share a weight and a shape
    shape = lava_shape(node.shape)
    kinds = [(int(weight), context.in_shape(node, index)) for index, weight in enumerate(op.weight)]
    first = next(kind for kind in kinds if kind[1] == shape)
    others = {kind for kind in kinds if kind != first}
    if len(others) > 1:
        raise UnsupportedError(
            f"{node.name}: has inputs of {1 + len(others)} weights and shapes, and its Lava process takes two; make "
            "two gates of it"
        )
    other_weight, other_shape = others.pop() if others else first
    make = partial(
        SpikeGateProcess,
        shape=shape,
        weight=first[0],
        other_shape=other_shape,
        other_weight=other_weight,
        vth=op.vth,
        name=node.name,
    )
    return _Lowered(make, tuple("a_in" if kind == first else "b_in" for kind in kinds), "s_out")


@_lower.register
def _(_op: Flatten, node: ProgramNode, context: Context) -> _Lowered:
    make = partial(FlattenProcess, shape=context.in_shape(node), name=node.name)
    return _Lowered(make, ("s_in",), "s_out")
