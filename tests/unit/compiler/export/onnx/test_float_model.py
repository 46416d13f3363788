"""What a float ONNX model looks like, and what cannot become one."""

import sys
from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import pytest

from resformer.compiler.frontend.checkpoint import import_model
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.primitives import constant
from resformer.errors import BackendMissingError, UnsupportedError
from resformer.models.spikingresformer import SpikingResformer
from support.graphs import GraphBuilder, lif

onnx = pytest.importorskip("onnx")

from resformer.compiler.export.onnx.float_model import export_float  # noqa: E402
from resformer.compiler.export.onnx.model_writer import DOMAIN, IR_VERSION, OPSET  # noqa: E402


def dimensions(value: Any) -> list[int | str]:
    return [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]


def test_interface(make_model: Callable[..., SpikingResformer]) -> None:
    model = export_float(import_model(make_model()))
    onnx.checker.check_model(model, full_check=True)
    assert {each.domain: each.version for each in model.opset_import} == {"": OPSET, DOMAIN: 1}
    assert model.ir_version == IR_VERSION
    assert [(each.name, dimensions(each)) for each in model.graph.input] == [("input", ["N", 2, 16, 16])]
    assert [(each.name, dimensions(each)) for each in model.graph.output] == [("logits", ["N", 4, 5])]
    assert {each.key: each.value for each in model.metadata_props} == {"timesteps": "4"}


def test_frames(make_model: Callable[..., SpikingResformer]) -> None:
    model = export_float(import_model(make_model(stem="conv3x3", timesteps=3), input_kind="frames"))
    assert [(each.name, dimensions(each)) for each in model.graph.input] == [("input", ["N", 3, 2, 8, 8])]


def test_one_node_a_name(make_model: Callable[..., SpikingResformer]) -> None:
    graph = import_model(make_model())
    nodes = {node.name: node for node in export_float(graph).graph.node}
    for node in graph:
        if not isinstance(node.op, nir.Input):
            assert node.name in nodes
    for node in graph:
        if isinstance(node.op, nir.LIF):
            assert (nodes[node.name].op_type, nodes[node.name].domain) == ("LIF", DOMAIN)
            assert list(nodes[node.name].output) == [node.name]
    attributes = {each.name: each.f or each.i for each in nodes["layers.0.1.up.0"].attribute}
    assert attributes == {
        "timesteps": 4,
        "dt_over_tau": 0.5,
        "r": 1.0,
        "v_leak": 0.0,
        "v_threshold": 1.0,
        "v_reset": 0.0,
    }
    assert nodes["layers.0.0.matmul1"].op_type == "SpikeMatMul"


def test_spikes_on_request(make_model: Callable[..., SpikingResformer]) -> None:
    graph = import_model(make_model())
    model = export_float(graph, with_spikes=True)
    onnx.checker.check_model(model, full_check=True)
    wanted = {node.name: ["T*N", *node.shape] for node in graph if isinstance(node.op, nir.LIF)}
    assert {each.name: dimensions(each) for each in model.graph.output[1:]} == wanted


def test_a_layer_may_be_called_logits() -> None:
    build = GraphBuilder((2, 3, 3))
    build.head(build.lif("logits", build.random_conv("conv", "input", 4, 1)))
    graph = build.finish()
    model = export_float(graph)
    onnx.checker.check_model(model, full_check=True)
    assert [each.name for each in model.graph.output] == ["logits"]
    assert {"logits.1"} < {name for each in model.graph.node for name in each.output}
    with pytest.raises(UnsupportedError, match="logits: cannot be recorded in an ONNX model"):
        export_float(graph, with_spikes=True)


def test_weights_are_float32(make_model: Callable[..., SpikingResformer]) -> None:
    types = {each.data_type for each in export_float(import_model(make_model())).graph.initializer}
    assert types == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


def small(op: nir.NIRNode, shape: tuple[int, ...]) -> Graph[nir.NIRNode]:
    nodes: tuple[Node[nir.NIRNode], ...] = (
        Node("input", nir.Input({"input": np.array(shape)}), (), shape),
        Node("middle", op, ("input",), shape),
        Node("output", nir.Output({"output": np.array(shape)}), ("middle",), shape),
    )
    return Graph(nodes, 2, {"dt": 1e-4})


@pytest.mark.parametrize("varied", ["tau", "r", "v_leak", "v_threshold", "v_reset"])
def test_populations_of_different_neurons_are_refused(varied: str) -> None:
    fields = {"tau": 2e-4, "r": 1.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0}
    arrays = {name: constant(value, (3,)) for name, value in fields.items()}
    arrays[varied] = arrays[varied] + np.array([0.0, 0.0, 1e-5])
    with pytest.raises(UnsupportedError, match=f"middle: {'dt_over_tau' if varied == 'tau' else varied} varies"):
        export_float(small(nir.LIF(**arrays), (3,)))


def test_unknown_nodes_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="middle: Threshold has no ONNX form"):
        export_float(small(nir.Threshold(np.ones(3)), (3,)))


def test_missing_onnx_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendMissingError, match=r"pip install 'resformer\[onnx\]'"):
        export_float(small(nir.Scale(np.ones(3)), (3,)))


def test_every_operation_agrees_with_the_interpreter() -> None:
    """Forms that no SpikingResformer has: padded average pools, other kernels, biases, every LIF field."""
    import torch

    from resformer.compiler.ir import float_interpreter

    ort = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    conv = nir.Conv2d((6, 6), rng.normal(size=(4, 1, 3, 2)), (2, 1), (1, 0), (1, 2), 2, rng.normal(size=4))
    three, two, one = np.array([3, 2]), np.array([1, 2]), np.array([1, 0])
    fields = {"tau": 3e-4, "r": 2.5, "v_leak": 0.1, "v_threshold": 0.8, "v_reset": -0.2}
    nodes: tuple[Node[nir.NIRNode], ...] = (
        Node("input", nir.Input({"input": np.array([2, 6, 6])}), (), (2, 6, 6)),
        Node("conv", conv, ("input",), (4, 3, 4)),
        Node("average", nir.AvgPool2d(three, two, one), ("conv",), (4, 3, 2)),
        Node("sum", nir.SumPool2d(three, two, one), ("conv",), (4, 3, 2)),
        Node("scale", nir.Scale(rng.normal(size=(4, 3, 2))), ("average",), (4, 3, 2)),
        Node("lif", nir.LIF(**{k: constant(v, (4, 3, 2)) for k, v in fields.items()}), ("scale",), (4, 3, 2)),
        Node("flatten", nir.Flatten({"input": np.array([4, 3, 2])}, 0), ("sum",), (24,)),
        Node("affine", nir.Affine(rng.normal(size=(3, 24)), rng.normal(size=3)), ("flatten",), (3,)),
        Node("output", nir.Output({"output": np.array([3])}), ("affine",), (3,)),
    )
    graph = Graph(nodes, 5, {"dt": 1e-4})
    samples = rng.normal(size=(2, 2, 6, 6)).astype(np.float32)
    values: dict[str, torch.Tensor] = {}
    logits = float_interpreter.run(graph, samples, observe=lambda name, value: values.update({name: value}))
    session = ort.InferenceSession(export_float(graph, with_spikes=True).SerializeToString())
    got, spikes = session.run(["logits", "lif"], {"input": samples})
    np.testing.assert_allclose(got, logits.transpose(0, 1), rtol=0, atol=1e-4)
    assert 0 < spikes.mean() < 1
    np.testing.assert_array_equal(spikes, values["lif"].flatten(0, 1))


def test_ties_fire() -> None:
    """A current of 2 charges to the threshold exactly, and a current just below does not."""
    ort = pytest.importorskip("onnxruntime")
    graph = small(lif((2,)), (2,))
    samples = np.array([[2.0, np.nextafter(np.float32(2), np.float32(0))]], dtype=np.float32)
    (spikes,) = ort.InferenceSession(export_float(graph).SerializeToString()).run(["logits"], {"input": samples})
    assert spikes[0, 0].tolist() == [1, 0]


def test_onnx_is_not_imported_with_the_module() -> None:
    assert "onnx" in sys.modules, "this test's own import"
    import subprocess

    code = "import sys, resformer.compiler.export.onnx.float_model; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
