"""Which values are messages, sent by neurons, and which are currents, made by synapses; synapses read only messages."""

from __future__ import annotations

from typing import Protocol

import nir

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.primitives import NEURONS, Add, MaxPool2d, MultiSpikeIF, SampleDelay, SpikeGate


class Nodes(Protocol):
    """Nodes by their names: those of a float graph, or of one that is still being built."""

    def __getitem__(self, name: str, /) -> Node[nir.NIRNode]: ...


def message_names(graph: Graph[nir.NIRNode]) -> frozenset[str]:
    """The nodes of a float graph whose values are the input, spikes, or counts, means and maxima of such values.

    On Loihi 2, neurons compute these counts, means and maxima, and send them on as graded values.
    """
    found: set[str] = set()
    for node in graph:
        passes_on = isinstance(node.op, Add | MaxPool2d | nir.AvgPool2d | nir.SumPool2d | nir.Flatten | SampleDelay)
        if isinstance(node.op, (nir.Input, SpikeGate, *NEURONS)) or (passes_on and found.issuperset(node.inputs)):
            found.add(node.name)
    return frozenset(found)


def sends_spikes(graph: Nodes, name: str) -> bool:
    """Whether a node's values are 0 or 1: spikes, or maxima of them, whatever their shape and time."""
    sender = _sender(graph, name)
    return isinstance(sender, (SpikeGate, *NEURONS)) and not isinstance(sender, MultiSpikeIF)


def sends_counts(graph: Nodes, name: str) -> bool:
    """Whether a node's values are spikes, counts of the spikes that neurons fire in a step, or maxima of either."""
    return isinstance(_sender(graph, name), (SpikeGate, *NEURONS))


def _sender(graph: Nodes, name: str) -> nir.NIRNode:
    """The operation that made a node's values, before the max-pools, flattenings and delays that passed them on."""
    node = graph[name]
    # a loop, not a recursion: a file may hold thousands of such nodes
    while isinstance(node.op, MaxPool2d | nir.Flatten | SampleDelay):
        node = graph[node.inputs[0]]
    return node.op


def names_before_neurons(graph: Graph[nir.NIRNode]) -> frozenset[str]:
    """The nodes on whose values some neuron's spikes depend, the neurons included."""
    return names_before(graph, *NEURONS)


def names_before(graph: Graph[nir.NIRNode], *kinds: type[nir.NIRNode]) -> frozenset[str]:
    """The nodes on whose values some operation of these kinds depends, those operations included."""
    found: set[str] = set()
    for node in reversed(graph.nodes):
        if isinstance(node.op, kinds) or any(reader.name in found for reader in graph.consumers[node.name]):
            found.add(node.name)
    return frozenset(found)
