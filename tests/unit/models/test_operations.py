"""Synaptic operations counted in training are those that the authors' definition counts, and have a gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import functional

from resformer.models.operations import SynapticOperations
from resformer.models.spikingresformer import SpikingResformer
from support.sop_monitor import hooked_sops

MakeModel = Callable[..., SpikingResformer]


@pytest.mark.parametrize("stem", ["conv3x3", "imagenet"])
def test_they_are_counted_as_the_authors_monitor_counts(make_model: MakeModel, stem: str) -> None:
    model = make_model(seed=5, stem=stem)
    images = torch.rand(3, model.architecture.in_channels, model.image_size, model.image_size, dtype=torch.float64)
    with torch.no_grad(), SynapticOperations(model) as operations:
        model(images)
    functional.reset_net(model)
    monitored = hooked_sops(model, images.numpy())
    assert {name: int(count) for name, count in operations.counts.items()} == {
        name: sum(steps) for name, steps in monitored.items()
    }
    assert int(operations.total()) == sum(map(sum, monitored.values())) > 0


def test_their_gradient_makes_neurons_fire_less(make_model: MakeModel) -> None:
    model = make_model(seed=5).train()
    images = torch.rand(2, model.architecture.in_channels, model.image_size, model.image_size, dtype=torch.float64)
    with SynapticOperations(model) as operations:
        model(images)
    functional.reset_net(model)
    before = operations.total()
    before.backward()
    with torch.no_grad():
        for each in model.parameters():
            if each.grad is not None:
                each -= 0.1 * each.grad / each.grad.abs().max().clamp_min(1e-12)
        with SynapticOperations(model) as operations:
            model(images)
    functional.reset_net(model)
    assert 0 < float(operations.total().detach()) < float(before.detach())


def test_energy_weighs_operations_and_spikes(make_model: MakeModel) -> None:
    model = make_model(seed=5)
    images = torch.rand(1, model.architecture.in_channels, model.image_size, model.image_size, dtype=torch.float64)
    with torch.no_grad(), SynapticOperations(model) as operations:
        model(images)
    spikes = sum(int(count) for count in operations.spikes.values())
    found = float(operations.energy_pj(operation_pj=2.0, spike_pj=100.0))
    assert found == pytest.approx(2 * int(operations.total()) + 100 * spikes)
    assert spikes > 0


def test_nothing_is_counted_once_it_is_left(make_model: MakeModel) -> None:
    model = make_model(seed=5)
    with SynapticOperations(model) as operations:
        pass
    with torch.no_grad():
        model(torch.rand(1, model.architecture.in_channels, model.image_size, model.image_size, dtype=torch.float64))
    assert operations.counts == {}
