"""Reading ``placement.json`` of a build folder."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, cast

import pytest

from resformer.compiler.chips.chip import load_chip
from resformer.compiler.files.build import Build
from resformer.compiler.files.placement import FORMAT_VERSION
from resformer.compiler.files.report import Report
from resformer.errors import FileFormatError

LAYER = {
    "name": "input",
    "nodes": ["input"],
    "synapses": [],
    "kind": "input",
    "shape": [1, 8, 8],
    "neurons": 64,
    "tile": [1, 8, 8],
    "cores": 1,
    "bound": "neurons",
    "usage": {"neurons": 64},
    "utilization": {"neurons": 0.01},
    "deliveries": 0,
    "first_core": 0,
    "placed": [{"chip": 0, "core": 0, "neurons": [[0, 1], [0, 8], [0, 8]]}],
}
PLACEMENT: dict[str, Any] = {
    "format": "resformer-placement",
    "format_version": FORMAT_VERSION,
    "chip": load_chip("loihi2").to_json(),
    "fits": True,
    "violations": [],
    "cores": 1,
    "chips": 1,
    "neurons": 64,
    "layout": None,
    "layers": [LAYER],
}


def build(folder: Path, content: str) -> Build:
    (folder / "placement.json").write_text(content)
    return Build(folder, cast(Report, {}))


def test_the_chip_is_the_one_that_was_placed_on(tmp_path: Path) -> None:
    assert Build(tmp_path, cast(Report, {})).chip() is None
    assert build(tmp_path, json.dumps(PLACEMENT)).chip() == load_chip("loihi2")
    assert build(tmp_path, json.dumps(PLACEMENT)).placement() == PLACEMENT


def changed(where: tuple[Any, ...], value: Any) -> str:
    content = copy.deepcopy(PLACEMENT)
    owner: Any = content
    for key in where[:-1]:
        owner = owner[key]
    owner[where[-1]] = value
    return json.dumps(content)


CONSTANTS = PLACEMENT["chip"]["constants"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("{}", "'format' is missing"),
        ("[]", "is a list, not an object"),
        (changed(("layers", 0), None), "'layers[0]' is null, not an object"),
        (changed(("layers", 0, "placed", 0, "neurons"), [[0, 1, 2]]), "neurons[0]' has 3 items, not 2"),
        (changed(("layers", 0, "neurons"), float("nan")), "NaN is no number"),
        (changed(("chip", "constants"), []), "'chip.constants' is a list"),
        (changed(("chip", "constants"), {}), "'axon_in_per_core' is missing"),
        (changed(("chip", "constants", "mood"), CONSTANTS["cores_per_chip"]), "'mood' is unknown"),
        (changed(("chip", "constants", "cores_per_chip", "value"), 0), "cores_per_chip is 0; the least is 1"),
        (changed(("chip", "constants", "cores_per_chip", "value"), 1.5), "cores_per_chip is 1.5; write a whole number"),
        (changed(("chip", "constants", "cores_per_chip", "status"), "sure"), "status 'sure' is none of"),
    ],
)
def test_a_damaged_placement_is_one_line(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(FileFormatError) as error:
        build(tmp_path, content).chip()
    assert f"{tmp_path / 'placement.json'}: damaged (" in str(error.value)
    assert says in str(error.value)
    assert str(error.value).endswith("; compile the model again")
    assert "\n" not in str(error.value)
