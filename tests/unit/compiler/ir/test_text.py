"""Printed graphs: one node a line, the same on every machine, and different where the networks differ."""

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import pytest

from resformer.compiler.frontend.checkpoint import import_model
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.ops import LIF, Conv2d, Input, Output
from resformer.compiler.ir.primitives import constant
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import SPIKE, Signal, SignalKind
from resformer.compiler.ir.text import content_hash, format_graph
from resformer.models.spikingresformer import SpikingResformer


def test_float_nodes() -> None:
    lif = nir.LIF(
        *(constant(value, (2,)) for value in (1e-4 / 3, 1.0, 0.0, 1.0, 0.0)),
        metadata={"reset": "hard", "fires_at": ">=", "tau_steps": 1 / 3},
    )
    nodes: tuple[Node[nir.NIRNode], ...] = (
        Node("input", nir.Input({"input": np.array([2])}), (), (2,)),
        Node("a.0", nir.Affine(np.eye(2), np.zeros(2)), ("input",), (2,)),
        Node("a.1", lif, ("a.0",), (2,)),
        Node("output", nir.Output({"output": np.array([2])}), ("a.1",), (2,)),
    )
    text = format_graph(Graph(nodes, 4, {"input": "static", "dt": 1e-4}))
    assert text.splitlines() == [
        "graph timesteps=4 dt=0.0001 input=static",
        "input = Input() -> 2",
        f"a.0 = Affine(input) -> 2 weight=#{content_hash(np.eye(2))} bias=0",
        (
            "a.1 = LIF(a.0) -> 2 tau=3.33333e-05 r=1 v_leak=0 v_threshold=1 v_reset=0 "
            "fires_at=>= reset=hard tau_steps=0.333333"
        ),
        "output = Output(a.1) -> 2",
    ]


def test_integer_nodes() -> None:
    weight = np.arange(-4, 4, dtype=np.int8).reshape(2, 1, 2, 2)
    current = Signal(SignalKind.CURRENT, 11, low=-300, high=255)
    conv = Conv2d(current, weight, np.array([0, 3], np.int8), np.zeros(2, np.int32), (2, 2), (1, 1), (1, 1), 1)
    lif = LIF(SPIKE, vth=4096, du=4095, dv=2048, bias_mant=np.array([7], np.int16), bias_exp=np.array([6], np.int8))
    nodes = (
        Node("input", Input(Signal(SignalKind.GRADED, 6)), (), (1, 4, 4)),
        Node("conv", conv, ("input",), (2, 3, 3)),
        Node("lif", lif, ("conv",), (2, 3, 3)),
        Node("output", Output(current, 49, np.zeros(2)), ("lif",), (2, 3, 3)),
    )
    offsets = {"input": 0, "conv": 1, "lif": 1, "output": 1}
    exponents = content_hash(np.array([0, 3]))
    assert format_graph(Program(nodes, 4, {}, offsets)).splitlines() == [
        "program timesteps=4",
        "input = Input() -> 1x4x4 graded 2^6 @0",
        (
            f"conv = Conv2d(input) -> 2x3x3 current 2^11 [-300, 255] 10 bits weight=-4..3#{content_hash(weight)} "
            f"weight_exp=0..3#{exponents} bias=0 stride=2x2 padding=1x1 dilation=1x1 groups=1 @1"
        ),
        "lif = LIF(conv) -> 2x3x3 spike surplus=0 vth=4096 du=4095 dv=2048 bias_mant=7 bias_exp=6 @1",
        "output = Output(lif) -> 2x3x3 current 2^11 [-300, 255] 10 bits divisor=49 bias=0 @1",
    ]
    assert "@" not in format_graph(Program(nodes, 4, {}))


def test_one_line_a_node(make_model: Callable[..., SpikingResformer]) -> None:
    graph = import_model(make_model())
    lines = format_graph(graph).splitlines()
    assert [line.split(" = ")[0] for line in lines[1:]] == [node.name for node in graph]
    assert format_graph(graph) == format_graph(import_model(make_model()))
    assert format_graph(graph) != format_graph(import_model(make_model(seed=1)))


@pytest.mark.parametrize("change", [1.0, -1.0])
def test_hash_ignores_the_last_bits_and_nothing_else(change: float) -> None:
    # Mantissas far from where 20 bits round the other way.
    values = (np.random.default_rng(0).integers(2**19, 2**20, 1000) + 0.1) * 2.0**-18
    assert content_hash(np.nextafter(values, change * np.inf)) == content_hash(values)
    other = values.copy()
    other[500] *= 1 + change * 2e-6
    assert content_hash(other) != content_hash(values)


@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.int32])
def test_hash_sees_values_order_and_shape_alone(dtype: Any) -> None:
    values = np.arange(1, 13).reshape(3, 4).astype(dtype)
    assert content_hash(np.asfortranarray(values)) == content_hash(values)
    assert content_hash(values.reshape(4, 3)) != content_hash(values)
    assert content_hash(values[:, ::-1]) != content_hash(values)
    assert content_hash(-values) != content_hash(values)
