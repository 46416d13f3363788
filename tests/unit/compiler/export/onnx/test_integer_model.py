"""What an integer ONNX model looks like, and what cannot become one."""

import contextlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resformer.compiler.ir.ops import LIF, Add, Conv2d, Delay, Flatten, Input, MaxPool2d, Relay, SpikeMatMul
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import SPIKE
from resformer.compiler.target import LOIHI
from resformer.errors import BackendMissingError, RangeError
from resformer.models.spikingresformer import SpikingResformer
from support.networks import compiled
from support.program_builder import ProgramBuilder

onnx = pytest.importorskip("onnx")

from resformer.compiler.export.onnx.integer_model import export_integer  # noqa: E402
from resformer.compiler.export.onnx.model_writer import DOMAIN, IR_VERSION, OPSET  # noqa: E402

TYPE = onnx.TensorProto


@pytest.fixture(scope="module")
def program(make_model: Callable[..., SpikingResformer], tmp_path_factory: pytest.TempPathFactory) -> Program:
    return compiled(make_model(), tmp_path_factory.mktemp("model"))


def described(values: Any) -> dict[str, tuple[int, list[int | str]]]:
    """Types and shapes by name."""
    return {
        each.name: (
            each.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim],
        )
        for each in values
    }


def test_interface(program: Program) -> None:
    model, signal = export_integer(program), program.input.op.signal
    onnx.checker.check_model(model, full_check=True)
    assert {each.domain: each.version for each in model.opset_import} == {"": OPSET, DOMAIN: 1}
    assert model.ir_version == IR_VERSION
    assert described(model.graph.input) == {"input": (TYPE.INT32, ["N", 2, 16, 16])}
    logits = ["N", 4, 5]
    assert described(model.graph.output) == {"logits_int": (TYPE.INT32, logits), "logits": (TYPE.DOUBLE, logits)}
    assert {each.key: each.value for each in model.metadata_props} == {
        "timesteps": "4",
        "input_scale_exp": str(signal.scale_exp),
        "input_low": str(signal.low),
        "input_high": str(signal.high),
    }


def test_frames(make_model: Callable[..., SpikingResformer], tmp_path: Path) -> None:
    model = export_integer(compiled(make_model(stem="conv3x3", neuron="PLIF", timesteps=3), tmp_path))
    assert described(model.graph.input) == {"input": (TYPE.INT32, ["N", 3, 2, 8, 8])}
    assert {each.op_type for each in model.graph.node if each.domain == DOMAIN} >= {"PLIF", "SpikeMatMul16", "Relay"}


def test_one_node_a_name(program: Program) -> None:
    nodes = {node.name: node for node in export_integer(program).graph.node}
    kinds = {
        Conv2d: (DOMAIN, "Conv2d"),
        LIF: (DOMAIN, "LIF"),
        MaxPool2d: (DOMAIN, "MaxPool2d"),
        Add: ("", "Add"),
        Flatten: ("", "Flatten"),
    }
    for node in program:
        if isinstance(node.op, (Input, Delay)):
            assert node.name not in nodes
        elif type(node.op) in kinds and node.name != "prologue.0":
            assert (nodes[node.name].domain, nodes[node.name].op_type) == kinds[type(node.op)]
        elif isinstance(node.op, SpikeMatMul):
            assert nodes[node.name].op_type in ("SpikeMatMul16", "SpikeMatMul24")
        else:
            assert node.name in nodes
    assert nodes["prologue.0"].op_type == "Conv2d16", "pixels of more than eight bits"
    lif = program["layers.0.1.up.0"].op
    assert isinstance(lif, LIF)
    attributes = {each.name: each.i for each in nodes["layers.0.1.up.0"].attribute}
    assert attributes == {"timesteps": 4, "vth": lif.vth, "keep": 1, "unity": 2}


def test_weights_are_int8_and_only_logits_are_real(program: Program) -> None:
    model = export_integer(program)
    types = {each.name: each.data_type for each in model.graph.initializer}
    for node in program:
        if isinstance(node.op, Conv2d):
            assert types[f"{node.name}.weight"] == TYPE.INT8
    real = {name for name, kind in types.items() if kind in (TYPE.FLOAT, TYPE.DOUBLE, TYPE.FLOAT16)}
    assert real == {"output.scale", "output.bias"}
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    integers = {TYPE.UINT8, TYPE.INT8, TYPE.INT32, TYPE.INT64}
    found = described(inferred.graph.value_info)
    assert {name for name, (kind, _) in found.items() if kind not in integers} == {"output.real", "output.scaled"}
    texts = "".join(onnx.printer.to_text(function) for function in model.functions)
    assert not [word for word in ("float", "double", "to = 1>", "to = 11>") if word in texts]


def test_debugging_makes_outputs_of_all_that_a_trace_holds(program: Program) -> None:
    model = export_integer(program, debug=True)
    onnx.checker.check_model(model, full_check=True)
    wanted: dict[str, tuple[int, list[int | str]]] = {}
    for node in program:
        if isinstance(node.op, LIF):
            wanted[node.name] = (TYPE.UINT8, ["T*N", *node.shape])
        if isinstance(node.op, (Relay, SpikeMatMul, MaxPool2d)):
            wanted[node.name] = (TYPE.INT32, ["T*N", *node.shape])
        if isinstance(node.op, (LIF, Relay, SpikeMatMul)):
            wanted[f"{node.name}.saturated"] = (TYPE.INT64, [])
    assert described(model.graph.output[2:]) == wanted


def test_counts_alone(program: Program) -> None:
    names = [each.name for each in export_integer(program, counts=True).graph.output[2:]]
    counted = [node.name for node in program if isinstance(node.op, (LIF, Relay, SpikeMatMul))]
    assert names == [f"{name}.saturated" for name in counted]


def test_the_program_is_untouched_and_the_model_the_same_each_time(program: Program) -> None:
    assert export_integer(program).SerializeToString() == export_integer(program).SerializeToString()


def ranged(net: ProgramBuilder, largest: int, *, timesteps: int = 2) -> Program:
    """A program whose input lies in [-largest, largest]."""
    program = net.finish(timesteps=timesteps)
    node = program.input
    signal = replace(node.op.signal, low=-largest, high=largest)
    return replace(program, nodes=(replace(node, op=replace(node.op, signal=signal)), *program.nodes[1:]))


def test_an_input_of_unknown_range_is_refused() -> None:
    with pytest.raises(RangeError, match="input: its range is not known"):
        export_integer(ProgramBuilder((1, 2, 2)).finish())


def test_a_current_that_could_wrap_is_refused() -> None:
    net = ProgramBuilder((1, 2, 2))
    net.lif("lif", "input")
    export_integer(ranged(net, LOIHI.a_max))
    del net.nodes["output"]
    with pytest.raises(RangeError, match=r"lif: its current may reach 131072, and wraps above 131071"):
        export_integer(ranged(net, LOIHI.a_max + 1))


def test_a_current_that_adds_up_and_could_wrap_is_refused() -> None:
    """Half of the current is left at each step, so that three steps add up to 2 - 1/4 times the input."""
    net = ProgramBuilder((1, 2, 2))
    mantissa, exponent = np.zeros(1, np.int16), np.zeros(1, np.int8)
    net.add("lif", LIF(SPIKE, 5, 2047, 2048, mantissa, exponent), "input")
    export_integer(ranged(net, LOIHI.a_max * 4 // 7, timesteps=3))
    del net.nodes["output"]
    with pytest.raises(RangeError, match=r"lif: its current may reach 13"):
        export_integer(ranged(net, LOIHI.a_max * 4 // 7 + 1, timesteps=3))


def conv_of_ones(net: ProgramBuilder, outputs: int = 1) -> None:
    conv = net.conv("conv", "input", outputs)
    op = net.nodes[conv].op
    weight = np.ones(op.weight.shape, np.int8)
    op = replace(op, weight=weight, weight_exp=np.zeros(outputs, np.int8))
    net.nodes[conv] = replace(net.nodes[conv], op=op)


def test_what_three_bytes_do_not_hold_is_refused() -> None:
    net = ProgramBuilder((1, 2, 2))
    conv_of_ones(net)
    export_integer(ranged(net, 2**23 - 1))
    del net.nodes["output"]
    with pytest.raises(RangeError, match="conv: reads integers up to 8388608, ONNX's byte-wise products take 8388607"):
        export_integer(ranged(net, 2**23))


@pytest.mark.parametrize(("channels", "fits"), [(254, True), (255, False)])
def test_sums_beyond_32_bits_are_refused(channels: int, fits: bool) -> None:
    """Also where the sum itself would fit, but its higher bytes alone might not."""
    largest = 2**23 - 1
    net = ProgramBuilder((channels, 1, 1))
    conv_of_ones(net)
    assert channels * largest < 2**31
    with contextlib.nullcontext() if fits else pytest.raises(RangeError, match="conv: sums may reach"):
        export_integer(ranged(net, largest))


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("sum", lambda net: net.plus("sum", "input", "input")),
        ("relay", lambda net: net.relay("relay", "input", limit=9)),
        ("coarse", lambda net: net.relay("coarse", "input", limit=9, shift=1)),
        ("pool", lambda net: net.sum_pool("pool", "input", (1, 2), (1, 1))),
        ("dense", lambda net: net.dense("dense", net.flatten("flatten", "input"), 2)),
    ],
)
def test_other_sums_beyond_32_bits_are_refused(name: str, build: Callable[[ProgramBuilder], str]) -> None:
    net = ProgramBuilder((1, 2, 2))
    build(net)
    with pytest.raises(RangeError, match=f"{name}: sums may reach"):
        export_integer(ranged(net, 2**31 - 1))


@pytest.mark.parametrize(("channels", "fits"), [(506, True), (512, False)])
def test_products_beyond_32_bits_are_refused(channels: int, fits: bool) -> None:
    """Each of two heads sums over its channels."""
    net = ProgramBuilder((channels, 1, 1))
    spikes = net.lif("lif", net.relay("relay", "input", limit=9))
    net.matmul("product", "input", spikes, heads=2, transpose=True, limit=9)
    program = ranged(net, 2**23 - 1 - 50)
    with contextlib.nullcontext() if fits else pytest.raises(RangeError, match="product: sums may reach"):
        export_integer(program)


def test_missing_onnx_names_the_pip_line(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendMissingError, match=r"pip install 'resformer\[onnx\]'"):
        export_integer(program)


def test_onnx_is_not_imported_with_the_modules() -> None:
    code = "import sys, resformer.compiler.backends.onnx; sys.exit(bool({'onnx', 'onnxruntime'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
