"""Equality of graphs notices every kind of difference."""

import dataclasses
from typing import Any

import nir
import numpy as np
import pytest

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.ops import Input, Output, Relay
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import Signal, SignalKind
from support.compare import first_difference

GRADED = Signal(SignalKind.GRADED, 4)


def graph(**scale: Any) -> Graph[nir.NIRNode]:
    op = nir.Scale(np.array(scale.get("values", [1.0, 2.0])), metadata=scale.get("metadata", {"a": 1}))
    nodes: tuple[Node[nir.NIRNode], ...] = (
        Node("input", nir.Input({"input": np.array([2])}), (), (2,)),
        Node(scale.get("name", "scale"), op, ("input",), (2,)),
        Node("output", nir.Output({"output": np.array([2])}), (scale.get("name", "scale"),), (2,)),
    )
    return Graph(nodes, scale.get("timesteps", 4), {"dt": 1e-4})


def program(**relay: Any) -> Program:
    bias = np.array(relay.get("bias", [1, 2]), dtype=relay.get("dtype", np.int32))
    op = Relay(relay.get("signal", GRADED), bias, limit=relay.get("limit", 9))
    nodes = (
        Node("input", Input(GRADED), (), (2,)),
        Node("relay", op, ("input",), (2,)),
        Node("output", Output(GRADED, 1, np.zeros(2)), ("relay",), (2,)),
    )
    return Program(nodes, 4, {}, relay.get("offsets"))


def test_equal() -> None:
    assert first_difference(graph(), graph()) is None
    assert first_difference(program(), program()) is None
    repeated = Graph(graph().nodes, 4, {"dt": 1e-4})
    assert first_difference(graph(), repeated) is None
    broadcast = graph(values=np.broadcast_to(np.float64(1.0), (2,)))
    assert first_difference(broadcast, graph(values=np.ones(2))) is None, "layout in memory is no difference"


@pytest.mark.parametrize(
    ("left", "right", "difference"),
    [
        (graph(), graph(values=[1.0, 2.5]), "scale: scale differs"),
        (graph(), graph(values=np.array([1.0, 2.0], dtype=np.float32)), "scale: scale differs"),
        (graph(), graph(metadata={"a": 1.0}), "scale: metadata differs"),
        (graph(), graph(metadata={}), "scale: metadata differs"),
        (graph(), graph(name="other"), "nodes: scale against other"),
        (graph(), graph(timesteps=5), "timesteps: 4 against 5"),
        (graph(), dataclasses.replace(graph(), metadata={"dt": 2e-4}), "metadata: "),
        (graph(), dataclasses.replace(graph(), nodes=graph().nodes[:2]), "3 nodes against 2"),
        (graph(), program(), "Graph against Program"),
        (program(), program(bias=[1, 3]), "relay: bias differs"),
        (program(), program(dtype=np.int64), "relay: bias differs"),
        (program(), program(limit=8), "relay: limit differs"),
        (program(), program(signal=Signal(SignalKind.GRADED, 4, 0, 1)), "relay: signal differs"),
        (program(), program(offsets={"input": 0}), "offsets: None against"),
    ],
)
def test_differences(left: Graph[Any], right: Graph[Any], difference: str) -> None:
    found = first_difference(left, right)
    assert found is not None
    assert found.startswith(difference)


def test_inputs_shapes_and_types_of_nodes() -> None:
    def changed(**changes: Any) -> Graph[nir.NIRNode]:
        nodes = graph().nodes
        return dataclasses.replace(graph(), nodes=(nodes[0], dataclasses.replace(nodes[1], **changes), nodes[2]))

    assert first_difference(graph(), changed(inputs=("input", "input"))) is not None
    assert first_difference(graph(), changed(shape=(2, 1))) is not None
    assert first_difference(graph(), changed(op=nir.Linear(np.eye(2)))) == "scale: Scale against Linear"
