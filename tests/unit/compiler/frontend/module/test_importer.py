"""Modules in memory: what their code computes becomes a graph, and what cannot is refused with its line."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from resformer.compiler.frontend.module.importer import Traced, import_module, in_float64
from resformer.compiler.frontend.module.values import Axes
from resformer.compiler.ir.primitives import Add, BatchNorm2d, MaxPool2d
from resformer.compiler.ir.verify import verify_graph
from resformer.errors import InputError, UnsupportedError
from support.modules import SEWResNet, SpikingVGG, integrate_and_fire, lif

IMAGES = torch.zeros(2, 3, 8, 8)
FRAMES = torch.zeros(4, 2, 3, 8, 8)


def traced(module: nn.Module, example: torch.Tensor = FRAMES, timesteps: int | None = None) -> Traced:
    result = import_module(in_float64(module), example, timesteps=timesteps)
    verify_graph(result.graph)
    return result


def kinds(result: Traced) -> dict[str, type[nir.NIRNode]]:
    return {node.name: type(node.op) for node in result.graph}


def plain(net: Net, x: torch.Tensor) -> torch.Tensor:
    return net.fc(net.spikes(x).flatten(2))


class Net(nn.Module):
    """Convolution, neurons, and what a test makes of them."""

    def __init__(self, forward: Callable[[Net, torch.Tensor], torch.Tensor] | None = None, **neurons: object) -> None:
        super().__init__()
        self.conv = layer.Conv2d(3, 4, 3)
        self.norm = layer.BatchNorm2d(4)
        self.sn = neuron.LIFNode(**neurons)
        self.other = neuron.IFNode()
        self.relu = nn.ReLU()
        self.fc = layer.Linear(4 * 36, 5)
        self.does = forward or plain
        functional.set_step_mode(self, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.does(self, x)

    def spikes(self, x: torch.Tensor) -> torch.Tensor:
        return self.sn(self.norm(self.conv(x)))


def test_nodes_bear_the_paths_of_the_state_dict() -> None:
    found = traced(SpikingVGG((4, "M", 6), lif), IMAGES)
    assert kinds(found) == {
        "input": nir.Input,
        "features.0": nir.Conv2d,
        "features.1": BatchNorm2d,
        "features.2": nir.LIF,
        "features.3": MaxPool2d,
        "features.4": nir.Conv2d,
        "features.5": BatchNorm2d,
        "features.6": nir.LIF,
        "avgpool": nir.AvgPool2d,
        "classifier.0": nir.Flatten,
        "classifier.1": nir.Affine,
        "classifier.2": nir.LIF,
        "classifier.4": nir.Affine,
        "output": nir.Output,
    }
    assert (found.axes, found.over_time is not None, found.graph.timesteps) == (Axes.STATIC, True, 4)


def test_sums_are_read_from_the_code_not_from_the_modules() -> None:
    found = traced(SEWResNet((2, 3), (1, 1), integrate_and_fire))
    adds = {node.name: node.inputs for node in found.graph if isinstance(node.op, Add)}
    assert adds == {
        "layers.0.add": ("layers.0.sn2", "maxpool"),
        "layers.1.add": ("layers.1.sn2", "layers.1.downsample.1"),
    }
    assert (found.axes, found.over_time) == (Axes.TIMED, None)


def test_what_the_output_does_not_depend_on_is_left_out() -> None:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        net.other(x)
        return net.fc(net.spikes(x).flatten(2))

    assert "other" not in kinds(traced(Net(forward)))


def test_code_on_shapes_and_functions_is_run() -> None:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        steps, batch, *_ = x.shape
        if batch > 1:
            x = net.norm(net.conv(x))
        x = net.sn(x).view(steps * batch, 4, 6, 6)
        x = F.max_pool2d(x, 2).reshape(steps, batch, -1)
        x = F.linear(x, net.fc.weight[:, :36]) if net.training else x
        return torch.flatten(x, 2).mean(dim=0)

    assert list(kinds(traced(Net(forward)))) == ["input", "conv", "norm", "sn", "max_pool2d", "reshape", "output"]


def test_samples_may_be_vectors() -> None:
    module = nn.Sequential(layer.Linear(7, 5), neuron.IFNode(), layer.Linear(5, 3))
    functional.set_step_mode(module, "m")
    found = traced(module, torch.zeros(3, 2, 7))
    assert found.graph.input.shape == (7, 1, 1)
    assert list(kinds(found)) == ["input", "input.flatten", "0", "1", "2", "output"]


def test_neurons_keep_their_parameters() -> None:
    module = nn.Sequential(
        layer.Conv2d(3, 4, 3),
        neuron.LIFNode(tau=4.0, decay_input=False, v_threshold=0.75, v_reset=-0.5),
        layer.Conv2d(4, 4, 1),
        neuron.ParametricLIFNode(init_tau=4.0),
        layer.Conv2d(4, 4, 1),
        neuron.IFNode(v_threshold=2.0),
        layer.Flatten(),
    )
    functional.set_step_mode(module, "m")
    graph = traced(module).graph
    op = graph["1"].op
    values = [float(np.unique(each).item()) for each in (op.tau, op.r, op.v_leak, op.v_threshold, op.v_reset)]
    assert values == [4e-4, 4.0, -0.5, 0.75, -0.5]
    assert graph["3"].op.metadata["dt_over_tau"] == pytest.approx(0.25)
    assert isinstance(graph["5"].op, nir.IF)
    assert graph["5"].op.metadata["fires_at"] == ">="


def test_the_module_is_left_as_it_was() -> None:
    module = SpikingVGG((4,), lif).train()
    module(torch.rand(2, 3, 8, 8)).sum().backward()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    traced(module, IMAGES)
    assert module.training
    assert module.features[0].training
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert module(torch.rand(2, 3, 8, 8)).dtype is torch.float32


# Refusals


def line_of(marker: str) -> str:
    """Where in this file a marker stands, as messages name it."""
    lines = inspect.getsource(inspect.getmodule(line_of)).splitlines()
    numbers = [number for number, text in enumerate(lines, 1) if text.endswith(f"# {marker}")]
    assert len(numbers) == 1, marker
    return f"{__file__}:{numbers[0]}"


class Branches(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.spikes(x)
        if spikes.sum() > 3:  # branches
            spikes = spikes * 0
        return self.fc(spikes.flatten(2))


class Merges(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        merged = self.norm(self.conv(x)).flatten(0, 1)
        spikes = self.sn(merged)  # merges
        return self.fc(spikes.flatten(1).view(*x.shape[:2], -1))


class Rectifies(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.conv(x))  # rectifies
        return self.fc(self.sn(x).flatten(2))


class FiresTwice(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.spikes(x)
        spikes = self.sn(spikes)  # fires twice
        return self.fc(spikes.flatten(2))


class Multiplies(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.spikes(x)
        spikes = self.other(spikes * self.norm(self.conv(x)))  # multiplies
        return self.fc(spikes.flatten(2))


class ComputesWeights(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.spikes(x).flatten(2)
        return F.linear(spikes, spikes[:, 0].view(-1, 144)[:5])  # computes weights


class AddsTwice(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.spikes(x)
        spikes = torch.add(spikes, self.other(spikes), alpha=2)  # adds twice
        return self.fc(spikes.flatten(2))


class Swaps(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.spikes(x).transpose(0, 1)
        spikes = self.other(spikes)  # swaps
        return self.fc(spikes.flatten(2))


class Mixes(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(x.shape[1], x.shape[0], 3, 8, 8)  # mixes
        return self.fc(self.spikes(x).flatten(2))


class Counts(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.spikes(x).flatten(2)
        return self.fc(spikes[: int(spikes.sum())])  # counts


@pytest.mark.parametrize(
    ("kind", "marker", "words"),
    [
        (Branches, "branches", "branches on"),
        (Merges, "merges", "sn: neurons read (T * N, ...), so that time runs on from sample to sample"),
        (Rectifies, "rectifies", "relu: no lowering for relu"),
        (FiresTwice, "fires twice", "sn: runs more than once"),
        (Multiplies, "multiplies", "multiplies norm, which is no spike"),
        (ComputesWeights, "computes weights", "no part of time or samples"),
        (AddsTwice, "adds twice", "times 2"),
        (Swaps, "swaps", "other: neurons read (N, T, ...)"),
        (Mixes, "mixes", "merge T and N"),
        (Counts, "counts", "takes a number from"),
    ],
)
def test_what_has_no_lowering_is_refused_with_its_line(
    kind: type[Net], marker: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        traced(kind())
    assert words in str(caught.value)
    assert line_of(marker) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("neurons", "words"),
    [
        ({"v_threshold": 0.0, "v_reset": None}, "sn: its threshold 0 is not above its reset, 0"),
        ({"v_reset": 1.0}, "sn: its threshold 1 is not above its reset, 1"),
    ],
)
def test_neurons_without_a_lowering_are_refused(neurons: dict[str, object], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        traced(Net(**neurons))


class Calls(Net):
    """Spikes through a function."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.function(self.spikes(x).flatten(0, 1))
        return spikes.flatten(1).view(4, -1, spikes[0].numel())


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: F.max_pool2d(x, 2, 1, dilation=2), "takes maxima over dilated windows"),
        (lambda x: F.avg_pool2d(x, 2, divisor_override=3), "divides by something other"),
        (lambda x: F.adaptive_max_pool2d(x, 3), "no lowering for adaptive_max_pool2d"),
        (lambda x: F.batch_norm(x, None, None, training=True), "normalises by the batch"),
        (lambda x: F.dropout(x, 0.5, training=True), "drops values at random"),
        (lambda x: x.mean(1, keepdim=True), r"averages axes \[1\] of"),
        (lambda x: x.repeat(1, 2, 1, 1), "repeats .T . N"),
        (lambda x: F.conv2d(x, x[:4, :, :1, :1]), "no lowering for slice"),
    ],
)
def test_functions_without_a_lowering_are_refused(function: Callable[[torch.Tensor], torch.Tensor], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        traced(Calls(function))


def test_neurons_of_other_kinds_are_refused() -> None:
    net = Net()
    net.sn = neuron.EIFNode(step_mode="m")
    with pytest.raises(UnsupportedError, match="sn: no lowering for a EIFNode"):
        traced(net)


class Configured(neuron.LIFNode):
    """LIF neurons with an argument and a printed form of their own."""

    v_seen = 0

    def __init__(self, v_threshold: float = 0.75) -> None:
        super().__init__(tau=4.0, v_threshold=v_threshold, step_mode="m")

    def extra_repr(self) -> str:
        return "configured"

    def describe(self) -> str:
        return "no method of the base"


class Charges(Configured):
    def neuronal_charge(self, x: torch.Tensor) -> None:
        self.v = self.v + x


class Recharges(Charges):
    """Overrides nothing itself, but its base class does."""


class Mixin:
    def neuronal_fire(self) -> torch.Tensor:
        raise NotImplementedError


class Mixed(Mixin, Configured):
    pass


def test_subclasses_that_only_set_arguments_are_their_base() -> None:
    net = Net()
    net.sn = Configured()
    op = traced(net).graph["sn"].op
    assert isinstance(op, nir.LIF)
    assert (op.metadata["tau_steps"], float(np.unique(op.v_threshold).item())) == (4.0, 0.75)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Charges, "sn: no lowering for a Charges, which overrides neuronal_charge of LIFNode"),
        (Recharges, "sn: no lowering for a Charges, which overrides neuronal_charge of LIFNode"),
        (Mixed, "sn: no lowering for a Mixin, which overrides neuronal_fire of LIFNode"),
    ],
)
def test_subclasses_that_compute_something_else_are_refused(kind: type[Configured], words: str) -> None:
    net = Net()
    net.sn = kind()
    with pytest.raises(UnsupportedError, match=words):
        traced(net)


def test_neurons_whose_code_was_replaced_are_refused() -> None:
    net = Net()
    net.sn.neuronal_charge = lambda x: None
    with pytest.raises(UnsupportedError, match="sn: no lowering for neurons whose neuronal_charge was replaced"):
        import_module(net.double().eval(), FRAMES)


def heads(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(2, (2, 2))


class Product(Net):
    """Products of what a function makes of spikes and a current."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.key = layer.Conv2d(4, 4, 2, 2, step_mode="m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.spikes(x)
        made = self.function(self.key(spikes).flatten(3), spikes.flatten(3))
        return self.other(made).mean((2, 3)).unsqueeze(2)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda y, x: x.mT @ x, "no lowering for a product of spikes with spikes"),
        (lambda y, x: y.mT @ y, "no lowering for a product of currents with currents"),
        (lambda y, x: y[:, :, :2].mT @ x[:, :, :2], "no lowering for a product of"),
        (lambda y, x: y.mT[:, :, :2] @ x, "no lowering for slice 0:2 of axis 2"),
        (lambda y, x: heads(y).transpose(2, 3).mT @ heads(x), "no lowering for a product of"),
        (lambda y, x: torch.einsum("tbcn,tbdm->tbnm", y, x), "no lowering for einsum 'tbcn,tbdm->tbnm'"),
        (lambda y, x: torch.einsum("...cn,...cm->...nm", y, x), "no lowering for einsum"),
        (lambda y, x: y * torch.full((11, 1), 0.5, dtype=y.dtype).expand(11, 4)[:, :, None], "by a constant of shape"),
        (lambda y, x: y.mT @ x * torch.ones(4, 1, 1, 1, dtype=x.dtype) * 2, "no lowering for mul of"),
        (lambda y, x: 2 / (y.mT @ x), "no lowering for "),
        (lambda y, x: x[:, :, ::2], "no lowering for slice of every"),
        (lambda y, x: y.transpose(0, 2), "no lowering for|neurons read"),
    ],
)
def test_products_that_are_not_attention_are_refused(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], words: str
) -> None:
    with pytest.raises(UnsupportedError, match=words):
        traced(Product(function))


def test_single_steps_are_refused() -> None:
    net = Net()
    net.sn.step_mode = "s"
    with pytest.raises(UnsupportedError, match="sn: neurons in step mode 's' take T steps as one"):
        traced(net)


class Loop(nn.Module):
    """Step mode 's', in a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 2, 3), neuron.LIFNode(), nn.Flatten(), nn.Linear(72, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.net(x[t]) for t in range(x.shape[0])])


def test_a_loop_over_time_in_step_mode_m_is_refused() -> None:
    loop = Loop()
    functional.set_step_mode(loop, "m")
    with pytest.raises(UnsupportedError, match=r"neurons read \(N, ...\), which has no axis of time"):
        traced(loop)


def test_a_loop_over_time_that_steps_its_neurons_is_the_network_of_all_steps() -> None:
    found = traced(Loop())
    assert found.stepwise == {"net.1"}
    assert (found.axes, found.over_time, found.graph.timesteps) == (Axes.TIMED, None, 4)
    assert list(kinds(found)) == ["input", "net.0", "net.1", "net.2", "net.3", "output"]


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda net, x: (plain(net, x), x), "returns something other than one tensor"),
        (lambda net, x: net.spikes(x), "must return a vector"),
        (lambda net, x: net.fc(net.norm(net.conv(x)).flatten(2)), "depends on no spiking neurons"),
        (lambda net, x: plain(net, x).flatten(0, 1), "return .T, N, classes."),
    ],
)
def test_outputs_are_one_vector_a_sample(forward: Callable[..., torch.Tensor], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        traced(Net(forward))


@pytest.mark.parametrize("shape", [(0, 2, 3), (4, 0, 3), (4, 2, 0)])
def test_an_empty_example_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"example_input: its shape is .*; give at least one step and one sample"):
        import_module(nn.Identity(), torch.zeros(shape))


def test_what_is_no_module_or_no_tensor_is_refused() -> None:
    with pytest.raises(InputError, match=r"module: is a NoneType; give a torch\.nn\.Module"):
        in_float64(None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"example_input: is a ndarray; give a torch\.Tensor"):
        import_module(nn.Identity(), np.zeros((4, 2, 3)))  # type: ignore[arg-type]


def test_weights_that_are_not_finite_are_named() -> None:
    module = nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():
        module[0].bias[1] = torch.nan
    with pytest.raises(InputError, match=r"0\.bias: holds NaN or infinite values"):
        in_float64(module)


class WithState(nn.Sequential):
    def get_extra_state(self) -> dict[str, int]:
        return {"epoch": 3}

    def set_extra_state(self, state: object) -> None:
        pass


def test_modules_that_cannot_be_copied_or_hold_no_numbers_are_refused() -> None:
    held = nn.Sequential(nn.Linear(3, 2))
    vars(held)["lock"] = threading.Lock()
    with pytest.raises(
        InputError, match=r"Sequential: cannot be copied \(cannot pickle '_thread\.lock' object\); take"
    ):
        in_float64(held)
    with pytest.raises(InputError, match=r"0\.weight: has no values before its lazy layer first runs; run the module"):
        in_float64(nn.Sequential(nn.LazyLinear(2)))
    with pytest.raises(InputError, match=r"_extra_state: its module's get_extra_state returns a dict"):
        in_float64(WithState(nn.Linear(3, 2)))


def test_the_example_needs_axes_that_can_be_told() -> None:
    with pytest.raises(InputError, match=r"its shape is \(2, 2, 2, 2, 2, 2\)"):
        traced(Net(), torch.zeros(2, 2, 2, 2, 2, 2))
    with pytest.raises(InputError, match="timesteps: 5 are asked for, but the module runs 4"):
        traced(Net(), FRAMES, timesteps=5)


@pytest.mark.parametrize("timesteps", [None, 2])
def test_images_may_go_through_layers_along_one_axis(timesteps: int | None) -> None:
    """Four images of (3, 8, 8), which layers along one axis could take for four steps of three samples."""

    def repeats(net: Net, x: torch.Tensor) -> torch.Tensor:
        return plain(net, x.unsqueeze(0).repeat(2, 1, 1, 1, 1))

    module = Net(repeats)
    module.add_module("unused", layer.Conv1d(3, 4, 1))
    found = traced(module, torch.zeros(4, 3, 8, 8), timesteps)
    assert (found.axes, found.sample_axes, found.graph.timesteps) == (Axes.STATIC, 3, 2)


class Joins(nn.Module):
    """Concatenates channels at each step of a loop, and the channels of their means after the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Sequential(nn.Linear(4, 6), neuron.IFNode()) for _ in range(2))
        self.both, self.head, self.tail = nn.Linear(12, 5), nn.Linear(12, 3), nn.Linear(5, 3)
        self.sn = neuron.IFNode()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = [(self.first(each), self.second(each)) for each in x]
        made = torch.stack([self.tail(self.sn(self.both(torch.cat(pair, 1)))) for pair in pairs])
        means = torch.cat([torch.stack(each).mean(0) for each in zip(*pairs, strict=True)], 1)
        return self.head(means) + made.mean(0)


def test_means_over_time_side_by_side_are_not_what_is_so_at_each_step() -> None:
    assert traced(Joins(), torch.zeros(3, 2, 4)).over_time == 1
