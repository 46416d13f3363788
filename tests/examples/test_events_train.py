"""The example of event data: its simulated camera, and that training, verifying and streaming work together."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from resformer.compiler.samples.events.formats import open_events
from resformer.compiler.samples.events.frames import bin_events
from support import scripts
from support.program_builder import ProgramBuilder

EXAMPLES = Path(__file__).parents[2] / "examples"
IMAGES = EXAMPLES / "mnist" / "test_images.npy"


@pytest.fixture(name="train")
def fixture_train(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES / "mnist"))
    monkeypatch.syspath_prepend(str(EXAMPLES / "events"))
    return scripts.load(EXAMPLES / "events" / "train.py", "events_train")


def test_a_recording_is_binned_to_the_frames_that_trained(train: ModuleType, tmp_path: Path) -> None:
    images = np.load(IMAGES)[:3].reshape(-1, 32, 32)
    net = ProgramBuilder((2, 16, 16))
    net.conv("conv", "input", 1)
    program = net.finish(timesteps=8)
    frames = train.frames_of(images, pool=2, seed=0)
    for index, image in enumerate(images):
        np.savez(tmp_path / "x.npz", **train.record(image[None], np.random.default_rng([0, index]))._asdict())
        samples = bin_events(open_events(tmp_path / "x.npz"), train.BINNING, program)
        np.testing.assert_array_equal(samples.real(), frames[index : index + 1])
    assert 500 < frames.sum() / 3 < 5000
    assert frames[:, 0, 1].sum() > 10 * frames[:, 0, 0].sum(), "a digit appears"
    assert frames[:, -1, 0].sum() > 10 * frames[:, -1, 1].sum(), "and disappears"


def test_it_trains_verifies_and_streams(
    train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.load(IMAGES)[:30].reshape(3, 10, 1, 32, 32)
    labels = np.load(IMAGES.with_name("test_labels.npy"))[:30].reshape(3, 10)
    monkeypatch.setattr(train, "digits", lambda: (images, labels))
    monkeypatch.setattr(train, "TRAIN_PER_CLASS", 2)
    monkeypatch.setattr(train, "VERIFIED", 2)
    assert (
        train.main([str(tmp_path), "--epochs", "1", "--batch-size", "20", "--streamed", "5", "--backends", "sim"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("epoch  1/1") for line in lines)
    assert any(line.startswith("EQUIVALENT: 0 of ") for line in lines)
    assert any(line.startswith("recording of 5 digits, 40 steps: ") for line in lines)
    assert lines[-1].startswith("streamed through sim in 1 parts: equal")
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", "build", "recording.npz"}
