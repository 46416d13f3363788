"""A user's own module in memory in place of the original, however it runs its steps."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import nn

import resformer
from resformer.errors import InputError
from resformer.runtime.verify.result import FLOAT_GRAPH
from support.builds import Tiny
from support.modules import SpikingVGG, calibrated, lif

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Loop(nn.Module):
    """The same network in step mode "s", step by step, its logits added up."""

    def __init__(self, module: SpikingVGG) -> None:
        super().__init__()
        self.inner = module
        functional.set_step_mode(self.inner, "s")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(self.inner.classifier(self.inner.avgpool(self.inner.features(x))) for _ in range(4)) / 4


def network() -> SpikingVGG:
    module = calibrated(SpikingVGG((4, "M", 5), lif), IMAGES)
    assert isinstance(module, SpikingVGG)
    return module


def test_a_loop_over_time_is_gathered() -> None:
    compiled = resformer.compile(network(), IMAGES, "sim")
    result = compiled.verify(IMAGES, backend="sim", model=Loop(network()).eval())
    check = result.checks[FLOAT_GRAPH]
    assert (check.mismatched, check.passed) == (0, True)
    assert check.compared == len(check.extra["graphs"]) * sum(result.layers.values())
    assert any("in the order in which they run" in note for note in result.notes)


def test_another_module_is_not_equivalent() -> None:
    compiled = resformer.compile(network(), IMAGES, "sim")
    other = network()
    with torch.no_grad():
        other.features[0].weight.mul_(1.1)
    result = compiled.verify(IMAGES, backend="sim", model=other)
    assert not result.equivalent
    assert result.checks[FLOAT_GRAPH].mismatched > 0


def test_a_loaded_build_takes_a_live_module(tiny: Tiny) -> None:
    from resformer.models.checkpoint import build_model, load_checkpoint

    live = build_model(load_checkpoint(tiny.model), timesteps=4, image_size=16)
    result = resformer.load(tiny.build).verify(tiny.images, samples=2, backend="sim", model=live)
    assert result.equivalent
    assert result.checks[FLOAT_GRAPH].mismatched == 0
    assert result.checks[FLOAT_GRAPH].note == "the build's file"
    assert live.layers[0][0].activation_in.v == 0.0, "the module itself was not run"


def test_a_module_of_other_populations_is_refused() -> None:
    compiled = resformer.compile(network(), IMAGES, "sim")
    with pytest.raises(InputError, match="SpikingVGG: 2 populations of SpikingJelly's neurons fire, the build has 3"):
        compiled.verify(IMAGES, backend="sim", model=calibrated(SpikingVGG((4, "M"), lif), IMAGES))
    with pytest.raises(InputError, match=r"features.6 has 96 neurons, features.6 of the build has 80"):
        compiled.verify(IMAGES, backend="sim", model=calibrated(SpikingVGG((4, "M", 6), lif), IMAGES))
    with pytest.raises(InputError, match="0 populations"):
        compiled.verify(IMAGES, backend="sim", model=nn.Flatten())
    with pytest.raises(InputError, match=r"a dict; give a torch\.nn\.Module"):
        compiled.verify(IMAGES, backend="sim", model={})  # type: ignore[arg-type]
