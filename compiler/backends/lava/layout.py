"""How a program divides into Lava processes: the processes, the values that feed each port, and the blocks.

Nothing here needs Lava. A unit is one process, seen from outside: a node, or a block of units. Values are named after
the nodes that send them. An ``Add`` is no process: an in-port sums everything that connects to it, so the inputs of an
add connect to each reader of the add. Blocks follow the nodes' names, so the Lava graph mirrors the network. A value
leaves a block through a port of the block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from resformer.compiler.ir.ops import Add, Conv2d, Delay, Dense, Op, Relay, SpikeMatMul
from resformer.compiler.ir.program import Scheduled
from resformer.errors import UnsupportedError

Values: TypeAlias = tuple[str, ...]
"""The values that are summed at one port."""


@dataclass(frozen=True)
class Unit:
    """One process, as its neighbours see it.

    Attributes:
        name: The path of the node or of the block.
        ops: The operations inside.
        inputs: The values that are summed at each in-port.
        outputs: The out-port through which each value leaves.
        make: Creates the Lava process.
    """

    name: str
    ops: tuple[Op, ...]
    inputs: Mapping[str, Values]
    outputs: Mapping[str, str]
    make: Callable[[], Any]


@dataclass(frozen=True)
class BlockLayout:
    """The inside of a block.

    Attributes:
        units: The units that the block holds.
        in_ports: The block's in-ports, with the values from outside that are summed there.
        out_ports: The block's out-ports, with the values from inside that are summed there.
        shapes: The shape of each port, in Lava's order of axes.
    """

    units: tuple[Unit, ...]
    in_ports: Mapping[str, Values]
    out_ports: Mapping[str, Values]
    shapes: Mapping[str, tuple[int, ...]]


class BlockKind(Enum):
    """The role of a block in a SpikingResformer."""

    STEM = "stem"
    DOWNSAMPLE = "downsample"
    DSSA = "dssa"
    GWFFN = "gwffn"
    HEAD = "head"
    OTHER = "other"


def lava_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape in Lava's order of axes, which is the reverse of ours: (C, H, W) becomes (W, H, C)."""
    return shape[::-1]


def meeting_values(program: Scheduled) -> dict[str, Values]:
    """For each node, the nodes whose values sum to its own: the nodes that an ``Add`` sums, or the node itself.

    Raises:
        UnsupportedError: A sum counts a value twice; Lava connects two ports only once.
    """
    values: dict[str, Values] = {}
    for node in program:
        if not isinstance(node.op, Add):
            values[node.name] = (node.name,)
            continue
        summed = tuple(value for source in node.inputs for value in values[source])
        twice = next((value for value in summed if summed.count(value) > 1), None)
        if twice is not None:
            raise UnsupportedError(
                f"{node.name}: adds {twice} twice, and Lava connects two ports only once; "
                "double the weights of a synapse instead"
            )
        values[node.name] = summed
    return values


def divide(units: Sequence[Unit]) -> list[tuple[str, tuple[Unit, ...]]]:
    """Units by block, in topological order: 'layers.0.1.up.0' lies in 'layers.0.1', 'prologue.2' in 'prologue'.

    All units after the last block of a layer lie in 'head'.
    """
    blocks: dict[str, list[Unit]] = {}
    for unit in units:
        match = _LAYER.match(unit.name)
        blocks.setdefault(match[0] if match else unit.name.partition(".")[0], []).append(unit)
    divided = [(name, tuple(members)) for name, members in blocks.items()]
    end = max((index + 1 for index, (name, _) in enumerate(divided) if _LAYER.match(f"{name}.")), default=len(divided))
    tail = tuple(unit for _, members in divided[end:] for unit in members)
    return [*divided[:end], ("head", tail)] if tail else divided


_LAYER = re.compile(r"layers\.\d+\.\d+(?=\.)")
"""Matches the name of a SpikingResformer's block, which holds the stage and the block's index in it."""


def block_kind(units: Iterable[Unit]) -> BlockKind:
    """The kind of a block, by the operations inside it."""
    ops = [op for unit in units for op in unit.ops if not isinstance(op, (Add, Delay, Relay))]
    neurons = sum(op.fires for op in ops)
    synapses = sum(isinstance(op, Conv2d) for op in ops)
    if {op.transpose for op in ops if isinstance(op, SpikeMatMul)} == {True, False}:
        return BlockKind.DSSA
    if any(isinstance(op, Dense) for op in ops):
        return BlockKind.HEAD
    if neurons == synapses == 3 == len(ops) / 2:
        return BlockKind.GWFFN
    if neurons == synapses == 1 == len(ops) / 2:
        return BlockKind.DOWNSAMPLE
    if synapses and not neurons:
        return BlockKind.STEM
    return BlockKind.OTHER


def enclose(units: tuple[Unit, ...], wanted: Collection[str], shapes: Mapping[str, tuple[int, ...]]) -> BlockLayout:
    """The layout of a block that holds some units.

    Args:
        units: The units that the block holds.
        wanted: The values that something outside reads.
        shapes: The shape of each value, in Lava's order of axes.
    """
    inside = {value for unit in units for value in unit.outputs}
    crossing = dict.fromkeys(
        outer for unit in units for values in unit.inputs.values() if (outer := outer_values(values, inside))
    )
    leaving = [value for unit in units for value in unit.outputs if value in wanted]
    in_ports = dict(zip(_port_names("in", len(crossing)), crossing, strict=True))
    out_ports = {port: (value,) for port, value in zip(_port_names("out", len(leaving)), leaving, strict=True)}
    ports = {**in_ports, **out_ports}
    return BlockLayout(units, in_ports, out_ports, {port: shapes[values[0]] for port, values in ports.items()})


def outer_values(values: Values, inside: Collection[str]) -> Values:
    """The values that come from outside a block."""
    return tuple(value for value in values if value not in inside)


def _port_names(direction: str, count: int) -> list[str]:
    return [f"{direction}_port"] if count == 1 else [f"{direction}_port_{index}" for index in range(count)]
