"""The verifiers: silent on what the compiler makes, and loud, naming the node, on anything broken."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import pytest

from resformer.compiler.frontend.checkpoint import import_model
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import SPIKE, Signal, SignalKind
from resformer.compiler.ir.verify import verify_graph, verify_program
from resformer.compiler.passes.integer.balance_delays import balance_delays
from resformer.compiler.passes.integer.bound_ranges import bound_ranges
from resformer.compiler.passes.integer.place_biases import place_biases
from resformer.compiler.pipeline import CHECKPOINT
from resformer.compiler.quantize.choose import QuantizationConfig, choose_plan
from resformer.compiler.quantize.lower import quantize
from resformer.compiler.quantize.ranges import estimated_ranges
from resformer.models.spikingresformer import SpikingResformer


@pytest.fixture(scope="module")
def graph(make_model: Callable[..., SpikingResformer]) -> Graph[nir.NIRNode]:
    return import_model(make_model())


@pytest.fixture(scope="module")
def quantized(graph: Graph[nir.NIRNode]) -> Program:
    for float_pass in CHECKPOINT.float_passes:
        graph = float_pass(graph)
    return quantize(graph, choose_plan(graph, estimated_ranges(graph), QuantizationConfig(), measured=False))


@pytest.fixture(scope="module")
def program(quantized: Program) -> Program:
    return balance_delays(bound_ranges(place_biases(quantized)))


def with_op(graph: Graph[Any], name: str, **changes: Any) -> Graph[Any]:
    """The graph with some fields of one operation changed."""
    return with_node(graph, name, op=dataclasses.replace(graph[name].op, **changes))


def with_node(graph: Graph[Any], name: str, **changes: Any) -> Graph[Any]:
    nodes = tuple(dataclasses.replace(node, **changes) if node.name == name else node for node in graph)
    return dataclasses.replace(graph, nodes=nodes)


def assert_refused(verify: Callable[[Any], None], graph: Graph[Any], complaint: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        verify(graph)


def test_what_the_compiler_makes_is_sound(graph: Graph[nir.NIRNode], quantized: Program, program: Program) -> None:
    verify_graph(graph)
    verify_program(quantized)
    verify_program(program)


def swapped(graph: Graph[Any], left: int, right: int) -> Graph[Any]:
    nodes = list(graph.nodes)
    nodes[left], nodes[right] = nodes[right], nodes[left]
    return dataclasses.replace(graph, nodes=tuple(nodes))


def test_structure(graph: Graph[nir.NIRNode]) -> None:
    nodes = graph.nodes
    broken = [
        (swapped(graph, 1, 2), "prologue.1: reads prologue.0, which does not come before it"),
        (swapped(graph, 0, 1), "prologue.0: reads input"),
        (dataclasses.replace(graph, nodes=nodes[1:]), "prologue.0: reads input"),
        (dataclasses.replace(graph, nodes=nodes[:-1]), "classifier: the output must come last"),
        (dataclasses.replace(graph, nodes=(nodes[0], *nodes)), "input: two nodes have this name"),
        (dataclasses.replace(graph, nodes=()), "a graph without nodes"),
        (with_node(graph, "layers.0.0.add", inputs=("prologue.2",) * 2), "layers.0.0.norm_proj: nothing reads it"),
        (dataclasses.replace(graph, timesteps=0), "timesteps is 0"),
        (dataclasses.replace(graph, timesteps=4.0), "timesteps is 4.0"),
        (dataclasses.replace(graph, metadata={"dt": 1e-4, "shape": (1,)}), "metadata: shape is a tuple"),
        (dataclasses.replace(graph, metadata={}), "metadata: dt is None"),
        (dataclasses.replace(graph, metadata={"dt": 0.0}), "metadata: dt is 0.0"),
    ]
    for each, complaint in broken:
        assert_refused(verify_graph, each, complaint)


def test_second_input(graph: Graph[nir.NIRNode]) -> None:
    extra = Node("more", nir.Input({"input": np.array([2, 16, 16])}), (), (2, 16, 16))
    nodes = (graph.nodes[0], extra, *graph.nodes[1:])
    assert_refused(verify_graph, dataclasses.replace(graph, nodes=nodes), "more: the input must come first")


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("prologue.0", {"weight": np.full((8, 2, 7, 7), np.nan)}, "weight holds NaN"),
        ("prologue.0", {"bias": np.full(8, np.inf)}, "bias holds NaN or infinite"),
        ("prologue.0", {"weight": np.zeros((8, 2, 7, 7), np.float32)}, "weight is float32, not float64"),
        ("prologue.0", {"weight": np.zeros((8, 3, 7, 7))}, "weights for 3 x 1 channels, but 2 come in"),
        ("prologue.0", {"stride": (1, 1)}, "makes shape (8, 16, 16), but its node says (8, 8, 8)"),
        ("prologue.1", {"running_var": np.full(8, -1.0)}, "running_var + eps is not positive"),
        ("layers.0.0.matmul1", {"part": "y3"}, "part is 'y3'"),
        ("layers.0.0.activation_in", {"tau": np.zeros((8, 4, 4))}, "tau is not positive"),
        ("layers.0.0.activation_in", {"v_threshold": np.zeros((8, 4, 4))}, "v_threshold is not positive"),
        ("layers.0.0.activation_in", {"tau": np.full((8, 4, 4), 3e-4)}, "tau_steps is 2.0, but tau / dt is not"),
        ("layers.0.0.activation_in", {"metadata": {"fires_at": ">="}}, "metadata: reset is None, none of"),
        (
            "layers.0.0.activation_in",
            {"metadata": {"reset": "hard", "fires_at": "<", "tau_steps": 2.0}},
            "metadata: fires_at is '<', not '>=' or '>'",
        ),
        (
            "layers.0.0.activation_in",
            {"metadata": {"reset": "hard", "fires_at": ">=", "tau_steps": 2.0, "dt_over_tau": 0.6}},
            "dt_over_tau is 0.6, but dt / tau is not",
        ),
    ],
)
def test_float_operations(graph: Graph[nir.NIRNode], name: str, changes: dict[str, Any], complaint: str) -> None:
    assert_refused(verify_graph, with_op(graph, name, **changes), f"{name}: {complaint}")


def test_gates_are_spikes(graph: Graph[nir.NIRNode]) -> None:
    real = with_node(graph, "layers.0.0.matmul1", inputs=("layers.0.0.norm", "prologue.2"))
    assert_refused(verify_graph, real, "layers.0.0.matmul1: is gated by prologue.2 (MaxPool2d), no neurons")


def bounded(kind: SignalKind, scale_exp: int, low: int, high: int) -> dict[str, Any]:
    return {"signal": Signal(kind, scale_exp, low, high)}


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("prologue.0", {"weight": np.zeros((8, 2, 7, 7), np.int32)}, "weight is int32, not int8"),
        ("prologue.0", {"weight": np.full((8, 2, 7, 7), -128, np.int8)}, "weight spans [-128, -128]"),
        ("prologue.0", {"weight_exp": np.full(8, 8, np.int8)}, "weight_exp spans [8, 8], beyond [0, 7]"),
        ("prologue.0", {"weight_exp": np.zeros(1, np.int8)}, "weight_exp has shape (1,)"),
        ("prologue.0", {"bias": np.zeros(8, np.int64)}, "bias is int64, not int32"),
        ("prologue.0", {"signal": SPIKE}, "makes a spike, where it should make a current"),
        ("classifier", {"weight_exp": -1}, "weight_exp spans [-1, -1]"),
        ("layers.0.1.up.0", {"vth": 2**17}, "vth spans [131072, 131072], beyond [0, 131071]"),
        ("layers.0.1.up.0", {"dv": 4097}, "dv spans [4097, 4097]"),
        ("layers.0.1.up.0", {"du": 4096}, "du spans [4096, 4096]"),
        ("layers.0.1.up.0", {"bias_mant": np.full(8, 4096, np.int16)}, "bias_mant spans [4096, 4096]"),
        ("layers.0.1.up.0", {"bias_exp": np.full(8, 8, np.int8)}, "bias_exp spans [8, 8]"),
        ("layers.0.1.up.0", {"bias_exp": np.zeros(1, np.int8)}, "bias_mant and bias_exp differ in shape"),
        ("layers.0.1.up.0", {"signal": Signal(SignalKind.GRADED, 0)}, "makes a graded, where it should make a spike"),
        ("layers.0.0.add.relay", {"limit": 2**23}, "limit spans [8388608, 8388608]"),
        ("layers.0.0.add.relay", bounded(SignalKind.GRADED, 0, 3, 2), "low 3 above high 2"),
        ("layers.0.0.add.relay", bounded(SignalKind.GRADED, 0, 0, 2**23), "a graded value spans"),
        ("layers.0.0.matmul1", {"limit": -1}, "limit spans [-1, -1]"),
        ("output", {"divisor": 0}, "divisor is 0"),
        ("output", {"bias": np.full(5, np.nan)}, "bias holds NaN"),
    ],
)
def test_integer_formats(program: Program, name: str, changes: dict[str, Any], complaint: str) -> None:
    assert_refused(verify_program, with_op(program, name, **changes), f"{name}: {complaint}")


def test_signals(program: Program) -> None:
    add = program["layers.0.0.add"].op.signal
    one_off = dataclasses.replace(add, scale_exp=add.scale_exp + 1)
    relay = program["layers.0.0.add.relay"].op.signal
    wide = dataclasses.replace(relay, low=-(2**17), high=0)
    broken = [
        (with_op(program, "layers.0.0.add", signal=one_off), "layers.0.0.add: scale 2^"),
        (with_node(program, "layers.0.1.up.0", inputs=("layers.0.0.activation_in",)), "which no synapse has weighted"),
        (with_op(program, "layers.0.0.add.relay", signal=wide), "layers.0.1.up.0: a neuron's input spans [-131072, 0]"),
    ]
    for each, complaint in broken:
        assert_refused(verify_program, each, complaint)


def test_gates_of_integer_products_are_spikes(quantized: Program) -> None:
    graded = with_node(quantized, "layers.0.0.matmul1", inputs=("layers.0.0.W.y1", "prologue.2"))
    assert_refused(verify_program, graded, "layers.0.0.matmul1: is gated by a graded, not by spikes")

    spikes = with_node(quantized, "layers.0.0.matmul1", inputs=("layers.0.0.activation_in",) * 2, shape=(1, 16, 16))
    unread = quantized["layers.0.0.W.y1"]
    spikes = dataclasses.replace(spikes, nodes=tuple(node for node in spikes if node is not unread))
    spikes = with_op(spikes, "layers.0.0.matmul1", bias=np.zeros(8, np.int32))
    assert_refused(verify_program, spikes, "layers.0.0.matmul1: y is a spike")


def test_schedule(program: Program, quantized: Program) -> None:
    assert program.offsets is not None
    late = program.offsets | {"layers.0.1.up.1": program.offsets["layers.0.1.up.1"] + 1}
    missing = {name: step for name, step in program.offsets.items() if name != "classifier"}
    unbalanced = bound_ranges(place_biases(quantized))
    hops = balance_delays(unbalanced).offsets
    assert hops is not None
    (delay,) = (node for node in program if node.name == "layers.0.0.matmul1.delay")
    undelayed = with_node(program, "layers.0.0.matmul1", inputs=("layers.0.0.W.y1", delay.inputs[0]))
    undelayed = dataclasses.replace(undelayed, nodes=tuple(node for node in undelayed if node is not delay))
    broken = [
        (dataclasses.replace(program, offsets=late), "layers.0.1.up.1: is at step"),
        (dataclasses.replace(program, offsets=missing), "classifier: has no step"),
        (undelayed, "layers.0.0.matmul1: inputs meet at steps"),
    ]
    for each, complaint in broken:
        assert_refused(verify_program, each, complaint)


def test_scheduled_synapses_read_neurons(program: Program) -> None:
    assert program.offsets is not None
    direct = with_node(program, "avgpool", inputs=("layers.1.2.add",))
    relay = direct["layers.1.2.add.relay"]
    direct = dataclasses.replace(direct, nodes=tuple(node for node in direct if node is not relay))
    assert_refused(verify_program, direct, "avgpool: synapses read layers.1.2.add, a current that no neuron sends")
