"""Modules as people write them: readouts, chains of layers, windows, joins, loops over time; tiny networks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import resformer
from resformer.compiler.files.build import read_build
from resformer.errors import UnsupportedError
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, QUANTIZED, Verification
from support.compare import first_difference

Join = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def lif() -> neuron.BaseNode:
    return neuron.LIFNode(v_threshold=0.5)


def frames() -> torch.Tensor:
    """(T, N, C, H, W)."""
    return 3 * torch.rand(4, 2, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def net(*modules: nn.Module) -> nn.Sequential:
    made = nn.Sequential(*modules)
    functional.set_step_mode(made, "m")
    return made


class Case(nn.Module):
    """Two populations, (T, N, 4, 6, 6), a test's ``join`` of them, and its layers, neurons and a classifier, if any."""

    def __init__(self, join: Join, *rest: nn.Module, channels: int = 4) -> None:
        super().__init__()
        self.first = net(layer.Conv2d(2, 4, 3, padding=1), lif())
        self.second = net(layer.Conv2d(4, 4, 3, padding=1), lif())
        self.current = net(layer.Conv2d(4, 4, 3, padding=1))
        self.fc, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3)
        self.conv = nn.Conv2d(4, 3, 1)
        self.line, self.short = nn.Conv1d(144, 4, 3), nn.Conv1d(4, 4, 3)
        self.rest = net(*rest) if rest else None
        self.end = net(lif(), layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(channels, 3))
        self.join = join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.first(x)
        joined = self.join(self, a, self.second(a))
        return joined if self.rest is None else self.end(self.rest(joined))


def settled(module: nn.Module, example: torch.Tensor) -> nn.Module:
    """The module in eval mode; its normalisations hold the statistics of one batch."""
    for each in module.modules():
        if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d):
            each.momentum = 1.0
    with torch.no_grad():
        module.train()(example)
    functional.reset_net(module)
    return module.eval()


def verified(make: Callable[[], nn.Module], example: torch.Tensor, backend: str = "sim") -> Verification:
    torch.manual_seed(0)
    compiled = resformer.compile(settled(make(), example), example)
    result = compiled.verify(example.transpose(0, 1) if example.dim() in (3, 5) else example, backend=backend)
    assert result.equivalent
    assert [result.checks[name].mismatched for name in (FLOAT_GRAPH, BACKEND)] == [0, 0]
    assert sum(result.fired.values())
    return result


def means(y: torch.Tensor) -> torch.Tensor:
    return y.mean((-2, -1))


READOUTS: dict[str, Join] = {
    "sum, divided": lambda net, a, b: net.fc(means(b)).sum(0) / 4,
    "classifier of the sum": lambda net, a, b: net.fc(means(b).sum(0)),
    "classifier of the mean": lambda net, a, b: net.fc(means(b.mean(0))),
    "norm of the classifier of the sum": lambda net, a, b: net.norm(net.fc(means(b).sum(0))),
    "convolution of one pixel": lambda net, a, b: net.conv(b.mean(0).mean((2, 3), keepdim=True)).flatten(1),
    "sum of pixels": lambda net, a, b: net.fc(b.sum((0, 3, 4))),
}


@pytest.mark.parametrize("read", READOUTS)
def test_readouts_over_time_are_the_mean_of_logits(read: str) -> None:
    result = verified(lambda: Case(READOUTS[read]), frames())
    check = result.checks[QUANTIZED]
    assert (check.demanded, check.mismatched) == (True, 0)


CHAINS: dict[str, tuple[nn.Module, ...]] = {
    "depthwise, pointwise, norm": (
        layer.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
        layer.Conv2d(4, 4, 1, bias=False),
        layer.BatchNorm2d(4),
    ),
    "convolution, pool": (layer.Conv2d(4, 4, 3, padding=1), layer.AvgPool2d(2)),
    "padded pool, convolution": (layer.AvgPool2d(3, 2, 1), layer.Conv2d(4, 4, 2)),
    "norm, convolution": (layer.BatchNorm2d(4), layer.Conv2d(4, 4, 3)),
    "averages of several sizes, flatten, linear": (
        layer.AdaptiveAvgPool2d(4),
        layer.Flatten(),
        layer.Linear(64, 4),
    ),
    "convolution, flatten, linear": (layer.Conv2d(4, 2, 3), layer.Flatten(), layer.Linear(32, 4)),
    "averages by ceil_mode, flatten, linear": (
        layer.AvgPool2d((4, 3), (4, 3), (1, 1), ceil_mode=True),
        layer.Flatten(),
        layer.Linear(24, 4),
    ),
    "averages of pixels alone, flatten, linear": (
        layer.AvgPool2d(3, 2, 1, count_include_pad=False),
        layer.Flatten(),
        layer.Linear(36, 4),
    ),
}


def vector_end(module: Case) -> Case:
    module.end = net(lif(), layer.Linear(4, 3))
    return module


@pytest.mark.parametrize("kind", CHAINS)
def test_layers_without_neurons_between_are_one(kind: str) -> None:
    def make() -> nn.Module:
        made = Case(lambda net, a, b: b, *CHAINS[kind])
        return vector_end(made) if "linear" in kind else made

    check = verified(make, frames()).checks[QUANTIZED]
    assert not check.demanded
    assert "are one layer of the program" in check.note


EXACT: dict[str, tuple[nn.Module, ...]] = {
    "even kernel": (layer.Conv2d(4, 4, (4, 2), padding="same"),),
    "even kernel, norm": (layer.Conv2d(4, 4, 2, padding="same", bias=False), layer.BatchNorm2d(4)),
    "zeros at one side": (layer.SeqToANNContainer(nn.ZeroPad2d((1, 0, 0, 2)), nn.Conv2d(4, 4, 3, 2)),),
    "ceil_mode without effect": (layer.MaxPool2d(2, ceil_mode=True), layer.Conv2d(4, 4, 2)),
    "lone norm": (layer.BatchNorm2d(4),),
}


@pytest.mark.parametrize("kind", EXACT)
def test_windows_keep_the_modules_own_weights(kind: str) -> None:
    check = verified(lambda: Case(lambda net, a, b: b, *EXACT[kind]), frames()).checks[QUANTIZED]
    assert (check.demanded, check.mismatched) == (True, 0)


def between_norms(*middle: nn.Module) -> nn.Module:
    """Layers between normalised convolutions, so that all populations fire at times; (N, 2, 6, 6) to (N, 3)."""
    first = layer.Conv2d(2, 4, 2, bias=False), layer.BatchNorm2d(4), lif()
    last = layer.Conv2d(4, 4, 1, bias=False), layer.BatchNorm2d(4), lif()
    return net(*first, *middle, *last, layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(4, 3))


@pytest.mark.parametrize("backend", ["sim", "lava", "onnx"])
@pytest.mark.parametrize("window", [(2, 2, 0), ((2, 3), (2, 4), (0, 1))], ids=["", "padded"])
def test_a_max_pool_in_ceil_mode_has_windows_beyond_the_image(window: tuple[object, ...], backend: str) -> None:
    result = verified(lambda: between_norms(layer.MaxPool2d(*window, ceil_mode=True)), frames(), backend)
    assert all(result.fired.values())
    assert (result.checks[QUANTIZED].demanded, result.checks[QUANTIZED].mismatched) == (True, 0)


def rows_of_pixels() -> torch.Tensor:
    """(T, N, C, L)."""
    return 3 * torch.rand(4, 2, 3, 11, generator=torch.Generator().manual_seed(1))


ALONG: dict[str, tuple[nn.Module, ...]] = {
    "one-sided": (nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(4, 4, 3, 2)),
    "dilated, same": (nn.Conv1d(4, 4, 4, padding="same", dilation=2, groups=2), nn.BatchNorm1d(4)),
    "max-pool, ceil_mode": (nn.MaxPool1d(3, 2, ceil_mode=True), nn.Conv1d(4, 4, 2)),
    "average pool": (nn.AvgPool1d(2), nn.Conv1d(4, 4, 2)),
}


@pytest.mark.parametrize("kind", ALONG)
def test_layers_along_one_axis_are_layers_of_images_of_one_row(kind: str) -> None:
    def make() -> nn.Module:
        rest = layer.SeqToANNContainer(*ALONG[kind], nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 4))
        return net(layer.Conv1d(3, 4, 3, bias=False), layer.BatchNorm1d(4), lif(), rest, lif(), layer.Linear(4, 3))

    example = rows_of_pixels()
    torch.manual_seed(0)
    compiled = resformer.compile(settled(make(), example), example)
    assert compiled.verify(example.transpose(0, 1), backend="sim").equivalent


def test_layers_along_one_axis_keep_their_weights() -> None:
    def make() -> nn.Module:
        two = layer.SeqToANNContainer(nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4))
        end = layer.Flatten(), layer.Linear(44, 3)
        return net(layer.Conv1d(3, 4, 3, padding="same", bias=False), layer.BatchNorm1d(4), lif(), two, lif(), *end)

    check = verified(make, rows_of_pixels()).checks[QUANTIZED]
    assert (check.demanded, check.mismatched) == (True, 0)


JOINS: dict[str, Join] = {
    "and": lambda net, a, b: a * b,
    "iand": lambda net, a, b: (1 - b) * a,
    "or": lambda net, a, b: a + b - a * b,
    "maximum": lambda net, a, b: torch.maximum(a, b),
    "clamped": lambda net, a, b: (a + b).clamp(max=1),
    "half": lambda net, a, b: torch.cat([a[:, :, :2], b[:, :, 2:]], 2),
    "side by side": lambda net, a, b: torch.cat([a, b], 2),
}


@pytest.mark.parametrize("kind", JOINS)
def test_joins_of_spikes_are_exact(kind: str) -> None:
    channels = 8 if kind == "side by side" else 4
    result = verified(lambda: Case(JOINS[kind], layer.Conv2d(channels, 4, 3, bias=True)), frames())
    check = result.checks[QUANTIZED]
    assert check.demanded == (kind != "half")
    assert check.mismatched == 0 or not check.demanded


class Loop(nn.Module):
    """Neurons that take one step at a time, and a loop over frames."""

    def __init__(self, read: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(2, 4, 3), lif(), nn.Flatten(), nn.Linear(64, 6), lif(), nn.Linear(6, 3))
        self.read = read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.inner, x)


LOOPS: dict[str, Callable[[nn.Module, torch.Tensor], torch.Tensor]] = {
    "mean": lambda inner, x: sum(inner(x[t]) for t in range(4)) / 4,
    "stacked": lambda inner, x: torch.stack([inner(frame) for frame in x]),
    "side by side": lambda inner, x: torch.cat([inner(frame).unsqueeze(0) for frame in x]).sum(0),
    "multi_step_forward": lambda inner, x: functional.multi_step_forward(x, inner),
}


@pytest.mark.parametrize("kind", LOOPS)
def test_a_loop_over_frames_is_the_network_of_all_steps(kind: str) -> None:
    check = verified(lambda: Loop(LOOPS[kind]), frames()).checks[QUANTIZED]
    assert (check.demanded, check.mismatched) == (True, 0)


def test_a_loop_that_repeats_an_image_finds_how_often() -> None:
    images = frames()[0]
    result = verified(lambda: Loop(lambda inner, x: sum(inner(x) for _ in range(3)) / 3), images)
    assert result.timesteps == 3


@pytest.mark.parametrize("kind", ["and", "padded pool, convolution", "delay"])
def test_lava_fires_the_same(kind: str) -> None:
    rest = CHAINS.get(kind, (layer.Conv2d(8 if kind == "side by side" else 4, 4, 3),))
    rest = (layer.Delay(1), *rest) if kind == "delay" else rest
    verified(lambda: Case(JOINS.get(kind, lambda net, a, b: b), *rest), frames(), "lava")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(layer.Conv2d(2, 4, 3), lif()), r"0 \(Conv2d\): is in step mode 's'.*functional.set_step_mode"),
        (net(layer.Conv2d(2, 4, 3), lif(), layer.SynapseFilter()), "2: a SynapseFilter keeps a state"),
        (Loop(lambda inner, x: inner(x[3])), "is given step 3 when it runs for the 1st time"),
        (Loop(lambda inner, x: sum(inner(x[t]) for t in range(3))), r"reads the sum of steps \[0, 1, 2\] of 4"),
        (Loop(lambda inner, x: [inner(frame) for frame in x][-1]), "returns what step 3 makes"),
        (Case(lambda net, a, b: b, layer.AvgPool2d(4, 4, ceil_mode=True)), "by windows of several sizes"),
        (
            Case(lambda net, a, b: b, layer.AvgPool2d(2, divisor_override=3)),
            "its window's area: by 3, not 4",
        ),
        (Case(lambda net, a, b: b, layer.AdaptiveAvgPool2d(4), layer.Conv2d(4, 4, 3)), "by windows of several sizes"),
        (Case(lambda net, a, b: b, layer.AdaptiveAvgPool2d(4)), "by windows of several sizes"),
        (
            Case(lambda net, a, b: b, layer.Conv2d(4, 4, 1), layer.Conv2d(4, 4, 3, padding=1)),
            "pads what rest.0 makes without neurons between",
        ),
        (Case(lambda net, a, b: a * net.current(b)), "multiplies current.0, which is no spike"),
        (
            Case(lambda net, a, b: net.short(a.flatten(0, 1).flatten(2))),
            "give it all channels and the pixels of one row",
        ),
        (Case(lambda net, a, b: net.line(a.flatten(2).permute(1, 2, 0))), "so that they mix steps or samples"),
    ],
)
def test_what_has_no_lowering_is_named_with_the_way_out(module: nn.Module, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        resformer.compile(module.eval(), frames())


class Enlarges(nn.Module):
    """As VGG with small images: an average pool enlarges the image to 7 x 7 pixels, then linear layers."""

    def __init__(self, *rest: nn.Module) -> None:
        super().__init__()
        self.first = net(layer.Conv2d(2, 4, (3, 5), 2, bias=False), layer.BatchNorm2d(4), lif())
        self.end = net(layer.AdaptiveAvgPool2d(7), layer.Flatten(), *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.first(x))


ENLARGED: dict[str, tuple[nn.Module, ...]] = {
    "hidden": (layer.Linear(196, 6), neuron.IFNode(v_threshold=0.0625), layer.Dropout(), layer.Linear(6, 3)),
    "classifier": (layer.Linear(196, 3, bias=False),),
}


@pytest.mark.parametrize("kind", ENLARGED)
def test_layers_of_enlarged_images_keep_their_weights(kind: str) -> None:
    result = verified(lambda: Enlarges(*ENLARGED[kind]), frames())
    assert all(result.fired.values())
    assert (result.checks[QUANTIZED].demanded, result.checks[QUANTIZED].mismatched) == (True, 0)


class Bordered(nn.Module):
    """A normalisation whose output gets a border of the value that it gives for zero, as in RepConv."""

    def __init__(self, *, factor: float = 1.0, sides: int = 4) -> None:
        super().__init__()
        self.norm, self.factor, self.sides = nn.BatchNorm2d(4), factor, sides

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        of_zero = norm.bias - norm.running_mean * norm.weight / torch.sqrt(norm.running_var + norm.eps)
        made, border = nn.functional.pad(norm(x), [1] * 4), self.factor * of_zero.detach().view(1, -1, 1, 1)
        parts = made[:, :, :1], made[:, :, -1:], made[:, :, :, :1], made[:, :, :, -1:]
        for part in parts[: self.sides]:
            part.copy_(border)
        return made


def reparameterised(**border: float) -> nn.Module:
    first = nn.Conv2d(4, 4, 1, bias=False), Bordered(**border)
    last = nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
    return between_norms(layer.SeqToANNContainer(*first, *last), lif())


def test_a_border_of_normalised_zeros_is_padding_before_the_normalisation() -> None:
    def make() -> nn.Module:
        module = reparameterised()
        nn.init.uniform_(module[3][1].norm.bias, -1, 1)
        return module

    assert all(verified(make, frames()).fired.values())


@pytest.mark.parametrize(
    ("border", "words"),
    [({"factor": 2.0}, "other values than normalised zeros"), ({"sides": 3}, "a part of .* that is not its border")],
)
def test_other_borders_are_refused(border: dict[str, float], words: str) -> None:
    module = reparameterised(**border)
    nn.init.uniform_(module[3][1].norm.bias, -1, 1)
    with pytest.raises(UnsupportedError, match=words):
        resformer.compile(module.eval(), frames())


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm, nn.utils.spectral_norm])
def test_weights_that_pytorch_computes_are_those_of_eval_mode(norm: Callable[[nn.Module], nn.Module]) -> None:
    result = verified(lambda: between_norms(layer.SeqToANNContainer(norm(nn.Conv2d(4, 4, 3))), lif()), frames())
    assert not result.checks[QUANTIZED].demanded


@pytest.mark.parametrize("zeros", [(0, 1, 0, 1), (1, 1, 1, 1)])
def test_a_max_pool_of_padded_spikes_is_one_of_more_windows(zeros: tuple[int, ...]) -> None:
    result = verified(lambda: between_norms(layer.SeqToANNContainer(nn.ZeroPad2d(zeros), nn.MaxPool2d(2, 2))), frames())
    assert all(result.fired.values())
    assert (result.checks[QUANTIZED].demanded, result.checks[QUANTIZED].mismatched) == (True, 0)


VectorReadout = Callable[["Vectors", torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Vectors(nn.Module):
    """Two populations of vectors, (T, N, 6), and a test's readout of the input and of both."""

    def __init__(self, read: VectorReadout) -> None:
        super().__init__()
        self.first = net(layer.Linear(5, 6), neuron.IFNode())
        self.second = net(layer.Linear(6, 6), neuron.LIFNode(v_threshold=0.1))
        self.one, self.other = nn.Linear(6, 3), nn.Linear(6, 3)
        self.both, self.skip = nn.Linear(12, 3), nn.Linear(5, 3)
        self.read = read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.first(x)
        return self.read(self, x, a, self.second(a))


class MapAndVector(nn.Module):
    """The sum of two classifiers, of a map's spikes and of a vector's."""

    def __init__(self) -> None:
        super().__init__()
        self.first = net(layer.Conv2d(2, 4, 3), lif())
        self.second = net(layer.Linear(64, 6), neuron.LIFNode(v_threshold=0.1))
        self.one, self.other = nn.Linear(64, 3), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.first(x).flatten(2)
        return self.one(a) + self.other(self.second(a))


VECTOR_READOUTS: dict[str, VectorReadout] = {
    "two classifiers": lambda net, x, a, b: net.one(a) + net.other(b),
    "classifier of both": lambda net, x, a, b: net.both(torch.cat([a, b], -1)),
    "two classifiers side by side": lambda net, x, a, b: torch.cat([net.one(a), net.other(b)], -1),
    "skip from the input": lambda net, x, a, b: net.one(b) + net.skip(x),
    "classifier of a sum by halves": lambda net, x, a, b: net.one(a / 2 + b / 2),
    "classifier of a weighted sum": lambda net, x, a, b: net.one(0.6 * a + 0.4 * b),
}


def vectors() -> torch.Tensor:
    """(T, N, F)."""
    return 3 * torch.rand(4, 2, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("read", VECTOR_READOUTS)
def test_readouts_of_two_populations_of_vectors(read: str) -> None:
    assert all(verified(lambda: Vectors(VECTOR_READOUTS[read]), vectors()).fired.values())


def test_a_readout_of_a_map_and_a_vector() -> None:
    assert all(verified(MapAndVector, frames()).fired.values())


def test_a_readout_of_two_populations_compiles_again_from_its_nir_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Vectors(VECTOR_READOUTS["two classifiers"]).eval()
    resformer.compile(module, vectors(), output=tmp_path / "b")
    first = read_build(tmp_path / "b").program()
    again = resformer.compile(tmp_path / "b" / "network.nir").program
    assert [(node.name, node.inputs) for node in again] == [(node.name, node.inputs) for node in first]
    assert first_difference(replace(again, metadata=first.metadata), first) is None


@pytest.mark.parametrize("names", [("input", "lif", "head"), ("output", "input", "head"), ("fc", "lif", "output")])
def test_layers_may_have_the_names_of_the_graphs_own_nodes(names: tuple[str, ...], tmp_path: Path) -> None:
    def named() -> nn.Module:
        made = nn.Sequential(OrderedDict(zip(names, (layer.Linear(5, 6), lif(), layer.Linear(6, 3)), strict=True)))
        functional.set_step_mode(made, "m")
        return made

    verified(named, vectors())
    compiled = resformer.compile(named().eval(), vectors(), output=tmp_path / "b")
    again = resformer.compile(tmp_path / "b" / "network.nir").program
    assert [node.name for node in again] == [node.name for node in compiled.program]


def test_torch_compile_is_unwrapped() -> None:
    plain = net(layer.Linear(5, 6), lif(), layer.Linear(6, 3))
    assert list(verified(lambda: cast("nn.Module", torch.compile(plain)), vectors()).fired) == ["1"]
