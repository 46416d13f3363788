"""``--optimize``: the layout is chosen when compiling, and all commands that read the build report it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

import resformer
from resformer.runtime.cli.compile import main
from resformer.runtime.cli.run import main as run_main
from support.builds import Tiny, read_json
from support.pages import read_page


@pytest.fixture(scope="module")
def build(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("optimized") / "b"
    wanted = ["--optimize", "time", "--optimize-cores", "150", "--seed", "3", "--calibration", str(tiny.images)]
    assert main([str(tiny.model), "--target", "sim", "-o", str(folder), "--quiet", *tiny.arguments, *wanted]) == 0
    return folder


def run_cost(tiny: Tiny, build: Path, result: Path, *more: str) -> Any:
    given = ["--input", str(tiny.images), "--samples", "2", "--backend", "sim", "--cost", "--json", str(result)]
    assert run_main([str(build), *given, *more]) == 0
    return read_json(result)


def test_the_build_says_how_it_was_laid_out(tiny: Tiny, build: Path) -> None:
    placement, default = read_json(build / "placement.json"), read_json(tiny.build / "placement.json")
    layout = placement["layout"]
    assert (layout["goal"], layout["seed"]) == ("time", 3)
    assert layout["activity"] == "measured on 4 calibration samples"
    assert layout["cores_allowed"] == default["cores"] * 150 // 100
    assert layout["default"]["cores"] == default["cores"] < placement["cores"] <= layout["cores_allowed"]
    assert layout["least"] <= layout["chosen"]["step_ns"] < layout["default"]["step_ns"]
    assert default["layout"] is None


def test_a_run_tells_both_layouts_with_its_own_activity(
    tiny: Tiny, build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, placement = tmp_path / "r.html", read_json(build / "placement.json")
    content = run_cost(tiny, build, tmp_path / "c.json", "--report", str(page))
    default = run_cost(tiny, tiny.build, tmp_path / "d.json")
    layout = content["layout"]
    assert layout["activity"] == "measured on 2 samples"
    assert content["cores"] == placement["cores"] == layout["chosen"]["cores"]
    assert content["step_ns"] == layout["chosen"]["step_ns"] < default["step_ns"]
    # the default build is quantized for other ranges, so it fires differently
    assert layout["default"]["cores"] == default["cores"]
    assert content["layers"][0]["cores"] == placement["layers"][0]["cores"]
    out = capsys.readouterr().out
    assert "Layouts, activity measured on 2 samples" in out
    assert "no layout below" in out
    (shown,) = read_page(page)[0]["builds"]
    assert shown["cost"]["layout"] == layout
    cores = [each for layer in placement["layers"] for each in layer["placed"]]
    per_chip = placement["chip"]["constants"]["cores_per_chip"]["value"]
    assert [site for layer in shown["placement"]["layers"] for site in layer["sites"]] == [
        each["chip"] * per_chip + each["core"] for each in cores
    ]


def test_on_another_chip_it_takes_the_fewest_cores(tiny: Tiny, build: Path, tmp_path: Path) -> None:
    content = run_cost(tiny, build, tmp_path / "c.json", "--chip", "loihi2-152")
    assert content["layout"] is None
    assert content["cores"] == read_json(tiny.build / "placement.json")["cores"]


def test_python_reads_the_layout_back(tiny: Tiny, build: Path) -> None:
    loaded = resformer.load(build)
    assert loaded.place().to_json() == read_json(build / "placement.json")
    assert loaded.cost(tiny.images, samples=2).layout is not None
    assert loaded.place("loihi2").layout is None


def test_without_data_an_activity_is_assumed_and_the_same_seed_gives_the_same_layout(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = []
    for name in ("a.json", "b.json"):
        wanted = ["--check", "--optimize", "energy", "--json", str(tmp_path / name)]
        assert main([str(tiny.model), *wanted, *tiny.arguments]) == 0
        contents.append(read_json(tmp_path / name))
    assert contents[0] == contents[1]
    assert contents[0]["layout"]["activity"] == "assumed: 18% of the neurons fire at each step"
    assert "Layouts, activity assumed: 18% of the neurons fire" in capsys.readouterr().out


def test_goals_can_be_swept(tiny: Tiny, tmp_path: Path) -> None:
    table = tmp_path / "t.json"
    wanted = ["--optimize-cores", "150", "--sweep", "optimize=cores,time", "--table", str(table)]
    assert main([str(tiny.model), *tiny.arguments, *wanted, "--input", str(tiny.images)]) == 0
    fewest, fast = read_json(table)["points"]
    assert fewest["cores"] < fast["cores"]
    assert fast["latency_us"] < fewest["latency_us"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check", "--seed", "1"], "--seed: goes with --optimize time or --optimize energy"),
        (["--check", "--optimize-cores", "120"], "--optimize-cores: goes with --optimize"),
        (["--check", "--optimize", "time", "--optimize-cores", "99"], "99 percent are too few"),
        (["--check", "--optimize", "time", "--seed", "-1"], "is not a whole number from 0"),
        (["--check", "--optimize", "time", "--seed", str(2**63)], "is not a whole number from 0"),
        (["--check", "--optimize", "time", "--seed", f"0{2**64}0"], "is not a whole number from 0"),
        (["--target", "nir", "-o", "b", "--optimize", "time"], "--optimize time: lays a program out on a chip"),
        (["--target", "sim", "-o", "b", "--chip", "none", "--optimize", "energy"], "--optimize energy: lays a program"),
    ],
)
def test_wrong_usage(tiny: Tiny, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main([str(tiny.model), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_neurons_that_send_counts_are_measured_too(tmp_path: Path) -> None:
    rng, folder = np.random.default_rng(0), tmp_path / "b"

    def neurons(count: int) -> nir.IF:
        return nir.IF(r=np.full(count, 1e3), v_threshold=np.ones(count), v_reset=np.zeros(count))

    layers = [each for size in ((8, 10), (4, 8)) for each in (nir.Linear(rng.random(size)), neurons(size[0]))]
    nir.write(tmp_path / "net.nir", nir.NIRGraph.from_list(layers))
    np.save(tmp_path / "x.npy", rng.random((4, 10)))
    given = ["--dt", "1e-3", "--timesteps", "4", "--spikes-per-step", "multi", "--calibration", str(tmp_path / "x.npy")]
    wanted = ["--optimize", "time", "--target", "sim", "-o", str(folder), "--quiet"]
    assert main([str(tmp_path / "net.nir"), *given, *wanted]) == 0
    layout = read_json(folder / "placement.json")["layout"]
    assert layout["activity"] == "measured on 4 calibration samples"
    run = ["--input", str(tmp_path / "x.npy"), "--backend", "sim", "--cost", "--json", str(tmp_path / "c.json")]
    assert run_main([str(folder), *run]) == 0
    content = read_json(tmp_path / "c.json")
    assert all(sum(steps) > 0 for steps in content["spikes"].values())
    assert content["layout"]["chosen"] == layout["chosen"]
