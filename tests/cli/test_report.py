"""``resformer-report`` as a user runs it, and ``--report`` of the other commands."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resformer.compiler.chips.chip import load_chip
from resformer.runtime.cli.compile import main as compile_main
from resformer.runtime.cli.report import main
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.run import infer
from support.builds import Tiny, read_json
from support.hostile_files import verification
from support.pages import read_page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>&amp;'\""


def test_a_build_alone(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report.html"
    assert main([str(tiny.build), "-o", str(page)]) == 0
    assert str(page) in capsys.readouterr().out
    data, tags, texts = read_page(page)
    (build,) = data["builds"]
    assert build["report"] == read_json(tiny.build / "report.json")
    placement = read_json(tiny.build / "placement.json")
    for shown, layer in zip(build["placement"]["layers"], placement["layers"], strict=True):
        placed = layer.pop("placed")
        sizes = [box["neurons"] for box in placed]
        assert shown.pop("sites") == [box["chip"] * 120 + box["core"] for box in placed]
        assert shown.pop("filled") == [(a[1] - a[0]) * (b[1] - b[0]) * (c[1] - c[0]) for a, b, c in sizes]
        assert shown == layer
    cores = build["placement"]["chip_cores"]
    assert len(cores) == len(set(map(tuple, cores))) == placement["chip"]["constants"]["cores_per_chip"]["value"]
    assert (build["run"], build["cost"], build["verification"]) == (None, None, None)
    assert texts["title"] == tiny.build.name
    # nothing is loaded from elsewhere
    links = [value for _, attributes in tags for key, value in attributes.items() if key in ("src", "href")]
    assert links == ["data:,"]
    assert page.stat().st_size < 5e6


def test_a_run_shows_what_the_commands_say(tiny: Tiny, tmp_path: Path) -> None:
    page, cost = tmp_path / "report.html", tmp_path / "c.json"
    given = ["--input", str(tiny.images), "--labels", str(tiny.labels), "--samples", "3"]
    assert main([str(tiny.build), *given, "-o", str(page)]) == 0
    assert run_main([str(tiny.build), *given, "--backend", "sim", "--cost", "--json", str(cost)]) == 0
    build = read_page(page)[0]["builds"][0]
    assert build["cost"] == read_json(cost)
    assert build["run"]["samples"] == 3
    steps, samples = build["run"]["timesteps"], build["cost"]["samples"]
    for node in build["report"]["nodes"]:
        if node["op"] != "LIF":
            continue
        size = 1
        for edge in node["shape"]:
            size *= edge
        spikes = build["cost"]["spikes"][node["name"]]
        assert build["run"]["rates"][node["name"]] == pytest.approx([each / size for each in spikes], rel=1e-12)
        margin = build["run"]["margins"]["layers"][node["name"]]
        assert margin["total"] == size * steps * samples
        assert sum(margin["counts"]) + margin["below"] + margin["above"] == margin["total"]


def test_the_other_commands_write_it_too(tiny: Tiny, tmp_path: Path) -> None:
    given = [str(tiny.build), "--input", str(tiny.images), "--samples", "2", "--backend", "sim"]
    by_run, by_verify, result = tmp_path / "run.html", tmp_path / "verify.html", tmp_path / "r.json"
    assert run_main([*given, "--report", str(by_run)]) == 0
    assert verify_main([*given, "--report", str(by_verify), "--json", str(result)]) == 0
    ran, verified = (read_page(path)[0]["builds"][0] for path in (by_run, by_verify))
    assert ran["run"] == verified["run"]
    assert ran["verification"] is None
    assert verified["verification"] == read_json(result)
    assert main([str(tiny.build), "--verify", str(result), "-o", str(tmp_path / "again.html")]) == 0
    assert read_page(tmp_path / "again.html")[0]["builds"][0]["verification"] == read_json(result)


def test_what_to_know_is_printed_and_on_the_page(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command that runs for a page tells of replaced kernels and of clipped values."""
    replaced, clipped = "conv: this machine's int8 convolution sums wrongly", "divide by 255?"
    monkeypatch.setattr(infer, "notes_of", lambda _: (replaced,))
    np.save(tmp_path / "x.npy", 255 * np.load(tiny.images))
    page, given = tmp_path / "r.html", ["--input", str(tmp_path / "x.npy"), "--samples", "2"]
    build = tmp_path / "build"
    compiling = [str(tiny.model), "--target", "sim", "-o", str(build), *tiny.arguments]
    for command, arguments in (
        (main, [str(tiny.build), "-o", str(page)]),
        (run_main, [str(tiny.build), "--backend", "sim", "--report", str(page)]),
        (compile_main, [*compiling, "--report", str(page)]),
    ):
        page.unlink(missing_ok=True)
        assert command([*arguments, *given]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines.count(f"note: {replaced}") == 1
        assert sum(line.startswith("warning: ") and clipped in line for line in lines) == 1
        (shown,) = read_page(page)[0]["builds"]
        assert shown["run"]["notes"] == [replaced]
        assert any(clipped in line for line in shown["run"]["warnings"])


def test_differences_are_those_that_verifying_counts(tiny: Tiny, tmp_path: Path) -> None:
    page, again, result = tmp_path / "v.html", tmp_path / "r.html", tmp_path / "v.json"
    given = [str(tiny.build), "--input", str(tiny.images), "--samples", "3", "--model", str(tiny.model)]
    assert verify_main([*given, "--backend", "sim", "--json", str(result), "--report", str(page)]) == 0
    assert main([*given, "-o", str(again)]) == 0
    run = read_page(page)[0]["builds"][0]["run"]
    assert run == read_page(again)[0]["builds"][0]["run"]
    assert run["differences"]["samples"] == 3
    for layer in read_json(result)["layers"]:
        found = run["differences"]["layers"][layer["name"]]
        assert {key: found[key] for key in ("compared", "mismatched")} == layer["checks"]["quantized_vs_original"]
        share = found["mismatched"] / found["compared"]
        assert sum(found["steps"]) / len(found["steps"]) == pytest.approx(share)
        places = np.frombuffer(base64.b64decode(found["map"]), dtype=np.uint8)
        assert places.size == found["rows"] * found["columns"]
        assert places.mean() / 255 * found["highest"] == pytest.approx(share, abs=found["highest"] / 255)
    assert any(each["mismatched"] for each in run["differences"]["layers"].values())


def test_verifications_say_the_class_of_each_sample(tiny: Tiny, tmp_path: Path) -> None:
    """Pages show the samples whose class changed, with their images; files of earlier versions are still read."""
    result, page = tmp_path / "v.json", tmp_path / "r.html"
    given = [str(tiny.build), "--input", str(tiny.images)]
    labels, model = ["--labels", str(tiny.labels)], ["--model", str(tiny.model)]
    assert verify_main([*given, *labels, *model, "--backend", "reference", "--json", str(result)]) == 0
    found = read_json(result)
    assert found["format_version"] == 2
    assert found["labels"] == np.load(tiny.labels).tolist()
    for name, key in (("original", "predictions_original"), ("quantized", "predictions")):
        assert found["accuracy"][name] == np.mean(np.equal(found[key], found["labels"]))
        low, high = found["accuracy_intervals"][name]
        assert low <= found["accuracy"][name] <= high
    low, high = found["accuracy_drop_interval"]
    assert low <= found["accuracy_drop"] <= high
    # here one sample changes its class, which no real verification of these samples would find
    found["predictions_original"][3] = (found["predictions"][3] + 1) % 2
    result.write_text(json.dumps(found))
    assert main([*given, "--samples", "4", "--verify", str(result), "-o", str(page)]) == 0
    (build,) = read_page(page)[0]["builds"]
    (changed,) = build["changed"]["samples"]
    assert changed["sample"] == 3
    pixels = np.frombuffer(base64.b64decode(changed["image"]["rgb"]), dtype=np.uint8).reshape(16, 16, 3)
    image = np.load(tiny.images)[3]
    expected = np.rint(255 * (image - image.min()) / (image.max() - image.min()))
    np.testing.assert_array_equal(pixels[..., 0], expected[0])
    assert build["verification"] == found
    for name in ("labels", "predictions_original", "input_crc32", "accuracy_intervals", "accuracy_drop_interval"):
        del found[name]
    result.write_text(json.dumps(found | {"format_version": 1}))
    assert main([str(tiny.build), "--verify", str(result), "-o", str(page)]) == 0
    (build,) = read_page(page)[0]["builds"]
    assert (build["verification"]["format_version"], build["changed"]) == (1, None)


def test_another_chip_gives_other_costs(tiny: Tiny, tmp_path: Path) -> None:
    given = [str(tiny.build), "--input", str(tiny.images), "--samples", "1"]
    by_run, by_report = tmp_path / "run.html", tmp_path / "report.html"
    assert run_main([*given, "--backend", "sim", "--chip", "loihi1", "--report", str(by_run)]) == 0
    assert main([*given, "--chip", "loihi1", "-o", str(by_report)]) == 0
    costs = [read_page(path)[0]["builds"][0]["cost"] for path in (by_run, by_report)]
    assert costs[0] == costs[1]
    assert costs[0]["chip"]["name"] == "loihi1"


def test_several_builds_are_compared(tiny: Tiny, tmp_path: Path) -> None:
    page, other = tmp_path / "compared.html", tiny.copied_build(tmp_path)
    given = ["--input", str(tiny.images), "--samples", "2"]
    assert main([str(tiny.build), str(other), *given, "-o", str(page)]) == 0
    data, _, texts = read_page(page)
    assert [build["run"]["samples"] for build in data["builds"]] == [2, 2]
    assert texts["title"] == f"{tiny.build.name} · {other.name}"


def test_hostile_names_stay_text(tiny: Tiny, tmp_path: Path) -> None:
    page, build = tmp_path / "report.html", tiny.copied_build(tmp_path)
    report = read_json(build / "report.json")
    assert main([str(tiny.build), "-o", str(tmp_path / "plain.html")]) == 0
    report["nodes"][3]["name"] = report["source"]["file"] = HOSTILE
    (build / "report.json").write_text(json.dumps(report))
    evil = build.rename(tmp_path / "<b>&")
    assert main([str(evil), "-o", str(page)]) == 0
    data, tags, texts = read_page(page)
    assert data["builds"][0]["report"]["nodes"][3]["name"] == HOSTILE
    assert [tag for tag, _ in tags] == [tag for tag, _ in read_page(tmp_path / "plain.html")[1]]
    assert texts["title"] == "<b>&"


def test_a_build_whose_report_lacks_something(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = tiny.copied_build(tmp_path)
    report = read_json(build / "report.json")
    del report["nodes"][3]["signal"]["scale_exp"]
    (build / "report.json").write_text(json.dumps(report))
    assert main([str(build), "-o", str(tmp_path / "report.html")]) == 1
    error = capsys.readouterr().err
    assert f"{build}/report.json: damaged ('nodes[3].signal.scale_exp' is missing); compile the model again" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_a_build_whose_placement_is_damaged(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = tiny.copied_build(tmp_path)
    placement = read_json(build / "placement.json")
    placement["layers"][1] = None
    (build / "placement.json").write_text(json.dumps(placement))
    assert main([str(build), "-o", str(tmp_path / "report.html")]) == 1
    error = capsys.readouterr().err
    assert f"{build}/placement.json: damaged ('layers[1]' is null, not an object); compile the model again" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def cost_of_strangers() -> dict[str, Any]:
    """A complete cost file's content, of another network."""
    constant = {"value": 0.9, "source": "a paper"}
    return {
        "format": "resformer-cost",
        "format_version": 3,
        "version": "0",
        "samples": 1,
        "timesteps": 4,
        "paper": {
            "sops": 1.0,
            "stem_macs": 1,
            "energy_mj": 1.0,
            "energy_with_stem_mj": 1.0,
            "constants": {"sop_pj": constant, "mac_pj": constant},
        },
        "sops": {},
        "sops_not_zero": {},
        "spikes": {"stranger": []},
        "layout": None,
        "chip": load_chip("loihi2").to_json(),
        "fits": True,
        "cores": 1,
        "chips": 1,
        **dict.fromkeys(("step_ns", "latency_us", "interval_us", "power_mw"), 1.0),
        "energy_mj": {"dynamic": 1.0, "static": 1.0, "total": 2.0},
        "intervals": {
            **{key: [1.0, 1.0] for key in ("step_ns", "latency_us", "interval_us", "power_mw")},
            "energy_mj": {key: [1.0, 1.0] for key in ("dynamic", "static", "total")},
        },
        "steps": [],
        "layers": [],
    }


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--samples", "2"], 2, "--samples: goes with --input"),
        (["--model", "m.pt"], 2, "--model: goes with --input"),
        (["--chip", "loihi1"], 2, "--chip: goes with --input"),
        (["--input", "x.npy", "--cost", "c.json", "--chip", "loihi1"], 2, "--chip: not with --cost, whose files name"),
        (["--verify", "a.json", "--verify", "b.json"], 2, "--verify: 2 files for 1 builds"),
        (["--verify", "{bad}"], 1, "no JSON"),
        (["--verify", "{nan}"], 1, "no JSON (NaN is no number in JSON)"),
        (["--verify", "{deep}"], 1, "no JSON (nested too deeply)"),
        (["--cost", "{wrong}"], 1, "not what resformer-run --cost --json writes"),
        (["--cost", "{old}"], 1, "format version 0, this resformer reads 3"),
        (["--cost", "{other}"], 1, "this build has no layer stranger"),
        (["--verify", "{newer}"], 1, "format version 3, this resformer reads 1 and 2; write it again"),
        (["--verify", "{short}"], 1, "short.json: damaged ('labels' has 2 items, not 1, one a sample)"),
        (["--verify", "{unsure}"], 1, "unsure.json: damaged ('accuracy_intervals' has other networks than 'accuracy')"),
        (["--verify", "{beyond}"], 1, "its predictions have class 4611686018427387904, this build tells"),
        (["--cost", "{bare}"], 1, "bare.json: damaged ('version' is missing); write it again with resformer-run"),
        (["--verify", "{hollow}"], 1, "hollow.json: damaged ('version' is missing); write it again with resformer-v"),
        (["--input", "{absent}"], 1, "no such file"),
    ],
)
def test_bad_input(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    texts = {
        "bad": "{",
        "nan": '{"format": "resformer-verification", "format_version": 1, "layers": [], "x": NaN}',
        "deep": "[" * 100_000,
        "wrong": '{"format": "resformer-verification"}',
        "old": '{"format": "resformer-cost", "format_version": 0}',
        "other": json.dumps(cost_of_strangers()),
        "bare": '{"format": "resformer-cost", "format_version": 3}',
        "hollow": '{"format": "resformer-verification", "format_version": 1, "layers": [{}]}',
    }
    told = verification() | {"format_version": 2, "layers": [], "predictions_original": None, "labels": None}
    told |= {"input_crc32": [0], "accuracy_intervals": {}, "accuracy_drop_interval": None}
    texts["newer"] = json.dumps(told | {"format_version": 3})
    texts["short"] = json.dumps(told | {"labels": [0, 0]})
    texts["unsure"] = json.dumps(told | {"accuracy": {"quantized": 0.5}})
    texts["beyond"] = json.dumps(told | {"predictions": [2**62]})
    for name, text in texts.items():
        (tmp_path / f"{name}.json").write_text(text)
    paths = {name: tmp_path / f"{name}.json" for name in (*texts, "absent")}
    page = tmp_path / "report.html"
    assert main([str(tiny.build), *(each.format(**paths) for each in arguments), "-o", str(page)]) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not page.exists()


@pytest.mark.parametrize(
    ("trace", "status", "message"),
    [
        ("layers.0.0.activation_in", 2, "'layers.0.0.activation_in' is not NAME:INDEX, such as "),
        (":3", 2, "':3' is not NAME:INDEX"),
        ("a:1,-2", 2, "'a:1,-2' is not NAME:INDEX"),
        ("absent:3", 1, "absent: no population that fires has this name"),
        ("layers.0.0.activation_in:9,0,99", 1, "layers.0.0.activation_in: its shape is ("),
    ],
)
def test_traces_are_of_neurons_that_are_there(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], trace: str, status: int, message: str
) -> None:
    page = tmp_path / "r.html"
    given = ["--input", str(tiny.images), "--samples", "1", "--trace", trace]
    assert main([str(tiny.build), *given, "-o", str(page)]) == status
    assert message in capsys.readouterr().err
    assert not page.exists()
    assert main([str(tiny.build), "--trace", "a:1", "-o", str(page)]) == 2
    assert "--trace: goes with --input" in capsys.readouterr().err
