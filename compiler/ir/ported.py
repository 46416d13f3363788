"""NIR graphs whose nodes take several inputs; they and our nodes are registered with NIR.

NIR 1.0.8 can write any dataclass but reads a closed list of types; :func:`register` extends that list. Importing
``resformer`` calls it.
"""

from __future__ import annotations

import json
from typing import Any

import nir
import nir.ir
import numpy as np

from resformer.compiler.ir.arrays import InvariantError
from resformer.compiler.ir.primitives import EXTENSIONS
from resformer.compiler.ir.shapes import check_shape

PORTS = "resformer"
"""The key of a node's metadata in NIR files that holds its ordered inputs and the shape of its output."""


class PortedGraph(nir.NIRGraph):
    """A ``nir.NIRGraph`` whose nodes may take several inputs, each of a shape of its own, as SpikeMatMul does.

    NIR allows a node one input, and computes the channels of a grouped convolution wrongly. So types are not inferred
    here but read. Each node's metadata hold, under ``PORTS``, its ``inputs`` (JSON, a list of names in order) and its
    output's ``shape``. The check compares ``inputs`` with the edges, and ``shape`` with what the node makes of them.
    """

    @classmethod
    def from_dict(cls, kwargs: dict[str, Any]) -> PortedGraph:
        """Build the graph from the dictionary that ``nir.read`` reads or ``to_dict`` makes."""
        return cls(
            nodes={name: nir.dict2NIRNode(node) for name, node in kwargs["nodes"].items()},
            edges=[(_text(source), _text(target)) for source, target in kwargs["edges"]],
            metadata=kwargs.get("metadata", {}),
            type_check=kwargs.get("type_check", True),
        )

    def infer_types(self) -> None:
        """Give each node the types that its metadata state.

        Raises:
            ValueError: An edge ends nowhere or occurs twice, or a node's metadata do not state its types.
        """
        self.validate_structure()
        for name, node in self.nodes.items():
            sources = self._sources(name)
            node.output_type = {"output": np.asarray(node.metadata[PORTS]["shape"])}
            first = self.nodes[sources[0]] if sources else node
            node.input_type = {"input": np.asarray(first.metadata[PORTS]["shape"])}

    def check_types(self) -> bool:
        """Check that each node makes its stated shape of its inputs' shapes, and that the edges are those inputs.

        Raises:
            ValueError: A shape or an edge differs; the message begins with the node's name.
        """
        ends: dict[str, set[str]] = {}
        for source, target in self.edges:
            ends.setdefault(target, set()).add(source)
        for name, node in self.nodes.items():
            sources = self._sources(name)
            edges = ends.get(name, set())
            if edges != set(sources):
                raise ValueError(
                    f"{name}: its inputs are {sorted(set(sources))}, but its edges come from {sorted(edges)}"
                )
            shapes = [_shape(self.nodes[source]) for source in sources]
            try:
                check_shape(node, shapes, _shape(node))
            except AssertionError as error:
                raise ValueError(f"{name}: {error}") from error
        return True

    def _sources(self, name: str) -> list[str]:
        """The names of a node's inputs, in order."""
        ports = self.nodes[name].metadata.get(PORTS, {})
        if "inputs" not in ports or "shape" not in ports:
            raise ValueError(f"{name}: its metadata state no inputs and shape under {PORTS!r}")
        sources: list[str] = json.loads(ports["inputs"])
        missing = [source for source in sources if source not in self.nodes]
        if missing:
            raise ValueError(f"{name}: reads {missing[0]}, which does not exist")
        return sources


def register() -> None:
    """Let ``nir.read`` and ``nir.dict2NIRNode`` build our nodes; calling it again changes nothing."""
    extensions: tuple[type[nir.NIRNode], ...] = (*EXTENSIONS, PortedGraph)
    for extension in extensions:
        if extension.__name__ not in nir.ir.__all_ir:
            nir.ir.__all_ir.append(extension.__name__)
            setattr(nir.ir, extension.__name__, extension)


def _shape(node: nir.NIRNode) -> tuple[int, ...]:
    shape = node.output_type["output"]
    if shape is None:
        raise InvariantError("infer_types has not run")
    return tuple(int(size) for size in shape)


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


register()
