"""Float graphs as NIR files (HDF5), lossless; ``nir.read`` returns them too once resformer is imported.

The layout is that of ``nir.write``. What NIR has no place for (the order of a node's inputs, its output's shape, T) is
kept under the key ``resformer`` of each node's metadata and of the graph's, where NIR's own tools leave it alone.
Arrays of one value, such as a population's threshold, are stored as that value: an HDF5 data set that was never written
to reads as its fill value.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import h5py
import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.primitives import EXTENSIONS, PORTS, PortedGraph, collapse
from resformer.compiler.ir.verify import verify_graph
from resformer.errors import FileFormatError

ContentT = TypeVar("ContentT")

FORMAT_VERSION = 1

NODE_TYPES: dict[str, type[nir.NIRNode]] = {
    each.__name__: each
    for each in (
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
}
"""What a file may hold."""

COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
"""For arrays that repeat themselves. Weights do not: gzip would take a tenth off them and minutes of time."""


def write_nir(graph: Graph[nir.NIRNode], path: str | Path) -> None:
    """Write a float graph; equal graphs make equal files.

    Raises:
        AssertionError: A node's name or metadata cannot be held by HDF5.
        OSError: The file cannot be written.
    """
    # through memory: on a full disk, HDF5 cannot even close its file
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["version"] = nir.version
        root = file.create_group("node")
        root["type"] = PortedGraph.__name__
        root["edges"] = [(source, node.name) for node in graph for source in dict.fromkeys(node.inputs)]
        facts = {"format_version": FORMAT_VERSION, "timesteps": graph.timesteps}
        _write(root, "metadata", {**graph.metadata, PORTS: facts}, where="metadata")
        nodes = root.create_group("nodes")
        for position, node in enumerate(graph):
            _write(nodes, node.name, _node_fields(node, position), where=node.name)
    Path(path).write_bytes(buffer.getbuffer())


def _node_fields(node: Node[nir.NIRNode], position: int) -> dict[str, Any]:
    """What a node's group holds: its type, its fields as NIR names them in files, its metadata and our own facts."""
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
    values["metadata"] = {**op.metadata, PORTS: facts}
    return {"type": type(op).__name__, **values}


def _write(group: h5py.Group, name: str, value: Any, *, where: str) -> None:
    """Add a value to a group under a name."""
    holdable = "/" not in name and name not in ("", ".")
    assert holdable, f"{where}: HDF5 cannot hold the name {name!r}"
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
        assert integers or isinstance(value, (str, int, float)), f"{where}: a file cannot hold a {type(value).__name__}"
        group[name] = value


def read_nir(path: str | Path) -> Graph[nir.NIRNode]:
    """Read a float graph that :func:`write_nir` wrote.

    Raises:
        FileFormatError: The file is absent, damaged, or holds something else; the message names the file and the node.
    """
    return open_nir(path, _read_graph)


def open_nir(path: str | Path, read: Callable[[h5py.File], ContentT]) -> ContentT:
    """What a function reads from a file.

    Raises:
        FileFormatError: The file is absent, damaged, or holds something else; the message names the file.
    """
    try:
        with h5py.File(path, "r") as file:
            return read(file)
    except FileNotFoundError:
        raise FileFormatError(f"{path}: no such file") from None
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from error
    except KeyError as error:
        raise FileFormatError(f"{path}: incomplete ({_first_line(error)}); write the network again") from error
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = "truncated" if "truncated" in str(error) else "damaged, or no NIR file"
        raise FileFormatError(f"{path}: {reason} ({_first_line(error)}); write the network again") from error


def _read_graph(file: h5py.File) -> Graph[nir.NIRNode]:
    root = file.get("node")
    if not isinstance(root, h5py.Group) or _scalar_or_none(root.get("type")) != PortedGraph.__name__:
        raise FileFormatError("no NIR graph written by resformer; compile the network with resformer-compile")
    metadata = read_values(root["metadata"]) if "metadata" in root else {}
    facts = metadata.pop(PORTS, {})
    version = facts.get("format_version")
    if version != FORMAT_VERSION:
        raise FileFormatError(
            f"format version {version}, but this resformer reads version {FORMAT_VERSION}; compile the network again"
        )
    groups = root["nodes"]
    nodes = sorted((_read_node(name, groups[name]) for name in groups), key=lambda each: each[0])
    graph = Graph(tuple(node for _, node in nodes), facts["timesteps"], metadata)
    edges = {(source.decode(), target.decode()) for source, target in root["edges"][()]}
    for source, target in edges:
        for end in (source, target):
            if end not in graph:
                raise FileFormatError(f"{end}: an edge from {source} to {target} ends there, but there is no such node")
    for node in graph:
        if {(source, node.name) for source in node.inputs} != {edge for edge in edges if edge[1] == node.name}:
            raise FileFormatError(f"{node.name}: its list of inputs and its edges differ")
    try:
        verify_graph(graph)
    except AssertionError as error:
        raise FileFormatError(str(error)) from error
    return graph


def _read_node(name: str, group: h5py.Group) -> tuple[int, Node[nir.NIRNode]]:
    """A node's position among all, and the node."""
    try:
        values = read_values(group)
    except (OSError, RuntimeError, ValueError) as error:
        raise FileFormatError(f"{name}: damaged ({_first_line(error)}); compile the network again") from error
    kind = values.get("type")
    if kind not in NODE_TYPES:
        raise FileFormatError(f"{name}: unknown node type {kind!r}; known are {', '.join(sorted(NODE_TYPES))}")
    facts = values.get("metadata", {}).pop(PORTS, None)
    if facts is None:
        raise FileFormatError(f"{name}: no ordered inputs and shape in its metadata; compile the network again")
    if kind == nir.Conv2d.__name__:
        values.setdefault("input_shape", None)
        for field in ("input_shape", "stride", "padding", "dilation"):
            if isinstance(values.get(field), np.ndarray):
                values[field] = tuple(values[field].tolist())
    try:
        op = NODE_TYPES[kind].from_dict(values)
        inputs = tuple(json.loads(facts["inputs"]))
        return facts["position"], Node(name, op, inputs, tuple(facts["shape"].tolist()))
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise FileFormatError(f"{name}: no valid {kind}: {_first_line(error)}") from error


def read_values(group: h5py.Group) -> dict[str, Any]:
    """A group's values by name, its own groups likewise."""
    return {
        name: read_values(item) if isinstance(item, h5py.Group) else _read_value(item) for name, item in group.items()
    }


def _read_value(dataset: h5py.Dataset) -> npt.NDArray[Any] | str | int | float:
    """A scalar, or an array; what repeats in one takes no memory."""
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
    """The array with each axis along which all repeats, bit for bit, cut to length one."""
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
    return str(error).partition("\n")[0]
