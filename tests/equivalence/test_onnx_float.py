"""The float ONNX model in ONNX Runtime against the network in PyTorch, and against the float graph spike for spike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional

from resformer.compiler.frontend.checkpoint import import_model
from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.graph import Graph
from resformer.compiler.pipeline import CHECKPOINT
from resformer.models.checkpoint import build_model, load_checkpoint
from resformer.models.spikingresformer import SpikingResformer

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from resformer.compiler.export.onnx.float_model import export_float  # noqa: E402

# Sums of a few hundred float32 terms of magnitude 1 to 10, in another order than PyTorch's.
LOGITS_TOLERANCE = 1e-4


def run_onnx(graph: Graph[nir.NIRNode], samples: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs: ``logits`` (N, T, classes) and each population's spikes (T * N, ...)."""
    model = export_float(graph, with_spikes=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = session.run(None, {"input": samples.astype(np.float32)})
    return {output.name: value for output, value in zip(session.get_outputs(), values, strict=True)}


def folded(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    for float_pass in CHECKPOINT.float_passes:
        graph = float_pass(graph)
    return graph


def assert_same_spikes(graph: Graph[nir.NIRNode], samples: np.ndarray, outputs: dict[str, np.ndarray]) -> None:
    """Every population of the float graph, in float64, fires as in the ONNX model, in float32."""
    compared: dict[str, int] = {}

    def observe(name: str, value: torch.Tensor) -> None:
        if isinstance(graph[name].op, nir.LIF):
            assert 0 < value.mean() < 1, f"{name} fires always or never"
            compared[name] = int((value.flatten(0, 1).numpy() != outputs[name]).sum())

    float_interpreter.run(graph, samples, observe=observe)
    assert compared.keys() == outputs.keys() - {"logits"}
    assert not any(compared.values()), compared


@pytest.mark.parametrize("fold", [False, True], ids=["as imported", "folded"])
@pytest.mark.parametrize(
    "fields",
    [
        {"stem": "imagenet"},
        {"stem": "conv3x3"},
        {"stem": "conv3x3", "neuron": "PLIF", "timesteps": 6},
        {"timesteps": 1},
    ],
    ids=["ImageNet stem", "small stem", "PLIF", "one step"],
)
def test_small_networks(make_model: Callable[..., SpikingResformer], fields: dict[str, Any], fold: bool) -> None:
    model = make_model(**fields)
    graph = import_model(model, input_kind="static")
    graph = folded(graph) if fold else graph
    samples = torch.rand(3, 2, model.image_size, model.image_size, generator=torch.Generator().manual_seed(1)).numpy()
    outputs = run_onnx(graph, samples)
    assert_same_spikes(graph, samples, outputs)
    with torch.no_grad():
        logits = model.float()(torch.from_numpy(samples)).transpose(0, 1).numpy()
    functional.reset_net(model)
    assert outputs["logits"].shape == (3, model.timesteps, 5)
    np.testing.assert_allclose(outputs["logits"], logits, rtol=0, atol=LOGITS_TOLERANCE)


def test_event_frames(make_model: Callable[..., SpikingResformer]) -> None:
    model = make_model(stem="conv3x3", neuron="PLIF", timesteps=5)
    graph = import_model(model)
    samples = torch.randint(0, 3, (2, 5, 2, 8, 8), generator=torch.Generator().manual_seed(1)).float().numpy()
    outputs = run_onnx(graph, samples)
    assert_same_spikes(graph, samples, outputs)
    wanted = float_interpreter.run(graph, samples).transpose(0, 1).numpy()
    np.testing.assert_allclose(outputs["logits"], wanted, rtol=0, atol=LOGITS_TOLERANCE)


def test_the_batch_is_free(make_model: Callable[..., SpikingResformer]) -> None:
    model = make_model()
    graph = import_model(model)
    samples = torch.rand(4, 2, 16, 16, generator=torch.Generator().manual_seed(1)).numpy()
    together = run_onnx(graph, samples)["logits"]
    for index in range(4):
        alone = run_onnx(graph, samples[index : index + 1])["logits"]
        np.testing.assert_allclose(alone[0], together[index], rtol=0, atol=LOGITS_TOLERANCE)


@pytest.mark.parametrize("fold", [False, True], ids=["as imported", "folded"])
def test_mnist(mnist_checkpoint: Path, mnist_images: np.ndarray, fold: bool) -> None:
    model = build_model(load_checkpoint(mnist_checkpoint), timesteps=4, image_size=32, dtype=torch.float32)
    samples = mnist_images[:100]
    graph = import_model(model)
    logits = run_onnx(folded(graph) if fold else graph, samples)["logits"]
    with torch.no_grad():
        wanted = model(torch.from_numpy(samples)).transpose(0, 1).numpy()
    functional.reset_net(model)
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=LOGITS_TOLERANCE)
    np.testing.assert_array_equal(logits.mean(1).argmax(1), wanted.mean(1).argmax(1))
