"""A program as a chip sees it: populations of neurons, and the connections between them.

Currents do not travel on a chip: synapses lie in the core of the neurons that sum them. Therefore:

- Synapses (``Conv2d``, ``Dense``, ``SumPool2d``) become connections into each population that reads them; they are
  copied if several populations do. ``Add`` and ``Flatten`` vanish.
- A ``Delay`` becomes a synaptic delay of the connections that it lies on. A ``SampleDelay`` becomes a synaptic delay
  of its longest wait.
- A product or a max-pool needs its operand as neurons: a carrier population sums the current and sends it as graded
  spikes. A sum that several nodes read gets a carrier too, so that each block does not sum a residual stream afresh.
- A product, max-pool or relay shares the neurons of its reader if it has only one and that is elementwise (LIF, relay).

``docs/placement.md`` gives all the rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from resformer.compiler.chips.chip import WORD_BITS
from resformer.compiler.ir.arrays import InvariantError, WeightArray, require
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import (
    LIF,
    Add,
    CeilMaxPool2d,
    Conv2d,
    CubaLI,
    CubaLIF,
    Delay,
    Dense,
    Flatten,
    Input,
    IntegerLIF,
    MaxPool2d,
    MultiSpikeIF,
    Op,
    Output,
    PromptCubaLIF,
    RecurrentCubaLIF,
    Relay,
    SampleDelay,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
    Spiking,
    StackedRecurrentCubaLIF,
    SumPool2d,
)
from resformer.compiler.ir.ops.counts import attention_sizes
from resformer.compiler.ir.program import Program, is_stack, layer_synapses
from resformer.compiler.ir.signal import SignalKind
from resformer.compiler.ir.storage import stored_share, synapse_bits
from resformer.compiler.ir.window import Window
from resformer.errors import UnsupportedError

Shape3 = tuple[int, int, int]

POINT = Window((1, 1))
"""The window of a target that reads only its own position."""

PARAMETER_BITS = {
    "vth": 17,
    "v_drop": 24,
    "du": 12,
    "dv": 12,
    "u_bias": 24,
    "v_bias": 24,
    "floor": 24,
    "bias": 24,
}
"""Widths of neurons' parameters, in bits; a parameter takes this memory only where each neuron has its own value."""


class Link(Enum):
    """How a connection's synapses are stored."""

    CONVOLUTION = "convolution"
    """Shared over space inside a core: convolutions, pools, one-to-one connections."""
    DENSE = "dense"
    """A row for each source neuron."""
    VALUES = "values"
    """The operand of a product that is kept in the core, one word for each value."""
    GATES = "gates"
    """The operand of a product whose messages select among the kept values."""


@dataclass(frozen=True)
class Edge:
    """A connection between two populations.

    Attributes:
        source: The population that sends.
        name: The program's node that has these synapses; for one-to-one connections and products, the reader's node.
        link: How the synapses are stored.
        weight_bits: Width of a weight, in bits; not used for a convolution that has ``weights``.
        window: The part of the source's rows and columns that a target reads.
        groups: The number of blocks of channels that do not mix; the number of the source's channels where each target
            reads one channel.
        delay: Steps that a spike waits.
        reads: For products, how many values each target selects among, such as a head's channels or the map's rows.
        transpose: For products, True for the kind of y^T x, whose result is a map of (heads, rows, columns), and False
            for the kind of y s, whose result has channels.
        weights: The mantissas of a convolution or a dense layer; for stacked synapses, those of both parts, which share
            their axons.
    """

    source: str
    name: str
    link: Link
    weight_bits: int = 1
    window: Window = POINT
    groups: int = 1
    delay: int = 0
    reads: int = 0
    transpose: bool = False
    weights: tuple[WeightArray, ...] = field(default=(), compare=False, repr=False)

    def values_read(self, source: Shape3) -> int:
        """How many values one target reads, each by a synapse of its own.

        Args:
            source: The shape of the population that sends.
        """
        match self.link:
            case Link.DENSE:
                return math.prod(source)
            case Link.CONVOLUTION:
                return max(source[0] // self.groups, 1) * self.window.area
            case Link.VALUES:
                return self.reads
            case Link.GATES:
                return 0

    def synapses(self, index_bits: int, *, skips_zero: bool = False) -> float:
        """How many synapses a message meets for each target of its kernel, on average.

        Args:
            index_bits: Width of the index that names the target of a weight stored by itself; weights that are not
                stored do not count.
            skips_zero: Whether weights of zero do not count either, however they are stored.
        """
        if not self.weights:
            return 1.0
        if skips_zero:
            return sum(np.count_nonzero(weight) / weight.size for weight in self.weights)
        return sum(stored_share(weight, index_bits) for weight in self.weights)


@dataclass(frozen=True)
class Population:
    """Neurons of one kind.

    Attributes:
        name: The name of the program's node whose values the neurons send.
        nodes: The program's nodes that the neurons compute.
        kind: What the neurons are, in words for reports.
        shape: (channels, rows, columns).
        edges: The incoming connections; an edge from the population itself is recurrent.
        graded: Whether the neurons send payloads.
        payload_bits: Width of the widest payload that the neurons send or receive; 0 if there is none.
        parameter_words: Words of memory that each neuron takes for parameters that differ between neurons.
    """

    name: str
    nodes: tuple[str, ...]
    kind: str
    shape: Shape3
    edges: tuple[Edge, ...]
    graded: bool
    payload_bits: int
    parameter_words: int = 0

    @property
    def neurons(self) -> int:
        """The number of neurons."""
        return math.prod(self.shape)

    @property
    def delay(self) -> int:
        """The longest delay of an incoming connection, in steps."""
        return max((edge.delay for edge in self.edges), default=0)


def map_program(program: Program) -> tuple[Population, ...]:
    """The populations of a program, in the program's order.

    Raises:
        UnsupportedError: An operation has no form as neurons or connections; the message names its node.
    """
    return tuple(_Mapper(program).populations())


class _Mapper:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._joined = {node.name: self._joins(node) for node in program}
        self._counts = {
            first_product(node.name): self._count_bits(node, node.op)
            for node in program
            if isinstance(node.op, SpikeAttention)
        }
        """Width of the counts that the first product of each attention sends, in bits, by the product's name."""
        self._carried = {node.name for node in program if self._needs_carrier(node)}

    def populations(self) -> Iterator[Population]:
        for node in self._program:
            if isinstance(node.op, SpikeAttention):
                yield self._first_product(node, node.op)
            if self._is_population(node) and not self._is_joined(node):
                yield self._population(node)

    def _count_bits(self, node: Node[Op], op: SpikeAttention) -> int:
        """Width of the largest count of a first product, in bits, its sign included."""
        sizes = attention_sizes([self._program[name].shape for name in node.inputs], op.num_heads)
        q, k, v = (self._program[name].op.signal.high or 1 for name in node.inputs)
        return 1 + sizes.first_product(q, k, v).bit_length()

    def _is_population(self, node: Node[Op]) -> bool:
        match node.op:
            case Input() | Spiking() | SpikeGate() | CubaLI() | MultiSpikeIF():
                return True
            case Relay() | MaxPool2d() | SpikeMatMul() | SpikeAttention():
                return True
            case Conv2d() | Dense() | SumPool2d() | Add():
                return node.name in self._carried
            case Output():
                # a current that leaves the network here needs neurons that hold it for the host
                return not self._is_population(self._program[node.inputs[0]])
            case Delay() | SampleDelay() | Flatten():
                return False
            case _:
                raise _unknown(node)

    def _joins(self, node: Node[Op]) -> str | None:
        """The name of the node's only reader, if it is elementwise, so that both share neurons; None otherwise."""
        if not isinstance(node.op, SpikeMatMul | SpikeAttention | MaxPool2d | Relay):
            return None
        readers = self._program.consumers[node.name]
        if len(readers) == 1 and isinstance(readers[0].op, (Spiking, Relay)):
            return readers[0].name
        return None

    def _is_joined(self, node: Node[Op]) -> bool:
        return self._joined[node.name] is not None

    def _needs_carrier(self, node: Node[Op]) -> bool:
        if not (node.op.is_synapse or isinstance(node.op, Add)):
            return False
        readers = self._program.consumers[node.name]
        if isinstance(node.op, Add) and len(readers) > 1 and not is_stack(self._program, node.name):
            return True
        return any(self._wants_values(node, reader) for reader in readers)

    def _wants_values(self, node: Node[Op], reader: Node[Op]) -> bool:
        """Whether a reader, directly or behind delays, needs a node's sums as messages rather than adds to them."""
        pending = [(node, reader)]
        while pending:
            sender, reader = pending.pop()
            match reader.op:
                case MaxPool2d() | Conv2d() | Dense() | SumPool2d():
                    return True
                case SpikeMatMul() if reader.inputs[0] == sender.name:
                    return True
                case Delay() | Flatten() | SampleDelay():
                    pending += [(reader, each) for each in self._program.consumers[reader.name]]
                case Add() | Spiking() | SpikeGate() | CubaLI() | MultiSpikeIF() | Relay() | Output():
                    pass
                case SpikeAttention() | SpikeMatMul():
                    pass
                case _:
                    raise _unknown(reader)
        return False

    def _population(self, last: Node[Op]) -> Population:
        """The population that sends a node's values."""
        nodes, first = [last], last
        while isinstance(first.op, (Spiking, Relay)):
            before = self._program[first.inputs[0]]
            if self._joined[before.name] != first.name:
                break
            first = before
            nodes.insert(0, first)
        # a readout sends nothing: the host reads its neurons
        graded = last.op.signal.kind is not SignalKind.SPIKE and not isinstance(last.op, Output)
        edges = tuple(self._edges_of(first))
        widths = [self._payload_bits(edge) for edge in edges]
        return Population(
            name=last.name,
            nodes=tuple(node.name for node in nodes),
            kind=_kind(nodes),
            shape=_shape3(last.shape),
            edges=edges,
            graded=graded,
            payload_bits=max([*widths, last.op.signal.bits or 0] if graded else widths, default=0),
            parameter_words=_parameter_words(last.op),
        )

    def _payload_bits(self, edge: Edge) -> int:
        """Width of the payloads that a connection brings, in bits; 0 for spikes."""
        if edge.source in self._counts:
            return self._counts[edge.source]
        signal = self._program[edge.source].op.signal
        return 0 if signal.kind is SignalKind.SPIKE else signal.bits or 0

    def _first_product(self, node: Node[Op], op: SpikeAttention) -> Population:
        """The neurons that hold the first product of an attention of counts, and send it as graded spikes."""
        sizes, heads = attention_sizes([self._program[name].shape for name in node.inputs], op.num_heads), op.num_heads
        q, k, v = (self._sender(name) for name in node.inputs)
        # k is kept: its channels for each of its tokens, or its tokens for each of its channels
        gates, reads = (q, sizes.depth) if sizes.scores_first else (v, sizes.keys)
        rows, columns = (sizes.keys, sizes.queries) if sizes.scores_first else (sizes.depth, sizes.width)
        edges = tuple(
            Edge(source, node.name, link, groups=heads, delay=delay, reads=reads, transpose=True)
            for link, (source, delay) in ((Link.VALUES, k), (Link.GATES, gates))
        )
        bits = self._counts[first_product(node.name)]
        return Population(
            name=first_product(node.name),
            nodes=(node.name,),
            kind="product",
            shape=(heads, rows, columns),
            edges=edges,
            graded=True,
            payload_bits=bits,
        )

    def _edges_of(self, node: Node[Op]) -> Iterator[Edge]:
        op = node.op
        match op:
            case Input():
                return
            case SpikeMatMul():
                values, gates = (self._sender(name) for name in node.inputs)
                depth = _shape3(self._program[values[0]].shape)
                reads = depth[0] // op.num_heads if op.transpose else depth[1] * depth[2]
                for link, (source, delay) in ((Link.VALUES, values), (Link.GATES, gates)):
                    yield Edge(
                        source,
                        node.name,
                        link,
                        groups=op.num_heads,
                        delay=delay,
                        reads=reads,
                        transpose=op.transpose,
                    )
            case SpikeAttention():
                sizes = attention_sizes([self._program[name].shape for name in node.inputs], op.num_heads)
                q, _, v = (self._sender(name) for name in node.inputs)
                first = first_product(node.name), 0
                # the operand that only the second product reads (v or q) waits a step for the first product
                if sizes.scores_first:
                    values, gates, reads = (v[0], v[1] + 1), first, sizes.keys
                else:
                    values, gates, reads = first, (q[0], q[1] + 1), sizes.depth
                for link, (source, delay) in ((Link.VALUES, values), (Link.GATES, gates)):
                    yield Edge(source, node.name, link, groups=op.num_heads, delay=delay, reads=reads)
            case MaxPool2d():
                source, delay = self._sender(node.inputs[0])
                channels = node.shape[0]
                yield Edge(source, node.name, Link.CONVOLUTION, window=op.window, groups=channels, delay=delay)
            case Conv2d() | Dense() | SumPool2d():
                yield self._synapses(node, 0)
            case SpikeGate():
                for name in node.inputs:
                    yield from self._gated(name, node)
            case Add() | Spiking() | CubaLI() | MultiSpikeIF() | Relay() | Output():
                for name in node.inputs:
                    yield from self._incoming(name, node, 0)
                if isinstance(op, RecurrentCubaLIF):
                    yield _convolution(node.name, node.name, op.parts(), 0)
            case _:
                raise _unknown(node)

    def _gated(self, name: str, gate: Node[Op]) -> Iterator[Edge]:
        """The connections of one input of a gate; an input broadcast to the gate's shape is a convolution of ones."""
        given, wanted = _shape3(self._program[name].shape), _shape3(gate.shape)
        if given == wanted:
            yield from self._incoming(name, gate, 0)
            return
        source, delay = self._sender(name)
        # the window is as large as the gate, with as much padding: at each place, it holds the single row or column
        kernel = tuple(1 if have == want else want for have, want in zip(given[1:], wanted[1:], strict=True))
        window = Window((kernel[0], kernel[1]), padding=(kernel[0] - 1, kernel[1] - 1))
        groups = _shape3(self._program[source].shape)[0]
        yield Edge(source, gate.name, Link.CONVOLUTION, window=window, groups=groups, delay=delay)

    def _incoming(self, name: str, reader: Node[Op], delay: int) -> Iterator[Edge]:
        """The connections whose sum is a current that a neuron reads."""
        pending = [(name, delay)]  # a loop, not recursion: a residual stream adds all layers of a deep network
        while pending:
            name, delay = pending.pop()
            node = self._program[name]
            match node.op:
                case _ if self._is_population(node):
                    channels = _shape3(node.shape)[0]
                    yield Edge(name, reader.name, Link.CONVOLUTION, groups=channels, delay=delay)
                case Delay() | SampleDelay():
                    pending.append((node.inputs[0], delay + _waits(node.op)))
                case Add() if is_stack(self._program, name):
                    yield self._synapses(node, delay)
                case Add() | Flatten():
                    pending += [(each, delay) for each in reversed(node.inputs)]
                case Conv2d() | Dense() | SumPool2d():
                    yield self._synapses(node, delay)
                case _:
                    raise _unknown(node)

    def _synapses(self, node: Node[Op], delay: int) -> Edge:
        parts = layer_synapses(self._program, node.name)
        source, waits = self._sender(parts[0].inputs[0])
        delay += waits
        match parts[0].op:
            case Conv2d():
                convolutions = [part.op for part in parts if isinstance(part.op, Conv2d)]
                return _convolution(source, node.name, convolutions, delay)
            case Dense() as dense:
                bits = synapse_bits(dense.weight)
                return Edge(source, node.name, Link.DENSE, weight_bits=bits, delay=delay, weights=(dense.weight,))
            case SumPool2d() as pool:
                channels = node.shape[0]
                return Edge(source, node.name, Link.CONVOLUTION, 2, pool.window, groups=channels, delay=delay)
            case _:
                raise InvariantError(f"{node.name}: a {type(node.op).__name__} has no synapses")

    def _sender(self, name: str) -> tuple[str, int]:
        """The name of the population that sends a node's values, and the steps that they wait."""
        node, delay = self._program[name], 0
        while not self._is_population(node):
            passes = isinstance(node.op, Delay | SampleDelay | Flatten)
            require(passes, f"{node.name}: a {type(node.op).__name__} sends nothing")
            delay += _waits(node.op)
            node = self._program[node.inputs[0]]
        return node.name, delay


def first_product(name: str) -> str:
    """The name of the population that holds the first product of an attention of counts."""
    return f"{name}.first"


def _unknown(node: Node[Op]) -> UnsupportedError:
    """The refusal of an operation that has no form here."""
    kind = type(node.op).__name__
    return UnsupportedError(
        f"{node.name}: placement has no neurons or connections for a {kind}; place a network without it"
    )


def _convolution(source: str, name: str, parts: Sequence[Conv2d], delay: int) -> Edge:
    """The connection of a convolution, or of the two convolutions of stacked synapses."""
    op = parts[0]
    return Edge(
        source,
        name,
        Link.CONVOLUTION,
        window=op.window,
        groups=op.groups,
        delay=delay,
        weights=tuple(part.weight for part in parts),
    )


def _waits(op: Op) -> int:
    """The most steps that a delay or a view makes a spike wait."""
    if isinstance(op, SampleDelay):
        return int(op.steps.max())
    return op.hop


def _parameter_words(op: Op) -> int:
    """Words of memory that each neuron takes beside its state, for parameters that differ between neurons."""
    if not isinstance(op, CubaLIF | CubaLI | MultiSpikeIF):
        return 0
    own = (bits for name, bits in PARAMETER_BITS.items() if np.size(getattr(op, name, 0)) > 1)
    return -(-sum(own) // WORD_BITS)


def _kind(nodes: Sequence[Node[Op]]) -> str:
    words: dict[type[Op], str] = {
        Input: "input",
        LIF: "LIF",
        **dict.fromkeys((CubaLIF, PromptCubaLIF), "CubaLIF"),
        **dict.fromkeys((RecurrentCubaLIF, StackedRecurrentCubaLIF), "recurrent CubaLIF"),
        CubaLI: "CubaLI",
        MultiSpikeIF: "multi-spike IF",
        IntegerLIF: "integer LIF",
        Relay: "relay",
        **dict.fromkeys((MaxPool2d, CeilMaxPool2d), "max-pool"),
        SpikeGate: "gate",
        SpikeAttention: "product",
        SpikeMatMul: "product",
        Output: "readout",
        **dict.fromkeys((Conv2d, Dense, SumPool2d, Add), "carrier"),
    }
    for node in nodes:
        if type(node.op) not in words:
            raise _unknown(node)
    return " + ".join(words[type(node.op)] for node in nodes)


def _shape3(shape: tuple[int, ...]) -> Shape3:
    channels, rows, columns = (*shape, 1, 1)[:3]
    return channels, rows, columns
