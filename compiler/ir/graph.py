"""The container of float graphs and of programs: named operations with ordered inputs, in topological order.

A ``Graph[nir.NIRNode]`` is a network of real numbers; a ``Program`` (``resformer.compiler.ir.program``) is one of
integers. Values are immutable; passes edit a :class:`GraphEditor` and return a new graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from resformer.compiler.ir.arrays import require
from resformer.compiler.ir.summary import Summarized, Summary, counted, sizes

NETX = "net"
"""The value of ``source`` in the metadata of a network whose numbers are all the chip's own integers."""

OpT = TypeVar("OpT")
GraphT = TypeVar("GraphT", bound="Graph[Any]")


@dataclass(frozen=True)
class Node(Generic[OpT]):
    """One operation.

    Attributes:
        name: The layer's path in the state dict, the same at both levels and in every report and error.
        op: The operation that it computes.
        inputs: The names of the nodes that it reads, in the operation's order.
        shape: The shape of its output without time and batch: (C, H, W), or (F,).
    """

    name: str
    op: OpT
    inputs: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Graph(Summarized, Generic[OpT]):
    """A directed acyclic graph of operations with one input and one output.

    Attributes:
        nodes: In topological order, the input first and the output last.
        timesteps: T, the number of steps of one sample; every neuron is reset after them.
        metadata: Facts about the whole network (scalars and strings only), kept through passes and files.
    """

    nodes: tuple[Node[OpT], ...]
    timesteps: int
    metadata: Mapping[str, str | int | float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Node[OpT]:
        return self.by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self.by_name

    def __iter__(self) -> Iterator[Node[OpT]]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def by_name(self) -> Mapping[str, Node[OpT]]:
        """The nodes under their names."""
        cached: dict[str, Node[OpT]] | None = self.__dict__.get("_by_name")
        if cached is None:
            cached = {node.name: node for node in self.nodes}
            object.__setattr__(self, "_by_name", cached)
        return cached

    @property
    def consumers(self) -> Mapping[str, tuple[Node[OpT], ...]]:
        """For each node, the nodes that read it, in topological order (a node that reads it twice is there once)."""
        cached: dict[str, tuple[Node[OpT], ...]] | None = self.__dict__.get("_consumers")
        if cached is None:
            readers: dict[str, list[Node[OpT]]] = {node.name: [] for node in self.nodes}
            for node in self.nodes:
                for source in dict.fromkeys(node.inputs):
                    readers[source].append(node)
            cached = {name: tuple(nodes) for name, nodes in readers.items()}
            object.__setattr__(self, "_consumers", cached)
        return cached

    @property
    def last_reads(self) -> Mapping[str, tuple[str, ...]]:
        """For each node, those of its inputs that no later node reads: their values may be dropped after it."""
        last = {source: node.name for node in self.nodes for source in node.inputs}
        return {
            node.name: tuple(source for source in dict.fromkeys(node.inputs) if last[source] == node.name)
            for node in self.nodes
        }

    @property
    def input(self) -> Node[OpT]:
        """The node through which samples enter."""
        return self.nodes[0]

    @property
    def output(self) -> Node[OpT]:
        """The node through which logits leave."""
        return self.nodes[-1]

    def summary(self) -> Summary:
        """Its shapes, its time, and how many operations of each kind it has."""
        kinds = Counter(type(node.op).__name__ for node in self.nodes)
        return f"{type(self).__name__} of {counted(len(self), 'node')}", [
            *((name, sizes(getattr(self, name).shape)) for name in ("input", "output") if self.nodes),
            ("time", f"{counted(self.timesteps, 'step')} a sample"),
            ("operations", ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())),
            ("metadata", ", ".join(f"{name} {value}" for name, value in self.metadata.items())),
        ]

    def is_made_of(self, other: Graph[OpT]) -> bool:
        """Whether it equals the other and shares its operation objects, as after a pass that changed nothing."""
        return (self.timesteps, self.metadata, len(self)) == (other.timesteps, other.metadata, len(other)) and all(
            mine.op is its.op and (mine.name, mine.inputs, mine.shape) == (its.name, its.inputs, its.shape)
            for mine, its in zip(self, other, strict=True)
        )

    def edit(self: GraphT) -> GraphEditor[GraphT, OpT]:
        """A mutable copy to make the next graph from."""
        return GraphEditor(self)


class GraphEditor(Generic[GraphT, OpT]):
    """Edits to one graph; :meth:`finish` returns the new one, sorted, and the old one stays as it was."""

    def __init__(self, graph: GraphT) -> None:
        self._graph = graph
        self._nodes: dict[str, Node[OpT]] = {node.name: node for node in graph.nodes}

    def set_op(self, name: str, op: OpT, *, inputs: tuple[str, ...] | None = None) -> None:
        """Give a node another operation (and inputs) with an output of the same shape."""
        node = self._nodes[name]
        self._nodes[name] = replace(node, op=op, inputs=node.inputs if inputs is None else inputs)

    def add(self, node: Node[OpT]) -> None:
        """Add a node under a new name."""
        require(node.name not in self._nodes, f"{node.name} is already there")
        self._nodes[node.name] = node

    def redirect(self, source: str, to: str, *, readers: tuple[str, ...] | None = None) -> None:
        """Let the readers of one node (all, or those named) read another instead."""
        for name, node in list(self._nodes.items()):
            if source in node.inputs and name != to and (readers is None or name in readers):
                inputs = tuple(to if each == source else each for each in node.inputs)
                self._nodes[name] = replace(node, inputs=inputs)

    def insert_after(self, source: str, node: Node[OpT], *, readers: tuple[str, ...] | None = None) -> None:
        """Add a node that reads ``source``, and put it between ``source`` and its readers (all, or those named)."""
        require(node.inputs == (source,), f"{node.name} must read {source} alone")
        self.redirect(source, node.name, readers=readers)
        self.add(node)

    def remove(self, name: str) -> None:
        """Remove a node that nothing reads any more."""
        readers = [node.name for node in self._nodes.values() if name in node.inputs]
        require(not readers, f"{name} is still read by {readers}")
        del self._nodes[name]

    def bypass(self, name: str) -> None:
        """Remove a node with one input; its readers then read that input."""
        (source,) = self._nodes[name].inputs
        self.redirect(name, source)
        self.remove(name)

    def finish(self) -> GraphT:
        """The new graph, its nodes in an order that depends on the edits alone."""
        return replace(self._graph, nodes=topological_order(self._nodes))


def needed(nodes: Mapping[str, Node[OpT]], *, first: str, last: str) -> tuple[Node[OpT], ...]:
    """The nodes that ``last`` depends on, itself included, and always ``first``; each comes after what it reads."""
    wanted, stack = {first}, [last]
    while stack:
        name = stack.pop()
        if name not in wanted:
            wanted.add(name)
            stack.extend(nodes[name].inputs)
    return topological_order({name: node for name, node in nodes.items() if name in wanted})


def topological_order(nodes: Mapping[str, Node[OpT]]) -> tuple[Node[OpT], ...]:
    """Sort nodes so that each comes after what it reads, depth first, in the order of the mapping otherwise.

    Raises:
        InvariantError: A cycle, or an input that does not exist.
    """
    ordered: dict[str, Node[OpT]] = {}
    open_names: set[str] = set()
    for root in nodes:
        stack = [(root, False)]
        while stack:
            name, inputs_done = stack.pop()
            if inputs_done:
                open_names.discard(name)
                ordered[name] = nodes[name]
            elif name not in ordered:
                require(name not in open_names, f"a cycle runs through {name}")
                require(name in nodes, f"{name} is read but does not exist")
                open_names.add(name)
                stack.append((name, True))
                stack.extend((source, False) for source in reversed(nodes[name].inputs) if source not in ordered)
    # The output node comes after all that it reads, but nodes that nothing reads may still follow it.
    return tuple(ordered.values())
