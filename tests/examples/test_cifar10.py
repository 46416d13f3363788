"""The CIFAR-10 example on a hundred small images that are made here."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from resformer.compiler.fine_tuning import QuantizedSpikingResformer
from resformer.errors import FileFormatError, InputError
from resformer.models.checkpoint import check_rates, load_checkpoint
from resformer.runtime.cli.compile_options import main as compile_main
from resformer.runtime.cli.verify import main as verify_main
from support import scripts
from support.builds import read_json

Image = pytest.importorskip("PIL.Image")

FOLDER = Path(__file__).parents[2] / "examples" / "cifar10"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CLASSES = tuple(f"class{label}" for label in range(10))
SETTINGS = {"early_steps": 2, "early_share": 0.5, "seed": 0, "batch_size": 10, "peak_lr": 3e-3, "strength": 0.0}
STEPS = ["--batch-size", "10", "--shown", "10", "--early-share", "0.5"]


@pytest.fixture(scope="module", name="images")
def fixture_images() -> ModuleType:
    return scripts.load(FOLDER / "images.py", "images")


@pytest.fixture(scope="module", name="learning")
def fixture_learning(images: ModuleType) -> ModuleType:
    return scripts.load(FOLDER / "learning.py", "learning")


@pytest.fixture(scope="module", name="train")
def fixture_train(learning: ModuleType) -> ModuleType:
    """The script, with a network that is learned and compiled in a moment."""
    module = scripts.load(FOLDER / "train.py", "cifar10_train")
    tiny = module.RECIPES["tiny"]
    narrow = replace(
        tiny.architecture,
        planes=(8, 16),
        blocks=(("GWFFN",), ("DSSA", "GWFFN")),
        group_sizes=(8, 8),
    )
    module.RECIPES = {**module.RECIPES, "tiny": tiny._replace(architecture=narrow)}
    new_network = module.new_network

    def soon_settled(*args: Any, **options: Any) -> torch.nn.Module:
        """Normalisations whose statistics are those of the last steps, or nothing would fire after so few."""
        model: torch.nn.Module = new_network(*args, **options)
        for each in model.modules():
            if isinstance(each, torch.nn.BatchNorm2d):
                each.momentum = 0.5
        return model

    module.new_network = soon_settled
    return module


@pytest.fixture(scope="module", name="finetune")
def fixture_finetune(learning: ModuleType) -> ModuleType:
    return scripts.load(FOLDER / "finetune.py", "cifar10_finetune")


@pytest.fixture(scope="module", name="data")
def fixture_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred images to train on, in folders, and twenty to test with, in an archive: stripes, wider by class."""
    folder = tmp_path_factory.mktemp("cifar10")
    rng = np.random.default_rng(0)

    def encoded(label: int) -> bytes:
        stripes = 100 + 100 * (np.arange(32) // (1 + label) % 2)
        pixels = np.clip(stripes[:, None, None] + rng.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        return buffer.getvalue()

    for label, name in enumerate(CLASSES):
        (folder / "train" / name).mkdir(parents=True)
        for index in range(10):
            (folder / "train" / name / f"{index:04d}.png").write_bytes(encoded(label))
    with tarfile.open(folder / "test.tar.xz", "w:xz") as archive:
        for index in range(2):
            for label, name in enumerate(CLASSES):
                member, content = tarfile.TarInfo(f"test/{name}/{index:04d}.png"), encoded(label)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return folder


def test_images_are_read_by_class_from_a_folder_and_from_an_archive(images: ModuleType, data: Path) -> None:
    for split, count in (("train", 10), ("test", 2)):
        found = images.read(data, split)
        assert found.classes == CLASSES
        assert found.pixels.shape == (10 * count, 3, 32, 32)
        assert found.pixels.dtype == torch.uint8
        assert found.labels.tolist() == [label for label in range(10) for _ in range(count)]
        # the first class's stripes are one pixel wide, of 100 and 200
        rows = found.pixels[:count].double().mean((0, 1, 3))
        assert 150 < rows[1::2].min() < 250
        assert rows[0::2].max() < 150


def test_what_is_no_data_is_refused_with_its_name(images: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither train/ nor train\.tar\.xz"):
        images.read(tmp_path, "train")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match="train holds no image"):
        images.read(tmp_path, "train")
    (tmp_path / "train" / "cat" / "a.png").write_bytes(b"no image")
    with pytest.raises(FileFormatError, match=r"cat/a\.png: is no image"):
        images.read(tmp_path, "train")
    Image.new("RGB", (33, 32)).save(tmp_path / "train" / "cat" / "a.png")
    with pytest.raises(InputError, match=r"cat/a\.png: has 33x32 pixels"):
        images.read(tmp_path, "train")


def test_weak_augmentation_only_shifts_and_mirrors(images: ModuleType) -> None:
    torch.manual_seed(0)
    pixels = torch.randint(1, 256, (1, 3, 32, 32), dtype=torch.uint8).expand(64, -1, -1, -1)
    padded = torch.nn.functional.pad(images.as_input(pixels[:1]), (4,) * 4)
    windows = padded.unfold(2, 32, 1).unfold(3, 32, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 32, 32)
    shown = images.augment(pixels, strength=0.0)
    found = [
        [bool(torch.equal(window, each)) for window in torch.cat([windows, windows.flip(3)])].index(True)
        for each in shown
    ]
    assert len(set(found)) > 20
    assert 16 < sum(index >= len(windows) for index in found) < 48


def test_strong_augmentation_changes_colours_and_covers_a_square(images: ModuleType) -> None:
    torch.manual_seed(0)
    pixels = torch.full((200, 3, 32, 32), 100, dtype=torch.uint8)
    pixels[:, 0] = 200
    shown = images.augment(pixels, strength=1.0)
    assert shown.min() >= 0
    assert shown.max() <= 1
    covered = (shown == 0.5).all(1).double().mean((1, 2))
    assert 0 < covered.min() < covered.max() <= 0.25
    middle = shown[:, :, 16, 16][covered < 0.1]
    assert middle.std(0).min() > 0.02


def test_the_learning_rate_rises_falls_and_ends_at_nothing(learning: ModuleType) -> None:
    rates = [learning.learning_rate(done / 100, peak=1.0) for done in range(101)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[5] == max(rates) == 1.0
    assert rates[52] == pytest.approx(0.5, abs=0.02)
    assert rates[100] == 0


@pytest.fixture(scope="module", name="training_log")
def fixture_training_log(train: ModuleType, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A checkpoint after four epochs of ten steps, and what was printed."""
    folder = tmp_path_factory.mktemp("trained")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert train.main([str(data), "-o", str(folder), "--epochs", "4", *STEPS]) == 0
    return folder / "spikingresformer_cifar10_tiny.pt", printed.getvalue()


@pytest.fixture(scope="module", name="trained")
def fixture_trained(training_log: tuple[Path, str]) -> Path:
    return training_log[0]


def test_it_trains_and_resumes_to_the_same_weights(
    train: ModuleType, data: Path, training_log: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, lines = training_log[0], training_log[1].splitlines()
    for epoch, line in enumerate(lines[:4], 1):
        assert re.match(rf"epoch   {epoch}/4  loss \d\.\d{{4}}  training accuracy +\d+\.\d\d %  test accuracy ", line)
    assert re.match(r"spikingresformer_cifar10_tiny\.pt: \d,\d{3} parameters in .* of 20 test images", lines[4])
    checkpoint = load_checkpoint(trained)
    check_rates(checkpoint.state)
    assert {tensor.dtype for tensor in checkpoint.state.values()} == {torch.float32, torch.int64}
    assert checkpoint.architecture == train.RECIPES["tiny"].architecture
    assert checkpoint.timesteps == 4

    # cut off after the first epoch of four
    halves = tmp_path / "halves"
    halves.mkdir()
    training = train.Training(
        train.Settings(size="tiny", epochs=4, minutes=None, **SETTINGS), torch.device("cpu"), compiled=False
    )
    assert len(list(training.run_epoch(train.read(data, "train")))) == 10
    torch.save(training.state(), halves / "spikingresformer_cifar10_tiny.state")
    arguments = [str(data), "-o", str(halves), "--epochs", "4", *STEPS, "--resume"]
    assert train.main(arguments) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[:-1]] == ["2/4", "3/4", "4/4"]
    resumed = load_checkpoint(halves / trained.name)
    assert all(torch.equal(resumed.state[name], tensor) for name, tensor in checkpoint.state.items())
    assert not torch.equal(training.average.model.state_dict()["prologue.0.weight"], resumed.state["prologue.0.weight"])
    with pytest.raises(InputError, match="was begun with seed 0, not 1"):
        train.main([*arguments, "--seed", "1"])


def test_it_is_fine_tuned_compiles_and_verifies(
    finetune: ModuleType,
    train: ModuleType,
    data: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    presented: list[int] = []
    forward = QuantizedSpikingResformer.forward

    def watched(student: QuantizedSpikingResformer, images: torch.Tensor) -> torch.Tensor:
        presented.append(student.timesteps)
        return forward(student, images)

    monkeypatch.setattr(QuantizedSpikingResformer, "forward", watched)
    arguments = f"-o {tmp_path} --checkpoint {trained} --epochs 0.6 --batch-size 20 --price 0.5".split()
    steps = ["--timesteps", "3", "--early-steps", "1", "--early-share", "0.3"]
    assert finetune.main([str(data), *arguments, *steps, "--bits", "4"]) == 0
    assert presented == [1, 3, 3, 3]  # three steps of the optimizer, and the test images
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"epoch  0\.60/0\.6  loss \d+\.\d{4}  agrees +\d+\.\d\d %  cost +\d+\.\d %  +\d+ s$", lines[0])
    assert re.match(
        r"spikingresformer_cifar10_tiny_4bit_t3_0\.5\.pt: \d+\.\d\d % of 20 test images are right, [+-]", lines[1]
    )
    path = tmp_path / "spikingresformer_cifar10_tiny_4bit_t3_0.5.pt"
    assert load_checkpoint(path).timesteps == 3

    build, report, shown = tmp_path / "build", tmp_path / "r.json", tmp_path / "x.npy"
    np.save(shown, train.read(data, "test").pixels[:2].numpy())
    assert compile_main([str(path), "--target", "sim", "--chip", "none", "-o", str(build), "--quiet"]) == 0
    options = ["--input", str(shown), "--backend", "sim", "--json", str(report)]
    assert verify_main([str(build), "--model", str(path), *options]) == 0
    found = read_json(report)
    assert found["equivalent"]
    firing = [layer["name"] for layer in found["layers"] if layer["fired"]]
    assert len(firing) > len(found["layers"]) / 2, firing
    for check in found["checks"].values():
        assert check["demanded"]
        assert check["mismatched"] == 0
        assert check["compared"] > 10_000


def test_a_chips_energy_can_be_the_cost(finetune: ModuleType) -> None:
    class Counted:
        def energy_pj(self, *, operation_pj: float, spike_pj: float) -> tuple[float, float]:
            return operation_pj, spike_pj

    # 81 pJ for a neuron that fires and 52 for one that does not, and 1.7 for its message
    found = finetune.cost(Counted(), finetune.load_chip("loihi1"))
    assert found == pytest.approx((23.6, 30.7))


def test_time_can_end_the_training(train: ModuleType, data: Path, tmp_path: Path) -> None:
    """Ten seconds' schedule of which all but a moment is over."""
    training = train.Training(
        train.Settings(size="tiny", epochs=None, minutes=1 / 6, **SETTINGS), torch.device("cpu"), compiled=False
    )
    training.spent = 9.9999
    assert not training.over()
    assert len(list(training.run_epoch(train.read(data, "train")))) <= 1
    assert training.over()


def test_the_sizes_have_the_parameters_that_are_promised(learning: ModuleType) -> None:
    train = scripts.load(FOLDER / "train.py", "cifar10_sizes")
    with torch.device("meta"):
        counts = {
            size: sum(
                each.numel()
                for each in train.SpikingResformer(recipe.architecture, timesteps=4, image_size=32).parameters()
            )
            for size, recipe in train.RECIPES.items()
        }
    assert counts["tiny"] < 700_000
    assert 2_000_000 < counts["small"] < 4_000_000


@pytest.fixture(name="accuracy")
def fixture_accuracy(finetune: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setitem(sys.modules, "finetune", finetune)
    yield scripts.load(BENCHMARKS / "accuracy.py", "cifar10_accuracy")
    sys.modules.pop("networks", None)


def test_an_interval_is_that_of_a_mean_of_images(accuracy: ModuleType) -> None:
    ones = np.array([1.0] * 80 + [0.0] * 20)
    found = accuracy.interval(ones)
    assert found.mean == 80.0
    assert found.half == pytest.approx(100 * 1.96 * (0.8 * 0.2 / 99) ** 0.5)
    # paired: of two networks that are right on the same images but two, little is uncertain
    gained, lost = np.zeros(100), np.zeros(100)
    gained[0], lost[1] = 1.0, 1.0
    paired = accuracy.interval(gained - lost)
    assert paired.mean == 0.0
    assert paired.half == pytest.approx(100 * 1.96 * (2 / 99 / 100) ** 0.5)
    assert accuracy.Interval(1.0, 0.5).text(signed=True, starred=True) == "+1.00 ± 0.50*"
    assert accuracy.Interval(-0.4, 0.5).text(signed=True, starred=True) == "-0.40 ± 0.50"


def accuracy_of(name: str, printed: str) -> str:
    """The cell of a row of the benchmark's table."""
    return next(line.split("|")[2].strip() for line in printed.splitlines() if line.startswith(f"| {name} "))


def test_the_benchmark_measures_each_way_of_rounding(
    accuracy: ModuleType,
    data: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(accuracy, "CALIBRATION", (4,))
    few = ["--images", "10", "--cost-images", "2", "--exact", "1", "--epochs", "0.1", "--bits", "5"]
    more = ["--prices", "0.5", "--timesteps", "2", "--input-scales", "4", "--noise", "1e-4", "--distilled", "0.5"]
    more += ["--tuned-timesteps", "2", "--early-share", "0.5"]
    output = ["--folder-out", str(tmp_path / "tuned"), "--plot", str(tmp_path / "plot.png")]
    output += ["--float-classes", str(tmp_path / "float.npz")]
    assert accuracy.main([str(data), "--checkpoint", str(trained), *few, *more, *output]) == 0
    printed = capsys.readouterr().out
    names = re.findall(r"^\| (float[^|]*?|5 bits[^|]*?) +\| +\d+\.\d\d ± \d+\.\d\d \| +[+-]", printed, re.MULTILINE)
    assert names == [
        "float",
        "float, input noise 0.0001",
        "5 bits: nearest",
        "5 bits: calibrated on 4",
        "5 bits' memory: by layer",
        "5 bits: fine-tuned, T = 2, price 0.5",
        "5 bits, T = 2: calibrated",
        "5 bits, input in 1/16: calibrated",
    ]
    assert "M SOPs" in printed
    assert len(re.findall(r"\| +1 \| +0 of [\d,]{5,} \| +0 of [\d,]{5,} \|", printed)) == 2
    (tuned,) = (tmp_path / "tuned").iterdir()
    assert tuned.name == "spikingresformer_cifar10_tiny_5bit_t2_0.5.pt"
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")

    # the float network's classes are taken from the file, but for other images
    monkeypatch.setattr(accuracy, "predictions", lambda _model, pixels: torch.full((len(pixels),), 3))
    for images, as_kept in (("10", True), ("9", False)):
        again = ["--images", images, "--bits", "--cost-images", "1", "--exact", "0"]
        again += ["--float-classes", str(tmp_path / "float.npz"), "--tuned", str(tuned)]
        assert accuracy.main([str(data), "--checkpoint", str(trained), *again]) == 0
        second = capsys.readouterr().out
        assert (accuracy_of("float", second) == accuracy_of("float", printed)) == as_kept
        if as_kept:  # what was tuned before is what was measured as it was tuned
            assert accuracy_of(tuned.stem, second) == accuracy_of("5 bits: fine-tuned, T = 2, price 0.5", printed)


def test_noise_changes_the_input_of_each_image_alike_each_time(learning: ModuleType) -> None:
    seen: list[torch.Tensor] = []

    class Looking(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return images.flatten(1)[None]

    pixels = torch.full((6, 3, 32, 32), 51, dtype=torch.uint8)
    for noise in (0.0, 0.01, 0.01):
        learning.predictions(Looking(), pixels, noise=noise)
    assert torch.equal(seen[0], torch.full_like(seen[0], 0.2))
    assert torch.equal(seen[1], seen[2])
    assert float((seen[1] - 0.2).std()) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(("name", "checks"), [("", 3), ("_4bit", 4), ("_4bit_t3", 4)])
def test_the_checkpoints_that_lie_there_compile_and_verify(name: str, checks: int, tmp_path: Path) -> None:
    name = f"spikingresformer_cifar10_tiny{name}"
    path, shown, report = FOLDER / f"{name}.pt", tmp_path / "x.npy", tmp_path / "r.json"
    assert path.stat().st_size < 3_000_000
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (1, 3, 8, 8), dtype=np.uint8)
    np.save(shown, coarse.repeat(4, axis=2).repeat(4, axis=3))  # what fires; noise hardly does
    build = tmp_path / "build"
    assert compile_main([str(path), "--target", "sim", "--chip", "none", "-o", str(build), "--quiet"]) == 0
    options = ["--input", str(shown), "--backend", "sim", "--json", str(report)]
    assert verify_main([str(build), "--model", str(path), *options]) == 0
    found = read_json(report)
    assert all(layer["fired"] for layer in found["layers"])
    demanded = [check for check in found["checks"].values() if check["demanded"]]
    assert len(demanded) == checks
    assert [check["mismatched"] for check in demanded] == [0] * len(demanded)
