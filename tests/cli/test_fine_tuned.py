"""A fine-tuned checkpoint as a user compiles and verifies it: it fires the program's very spikes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import resformer.quantize
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.cli.compile import main as sweep_main
from resformer.runtime.cli.compile_options import main as compile_main
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.verify import result
from support.builds import change_program, read_json

E1, E2, E3, E4 = result.CHECKS


@pytest.fixture(scope="module")
def folder(make_model: Callable[..., SpikingResformer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned checkpoint, its build, and pixels of 8 bits, which no program takes without rounding them."""
    folder = tmp_path_factory.mktemp("fine-tuned")
    model = make_model(seed=4)
    images = np.random.default_rng(5).integers(0, 256, (4, 2, 16, 16)).astype(np.uint8)
    np.save(folder / "x.npy", images)
    student = resformer.quantize.prepare(model, bits=4, calibration=images)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    student.save(folder / "trained.pt")
    arguments = ["--target", "lava", "-o", str(folder / "build"), "--quiet"]
    assert compile_main([str(folder / "trained.pt"), *arguments]) == 0
    return folder


def verify_build(folder: Path, build: Path, backend: str) -> int:
    arguments = ["--model", str(folder / "trained.pt"), "--input", str(folder / "x.npy")]
    return verify_main([str(build), *arguments, "--backend", backend, "--local", "--json", str(build / "r.json")])


@pytest.mark.parametrize("backend", ["lava", "sim"])
def test_not_one_spike_differs_from_the_checkpoint(
    folder: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lava" if backend == "lava" else "torch")
    assert verify_build(folder, folder / "build", backend) == 0
    found = read_json(folder / "build" / "r.json")
    assert found["equivalent"]
    checks = found["checks"]
    for name in (E1, E2, E3, E4):
        assert checks[name]["demanded"], name
        assert (checks[name]["mismatched"], checks[name]["compared"] > 10_000) == (0, True), name
    assert checks[E4]["f1"] == checks[E4]["top1_agreement"] == 1
    assert checks[E4]["local"]["mismatched"] == 0
    assert "blame: no layer" in capsys.readouterr().out


def test_a_program_that_is_not_the_checkpoints_is_not_equivalent(folder: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    assert compile_main([str(folder / "trained.pt"), "--target", "sim", "-o", str(build), "--quiet"]) == 0
    change_program(build, "layers.0.0.activation_out", vth=lambda vth: vth + vth // 8)
    assert verify_build(folder, build, "sim") == 1
    check = read_json(build / "r.json")["checks"][E4]
    assert check["demanded"]
    assert not check["passed"]
    assert check["mismatched"] > 0


def test_compiling_says_what_it_found(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compile_main([str(folder / "trained.pt"), "--target", "sim", "-o", str(tmp_path / "build")]) == 0
    out = capsys.readouterr().out
    assert "as fine-tuned, 4 bits" in out
    assert "rounding changed" not in out
    report = read_json(tmp_path / "build" / "report.json")
    assert (report["fine_tuned"], report["options"]["weight_bits"]) == (True, None)


@pytest.mark.parametrize("bits", ["3", "8"])
def test_its_width_cannot_be_chosen_anew(
    folder: Path, tmp_path: Path, bits: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(folder / "trained.pt"), "--target", "sim", "-o", str(tmp_path / "build")]
    assert compile_main([*arguments, "--weight-bits", bits]) == 1
    assert "was fine-tuned for the weights' widths and scales that it holds; leave out" in capsys.readouterr().err
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("widths", ["8", "4,8"])
def test_its_width_cannot_vary(folder: Path, widths: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep_main([str(folder / "trained.pt"), "--sweep", f"weight-bits={widths}"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "was fine-tuned for the weights' widths and scales that it holds; leave out --weight-bits" in err
    assert err.count("\n") == 1
