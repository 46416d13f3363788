"""``resformer-verify --local`` as a user runs it: it names the layer at fault, and no other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based import layer as layers
from torch import nn

from resformer.compiler.ir.ops import Conv2d, Dense, RecurrentCubaLIF
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.cli.compile_options import main as compile_main
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.compiled import compile  # noqa: A004
from support.builds import Tiny, change_program, program_of, read_json, write_tiny
from support.nir_files import Written, chain, cuba_lif, lif, write, written

LAYERS = (
    "prologue.0",
    *(f"layers.0.{name}" for name in ("0.W.y1", "0.W.y2", "0.Wproj", "1.up.1", "1.conv.0.1", "1.down.1")),
    *(f"layers.1.{name}" for name in ("0.conv", "1.W.y1", "1.W.y2", "1.Wproj")),
    *(f"layers.1.2.{name}" for name in ("up.1", "conv.0.1", "conv.1.1", "down.1")),
    "classifier",
)


def verify_local(
    tiny: Tiny, folder: Path, *arguments: str, build: Path | None = None, status: int = 0, samples: int = 2
) -> list[Any]:
    """Verify with ``--local``; returns the list of layers, in the network's order."""
    command = [str(build or tiny.build), "--model", str(tiny.model), "--input", str(tiny.images)]
    json = folder / "r.json"
    options = ["--samples", str(samples), "--backend", "reference", "--local", "--json", str(json)]
    assert verify_main([*command, *options, *arguments]) == status
    local: list[Any] = read_json(json)["local"]
    return local


def halve(weight: np.ndarray) -> np.ndarray:
    return (weight / 2).astype(weight.dtype)


@pytest.fixture(scope="module")
def sound(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The undamaged layers by name."""
    return {layer["name"]: layer for layer in verify_local(tiny, tmp_path_factory.mktemp("sound"))}


def test_a_sound_build_has_nobody_to_blame(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    local = verify_local(tiny, tmp_path)
    errors = sorted(layer["current"]["relative_error"] for layer in local)
    median = errors[len(errors) // 2]
    assert 2 * median < errors[-1] < 4 * median
    told = "; no layer stands out, so blame the width of all, and this one's first (--layer-bits)\n"
    assert told in capsys.readouterr().out


def test_every_layer_and_population_is_there_once(tiny: Tiny, sound: dict[str, Any]) -> None:
    program = program_of(tiny.build)
    assert tuple(sound) == tuple(node.name for node in program if isinstance(node.op, Conv2d | Dense)) == LAYERS
    populations = [layer["population"] for layer in sound.values() if layer["population"] is not None]
    assert sorted(populations) == sorted(program.lif_names)
    assert [layer for layer in sound if sound[layer]["population"] is None] == ["layers.1.2.down.1", "classifier"]
    assert sorted(layer["rank"] for layer in sound.values()) == list(range(1, len(LAYERS) + 1))
    for layer in sound.values():
        current = layer["current"]
        assert 0 < current["rms_error"] < current["worst_error"] < 0.2
        assert 0 < current["relative_error"] < 0.05
        if layer["population"] is None:
            assert layer["spikes"] is None
            continue
        spikes, size = layer["spikes"], 8 * int(np.prod(program[layer["population"]].shape))
        assert spikes["compared"] == current["compared"] == size
        assert spikes["mismatched_share"] == spikes["mismatched"] / size
        assert abs(spikes["rate_shift"]) <= spikes["mismatched_share"] < 0.02
        assert 0 < spikes["rate_original"] < 1
        assert spikes["mismatched"] <= spikes["end_to_end"]["mismatched"]
        assert 0 < spikes["end_to_end"]["f1"] < 1


@pytest.mark.parametrize("name", LAYERS)
def test_a_damaged_layer_is_to_blame_and_no_other_layer_suffers(
    tiny: Tiny, sound: dict[str, Any], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build = tiny.copied_build(tmp_path)
    change_program(build, name, weight=halve)
    damaged = verify_local(tiny, tmp_path, build=build, status=1)
    assert [layer["name"] for layer in damaged if layer["rank"] == 1] == [name]
    out = capsys.readouterr().out
    assert f"blame: {name}: " in out
    assert "no layer stands out" not in out
    for layer in damaged:
        before = sound[layer["name"]]
        if layer["name"] == name:
            assert layer["current"]["relative_error"] > 10 * before["current"]["relative_error"]
            continue
        for key, value in layer["current"].items():
            # the damaged layer's error is subtracted from the stream in float64
            assert value == pytest.approx(before["current"][key], rel=1e-9), (layer["name"], key)
        if layer["spikes"] is not None:
            assert layer["spikes"]["mismatched"] == before["spikes"]["mismatched"]


def test_a_damaged_threshold_is_to_blame(tiny: Tiny, tmp_path: Path) -> None:
    build = tiny.copied_build(tmp_path)
    change_program(build, "layers.1.1.activation_out", vth=lambda vth: vth // 2)
    (worst,) = (layer for layer in verify_local(tiny, tmp_path, build=build, status=1) if layer["rank"] == 1)
    assert (worst["name"], worst["population"]) == ("layers.1.1.W.y2", "layers.1.1.activation_out")
    assert worst["spikes"]["rate_shift"] > 0.05


def test_the_quantized_network_itself_has_no_local_error(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On samples that need no rounding, only the shift of ties is left, 2^-30 of each bias."""
    steps = 2.0 ** read_json(tiny.build / "report.json")["input"]["scale_exp"]
    np.save(tmp_path / "x.npy", np.rint(np.load(tiny.images) * steps) / steps)
    arguments = ("--model", str(tiny.build / "quantized.pt"), "--input", str(tmp_path / "x.npy"))
    # not equivalent, as the build's float graph is another network's
    for layer in verify_local(tiny, tmp_path, *arguments, samples=6, status=1):
        assert layer["current"]["worst_error"] < 1e-6, layer["name"]
        if layer["spikes"] is not None:
            assert layer["spikes"]["mismatched"] == layer["spikes"]["end_to_end"]["mismatched"] == 0
            assert layer["spikes"]["end_to_end"]["f1"] == 1
    assert "blame: no layer" in capsys.readouterr().out


@pytest.mark.parametrize("fields", [{"timesteps": 9}, {"neuron": "PLIF", "timesteps": 3}])
def test_networks_that_are_never_exact(
    make_model: Callable[..., SpikingResformer], tmp_path: Path, fields: dict[str, Any]
) -> None:
    inexact = write_tiny(make_model(**fields), tmp_path)
    change_program(inexact.build, "layers.0.1.up.1", weight=halve)
    local = verify_local(inexact, tmp_path, status=1)
    assert [layer["name"] for layer in local if layer["rank"] == 1] == ["layers.0.1.up.1"]


@pytest.fixture(scope="module")
def trained(mnist_checkpoint: Path, mnist_images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The example's network, and one digit."""
    folder = tmp_path_factory.mktemp("mnist")
    options = ["--target", "sim", "--chip", "none", "-o", str(folder / "build"), "--quiet"]
    assert compile_main([str(mnist_checkpoint), *options]) == 0
    np.save(folder / "x.npy", mnist_images[:1])
    return Tiny(mnist_checkpoint, folder / "build", folder / "x.npy", folder / "none", ())


@pytest.mark.parametrize("name", ["prologue.0", "layers.1.2.conv.0.1"])
def test_a_damaged_layer_of_the_trained_network(trained: Tiny, tmp_path: Path, name: str) -> None:
    build = trained.copied_build(tmp_path)
    change_program(build, name, weight=halve)
    local = verify_local(trained, tmp_path, build=build, samples=1, status=1)
    assert [layer["name"] for layer in local if layer["rank"] == 1] == [name]


def snntorch_network(folder: Path) -> Written:
    return written("snntorch", folder)


def recurrent_network(folder: Path) -> Written:
    return written("snntorch_recurrent", folder)


def network_of_currents_with_a_memory(folder: Path) -> Written:
    rng = np.random.default_rng(5)
    path = write(
        folder / "network.nir",
        chain(
            (6,),
            nir.Affine(rng.normal(size=(8, 6)), rng.normal(size=8)),
            cuba_lif((8,), tau_syn=np.linspace(2e-4, 9e-4, 8), v_leak=0.2, v_threshold=np.linspace(0.3, 0.9, 8)),
            nir.Linear(rng.normal(size=(4, 8))),
            lif((4,), reset="soft"),
        ),
    )
    return Written(path, rng.normal(size=(2, 6)), np.zeros((12, 2, 4), dtype=np.bool_), 1e-4)


def network_with_a_readout_of_potentials(folder: Path) -> Written:
    rng = np.random.default_rng(6)
    readout = nir.LI(tau=np.full(3, 5e-4), r=np.full(3, 2.0), v_leak=np.full(3, 0.1))
    layers = nir.Linear(rng.normal(size=(8, 6))), lif((8,), v_threshold=0.5), nir.Linear(rng.normal(size=(3, 8)))
    path = write(folder / "network.nir", chain((6,), *layers, readout))
    return Written(path, rng.normal(size=(2, 6)), np.zeros((12, 2, 3), dtype=np.bool_), 1e-4)


@pytest.mark.parametrize(
    ("make", "rms"),
    [
        (snntorch_network, 0.05),
        (recurrent_network, 0.05),
        (network_of_currents_with_a_memory, 0.2),
        (network_with_a_readout_of_potentials, 0.05),
    ],
)
def test_networks_from_nir_files(tmp_path: Path, make: Callable[[Path], Written], rms: float) -> None:
    network = make(tmp_path)
    build = tmp_path / "build"
    time = ["--dt", str(network.dt), "--timesteps", str(network.timesteps)]
    assert compile_main([str(network.path), "--target", "lava", *time, "-o", str(build), "--quiet"]) == 0
    np.save(tmp_path / "x.npy", network.samples)
    source = Tiny(network.path, build, tmp_path / "x.npy", tmp_path / "none", ())
    sound = verify_local(source, tmp_path, samples=1)
    program = program_of(build)
    recurrent = {node.name: f"{node.name}, recurrent" for node in program if isinstance(node.op, RecurrentCubaLIF)}
    alone = [layer for layer in sound if layer["name"] in recurrent.values()]
    assert len(alone) == len(recurrent)
    assert all(layer["population"] is None and layer["current"]["compared"] > 0 for layer in alone)
    names = [layer["name"] for layer in sound if layer not in alone]
    weighted = [node.name for node in program if isinstance(node.op, Conv2d | Dense | RecurrentCubaLIF)]
    assert [part for name in names for part in name.split(" + ")] == weighted
    assert [layer["population"] for layer in sound if layer["population"] is not None] == list(program.lif_names)
    assert max(layer["current"]["rms_error"] for layer in sound) < rms
    for part in weighted:
        (name,) = (each for each in names if part in each.split(" + "))
        damaged = source.copied_build(tmp_path / part)
        change_program(damaged, part, weight=halve)
        # E1 and E2 do not compare weights, and there is no quantized checkpoint that could differ
        local = verify_local(source, tmp_path, "--backend", "sim", samples=1, build=damaged)
        # recurrent synapses are told apart from input synapses
        assert [layer["name"] for layer in local if layer["rank"] == 1] == [recurrent.get(part, name)]
        (before,), (after,) = ([each for each in found if each["name"] == name] for found in (sound, local))
        assert after["current"]["relative_error"] > 0.1 + before["current"]["relative_error"]
        touched = {name, recurrent.get(part, name)}
        others = {layer["name"]: layer for layer in sound if layer["name"] not in touched}
        assert all(
            layer == {**others[layer["name"]], "rank": layer["rank"], "spikes": layer["spikes"]}
            for layer in local
            if layer["name"] not in touched
        )


@pytest.mark.parametrize(("ending", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")])
def test_the_plot_is_written(tiny: Tiny, tmp_path: Path, ending: str, magic: bytes) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / f"local{ending}"
    verify_local(tiny, tmp_path, "--local-plot", str(plot))
    assert plot.read_bytes().startswith(magic)


def test_inputs_beyond_all_integers_are_clipped(tiny: Tiny, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full_like(np.load(tiny.images), 1e30))
    local = verify_local(tiny, tmp_path, "--input", str(tmp_path / "x.npy"))
    assert all(np.isfinite(layer["current"]["worst_error"]) for layer in local)


def test_without_local_nothing_is_measured_or_printed(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json = tmp_path / "r.json"
    command = [str(tiny.build), "--model", str(tiny.model), "--input", str(tiny.images), "--samples", "1"]
    assert verify_main([*command, "--backend", "reference", "--json", str(json)]) == 0
    assert read_json(json)["local"] is None
    assert "blame" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--local"], 2, "--model"),
        (["--model", "{model}", "--local-plot", "{folder}/local.bmp"], 2, ".png, .svg or .pdf"),
        (["--model", "{model}", "--local-plot", "{model}/local.png"], 1, "tiny.pt: Not a directory"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    tiny: Tiny, tmp_path: Path, arguments: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [each.format(model=tiny.model, folder=tmp_path) for each in arguments]
    assert verify_main([str(tiny.build), "--input", str(tiny.images), *given]) == status
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("resformer-verify: error: ")
    assert error.count("\n") == 1


def test_the_plot_needs_matplotlib(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    command = [str(tiny.build), "--model", str(tiny.model), "--input", str(tiny.images)]
    assert verify_main([*command, "--local-plot", str(tmp_path / "local.png")]) == 1
    assert "pip install 'resformer[plot]'" in capsys.readouterr().err


class Currents(nn.Module):
    """A classifier that reads the largest of a convolution's currents, and has a large bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = layers.Conv2d(2, 4, 3, padding=1)
        self.lif = neuron.LIFNode(v_threshold=0.1)
        self.conv2 = layers.Conv2d(4, 8, 3, padding=1)
        self.pool = layers.MaxPool2d(4)
        self.classifier = layers.Linear(8, 3)
        with torch.no_grad():
            self.classifier.bias += 5
        functional.set_step_mode(self, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        currents = self.conv2(self.lif(self.conv1(x)))
        return self.classifier(self.pool(currents).flatten(2)).mean(0)  # type: ignore[no-any-return]


def test_a_classifier_of_currents_answers_for_its_weights_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 2, 4, 4)
    written_out = tmp_path / "module"
    compile(Currents().eval(), images.expand(4, *images.shape), "sim", output=written_out)
    np.save(tmp_path / "x.npy", images.numpy())
    model, build = written_out / "network.nir", tmp_path / "build"
    assert compile_main([str(model), "--target", "sim", "--timesteps", "4", "-o", str(build), "--quiet"]) == 0
    source = Tiny(model, build, tmp_path / "x.npy", tmp_path / "none", ())
    local = verify_local(source, tmp_path)
    assert [layer["name"] for layer in local] == ["conv1", "conv2", "classifier"]
    assert all(0 < layer["current"]["relative_error"] < 0.05 for layer in local)
    assert local[-1]["current"]["worst_error"] < 0.01
    for name in ("conv2", "classifier"):
        damaged = source.copied_build(tmp_path / name)
        change_program(damaged, name, weight=halve)
        local = verify_local(source, tmp_path, build=damaged)
        assert [layer["name"] for layer in local if layer["rank"] == 1] == [name]
