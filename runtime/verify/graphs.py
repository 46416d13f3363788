"""The float graphs of a network that a verification compares: as imported, after each float pass, and a build's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import nir

from resformer.compiler.files.build import PROGRAM, Build
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import NEURONS
from resformer.compiler.ir.program import Scheduled
from resformer.compiler.pipeline import FloatPass
from resformer.errors import FileFormatError

A_FILE = "file"
"""How the name of a float graph begins if the graph was read from a build."""


def with_file_graph(
    graphs: Mapping[str, Graph[nir.NIRNode]], build: Build, program: Scheduled
) -> dict[str, Graph[nir.NIRNode]]:
    """The graphs that ``float_graphs`` made, and the float graph as the build's file holds it.

    Raises:
        FileFormatError: The file's populations are not the program's.
    """
    wanted = set(program.spiking_names)
    for stage, each in graphs.items():
        assert populations(each) == wanted, f"{stage}: its populations are not the program's"
    return {**graphs, f"{A_FILE} {build.network_path.name}": file_graph(build, program)}


def file_graph(build: Build, program: Scheduled) -> Graph[nir.NIRNode]:
    """The float graph as the build's file holds it.

    Raises:
        FileFormatError: Its populations are not the program's.
    """
    path, network = build.network_path, build.network()
    differing = sorted(populations(network) ^ set(program.spiking_names))
    if differing:
        raise FileFormatError(
            f"{path}: its populations are not those of {PROGRAM}: only one of the two files has {differing[0]}; "
            "compile the model again"
        )
    return network


def populations(graph: Graph[nir.NIRNode]) -> set[str]:
    """The names of a float graph's populations."""
    return {node.name for node in graph if isinstance(node.op, NEURONS)}


def float_graphs(graph: Graph[nir.NIRNode], passes: Sequence[FloatPass]) -> dict[str, Graph[nir.NIRNode]]:
    """The float graph as imported, and after each float pass."""
    graphs = {"import": graph}
    for float_pass in passes:
        graph = float_pass(graph)
        graphs[float_pass.__name__] = graph
    return graphs
