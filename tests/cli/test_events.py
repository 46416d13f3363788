"""Spikes and event frames as people have them: in every type, for checkpoints and NIR files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

import resformer
from resformer.errors import ResformerWarning
from resformer.runtime.cli.compile import main as compile_main
from resformer.runtime.cli.report import main as report_main
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main

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
    with pytest.warns(ResformerWarning, match=NAMED):
        resformer.load(build).run(spikes.astype(np.uint8), backend="sim")
