"""SpikingJelly's own model zoo, a small network of each family; ``benchmarks/spikingjelly_zoo.py`` runs the others."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import resformer
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, QUANTIZED, Verification
from support.modules import calibrated


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports modules of the zoo without torchvision, which they need only to download weights."""
    for name in ("torchvision", "torchvision.models", "torchvision.models.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["torchvision.models.utils"].load_state_dict_from_url = None  # type: ignore[attr-defined]
    return lambda name: importlib.import_module(f"spikingjelly.activation_based.model.{name}")


def verified(module: nn.Module, example: torch.Tensor) -> Verification:
    functional.set_step_mode(module, "m")
    module = calibrated(module, example)
    result = resformer.compile(module, example, "sim").verify(example.transpose(0, 1), backend="sim")
    assert result.equivalent
    assert sum(map(bool, result.fired.values())) > len(result.fired) / 2
    assert [result.checks[name].mismatched for name in (FLOAT_GRAPH, BACKEND, QUANTIZED)] == [0, 0, 0]
    assert result.checks[QUANTIZED].demanded
    return result


def images(channels: int, edge: int) -> torch.Tensor:
    """(T, N, C, H, W)."""
    return torch.rand(2, 1, channels, edge, edge, generator=torch.Generator().manual_seed(1))


def cut(module: Any, channels: int) -> Any:
    """A residual network of its first two stages."""
    module.layer3, module.layer4, module.fc = nn.Identity(), nn.Identity(), layer.Linear(channels, 10)
    return module


@pytest.mark.parametrize("join", ["ADD", "AND", "IAND"])
def test_sew_resnet(zoo: Callable[[str], Any], join: str) -> None:
    sew = zoo("sew_resnet")
    made = sew.SEWResNet(sew.BasicBlock, [1, 1, 1, 1], cnf=join, spiking_neuron=neuron.LIFNode)
    verified(cut(made, 128), images(3, 24))


def test_spiking_resnet(zoo: Callable[[str], Any]) -> None:
    resnet = zoo("spiking_resnet")
    made = resnet.SpikingResNet(resnet.Bottleneck, [1, 1, 1, 1], spiking_neuron=neuron.IFNode)
    verified(cut(made, 512), images(3, 24))


def test_spiking_vgg(zoo: Callable[[str], Any]) -> None:
    sizes, norm = [8, "M", 16, "M"], layer.BatchNorm2d
    # made without values, since its own classifier has 120 million
    with torch.device("meta"):
        made = zoo("spiking_vgg").SpikingVGG(
            sizes, batch_norm=True, norm_layer=norm, init_weights=False, spiking_neuron=neuron.LIFNode
        )
        made.classifier[0], made.classifier[3] = layer.Linear(16 * 49, 32), layer.Linear(32, 16)
        made.classifier[6] = layer.Linear(16, 10)
    made = made.to_empty(device="cpu")
    for each in made.modules():
        if hasattr(each, "reset_parameters"):
            each.reset_parameters()
    verified(made, images(3, 16))


def test_parametric_lif_net(zoo: Callable[[str], Any]) -> None:
    verified(zoo("parametric_lif_net").MNISTNet(channels=4, spiking_neuron=neuron.ParametricLIFNode), images(1, 28))


class MembraneBlock(nn.Module):
    """MS-ResNet's block: its shortcut carries the currents that neurons read, not their spikes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        halves = [
            nn.Sequential(neuron.LIFNode(), layer.Conv2d(channels, channels, 3, padding=1), layer.BatchNorm2d(channels))
            for _ in range(2)
        ]
        self.residual = nn.Sequential(*halves)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.residual(x) + x


def test_ms_resnet() -> None:
    stem = layer.Conv2d(3, 8, 3, padding=1, bias=False), layer.BatchNorm2d(8)
    narrow = neuron.LIFNode(), layer.Conv2d(8, 12, 3, 2, 1), layer.BatchNorm2d(12)
    end = neuron.LIFNode(), layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(12, 5)
    blocks = MembraneBlock(8), MembraneBlock(8), *narrow, MembraneBlock(12)
    verified(nn.Sequential(*stem, *blocks, *end), images(3, 12))
