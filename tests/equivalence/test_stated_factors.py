"""Modules whose code multiplies or divides by numbers of its own, and what the quantized module makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import resformer
from resformer.compiler.files.nir import read_nir
from resformer.runtime.verify.result import QUANTIZED

Rest: TypeAlias = Callable[["Factors", torch.Tensor], torch.Tensor]
EXAMPLE = 2 * torch.rand(4, 2, 2, 3, 3, generator=torch.Generator().manual_seed(2))


class Factors(nn.Module):
    """Spikes, (T, N, 3, 3, 3), of which ``rest`` makes logits."""

    def __init__(self, rest: Rest) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.first = layer.Conv2d(2, 3, 3, padding=1), neuron.IFNode(v_threshold=0.25)
        self.classify, self.second = layer.Linear(27, 4), neuron.IFNode(v_threshold=0.25)
        self.gain = nn.Parameter(torch.tensor(0.7))
        self.gains = nn.Parameter(torch.tensor([0.3, 0.5, 0.9]).reshape(3, 1, 1))
        self.rest = rest
        functional.set_step_mode(self, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self, self.first(self.conv(x)))

    def fc(self, spikes: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classify(spikes.flatten(2))
        return logits


def note(rest: Rest) -> str:
    """Verify a module that must be equivalent, and return the note of the check of its quantized form."""
    result = resformer.compile(Factors(rest), EXAMPLE).verify(EXAMPLE.transpose(0, 1), backend="sim")
    assert result.equivalent
    return result.checks[QUANTIZED].note


@pytest.mark.parametrize(
    "rest",
    [
        lambda net, y: net.fc(y) / 3,
        lambda net, y: net.fc(y) / 4,
        lambda net, y: (net.fc(y) / 3).mean(0),
        lambda net, y: (net.fc(y) / 4).sum(0),
        lambda net, y: net.fc(y).mean(0) / 3,
    ],
)
def test_logits_that_are_divided_are_divided_once(rest: Rest) -> None:
    """The module's code still divides; only an average pool that became a sum leaves a division to the bias."""
    assert "not demanded" not in note(rest)


def test_a_nir_file_divides_logits_once(tmp_path: Path) -> None:
    module = Factors(lambda net, y: net.fc(y) / 4).eval()
    resformer.compile(module, EXAMPLE, "nir", output=tmp_path / "build")
    written = read_nir(tmp_path / "build" / "quantized.nir")
    np.testing.assert_allclose(written["classify"].op.bias, module.classify.bias.detach(), atol=0.01)


@pytest.mark.parametrize(
    ("rest", "name"),
    [
        (lambda net, y: net.fc(y) * 0.3, "mul"),
        (lambda net, y: net.fc(y) * -0.3, "mul"),
        (lambda net, y: net.fc(y) * net.gain, "mul"),
        (lambda net, y: net.fc(y * 0.1), "mul"),
        (lambda net, y: net.fc(y / 3), "div"),
        (lambda net, y: net.fc(y * net.gains), "mul"),
        (lambda net, y: net.fc((y + y) / 3), "div"),
        (lambda net, y: net.fc(net.second(y * 0.3)), "mul"),
    ],
)
def test_a_factor_that_is_rounded_makes_no_false_alarm(rest: Rest, name: str) -> None:
    """The program's layer holds 8 bits of the factor, and the module's code all of it."""
    wanted = f"not demanded: {name} multiplies by numbers that the program rounds, and the module's code does not"
    assert note(rest) == wanted


@pytest.mark.parametrize(
    "rest",
    [
        lambda net, y: net.fc(y) * 0.5,
        lambda net, y: net.fc(y) * -1.0,
        lambda net, y: net.fc(y * 3.0),
        lambda net, y: net.fc(net.second(y * 0.5)),
    ],
)
def test_a_factor_that_eight_bits_hold_is_exact(rest: Rest) -> None:
    assert "not demanded" not in note(rest)


def test_a_plif_that_forgets_all_in_a_step(tmp_path: Path) -> None:
    """Its decay rounds to 4096 / 4096, of which w is infinite."""
    neurons = neuron.ParametricLIFNode(init_tau=1.0001, v_reset=None)
    net = nn.Sequential(layer.Linear(4, 5), neurons, layer.Linear(5, 2))
    functional.set_step_mode(net, "m")
    example = 8 * torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(1))
    compiled = resformer.compile(net, example, output=tmp_path / "build")
    assert compiled.verify(example.transpose(0, 1), backend="sim").equivalent
    assert compiled.quantized_state()["1.w"].sigmoid() == 1


def test_a_large_bias_behind_a_pool_of_currents() -> None:
    """It goes into the logits as a real number: no neuron's 24 bits limit it."""
    torch.manual_seed(0)
    first, classifier = layer.Conv2d(1, 2, 1), layer.Linear(8, 3)
    with torch.no_grad():
        first.weight.fill_(1.0)
        classifier.weight.mul_(0.05)
        classifier.bias.fill_(0.6)
    net = nn.Sequential(
        *(first, neuron.IFNode(), layer.Conv2d(2, 8, 1)),
        *(layer.AdaptiveAvgPool2d(1), layer.Flatten(), classifier),
    )
    functional.set_step_mode(net, "m")
    example = 8 * torch.rand(3, 2, 1, 2, 2)
    compiled = resformer.compile(net, example)
    assert compiled.verify(example.transpose(0, 1), backend="sim").equivalent
    assert compiled.run(example.transpose(0, 1)).logits == pytest.approx(0.6, abs=0.1)
