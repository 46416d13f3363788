"""Sums with constants, behind loops over time, and in place: the graph computes what the module computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from resformer.compiler.frontend.module.importer import as_samples, import_module, in_float64
from resformer.compiler.frontend.module.tracing import InFloat64
from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.primitives import FIXED
from resformer.errors import UnsupportedError

TIMESTEPS = 4


class Sums(nn.Module):
    """Layers, neurons and constants, and a test's own forward of (T, N, 6), or of (N, 6) in a loop."""

    def __init__(self, forward: Callable[[Sums, torch.Tensor], torch.Tensor], step_mode: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.out, self.skip = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(6, 3)
        self.lif, self.other = neuron.LIFNode(step_mode=step_mode), neuron.LIFNode(step_mode=step_mode)
        self.hidden: torch.Tensor
        self.register_buffer("hidden", torch.linspace(0.1, 0.8, 8))
        self.register_buffer("last", torch.tensor([0.5, 0.25, -0.75]))
        self.register_buffer("third", torch.tensor(3))
        self._forward = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._forward(self, x)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.fired(self.fc(x))

    def fired(self, current: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.out(self.lif(current))
        return made

    def both(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Spikes of two populations."""
        current = self.fc(x)
        return self.lif(current), self.other(2 * current)

    def total(self, x: torch.Tensor) -> torch.Tensor:
        """The logits of all steps, added up in a loop."""
        total = self.logits(x)
        for _ in range(TIMESTEPS - 1):
            total = total + self.logits(x)
        return total


def changed(value: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    value += by
    return value


def view_changed(net: Sums, x: torch.Tensor) -> torch.Tensor:
    current = net.fc(x)
    view = current.flatten(0, 1)
    view += net.hidden
    return net.fired(current)


def changed_behind_view(net: Sums, x: torch.Tensor) -> torch.Tensor:
    current = net.fc(x)
    view = current.flatten(0, 1)
    current += net.hidden
    return net.fired(view.view(current.shape))


def compare(forward: Callable[[Sums, torch.Tensor], torch.Tensor], step_mode: str) -> None:
    shape = (TIMESTEPS, 5, 6) if step_mode == "m" else (5, 6)
    example = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    net = in_float64(Sums(forward, step_mode))
    traced = import_module(net, example)
    made = float_interpreter.run(traced.graph, as_samples(example, traced.axes), dtype=torch.float64)
    functional.reset_net(net)
    with torch.no_grad(), InFloat64():
        wanted = net(example)
    made = made if traced.over_time is None else made.mean(0) * traced.over_time
    np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-12)  # another order of the same sums


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.fired(torch.add(net.hidden, net.fc(x), alpha=3.0)),
        lambda net, x: net.fired(torch.sub(net.hidden, net.fc(x), alpha=3.0)),
        lambda net, x: net.fired(torch.add(net.fc(x), net.hidden, alpha=3.0)),
        lambda net, x: torch.add(net.last, net.logits(x).mean(0), alpha=2),
        lambda net, x: changed(net.logits(x).sum(0), net.last),
        lambda net, x: net.fired(changed(net.fc(x).view(TIMESTEPS, -1, 8), net.hidden)),
        lambda net, x: net.logits(x) / net.third,
        lambda net, x: net.fired(net.fc(x) * torch.tensor(0.5)),
        lambda net, x: net.fired(net.fc(x) + torch.tensor([0.5, 0.25, 1, 0, 0, 0, 0, -2])),
        lambda net, x: net.logits(x).mean(0) - net.skip(x).sum(0),
        lambda net, x: net.logits(x).sum(0) - net.skip(x).mean(0),
        lambda net, x: net.out(torch.add(*(each.bool() for each in net.both(x))).to(x)),
    ],
)
def test_sums_with_constants(forward: Callable[[Sums, torch.Tensor], torch.Tensor]) -> None:
    compare(forward, "m")


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.total(x) + net.last,
        lambda net, x: (net.total(x) + net.last) / TIMESTEPS,
        lambda net, x: changed(net.total(x), net.last),
        lambda net, x: net.total(x) - net.last,
        lambda net, x: torch.cat([net.logits(x).unsqueeze(0) for _ in range(TIMESTEPS)]).sum(0),
    ],
)
def test_what_is_added_behind_a_loop_is_added_once(forward: Callable[[Sums, torch.Tensor], torch.Tensor]) -> None:
    compare(forward, "s")


def test_what_is_the_same_at_each_step_is_not_added_to_the_sum_of_all() -> None:
    with pytest.raises(UnsupportedError, match="what is reduced over time in one way"):
        compare(lambda net, x: net.total(x) + net.skip(x), "s")


def test_steps_that_are_joined_may_be_read_one_by_one_as_well() -> None:
    def forward(net: Sums, x: torch.Tensor) -> torch.Tensor:
        steps = [net.logits(x).unsqueeze(0) for _ in range(TIMESTEPS)]
        joined = torch.cat(steps)
        return joined + torch.cat([each[0].unsqueeze(0) for each in steps])

    compare(forward, "s")


@pytest.mark.parametrize("forward", [view_changed, changed_behind_view])
def test_what_is_changed_in_place_may_not_be_read_as_another_view(
    forward: Callable[[Sums, torch.Tensor], torch.Tensor],
) -> None:
    with pytest.raises(UnsupportedError, match=r"changes in place what .* shows too, which is read later"):
        compare(forward, "m")


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda net, x: net.fired(net.fc(x).int().double()), "makes int32 of fc, which is no spike"),
        (lambda net, x: net.fired(net.fc(x).bool().double()), "makes bool of fc, which is no spike"),
        (lambda net, x: net.logits(x).mean(0).repeat(TIMESTEPS, 1, 1), "repeats"),
    ],
)
def test_what_changes_values_or_repeats_a_mean_is_refused(
    forward: Callable[[Sums, torch.Tensor], torch.Tensor], words: str
) -> None:
    with pytest.raises(UnsupportedError, match=words):
        compare(forward, "m")


@pytest.mark.parametrize("kind", [torch.bool, torch.int64])
def test_spikes_may_be_of_any_type(kind: torch.dtype) -> None:
    compare(lambda net, x: net.out(net.lif(net.fc(x)).to(kind).double()), "m")
    compare(lambda net, x: net.out((1 - net.lif(net.fc(x))).to(kind).double()), "m")


@pytest.mark.parametrize(
    "cast",
    [
        lambda x: x.float(),
        lambda x: x.to(torch.float32),
        lambda x: x.to("cpu", dtype=torch.float32),
        lambda x: x.type(torch.float32),
        lambda x: x.type("torch.FloatTensor"),
        lambda x: x + torch.zeros_like(x, dtype=torch.float32),
    ],
)
def test_float32_is_the_networks_own_type(cast: Callable[[torch.Tensor], torch.Tensor]) -> None:
    compare(lambda net, x: net.out(cast(net.lif(cast(net.fc(cast(x)))).bool())), "m")
    compare(lambda net, x: net.out(cast(net.lif(net.fc(x)).half())), "m")


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.out((~net.lif(net.fc(x)).bool()).float()),
        lambda net, x: net.out(torch.logical_not(net.lif(net.fc(x))).float()),
        lambda net, x: net.out((1 - net.lif(net.fc(x)).byte()).float()),
        lambda net, x: 1 - net.lif(net.skip(x)).mean(0),
    ],
)
def test_spikes_may_be_inverted_in_any_type(forward: Callable[[Sums, torch.Tensor], torch.Tensor]) -> None:
    compare(forward, "m")


def test_other_parts_of_what_is_changed_in_place_may_be_read() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lif = nn.Conv2d(2, 4, 1), neuron.LIFNode(step_mode="m")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = self.conv(x.flatten(0, 1)).chunk(2, 1)
            first *= 1.0
            joined = torch.cat([second, first], 1)
            made: torch.Tensor = self.lif(joined.view(TIMESTEPS, -1, 4, 3, 3)).flatten(2)
            return made

    traced = import_module(in_float64(Parts()), torch.rand(TIMESTEPS, 2, 2, 3, 3))
    assert "lif" in traced.graph


def test_computed_weights_of_tokens_are_no_layers_own() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
            self.lif = neuron.LIFNode(step_mode="m")
            self.out = layer.Linear(18, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.fc(x.flatten(3).transpose(2, 3))
            made: torch.Tensor = self.out(self.lif(tokens).transpose(2, 3).flatten(2))
            return made

    traced = import_module(in_float64(Tokens()), torch.rand(TIMESTEPS, 2, 2, 3, 3))
    assert traced.graph["fc"].op.metadata[FIXED] == 1
