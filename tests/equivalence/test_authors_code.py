"""What the authors of spiking networks write in their code: views in place, two classifiers, pools of volumes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn

import resformer
from resformer.compiler.frontend.module.importer import in_float64
from resformer.compiler.ir import float_interpreter
from resformer.errors import UnsupportedError
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH
from support.modules import calibrated

TIMESTEPS = 3
IMAGES = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(4))


class Written(nn.Module):
    """A small network for images; a test gives the functions that make its steps and its logits."""

    def __init__(
        self,
        steps: Callable[[torch.Tensor], torch.Tensor],
        readout: Callable[[Written, torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.conv, self.norm, self.hidden = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)
        self.first, self.second = neuron.LIFNode(step_mode="m"), neuron.LIFNode(step_mode="m")
        self.head, self.other = nn.Linear(16, 3), nn.Linear(16, 3)
        self.steps, self.readout = steps, readout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(self.steps(self.norm(self.conv(x))))
        second = self.second(self.hidden(first.flatten(0, 1)).unflatten(0, first.shape[:2])).flatten(2)
        if self.readout is None:
            return self.head(second).mean(0)
        return self.readout(self, second)


def assert_compiles(module: nn.Module, example: torch.Tensor = IMAGES) -> None:
    module = calibrated(module, example)
    compiled = resformer.compile(module, example, "sim")
    traced, twin = compiled.compilation.source.module.traced, in_float64(module)
    made = float_interpreter.run(compiled.compilation.folded, example.double().numpy(), dtype=torch.float64).mean(0)
    with torch.no_grad():
        wanted = twin(example.double())
    np.testing.assert_allclose(made * traced.over_time, wanted, rtol=0, atol=1e-9)  # another order of the same sums
    result = compiled.verify(example, backend="sim")
    assert sum(map(bool, result.fired.values())) == len(result.fired)
    for name in (FLOAT_GRAPH, BACKEND):
        assert (result.checks[name].mismatched, bool(result.checks[name].compared)) == (0, True)


def unsqueezed(x: torch.Tensor) -> torch.Tensor:
    """As in SEW-ResNet's code: ``x`` itself gets the new axis, and ``x`` is read afterwards."""
    x.unsqueeze_(0)
    return x.repeat(TIMESTEPS, 1, 1, 1, 1)


def turned_about(x: torch.Tensor) -> torch.Tensor:
    x.transpose_(1, 2).swapdims_(2, 1)
    x.unsqueeze_(1).squeeze_(1)
    flat = x.flatten(1)
    flat.t_()
    return flat.T.view_as(x).movedim(1, 3).moveaxis(-1, 1).unsqueeze_(0).tile(TIMESTEPS, 1, 1, 1, 1)


@pytest.mark.parametrize("steps", [unsqueezed, turned_about])
def test_views_in_place(steps: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert_compiles(Written(steps))


@pytest.mark.parametrize(
    "readout",
    [
        lambda net, x: (net.head(x).mean(0) + net.other(x).mean(0)) / 2,
        lambda net, x: net.head(x).mean(0) + 0.25 * net.other(x).mean(0),
        lambda net, x: net.other(x.mean(0)) - net.head(x.mean(0)),
    ],
)
def test_two_classifiers(readout: Callable[[Written, torch.Tensor], torch.Tensor]) -> None:
    assert_compiles(Written(unsqueezed, readout))


class Volumes(nn.Module):
    """Pools of three axes on (T, N, C, H, W), as MS-ResNet's shortcuts and readout have them."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.first = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            neuron.LIFNode(step_mode="m"),
        )
        self.pool, self.hidden = pool, nn.Conv2d(6, 4, 1)
        self.second, self.mean, self.head = (
            neuron.IFNode(step_mode="m"),
            nn.AdaptiveAvgPool3d((None, 1, 1)),
            nn.Linear(4, 3),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.pool(self.first(unsqueezed(self.norm(self.conv(x)))))
        second = self.second(self.hidden(pooled.flatten(0, 1)).unflatten(0, pooled.shape[:2]))
        return self.head(self.mean(second).flatten(2)).mean(0)


@pytest.mark.parametrize(
    "pool", [nn.AvgPool3d((1, 2, 2), stride=(1, 2, 2)), nn.MaxPool3d((1, 3, 3), (1, 1, 1), (0, 1, 1))]
)
def test_pools_of_images_that_volumes_hold(pool: nn.Module) -> None:
    assert_compiles(Volumes(pool))


def test_a_pool_over_several_images_is_refused() -> None:
    with pytest.raises(
        UnsupportedError, match=r"^pool: pools windows \(3, 2, 2\), which reach over several images; pool"
    ):
        resformer.compile(Volumes(nn.AvgPool3d((3, 2, 2), (1, 2, 2), (1, 0, 0))), IMAGES, "sim")
