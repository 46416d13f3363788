"""``resformer-compile --sweep`` and ``--report`` as a user runs them."""

from __future__ import annotations

import csv
from pathlib import Path

import nir
import numpy as np
import pytest

from resformer.runtime.cli.compile import main
from resformer.runtime.cli.compile_options import main as compile_main
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.sweep import Point, told
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.run import infer
from support.builds import Tiny, read_json
from support.pages import read_page


def sweep(tiny: Tiny, *arguments: str) -> int:
    return main([str(tiny.model), *tiny.arguments, *arguments])


def test_each_point_is_what_compiling_and_running_it_alone_says(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, sheet = tmp_path / "t.json", tmp_path / "t.csv"
    given = ["--input", str(tiny.images), "--labels", str(tiny.labels), "--samples", "3"]
    chosen = ["--sweep", "weight-bits=4,8", "timesteps=2,3", "--table", str(table), "--table", str(sheet)]
    assert sweep(tiny, *given, *chosen) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 2 + 4 + 2
    assert [line.split()[1] for line in out.splitlines() if line.startswith("wrote ")] == [str(table), str(sheet)]
    points = read_json(table)["points"]
    assert [tuple(point["choices"].values()) for point in points] == [("4", "2"), ("4", "3"), ("8", "2"), ("8", "3")]
    point = points[1]

    build, cost = tmp_path / "build", tmp_path / "c.json"
    options = ["--weight-bits", "4", "--timesteps", "3", "--target", "sim", "-o", str(build), "--quiet"]
    assert compile_main([str(tiny.model), *tiny.arguments, *options]) == 0
    assert run_main([str(build), *given, "--backend", "sim", "--cost", "--json", str(cost)]) == 0
    accuracy = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if "accuracy" in line]
    assert [f"{point['accuracy']:.2%}"] == accuracy
    report, found = read_json(build / "report.json"), read_json(cost)
    assert (point["cores"], point["chips"]) == (report["placement"]["cores"], report["placement"]["chips"])
    assert point["fits"] is True
    assert point["sqnr_db"] == pytest.approx(min(node.get("sqnr_db") or 1e9 for node in report["nodes"]), abs=0.006)
    assert point["sops"] == found["paper"]["sops"] > 0
    assert point["paper_mj"] == found["paper"]["energy_mj"]
    assert point["energy_mj"] == found["energy_mj"]["total"]
    assert (point["latency_us"], point["interval_us"]) == (found["latency_us"], found["interval_us"])

    for name in ("latency_us", "interval_us", "power_mw"):
        assert [point[f"{name}_low"], point[f"{name}_high"]] == found["intervals"][name]
        assert point[f"{name}_low"] < point[name] < point[f"{name}_high"]
    assert [point["energy_mj_low"], point["energy_mj_high"]] == found["intervals"]["energy_mj"]["total"]

    with sheet.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["weight-bits"] for line in lines] == ["4", "4", "8", "8"]
    assert [float(line["sops"]) for line in lines] == [point["sops"] for point in points]


def test_what_fails_is_a_row_with_the_reason(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, sheet = tmp_path / "t.json", tmp_path / "t.csv"
    assert main([str(tiny.model), "--sweep", "input-size=9,16", "--table", str(table), "--table", str(sheet)]) == 1
    output = capsys.readouterr()
    assert output.err == ""
    assert "input-size 9: image size 9" in output.out
    failed, done = read_json(table)["points"]
    assert failed["error"].startswith("image size 9")
    assert failed["cores"] is None
    assert done["error"] is None
    assert done["cores"] > 0
    assert done["sops"] is None
    with sheet.open(newline="") as file:
        assert [bool(line["error"]) for line in csv.DictReader(file)] == [True, False]


def test_what_to_know_is_printed_once(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced, table = "conv: this machine's int8 convolution sums wrongly", tmp_path / "t.json"
    monkeypatch.setattr(infer, "notes_of", lambda _: (replaced,))
    np.save(tmp_path / "x.npy", 255 * np.load(tiny.images))
    given = ["--input", str(tmp_path / "x.npy"), "--samples", "2", "--table", str(table)]
    assert sweep(tiny, *given, "--sweep", "weight-bits=4,8", "timesteps=2,3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines.count(f"note: {replaced}") == 1
    (clipped,) = [line for line in lines if "divide by 255?" in line]
    assert clipped.startswith("warning: input: ")
    for point in read_json(table)["points"]:
        assert point["notes"] == [replaced]
        assert any("divide by 255?" in line for line in point["warnings"])


def test_what_is_not_said_of_all_is_said_of_whom() -> None:
    points = [Point({"bits": str(bits)}, notes=("all", "some")[: 1 + bits // 8]) for bits in (4, 8, 9)]
    assert told([*points, Point({"bits": "1"}, error="no")], "notes") == ["all", "bits 8; bits 9: some"]


def test_a_chip_that_is_too_small_is_a_row_too(tiny: Tiny, tmp_path: Path) -> None:
    assert sweep(tiny, "--sweep", "chip=loihi1,loihi2,none", "--table", str(tmp_path / "t.json")) == 0
    assert [point["fits"] for point in read_json(tmp_path / "t.json")["points"]] == [False, True, None]


def test_flags_can_vary(tiny: Tiny, tmp_path: Path) -> None:
    assert sweep(tiny, "--sweep", "per-layer-exponents=no,yes", "--table", str(tmp_path / "t.json")) == 0
    each, whole = (point["sqnr_db"] for point in read_json(tmp_path / "t.json")["points"])
    assert whole < each


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--sweep", "colour=1,2"], 2, "--sweep: there is no option 'colour' to vary; there are "),
        (["--sweep", "output=a,b"], 2, "there is no option 'output' to vary"),
        (["--sweep", "weight-bits=8,99"], 2, "'99' is not a width that one or two Loihi synapses store"),
        (["--sweep", "timesteps=0"], 2, "'0' is not a whole number of at least 1"),
        (["--sweep", "timesteps"], 2, "argument --sweep: 'timesteps' is not OPTION=V,V"),
        (["--sweep", "timesteps="], 2, "timesteps=: write different values, timesteps=V,V"),
        (["--sweep", "timesteps=2,,3"], 2, "write different values"),
        (["--sweep", "timesteps=2,2"], 2, "write different values"),
        (["--sweep", "timesteps=2", "timesteps=3"], 2, "timesteps is there twice"),
        (["--sweep", "per-layer-exponents=maybe"], 2, "per-layer-exponents=maybe: is no or yes"),
        (["--sweep", "chip=loihi3"], 1, "loihi3: no such chip"),
        (["--sweep", "timesteps=2", "-o", "b"], 2, "--output: not with --sweep"),
        (["--sweep", "timesteps=2", "--report", "."], 1, ".: Is a directory"),
        (
            ["--sweep", "timesteps=2", "--report", "t.json", "--table", "t.json"],
            2,
            "t.json is what --table t.json writes",
        ),
        (["--sweep", "timesteps=2", "--table", "t.txt"], 2, "t.txt ends in neither .json nor .csv"),
        (["--sweep", "timesteps=2", "--labels", "l.npy"], 2, "--labels: goes with --input"),
        (["--sweep", "timesteps=2,3", "--input", "absent.npy"], 1, "absent.npy: no such file"),
        (["--sweep", "synapse-budget=0.6,0.7"], 2, "--synapse-budget: goes with --precision auto"),
        (["--sweep", "seed=1,2"], 2, "--seed: goes with --optimize time or --optimize energy"),
        (["--sweep", "timesteps=2", "--optimize-cores", "150"], 2, "--optimize-cores: goes with --optimize time"),
        (["--sweep", "timesteps=2", "--synapse-budget", "0.7"], 2, "--synapse-budget: goes with --precision auto"),
        (["--report", "r.html", "--target", "sim", "-o", "b", "--input", "absent.npy"], 1, "absent.npy: no such file"),
        (["--table", "t.csv", "--target", "sim", "-o", "b"], 2, "--table: goes with --sweep"),
        (["--input", "x.npy", "--target", "sim", "-o", "b"], 2, "--input: goes with --sweep or --report"),
        (["--report", "b", "--target", "sim", "-o", "b"], 2, "--report: b is the build's folder; name a file"),
        (
            ["--report", "r.html", "--target", "nir", "-o", "b", "--input", "x.npy"],
            2,
            "--input: --target nir writes no program to run; add --target sim, or leave out --input",
        ),
        (["--check", "--report", "r.html"], 2, "--report: shows a build, and --check writes none"),
    ],
)
def test_bad_input(
    tiny: Tiny,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sweep(tiny, *arguments) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_model_behind_the_axes_is_told_to_come_first(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--sweep", "timesteps=2", str(tiny.model)]) == 2
    error = capsys.readouterr().err
    assert f"argument --sweep: '{tiny.model}' is not OPTION=V,V; if it is MODEL, name it before --sweep" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("folder", ["build", "pages/of/builds"])
def test_compiling_writes_the_page_too(tiny: Tiny, tmp_path: Path, folder: str) -> None:
    page, build = tmp_path / folder / "r.html", tmp_path / "build"
    given = ["--input", str(tiny.images), "--samples", "2"]
    assert sweep(tiny, "--target", "sim", "-o", str(build), "--report", str(page), *given) == 0
    (shown,) = read_page(page)[0]["builds"]
    assert shown["report"] == read_json(build / "report.json")
    assert shown["run"]["samples"] == 2
    assert sweep(tiny, "--target", "sim", "-o", str(build), "--report", str(page)) == 0
    assert read_page(page)[0]["builds"][0]["run"] is None


@pytest.fixture(scope="module")
def swept(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page of a sweep, s.html, and its table, s.json; one combination fails."""
    folder = tmp_path_factory.mktemp("swept")
    given = ["--input", str(tiny.images), "--labels", str(tiny.labels), "--samples", "4"]
    wanted = ["--report", str(folder / "s.html"), "--table", str(folder / "s.json")]
    assert sweep(tiny, *given, "--sweep", "weight-bits=4,8", "input-size=16,9", *wanted) == 1
    return folder


def test_a_page_carries_the_table_and_links_each_way(tiny: Tiny, swept: Path) -> None:
    data, tags, texts = read_page(swept / "s.html")
    assert data["sweep"] == read_json(swept / "s.json")
    assert texts["title"] == "tiny.pt, 4 ways"
    points = data["sweep"]["points"]
    assert [link is None for link in data["pages"]] == [point["error"] is not None for point in points]
    for point, link in zip(points, data["pages"], strict=True):
        if link is not None:
            (shown,) = read_page(swept / link)[0]["builds"]
            assert shown["name"] == ", ".join(f"{name} {value}" for name, value in point["choices"].items())
            assert shown["report"]["options"]["weight_bits"] == int(point["choices"]["weight-bits"])
            assert shown["cost"]["energy_mj"]["total"] == point["energy_mj"]
            assert shown["run"]["accuracy"] == point["accuracy"]
    # nothing is loaded from elsewhere
    assert [value for _, attributes in tags for key, value in attributes.items() if key in ("src", "href")] == [
        "data:,"
    ]


def test_agreement_is_with_the_float_network(tiny: Tiny, swept: Path, tmp_path: Path) -> None:
    result = tmp_path / "v.json"
    build, given = tmp_path / "build", ["--input", str(tiny.images), "--labels", str(tiny.labels), "--samples", "4"]
    options = ["--weight-bits", "4", "--target", "sim", "-o", str(build), "--quiet"]
    assert compile_main([str(tiny.model), *tiny.arguments, *options]) == 0
    assert verify_main([str(build), *given, "--model", str(tiny.model), "--backend", "sim", "--json", str(result)]) == 0
    verified, table = read_json(result), read_json(swept / "s.json")
    point = next(each for each in table["points"] if each["choices"] == {"weight-bits": "4", "input-size": "16"})
    assert point["agreement"] == verified["checks"]["quantized_vs_original"]["top1_agreement"]
    assert point["accuracy"] == verified["accuracy"]["quantized"]
    assert point["accuracy_original"] == verified["accuracy"]["original"]
    assert point["samples"] == 4
    for name in ("accuracy", "agreement"):
        assert 0 <= point[f"{name}_low"] <= point[name] <= point[f"{name}_high"] <= 1
        assert point[f"{name}_low"] < point[f"{name}_high"]
    for gain, of_costs in table["fronts"].items():
        for cost, indices in of_costs.items():
            values = [(each[gain], each[cost]) for each in table["points"]]
            assert indices
            for index in indices:
                better = [g >= values[index][0] and c <= values[index][1] for g, c in values if g is not None]
                assert sum(better) == sum(each == values[index] for each in values)


def test_where_the_float_network_cannot_run_agreement_is_absent_and_said(tiny: Tiny, tmp_path: Path) -> None:
    table = tmp_path / "t.json"
    given = ["--input", str(tiny.images), "--samples", "2", "--table", str(table)]
    # without --input-size, the network would take samples of another size than these have
    assert main([str(tiny.model), *given, "--sweep", "input-size=16"]) == 0
    (point,) = read_json(table)["points"]
    assert point["sops"] > 0
    assert point["agreement"] is None
    assert any(note.startswith("no agreement: ") for note in point["notes"])


@pytest.mark.parametrize("more", [["--samples", "2"], []])
def test_a_recording_that_each_t_cuts_otherwise_has_no_agreement(tmp_path: Path, more: list[str]) -> None:
    rng, table = np.random.default_rng(0), tmp_path / "t.json"

    def lif(*shape: int) -> nir.LIF:
        return nir.LIF(*(np.full(shape, each) for each in (2e-3, 1.0, 0.0, 0.3)), v_reset=np.zeros(shape))

    layers = [
        nir.Conv2d((4, 4), rng.random((2, 2, 3, 3)), 1, 1, 1, 1, np.zeros(2)),
        lif(2, 4, 4),
        nir.Flatten({"input": np.array([2, 4, 4])}, 0, -1),
        nir.Affine(rng.random((3, 32)) - 0.4, np.zeros(3)),
        lif(3),
    ]
    nir.write(tmp_path / "net.nir", nir.NIRGraph.from_list(layers))
    events = np.zeros(400, dtype=[("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "<i1")])
    events["t"] = np.sort(rng.integers(0, 80_000, 400))
    for name, end in (("x", 4), ("y", 4), ("p", 2)):
        events[name] = rng.integers(0, end, 400)
    np.save(tmp_path / "x.npy", events)
    given = ["--dt", "1e-3", "--input-kind", "frames", "--input", str(tmp_path / "x.npy"), "--sensor-size", "4x4"]
    swept = ["--timesteps", "4", "--sweep", "timesteps=4,2", "--table", str(table)]
    assert main([str(tmp_path / "net.nir"), *given, "--bin-ms", "10", *more, *swept]) == 0
    same, other = read_json(table)["points"]
    assert same["agreement"] is not None
    assert not same["notes"]
    assert other["samples"] == (2 if more else 4)
    assert (other["agreement"], other["accuracy_original"]) == (None, None)
    (note,) = other["notes"]
    assert note.startswith(
        "no agreement: the recording is cut every 2 frames here, and every 4 for the network without"
    )
    # as one sample, a whole recording is the same for each T
    assert main([str(tmp_path / "net.nir"), *given, *swept]) == 0
    assert all(point["agreement"] is not None for point in read_json(table)["points"])


def test_a_repeatable_option_keeps_its_values_without_the_sweep(tiny: Tiny, tmp_path: Path) -> None:
    found = []
    for given in (
        ["--layer-bits", "layers.0.1.up.1=2", "--sweep", "weight-bits=8"],
        ["--layer-bits", "layers.0.1.up.1=2", "--sweep", "layer-bits=prologue.0=7,prologue.0=8"],
        ["--layer-bits", "layers.0.1.up.1=2", "--sweep", "layer-bits=layers.0.1.up.1=8"],
    ):
        assert sweep(tiny, *given, "--table", str(tmp_path / "t.json")) == 0
        found.append([point["sqnr_db"] for point in read_json(tmp_path / "t.json")["points"]])
    (worst,), others, (overridden,) = found
    assert others == [worst, worst]
    assert overridden > worst


def test_the_papers_energy_needs_no_chip(tiny: Tiny, tmp_path: Path) -> None:
    given = ["--input", str(tiny.images), "--samples", "1", "--table", str(tmp_path / "t.json")]
    assert sweep(tiny, *given, "--sweep", "chip=none,loihi2") == 0
    none, loihi2 = read_json(tmp_path / "t.json")["points"]
    assert none["paper_mj"] == loihi2["paper_mj"] > 0
    assert none["energy_mj"] is None
