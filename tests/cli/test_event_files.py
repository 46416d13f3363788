"""Recordings of event cameras as samples of the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resformer.errors import InputError
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.cli.compile import main as compile_main
from resformer.runtime.cli.report import main as report_main
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.compiled import load
from resformer.runtime.run.recorded import load_spikes
from support.builds import Tiny, read_json, write_tiny
from support.event_files import WRITERS, some_events, write_dat
from support.pages import read_page

Capture = pytest.CaptureFixture[str]
EVENTS = some_events(2000, size=(8, 8), duration=59_000)


@pytest.fixture(scope="module")
def events(make_model: Callable[..., SpikingResformer], tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A network of event frames of 8 x 8 pixels, and beside it a recording in each format."""
    folder = tmp_path_factory.mktemp("events")
    classes = ",".join(f"class{label}" for label in range(5))
    tiny = write_tiny(make_model(neuron="PLIF", stem="conv3x3", timesteps=4), folder, "--classes", classes)
    for name, write in WRITERS.items():
        write(folder / name, EVENTS)
    frames = np.zeros((12, 2, 8, 8), dtype=np.uint8)
    np.add.at(frames, ((EVENTS.t - EVENTS.t[0]) // 5000, EVENTS.on.astype(int), EVENTS.y, EVENTS.x), 1)
    np.save(folder / "frames.npy", frames.reshape(3, 4, 2, 8, 8))
    return tiny


def run(tiny: Tiny, name: str, out: Path, *options: str) -> Any:
    given = ["--input", str(tiny.model.parent / name), "--backend", "sim", "-o", str(out)]
    assert run_main([str(tiny.build), *given, *options]) == 0
    with np.load(out) as file:
        return dict(file)


@pytest.mark.parametrize("name", WRITERS)
def test_a_recording_gives_what_its_frames_give(name: str, events: Tiny, tmp_path: Path, capsys: Capture) -> None:
    expected = run(events, "frames.npy", tmp_path / "a.npz")
    found = run(events, name, tmp_path / "b.npz", "--bin-ms", "5", "--sensor-size", "8x8")
    assert found["logits"].shape == (3, 4, 5)
    np.testing.assert_array_equal(found["logits_int"], expected["logits_int"])
    assert ("taken as N-MNIST's" in capsys.readouterr().out) == (name == "events.bin")


def test_a_recording_verifies_calibrates_and_is_shown(events: Tiny, tmp_path: Path) -> None:
    folder, options = events.model.parent, ["--sensor-size", "8x8", "--bin-events", "150"]
    compiled = ["--timesteps", "4", *events.arguments, "--target", "sim", "-o", str(tmp_path / "b")]
    calibrated = ["--calibration", str(folder / "events.npy"), *options]
    assert compile_main([str(events.model), *compiled, *calibrated, "--quiet"]) == 0
    given = ["--input", str(folder / "events.npy"), *options, "--json", str(tmp_path / "r.json")]
    assert verify_main([str(tmp_path / "b"), "--model", str(events.model), "--backend", "sim", *given]) == 0
    assert read_json(tmp_path / "r.json")["samples"] == 4
    page = ["--input", str(folder / "events.h5"), "--sensor-size", "8x8", "-o", str(tmp_path / "p.html")]
    assert report_main([str(events.build), *page]) == 0


def test_the_page_of_a_new_build_bins_a_recording_as_the_options_say(events: Tiny, tmp_path: Path) -> None:
    given = ["--input", str(events.model.parent / "events.h5"), "--sensor-size", "8x8", "--bin-ms", "5"]
    built = ["--target", "sim", "-o", str(tmp_path / "b"), "--report", str(tmp_path / "p.html"), "--quiet"]
    assert compile_main([str(events.model), "--timesteps", "4", *events.arguments, *built, *given]) == 0
    assert read_page(tmp_path / "p.html")[0]["builds"][0]["run"]["samples"] == 3


def test_labels_and_samples_go_with_recordings(events: Tiny, tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "y.npy", np.zeros(3, dtype=np.int64))
    options = ("--bin-ms", "5", "--sensor-size", "8x8", "--samples", "2")
    assert (
        len(run(events, "events.npz", tmp_path / "o.npz", *options, "--labels", str(tmp_path / "y.npy"))["logits"]) == 2
    )
    assert "%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--input", "frames.npy", "--pool", "2"], 2, "--pool: goes with a recording"),
        (["--input", "events.npy", "--bin-ms", "5", "--bin-events", "5"], 2, "exclude each other"),
        (["--input", "events.npy", "--bin-ms", "0"], 2, "'0' is no number from 0.001"),
        (["--input", "events.npy", "--sensor-size", "8"], 2, "'8' is no WIDTHxHEIGHT"),
        (["--input", "events.npy", "--sensor-size", "0x8"], 2, "is no WIDTHxHEIGHT"),
        (["--input", "events.npy"], 1, "give --sensor-size WIDTHxHEIGHT"),
        (["--input", "events.bin"], 1, "34x34 pixels, the network takes 8x8; give --keep-middle"),
        (["--input", "events.npy", "--sensor-size", "8x8", "--samples", "2"], 1, "holds 1 samples, fewer"),
    ],
)
def test_what_is_missing_or_wrong_is_said(
    options: list[str], status: int, says: str, events: Tiny, capsys: Capture
) -> None:
    given = [str(events.model.parent / each) if each.endswith((".npy", ".bin")) else each for each in options]
    assert run_main([str(events.build), "--backend", "sim", *given]) == status
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1 + (status == 2) * error.count("usage")


def test_event_options_need_samples(events: Tiny, tmp_path: Path, capsys: Capture) -> None:
    compiled = [str(events.model), "--target", "sim", "-o", str(tmp_path / "b")]
    assert compile_main([*compiled, "--bin-ms", "5"]) == 2
    assert report_main([str(events.build), "--bin-ms", "5", "-o", str(tmp_path / "p.html")]) == 2
    assert capsys.readouterr().err.count("--bin-ms: goes with a recording") == 2


def test_binning_in_python_is_of_recordings(events: Tiny) -> None:
    from resformer.compiler.samples.events.frames import Binning

    with pytest.raises(InputError, match="of recordings of event cameras"):
        load(events.build).read(np.zeros((1, 4, 2, 8, 8)), binning=Binning())


def test_a_streamed_recording_writes_what_a_run_writes(events: Tiny, tmp_path: Path, capsys: Capture) -> None:
    options = ("--bin-ms", "1", "--sensor-size", "8x8", "--batch-size", "2")
    expected = run(events, "events.npz", tmp_path / "a.npz", *options)
    assert "15, 4 steps each" in capsys.readouterr().out
    found = run(events, "events.npz", tmp_path / "b.npz", *options, "--stream")
    assert "15, 4 steps each" in capsys.readouterr().out
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
        assert found[name].dtype == values.dtype
    recorded = load_spikes(tmp_path / "b.npz")
    assert len(recorded.predictions) == 15
    assert recorded.classes == tuple(f"class{label}" for label in range(5))


def test_a_stream_says_what_a_run_says_of_its_input(events: Tiny, tmp_path: Path, capsys: Capture) -> None:
    frames = np.random.default_rng(0).poisson(0.1, (12, 2, 8, 8))
    frames[5, 0, :3] = 10_000
    frames[9, 1, 2] = 12_000
    np.save(events.model.parent / "told.npy", frames.reshape(3, 4, 2, 8, 8))
    np.save(events.model.parent / "stream.npy", frames)
    told = []
    for name, options in (("told.npy", ()), ("stream.npy", ("--stream", "--batch-size", "1"))):
        run(events, name, tmp_path / "o.npz", *options)
        told.append(
            [
                line
                for line in capsys.readouterr().out.splitlines()
                if "every logit" in line or "input:" in line or "saturated" in line
            ]
        )
    assert told[0] == told[1]
    assert len(told[0]) == 2


@pytest.mark.parametrize("option", ["--record-spikes", "--cost", "--mean=1", "--samples=1", "--stock-models"])
def test_a_stream_takes_no_options_that_need_the_whole(
    option: str, events: Tiny, tmp_path: Path, capsys: Capture
) -> None:
    given = ["--input", str(events.images), "-o", str(tmp_path / "o.npz"), "--stream", option]
    assert run_main([str(events.build), *given]) == 2
    assert "does not go with --stream" in capsys.readouterr().err


def test_a_folder_of_recordings_is_a_sample_each_of_the_class_of_its_folder(
    events: Tiny, tmp_path: Path, capsys: Capture
) -> None:
    expected, truth = [], []
    for label in range(5):
        (tmp_path / "set" / f"class{label}").mkdir(parents=True)
        for index in range(2):
            one = some_events(300, (8, 8), seed=10 * label + index)
            path = tmp_path / "set" / f"class{label}" / f"{index}.dat"
            write_dat(path, one, header="% Width 8\n% Height 8\n")
            expected.append(run(events, str(path), tmp_path / "o.npz")["logits_int"][0])
            truth.append(label)
    capsys.readouterr()
    found = run(events, str(tmp_path / "set"), tmp_path / "o.npz")
    np.testing.assert_array_equal(found["logits_int"], expected)
    assert found["names"].tolist() == [f"class{label}/{index}.dat" for label in range(5) for index in range(2)]
    right = np.mean(found["predictions"] == truth)
    assert f"{right:.2%}" in capsys.readouterr().out
    assert run_main([str(events.build), "--input", str(tmp_path / "set"), "--bin-ms", "5", "--backend", "sim"]) == 1
    assert "each recording of a folder is one sample" in capsys.readouterr().err
    (tmp_path / "set" / "class0" / "0.dat").write_bytes(b"% CD\n")
    assert run_main([str(events.build), "--input", str(tmp_path / "set"), "--backend", "sim"]) == 1
    assert "0.dat: no Prophesee .dat file" in capsys.readouterr().err
