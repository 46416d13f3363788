"""Which currents reach only neurons that fire at their threshold, not just above it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.arrays import InvariantError
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import (
    Add,
    Conv2d,
    CubaLI,
    Delay,
    Dense,
    Flatten,
    Input,
    MaxPool2d,
    MultiSpikeIF,
    Op,
    Output,
    Relay,
    SampleDelay,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
    Spiking,
    SumPool2d,
)
from resformer.compiler.ir.program import Program

BoolArray: TypeAlias = "npt.NDArray[np.bool_]"

KEEPS_CHANNELS = (Add, MaxPool2d, Relay, SumPool2d, Delay, SampleDelay)
"""Operations that a constant in a current passes through, channel by channel."""
ENDS = (Conv2d, Dense, Output, CubaLI, SpikeGate, SpikeAttention)
"""Operations whose input is not the current of neurons that fire."""


def settled_currents(program: Program, *, unread: bool = True) -> dict[str, BoolArray]:
    """For each node and channel, (C,), whether a constant that is added there reaches only neurons that fire at ties.

    Args:
        program: Before or after its biases are placed.
        unread: The answer for a channel whose constant reaches no neurons.
    """
    settled: dict[str, BoolArray] = {}
    for node in reversed(program.nodes):
        each = np.ones(node.shape[:1], dtype=np.bool_)
        for reader in program.consumers[node.name]:
            each = each & (unread if isinstance(reader.op, ENDS) else _asked(node, reader, settled))
        settled[node.name] = each
    return settled


def _asked(node: Node[Op], reader: Node[Op], settled: Mapping[str, BoolArray]) -> BoolArray:
    """For each channel of a node, whether a constant reaches, by way of one reader, only neurons that fire at ties."""
    channels = node.shape[:1]
    match reader.op:
        case Spiking():
            return np.broadcast_to(reader.op.surplus > 0, channels)
        case MultiSpikeIF():
            return np.ones(channels, dtype=np.bool_)  # these always fire at ties
        case op if isinstance(op, KEEPS_CHANNELS):
            return settled[reader.name]
        case Flatten():
            return np.asarray(settled[reader.name].reshape(*channels, -1).all(axis=1))
        case SpikeMatMul():
            # its sums mix the channels of y, so all of them must be settled; spikes, its other input, hold no constant
            return np.full(channels, node.name != reader.inputs[0] or settled[reader.name].all())
    raise InvariantError(f"{reader.name}: no rule for the ties behind a {type(reader.op).__name__}")


def reachable_settled(program: Program) -> dict[str, BoolArray]:
    """For each node and channel, whether all constants that reach it reach only neurons that fire at ties.

    What a checkpoint takes from a bias, so that one population does not fire at ties, affects all populations that the
    bias reaches.
    """
    settled = settled_currents(program)
    allowed: dict[str, BoolArray] = {}
    for node in program:
        given: list[Any] = [allowed[name] for name in node.inputs]
        match node.op:
            case Conv2d() | Dense():
                allowed[node.name] = settled[node.name]
            case op if isinstance(op, KEEPS_CHANNELS):
                allowed[node.name] = np.logical_and.reduce(given)
            case Flatten():
                allowed[node.name] = np.repeat(given[0], node.shape[0] // len(given[0]))
            case SpikeMatMul():
                allowed[node.name] = np.full(node.shape[:1], given[0].all())
            case op if isinstance(op, (Spiking, MultiSpikeIF, Input, *ENDS)):
                allowed[node.name] = np.ones(node.shape[:1], dtype=np.bool_)
            case op:
                raise InvariantError(f"{node.name}: no rule for the ties behind a {type(op).__name__}")
    return allowed
