"""Neurons that keep nothing between calls: they compute the same as SpikingJelly's."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import functional, layer
from torch import nn

from resformer.errors import UnsupportedError
from resformer.models import stateless
from resformer.models.layers import spiking_neuron
from resformer.models.spikingresformer import SpikingResformer
from resformer.models.stateless import StatelessLIF, make_stateless

MakeModel = Callable[..., SpikingResformer]


def passed(module: nn.Module, currents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Spikes, and the gradient of currents where each spike counts differently."""
    given = currents.detach().requires_grad_()
    spikes = module(given)
    (spikes * torch.linspace(-1, 1, spikes.numel(), dtype=spikes.dtype).view(spikes.shape)).sum().backward()
    assert given.grad is not None
    return spikes.detach(), given.grad


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
@pytest.mark.parametrize("channels_last", [False, True])
def test_spikes_and_gradients_are_spikingjellys(steps: int, channels_last: bool) -> None:
    torch.manual_seed(steps)
    # multiples of 1/4 meet the threshold often
    currents = torch.round(4 * (0.5 + 2 * torch.randn(steps * 3, 6, 5, 4, dtype=torch.float64))) / 4
    if channels_last:
        currents = currents.contiguous(memory_format=torch.channels_last)
    currents = currents.unflatten(0, (steps, 3))
    wanted_spikes, wanted_gradient = passed(spiking_neuron("LIF"), currents)
    spikes, gradient = passed(StatelessLIF(), currents)
    assert 0.1 < float(spikes.mean()) < 0.9
    assert torch.equal(spikes, wanted_spikes)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-12, atol=0)  # products in another order
    assert spikes.stride() == currents.stride()


def test_currents_of_autocast_charge_in_float32() -> None:
    currents = torch.full((4, 2, 3), 0.7, dtype=torch.bfloat16) + torch.arange(3, dtype=torch.bfloat16) / 2
    spikes, gradient = passed(StatelessLIF(), currents)
    assert (spikes.dtype, gradient.dtype) == (torch.bfloat16, torch.bfloat16)
    assert torch.equal(spikes.float(), passed(spiking_neuron("LIF"), currents.float())[0])


@pytest.fixture(name="compiled_afresh")
def fixture_compiled_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what was compiled before, by this process or another."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    stateless._merged.cache_clear()
    yield
    stateless._merged.cache_clear()
    torch.compiler.reset()


def some_currents(steps: int, dtype: torch.dtype) -> torch.Tensor:
    """Currents (T, 3, 6, 5, 4), channels last, many of which meet the threshold."""
    torch.manual_seed(steps)
    currents = torch.round(4 * (0.5 + 2 * torch.randn(steps * 3, 6, 5, 4))) / 4
    return currents.to(dtype).contiguous(memory_format=torch.channels_last).unflatten(0, (steps, 3))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.usefixtures("compiled_afresh")
def test_merged_spikes_and_gradients_are_spikingjellys() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "torch.compile's neurons differ")
        for steps, dtype in ((4, torch.float32), (2, torch.bfloat16)):
            currents = some_currents(steps, dtype)
            spikes, gradient = passed(StatelessLIF(merged=True), currents)
            wanted_spikes, wanted_gradient = passed(spiking_neuron("LIF"), currents.float())
            assert 0.1 < float(spikes.float().mean()) < 0.9
            assert torch.equal(spikes.float(), wanted_spikes)
            # in bfloat16 the weights of spikes in the loss are rounded, and so is the result
            near = 1e-5 if dtype == torch.float32 else 2e-2
            torch.testing.assert_close(gradient.float(), wanted_gradient, rtol=near, atol=near / 2)


@pytest.mark.usefixtures("compiled_afresh")
def test_neurons_that_were_compiled_wrongly_are_not_used_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(function: Callable[..., torch.Tensor], **_options: object) -> Callable[..., torch.Tensor]:
        return lambda *given: function(*given).roll(1)

    monkeypatch.setattr(torch, "compile", wrong)
    currents = some_currents(4, torch.float32)
    with pytest.warns(
        UserWarning, match=r"differ from their definition in \d+ of 1,440 values.*TORCHINDUCTOR_CACHE_DIR"
    ):
        found = passed(StatelessLIF(merged=True), currents)
    wanted = passed(StatelessLIF(), currents)
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def test_a_call_begins_at_rest() -> None:
    neuron = StatelessLIF()
    currents = torch.full((1, 2), 1.9)
    assert not neuron(currents).any()
    assert not neuron(currents).any()


def test_a_network_computes_the_same_and_keeps_its_state_dict(make_model: MakeModel) -> None:
    model, plain = make_model(seed=3), make_model(seed=3)
    make_stateless(model)
    shape = (2, model.architecture.in_channels, model.image_size, model.image_size)
    images = torch.rand(shape, dtype=next(model.parameters()).dtype)
    with torch.no_grad():
        assert torch.equal(model(images), plain(images))
        functional.reset_net(plain)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert sum(isinstance(each, StatelessLIF) for each in model.modules()) > 5


@pytest.mark.parametrize("kind", ["IF", "PLIF"])
def test_other_neurons_are_refused_by_name_and_nothing_changes(kind: str) -> None:
    model = nn.Sequential(spiking_neuron("LIF"), layer.Linear(2, 2), spiking_neuron(kind))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match=r"2: is a .*train this network with its own neurons"):
        make_stateless(model)
    assert not any(isinstance(each, StatelessLIF) for each in model)


def test_normalisations_read_values_and_gradients_with_channels_last(make_model: MakeModel) -> None:
    model = make_model(seed=3)
    make_stateless(model)
    model.train()
    laid: list[tuple[str, bool]] = []

    def seen(name: str, images: torch.Tensor) -> None:
        laid.append((name, images.is_contiguous(memory_format=torch.channels_last)))

    def watched(name: str, _module: nn.Module, inputs: tuple[torch.Tensor], result: torch.Tensor) -> None:
        seen(f"{name}: values", inputs[0])
        result.register_hook(partial(seen, f"{name}: gradient"))  # type: ignore[no-untyped-call]

    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(partial(watched, name))
    shape = (2, model.architecture.in_channels, model.image_size, model.image_size)
    model(torch.rand(shape, dtype=next(model.parameters()).dtype)).mean().backward()
    assert len(laid) == 2 * sum(isinstance(each, nn.BatchNorm2d) for each in model.modules())
    assert [name for name, last in laid if not last] == []
