"""``resformer-run`` as a user runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resformer.compiler.ir import reference
from resformer.compiler.samples.arrays import check_samples
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.run.encode import encode, real_logits
from support.builds import Tiny, program_of, read_json, write_tiny


def run_tiny(tiny: Tiny, *arguments: str, backend: str = "reference") -> int:
    return run_main([str(tiny.build), "--input", str(tiny.images), "--backend", backend, *arguments])


def results(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_the_output_is_what_the_program_computes(tiny: Tiny, tmp_path: Path) -> None:
    assert run_tiny(tiny, "-o", str(tmp_path / "o.npz"), "--record-spikes", "--batch-size", "4") == 0
    found, program = results(tmp_path / "o.npz"), program_of(tiny.build)
    samples = check_samples(np.load(tiny.images), program, "images")
    trace = reference.run(program, encode(samples.real(), program).values, record=True)
    assert found["logits"].dtype == np.float64
    assert found["predictions"].dtype == np.int64
    np.testing.assert_array_equal(found["logits_int"], trace.logits.swapaxes(0, 1))
    np.testing.assert_array_equal(found["logits"], real_logits(trace.logits, program).swapaxes(0, 1))
    np.testing.assert_array_equal(found["predictions"], found["logits"].mean(axis=1).argmax(axis=1))
    for name in program.lif_names:
        shape = tuple(found[f"shape/{name}"])
        assert shape == (4, 6, *program[name].shape)
        spikes = np.unpackbits(found[f"spikes/{name}"], count=int(np.prod(shape))).reshape(shape)
        np.testing.assert_array_equal(spikes, trace.spikes[name].dense())
    assert [path.name for path in tmp_path.iterdir()] == ["o.npz"], "temporary files are left"


def test_spikes_are_not_kept_unless_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    assert run_tiny(tiny, "-o", str(tmp_path / "o.npz"), "--samples", "2") == 0
    assert results(tmp_path / "o.npz").keys() == {"format_version", "logits", "predictions", "logits_int"}
    assert len(results(tmp_path / "o.npz")["predictions"]) == 2


@pytest.mark.parametrize(("backend", "package"), [("lava", "lava"), ("sim", "torch"), ("onnx", "onnxruntime")])
def test_backends_give_the_same_results(tiny: Tiny, tmp_path: Path, backend: str, package: str) -> None:
    pytest.importorskip(package)
    for name in ("reference", backend):
        output = str(tmp_path / f"{name}.npz")
        assert run_tiny(tiny, "-o", output, "--record-spikes", "--samples", "2", backend=name) == 0
    expected, found = (results(tmp_path / f"{name}.npz") for name in ("reference", backend))
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_the_summary_counts(tiny: Tiny, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bright = tmp_path / "bright.npy"
    images = np.load(tiny.images)
    images[0, 0, 0, :3] = 1000
    np.save(bright, images)
    status = run_main([str(tiny.build), "--input", str(bright), "--backend", "reference", "--labels", str(tiny.labels)])
    lines = {line.split("  ")[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert status == 0
    assert lines["input values clipped"].endswith(" 3")
    assert lines["samples"].endswith("6, 4 steps each")
    assert "%" in lines["accuracy"]
    assert "images/s" in lines["speed"]
    assert "class" in lines["predictions"]


def test_accuracy_is_the_share_of_right_predictions(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_tiny(tiny, "-o", str(tmp_path / "o.npz")) == 0
    labels = results(tmp_path / "o.npz")["predictions"]
    labels[:3] = (labels[:3] + 1) % 5
    np.save(tmp_path / "labels.npy", labels)
    capsys.readouterr()
    assert run_tiny(tiny, "--labels", str(tmp_path / "labels.npy")) == 0
    assert "50.00%" in capsys.readouterr().out


def test_npz_archives_hold_images_and_labels(tiny: Tiny, tmp_path: Path) -> None:
    archive = tmp_path / "data.npz"
    np.savez(archive, images=np.load(tiny.images), labels=np.load(tiny.labels))
    output = tmp_path / "o.npz"
    arguments = ["--backend", "reference", "--labels", str(archive), "-o", str(output)]
    assert run_main([str(tiny.build), "--input", str(archive), *arguments]) == 0
    assert run_tiny(tiny, "-o", str(tmp_path / "p.npz")) == 0
    np.testing.assert_array_equal(results(output)["logits"], results(tmp_path / "p.npz")["logits"])


def test_event_frames_are_counts(make_model: Any, tmp_path: Path) -> None:
    """uint8 frames of a network of events are taken as they are, not divided by 255."""
    events = write_tiny(make_model(neuron="PLIF", stem="conv3x3", timesteps=3), tmp_path)
    program = program_of(events.build)
    counts = np.random.default_rng(0).integers(0, 5, size=(2, 3, 2, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "counts.npy", counts)
    output = tmp_path / "o.npz"
    arguments = ["--input", str(tmp_path / "counts.npy"), "--backend", "reference", "-o", str(output)]
    assert run_main([str(events.build), *arguments]) == 0
    expected = reference.run(program, counts.astype(np.int32)).logits
    np.testing.assert_array_equal(results(output)["logits_int"], expected.swapaxes(0, 1))


def test_the_cost_is_printed_and_written(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, cost = tmp_path / "o.npz", tmp_path / "cost.json"
    assert run_tiny(tiny, "--cost", "--json", str(cost), "-o", str(output)) == 0
    found, out = read_json(cost), capsys.readouterr().out
    assert f"{found['paper']['sops']:,.0f} SOPs, as the authors count them" in out
    assert "assumed for loihi2" in out
    assert found["samples"] == 6
    assert found["cores"] == read_json(tiny.build / "report.json")["placement"]["cores"]
    assert not [name for name in results(output) if name.startswith("spikes/")], "spikes were not asked for"


def test_another_chips_constants_change_the_cost(tiny: Tiny, tmp_path: Path) -> None:
    chip = tmp_path / "mine.yaml"
    chip.write_text("name: mine\nextends: loihi2\nsynaptic_op_pj: 0\n")
    for name, arguments in {"loihi2": [], "mine": ["--chip", str(chip)], "loihi1": ["--chip", "loihi1"]}.items():
        assert run_tiny(tiny, "--cost", *arguments, "--json", str(tmp_path / f"{name}.json")) == 0
    before, mine, loihi1 = (read_json(tmp_path / f"{name}.json") for name in ("loihi2", "mine", "loihi1"))
    saved = sum(layer["synapses_pj"] for layer in before["layers"]) * 1e-9
    assert saved > 0
    assert before["energy_mj"]["total"] - mine["energy_mj"]["total"] == pytest.approx(saved)
    assert mine["paper"] == before["paper"] == loihi1["paper"]
    assert mine["chip"]["constants"]["synaptic_op_pj"]["source"] == "given in mine.yaml"
    assert loihi1["step_ns"] > before["step_ns"]
    assert (before["fits"], loihi1["fits"]) == (True, False)


def test_the_builds_own_chip_is_the_default(tiny: Tiny, tmp_path: Path) -> None:
    build = tiny.copied_build(tmp_path)
    path = build / "placement.json"
    path.write_text(path.read_text().replace('"name": "loihi2"', '"name": "other"', 1))
    arguments = [str(build), "--input", str(tiny.images), "--backend", "reference", "--cost", "--samples", "1"]
    assert run_main([*arguments, "--json", str(tmp_path / "a.json")]) == 0
    assert read_json(tmp_path / "a.json")["chip"]["name"] == "other"
    path.unlink()
    assert run_main([*arguments, "--json", str(tmp_path / "a.json")]) == 0
    assert read_json(tmp_path / "a.json")["chip"]["name"] == "loihi2"
    path.write_text("{}")
    assert run_main(arguments) == 1


@pytest.mark.parametrize("arguments", [["--chip", "loihi1"], ["--json", "x.json"]])
def test_cost_options_need_cost(tiny: Tiny, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run_tiny(tiny, *arguments) == 2
    assert "goes with --cost" in capsys.readouterr().err
