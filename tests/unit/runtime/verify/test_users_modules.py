"""A user's own module on the left of E1: what it returns and sends is compared too, or refused in a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import resformer
from resformer.errors import InputError
from resformer.runtime.compiled import Compiled
from resformer.runtime.verify.result import FLOAT_GRAPH

STEPS = 4
IMAGES = torch.rand(6, 2, 4, 4, generator=torch.Generator().manual_seed(4))
Readout = Callable[[torch.Tensor], torch.Tensor]


class Net(nn.Module):
    """A convolution, neurons and a classifier of three classes; ``readout`` is what becomes of the logits."""

    def __init__(self, readout: Readout = lambda y: y.mean(0), classes: int = 3) -> None:
        super().__init__()
        self.readout = readout
        self.conv = layer.Conv2d(2, 4, 3, padding=1)
        self.lif = neuron.LIFNode(v_threshold=0.2)
        self.fc = layer.Linear(64, classes)
        functional.set_step_mode(self, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unsqueeze(0).repeat(STEPS, 1, 1, 1, 1)
        return self.readout(self.fc(self.spikes(x).flatten(2)))

    def spikes(self, x: torch.Tensor) -> torch.Tensor:
        fired: torch.Tensor = self.lif(self.conv(x))
        return fired


class Half(neuron.LIFNode):
    """Neurons whose spikes are halves."""

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        halved: torch.Tensor = super().forward(*args) / 2
        return halved


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    torch.manual_seed(0)
    return resformer.compile(Net().eval(), IMAGES[:2], "sim")


def like(compiled: Compiled, module: Net) -> Net:
    """The module with the weights of the one that was compiled."""
    torch.manual_seed(0)
    module.load_state_dict(Net().state_dict(), strict=False)
    return module.eval()


def test_the_network_itself_is_equivalent(compiled: Compiled) -> None:
    result = compiled.verify(IMAGES, backend="sim", model=like(compiled, Net()))
    assert result.equivalent
    assert result.warnings == ()


def test_agreement_says_nothing_of_samples_that_are_prepared_otherwise(compiled: Compiled) -> None:
    """Other warnings, such as of events that come late, leave agreement what it is."""
    result = compiled.verify(IMAGES, backend="sim")
    assert replace(result, warnings=("3 events come late",)).empty_agreement is None
    empty = replace(result, prepared_otherwise=True).empty_agreement
    assert empty is not None
    assert empty.startswith("the samples are prepared otherwise than the build says")


def test_other_logits_are_another_network(compiled: Compiled) -> None:
    """All spikes are the same; the classes come in another order."""
    result = compiled.verify(IMAGES, backend="sim", model=like(compiled, Net(lambda y: y.mean(0).flip(-1))))
    assert not result.equivalent
    assert result.checks[FLOAT_GRAPH].mismatched == 0
    assert re.search(r"E1: the spikes are the same, but the logits differ by up to \d", result.verdict[0])


def test_sums_over_the_steps_are_the_same_logits(compiled: Compiled) -> None:
    result = compiled.verify(IMAGES, backend="sim", model=like(compiled, Net(lambda y: y.sum(0))))
    assert result.equivalent
    assert result.warnings == ()


def test_other_values_of_the_same_classes_are_told(compiled: Compiled) -> None:
    result = compiled.verify(IMAGES, backend="sim", model=like(compiled, Net(lambda y: y.mean(0).softmax(-1))))
    assert result.equivalent
    assert "returns other values than the build's logits, though the same classes" in result.verdict[2]


class Late(Net):
    """Code that fails after its neurons."""

    def spikes(self, x: torch.Tensor) -> torch.Tensor:
        assert x.dim() == 5, "one image at a time"
        super().spikes(x)
        raise RuntimeError("the mistake")


class Frames(Late):
    """The same code, for samples with an axis of time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.dim() == 5, "no axis of time"
        return self.spikes(x)


class Tokens(Net):
    """Neurons on tokens: five a pixel, in the order (H * W, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 5)
        self.last = neuron.LIFNode(v_threshold=0.1, step_mode="m")
        self.fc = layer.Linear(5, 3, step_mode="m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.spikes(x.unsqueeze(0).repeat(STEPS, 1, 1, 1, 1))
        tokens = self.last(self.mix(maps.flatten(3).transpose(2, 3)))
        return self.readout(self.fc(tokens.mean(2)))


def halved() -> Net:
    made = Net()
    made.lif = Half(v_threshold=0.2, step_mode="m")
    return made


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (halved, "lif: the original's neurons send 0.5 where those of the build send 0 or 1"),
        (lambda: Net(lambda y: y.mean(0) / 0), "returns logits that are not finite"),
        (lambda: Net(lambda y: y.mean(0)[:, :2]), "returns 2 values for a sample, the build has 3 classes"),
        (lambda: Net(lambda y: y.mean(0)[:, :1]), "returns 1 values for a sample, the build has 3 classes"),
        (Frames, "RuntimeError: the mistake"),
    ],
)
def test_what_is_no_such_network_is_refused(compiled: Compiled, make: Callable[[], Net], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        compiled.verify(IMAGES, backend="sim", model=like(compiled, make()))


def test_neurons_in_another_order_are_refused() -> None:
    """Which of (16, 5) neurons is which of (5, 4, 4) cannot be told from shapes."""
    torch.manual_seed(0)
    made = Tokens().eval()
    network = resformer.compile(made, IMAGES[:2], "sim")
    assert network.verify(IMAGES, backend="sim").equivalent
    with pytest.raises(
        InputError, match=re.escape("last fires (16, 5) a step, last of the build (5, 4, 4), and which")
    ):
        network.verify(IMAGES, backend="sim", model=made)
