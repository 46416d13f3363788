"""Fine-tuning the MNIST example: the checkpoint that is committed, and that the script works."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from resformer.compiler.backends import open_backend
from resformer.compiler.ir.ops import Conv2d, Dense
from resformer.models.checkpoint import load_checkpoint
from resformer.runtime.cli.compile_options import main as compile_main
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.run.encode import encode, predict, real_logits
from support import scripts
from support.builds import program_of, read_json

FOLDER = Path(__file__).parents[2] / "examples" / "mnist"
CHECKPOINT = FOLDER / "spikingresformer_mnist_4bit.pt"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("mnist4") / "build"
    assert compile_main([str(CHECKPOINT), "--target", "lava", "--chip", "none", "-o", str(build), "--quiet"]) == 0
    return build


def test_the_committed_checkpoint_is_small_and_holds_four_bits(build: Path) -> None:
    floats = load_checkpoint(FOLDER / "spikingresformer_mnist.pt")
    checkpoint = load_checkpoint(CHECKPOINT)
    assert checkpoint.architecture == floats.architecture
    assert CHECKPOINT.stat().st_size < 0.55 * floats.path.stat().st_size
    weights = [node.op.weight for node in program_of(build) if isinstance(node.op, Conv2d | Dense)]
    assert len(weights) == 15
    assert max(int(np.abs(weight).max()) for weight in weights) == 7


def test_it_loses_at_most_three_in_a_thousand_digits(build: Path) -> None:
    """The float network is right on 992 of them; sim computes what every backend computes."""
    program = program_of(build)
    images, labels = np.load(FOLDER / "test_images.npy") / 255, np.load(FOLDER / "test_labels.npy")
    trace = open_backend("sim")(program, encode(images, program).values)
    right = int((predict(real_logits(trace.logits, program)) == labels).sum())
    assert right >= 989
    assert not any(trace.saturated.values())


@pytest.mark.parametrize(("backend", "samples"), [("sim", 4), ("lava", 2)])
def test_not_one_spike_differs_from_the_checkpoint(build: Path, tmp_path: Path, backend: str, samples: int) -> None:
    pytest.importorskip("lava" if backend == "lava" else "torch")
    json = tmp_path / "r.json"
    arguments = [str(build), "--model", str(CHECKPOINT), "--input", str(FOLDER / "test_images.npy")]
    options = ["--samples", str(samples), "--backend", backend, "--json", str(json)]
    assert verify_main([*arguments, *options]) == 0
    found = read_json(json)
    assert found["equivalent"]
    assert found["model_is_source"]
    for check in found["checks"].values():
        assert check["demanded"]
        assert check["mismatched"] == 0
        assert check["compared"] >= samples * 292_864


@pytest.fixture(name="finetune")
def fixture_finetune(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return scripts.load(FOLDER / "finetune.py", "mnist_finetune")


def test_fine_tuning_prints_a_table_and_writes_a_checkpoint(
    finetune: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = (np.load(FOLDER / f"test_{name}.npy")[:60] for name in ("images", "labels"))
    monkeypatch.setattr(finetune, "digits", lambda: (images.reshape(6, 10, 1, 32, 32), labels.reshape(6, 10)))
    np.save(tmp_path / "test_images.npy", images[:20])
    np.save(tmp_path / "test_labels.npy", labels[:20])
    (tmp_path / "spikingresformer_mnist.pt").symlink_to(FOLDER / "spikingresformer_mnist.pt")
    arguments = ["--bits", "3", "--epochs", "1", "--batch-size", "20", "--seeds", "1", "--save"]
    assert finetune.main([*arguments, "--folder", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"float: \d+\.\d\d % of 20 held-out digits are right", lines[0])
    assert re.match(r" {3}3 {5}1 +\d+\.\d\d % +\d+\.\d\d% +\d+\.\d\d % +[+-]\d\.\d\d +\d+\.\d\d% +\d+$", lines[2])
    assert re.fullmatch(r" {3}3 {2}mean drop over 1 seed\(s\): [+-]\d\.\d\d points", lines[3])
    assert load_checkpoint(tmp_path / "spikingresformer_mnist_3bit.pt").quantization is not None
