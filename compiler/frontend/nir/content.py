"""Reads a NIR file: its nodes, which node reads which, and their order, but does not interpret the nodes yet.

Graphs inside graphs are dissolved into one graph, and a layer that leads from a population back to itself is set apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import h5py
import nir

from resformer.compiler.files.nir import read_edges, read_values
from resformer.compiler.ir.ported import PortedGraph
from resformer.errors import FileFormatError, UnsupportedError
from resformer.models.limits import LONGEST_NAME, MOST_EDGES, MOST_NODES, quote, require_within

Values: TypeAlias = Mapping[str, Any]
"""The fields of a node by name, as the file holds them; ``type`` is one of them."""

DOORS = ("Input", "Output")
"""The types of nodes through which a graph inside a graph is entered and left."""
GRAPHS = (nir.NIRGraph.__name__, PortedGraph.__name__)
NEURON_TYPES = ("LIF", "IF", "CubaLIF", "Threshold")
"""The types of nodes that fire."""
LISTED = 5
"""The largest number of nodes that an error message names."""


@dataclass(frozen=True)
class Content:
    """A file's network, with graphs inside graphs dissolved into one graph.

    Attributes:
        nodes: The nodes' fields as the file holds them, by the nodes' names.
        sources: For each node, the names of the nodes that it reads, in the order of the edges.
        metadata: The metadata of the whole graph.
        recurrent: For each population with synapses onto itself, the name of the layer that holds these synapses.
    """

    nodes: dict[str, Values]
    sources: dict[str, list[str]]
    metadata: Values
    recurrent: dict[str, str] = field(default_factory=dict)

    @property
    def readers(self) -> dict[str, list[str]]:
        """For each node, the names of the nodes that read it."""
        readers: dict[str, list[str]] = {name: [] for name in self.nodes}
        for name, sources in self.sources.items():
            for source in sources:
                readers[source].append(name)
        return readers


def read_content(file: h5py.File) -> Content:
    """Read a network.

    Raises:
        FileFormatError: The file holds no network, or an inconsistent one.
    """
    root = file.get("node")
    values = read_values(root) if isinstance(root, h5py.Group) else {}
    if values.get("type") not in GRAPHS:
        raise FileFormatError("no NIR graph; write the network with nir.write")
    nodes, edges = _dissolve("", values)
    require_within(len(nodes), MOST_NODES, "has {} nodes")
    for source, target in edges:
        for end in (source, target):
            if end not in nodes:
                raise FileFormatError(f"{end}: an edge from {source} to {target} ends there, but there is no such node")
    sources: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in dict.fromkeys(edges):
        sources[target].append(source)
    metadata = values.get("metadata", {})
    return Content(nodes, sources, metadata if isinstance(metadata, dict) else {})


def _dissolve(prefix: str, graph: Values) -> tuple[dict[str, Values], list[tuple[str, str]]]:
    """The nodes and edges of a graph and all graphs inside it, whose Inputs and Outputs take over the edges to them.

    Raises:
        FileFormatError: A graph lacks nodes or edges, a node is damaged, or two nodes have one name.
    """
    if "nodes" not in graph or "edges" not in graph:
        raise FileFormatError(f"{prefix.removesuffix('.') or 'the graph'}: has no nodes or no edges; write it again")
    nodes: dict[str, Values] = {}

    def add(name: str, values: Values) -> None:
        if name in nodes:
            raise FileFormatError(
                f"{name}: two nodes have this name, which is how a node of a graph inside the network is called "
                "(graph.node); rename one of them"
            )
        nodes[name] = values

    inner_edges: list[tuple[str, str]] = []
    doors: dict[str, tuple[str, str]] = {}
    for key, values in graph["nodes"].items():
        name = prefix + key
        require_within(len(name), LONGEST_NAME, f"{quote(name)}: a name of {{}} characters")
        if not isinstance(values, dict) or not isinstance(values.get("type"), str):
            raise FileFormatError(f"{name}: has no type; write the file again with nir.write")
        if not isinstance(values.get("metadata", {}), dict):
            raise FileFormatError(f"{name}: its metadata are no names with values; write the file again with nir.write")
        if values["type"] in GRAPHS:
            inside, between = _dissolve(f"{name}.", values)
            doors[name] = (_only(name, values, "Input"), _only(name, values, "Output"))
            for each, fields in inside.items():
                add(each, fields)
            inner_edges += between
        else:
            add(name, values)
    edges = [
        (doors.get(prefix + source, ("", prefix + source))[1], doors.get(prefix + target, (prefix + target, ""))[0])
        for source, target in read_edges(graph["edges"])
    ]
    return nodes, edges + inner_edges


def _only(name: str, graph: Values, kind: str) -> str:
    """The name of the only node of a type in a graph inside the network.

    Raises:
        UnsupportedError: The graph has several such nodes, or none.
    """
    found = [key for key, values in graph["nodes"].items() if values["type"] == kind]
    if len(found) != 1:
        raise UnsupportedError(f"{name}: has {len(found)} {kind} nodes; a graph must have one, so split or join them")
    return f"{name}.{found[0]}"


def without_doors(content: Content) -> Content:
    """The network without the Inputs and Outputs of its inner graphs, whose readers read their sources instead.

    Raises:
        UnsupportedError: An Input or Output leads into itself.
    """
    readers = content.readers
    doors = [
        name
        for name, values in content.nodes.items()
        if values["type"] in DOORS and content.sources[name] and readers[name]
    ]
    through: dict[str, list[str]] = {}

    def resolved(name: str) -> list[str]:
        return [found for source in content.sources[name] for found in through.get(source, (source,))]

    for door in _doors_in_order(doors, content):
        through[door] = resolved(door)
        require_within(len(through[door]), MOST_EDGES, f"{quote(door)}: reads {{}} nodes")
    sources = {name: resolved(name) for name in content.nodes if name not in through}
    require_within(sum(map(len, sources.values())), MOST_EDGES, "its nodes read {} others together")
    nodes = {name: values for name, values in content.nodes.items() if name in sources}
    return replace(content, nodes=nodes, sources=sources)


def _doors_in_order(doors: list[str], content: Content) -> list[str]:
    """Sort the Inputs and Outputs of inner graphs, each after those that it reads.

    Raises:
        UnsupportedError: An Input or Output leads into itself.
    """
    among = set(doors)
    waiting = {door: len(among.intersection(content.sources[door])) for door in doors}
    free = [door for door in doors if not waiting[door]]
    readers = content.readers
    for door in free:
        for reader in readers[door]:
            if reader in waiting:
                waiting[reader] -= 1
                if not waiting[reader]:
                    free.append(reader)
    if len(free) < len(doors):
        door = _cycle(content, among.difference(free))[0]
        raise UnsupportedError(f"{door}: a cycle without delay runs through it ({door} -> {door}); cut the edge back")
    return free


def without_recurrence(content: Content) -> Content:
    """The network without the layers that lead from a population back to itself; all other cycles remain.

    Raises:
        UnsupportedError: Several layers lead back to one population, or such a layer also belongs to another path.
    """
    readers = content.readers
    recurrent: dict[str, str] = {}
    for name, values in content.nodes.items():
        if values["type"] not in NEURON_TYPES:
            continue
        layers = _between(name, readers, content) & _between(name, content.sources, content)
        if not layers:
            continue
        first, *others = sorted(layers)
        if others:
            raise UnsupportedError(
                f"{name}: several layers lead from it back to it ({', '.join(sorted(layers)[:LISTED])}); "
                "multiply or add them into one"
            )
        strangers = [each for each in (*content.sources[first], *readers[first]) if each != name]
        if strangers:
            raise UnsupportedError(
                f"{first}: leads from {name} back to it and is connected to {strangers[0]} too; give each path a layer "
                "of its own"
            )
        recurrent[name] = first
    cut = set(recurrent.values())
    return replace(
        content,
        sources={
            name: [source for source in sources if source not in cut]
            for name, sources in content.sources.items()
            if name not in cut
        },
        recurrent=recurrent,
    )


def _between(name: str, ways: Mapping[str, list[str]], content: Content) -> set[str]:
    """The layers on the paths from a population to the next neurons, along ``ways``: each node's readers or sources."""
    found: set[str] = set()
    ahead = list(ways[name])
    while ahead:
        each = ahead.pop()
        if each not in found and content.nodes[each]["type"] not in NEURON_TYPES:
            found.add(each)
            ahead += ways[each]
    return found


def in_order(content: Content) -> list[str]:
    """The names of the nodes from the input to the output, each after its sources, without recurrent layers.

    Raises:
        FileFormatError: A node has no edge in or no edge out.
        UnsupportedError: There is a cycle, or not exactly one input and one output.
    """
    read = {source for sources in content.sources.values() for source in sources}
    outer = {name: values for name, values in content.nodes.items() if _is_outer(name, content, read)}
    entry, exit_ = (_only_outer(outer, kind) for kind in ("Input", "Output"))
    remaining = {name: set(sources) for name, sources in content.sources.items()}
    ordered: list[str] = []
    free = [name for name, sources in remaining.items() if not sources]
    for name in free:
        if name != entry:
            raise FileFormatError(f"{name}: no edge comes in; connect it or leave it out")
    readers = content.readers
    for name in remaining:
        if not readers[name] and name != exit_:
            raise FileFormatError(f"{name}: no edge leaves it; connect it or leave it out")
    while free:
        name = free.pop(0)
        ordered.append(name)
        for reader in dict.fromkeys(readers[name]):  # a node that reads another by two ways is ready once
            remaining[reader].discard(name)
            if not remaining[reader]:
                free.append(reader)
    if len(ordered) < len(content.sources):
        ring = _cycle(content, set(content.sources) - set(ordered))
        shown = " -> ".join([*ring[:LISTED], *(["..."] if len(ring) > LISTED else []), ring[0]])
        populations = [name for name in ring if content.nodes[name]["type"] in NEURON_TYPES]
        if len(ring) == 1 and populations:
            raise UnsupportedError(f"{ring[0]}: reads its own spikes as they are; put a layer with weights between")
        if populations:
            raise UnsupportedError(
                f"{ring[0]}: a cycle runs through {len(populations)} populations ({shown}); a layer may lead from one "
                "population back to it, so make them one population or cut the edge back"
            )
        raise UnsupportedError(
            f"{ring[0]}: a cycle without delay runs through it ({shown}); put neurons into it, whose spikes come a "
            "step late, or cut the edge back"
        )
    ordered.remove(exit_)
    return [*ordered, exit_]


def _is_outer(name: str, content: Content, read: set[str]) -> bool:
    """Whether a node is an Input or Output of the whole network: nothing leads into the Input, or out of the Output."""
    kind = content.nodes[name]["type"]
    return (kind == "Input" and not content.sources[name]) or (kind == "Output" and name not in read)


def _only_outer(outer: Mapping[str, Values], kind: str) -> str:
    found = [name for name, values in outer.items() if values["type"] == kind]
    if len(found) != 1:
        raise UnsupportedError(
            f"{found[1] if found else 'the graph'}: the network has {len(found)} {kind} nodes; it must have one"
        )
    return found[0]


def _cycle(content: Content, among: set[str]) -> list[str]:
    """The names of the nodes along one cycle, in the order of the edges."""
    # a node that could not be ordered reads another such node, so walking back along the sources closes a cycle
    path, met = [min(among)], set[str]()
    while path[-1] not in met:
        met.add(path[-1])
        path.append(min(source for source in content.sources[path[-1]] if source in among))
    return path[path.index(path[-1]) + 1 :][::-1]
