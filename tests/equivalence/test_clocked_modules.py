"""Modules of ``spikingjelly.clock_driven``, which the authors' code of 2021 and 2022 imports."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from spikingjelly.clock_driven import functional, layer, neuron
from torch import nn

import resformer
from resformer.errors import UnsupportedError
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, QUANTIZED


def frames() -> torch.Tensor:
    """(T, N, C, H, W)."""
    return 3 * torch.rand(4, 2, 2, 6, 6, generator=torch.Generator().manual_seed(1))


class Own(neuron.MultiStepLIFNode):
    """Neurons as people write them: a subclass that only sets arguments."""

    def __init__(self) -> None:
        super().__init__(tau=2.0, v_threshold=0.5, detach_reset=True)


class Blocks(nn.Module):
    """Convolutions of all steps as one batch, and neurons that take all steps."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first = layer.SeqToANNContainer(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.sn1, self.sn2 = make(), make()
        self.second = layer.SeqToANNContainer(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.drop, self.fc = layer.MultiStepDropout(0.5), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.sn1(self.first(x))
        spikes = spikes + self.sn2(self.second(spikes))
        return self.fc(self.drop(spikes.flatten(3).mean(3))).mean(0)


class Steps(nn.Module):
    """Neurons that take one step at a time, in a loop."""

    def __init__(self, *cells: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(*cells)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.multi_step_forward(x, self.net).mean(0)


def stepped(cell: nn.Module) -> nn.Module:
    first = nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), neuron.LIFNode(v_threshold=0.5), nn.Flatten()
    return Steps(*first, nn.Linear(64, 6), cell, nn.Linear(6, 3))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "LIF": lambda: Blocks(Own),
    "IF, soft reset": lambda: Blocks(lambda: neuron.MultiStepIFNode(v_threshold=1.0, v_reset=None)),
    "PLIF": lambda: Blocks(lambda: neuron.MultiStepParametricLIFNode(init_tau=2.0, v_threshold=0.5)),
    "no decay of input": lambda: Blocks(lambda: neuron.MultiStepLIFNode(decay_input=False)),
    "steps": lambda: stepped(neuron.IFNode(v_threshold=0.5)),
    "container": lambda: layer.MultiStepContainer(*stepped(neuron.LIFNode(v_threshold=0.25)).net),
    "recurrent": lambda: stepped(layer.LinearRecurrentContainer(neuron.IFNode(v_threshold=0.5), 6, 6)),
}


@pytest.mark.parametrize("kind", MODULES)
def test_clock_driven_modules_compile(kind: str) -> None:
    torch.manual_seed(0)
    module, example = MODULES[kind](), frames()
    for norm in (each for each in module.modules() if isinstance(each, nn.BatchNorm2d)):
        norm.momentum = 1.0
    for each in (each for each in module.modules() if isinstance(each, nn.Linear)):
        each.weight.data *= 3
    with torch.no_grad():
        module.train()(example)
    functional.reset_net(module)
    compiled = resformer.compile(module.eval(), example, "sim")
    result = compiled.verify(example.transpose(0, 1), backend="sim")
    assert result.equivalent
    assert all(result.fired.values())
    assert [result.checks[name].mismatched for name in (FLOAT_GRAPH, BACKEND)] == [0, 0]
    check = result.checks[QUANTIZED]
    assert check.demanded == (kind != "recurrent")
    assert not check.demanded or check.mismatched == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: neuron.MultiStepEIFNode(), "sn1: no lowering for a MultiStepEIFNode"),
        (lambda: neuron.LIFNode(), "'s' take T steps as one; use MultiStepLIFNode, or a loop over the steps"),
        (lambda: neuron.LIAFNode(torch.relu, True), "no lowering for a LIAFNode, which overrides"),
    ],
)
def test_other_neurons_are_refused_by_name(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        resformer.compile(Blocks(make).eval(), frames())
