"""E1: the network in SpikingJelly, float64, against its float graph, before and after each float pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, neuron

from resformer.compiler.frontend.checkpoint import import_model
from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.graph import Graph
from resformer.compiler.pipeline import CHECKPOINT
from resformer.models.checkpoint import build_model, load_checkpoint
from resformer.models.spikingresformer import SpikingResformer

NETWORKS: dict[str, dict[str, Any]] = {
    "LIF, ImageNet stem": {"stem": "imagenet"},
    "LIF, small stem": {"stem": "conv3x3"},
    "PLIF, small stem": {"stem": "conv3x3", "neuron": "PLIF", "timesteps": 6},
    "PLIF, ImageNet stem": {"stem": "imagenet", "neuron": "PLIF"},
    "one step": {"timesteps": 1},
    "IF, small stem": {"stem": "conv3x3", "neuron": "IF"},
    "IF, ImageNet stem": {"stem": "imagenet", "neuron": "IF", "timesteps": 6},
    "LIF, small stem of stride 2 with a pool": {
        "stem_stride": 2,
        "stem_pool": True,
        "stem": "conv3x3",
        "image_size": 32,
    },
    "LIF, large stem of stride 1 without a pool": {"stem_stride": 1, "stem_pool": False, "image_size": 8},
    "patches of 4": {"patch_sizes": (4, 2), "image_size": 32},
}


def run_torch(model: SpikingResformer, samples: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits (T, N, classes), and each population's spikes, (T, N, ...)."""
    spikes: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: spikes.update({name: output.clone()}))
        for name, module in model.named_modules()
        if isinstance(module, neuron.BaseNode)
    ]
    with torch.no_grad():
        logits = model(samples)
    functional.reset_net(model)
    for hook in hooks:
        hook.remove()
    return logits, spikes


def run_graph(
    graph: Graph[nir.NIRNode], samples: torch.Tensor, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A float graph's logits (T, N, classes), and each population's spikes, (T, N, ...)."""
    spikes: dict[str, torch.Tensor] = {}

    def observe(name: str, value: torch.Tensor) -> None:
        if isinstance(graph[name].op, nir.LIF | nir.IF):
            spikes[name] = value

    return float_interpreter.run(graph, samples, observe=observe, dtype=dtype), spikes


def mismatches(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> dict[str, int]:
    """The number of spikes that differ, for each population in which any differ."""
    assert left.keys() == right.keys()
    counts = {name: int((left[name].reshape(right[name].shape) != right[name]).sum()) for name in left}
    return {name: count for name, count in counts.items() if count}


def assert_all_populations_live(spikes: dict[str, torch.Tensor]) -> None:
    for name, train in spikes.items():
        assert 0 < train.mean() < 1, f"{name} fires always or never: this network tests nothing"


@pytest.mark.parametrize("fields", NETWORKS.values(), ids=NETWORKS)
def test_imported_graph_is_the_network_bit_for_bit(
    make_model: Callable[..., SpikingResformer], fields: dict[str, Any]
) -> None:
    model = make_model(**fields)
    samples = torch.rand(3, 2, model.image_size, model.image_size, dtype=torch.float64)
    logits, spikes = run_torch(model, samples)
    graph_logits, graph_spikes = run_graph(import_model(model), samples)
    assert_all_populations_live(spikes)
    assert mismatches(spikes, graph_spikes) == {}
    assert torch.equal(logits, graph_logits)


def test_event_frames(make_model: Callable[..., SpikingResformer]) -> None:
    model = make_model(stem="conv3x3", neuron="PLIF", timesteps=5)
    samples = torch.randint(0, 3, (2, 5, 2, 8, 8)).double()
    logits, spikes = run_torch(model, samples)
    graph_logits, graph_spikes = run_graph(import_model(model), samples)
    assert_all_populations_live(spikes)
    assert mismatches(spikes, graph_spikes) == {}
    assert torch.equal(logits, graph_logits)


@pytest.mark.parametrize("fields", NETWORKS.values(), ids=NETWORKS)
def test_float_passes_keep_every_spike(make_model: Callable[..., SpikingResformer], fields: dict[str, Any]) -> None:
    model = make_model(**fields)
    samples = torch.rand(3, 2, model.image_size, model.image_size, dtype=torch.float64)
    logits, spikes = run_torch(model, samples)
    graph = import_model(model)
    for float_pass in CHECKPOINT.float_passes:
        graph = float_pass(graph)
        graph_logits, graph_spikes = run_graph(graph, samples)
        assert mismatches(spikes, graph_spikes) == {}, float_pass.__name__
        # Folding reorders sums of a few hundred float64 terms of magnitude 1.
        torch.testing.assert_close(logits, graph_logits, rtol=0, atol=1e-12)


def test_ties_fire_as_in_spikingjelly() -> None:
    """v reaches the threshold exactly: 2 -> v = 1 at once, and 1.5, 1.25 -> 0.75, 1.0."""
    current = torch.tensor([[2.0, 1.5, 1.0], [0.0, 1.25, 1.0], [2.0, 2.0, 1.0]], dtype=torch.float64)
    reference = neuron.LIFNode(tau=2.0, decay_input=True, v_threshold=1.0, v_reset=0.0, step_mode="m")
    spikes = float_interpreter.fire(population(tau_steps=2.0), current, dt=1e-4)
    assert spikes.tolist() == [[1, 0, 0], [0, 1, 0], [1, 1, 0]]
    assert torch.equal(spikes, reference(current))


@pytest.mark.parametrize("tau", [1.9, 3.7, 6.3])
def test_lif_divides_by_tau_as_spikingjelly_does(tau: float) -> None:
    """A current of tau charges to 1 exactly, and just fires; times the rounded 1 / tau, it would not."""
    assert tau / tau >= 1 > tau * (1 / tau)
    lif = population(tau_steps=tau)
    reference = neuron.LIFNode(tau=tau, decay_input=True, v_threshold=1.0, v_reset=0.0, step_mode="m")
    current = torch.full((3, 1), tau, dtype=torch.float64)
    spikes = float_interpreter.fire(lif, current, dt=1e-4)
    assert spikes.all()
    assert torch.equal(spikes, reference(current))


@pytest.mark.parametrize("w", [-2.0, -1.74, -1.53])
def test_plif_multiplies_by_the_sigmoid_as_spikingjelly_does(w: float) -> None:
    """A current of 1 / sigmoid(w) stays just below 1; divided by the rounded tau, it would fire."""
    sigmoid = torch.sigmoid(torch.tensor(w, dtype=torch.float64)).item()
    assert (1 / sigmoid) * sigmoid < 1 == (1 / sigmoid) / (1 / sigmoid)
    reference = neuron.ParametricLIFNode(decay_input=True, v_threshold=1.0, v_reset=0.0, step_mode="m").double()
    reference.w.data.fill_(w)
    current = torch.full((1, 1), 1 / sigmoid, dtype=torch.float64)
    spikes = float_interpreter.fire(population(tau_steps=1 / sigmoid, dt_over_tau=sigmoid), current, dt=1e-4)
    assert not spikes.any()
    assert torch.equal(spikes, reference(current))


def population(**metadata: float) -> nir.LIF:
    """One neuron as the frontend makes it."""
    values = (metadata["tau_steps"] * 1e-4, 1.0, 0.0, 1.0, 0.0)
    return nir.LIF(
        *(np.full((1,), value) for value in values), metadata={"reset": "hard", "fires_at": ">=", **metadata}
    )


def test_mnist(mnist_checkpoint: Path, mnist_images: np.ndarray) -> None:
    model = build_model(load_checkpoint(mnist_checkpoint), timesteps=4, image_size=32)
    samples = torch.from_numpy(mnist_images[:10]).double()
    logits, spikes = run_torch(model, samples)
    graph = import_model(model)
    graph_logits, graph_spikes = run_graph(graph, samples)
    assert_all_populations_live(spikes)
    assert mismatches(spikes, graph_spikes) == {}
    assert torch.equal(logits, graph_logits)
    for float_pass in CHECKPOINT.float_passes:
        graph = float_pass(graph)
    assert mismatches(spikes, run_graph(graph, samples)[1]) == {}
