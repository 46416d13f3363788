"""Modules in memory: the module, every float graph, Lava and the quantized module fire the same spikes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import resformer
from resformer.compiler.export import checkpoint
from resformer.compiler.pipeline import MODULE, CompileOptions
from resformer.compiler.quantize.choose import QuantizationConfig
from resformer.errors import InputError, UnsupportedError
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.compiled import Compiled
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, ORIGINAL, QUANTIZED, Verification
from support.modules import (
    MakeNeuron,
    MembraneBlock,
    SEWResNet,
    SpikingVGG,
    calibrated,
    coarse,
    integrate_and_fire,
    lif,
)


@dataclass(frozen=True)
class Case:
    """A module and samples for it.

    Attributes:
        make: Makes the module, given a function that makes neurons.
        example: Samples in the form that the module's forward takes.
    """

    make: Callable[[MakeNeuron], nn.Module]
    example: torch.Tensor

    @property
    def samples(self) -> torch.Tensor:
        """The example in the form that ``verify`` takes."""
        return self.example if self.example.dim() in (2, 4) else self.example.transpose(0, 1)


def rand(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2))


def linear(make: MakeNeuron) -> nn.Module:
    """A network of vectors in which only the last layer has a bias."""
    module = nn.Sequential(
        layer.Linear(12, 16, bias=False), make(), layer.Linear(16, 10, bias=False), make(), layer.Linear(10, 4)
    )
    functional.set_step_mode(module, "m")
    return module


CASES = {
    "vgg": Case(lambda make: SpikingVGG((6, "M", 8, "A", 8), make), rand(3, 3, 16, 16)),
    "sew": Case(lambda make: SEWResNet((4, 6), (2, 1), make), rand(4, 3, 3, 12, 12)),
    "membrane": Case(lambda make: MembraneBlock(5, make), rand(4, 3, 3, 8, 8)),
}
NEURONS: dict[str, MakeNeuron] = {"LIF": lif, "IF": integrate_and_fire}


def compiled(case: Case, make: MakeNeuron, options: CompileOptions | None = None) -> Compiled:
    return resformer.compile(calibrated(case.make(make), case.example), case.example, options=options)


def assert_equal(result: Verification, *, exact: bool = True) -> None:
    """Require that nothing differs in any check that must hold, and that every check ran."""
    assert result.equivalent
    assert set(result.checks) == {FLOAT_GRAPH, BACKEND, QUANTIZED, ORIGINAL}
    assert result.checks[QUANTIZED].demanded == exact
    spikes = sum(result.layers.values())
    stages = len(MODULE.float_passes) + 1
    counts = {name: result.checks[name].compared for name in (FLOAT_GRAPH, BACKEND, QUANTIZED)}
    assert counts == {FLOAT_GRAPH: stages * spikes, BACKEND: spikes, QUANTIZED: spikes}
    assert all(check.mismatched == 0 for name, check in result.checks.items() if check.demanded)


@pytest.mark.parametrize("neurons", NEURONS)
@pytest.mark.parametrize("network", CASES)
def test_every_spike_is_the_modules(network: str, neurons: str) -> None:
    case = CASES[network]
    network_compiled = compiled(case, NEURONS[neurons])
    assert_equal(network_compiled.verify(case.samples, backend="sim"))
    rates = {
        name: each.count / each.size
        for name, each in network_compiled.run(case.samples, record=True, backend="sim").spikes.items()
    }
    assert all(0 < rate < 1 for rate in rates.values()), rates


def eighteen(make: MakeNeuron) -> nn.Module:
    """SEW-ResNet-18, narrow."""
    return SEWResNet((4, 6, 8, 10), (2, 2, 2, 2), make)


@pytest.mark.parametrize(
    "case",
    [
        Case(eighteen, rand(4, 2, 3, 32, 32)),
        Case(lambda make: SpikingVGG((4, "M", 6, 6, "A", 8, 8, "M", 10), make), rand(2, 3, 32, 32)),
    ],
    ids=["SEW-ResNet-18", "VGG"],
)
def test_lava_fires_the_modules_spikes(case: Case) -> None:
    network = compiled(case, integrate_and_fire)
    result = network.verify(case.samples)
    assert result.backend == "lava"
    assert_equal(result)
    trains = network.run(case.samples, backend="sim", record=True).spikes
    rates = {name: train.count / train.size for name, train in trains.items()}
    assert all(0.05 < rate < 0.3 for rate in rates.values()), rates


@pytest.mark.parametrize(
    ("make", "exact"),
    [
        (lambda: neuron.LIFNode(tau=2.0, decay_input=False), True),
        (lambda: neuron.LIFNode(v_threshold=0.75, v_reset=-0.25), True),
        (lambda: neuron.ParametricLIFNode(init_tau=2.0), True),
        (lambda: neuron.IFNode(v_reset=None), True),
        (lambda: neuron.LIFNode(v_reset=None, decay_input=False), True),
        (lambda: neuron.ParametricLIFNode(init_tau=3.0, v_reset=None), False),
        (lambda: neuron.LIFNode(tau=2.0001, decay_input=False), False),
        (lambda: neuron.LIFNode(tau=3.0, v_threshold=0.6), False),
        (lambda: neuron.ParametricLIFNode(init_tau=1.7, decay_input=False), False),
        (lambda: neuron.IFNode(v_threshold=0.7), False),
    ],
    ids=[
        "no decay of input",
        "reset below zero",
        "PLIF of tau 2",
        "soft IF",
        "soft LIF",
        "soft PLIF",
        "tau near 2",
        "tau 3",
        "PLIF",
        "threshold that is not dyadic",
    ],
)
def test_neurons_of_every_kind(make: MakeNeuron, *, exact: bool) -> None:
    case = CASES["membrane"]
    assert_equal(compiled(case, make).verify(case.samples, backend="sim"), exact=exact)


@pytest.mark.parametrize(("tau", "steps", "exact"), [(4.0, 4, True), (4.0, 5, False), (2.0, 7, True), (2.0, 8, False)])
def test_leaks_are_exact_while_six_bits_last(tau: float, steps: int, *, exact: bool) -> None:
    case = Case(lambda make: MembraneBlock(4, make), rand(steps, 2, 3, 6, 6))
    result = compiled(case, lambda: neuron.LIFNode(tau=tau, v_threshold=0.5)).verify(case.samples, backend="sim")
    assert_equal(result, exact=exact)


def test_neurons_without_leak_are_exact_for_any_time() -> None:
    case = Case(lambda make: SEWResNet((4,), (1,), make), rand(10, 2, 3, 8, 8))
    assert_equal(compiled(case, integrate_and_fire).verify(case.samples, backend="sim"))


@pytest.mark.parametrize(
    ("make", "settled"), [(integrate_and_fire, True), (lif, False), (lambda: neuron.LIFNode(v_reset=None), True)]
)
def test_ties_fall_alike(make: MakeNeuron, monkeypatch: pytest.MonkeyPatch, *, settled: bool) -> None:
    """Loihi fires above its threshold, SpikingJelly at it: a surplus or the shift of the biases settles every tie.

    A LIF's bias of some units fills its mantissa and leaves no room for a surplus. An IF's threshold and the bias of
    our own neurons always have room.
    """
    case = Case(lambda make: MembraneBlock(5, make), torch.round(4 * rand(4, 4, 3, 8, 8)).double() / 4)
    network = resformer.compile(coarse(calibrated(case.make(make), case.example.float())), case.example)
    result = network.verify(case.samples, backend="sim")
    assert_equal(result)
    assert bool(result.ties) != settled
    # in halves, weights are kept exactly: without the shift, the quantized module is the module
    monkeypatch.setattr(checkpoint, "TIE_SHIFT", 0.0)
    unshifted = network.verify(case.samples, backend="sim").checks[QUANTIZED]
    if settled:
        assert unshifted.mismatched == result.checks[ORIGINAL].mismatched == 0
    else:
        assert unshifted.mismatched > 20, "without the shift, ties must show"
        assert sum(result.ties.values()) > 20


def test_vectors_and_a_module_that_has_no_bias() -> None:
    case = Case(linear, rand(4, 5, 12))
    assert_equal(compiled(case, lif).verify(case.samples, backend="sim"))
    case = Case(linear, rand(7, 5, 12))  # one step too many for a surplus
    result = compiled(case, lif).verify(case.samples, backend="sim")
    assert_equal(result, exact=False)
    assert result.checks[QUANTIZED].note == "not demanded: no bias on the way to 1 can hold the shift of ties"


def voting(make: MakeNeuron) -> nn.Module:
    """A network that ends as SpikingJelly's own networks for event data do."""
    module = nn.Sequential(
        layer.Conv2d(3, 4, 3, padding="same", bias=False),
        layer.BatchNorm2d(4),
        make(),
        layer.MaxPool2d(2),
        layer.Flatten(),
        layer.Dropout(0.5),
        layer.Linear(36, 12),
        make(),
        layer.VotingLayer(3),
    )
    functional.set_step_mode(module, "m")
    return module


def test_votes_are_counted() -> None:
    case = Case(voting, rand(4, 3, 3, 6, 6))
    network = compiled(case, integrate_and_fire)
    assert_equal(network.verify(case.samples, backend="sim"))
    spikes = network.run(case.samples, backend="sim", record=True)
    votes = spikes.spikes["7"].dense().reshape(4, 3, 4, 3).mean(-1).swapaxes(0, 1)
    np.testing.assert_allclose(spikes.logits, votes, rtol=0, atol=1e-12)


def test_frames_of_counts() -> None:
    case = Case(lambda make: SEWResNet((4, 6), (1, 1), make), torch.floor(3 * rand(4, 2, 3, 12, 12)))
    result = compiled(case, lif, CompileOptions(input_kind="frames")).verify(case.samples, backend="sim")
    assert_equal(result)
    assert result.clipped == 0


def test_a_build_is_as_the_commands_want_it(tmp_path: Path) -> None:
    case = CASES["vgg"]
    options = CompileOptions(quantization=QuantizationConfig(weight_bits=6), calibration=case.example.numpy())
    module = calibrated(case.make(lif), case.example)
    network = resformer.compile(module, case.example, "sim", output=tmp_path / "build", options=options)
    names = {path.name for path in (tmp_path / "build").iterdir()}
    assert names == {"network.nir", "program.safetensors", "quantized.pt", "report.json"}

    images = tmp_path / "images.npy"
    np.save(images, case.example.numpy())
    out = tmp_path / "out.npz"
    assert run_main([str(tmp_path / "build"), "--input", str(images), "--backend", "sim", "-o", str(out)]) == 0
    with np.load(out) as arrays:
        np.testing.assert_array_equal(arrays["logits"], network.run(case.samples).logits)
    assert verify_main([str(tmp_path / "build"), "--input", str(images), "--backend", "sim"]) == 0
    wrong = ["--model", str(tmp_path / "build" / "quantized.pt")]
    assert verify_main([str(tmp_path / "build"), "--input", str(images), "--backend", "sim", *wrong]) == 1

    # whoever has the class has the quantized network, and it gives the program's logits
    twin = case.make(lif).double().eval()
    twin.load_state_dict(torch.load(tmp_path / "build" / "quantized.pt")["model"], strict=True)
    step = 2.0**-network.program.input.op.signal.scale_exp
    with torch.no_grad():
        logits = twin(torch.round(case.example.double() / step) * step).numpy()
    np.testing.assert_allclose(logits, network.run(case.samples).logits.mean(1), rtol=0, atol=1e-6)


class Stateful(SpikingVGG):
    """What it computes depends on whether it was called before, which no operation shows."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x_seq = x.unsqueeze(0).repeat(4, 1, 1, 1, 1)
        self.calls += 1
        if self.calls > 1:
            x_seq = x_seq + x_seq
        return self.classifier(self.avgpool(self.features(x_seq))).mean(0)


def test_what_operations_do_not_show_is_seen_on_the_example() -> None:
    example = rand(3, 3, 8, 8)
    module = calibrated(Stateful((4,), lif), example)
    module.calls = 0
    with pytest.raises(UnsupportedError, match=r"features.2: .* spikes are not the module's on the example"):
        resformer.compile(module, example)


@pytest.mark.parametrize("target", ["sim,onnx", ("sim", "onnx"), ["sim", "onnx", "sim"]])
def test_several_targets(target: str | list[str]) -> None:
    module, example = MembraneBlock(4, lif), rand(4, 2, 3, 6, 6)
    assert resformer.compile(calibrated(module, example), example, target).targets == ("sim", "onnx")


def test_bad_choices_are_refused(tmp_path: Path) -> None:
    module = MembraneBlock(4, lif)
    example = rand(4, 2, 3, 6, 6)
    with pytest.raises(InputError, match="target: 'loihi' is none of lava"):
        resformer.compile(module, example, "onnx,loihi")
    with pytest.raises(InputError, match="target: 'loihi' is none of lava"):
        resformer.compile(module, example, ["onnx", "loihi"])
    with pytest.raises(InputError, match=r"target: \(\) is none of lava"):
        resformer.compile(module, example, ())
    with pytest.raises(InputError, match="dt and image_size are for files"):
        resformer.compile(module, example, options=CompileOptions(dt=1e-3))
    with pytest.raises(InputError, match="samples: the shape is"):
        resformer.compile(calibrated(module, example), example).run(np.zeros((2, 4, 6, 6)))
    repeating = calibrated(SpikingVGG((4,), lif), rand(2, 3, 8, 8))
    with pytest.raises(InputError, match="a frame for each step"):
        resformer.compile(repeating, rand(2, 3, 8, 8)).verify(rand(2, 4, 3, 8, 8), backend="sim")
