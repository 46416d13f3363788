"""NIR files that resformer wrote, read as they were written: every node in its order, ours among them.

``network.nir`` of a checkpoint or of a NIR file is the float graph after all float passes, so none is left to run; that
of a module is its own layers, whose passes are all to come. What no node tells stands in the graph's metadata: T, dt,
the kind of input, and of a quantized network the input's scale.
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
"""What the metadata say under ``source`` of a network whose float passes are still to run."""
SAME_DT = 1e-9
"""Relative; what a user types of a dt is a rounded decimal."""


def read_own(path: str | Path) -> Graph[nir.NIRNode] | None:
    """The float graph that resformer wrote into a file; None where the file is someone else's.

    A file of NIR's own nodes that was changed since, so that our notes no longer fit it, counts as someone else's.

    Raises:
        FileFormatError: It is absent or damaged, or holds nodes of ours that were changed.
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
    """A float graph of our own as a network to compile.

    Args:
        path: For errors.
        graph: As ``read_own`` returns it.
        dt: Seconds a step, which must be the file's: its neurons are in steps already. None: the file's.
        timesteps: T; None: the file's.
        input_kind: Whether samples are real numbers, or counts of events; None: what the file says.

    Raises:
        FileFormatError: What a quantized network says of ties is damaged.
        InputError: dt is another, or T is not positive.
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
    """Whether a graph that ``read_own`` returned has all of its float passes still to come."""
    return graph.metadata.get("source") in (MODULE, ZOO)


def _marks(file: h5py.File) -> tuple[Any, bool]:
    """What kind of graph a file holds, and whether we wrote it."""
    root = file.get("node")
    if not isinstance(root, h5py.Group) or not isinstance(root.get("metadata"), h5py.Group):
        return None, False
    metadata = root["metadata"]
    ours = isinstance(metadata.get(PORTS), h5py.Group) and "format_version" in metadata[PORTS]
    kind = root["type"][()] if isinstance(root.get("type"), h5py.Dataset) else b""
    return kind.decode() if isinstance(kind, bytes) else kind, ours


def _check_neurons(path: str | Path, graph: Graph[nir.NIRNode]) -> None:
    """See that neurons in steps fire only if driven, which every importer sees to.

    Raises:
        FileFormatError: They do not.
    """
    for node in graph:
        if isinstance(node.op, DiscreteCubaLIF):
            least = float(collapse(as_neurons(node.op).v_threshold).min())
            if least <= 0:
                raise FileFormatError(
                    f"{path}: {node.name}: v_threshold is {least:.4g}; it must be positive; compile the network again"
                )
