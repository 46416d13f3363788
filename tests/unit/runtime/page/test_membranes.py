"""The neurons whose traces a page shows, and that the traces are those of ``Compiled.membrane``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import resformer
from resformer.runtime.cli.report import main
from resformer.runtime.membrane import Steps
from resformer.runtime.page.membranes import interesting
from support.builds import Tiny, read_json
from support.pages import read_page


def steps_of(potential: list[list[int]], threshold: int = 100) -> Steps:
    """The steps of one sample, of neurons with the given potentials at each step."""
    v = np.array(potential, dtype=np.int64).T[:, None]
    return Steps(v, v, v, (v > threshold).astype(np.int64), np.full(v.shape[2], threshold))


def test_each_is_shown_for_a_reason() -> None:
    steps = steps_of([[0, 10], [150, 160], [99, 101], [98, 0], [-50, -60], [140, 20]])
    fired = steps.spikes.astype(bool).copy()
    fired[1, 0, 5] = True
    assert interesting(steps, fired) == {5: ["differs"], 1: ["busiest"], 2: ["nearest"], 3: ["silent"]}
    assert interesting(steps, None) == {1: ["busiest"], 2: ["nearest"], 3: ["silent"]}
    # what the user named comes first, and one neuron may have two reasons
    assert interesting(steps, fired, [4, 1]) == {
        4: ["chosen"],
        1: ["chosen", "busiest"],
        5: ["differs"],
        2: ["nearest"],
        3: ["silent"],
    }


def test_where_none_fires_or_all_do() -> None:
    assert interesting(steps_of([[0], [50]]), None) == {1: ["nearest"], 0: ["silent"]}
    assert interesting(steps_of([[150]]), None) == {0: ["busiest"]}


def test_traces_are_those_of_python(tiny: Tiny, tmp_path: Path) -> None:
    page, compiled = tmp_path / "r.html", resformer.load(tiny.build)
    name = compiled.program.lif_names[3]
    given = ["--input", str(tiny.images), "--samples", "3", "--trace", f"{name}:1,0,2", "--trace", f"{name}:7"]
    assert main([str(tiny.build), *given, "-o", str(page)]) == 0
    found = read_page(page)[0]["builds"][0]["run"]["membranes"]
    assert found["layers"].keys() == set(compiled.program.lif_names)
    assert found["samples"] == 3
    assert found["original"] is True
    first, second, *_ = found["layers"][name]
    assert (first["index"], first["why"][0], second["why"][0]) == ([1, 0, 2], "chosen", "chosen")
    images = np.load(tiny.images)[:3].astype(np.float64)
    for layer in (name, compiled.program.lif_names[-1]):
        for each in found["layers"][layer]:
            trace: Any = compiled.membrane(images, layer, each["index"])
            for side in ("integer", "real"):
                shown, expected = each[side], getattr(trace, side)
                assert shown["threshold"] == expected.threshold
                for key in ("current", "potential", "left", "spikes"):
                    assert shown[key] == getattr(expected, key).reshape(-1).tolist()
    differing = {
        layer: [each for each in neurons if each["integer"]["spikes"] != each["real"]["spikes"]]
        for layer, neurons in found["layers"].items()
    }
    assert any(differing.values())
    for layer, neurons in found["layers"].items():
        assert ("differs" in [why for each in neurons for why in each["why"]]) >= bool(differing[layer])
    nodes = {node["name"]: node["shape"] for node in read_json(tiny.build / "report.json")["nodes"]}
    assert all(len(each["index"]) == len(nodes[layer]) for layer, them in found["layers"].items() for each in them)


def test_a_build_without_its_float_graph_shows_the_program_alone(tiny: Tiny, tmp_path: Path) -> None:
    build, page = tiny.copied_build(tmp_path), tmp_path / "r.html"
    (build / "network.nir").unlink()
    assert main([str(build), "--input", str(tiny.images), "--samples", "1", "-o", str(page)]) == 0
    found = read_page(page)[0]["builds"][0]["run"]["membranes"]
    assert found["original"] is False
    assert all(each["real"] is None for neurons in found["layers"].values() for each in neurons)
