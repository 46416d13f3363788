"""The preprocessing that a build holds: chosen at compile time, applied by run, verify, report, sweep and Python."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import resformer
from resformer.compiler.atomic import write_json
from resformer.compiler.samples.preprocessing import Preprocessing
from resformer.runtime.cli.compile import main as compile_main
from resformer.runtime.cli.report import main as report_main
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main
from support.builds import Tiny, read_json, write_tiny

Capture = pytest.CaptureFixture[str]

MEAN, STD = (0.5, 0.25, 0.125), (0.5, 0.25, 0.5)
NORMALIZED = ("--mean", "0.5,0.25,0.125", "--std", "0.5,0.25,0.5")
WARNED = "warning: preprocessing: the build was compiled"


@pytest.fixture(scope="module")
def plain(make_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A build for colour images of 8 x 8 pixels and 3 classes that holds no preprocessing."""
    model = make_model(in_channels=3, num_classes=3, stem="conv3x3", image_size=8)
    return write_tiny(model, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def holding(make_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The same network in a build that holds a preprocessing, and names whose order is not the alphabet's."""
    model = make_model(in_channels=3, num_classes=3, stem="conv3x3", image_size=8)
    return write_tiny(model, tmp_path_factory.mktemp("holding"), *NORMALIZED, "--resize", "--classes", "dog,cat,ant")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Nine images of other sizes in three folders: 4 of ants, 2 of cats, 3 of dogs."""
    folder = tmp_path / "photographs"
    for label, count in (("ant", 4), ("cat", 2), ("dog", 3)):
        (folder / label).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng(10 * count + index).integers(256, size=(12, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
    return folder


@pytest.fixture
def pixels(tmp_path: Path) -> Path:
    """Five images of the network's size in an array."""
    np.save(tmp_path / "x.npy", np.random.default_rng(5).integers(256, size=(5, 3, 8, 8), dtype=np.uint8))
    return tmp_path / "x.npy"


def run(tiny: Tiny, source: Path, output: Path, *arguments: str) -> dict[str, Any]:
    assert run_main([str(tiny.build), "--input", str(source), "--backend", "sim", "-o", str(output), *arguments]) == 0
    with np.load(output, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_what_compiling_was_told_is_in_the_report(holding: Tiny, plain: Tiny) -> None:
    report = read_json(holding.build / "report.json")
    assert report["preprocessing"] == {"resize": True, "mean": list(MEAN), "std": list(STD)}
    assert report["classes"] == ["dog", "cat", "ant"]
    report = read_json(plain.build / "report.json")
    assert report["preprocessing"] == {"resize": False, "mean": None, "std": None}
    assert report["classes"] is None


def test_a_run_does_what_the_build_holds(
    plain: Tiny, holding: Tiny, photographs: Path, pixels: Path, tmp_path: Path, capsys: Capture
) -> None:
    for source, more in ((photographs, ["--resize"]), (pixels, [])):
        expected = run(plain, source, tmp_path / "a.npz", *NORMALIZED, *more)
        assert f"{WARNED} without preprocessing, this run uses" in capsys.readouterr().out
        for said in ([], [*NORMALIZED, *more], ["--preprocessing", "build"]):
            found = run(holding, source, tmp_path / "b.npz", *said)
            np.testing.assert_array_equal(found["logits_int"], expected["logits_int"])
            assert found["classes"].tolist() == ["dog", "cat", "ant"]
            out = capsys.readouterr().out
            assert "warning" not in out
            assert "mean 0.5,0.25,0.125, std 0.5,0.25,0.5" in out


def test_a_build_that_holds_nothing_and_a_run_that_says_nothing(
    plain: Tiny, pixels: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert "classes" not in run(plain, pixels, tmp_path / "a.npz")
    run(plain, pixels, tmp_path / "a.npz", "--mean", "0", "--std", "1,1,1")  # changes nothing
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "mean", "std", "words"),
    [
        (["--preprocessing", "none"], 0, 1, "this run uses none"),
        (["--preprocessing", "none", "--std", "0.5"], 0, 0.5, "this run uses std 0.5"),
        (["--mean", "0.25"], 0.25, STD, "this run uses mean 0.25, std 0.5,0.25,0.5"),
        (["--std", "2"], MEAN, 2, "this run uses mean 0.5,0.25,0.125, std 2"),
    ],
)
def test_another_choice_counts_and_is_warned_of(
    plain: Tiny,
    holding: Tiny,
    pixels: Path,
    tmp_path: Path,
    capsys: Capture,
    said: list[str],
    mean: Any,
    std: Any,
    words: str,
) -> None:
    values = (np.load(pixels) / 255 - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))
    np.save(tmp_path / "y.npy", values)
    expected = run(plain, tmp_path / "y.npy", tmp_path / "a.npz")["logits_int"]
    capsys.readouterr()
    np.testing.assert_array_equal(run(holding, pixels, tmp_path / "b.npz", *said)["logits_int"], expected)
    out = capsys.readouterr().out
    assert out.count(WARNED) == 1
    assert words in out


def test_resizing_is_held_and_overruled(holding: Tiny, photographs: Path, capsys: Capture) -> None:
    arguments = [str(holding.build), "--input", str(photographs), "--backend", "sim"]
    assert run_main([*arguments, "--no-resize"]) == 1
    assert "0.png: 10 x 12 pixels, the network takes 8 x 8; give --resize" in capsys.readouterr().err


def test_an_array_that_is_normalized_already_is_taken_as_it_is(
    plain: Tiny, holding: Tiny, pixels: Path, tmp_path: Path, capsys: Capture
) -> None:
    values = (np.load(pixels) / 255 - np.reshape(MEAN, (-1, 1, 1))) / np.reshape(STD, (-1, 1, 1))
    np.save(tmp_path / "y.npy", values)
    expected = run(plain, tmp_path / "y.npy", tmp_path / "a.npz")["logits_int"]
    capsys.readouterr()
    np.testing.assert_array_equal(run(holding, tmp_path / "y.npy", tmp_path / "b.npz")["logits_int"], expected)
    out = capsys.readouterr().out
    assert "note: " in out
    assert "y.npy: holds negative values, which pixels do not" in out
    assert WARNED not in out
    twice = run(holding, tmp_path / "y.npy", tmp_path / "b.npz", "--preprocessing", "build")["logits_int"]
    assert (twice != expected).any()


def test_real_pixels_are_normalized(plain: Tiny, holding: Tiny, pixels: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.load(pixels) / 255)
    expected = run(plain, pixels, tmp_path / "a.npz", *NORMALIZED)["logits_int"]
    np.testing.assert_array_equal(run(holding, tmp_path / "y.npy", tmp_path / "b.npz")["logits_int"], expected)


def verified(tiny: Tiny, source: Path, output: Path, *arguments: str) -> Any:
    status = verify_main(
        [str(tiny.build), "--input", str(source), "--backend", "sim", "--json", str(output), *arguments]
    )
    assert status == 0
    return read_json(output)


def test_verify_heeds_the_build(holding: Tiny, plain: Tiny, photographs: Path, tmp_path: Path, capsys: Capture) -> None:
    found = verified(holding, photographs, tmp_path / "r.json")
    assert found["preprocessing"] == {"resize": True, "mean": list(MEAN), "std": list(STD)}
    assert found["classes"] == ["dog", "cat", "ant"]
    assert (found["warnings"], found["accuracy_absent"]) == ([], None)
    labels = [2] * 4 + [1] * 2 + [0] * 3
    assert found["accuracy"]["quantized"] == np.mean(np.equal(found["predictions"], labels))
    out = capsys.readouterr().out
    most = ("dog", "cat", "ant")[max(set(found["predictions"]), key=found["predictions"].count)]
    assert f"predictions: {most}: " in out
    assert "warning" not in out
    found = verified(plain, photographs, tmp_path / "r.json", "--resize", *NORMALIZED)
    assert len(found["warnings"]) == 1
    assert WARNED in capsys.readouterr().out


def test_a_report_heeds_the_build(holding: Tiny, photographs: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments = [str(holding.build), "--input", str(photographs), "-o", str(tmp_path / "r.html")]
    assert report_main(arguments) == 0
    assert "warning" not in capsys.readouterr().out
    assert report_main([*arguments, "--mean", "0.5"]) == 0
    assert WARNED in capsys.readouterr().out


def test_labels_are_matched_by_name(holding: Tiny, photographs: Path, tmp_path: Path, capsys: Capture) -> None:
    result = run(holding, photographs, tmp_path / "o.npz")
    assert result["names"][[0, 4, 6]].tolist() == ["ant/0.png", "cat/0.png", "dog/0.png"]
    share = np.mean(result["predictions"] == [2, 2, 2, 2, 1, 1, 0, 0, 0])
    out = capsys.readouterr().out
    assert next(line for line in out.splitlines() if line.startswith("  accuracy")).split()[-1] == f"{share:.2%}"
    first = ("dog", "cat", "ant")[np.bincount(result["predictions"]).argmax()]
    assert f"  predictions           {first}: " in out
    # a folder of some of the classes is matched as well
    shutil.rmtree(photographs / "cat")
    result = run(holding, photographs, tmp_path / "o.npz")
    share = np.mean(result["predictions"] == [2, 2, 2, 2, 0, 0, 0])
    assert f"{share:.2%}" in capsys.readouterr().out


def no_name(folder: Path) -> None:
    (folder / "cat").rename(folder / "wolf")


def too_few(folder: Path) -> None:
    shutil.rmtree(folder / "cat")


def stray(folder: Path) -> None:
    (folder / "cat" / "0.png").rename(folder / "0.png")


@pytest.mark.parametrize(
    ("build", "change", "says"),
    [
        ("holding", no_name, "photographs: the build knows no class of the name wolf, only dog, cat, ant"),
        ("plain", too_few, "photographs: has 2 folders, the network tells 3 classes apart and the build does not name"),
        ("plain", stray, "photographs: not every image is in the folder of a class"),
        ("holding", stray, "photographs: not every image is in the folder of a class"),
    ],
)
def test_why_accuracy_is_absent(
    request: pytest.FixtureRequest,
    photographs: Path,
    tmp_path: Path,
    capsys: Capture,
    build: str,
    change: Callable[[Path], None],
    says: str,
) -> None:
    tiny: Tiny = request.getfixturevalue(build)
    change(photographs)
    found = verified(tiny, photographs, tmp_path / "r.json", "--resize", "--samples", "3")
    assert says in found["accuracy_absent"]
    assert found["accuracy"] == {}
    assert "accuracy: unknown: " in capsys.readouterr().out
    run(tiny, photographs, tmp_path / "o.npz", "--resize", "--samples", "3")
    out = capsys.readouterr().out
    assert says in next(line for line in out.splitlines() if line.startswith("  accuracy"))


def test_without_labels_accuracy_says_so(plain: Tiny, pixels: Path, tmp_path: Path, capsys: Capture) -> None:
    assert "no labels were given" in verified(plain, pixels, tmp_path / "r.json", "--samples", "1")["accuracy_absent"]
    run(plain, pixels, tmp_path / "o.npz", "--samples", "1")
    said = capsys.readouterr().out
    assert said.count("absent: no labels were given") == 1
    assert said.count("accuracy: unknown: no labels were given") == 1


def test_labels_by_the_folders_order_are_an_assumption(
    plain: Tiny, photographs: Path, tmp_path: Path, capsys: Capture
) -> None:
    run(plain, photographs, tmp_path / "o.npz", "--resize")
    assert "note: labels: the build does not name its classes" in capsys.readouterr().out


def test_samples_are_of_each_class(holding: Tiny, photographs: Path, tmp_path: Path) -> None:
    whole = run(holding, photographs, tmp_path / "a.npz")
    np.save(tmp_path / "y.npy", whole["predictions"])  # all are right
    found = run(holding, photographs, tmp_path / "b.npz", "--samples", "7", "--labels", str(tmp_path / "y.npy"))
    names = ["ant/0.png", "ant/1.png", "ant/2.png", "cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert found["names"].tolist() == names
    at = [whole["names"].tolist().index(name) for name in names]
    np.testing.assert_array_equal(found["logits_int"], whole["logits_int"][at])
    loaded = resformer.load(holding.build)
    given = loaded.read(photographs, labels=whole["predictions"])
    labels = np.arange(9) % 3
    assert loaded.read(photographs, samples=7, labels=labels).labels.tolist() == labels[at].tolist()
    some = given.first(7)
    assert some.names == tuple(names)
    np.testing.assert_array_equal(some.samples.real(2, 6), given.samples.real()[at[2:6]])
    result = loaded.run(photographs, samples=7, backend="sim")
    np.testing.assert_array_equal(result.logits_int, found["logits_int"])
    assert loaded.run(some, backend="sim").accuracy == 1


def test_python_holds_it_too(plain: Tiny, pixels: Path, tmp_path: Path) -> None:
    options = resformer.CompileOptions(timesteps=4, image_size=8, mean=MEAN, std=0.5, classes=["a", "b", "c"])
    compiled = resformer.compile(plain.model, target="sim", options=options, output=tmp_path / "b")
    images = np.load(pixels)
    values = (images / 255 - np.reshape(MEAN, (-1, 1, 1))) / 0.5
    expected = resformer.load(plain.build).run(values, backend="sim").logits_int
    for each in (compiled, resformer.load(tmp_path / "b")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = each.run(torch.from_numpy(images), backend="sim")
            np.testing.assert_array_equal(found.logits_int, expected)
            np.testing.assert_array_equal(each.run(values, backend="sim").logits_int, expected)
            verification = each.verify(images, backend="sim", labels=found.predictions, samples=2)
        assert found.classes == verification.classes == ("a", "b", "c")
        assert (verification.accuracy["quantized"], verification.accuracy_absent) == (1, None)
        assert each.held.preprocessing == Preprocessing(False, MEAN, (0.5,))
        with pytest.warns(
            resformer.ResformerWarning, match=r"compiled with preprocessing mean 0\.5.*this run uses none"
        ):
            given = each.read(values, preprocessing="none")
        np.testing.assert_array_equal(each.run(given, backend="sim").logits_int, expected)
        with pytest.raises(resformer.InputError, match="preprocessing: 'all' is neither"):
            each.read(values, preprocessing="all")  # type: ignore[arg-type]
        with pytest.raises(resformer.InputError, match="were read already"):
            each.read(given, preprocessing="build")


def compiled(tiny: Tiny, output: Path, *arguments: str) -> Any:
    said = [*tiny.arguments, "--timesteps", "4", "--quiet", "--target", "sim", "-o", str(output)]
    assert compile_main([str(tiny.model), *said, *arguments]) == 0
    return read_json(output / "report.json")


def test_classes_are_named_after_the_calibration_folder(plain: Tiny, photographs: Path, tmp_path: Path) -> None:
    calibrated = ["--calibration", str(photographs), "--resize"]
    report = compiled(plain, tmp_path / "b", *calibrated)
    assert report["classes"] == ["ant", "cat", "dog"]
    assert report["preprocessing"]["resize"] is True
    assert any("named after the folders" in note for note in report["notes"])
    report = compiled(plain, tmp_path / "b", *calibrated, "--classes", "x,y,z")
    assert report["classes"] == ["x", "y", "z"]
    too_few(photographs)
    report = compiled(plain, tmp_path / "b", *calibrated)
    assert report["classes"] is None
    assert any("has 2 folders (ant, dog), the network tells 3 classes apart" in note for note in report["notes"])


def test_calibration_takes_a_normalized_array_as_a_run_does(plain: Tiny, pixels: Path, tmp_path: Path) -> None:
    values = (np.load(pixels) / 255 - np.reshape(MEAN, (-1, 1, 1))) / np.reshape(STD, (-1, 1, 1))
    np.save(tmp_path / "y.npy", values)
    programs = []
    for source in (pixels, tmp_path / "y.npy"):
        report = compiled(plain, tmp_path / "b", "--calibration", str(source), *NORMALIZED)
        programs.append((tmp_path / "b" / "program.safetensors").read_bytes())
    assert programs[0] == programs[1]
    assert any("taken as normalized already" in note for note in report["notes"])


def test_a_sweep_and_the_page_of_compile_heed_it(
    plain: Tiny, photographs: Path, tmp_path: Path, capsys: Capture
) -> None:
    said = [*plain.arguments, "--timesteps", "4", "--input", str(photographs), "--resize", *NORMALIZED]
    table = ["--sweep", "weight-bits=8", "--table", str(tmp_path / "t.json"), "--classes", "dog,cat,ant"]
    assert compile_main([str(plain.model), *said, *table]) == 0
    built = ["--target", "sim", "-o", str(tmp_path / "b"), "--report", str(tmp_path / "r.html")]
    assert compile_main([str(plain.model), *said, *built, "--classes", "dog,cat,ant"]) == 0
    assert "warning" not in capsys.readouterr().out
    expected = resformer.load(tmp_path / "b").run(photographs, backend="sim").accuracy
    assert read_json(tmp_path / "t.json")["points"][0]["accuracy"] == expected


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--classes", "cat,dog"], 1, "--classes: 2 names (cat, dog), the network tells 3 classes apart"),
        (["--mean", "1,2"], 1, "--mean: 2 numbers for 3 channels"),
        (["--std", "1e-30"], 1, "--std: 1e-30 is below 1e-18"),
        (["--sweep", "classes=a,b"], 2, "there is no option 'classes' to vary"),
    ],
)
def test_what_compile_refuses(
    plain: Tiny, tmp_path: Path, capsys: Capture, arguments: list[str], status: int, says: str
) -> None:
    output = [] if "--sweep" in arguments else ["--target", "sim", "-o", str(tmp_path / "b")]
    assert compile_main([str(plain.model), *output, *plain.arguments, *arguments]) == status
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ((("preprocessing", "std"), [0.0]), "'preprocessing.std[0]' is 0.0, outside"),
        ((("preprocessing", "mean"), [1.0, 2.0]), "--mean: 2 numbers for 3 channels"),
        ((("classes",), ["a", "b"]), "names 2 classes (a, b), its program tells 3 apart"),
        ((("classes",), ["a", "b", "a"]), "'classes[2]' is 'a', no name of one class alone"),
        ((("classes",), ["a", "b", "\x1b[2J"]), "'classes[2]' is '\\x1b[2J', no name"),
        ((("classes",), ["a", "b", "c" * 2000]), "no name of one class alone"),
        ((("classes",), [*map(str, range(300_000)), "7"]), "'classes[300000]' is '7', no name of one class alone"),
    ],
)
def test_a_report_that_was_tampered_with(
    holding: Tiny, pixels: Path, tmp_path: Path, capsys: Capture, changes: tuple[Sequence[str], Any], says: str
) -> None:
    build = holding.copied_build(tmp_path)
    report = read_json(build / "report.json")
    where, value = changes
    owner = report
    for key in where[:-1]:
        owner = owner[key]
    owner[where[-1]] = value
    write_json(build / "report.json", report)
    assert run_main([str(build), "--input", str(pixels), "--backend", "sim", "--mean", "0.5"]) == 1
    assert says in capsys.readouterr().err


def test_the_build_as_a_whole_and_more(holding: Tiny, pixels: Path, capsys: Capture) -> None:
    arguments = [str(holding.build), "--input", str(pixels), "--backend", "sim", "--preprocessing", "build"]
    assert run_main([*arguments, "--mean", "0.5"]) == 2
    assert "--preprocessing build: does all that the build holds; leave out --mean" in capsys.readouterr().err
