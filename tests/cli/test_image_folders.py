"""``resformer-run`` and ``resformer-verify`` on folders of images, and what they do to any input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resformer.compiler.samples import images as image_folder
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.sample_options import IMAGENET_MEAN, IMAGENET_STD
from resformer.runtime.cli.verify import main as verify_main
from support.builds import Tiny, write_tiny

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def coloured(make_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny network of colour images of 8 x 8 pixels and 2 classes."""
    model = make_model(in_channels=3, num_classes=2, stem="conv3x3", image_size=8)
    return write_tiny(model, tmp_path_factory.mktemp("coloured"))


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Five images in two folders."""
    folder = tmp_path / "photographs"
    for label, count in (("cat", 2), ("dog", 3)):
        (folder / label).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng(10 * count + index).integers(256, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
    return folder


def as_array(folder: Path) -> Any:
    images = [np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))]
    return np.stack(images).transpose(0, 3, 1, 2)


def run(tiny: Tiny, source: Path, output: Path, *arguments: str, backend: str = "sim") -> dict[str, Any]:
    assert run_main([str(tiny.build), "--input", str(source), "--backend", backend, "-o", str(output), *arguments]) == 0
    with np.load(output, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_a_folder_gives_what_its_images_give_as_an_array(
    coloured: Tiny, photographs: Path, tmp_path: Path, capsys: Capture
) -> None:
    np.save(tmp_path / "x.npy", as_array(photographs))
    np.save(tmp_path / "y.npy", [0, 0, 1, 1, 1])
    expected = run(coloured, tmp_path / "x.npy", tmp_path / "a.npz", "--labels", str(tmp_path / "y.npy"))
    said = capsys.readouterr().out
    found = run(coloured, photographs, tmp_path / "b.npz", "--batch-size", "2")
    assert found.pop("names").tolist() == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", "dog/2.png"]
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    (accuracy,) = (line for line in said.splitlines() if line.startswith("  accuracy"))
    assert accuracy.split()[-1] in capsys.readouterr().out


def test_no_more_images_are_decoded_at_once_than_a_batch(
    coloured: Tiny, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = image_folder.ImageFolder.real

    def watched(self: Any, start: int = 0, stop: int | None = None) -> Any:
        values = real(self, start, stop)
        asked.append(len(values))
        return values

    monkeypatch.setattr(image_folder.ImageFolder, "real", watched)
    run(coloured, photographs, tmp_path / "o.npz", "--batch-size", "2")
    assert asked == [2, 2, 1]


def test_labels_that_are_given_count_rather_than_the_folders(
    coloured: Tiny, photographs: Path, tmp_path: Path, capsys: Capture
) -> None:
    predictions = run(coloured, photographs, tmp_path / "a.npz")["predictions"]
    np.save(tmp_path / "y.npy", 1 - predictions)
    capsys.readouterr()
    run(coloured, photographs, tmp_path / "b.npz", "--labels", str(tmp_path / "y.npy"))
    assert "0.00%" in capsys.readouterr().out


def test_the_first_samples_alone(coloured: Tiny, photographs: Path, tmp_path: Path, capsys: Capture) -> None:
    (photographs / "dog" / "2.png").write_text("not among the first")
    assert run(coloured, photographs, tmp_path / "a.npz", "--samples", "3")["names"].tolist()[-1] == "dog/0.png"
    assert run_main([str(coloured.build), "--input", str(photographs), "--samples", "6", "--backend", "sim"]) == 1
    assert "holds 5 samples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "mean", "std"),
    [
        (["--normalize", "imagenet"], IMAGENET_MEAN, IMAGENET_STD),
        (["--mean", "0.5,0.25,1", "--std", "0.5,1,2"], [0.5, 0.25, 1], [0.5, 1, 2]),
        (["--mean=-0.5"], [-0.5] * 3, [1] * 3),
        (["--std", "0.5"], [0] * 3, [0.5] * 3),
    ],
)
def test_normalization(
    coloured: Tiny, photographs: Path, tmp_path: Path, arguments: list[str], mean: list[float], std: list[float]
) -> None:
    pixels = as_array(photographs) / 255
    np.save(tmp_path / "x.npy", pixels)
    values = (pixels - np.array(mean).reshape(-1, 1, 1)) / np.array(std).reshape(-1, 1, 1)
    np.save(tmp_path / "normal.npy", values)
    expected = run(coloured, tmp_path / "normal.npy", tmp_path / "a.npz", backend="reference")["logits_int"]
    for source in (photographs, tmp_path / "x.npy"):
        found = run(coloured, source, tmp_path / "b.npz", *arguments)["logits_int"]
        np.testing.assert_array_equal(found, expected)
    plain = run(coloured, photographs, tmp_path / "c.npz")["logits_int"]
    assert (plain != expected).any()


def test_verify_takes_folders(coloured: Tiny, photographs: Path, capsys: Capture) -> None:
    arguments = ["--input", str(photographs), "--backend", "sim", "--normalize", "imagenet", "--batch-size", "2"]
    assert verify_main([str(coloured.build), "--model", str(coloured.model), *arguments]) == 0
    said = capsys.readouterr().out
    assert "EQUIVALENT" in said
    assert "5 samples" in said


@pytest.mark.parametrize("command", [run_main, verify_main])
def test_a_broken_image_is_named(
    coloured: Tiny, photographs: Path, capsys: Capture, tmp_path: Path, command: Callable[..., int]
) -> None:
    broken = photographs / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:-40])  # its header is whole: it is found while running
    output = ["-o", str(tmp_path / "o.npz")] if command is run_main else []
    assert command([str(coloured.build), "--input", str(photographs), "--backend", "sim", *output]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert f"{broken}: a broken image" in said.err
    assert not (tmp_path / "o.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--normalize", "imagenet", "--mean", "0"], 2, "leave out --mean and --std"),
        (["--std", "0"], 2, "--std: 0 is not above 0"),
        (["--std", "nan"], 2, "'nan' is no number"),
        (["--mean", "a,b"], 2, "'a,b' is no number"),
        (["--mean", "0.5,0.5"], 1, "--mean: 2 numbers for 3 channels"),
        (["--device", "gpu"], 2, "'gpu' is neither cpu"),
        (["--device", "cuda", "--backend", "reference"], 2, "reference runs on the CPU alone; choose --backend sim"),
    ],
)
def test_bad_options(
    coloured: Tiny, photographs: Path, capsys: Capture, arguments: list[str], status: int, says: str
) -> None:
    for command in (run_main, verify_main):
        options = ["--input", str(photographs), "--backend", "sim", *arguments]
        assert command([str(coloured.build), *options]) == status
        said = capsys.readouterr()
        assert says in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""


def test_arrays_are_not_resized(tiny: Tiny, capsys: Capture) -> None:
    assert run_main([str(tiny.build), "--input", str(tiny.images), "--backend", "sim", "--resize"]) == 2
    assert "--resize" in capsys.readouterr().err
