"""Reads NIR files that resformer wrote, with all nodes in their order, including the nodes that NIR lacks.

If ``network.nir`` was made from a checkpoint or a NIR file, it is the float graph after all float passes, so no pass is
left to run. If it was made from a module, it holds the module's own layers, and all passes are still to run. The
graph's metadata hold what no node says: T, dt, the kind of input, and for a quantized network the input's scale.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import h5py
import nir

from resformer.compiler.files.nir import open_nir, read_nir
from resformer.compiler.ir.graph import NETX, Graph
from resformer.compiler.ir.neurons import HARD
from resformer.compiler.ir.ported import PORTS, PortedGraph
from resformer.compiler.ir.primitives import DiscreteCubaLIF, InputKind, as_neurons, collapse
from resformer.compiler.ir.tie_shifts import without_tie_shifts
from resformer.errors import FileFormatError, InputError
from resformer.models.limits import quote

MODULE, ZOO = "module", "zoo"
"""The values of ``source`` in the metadata of a network whose float passes are still to run."""
SAME_DT = 1e-9
"""Relative tolerance for the dt that a user types, which is a rounded decimal."""


def read_own(path: str | Path) -> Graph[nir.NIRNode] | None:
    """The float graph that resformer wrote into a file; None if another tool wrote the file.

    A file of NIR's own nodes may have been changed since, so that resformer's metadata no longer fit it. Such a file
    counts as one of another tool.

    Raises:
        FileFormatError: The file is absent or damaged, or it is a ``PortedGraph`` that was changed.
    """
    kind, ours = open_nir(path, _marks)
    if not ours:
        return None
    try:
        graph = read_nir(path)
        _check_neurons(path, graph)
    except FileFormatError:
        if kind == PortedGraph.__name__:
            raise
        return None
    return graph


def import_own(
    path: str | Path,
    graph: Graph[nir.NIRNode],
    *,
    dt: float | None = None,
    timesteps: int | None = None,
    input_kind: InputKind | None = None,
) -> Graph[nir.NIRNode]:
    """Turn a float graph that resformer wrote into a network to compile.

    Args:
        path: The file, for errors.
        graph: The graph, as ``read_own`` returns it.
        dt: Seconds per step, which must equal the file's, because its neurons are in steps already; None: the file's.
        timesteps: T; None: the file's.
        input_kind: "static" if samples are real numbers, "frames" if they are counts of events; None: the file's.

    Raises:
        FileFormatError: The kind of input is unknown, or a quantized network's metadata on ties are damaged.
        InputError: dt differs from the file's, or T is not a whole number of at least 1.
    """
    own = float(graph.metadata["dt"])
    if dt is not None and not math.isclose(dt, own, rel_tol=SAME_DT):
        raise InputError(
            f"{path}: dt is {dt:g} seconds, but resformer wrote this network for steps of {own:g}; leave out --dt, or "
            "compile the network that it was made of"
        )
    steps = graph.timesteps if timesteps is None else timesteps
    if steps < 1 or int(steps) != steps:
        raise InputError(f"{path}: timesteps is {steps:g}; give a whole --timesteps of at least 1")
    kind = input_kind or graph.metadata.get("input", "static")
    if kind not in get_args(InputKind):
        shown = quote(kind)
        raise FileFormatError(
            f"{path}: its input is {shown}, none of {', '.join(get_args(InputKind))}; compile the network again"
        )
    source = NETX if graph.metadata.get("source") == NETX else "nir"
    metadata = {"reset": HARD, **graph.metadata, "input": kind, "source": source}
    return replace(without_tie_shifts(graph), timesteps=int(steps), metadata=metadata)


def is_modules(graph: Graph[nir.NIRNode]) -> bool:
    """Whether all float passes are still to run on a graph that ``read_own`` returned."""
    return graph.metadata.get("source") in (MODULE, ZOO)


def _marks(file: h5py.File) -> tuple[Any, bool]:
    """The type of graph that a file holds, and whether resformer wrote the file."""
    root = file.get("node")
    if not isinstance(root, h5py.Group) or not isinstance(root.get("metadata"), h5py.Group):
        return None, False
    metadata = root["metadata"]
    ours = isinstance(metadata.get(PORTS), h5py.Group) and "format_version" in metadata[PORTS]
    kind = root["type"][()] if isinstance(root.get("type"), h5py.Dataset) else b""
    return kind.decode() if isinstance(kind, bytes) else kind, ours


def _check_neurons(path: str | Path, graph: Graph[nir.NIRNode]) -> None:
    """Check that neurons in steps fire only if they are driven, as every importer ensures.

    Raises:
        FileFormatError: A threshold is not positive.
    """
    for node in graph:
        if isinstance(node.op, DiscreteCubaLIF):
            least = float(collapse(as_neurons(node.op).v_threshold).min())
            if least <= 0:
                raise FileFormatError(
                    f"{path}: {node.name}: v_threshold is {least:.4g}; it must be positive; compile the network again"
                )
