"""Every operation, of either level, through every table that must know it: an entry, or a refusal stated here."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import nir
import numpy as np
import pytest

from resformer.compiler.backends import open_backend
from resformer.compiler.backends.sim import SimBackend
from resformer.compiler.chips.chip import load_chip
from resformer.compiler.export.onnx.float_model import _Writer as FloatWriter
from resformer.compiler.export.onnx.integer_model import _Writer as IntegerWriter
from resformer.compiler.files.program import read_program, write_program
from resformer.compiler.files.report import NodeFacts
from resformer.compiler.ir import float_interpreter, primitives, reference
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.ops import (
    LIF,
    OPERATIONS,
    CeilMaxPool2d,
    CubaLI,
    CubaLIF,
    Delay,
    Input,
    Op,
    Outcome,
    RecurrentCubaLIF,
    Relay,
    SampleDelay,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
)
from resformer.compiler.ir.ops.formats import formats_of
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.shapes import output_shape
from resformer.compiler.ir.signal import SPIKE
from resformer.compiler.ir.text import format_graph
from resformer.compiler.placement.place import place
from resformer.compiler.quantize.lower import quantize
from resformer.compiler.quantize.plan import QuantizationPlan
from resformer.errors import ResformerError, UnsupportedError
from support.compare import first_difference
from support.networks import with_input_range
from support.program_builder import CURRENT, GRADED, ProgramBuilder
from support.traces import assert_same_trace

CLASSES = [pytest.param(each, id=name) for name, each in OPERATIONS.items()]


def everything() -> tuple[Program, np.ndarray]:
    """A program that holds each operation."""
    net = ProgramBuilder((4, 8, 8))
    x = net.max_pool("pool", net.conv("stem", "input", 4), (3, 3), (2, 2), (1, 1))
    x = net.add("edge", CeilMaxPool2d(GRADED, (3, 3), (1, 1), (0, 0), (2, 2)), x)
    spikes = net.lif("lif", x)
    late = net.add("late", SampleDelay(SPIKE, np.ones((4, 1, 1), np.int32)), spikes)
    y = net.conv("y", spikes, 4, (2, 2), stride=(2, 2))
    scores = net.lif("scores", net.matmul("product", y, spikes, heads=2, transpose=True, limit=60000))
    out = net.relay("relay", net.matmul("values", y, scores, heads=2, transpose=False, limit=60000), limit=3000)
    attended = net.add(
        "attention", SpikeAttention(CURRENT, num_heads=2, weight_exp=3, limit=60000), spikes, late, spikes
    )
    beside = net.conv("beside", net.lif("attended", attended), 4)
    fired = net.cuba_lif("cuba", net.plus("add", out, net.conv("side", late, 4), beside))
    again = net.cuba_lif("recurrent", net.conv("to", fired, 4), kernel=(1, 1), spread=(True, False, False))
    wide = net.cuba_lif("wide", net.conv("of", again, 4), kernel=(3, 3), weight_bits=12)
    prompt = net.cuba_lif("prompt", net.conv("upon", wide, 4), soft_reset=True, prompt=True)
    gate = net.add("gate", SpikeGate.of("and", 2), fired, prompt)
    counts = net.multi_spike("counts", net.conv("toward", gate, 4))
    levels = net.integer_lif("levels", net.conv("out of", counts, 4))
    li = net.cuba_li("li", net.conv("on", levels, 4))
    held = net.add("held", Relay(GRADED, np.zeros(4, np.int32), 2**20, 6), li)
    area = net.relay("area.relay", net.sum_pool("area", held, (4, 4), (4, 4)), limit=2**20)
    net.dense("dense", net.flatten("flat", area), 3)
    samples = net.samples(2, timesteps=3)
    return with_input_range(net.finish(timesteps=3), samples), samples


def test_the_program_holds_them_all() -> None:
    assert {type(node.op) for node in everything()[0]} == set(OPERATIONS.values())


@pytest.mark.parametrize("op", CLASSES)
def test_an_operation_states_its_facts(op: type[Op]) -> None:
    assert set(formats_of(op)) == {field.name for field in fields(op)} - {"signal"}
    wanted = {"output_shape", "interval", "sums", "carry_bias", "evaluate"}
    # the input has no rule of shape and no definition, and delays are added after biases are placed; the base class
    # bounds values that merely pass
    left_out = {Input: {"output_shape", "evaluate"}, Delay: {"carry_bias"}}.get(op, set())
    own = {name for name in wanted - left_out - {"sums"} if getattr(op, name) is getattr(Op, name)}
    assert own == set(), f"{op.__name__} lacks {own}"


TOLD_OTHERWISE = {"bias_mant": "bias", "bias_exp": "bias", "soft_reset": "reset", "even": "rounds_half"}
"""Fields of neurons and relays that ``report.json`` states under other names."""


def test_the_report_holds_the_integers_of_neurons_and_relays() -> None:
    told = set()
    for node in everything()[0]:
        facts = node.op.facts()
        assert facts.keys() <= NodeFacts.__annotations__.keys()
        if not node.op.clips or isinstance(node.op, SpikeMatMul | SpikeAttention):
            continue
        names = {field.name for field in fields(node.op)} - {"signal"}
        if isinstance(node.op, RecurrentCubaLIF):  # the report states its synapses as a layer's
            names &= {field.name for field in fields(CubaLIF)}
        assert {TOLD_OTHERWISE.get(name, name) for name in names} <= facts.keys(), node.name
        told.add(type(node.op))
    assert {LIF, CubaLIF, CubaLI, Relay} <= told


@pytest.mark.parametrize("op", CLASSES)
def test_lava(op: type[Op]) -> None:
    lowering = pytest.importorskip("resformer.compiler.backends.lava.lowering")
    known = lowering._lower.dispatch(op) is not lowering._lower.dispatch(object)
    # the input, the output and sums are ports of others
    assert known is (op.__name__ not in ("Input", "Output", "Add"))


@pytest.mark.parametrize("op", CLASSES)
def test_onnx(op: type[Op]) -> None:
    dispatch = IntegerWriter.__dict__["write"].dispatcher.dispatch
    assert dispatch(op) is not dispatch(object)


def test_sim_files_text_and_placement(tmp_path: Path) -> None:
    program, samples = everything()
    expected = reference.run(program, samples, record=True)
    assert_same_trace(SimBackend().run(program, samples, record=True), expected)
    write_program(program, tmp_path / "program")
    assert first_difference(read_program(tmp_path / "program"), program) is None
    assert all(f"= {name}(" in format_graph(program) for name in OPERATIONS)
    placed = {name for layer in place(program, load_chip("loihi2")).layers for name in layer.population.nodes}
    assert {node.name for node in program if node.op.fires or node.op.clips} <= placed


class Unheard(Op):
    """An operation that no table knows."""

    def output_shape(self, inputs):
        return inputs[0]

    def evaluate(self, *inputs):
        return Outcome(inputs[0])


def with_unheard() -> Program:
    program, _ = everything()
    nodes = [replace(node, op=Unheard(node.op.signal)) if node.name == "late" else node for node in program]
    return replace(program, nodes=tuple(nodes))


@pytest.mark.parametrize("backend", ["sim", "lava", "onnx"])
def test_what_no_backend_knows_is_refused_by_name(backend: str) -> None:
    pytest.importorskip({"lava": "lava", "onnx": "onnxruntime"}.get(backend, "numpy"))
    program, samples = with_unheard(), everything()[1]
    with pytest.raises((ResformerError, AssertionError), match=r"late: .*Unheard"):
        open_backend(backend)(program, samples)


def test_what_no_chip_knows_is_refused_by_name() -> None:
    with pytest.raises((ResformerError, AssertionError), match=r"late: .*Unheard"):
        place(with_unheard(), load_chip("loihi2"))


FLOAT = (
    *(nir.Input, nir.Output, nir.Conv2d, nir.Linear, nir.Affine, nir.LIF, nir.IF, nir.CubaLIF, nir.Scale, nir.Flatten),
    *(nir.AvgPool2d, nir.SumPool2d, *primitives.EXTENSIONS),
)


@pytest.mark.parametrize("op", FLOAT)
def test_float_operations(op: type[nir.NIRNode]) -> None:
    shape, evaluate = output_shape.dispatch, float_interpreter.evaluate.dispatch
    assert shape(op) is not shape(object)
    # samples come from outside, and neurons run over time
    runs = op is nir.Input or issubclass(op, primitives.NEURONS) or evaluate(op) is not evaluate(object)
    assert runs
    write = FloatWriter.__dict__["write"].dispatcher.dispatch
    # no float ONNX model is written of these, which only a NIR file or a module can hold
    refused = (nir.CubaLIF, primitives.DiscreteCubaLIF, primitives.DiscreteCubaLI, primitives.SampleDelay)
    refused = (*refused, primitives.MultiSpikeIF)
    assert (write(op) is write(object)) is (issubclass(op, refused) or op in NO_FLOAT_ONNX)


NO_FLOAT_ONNX: tuple[type[nir.NIRNode], ...] = (nir.IF,)


def test_a_float_operation_that_is_unheard_of_is_refused_by_name() -> None:
    threshold = nir.Threshold(np.ones(3))
    graph = Graph(
        (
            Node("input", nir.Input({"input": np.array([3])}), (), (3,)),
            Node("odd", threshold, ("input",), (3,)),
            Node("output", nir.Output({"output": np.array([3])}), ("odd",), (3,)),
        ),
        timesteps=2,
    )
    plan = QuantizationPlan(scale_exps=dict.fromkeys(("input", "odd", "output"), 0), layers={}, input_high=1)
    with pytest.raises(UnsupportedError, match=r"odd: Threshold has no integer form"):
        quantize(graph, plan)
