"""Neurons that a module's code writes out over a loop of steps: spikes and integers are those of the code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn

import resformer
from resformer.compiler.frontend.module.importer import import_module, in_float64
from resformer.compiler.ir.ops import LIF, CubaLIF
from resformer.errors import UnsupportedError
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, QUANTIZED
from support.modules import calibrated

TIMESTEPS = 4
FRAMES = torch.rand(TIMESTEPS, 2, 3, 4, 4, generator=torch.Generator().manual_seed(4))
THRESHOLD = 0.5


class Above(torch.autograd.Function):
    """A step function with a gradient of its own, as the authors of MS-ResNet write it."""

    @staticmethod
    def forward(ctx: Any, potential: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(potential)
        return potential.gt(THRESHOLD).float()


def ms_resnet(x: torch.Tensor, step: int, mem: Any, spike: Any) -> tuple[torch.Tensor, torch.Tensor]:
    mem = mem * 0.25 * (1 - spike.detach()) + x[step] if step else x[step]
    return mem.clone(), Above.apply(mem)


def from_zeros(x: torch.Tensor, step: int, mem: Any, spike: Any) -> tuple[torch.Tensor, torch.Tensor]:
    mem, spike = (torch.zeros_like(x[0]), torch.zeros_like(x[0])) if not step else (mem, spike)
    mem = x[step] + (1.0 - spike) * mem * 0.5
    return mem, (mem >= THRESHOLD).to(x)


def by_difference(x: torch.Tensor, step: int, mem: Any, spike: Any) -> tuple[torch.Tensor, torch.Tensor]:
    mem = 0.5 * (mem - THRESHOLD * spike) + x[step] if step else x[step]
    return mem, ((mem - THRESHOLD) > 0).float()


def twice(x: torch.Tensor, step: int, mem: Any, spike: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """An update that no neurons have: a potential that did not fire counts twice."""
    mem = mem * 0.25 * (2 - spike) + x[step] if step else x[step]
    return mem, (mem > THRESHOLD).float()


def other_threshold(x: torch.Tensor, step: int, mem: Any, spike: Any) -> tuple[torch.Tensor, torch.Tensor]:
    mem = mem * 0.25 * (1 - spike) + x[step] if step else x[step]
    return mem, (mem > THRESHOLD + 0.25 * step).float()


def whole_potential(x: torch.Tensor, step: int, mem: Any, spike: Any) -> tuple[torch.Tensor, torch.Tensor]:
    mem = mem.int() * 0.25 * (1 - spike) + x[step] if step else x[step]
    return mem, (mem > THRESHOLD).float()


def whole_compared(x: torch.Tensor, step: int, mem: Any, spike: Any) -> tuple[torch.Tensor, torch.Tensor]:
    mem = mem * 0.25 * (1 - spike) + x[step] if step else x[step]
    return mem, (mem.int() > THRESHOLD).float()


def bits_of_numbers(x: torch.Tensor, step: int, mem: Any, spike: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """An update that no neurons have: of the integer 1, ``~`` makes -2."""
    mem = mem * 0.25 * ~spike.int() + x[step] if step else x[step]
    return mem, (mem > THRESHOLD).float()


def bits_of_spikes(x: torch.Tensor, step: int, mem: Any, spike: Any) -> tuple[torch.Tensor, torch.Tensor]:
    mem = mem * 0.25 * ~spike.bool() + x[step] if step else x[step]
    return mem, (mem > THRESHOLD).float()


Update = Callable[[torch.Tensor, int, Any, Any], tuple[torch.Tensor, torch.Tensor]]


class Population(nn.Module):
    def __init__(self, update: Update) -> None:
        super().__init__()
        self.update = update

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mem, spike, fired = None, None, torch.zeros_like(x)
        for step in range(TIMESTEPS):
            mem, spike = self.update(x, step, mem, spike)
            fired[step] = spike
        return fired


class Written(nn.Module):
    """Two populations that are written out; between them one of SpikingJelly's, whose comparisons are its own."""

    def __init__(self, update: Update) -> None:
        super().__init__()
        self.conv, self.norm, self.hidden = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)
        self.first, self.lif, self.second = Population(update), neuron.LIFNode(step_mode="m"), Population(update)
        self.last, self.norm2, self.head = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        currents = torch.zeros(TIMESTEPS, x.shape[1], 6, 4, 4)
        for step in range(TIMESTEPS):
            currents[step] = self.norm(self.conv(x[step]))
        hidden = self.lif(self.hidden(self.first(currents).flatten(0, 1)).unflatten(0, x.shape[:2]))
        current = self.norm2(self.last(hidden.flatten(0, 1))).unflatten(0, x.shape[:2])
        return self.head(self.second(current).flatten(2)).mean(0)


def made(update: Update) -> nn.Module:
    return calibrated(Written(update), FRAMES)


@pytest.mark.parametrize(
    ("update", "decay", "fires_at"), [(ms_resnet, 0.75, ">"), (from_zeros, 0.5, ">="), (by_difference, 0.5, ">")]
)
def test_neurons_that_are_written_out(update: Update, decay: float, fires_at: str) -> None:
    compiled = resformer.compile(made(update), FRAMES, "sim")
    for name in ("first", "second"):
        neurons = compiled.compilation.folded[name].op
        assert neurons.metadata["fires_at"] == fires_at
        op = compiled.program[name].op
        assert isinstance(op, LIF | CubaLIF)
        assert set(op.dv.flat) == {round(4096 * decay)}
        # only neurons that fire at their threshold may have a surplus, which decides ties
        assert bool(op.surplus.any()) <= (fires_at == ">=")
    result = compiled.verify(FRAMES.transpose(0, 1), backend="sim")
    assert all(result.fired.values())
    assert {"first", "second", "lif"} <= set(result.fired)
    for check in (FLOAT_GRAPH, BACKEND):
        assert (result.checks[check].mismatched, bool(result.checks[check].compared)) == (0, True)


class Plain(nn.Module):
    """A layer, neurons that are written out, and a classifier: no norm, so that E3 is demanded."""

    def __init__(self, fires: Callable[[torch.Tensor], torch.Tensor], *, soft: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.head = nn.Linear(5, 6), nn.Linear(6, 3)
        for each in self.parameters():
            each.data *= 3
        self.fires, self.soft = fires, soft

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        currents = self.fc(x)
        mem = currents[0]
        spikes = [self.fires(mem).float()]
        for step in range(1, TIMESTEPS):
            left = mem - 1.5 * spikes[-1] if self.soft else mem * (1 - spikes[-1])
            mem = left * 0.5 + currents[step]
            spikes.append(self.fires(mem).float())
        made: torch.Tensor = self.head(torch.stack(spikes))
        return made


@pytest.mark.parametrize(
    "fires", [lambda mem: mem > 1.5, lambda mem: mem >= 1.5, lambda mem: (mem - 1.5) > 0, lambda mem: mem - 1.5 >= 0]
)
@pytest.mark.parametrize("soft", [False, True])
def test_all_four_equivalences_hold(fires: Callable[[torch.Tensor], torch.Tensor], *, soft: bool) -> None:
    frames = torch.rand(TIMESTEPS, 2, 5, generator=torch.Generator().manual_seed(1))
    compiled = resformer.compile(Plain(fires, soft=soft), frames, "sim")
    result = compiled.verify(frames.transpose(0, 1), backend="sim")
    assert result.equivalent
    assert result.fired["neurons"]
    check = result.checks[QUANTIZED]
    assert check.demanded
    assert check.extra["currents"] == {"compared": 2 * TIMESTEPS * 6, "mismatched": 0}


def test_spikes_may_be_of_any_type() -> None:
    found = import_module(in_float64(made(bits_of_spikes)), FRAMES)
    assert {"first", "second"} <= {node.name for node in found.graph}


@pytest.mark.parametrize("update", [twice, other_threshold, bits_of_numbers])
def test_what_is_no_such_recurrence_is_refused(update: Update) -> None:
    with pytest.raises(UnsupportedError, match=r"^first\.gt: no lowering for gt; neurons that the code writes out are"):
        resformer.compile(made(update), FRAMES, "sim")


@pytest.mark.parametrize("update", [whole_potential, whole_compared])
def test_potentials_cut_to_whole_numbers_are_refused(update: Update) -> None:
    with pytest.raises(
        UnsupportedError, match=r"^first\.(gt: no lowering for gt|to: makes int32 of norm, which is no)"
    ):
        import_module(in_float64(made(update)), FRAMES)
