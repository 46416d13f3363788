"""Spikes and event frames as people have them: in every type, for checkpoints and NIR files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch

import resformer
from resformer.compiler.pipeline import CompileOptions
from resformer.errors import SampleWarning
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.cli.compile import main as compile_main
from resformer.runtime.cli.report import main as report_main
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, QUANTIZED
from support.builds import read_json

Capture = pytest.CaptureFixture[str]
NAMED = "--input-kind frames"


@pytest.fixture(scope="module")
def spiking(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray[Any, np.dtype[np.bool_]]]:
    """A build of a NIR file that takes 20 trains of 10 steps, and spikes for it."""
    folder = tmp_path_factory.mktemp("spiking")
    rng, zeros = np.random.default_rng(0), np.zeros(5)
    lif = nir.LIF(zeros + 2e-4, zeros + 1, zeros, zeros + 0.3, v_reset=zeros)
    nir.write(folder / "spikes.nir", nir.NIRGraph.from_list(nir.Linear(rng.normal(size=(5, 20))), lif))
    time = ["--dt", "1e-4", "--timesteps", "10"]
    assert compile_main([str(folder / "spikes.nir"), "--target", "sim", *time, "-o", str(folder / "b"), "--quiet"]) == 0
    return folder / "b", rng.random((4, 10, 20)) < 0.4


def test_spikes_in_bool_are_those_in_float(spiking: Any, tmp_path: Path, capsys: Capture) -> None:
    build, spikes = spiking
    sums = []
    for dtype in (float, bool, np.int64):
        np.savez(tmp_path / "x.npz", spikes.astype(dtype))
        out = tmp_path / "out.npz"
        assert run_main([str(build), "--input", str(tmp_path / "x.npz"), "--backend", "sim", "-o", str(out)]) == 0
        sums.append(int(np.load(out)["logits"].sum()))
    assert sums[0] > 0
    assert len(set(sums)) == 1
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "cost", "verify", "report", "sweep", "calibration"])
def test_bytes_of_spikes_are_warned_of(command: str, spiking: Any, tmp_path: Path, capsys: Capture) -> None:
    build, spikes = spiking
    source, path = build.parent / "spikes.nir", tmp_path / "x.npy"
    np.save(path, spikes.astype(np.uint8))
    given = ["--input", str(path)]
    compiled = [str(source), "--dt", "1e-4", "--timesteps", "10"]
    commands: dict[str, Callable[[], int]] = {
        "run": lambda: run_main([str(build), *given, "--backend", "sim"]),
        "cost": lambda: run_main([str(build), *given, "--backend", "sim", "--cost"]),
        "verify": lambda: verify_main([str(build), *given, "--backend", "sim", "--model", str(source)]),
        "report": lambda: report_main([str(build), *given, "-o", str(tmp_path / "r.html")]),
        "sweep": lambda: compile_main([*compiled, *given, "--sweep", "weight-bits=4,8"]),
        "calibration": lambda: compile_main(
            [*compiled, "--calibration", str(path), "--target", "sim", "-o", str(tmp_path / "b")]
        ),
    }
    assert commands[command]() == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(lines) == 1
    assert NAMED in lines[0]
    assert str(path) in lines[0]


def test_the_api_warns_too(spiking: Any) -> None:
    build, spikes = spiking
    with pytest.warns(SampleWarning, match=NAMED):
        resformer.load(build).run(spikes.astype(np.uint8), backend="sim")


@pytest.fixture(scope="module")
def resized(make_model: Callable[..., SpikingResformer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a checkpoint of LIF neurons for two polarities, and of fractional event frames for it."""
    folder = tmp_path_factory.mktemp("resized")
    model = make_model(stem="conv3x3")
    torch.save({"model": model.state_dict()}, folder / "model.pt")
    counts = np.random.default_rng(0).poisson(0.4, (6, 4, 2, 16, 16))
    np.save(folder / "counts.npy", counts[..., ::2, ::2])
    # antialiasing: four pixels' mean
    np.save(folder / "frames.npy", counts.reshape(6, 4, 2, 8, 2, 8, 2).mean((4, 6), dtype=np.float32))
    return folder


def compiled(folder: Path, build: Path, *arguments: str) -> Any:
    """The report of a build of frames."""
    sizes = ["--input-size", "8", "--timesteps", "4", "--target", "sim"]
    assert compile_main([str(folder / "model.pt"), *sizes, *arguments, "-o", str(build)]) == 0
    return read_json(build / "report.json")


def test_fractional_frames_choose_a_scale_by_which_they_are_exact(
    resized: Path, tmp_path: Path, capsys: Capture
) -> None:
    frames = str(resized / "frames.npy")
    report = compiled(resized, tmp_path / "b", "--input-kind", "frames", "--calibration", frames)
    assert report["input"]["kind"] == report["options"]["input_kind"] == "frames"
    assert report["input"]["scale_exp"] >= 2, "quarters"
    note = (
        "note: input: frames of events from -{0:g} to {0:g}, in steps of 2^-{1}, as the calibration data reaches {2:g}"
    )
    said = note.format(report["input"]["real_range"][1], report["input"]["scale_exp"], np.load(frames).max())
    assert said in capsys.readouterr().out.splitlines()

    arguments = [str(tmp_path / "b"), "--model", str(resized / "model.pt"), "--input", frames, "--backend", "sim"]
    assert verify_main([*arguments, "--json", str(tmp_path / "r.json")]) == 0
    assert "warning" not in capsys.readouterr().err
    found = read_json(tmp_path / "r.json")
    for name in (FLOAT_GRAPH, BACKEND, QUANTIZED):
        assert found["checks"][name]["demanded"]
        assert found["checks"][name]["mismatched"] == 0
        assert found["checks"][name]["compared"] > 0
    assert found["input_values_clipped"] == 0


def test_whole_counts_keep_steps_of_one(resized: Path, tmp_path: Path, capsys: Capture) -> None:
    counts = str(resized / "counts.npy")
    for kind in (["--input-kind", "frames"], ["--input-kind", "frames", "--calibration", counts]):
        report = compiled(resized, tmp_path / "b", *kind)
        assert (report["input"]["scale_exp"], report["input"]["high"]) == (0, 256)
        assert (
            verify_main(
                [str(tmp_path / "b"), "--model", str(resized / "model.pt"), "--input", counts, "--backend", "sim"]
            )
            == 0
        )
        assert "warning" not in capsys.readouterr().err


def test_fractions_that_a_build_rounds_are_warned_of_with_their_cost(
    resized: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = resized / "frames.npy"
    report = compiled(resized, tmp_path / "b", "--input-kind", "frames")
    assumed = "input: frames of events from -256 to 256, rounded to whole numbers; what lies beyond is clipped, unless "
    assert any(each.startswith(assumed) for each in report["assumptions"])
    capsys.readouterr()
    for command in (run_main, verify_main):
        assert command([str(tmp_path / "b"), "--input", str(path), "--backend", "sim"]) == 0
        (line,) = [each for each in capsys.readouterr().err.splitlines() if "warning" in each]
        frames = np.load(path).astype(float)
        errors = frames - np.round(frames)
        for number in (np.abs(errors).max(), np.sqrt(np.mean(errors**2))):
            assert f" {number:.3g} " in line
        assert "--calibration" in line
    advice = re.search(r"--input-scale-exp \d+", line)
    assert advice is not None
    compiled(resized, tmp_path / "b", "--input-kind", "frames", *advice.group().split())
    capsys.readouterr()
    assert run_main([str(tmp_path / "b"), "--input", str(path), "--backend", "sim"]) == 0
    assert "warning" not in capsys.readouterr().err


def test_a_scale_that_rounds_the_calibration_data_is_warned_of(resized: Path, tmp_path: Path, capsys: Capture) -> None:
    frames = ["--input-kind", "frames", "--calibration", str(resized / "frames.npy")]
    report = compiled(resized, tmp_path / "b", *frames, "--input-scale-exp", "0")
    assert any("calibration: the build rounds its input to whole numbers" in each for each in report["warnings"])
    assert "warning: calibration: the build rounds" in capsys.readouterr().out


def test_a_range_can_be_said(resized: Path, tmp_path: Path, capsys: Capture) -> None:
    report = compiled(resized, tmp_path / "b", "--input-kind", "frames", "--input-range", "0:1000")
    assert report["input"]["high"] == 1024
    assert report["options"]["input_range"] == 1000
    assert any(
        "from -1024 to 1024, rounded to whole numbers, as --input-range says" in each for each in report["notes"]
    )
    assert not any(each.startswith("input:") for each in report["assumptions"])
    assert compiled(resized, tmp_path / "b", "--input-range=-1:0.5")["input"]["real_range"] == [-1, 1]
    capsys.readouterr()
    for wrong in ("1", "1:0", "0:inf", "a:b", "0:1:2"):
        assert compile_main([str(resized / "model.pt"), "--check", "--input-range", wrong]) == 2
        assert "--input-range" in capsys.readouterr().err


def test_an_example_says_how_large_the_input_of_a_module_is() -> None:
    from spikingjelly.activation_based import functional, layer, neuron
    from torch import nn

    torch.manual_seed(0)
    module = nn.Sequential(layer.Linear(20, 16), neuron.LIFNode(), layer.Linear(16, 5))
    functional.set_step_mode(module, "m")
    for high, kind in ((1.0, None), (16.0, None), (300.0, None), (900.0, "frames")):
        example = torch.rand(4, 6, 20) * high
        options = CompileOptions(input_kind=kind)  # type: ignore[arg-type]
        made = resformer.compile(module.eval(), example, "sim", options=options)
        (note,) = [each for each in made.compilation.source.notes if each.startswith("input:")]
        assert f"the example reaches {example.max():.4g}" in note
        assert not any(each.startswith("input:") for each in made.compilation.source.assumptions)
        result = made.verify(example.transpose(0, 1), backend="sim")
        assert (result.equivalent, result.clipped, dict(result.saturation)) == (True, 0, {})
        assert made.run(8 * example.transpose(0, 1), backend="sim").clipped > 0
    pixels = resformer.compile(module, (torch.rand(4, 6, 20) * 255).to(torch.uint8), "sim")
    assert any("uint8" in each for each in pixels.compilation.source.warnings)
    assert pixels.program.input.op.signal.high * 2.0**-pixels.program.input.op.signal.scale_exp == 256
