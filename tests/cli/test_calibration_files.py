"""``--calibration`` reads what ``--input`` reads, folders of images and arrays, and normalizes them in the same way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resformer.compiler.ir.program import Program
from resformer.compiler.samples import files as sample_files
from resformer.runtime.cli.compile import main
from resformer.runtime.cli.sample_options import IMAGENET_MEAN, IMAGENET_STD
from support.builds import program_of, read_json
from support.compare import first_difference

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for colour images of 8 x 8 pixels."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    made = make_model(in_channels=3, num_classes=2, stem="conv3x3", image_size=8)
    torch.save({"model": made.state_dict(), "image_size": 8, "timesteps": 2}, path)
    return path


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Five images in two folders, each brighter than the one before; and the same as an array beside them, x.npy."""
    folder = tmp_path / "photographs"
    pixels = np.random.default_rng(3).integers(0, 50, (5, 8, 8, 3)) + 50 * np.arange(5).reshape(-1, 1, 1, 1)
    for index, image in enumerate(pixels.astype(np.uint8)):
        path = folder / ("cat" if index < 2 else "dog") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    np.save(tmp_path / "x.npy", pixels.astype(np.uint8).transpose(0, 3, 1, 2))
    return folder


def compiled(model: Path, source: Path, *arguments: str) -> tuple[Program, int]:
    """The program calibrated on a source, and the number of samples used."""
    build = source.parent / "build"
    command = [str(model), "--target", "sim", "-o", str(build), "--calibration", str(source), "--quiet"]
    assert main([*command, "--weight-bits", "4", *arguments]) == 0
    return program_of(build), read_json(build / "report.json")["options"]["calibration_samples"]


def test_a_folder_calibrates_as_its_images_in_an_array_do(model: Path, photographs: Path, tmp_path: Path) -> None:
    expected, count = compiled(model, tmp_path / "x.npy")
    found, counted = compiled(model, photographs)
    assert count == counted == 5
    assert first_difference(found, expected) is None


def test_both_are_normalized(model: Path, photographs: Path, tmp_path: Path) -> None:
    mean, std = (np.array(each).reshape(-1, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    np.save(tmp_path / "normal.npy", (np.load(tmp_path / "x.npy") / 255 - mean) / std)
    expected, _ = compiled(model, tmp_path / "normal.npy")
    for source in (photographs, tmp_path / "x.npy"):
        assert first_difference(compiled(model, source, "--normalize", "imagenet")[0], expected) is None
    assert first_difference(compiled(model, photographs)[0], expected) is not None


def test_of_a_large_folder_some_are_taken_evenly(
    model: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "some.npy", np.load(tmp_path / "x.npy")[[0, 2, 4]])
    expected, _ = compiled(model, tmp_path / "some.npy")
    monkeypatch.setattr(sample_files, "FOLDER_MAX", 3)
    found, count = compiled(model, photographs)
    assert count == 3
    assert first_difference(found, expected) is None


def test_images_of_other_sizes_are_resized_where_asked(
    model: Path, photographs: Path, tmp_path: Path, capsys: Capture
) -> None:
    Image.new("RGB", (20, 30)).save(photographs / "dog" / "2.png")
    command = [str(model), "--target", "sim", "-o", str(tmp_path / "b"), "--calibration", str(photographs)]
    assert main(command) == 1
    assert "dog/2.png: 20 x 30 pixels, the network takes 8 x 8; give --resize" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    assert compiled(model, photographs, "--resize")[1] == 5
    # --resize is for the folder; the array is taken as it is
    given = ["--calibration", str(tmp_path / "x.npy"), "--input", str(photographs), "--resize"]
    assert main([str(model), "--sweep", "weight-bits=4", "--quiet", *given]) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--normalize", "imagenet", "--std", "1"], 2, "leave out --mean and --std"),
        (["--calibration", "x.npy", "--samples", "2"], 2, "--samples: goes with --input"),
        (["--calibration", "x.npy", "--resize"], 2, "--resize: x.npy is no folder of images"),
        (["--calibration", "x.npy", "--normalize", "imagenet", "--std", "1"], 2, "leave out --mean and --std"),
        (["--calibration", "x.npy", "--std", "0"], 2, "--std: 0 is not above 0"),
        (["--calibration", "x.npy", "--mean", "1,2"], 1, "--mean: 2 numbers for 3 channels"),
        (["--calibration", "absent"], 1, "absent: no such file"),
        (["--calibration", "empty"], 1, "empty: holds no images"),
        (["--sweep", "mean=1,2", "--calibration", "x.npy"], 2, "there is no option 'mean' to vary"),
    ],
)
def test_bad_input(
    model: Path,
    photographs: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    output = [] if "--sweep" in arguments else ["--target", "sim", "-o", "b"]
    assert main([str(model), *output, *arguments]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1
    assert not (tmp_path / "b").exists()
