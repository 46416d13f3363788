"""The integer level: programs whose numbers all fit Loihi's number formats.

Integers stand for real numbers through their signal's scale: an integer a of a signal with ``scale_exp`` k is the real
number a / 2^k. Weights are ``weight * 2**weight_exp``; a neuron's bias is ``bias_mant * 2**bias_exp`` in units of 1/64
of its synaptic input. Operations define what they compute (``resformer.compiler.ir.ops``); the rules of rounding,
shifting and clipping are those of ``resformer.compiler.ir.fixedpoint``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from resformer.compiler.ir.arrays import Float64Array, Int32Array, InvariantError
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.ops import Add, Conv2d, Dense, IntegerLIF, MultiSpikeIF, Op, Shapes, Spiking
from resformer.compiler.ir.summary import Summary, counted

ProgramNode: TypeAlias = Node[Op]

HIGH_PART, LOW_PART = ".hi", ".lo"
"""The suffixes of the names of the two parts of stacked synapses."""


@dataclass(frozen=True, repr=False)
class Program(Graph[Op]):
    """A network of integers, scheduled or not.

    Code that needs one of these two forms takes :class:`Unscheduled` or :class:`Scheduled`.

    Attributes:
        offsets: For each node, the step at which the first sample's first output appears (0 for the input), or None
            before ``balance_delays``.
    """

    offsets: dict[str, int] | None = None

    def summary(self) -> Summary:
        """The summary of any graph, with the number of populations and the schedule."""
        _, rows = super().summary()
        latency = (
            "not scheduled" if self.offsets is None else f"{counted(self.offsets[self.output.name], 'step')} of latency"
        )
        title = f"Program of {counted(len(self), 'node')}"
        return title, [*rows, ("populations", str(len(self.lif_names))), ("schedule", latency)]

    @property
    def is_dyadic(self) -> bool:
        """Whether a float64 network of the quantized weights fires the same spikes.

        It does if no membrane potential is ever truncated. Each decay within a sample uses some of a potential's six
        fractional bits, or of those that the bias leaves free, and they must not run out. A decay of 1/2 uses one bit;
        an IF uses none.
        """
        neurons = [node.op for node in self.nodes if isinstance(node.op, Spiking | IntegerLIF)]
        return all(each.stays_whole(self.timesteps - 1) for each in neurons)

    @property
    def spiking_names(self) -> tuple[str, ...]:
        """The names of all populations of neurons that send spikes or counts of them, in topological order.

        Gates are left out, because they have no potential.
        """
        return tuple(node.name for node in self.nodes if isinstance(node.op, Spiking | MultiSpikeIF))

    @property
    def lif_names(self) -> tuple[str, ...]:
        """The names of all populations that send single spikes, in topological order; gates are left out."""
        return tuple(node.name for node in self.nodes if isinstance(node.op, Spiking))


@dataclass(frozen=True, repr=False)
class Unscheduled(Program):
    """A program as ``quantize`` makes it and integer passes change it; nodes have no step yet at which they send."""

    offsets: None = None


@dataclass(frozen=True, repr=False)
class Scheduled(Program):
    """A program through which samples stream back to back, T steps each; backends run it, and builds hold it."""

    offsets: dict[str, int] = field(default_factory=dict)

    @property
    def latency(self) -> int:
        """Steps between a sample's first frame and its first logits.

        Raises:
            InvariantError: The program has no schedule.
        """
        return require_schedule(self)[self.output.name]


def require_schedule(program: Program) -> dict[str, int]:
    """The step at which each node's first output appears.

    Raises:
        InvariantError: The program has none, because ``balance_delays`` has not run.
    """
    if program.offsets is None:
        raise InvariantError("balance_delays has not run")
    return program.offsets


def shapes_around(program: Program, node: Node[Op]) -> Shapes:
    """The shapes of a node's inputs, and its own."""
    return Shapes(tuple(program[name].shape for name in node.inputs), node.shape)


def may_clip(program: Program, name: str) -> bool:
    """Whether a node may clip a value, given the proven bounds.

    Raises:
        InvariantError: The node's operation never clips, or range analysis has not run.
    """
    node = program[name]
    return node.op.may_clip([program[source].op.signal for source in node.inputs], program.timesteps)


def connections(program: Program, name: str, index_bits: int) -> int | None:
    """How many pairs of neurons a node connects (``Op.connections``)."""
    return program[name].op.connections(shapes_around(program, program[name]), index_bits)


def is_stack(program: Program, name: str) -> bool:
    """Whether a node sums the two parts that ``stack_synapses`` made of it."""
    node = program[name]
    return isinstance(node.op, Add) and node.inputs == (f"{name}{HIGH_PART}", f"{name}{LOW_PART}")


def stacked_parts(program: Program) -> dict[str, str]:
    """The layer's name for each part of stacked synapses, by the part's name."""
    return {part: node.name for node in program if is_stack(program, node.name) for part in node.inputs}


def layer_names(program: Program) -> tuple[str, ...]:
    """The layers with weights, in topological order; stacked synapses appear as their sum, not as its two parts."""
    parts = stacked_parts(program)
    layers = {node.name for node in program if isinstance(node.op, Conv2d | Dense)} - parts.keys() | {*parts.values()}
    return tuple(node.name for node in program if node.name in layers)


def layer_synapses(program: Program, name: str) -> tuple[Node[Op], ...]:
    """The nodes that hold a layer's weights: the layer, or both parts of stacked synapses, the high one first."""
    return tuple(program[part] for part in program[name].inputs) if is_stack(program, name) else (program[name],)


def layer_weight(program: Program, name: str) -> Int32Array:
    """A layer's weights as integers, in units of its current; those of stacked synapses are the sums of both parts."""
    total: Int32Array = np.zeros((), dtype=np.int32)
    for node in layer_synapses(program, name):
        assert isinstance(node.op, Conv2d | Dense)
        total = total + node.op.whole_weight
    return total


def real_weight(program: Program, name: str) -> Float64Array:
    """The real numbers that a layer's integer weights stand for, in the shape of its weight."""
    source = program[layer_synapses(program, name)[0].inputs[0]]
    exp = program[name].op.signal.scale_exp - source.op.signal.scale_exp
    return layer_weight(program, name).astype(np.float64) * 2.0**-exp
