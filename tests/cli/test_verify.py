"""``resformer-verify`` as a user runs it: it proves what holds, and finds what does not."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resformer.compiler.backends import open_backend
from resformer.compiler.files.build import read_build
from resformer.compiler.files.nir import read_nir, write_nir
from resformer.compiler.ir import reference
from resformer.compiler.ir.primitives import with_weight
from resformer.compiler.ir.trace import SpikeTrain, Trace
from resformer.compiler.samples.arrays import check_samples
from resformer.errors import InputError
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.run.encode import encode
from resformer.runtime.verify import result, verify
from support.builds import SAMPLES, Tiny, add_one, change_program, program_of, read_json, write_tiny

E1, E2, E3, E4 = result.CHECKS
GRAPHS = 7
"""The float graphs that E1 compares: as imported, after each of five float passes, and as the file holds it."""


def verify_tiny(
    tiny: Tiny, json: Path, *arguments: str, backend: str = "reference", build: Path | None = None, model: bool = True
) -> tuple[int, Any]:
    command = [str(build or tiny.build), "--input", str(tiny.images), "--backend", backend, "--json", str(json)]
    status = verify_main([*command, *(["--model", str(tiny.model)] if model else []), *arguments])
    return status, read_json(json)


def chances(tiny: Tiny, samples: int = SAMPLES) -> dict[str, int]:
    program = program_of(tiny.build)
    return {name: program.timesteps * samples * int(np.prod(program[name].shape)) for name in program.lif_names}


def test_a_sound_build_is_equivalent(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = verify_tiny(tiny, tmp_path / "r.json", "--labels", str(tiny.labels))
    expected = chances(tiny)
    assert status == 0
    assert found["equivalent"] is True
    assert (found["backend"], found["samples"], found["timesteps"]) == ("reference", SAMPLES, 4)
    checks = found["checks"]
    assert checks[E1]["compared"] == GRAPHS * sum(expected.values())
    assert len(checks[E1]["graphs"]) == GRAPHS
    assert {each["compared"] for each in checks[E1]["graphs"].values()} == {sum(expected.values())}
    assert checks[E2] is None
    assert "definition" in found["not_run"][E2]
    assert checks[E3]["compared"] == checks[E3]["currents"]["compared"] == sum(expected.values())
    assert [checks[E1]["mismatched"], checks[E3]["mismatched"], checks[E3]["currents"]["mismatched"]] == [0, 0, 0]
    assert checks[E3]["weights"]["compared"] > 1000
    assert checks[E3]["weights"]["mismatched"] == 0
    assert checks[E3]["logits_max_difference"] <= checks[E3]["logits_tolerance"] < 1e-5
    assert 0 < checks[E4]["mismatched"] < checks[E4]["compared"] == sum(expected.values())
    assert 0 < checks[E4]["local"]["mismatched"] < checks[E4]["mismatched"]
    assert 0.5 < checks[E4]["f1"] < 1
    assert 0 <= checks[E4]["top1_agreement"] <= 1
    assert found["accuracy"].keys() == {"original", "quantized"}
    assert found["model_is_source"] is True
    assert [layer["name"] for layer in found["layers"]] == list(expected)
    for layer in found["layers"]:
        assert layer["compared"] == (GRAPHS + 1) * expected[layer["name"]]
        assert layer["mismatched"] == 0
        assert layer["checks"][E3]["compared"] == layer["local"]["compared"] == expected[layer["name"]]
    out = capsys.readouterr().out
    same_spikes, accuracy, _ = out.splitlines()[-3:]
    assert (
        same_spikes == f"EQUIVALENT: 0 of {(GRAPHS + 1) * sum(expected.values()):,} spikes differ in E1, E3; E2 not run"
    )
    assert re.fullmatch(
        r"accuracy: checkpoint \S+%, quantized \S+%, of 6 labelled samples; top-1 agreement \S+%", accuracy
    )
    assert "\x1b" not in out


def test_e4_counts_what_it_says(tiny: Tiny, tmp_path: Path) -> None:
    """The quantized checkpoint against itself: nothing mismatches, and every spike agrees."""
    command = [str(tiny.build), "--model", str(tiny.build / "quantized.pt"), "--input", str(tiny.images)]
    images = np.load(tiny.images)
    exact = tmp_path / "exact.npy"
    steps = 2.0 ** read_json(tiny.build / "report.json")["input"]["scale_exp"]
    np.save(exact, np.rint(images * steps) / steps)
    command[-1] = str(exact)
    verify_main([*command, "--backend", "reference", "--json", str(tmp_path / "r.json")])
    found = read_json(tmp_path / "r.json")
    assert found["model_is_source"] is False
    assert found["checks"][E4]["mismatched"] == found["checks"][E4]["local"]["mismatched"] == 0
    assert found["checks"][E4]["f1"] == found["checks"][E4]["top1_agreement"] == 1


def test_without_the_checkpoint_two_checks_are_not_run(tiny: Tiny, tmp_path: Path) -> None:
    status, found = verify_tiny(tiny, tmp_path / "r.json", "--samples", "2", model=False)
    assert status == 0
    assert found["checks"][E1] is None
    assert found["checks"][E4] is None
    assert "--model" in found["not_run"][E1]
    assert found["checks"][E3]["compared"] == sum(chances(tiny, 2).values())
    assert found["model_is_source"] is None


@pytest.mark.parametrize(("backend", "package"), [("lava", "lava"), ("sim", "torch"), ("onnx", "onnxruntime")])
def test_backends_fire_the_same_spikes(tiny: Tiny, tmp_path: Path, backend: str, package: str) -> None:
    pytest.importorskip(package)
    status, found = verify_tiny(tiny, tmp_path / "r.json", "--samples", "2", backend=backend)
    assert status == 0
    assert (found["backend"], found["equivalent"]) == (backend, True)
    assert found["checks"][E2]["compared"] == sum(chances(tiny, 2).values())
    for counts in (found["checks"][E2], found["checks"][E2]["graded"], found["checks"][E2]["logits"]):
        assert counts["mismatched"] == 0
        assert counts["compared"] > 0
    assert found["checks"][E3]["mismatched"] == 0


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("prologue.0", (0, 0, 3, 3)),
        ("layers.0.0.W.y1", (1, 2, 0, 0)),
        ("layers.1.2.conv.1.1", (0, 0, 0, 0)),
        ("classifier", (4, 11)),
    ],
)
def test_one_weight_changed_by_one_is_found(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, index: tuple[int, ...]
) -> None:
    build = tiny.copied_build(tmp_path)
    change_program(build, name, weight=add_one(index))
    status, found = verify_tiny(tiny, tmp_path / "r.json", build=build)
    assert status == 1
    assert found["equivalent"] is False
    assert found["checks"][E1]["mismatched"] == 0
    assert found["checks"][E3]["weights"]["mismatched"] == 1
    assert found["checks"][E3]["demanded"]
    assert not found["checks"][E3]["passed"]
    out = capsys.readouterr().out
    assert out.splitlines()[-3].startswith("NOT EQUIVALENT: E3: ")
    assert name in out


def test_weights_beyond_the_programs_bounds_are_named(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build, name = tiny.copied_build(tmp_path), "layers.0.1.up.1"
    change_program(build, name, weight=lambda weight: np.full_like(weight, 127), weight_exp=lambda exp: exp * 0 + 7)
    assert verify_main([str(build), "--input", str(tiny.images), "--backend", "sim"]) == 1
    err = capsys.readouterr().err
    assert f"program.safetensors: {name}: " in err
    assert "leaves the proven" in err
    assert "compile the model again" in err


def test_one_bias_changed_by_one_is_found_in_the_currents(tiny: Tiny, tmp_path: Path) -> None:
    build, name = tiny.copied_build(tmp_path), "layers.0.0.activation_in"
    # by one unit of the current: a unit of a mantissa is 2^exponent 64ths, which also hold a surplus
    unit = 64 >> int(program_of(build)[name].op.bias_exp[2])
    change_program(build, name, bias_mant=lambda bias: (bias + unit * (np.arange(len(bias)) == 2)).astype(bias.dtype))
    status, found = verify_tiny(tiny, tmp_path / "r.json", build=build)
    e3 = found["checks"][E3]
    assert (status, found["equivalent"]) == (1, False)
    assert e3["weights"]["mismatched"] == 0
    assert e3["currents"]["mismatched"] > 0
    assert (e3["first_divergence"]["layer"], e3["first_divergence"]["neuron"][0]) == (name, 2)


@pytest.mark.parametrize("field", ["bias_mant", "dv"])
def test_a_program_that_was_changed_is_not_free_of_e3(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str
) -> None:
    """With a bias off by a 64th, or a decay off by one, potentials are truncated; E3 must be demanded all the same."""
    build, name = tiny.copied_build(tmp_path), "layers.0.0.activation_in"
    assert program_of(build).is_dyadic
    change_program(build, name, **{field: lambda value: value + 1})
    assert not program_of(build).is_dyadic
    report = read_json(build / "report.json")
    (build / "report.json").write_text(json.dumps(report | {"is_dyadic": False}), encoding="utf-8")
    status, found = verify_tiny(tiny, tmp_path / "r.json", build=build)
    assert (status, found["equivalent"]) == (1, False)
    assert found["checks"][E3]["demanded"]
    assert not found["checks"][E3]["passed"]
    assert "the program is not as it was compiled" in capsys.readouterr().out


@pytest.mark.parametrize("factor", [1.5, 0.7])
def test_a_changed_threshold_is_found_where_it_first_matters(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float
) -> None:
    build, name = tiny.copied_build(tmp_path), "layers.0.1.up.0"
    vth, surpluses = program_of(build)[name].op.vth, program_of(build)[name].op.surplus
    change_program(build, name, vth=lambda vth: round(vth * factor))
    status, found = verify_tiny(tiny, tmp_path / "r.json", build=build)
    e3 = found["checks"][E3]
    assert (status, found["equivalent"]) == (1, False)
    assert e3["mismatched"] > 0
    first = e3["first_divergence"]
    assert first["layer"] == name
    torch_side, program_side = first["sides"]
    assert torch_side["name"] == "quantized.pt"
    assert (torch_side["v_in_thresholds"] >= 1) == (factor > 1), "one side fires, the other does not"
    assert (program_side["v_in_thresholds"] > 1) == (factor < 1)
    # both potentials come from the same current; the integer one is in units of 1/64, and its threshold was vth
    # it also holds what has gathered of the surplus, which is less than twice the surplus
    surplus = int(np.broadcast_to(surpluses, program_of(build)[name].shape[:1])[first["neuron"][0]])
    gathered = program_side["v_integer"] / (vth * 64) - torch_side["v_in_thresholds"]
    assert surplus / (vth * 64) - 1e-6 <= gathered <= 2 * surplus / (vth * 64) + 1e-6
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert layers["layers.0.0.activation_out"]["mismatched"] == 0
    assert layers[name]["mismatched"] > 0
    out = capsys.readouterr().out
    assert f"E3 first differs at {name}, step {first['step']}, sample {first['sample']}, neuron (" in out


def test_a_network_file_with_other_populations_is_refused(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build, name = tiny.copied_build(tmp_path), "layers.0.0.activation_in"
    graph = read_nir(build / "network.nir")

    def renamed(old: str) -> str:
        return "stranger" if old == name else old

    nodes = [
        dataclasses.replace(node, name=renamed(node.name), inputs=tuple(map(renamed, node.inputs))) for node in graph
    ]
    assert [node.name for node in nodes] != [node.name for node in graph]
    write_nir(dataclasses.replace(graph, nodes=tuple(nodes)), build / "network.nir")
    assert verify_main([str(build), "--input", str(tiny.images), "--model", str(tiny.model)]) == 1
    assert "network.nir: its populations are not those of program.safetensors" in capsys.readouterr().err


def test_local_errors_need_the_original(tiny: Tiny) -> None:
    build = read_build(tiny.build)
    program = build.program()
    samples = check_samples(np.load(tiny.images), program, "x")
    with pytest.raises(InputError, match="give model, the file that was compiled"):
        verify.verify(build, samples, program, verify.Comparing("reference"), local=True)


def test_a_changed_network_file_is_found(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build, name = tiny.copied_build(tmp_path), "layers.0.1.up.1"
    graph = read_nir(build / "network.nir")
    edit = graph.edit()
    edit.set_op(name, with_weight(graph[name].op, weight=graph[name].op.weight + 0.5, bias=graph[name].op.bias))
    write_nir(edit.finish(), build / "network.nir")
    status, found = verify_tiny(tiny, tmp_path / "r.json", build=build)
    assert (status, found["equivalent"]) == (1, False)
    graphs = found["checks"][E1]["graphs"]
    assert graphs.pop("file network.nir")["mismatched"] == found["checks"][E1]["mismatched"] > 0
    assert all(graph["mismatched"] == 0 for graph in graphs.values())
    first = found["checks"][E1]["first_divergence"]
    assert first["layer"] == "layers.0.1.conv.0.0"
    below, above = sorted(side["v_in_thresholds"] for side in first["sides"])
    assert below < 1 <= above
    assert "E1 first differs at layers.0.1.conv.0.0" in capsys.readouterr().out


def broken_backend(break_trace: Callable[[Trace], Trace]) -> Callable[..., Any]:
    """A substitute for ``open_backend`` whose backend is the reference with errors."""

    def opened(_name: str, **_options: Any) -> Any:
        run = open_backend("reference")
        return lambda *arguments, **options: break_trace(run(*arguments, **options))

    return opened


def test_one_wrong_spike_of_a_backend_is_found(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "layers.1.1.activation_out"

    def flip(trace: Trace) -> Trace:
        dense = trace.spikes[name].dense()
        dense[2, 4, 3, 1, 0] ^= True
        return dataclasses.replace(trace, spikes={**trace.spikes, name: SpikeTrain.pack(dense)})

    monkeypatch.setattr(verify, "open_backend", broken_backend(flip))
    status, found = verify_tiny(tiny, tmp_path / "r.json", backend="lava")
    assert (status, found["equivalent"]) == (1, False)
    assert found["checks"][E2]["mismatched"] == found["checks"][E3]["mismatched"] == 1
    first = found["checks"][E2]["first_divergence"]
    assert (first["layer"], first["step"], first["sample"], first["neuron"]) == (name, 2, 4, [3, 1, 0])
    assert f"E2 first differs at {name}, step 2, sample 4, neuron (3, 1, 0)" in capsys.readouterr().out


def test_one_wrong_graded_value_or_logit_of_a_backend_is_found(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_graded(trace: Trace) -> Trace:
        values = trace.graded["layers.0.0.matmul1"].copy()
        values.flat[7] += 1
        return dataclasses.replace(trace, graded={**trace.graded, "layers.0.0.matmul1": values})

    def change_logit(trace: Trace) -> Trace:
        logits = trace.logits.copy()
        logits[0, 0, 0] -= 1
        return dataclasses.replace(trace, logits=logits)

    for kind, change in (("graded", change_graded), ("logits", change_logit)):
        monkeypatch.setattr(verify, "open_backend", broken_backend(change))
        status, found = verify_tiny(tiny, tmp_path / "r.json", backend="lava")
        assert (status, found["equivalent"]) == (1, False)
        assert found["checks"][E2][kind]["mismatched"] == 1
        assert found["checks"][E2]["mismatched"] == 0


def test_a_stream_cut_in_parts_is_compared_whole(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place of an error is counted from the first sample of the whole stream, not of its part."""
    name, parts = "layers.0.1.up.0", []

    def flip_in_the_last(trace: Trace) -> Trace:
        parts.append(trace.logits.shape[1])
        dense = trace.spikes[name].dense()
        dense[1, 0, 0, 0, 0] ^= sum(parts) == SAMPLES
        return dataclasses.replace(trace, spikes={**trace.spikes, name: SpikeTrain.pack(dense)})

    monkeypatch.setattr(verify, "open_backend", broken_backend(flip_in_the_last))
    monkeypatch.setattr(verify, "samples_at_once", lambda *_arguments, **_options: 4)
    status, found = verify_tiny(tiny, tmp_path / "r.json", backend="lava")
    assert status == 1
    assert parts == [4, 2]
    assert found["checks"][E2]["mismatched"] == 1
    assert found["checks"][E2]["first_divergence"]["sample"] == 4


def test_a_backend_that_skips_a_layer_is_no_success(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(trace: Trace) -> Trace:
        spikes = dict(trace.spikes)
        del spikes["layers.0.1.up.0"]
        return dataclasses.replace(trace, spikes=spikes)

    monkeypatch.setattr(verify, "open_backend", broken_backend(forget))
    with pytest.raises(AssertionError, match="did not record"):
        verify_tiny(tiny, tmp_path / "r.json", backend="lava")


def test_samples_in_which_a_value_saturates_are_told_apart(tiny: Tiny, tmp_path: Path) -> None:
    """With a lower limit the program clips what SpikingJelly does not: differences there are no errors."""
    build, name = tiny.copied_build(tmp_path), "layers.0.0.matmul1"
    program = program_of(build)
    encoded = encode(np.load(tiny.images).astype(np.float64), program).values
    peaks = np.abs(reference.run(program, encoded, record=True).graded[name]).max(axis=(0, 2, 3, 4))
    worst, limit = int(peaks.argmax()), int(np.sort(peaks)[-2])
    assert limit < peaks[worst]
    change_program(build, name, limit=lambda _limit: limit)
    status, found = verify_tiny(tiny, tmp_path / "r.json", build=build)
    e3 = found["checks"][E3]
    assert found["saturation"].keys() == {name}
    assert e3["saturated"]["samples"] == [worst]
    assert e3["saturated"]["compared"] == sum(chances(tiny, 1).values())
    assert e3["compared"] == e3["currents"]["compared"] == sum(chances(tiny, SAMPLES - 1).values())
    assert e3["mismatched"] == e3["currents"]["mismatched"] == 0
    assert f"{SAMPLES - 1} samples" in e3["note"]
    assert (status, found["equivalent"]) == (0, True)


@pytest.mark.parametrize("fields", [{"timesteps": 9}, {"neuron": "PLIF", "timesteps": 3}])
def test_what_cannot_be_exact_is_measured(
    make_model: Callable[..., SpikingResformer], tmp_path: Path, fields: dict[str, Any]
) -> None:
    inexact = write_tiny(make_model(**fields), tmp_path)
    status, found = verify_tiny(inexact, tmp_path / "r.json")
    assert not found["checks"][E3]["demanded"]
    assert "not demanded" in found["checks"][E3]["note"]
    assert found["checks"][E3]["compared"] == sum(chances(inexact).values())
    assert (status, found["equivalent"]) == (0, True)
    assert found["checks"][E1]["mismatched"] == 0


def test_what_proves_nothing_is_not_equivalent(make_model: Callable[..., SpikingResformer], tmp_path: Path) -> None:
    """Rounded decays, no checkpoint, and the reference against itself: no check is left that could fail."""
    inexact = write_tiny(make_model(timesteps=9), tmp_path)
    status, found = verify_tiny(inexact, tmp_path / "r.json", model=False)
    assert (status, found["equivalent"]) == (1, False)
