"""SpikingJelly's recurrent containers: spikes of one step ago lead back to their neurons by synapses of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import resformer
from resformer.compiler.frontend.module.importer import import_module, in_float64
from resformer.compiler.ir.ops import RecurrentCubaLIF
from resformer.errors import UnsupportedError
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, QUANTIZED, Verification

LINEAR, ELEMENTWISE = layer.LinearRecurrentContainer, layer.ElementWiseRecurrentContainer


def low() -> neuron.BaseNode:
    """Neurons that fire often."""
    return neuron.LIFNode(v_threshold=0.25)


def vectors() -> torch.Tensor:
    """(T, N, F)."""
    return 6 * torch.rand(4, 2, 12, generator=torch.Generator().manual_seed(1))


def frames() -> torch.Tensor:
    """(T, N, C, H, W)."""
    return 3 * torch.rand(4, 2, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def stepping(container: nn.Module) -> nn.Module:
    """The container, set to take all steps at once and to give its module one step at a time."""
    functional.set_step_mode(container.sub_module, "s")
    container.step_mode = "m"
    return container


def net(*modules: nn.Module) -> nn.Sequential:
    made = nn.Sequential(*modules)
    functional.set_step_mode(made, "m")
    for each in made:
        if isinstance(each, (LINEAR, ELEMENTWISE)):
            stepping(each)
    return made


def behind_spikes(container: nn.Module, size: int = 8) -> nn.Module:
    """A network in which a container reads spikes."""
    return net(layer.Linear(12, 8), low(), container, layer.Linear(size, 3))


def verified(make: Callable[[], nn.Module], example: torch.Tensor, backend: str = "sim") -> Verification:
    torch.manual_seed(0)
    module = make()
    for each in (each for each in module.modules() if isinstance(each, nn.Linear)):
        each.weight.data *= 2
    for norm in (each for each in module.modules() if isinstance(each, nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():
        module.train()(example)
    functional.reset_net(module)
    compiled = resformer.compile(module.eval(), example)
    assert any(isinstance(node.op, RecurrentCubaLIF) for node in compiled.program)
    result = compiled.verify(example.transpose(0, 1), backend=backend)
    assert result.equivalent
    assert [result.checks[name].mismatched for name in (FLOAT_GRAPH, BACKEND)] == [0, 0]
    assert all(result.fired.values())
    return result


OWN_WEIGHTS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: behind_spikes(LINEAR(low(), 8, 8)),
    "linear without bias, soft reset": lambda: behind_spikes(
        LINEAR(neuron.LIFNode(v_threshold=0.25, v_reset=None), 8, 8, bias=False)
    ),
    "sum of spikes": lambda: behind_spikes(ELEMENTWISE(neuron.IFNode(), lambda y, x: y + x)),
    "difference of a current": lambda: net(
        layer.Linear(12, 8), ELEMENTWISE(low(), lambda y, x: x - y), layer.Linear(8, 3)
    ),
}


@pytest.mark.parametrize("kind", OWN_WEIGHTS)
def test_what_leads_back_keeps_the_modules_own_weights(kind: str) -> None:
    check = verified(OWN_WEIGHTS[kind], vectors()).checks[QUANTIZED]
    assert (check.demanded, check.mismatched) == (True, 0)


@pytest.mark.parametrize("backend", ["lava", "onnx"])
def test_every_backend_fires_the_same(backend: str) -> None:
    verified(OWN_WEIGHTS["linear"], vectors(), backend)


def convolved() -> nn.Module:
    inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4), low())
    first = layer.Conv2d(2, 4, 3), layer.BatchNorm2d(4), low()
    return net(*first, ELEMENTWISE(inner, lambda y, x: y + x), layer.Flatten(), layer.Linear(64, 3))


class Branches(nn.Module):
    """Neurons that get the same value by two paths."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = (nn.Linear(8, 8) for _ in range(3))
        self.sn = low()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.sn(self.left(x) + self.right(x))


OTHERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor]]] = {
    "a linear layer before": (
        lambda: net(layer.Linear(12, 8), LINEAR(low(), 8, 8), layer.Linear(8, 3)),
        vectors,
    ),
    "a linear layer inside": (
        lambda: behind_spikes(LINEAR(nn.Sequential(nn.Linear(8, 6), low()), 8, 6), 6),
        vectors,
    ),
    "a linear layer behind the neurons": (
        lambda: behind_spikes(LINEAR(nn.Sequential(low(), nn.Linear(8, 6, bias=False)), 8, 6), 6),
        vectors,
    ),
    "half of it": (lambda: behind_spikes(ELEMENTWISE(low(), lambda y, x: x + y / 2)), vectors),
    "two ways": (lambda: behind_spikes(ELEMENTWISE(Branches(), lambda y, x: x + y)), vectors),
    "convolution and normalisation": (convolved, frames),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_layers_lead_back(kind: str) -> None:
    make, example = OTHERS[kind]
    assert not verified(make, example()).checks[QUANTIZED].demanded


class Loop(nn.Module):
    """A container that takes one step at a time, and a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cell, self.last = nn.Linear(12, 8), LINEAR(low(), 8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.last(self.cell(self.first(step))) for step in x]).mean(0)


def test_a_loop_over_time_steps_a_container() -> None:
    verified(Loop, vectors())


def test_the_quantized_state_leads_back_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, example = OWN_WEIGHTS["linear"]().eval(), vectors()
    compiled = resformer.compile(module, example, "sim,nir", output=tmp_path / "build")
    quantized = compiled.quantized_state()["2.rc.weight"]
    assert quantized.shape == (8, 16)
    assert not torch.equal(quantized, module[2].rc.weight.double())
    assert torch.allclose(quantized, module[2].rc.weight.double(), atol=0.01)
    again = resformer.load(tmp_path / "build")
    assert (
        again.run(example.transpose(0, 1), backend="sim").logits == compiled.run(example.transpose(0, 1)).logits
    ).all()


@pytest.mark.parametrize(
    ("container", "words"),
    [
        (ELEMENTWISE(low(), torch.mul), "2.mul: multiplies 2.step_ago, which is no spike"),
        (
            ELEMENTWISE(nn.Sequential(low(), nn.Linear(8, 8), low()), torch.add),
            "two populations lead back to each other",
        ),
        (
            ELEMENTWISE(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), torch.add),
            "made of more than what neurons fire",
        ),
        (LINEAR(nn.Sequential(low(), nn.Linear(8, 8)), 8, 8), "its bias is not there in the first step"),
    ],
)
def test_what_cannot_lead_back_is_refused(container: nn.Module, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        resformer.compile(behind_spikes(container).eval(), vectors())


def test_a_container_that_is_given_all_steps_as_one_is_refused() -> None:
    """SpikingJelly's runs (T, N, ...) as one step of T * N samples, which leads nothing back from step to step."""
    module = behind_spikes(ELEMENTWISE(low(), torch.add))
    functional.set_step_mode(module[2], "s")
    with pytest.raises(UnsupportedError, match=r"2\.sub_module: neurons in step mode 's' take T steps as one"):
        resformer.compile(module.eval(), vectors())


class Reading(nn.Module):
    """A container, and other neurons that read the input of the container's neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.container = layer.ElementWiseRecurrentContainer(Keeping(), lambda y, x: x + y, step_mode="m")
        self.other, self.head = neuron.IFNode(step_mode="m"), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.container(x)
        return self.head(spikes + self.other(self.container.sub_module.given.unflatten(0, x.shape[:2]))).mean(0)


class Keeping(nn.Module):
    """A layer and neurons; the neurons' input is kept as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.neurons = layer.Linear(4, 4), neuron.IFNode()
        self.given: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.given = self.fc(x)
        spikes: torch.Tensor = self.neurons(self.given)
        return spikes


@pytest.mark.filterwarnings("ignore:The tensor attribute")
def test_what_leads_back_is_read_by_its_neurons_alone() -> None:
    words = (
        r"^other: reads container\.sub_module\.fc, which holds what container\.sub_module\.neurons fired one step ago"
    )
    with pytest.raises(UnsupportedError, match=words):
        import_module(in_float64(Reading()), torch.zeros(3, 2, 4))
