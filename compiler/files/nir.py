"""Float graphs as NIR files (HDF5), lossless.

The layout is that of ``nir.write``. A graph of only NIR's own nodes and ``Add`` nodes is written as plain NIR, which
any tool reads: an ``Add`` becomes several edges into one node, since NIR sums the values of such edges. A graph that
holds other nodes of ours, or shapes that NIR's type check computes wrongly, is written as a ``PortedGraph``, and
``nir.read`` returns it once resformer is imported. What NIR has no place for (the order of a node's inputs, its
output's shape, T) is kept under the key ``resformer`` of each node's metadata and of the graph's, where NIR's own tools
leave it alone. An array of one repeated value, such as a population's threshold, is stored as that value: an HDF5 data
set that was never written to reads as its fill value.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import h5py
import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.files.hdf5_gate import check_hdf5
from resformer.compiler.files.hdf5_heaps import REWRITE
from resformer.compiler.ir.arrays import Shape, require
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.ported import PORTS, PortedGraph
from resformer.compiler.ir.primitives import EXTENSIONS, Add, collapse
from resformer.compiler.ir.verify import verify_graph
from resformer.errors import FileFormatError
from resformer.models.boundary import boundary, brief, require_regular
from resformer.models.json_text import parse_json
from resformer.models.limits import MOST_AXES, MOST_EDGES, MOST_NODES, MOST_VALUES, quote, require_within

ContentT = TypeVar("ContentT")

FORMAT_VERSION = 1
LFS_POINTER = b"version https://git-lfs"
"""The beginning of the text that a Git checkout holds in place of a large file that was not fetched."""

NO_INPUT_SHAPE = "no_input_shape"
"""The key of the fact about a convolution that it has no input shape of its own, although its file states one."""
GRAPHS = (nir.NIRGraph.__name__, PortedGraph.__name__)
"""The types that a file's root may have."""
UNITS = "dt and tau in seconds; potentials, currents and weights in the network's own units; forward Euler"
"""What NIR leaves open about a whole file. The metadata of neurons say how they reset and whether they fire at a tie.
"""

_HELD: tuple[type[nir.NIRNode], ...] = (
    nir.Input,
    nir.Output,
    nir.Conv2d,
    nir.Linear,
    nir.Affine,
    nir.Scale,
    nir.LIF,
    nir.IF,
    nir.CubaLIF,
    nir.AvgPool2d,
    nir.SumPool2d,
    nir.Flatten,
    *EXTENSIONS,
)
NODE_TYPES: Mapping[str, type[nir.NIRNode]] = {each.__name__: each for each in _HELD}
"""The types of nodes that a file may hold, by name."""

COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
"""How arrays of repeated values are compressed. Weights rarely repeat: gzip would save a tenth and take minutes."""


def write_nir(graph: Graph[nir.NIRNode], path: str | Path) -> None:
    """Write a float graph; equal graphs make equal files.

    Raises:
        InvariantError: A node's name or metadata cannot be held by HDF5.
        OSError: The file cannot be written.
    """
    # through memory: on a full disk, HDF5 cannot even close its file
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["version"] = nir.version
        root = file.create_group("node")
        facts: dict[str, Any] = {"format_version": FORMAT_VERSION, "timesteps": graph.timesteps, "units": UNITS}
        plain = is_plain(graph)
        root["type"] = (nir.NIRGraph if plain else PortedGraph).__name__
        root["edges"] = _edges(graph, plain=plain)
        if plain:
            facts["sums"] = json.dumps(
                {
                    node.name: {"position": position, "inputs": node.inputs, "shape": node.shape}
                    for position, node in enumerate(graph)
                    if isinstance(node.op, Add)
                }
            )
        _write(root, "metadata", {**graph.metadata, PORTS: facts}, where="metadata")
        nodes = root.create_group("nodes")
        for position, node in enumerate(graph):
            if not (plain and isinstance(node.op, Add)):
                fields = _node_fields(node, position, graph[node.inputs[0]].shape if node.inputs else ())
                _write(nodes, node.name, fields, where=node.name)
    Path(path).write_bytes(buffer.getbuffer())


def is_plain(graph: Graph[nir.NIRNode]) -> bool:
    """Whether a graph can be written with only NIR's own nodes and edges, and passes NIR's type check."""
    if any(isinstance(node.op, EXTENSIONS) and (not isinstance(node.op, Add) or node.op.metadata) for node in graph):
        return False
    if any(len(set(each)) < len(each) for each in _summands(graph).values()):
        return False  # NIR has at most one edge between two nodes
    nodes = {node.name: _as_read(node, graph) for node in graph if not isinstance(node.op, Add)}
    try:
        nir.NIRGraph(nodes, _edges(graph, plain=True))
    except ValueError:
        return False
    return True


def _as_read(node: Node[nir.NIRNode], graph: Graph[nir.NIRNode]) -> nir.NIRNode:
    """A copy of a node as NIR reads it from the file; NIR's type inference may change the copy."""
    op = copy.copy(node.op)
    if isinstance(op, nir.Conv2d):
        if op.input_shape is None:
            op.input_shape = graph[node.inputs[0]].shape[1:]
        op.__post_init__()
    return op


def _summands(graph: Graph[nir.NIRNode]) -> dict[str, tuple[str, ...]]:
    """For each node, the nodes whose values it reads; an ``Add`` is replaced by the nodes that it adds."""
    summands: dict[str, tuple[str, ...]] = {}
    for node in graph:
        read = [summands[name] if isinstance(graph[name].op, Add) else (name,) for name in node.inputs]
        require_within(sum(map(len, read)), MOST_EDGES, f"{quote(node.name)}: adds {{}} values")
        summands[node.name] = tuple(itertools.chain.from_iterable(read))
    return summands


def _edges(graph: Graph[nir.NIRNode], *, plain: bool) -> list[tuple[str, str]]:
    """The edges of a file, in the order of the nodes that they lead to."""
    read = _summands(graph) if plain else {node.name: node.inputs for node in graph}
    targets = (node.name for node in graph if not (plain and isinstance(node.op, Add)))
    return [(source, target) for target in targets for source in dict.fromkeys(read[target])]


def _node_fields(node: Node[nir.NIRNode], position: int, input_shape: Shape) -> dict[str, Any]:
    """The content of a node's group: its type, its fields as NIR names them in files, its metadata and our facts."""
    op = node.op
    values = {field.name: getattr(op, field.name) for field in dataclasses.fields(op)}
    del values["input_type"], values["output_type"]
    match op:
        case nir.Input() | nir.Output():
            values["shape"] = np.array(node.shape)
        case nir.Flatten():
            values["input_type"] = np.asarray(op.input_type["input"])
        case _:
            pass
    facts = {"inputs": json.dumps(node.inputs), "position": position, "shape": np.array(node.shape)}
    if isinstance(op, nir.Conv2d) and op.input_shape is None:
        # nir.read requires an input shape
        values["input_shape"], facts[NO_INPUT_SHAPE] = np.array(input_shape[1:]), 1
    values["metadata"] = {**op.metadata, PORTS: facts}
    return {"type": type(op).__name__, **values}


def _write(group: h5py.Group, name: str, value: Any, *, where: str) -> None:
    """Add a value to a group under a name."""
    holdable = "/" not in name and name not in ("", ".")
    require(holdable, f"{where}: HDF5 cannot hold the name {name!r}")
    if isinstance(value, dict):
        inner = group.create_group(name)
        for key, each in sorted(value.items()):
            if each is not None:
                _write(inner, key, each, where=f"{where}.{key}")
    elif isinstance(value, np.ndarray):
        distinct = _distinct(value)
        if distinct.size == 1 < value.size:
            group.create_dataset(name, shape=value.shape, dtype=value.dtype, chunks=True, fillvalue=distinct.flat[0])
        else:
            group.create_dataset(name, data=value, **(COMPRESSION if distinct.size < value.size else {}))
    else:
        integers = isinstance(value, tuple) and all(isinstance(each, int) for each in value)
        require(
            integers or isinstance(value, (str, int, float)), f"{where}: a file cannot hold a {type(value).__name__}"
        )
        group[name] = value


def read_nir(path: str | Path) -> Graph[nir.NIRNode]:
    """Read a float graph that :func:`write_nir` wrote.

    Raises:
        FileFormatError: The file is absent, damaged, or holds something else; the message names the file and the node.
    """
    return open_nir(path, _read_graph)


def open_nir(path: str | Path, read: Callable[[h5py.File], ContentT], *, named: str = "NIR file") -> ContentT:
    """Open an HDF5 file, check it, and return what a function reads from it.

    Args:
        path: The HDF5 file; ``check_hdf5`` checks it first.
        read: Returns the content of the open file.
        named: What messages call the kind of file that it should be.

    Raises:
        FileFormatError: The file is absent, damaged, or holds something else; the message names the file.
    """
    path = Path(path)
    try:
        with boundary(path, REWRITE, what=f"damaged, or no {named}"):
            try:
                size = require_regular(path)
            except FileFormatError as error:
                raise FileFormatError(f"damaged, or no {named}: {error}") from error
            with path.open("rb") as opened:
                if opened.read(len(LFS_POINTER)) == LFS_POINTER:
                    raise FileFormatError(f"is a pointer of Git LFS and no {named}; fetch the file with git lfs pull")
            try:
                with h5py.File(path, "r") as file:
                    check_hdf5(file, size)
                    return read(file)
            except KeyError as error:
                raise FileFormatError(f"incomplete ({_first_line(error)}); {REWRITE}") from error
            except OSError as error:
                if "truncated" not in str(error):
                    raise
                raise FileFormatError(f"truncated ({brief(error)}); {REWRITE}") from error
    except FileNotFoundError:
        raise FileFormatError(f"{path}: no such file") from None


def _read_graph(file: h5py.File) -> Graph[nir.NIRNode]:
    root = file.get("node")
    kind = _scalar_or_none(root.get("type")) if isinstance(root, h5py.Group) else None
    if kind not in GRAPHS or PORTS not in root.get("metadata", {}):
        raise FileFormatError("no NIR graph written by resformer; compile the network with resformer-compile")
    metadata = read_values(root["metadata"])
    facts = metadata.pop(PORTS)
    version = facts.get("format_version")
    if version != FORMAT_VERSION:
        raise FileFormatError(
            f"format version {version}, but this resformer reads version {FORMAT_VERSION}; compile the network again"
        )
    groups = root["nodes"]
    nodes = [*(_read_node(name, groups[name]) for name in groups), *_read_sums(facts)]
    require_within(len(nodes), MOST_NODES, "has {} nodes")
    nodes.sort(key=lambda each: each[0])
    for _, node in nodes:
        require_within(math.prod(node.shape), MOST_VALUES, f"{node.name}: makes {{}} values a step")
    graph = Graph(tuple(node for _, node in nodes), facts["timesteps"], metadata)
    edges = set(read_edges(root["edges"][()]))
    for source, target in edges:
        for end in (source, target):
            if end not in graph:
                raise FileFormatError(f"{end}: an edge from {source} to {target} ends there, but there is no such node")
    listed: dict[str, set[str]] = {}
    for source, target in _edges(graph, plain=kind == nir.NIRGraph.__name__):
        listed.setdefault(target, set()).add(source)
    for node in graph:
        if listed.get(node.name, set()) != {source for source, target in edges if target == node.name}:
            raise FileFormatError(f"{node.name}: its list of inputs and its edges differ")
    try:
        verify_graph(graph)
    except AssertionError as error:
        raise FileFormatError(str(error)) from error
    return graph


def _read_sums(facts: Mapping[str, Any]) -> list[tuple[int, Node[nir.NIRNode]]]:
    """The ``Add`` nodes that are edges in the file, each with its position among all nodes."""
    try:
        return [
            (int(each["position"]), Node(name, Add(), tuple(each["inputs"]), tuple(each["shape"])))
            for name, each in _parsed(facts.get("sums", "{}")).items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(f"sums: no valid list of sums: {_first_line(error)}; {REWRITE}") from error


def _parsed(text: Any) -> Any:
    """The value of a JSON text among our facts."""
    if not isinstance(text, str):
        raise TypeError("no JSON text")
    return parse_json(text)


def _read_node(name: str, group: h5py.Group) -> tuple[int, Node[nir.NIRNode]]:
    """A node's position among all, and the node."""
    try:
        values = read_values(group)
    except (OSError, RuntimeError, ValueError) as error:
        raise FileFormatError(f"{name}: damaged ({_first_line(error)}); compile the network again") from error
    kind = values.get("type")
    if not isinstance(kind, str) or kind not in NODE_TYPES:
        raise FileFormatError(f"{name}: unknown node type {kind!r}; known are {', '.join(sorted(NODE_TYPES))}")
    facts = values.get("metadata", {}).pop(PORTS, None)
    if facts is None:
        raise FileFormatError(f"{name}: no ordered inputs and shape in its metadata; compile the network again")
    if kind == nir.Conv2d.__name__:
        if NO_INPUT_SHAPE in facts:
            values["input_shape"] = None
        for field in ("input_shape", "stride", "padding", "dilation"):
            if isinstance(values.get(field), np.ndarray):
                values[field] = _sizes(name, field, values[field])
    try:
        op = NODE_TYPES[kind].from_dict(values)
        inputs = tuple(_parsed(facts["inputs"]))
        return facts["position"], Node(name, op, inputs, _sizes(name, "shape", facts["shape"]))
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise FileFormatError(f"{name}: no valid {kind}: {_first_line(error)}") from error


def _sizes(name: str, key: str, values: npt.NDArray[Any]) -> tuple[Any, ...]:
    """At most ``MOST_AXES`` numbers of a file as Python's numbers, which take many times as much memory."""
    if values.size > MOST_AXES:
        raise FileFormatError(f"{name}: {key} has {values.size} values, the limit is {MOST_AXES}; {REWRITE}")
    return tuple(values.tolist())


def read_edges(values: Any) -> list[tuple[str, str]]:
    """The pairs of names that a file holds as edges; an empty array of any type holds none.

    Raises:
        FileFormatError: The values are not pairs of texts.
    """
    pairs: npt.NDArray[Any] = np.asarray(values)
    if not pairs.size:
        return []
    if pairs.dtype.kind not in "OSU" or pairs.size % 2:
        raise FileFormatError(f"edges: damaged: {pairs.dtype} of shape {pairs.shape}, no pairs of names; {REWRITE}")
    return [(_name(source), _name(target)) for source, target in pairs.reshape(-1, 2).tolist()]


def _name(text: str | bytes) -> str:
    return text.decode() if isinstance(text, bytes) else text


def read_values(group: h5py.Group) -> dict[str, Any]:
    """A group's values by name; the value of an inner group is a dict of the same kind."""
    return {
        name: read_values(item) if isinstance(item, h5py.Group) else _read_value(item) for name, item in group.items()
    }


def _read_value(dataset: h5py.Dataset) -> npt.NDArray[Any] | str | int | float:
    """A scalar, a text or an array; repeated values of a compressed or unwritten array take no memory."""
    if dataset.shape and dataset.chunks and not dataset.id.get_storage_size():
        return np.broadcast_to(dataset.fillvalue, dataset.shape)
    value = dataset[()]
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, np.ndarray):
        scalar: int | float = value.item()
        return scalar
    return np.broadcast_to(_distinct(value), value.shape) if dataset.compression else value


def _distinct(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array, cut to length one along each axis along which all values repeat bit for bit."""
    distinct = np.ascontiguousarray(collapse(array))
    bits = f"u{distinct.itemsize}"
    for axis in range(distinct.ndim if distinct.dtype.kind in "iuf" else 0):
        if distinct.shape[axis] > 1:
            first = np.ascontiguousarray(distinct.take([0], axis))
            if (distinct.view(bits) == first.view(bits)).all():
                distinct = first
    return distinct


def _scalar_or_none(item: Any) -> Any:
    return _read_value(item) if isinstance(item, h5py.Dataset) and item.shape == () else None


def _first_line(error: Exception) -> str:
    return brief(error).partition(": ")[2] or brief(error)
