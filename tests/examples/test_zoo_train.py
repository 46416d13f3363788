"""The zoo's example: what is committed beside it, and that training it works."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import resformer
from resformer.models.zoo.checkpoint import load_zoo_checkpoint
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, QUANTIZED
from support import scripts

FOLDER = Path(__file__).parents[2] / "examples" / "zoo"
MNIST = FOLDER.parent / "mnist"
COMMITTED = sorted(FOLDER.glob("*.pt"))
DIGITS = 4
"""How many are verified."""


@pytest.fixture(name="train")
def fixture_train(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(MNIST))
    return scripts.load(FOLDER / "train.py", "zoo_train")


def test_every_recipe_has_its_checkpoint(train: ModuleType) -> None:
    assert [path.stem for path in COMMITTED] == sorted(train.RECIPES)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_checkpoint_is_its_recipes_network(train: ModuleType, path: Path) -> None:
    checkpoint = load_zoo_checkpoint(path)
    known, recipe = checkpoint.recognition, train.RECIPES[path.stem]
    assert (known.family, known.architecture) == (path.stem, recipe.architecture)
    assert (known.timesteps, known.image_size, known.assumptions) == (recipe.timesteps, 32, ())
    assert {tensor.dtype for tensor in checkpoint.state.values()} == {torch.float32, torch.int64}
    assert path.stat().st_size < 2e6


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_checkpoint_compiles_with_no_option_and_knows_the_digits(path: Path) -> None:
    images = np.load(MNIST / "test_images.npy")[:100]
    labels = np.load(MNIST / "test_labels.npy")[:100]
    compiled = resformer.compile(path, target="sim")
    result = compiled.verify(images[:DIGITS])
    assert result.equivalent
    for name in (FLOAT_GRAPH, BACKEND, QUANTIZED):
        assert result.checks[name].compared > 0
        assert result.checks[name].mismatched == 0
    assert result.checks[QUANTIZED].demanded, result.checks[QUANTIZED].note
    assert int((compiled.run(images).predictions == labels).sum()) >= 93


def test_training_writes_a_checkpoint_that_compiles(
    train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.load(MNIST / "test_images.npy")[:40]
    labels = np.load(MNIST / "test_labels.npy")[:40]
    monkeypatch.setattr(train, "digits", lambda: (images.reshape(4, 10, 1, 32, 32), labels.reshape(4, 10)))
    np.save(tmp_path / "test_images.npy", images)
    np.save(tmp_path / "test_labels.npy", labels)
    monkeypatch.setattr(train, "MNIST", tmp_path)
    arguments = ["sew_resnet", "--epochs", "1", "--batch-size", "10", "--seed", "3", "--folder", str(tmp_path)]
    assert train.main(arguments) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert re.match(r"epoch   1/1  loss \d\.\d{4}  training accuracy +\d+\.\d\d %  +\d+ s$", first)
    assert re.fullmatch(r"trained in \d+ s, of which \d+ s on CPUs", second)
    assert re.fullmatch(
        r"sew_resnet\.pt: [\d,]+ parameters in [\d,]+ bytes; \d+ of 40 held-out digits are right: \d+\.\d\d %", third
    )

    checkpoint = load_zoo_checkpoint(tmp_path / "sew_resnet.pt")
    assert int(checkpoint.state["bn1.num_batches_tracked"]) == 4
    torch.manual_seed(3)
    untrained = train.new_network(train.RECIPES["sew_resnet"])
    for name, parameter in untrained.named_parameters():
        assert not torch.equal(checkpoint.state[name], parameter), name
    assert resformer.compile(checkpoint.path, target="sim").verify(images[:2]).equivalent

    assert train.main([*arguments[:-1], str(tmp_path / "again")]) == 0
    again = load_zoo_checkpoint(tmp_path / "again" / "sew_resnet.pt")
    assert all(torch.equal(again.state[name], tensor) for name, tensor in checkpoint.state.items())
