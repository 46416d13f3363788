"""The schema of ``report.json``: every damage is one line that names the place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resformer.compiler.files.build import check_replaceable, read_build
from resformer.compiler.files.report import FORMAT, TARGETS, check_report
from resformer.errors import FileFormatError

SIGNAL = {"kind": "current", "bits": 9, "scale_exp": 4, "low": -200, "high": 200}
REPORT: dict[str, Any] = {
    "format": FORMAT,
    "format_version": 1,
    "versions": {"resformer": "0.1.0", "onnx": None},
    "source": {"file": "model.pt", "sha256": "00"},
    "targets": list(TARGETS),
    "options": {
        "timesteps": 4,
        "input_size": None,
        "weight_bits": 8,
        "layer_bits": {"stem": 4},
        "per_channel": True,
        "clip_weights": True,
        "input_scale_exp": None,
        "input_range": None,
        "dt": None,
        "input_kind": "static",
        "reset": None,
        "synapse_budget": None,
        "calibration_samples": None,
        "weights_key": None,
        "neuron": None,
        "stem_stride": None,
        "stem_pool": None,
        "feature_rounding": None,
        "architecture": {},
    },
    "preprocessing": {"resize": False, "mean": [0.5], "std": None},
    "classes": None,
    "architecture": None,
    "fine_tuned": False,
    "timesteps": 4,
    "input": {
        "shape": [1, 8, 8],
        "kind": "static",
        "encoding": "rint",
        "uint8_divisor": 255,
        "scale_exp": 6,
        "low": -64,
        "high": 64,
        "real_range": [-1.0, 1.0],
    },
    "latency_steps": 3,
    "is_dyadic": True,
    "totals": {"parameters": 1, "neurons": 1, "graded_neurons": 0, "synapses": 9, "weight_memory_bits": 72},
    "placement": {
        "chip": "loihi2",
        "cores": 1,
        "chips": 1,
        "layers": [{"name": "a", "cores": 1, "tile": [1], "bound": "x"}],
    },
    "warnings": [],
    "notes": [],
    "assumptions": [],
    "may_saturate": [],
    "nodes": [
        {
            "name": "stem",
            "op": "Conv2d",
            "shape": [1, 8, 8],
            "inputs": ["input"],
            "offset": 1,
            "signal": SIGNAL,
            "weight_bits": 8,
            "weight_exp": [0, 1],
            "synapses": 9,
            "sqnr_db": None,
        },
        {
            "name": "lif",
            "op": "LIF",
            "shape": [1, 8, 8],
            "inputs": ["stem"],
            "offset": 2,
            "signal": SIGNAL,
            "vth": 100,
            "bias": [0, 1],
            "may_saturate": False,
        },
    ],
    "files": {},
}


def changed(where: tuple[Any, ...], value: Any) -> dict[str, Any]:
    report = copy.deepcopy(REPORT)
    owner: Any = report
    for key in where[:-1]:
        owner = owner[key]
    owner[where[-1]] = value
    return report


def test_a_report_is_one() -> None:
    assert check_report(REPORT) is REPORT


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        (("timesteps",), "4", "'timesteps' is '4', not a whole number"),
        (("timesteps",), 0, "'timesteps' is 0, outside 1 to"),
        (("timesteps",), True, "'timesteps' is true, not a whole number"),
        (("timesteps",), 2**64, "'timesteps' is an integer of 65 bits, outside"),
        (("latency_steps",), -1, "'latency_steps' is -1, outside 0 to"),
        (("is_dyadic",), 1, "'is_dyadic' is 1, not true or false"),
        (("format_version",), True, "'format_version' is true, not a whole number"),
        (("totals", "synapses"), 1.0, "'totals.synapses' is 1.0, not a whole number"),
        (("architecture",), [], "'architecture' is a list, not an object or null"),
        (("source",), {"file": "a", "module": "b", "sha256": "00"}, "'source.module' is unknown"),
        (("source",), {"sha256": "00"}, "'source.file' is missing"),
        (("source",), {"module": "b"}, "'source.sha256' is missing"),
        (("targets", 1), "gpu", "'targets[1]' is 'gpu', none of lava, sim, onnx, nir"),
        (("options", "layer_bits", "stem"), 65, "'options.layer_bits.stem' is 65, outside 0 to 64"),
        (("options", "layer_bits", "two\nlines"), "", "'options.layer_bits.two\\nlines' is '', not a whole number"),
        (("options", "dt"), float("nan"), "'options.dt' is nan, outside 0 to"),
        (("options", "dt"), float("inf"), "'options.dt' is inf, outside 0 to"),
        (("input", "real_range"), [1.0], "'input.real_range' has 1 items, not 2"),
        (("placement", "layers", 0, "tile", 0), None, "'placement.layers[0].tile[0]' is null, not a whole number"),
        (("nodes",), {}, "'nodes' is an object, not a list"),
        (("nodes", 1), "lif", "'nodes[1]' is 'lif', not an object"),
        (("nodes", 1, "signal"), SIGNAL | {"bits": -1}, "'nodes[1].signal.bits' is -1, outside 0 to 64"),
        (("nodes", 1, "signal"), SIGNAL | {"kind": "x" * 99}, "none of spike, graded, current"),
        (("nodes", 1, "vth"), None, "'nodes[1].vth' is null, not a whole number or a list"),
        (("nodes", 1, "mood"), "good", "'nodes[1].mood' is unknown"),
        (("nodes", 1, "op"), "Dense", "'nodes[1].weight_bits' is missing"),
        (("nodes", 1, "part_of"), "stem", "'nodes[1].stored_bits' is missing"),
        (("mood",), "good", "'mood' is unknown"),
    ],
)
def test_damages_are_named_with_their_place(where: tuple[Any, ...], value: Any, says: str) -> None:
    with pytest.raises(FileFormatError) as error:
        check_report(changed(where, value))
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 150


DIGITS = "9" * 5000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"format": ' * 100_000, "nested too deeply"),
        (json.dumps(changed(("options", "dt"), float("nan"))), "NaN is no number in JSON"),
        (json.dumps(changed(("options", "dt"), float("-inf"))), "-Infinity is no number in JSON"),
        (json.dumps(REPORT).replace('"dt": null', '"dt": 1e999'), "'options.dt' is inf, outside"),
        (json.dumps(REPORT).replace('"dt": null', f'"dt": {DIGITS}'), "Exceeds the limit"),
        (
            json.dumps(REPORT).replace('"timesteps": 4', f'"timesteps": {DIGITS[:4000]}'),
            "'options.timesteps' is an integer",
        ),
        ('{"format": "resformer-placement", "format_version": 1, "layers": [null]}', "not the report of a build"),
        ('{"format": "resformer-verification", "format_version": 1, "x": NaN}', "NaN is no number in JSON"),
        (
            json.dumps(REPORT).replace('"format_version": 1', f'"format_version": {DIGITS[:4000]}'),
            "integer of 13288 bits",
        ),
    ],
)
@pytest.mark.parametrize("call", [read_build, check_replaceable])
def test_files_that_broke_readers_are_refused_in_a_line(
    tmp_path: Path, content: str, says: str, call: Callable[[Path], object]
) -> None:
    (tmp_path / "report.json").write_text(content)
    if call is check_replaceable and "'" in says:
        call(tmp_path)  # it is a build of ours, even if damaged
        return
    with pytest.raises(FileFormatError) as error:
        call(tmp_path)
    assert (says if call is read_build else "so it is left alone") in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
