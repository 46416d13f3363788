"""The verdict's three lines keep apart equal spikes, lost accuracy, and what makes a result worthless."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import numpy.typing as npt
import pytest

import resformer
from resformer.compiler.frontend.nir.importer import import_nir
from resformer.errors import InputError, ResformerWarning
from resformer.runtime.cli.compile import main as compile_main
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.given import NO_LABELS
from resformer.runtime.run.encode import predict
from resformer.runtime.verify.limits import Limits
from resformer.runtime.verify.nir_network import NirNetwork
from resformer.runtime.verify.result import ORIGINAL, Verification
from support.builds import SAMPLES, Tiny, read_json
from support.nir_files import chain, lif, write

SILENT = "no population ever fired, so the spikes say nothing of the network"


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """A verification's exit status and its last three lines."""
    capsys.readouterr()
    status = verify_main(arguments)
    return status, capsys.readouterr().out.splitlines()[-3:]


@pytest.fixture(scope="module")
def sound(tiny: Tiny) -> Verification:
    """A verification; tests replace the fields that they need to."""
    return resformer.load(tiny.build, tiny.model).verify(tiny.images, backend="reference", labels=tiny.labels)


def clean(result: Verification, **changes: Any) -> Verification:
    """A verification that has nothing to report but the changes."""
    nothing = {"fired": dict.fromkeys(result.layers, 1), "clipped": 0, "saturation": {}, "ties": {}, "assumptions": ()}
    return replace(result, **{**nothing, **changes})


def test_nothing_to_report(sound: Verification) -> None:
    result = clean(sound)
    assert result.to_know == ()
    assert result.verdict[2] == "to know: nothing to report"
    assert result.equivalent
    assert result.passed


def test_populations_that_never_or_always_fired_are_named(sound: Verification) -> None:
    names = list(sound.layers)
    assert len(names) > 6
    fired = {name: 0 if name in names[:6] else sound.layers[name] if name == names[6] else 1 for name in names}
    never, always = clean(sound, fired=fired).to_know
    assert never == f"never fired, 6 of {len(names)} populations: {', '.join(names[:3])} and 3 more"
    assert always == f"always fired, every neuron in every step, 1 of {len(names)} populations: {names[6]}"
    (none,) = clean(sound, fired=dict.fromkeys(names, 0)).to_know
    assert none.startswith(SILENT)


@pytest.mark.parametrize(
    ("largest", "kind", "hint"),
    [
        (255.0, "static", "divide by 255?"),
        (250.3, "static", "divide by 255?"),
        (65535.0, "static", "divide by 65535?"),
        (5.2, "static", "scaled as for training (--mean, --std)"),
        (1e6, "static", "scaled as for training (--mean, --std)"),
        (200.0, "frames", "--calibration of such frames?"),
    ],
)
def test_clipped_input_tells_its_largest_value_and_the_range(
    sound: Verification, largest: float, kind: str, hint: str
) -> None:
    result = clean(sound, clipped=1234, largest_input=largest, input_range=(-4.0, 4.0), input_kind=kind)
    (line,) = result.to_know
    assert line.startswith("input: 1,234 values were clipped to the range that the program takes, -4 to 4; the largest")
    assert f" is {largest:g}: " in line
    assert hint in line


def test_a_range_that_nearly_holds_pixels_is_no_hint_to_divide(sound: Verification) -> None:
    (line,) = clean(sound, clipped=1, largest_input=255.0, input_range=(-200.0, 200.0)).to_know
    assert line.startswith("input: 1 value was clipped to the range that the program takes, -200 to 200; the largest")
    assert "divide" not in line


def test_saturation_ties_notes_and_assumptions_are_told(sound: Verification) -> None:
    many = {"a": 1, "b": 5, "c": 2, "d": 3, "e": 4}
    assert clean(sound, saturation=many).to_know == ("saturation: b 5, e 4, d 3 and 2 more",)
    assert clean(sound, notes=("x: replaced", "y: replaced", "z: replaced")).to_know == ("x: replaced and 2 more",)
    told = clean(sound, assumptions=("neurons: LIF with tau 2 (no tensor says so)",))
    assert told.to_know == ("assumed (no tensor says so): neurons: LIF with tau 2",)
    assert clean(sound, model_is_source=False).to_know == (
        "the checkpoint is not, bit for bit, the file that was compiled",
    )


def test_what_others_count_is_told_where_it_is_there(sound: Verification) -> None:
    """Ties, doubts about the samples, and why there is no accuracy."""
    result = clean(sound, accuracy={})
    facts = {
        "ties": {"a": 2, "b": 0, "c": 7},
        "warnings": ("mean: not the build's",),
        "prepared_otherwise": True,
        "accuracy_absent": "no folders",
    }
    for name, value in facts.items():
        object.__setattr__(result, name, value)
    assert result.empty_agreement is not None
    known = ("ties, potentials that land exactly on a threshold: c 7, a 2", "mean: not the build's")
    assert result.to_know == (result.empty_agreement, *known)
    assert result.verdict[1].startswith("accuracy: unknown: no folders; ")


def test_the_first_line_says_which_checks_it_is_of(sound: Verification) -> None:
    assert sound.verdict[0].endswith("spikes differ in E1, E3; E2 not run")
    nothing = replace(sound, checks={name: replace(check, demanded=False) for name, check in sound.checks.items()})
    assert not nothing.equivalent
    assert nothing.verdict[0] == (
        "NOT EQUIVALENT: no check was left that could prove anything; E1, E3 only measured; E2 not run"
    )
    wrong = {name: replace(check, passed=False) for name, check in sound.checks.items()}
    assert "the spikes are the same, but other values differ" in replace(sound, checks=wrong).verdict[0]


def with_accuracy(result: Verification, agreement: float, **accuracy: float) -> Verification:
    original = result.checks[ORIGINAL]
    changed = replace(original, extra={**original.extra, "top1_agreement": agreement})
    return replace(result, samples=200, checks={**result.checks, ORIGINAL: changed}, accuracy=accuracy)


@pytest.mark.parametrize(
    ("limits", "passed", "words"),
    [
        (
            Limits(),
            True,
            "accuracy: checkpoint 80.00%, quantized 70.00%, of 200 labelled samples; top-1 agreement 85.00%",
        ),
        (Limits(min_agreement=0.85), True, "ACCURACY KEPT: checkpoint 80.00%"),
        (Limits(min_agreement=0.9), False, "the agreement is below the 90.00% that --min-agreement demands"),
        # in float64, 0.8 - 0.7 is more than 0.1
        (Limits(max_accuracy_drop=0.1), True, "ACCURACY KEPT: "),
        (Limits(max_accuracy_drop=0.099), False, "a drop of 10.00 points is more than the 9.90 that"),
    ],
)
def test_accuracy_is_kept_or_not(sound: Verification, limits: Limits, passed: bool, words: str) -> None:
    result = replace(with_accuracy(sound, 0.85, original=0.8, quantized=0.7), limits=limits)
    assert result.equivalent
    assert result.passed == passed
    assert words in result.verdict[1]
    assert result.verdict[1].startswith("ACCURACY NOT KEPT: ") != passed
    assert result.verdict[0].startswith("EQUIVALENT: ")


NO_BETTER = "no better than a guess (10.00% are of one class), so agreement with it says nothing: are the samples prep"


@pytest.mark.parametrize(
    ("changes", "empty"),
    [
        ({"accuracy": {"original": 0.1, "quantized": 0.1}}, NO_BETTER),
        ({"accuracy": {"original": 0.12, "quantized": 0.12}}, NO_BETTER),
        ({"accuracy": {"original": 0.13, "quantized": 0.13}}, None),
        ({"accuracy": {"original": 0.5, "quantized": 0.5}, "guess": 0.51}, None),
        ({"samples": 9, "accuracy": {"original": 0.1, "quantized": 0.1}}, None),
        ({"guess": None, "predictions": 200 * (7,), "prepared_otherwise": True}, "have no labels"),
        ({"guess": None, "predictions": 200 * (7,), "warnings": ("3 events come late",)}, None),
        ({"guess": None, "predictions": 200 * (7,)}, None),
        ({"guess": None, "predictions": (*199 * (7,), 8), "prepared_otherwise": True}, "have no labels"),
        ({"fired": {}, "guess": None}, SILENT),
    ],
)
def test_networks_that_agree_on_nothing_do_not_pass(
    sound: Verification, changes: dict[str, Any], empty: str | None
) -> None:
    if "fired" in changes:
        changes = {**changes, "fired": dict.fromkeys(sound.layers, 0)}
    result = clean(with_accuracy(sound, 1.0), **{"guess": 0.1, **changes})
    assert result.passed
    demanding = [
        replace(result, limits=limits) for limits in (Limits(min_agreement=0.9), Limits(max_accuracy_drop=0.1))
    ]
    if empty is None:
        assert result.empty_agreement is None
        assert demanding[0].passed
        return
    assert any(empty in line for line in result.to_know)
    for each in demanding:
        assert each.equivalent
        assert not each.passed
        assert each.verdict[1].startswith("ACCURACY NOT KEPT: ")
        assert empty in each.verdict[1]
        # what the second line says, the third does not say again
        assert not set(each.shortfalls) & set(each.verdict[2].removeprefix("to know: ").split("; "))


def test_why_accuracy_is_not_known(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    common = [str(tiny.build), "--input", str(tiny.images), "--backend", "reference"]
    _, (_, accuracy, _) = said([*common, "--model", str(tiny.model)], capsys)
    assert accuracy.startswith(f"accuracy: unknown: {NO_LABELS}; top-1 agreement ")
    assert accuracy.endswith("%")
    _, (_, accuracy, _) = said([*common, "--labels", str(tiny.labels)], capsys)
    assert accuracy.startswith("accuracy: quantized ")
    assert accuracy.endswith("6 labelled samples; top-1 agreement unknown: needs the checkpoint: give --model")


def test_an_accuracy_that_collapsed_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every spike equals the program's, but with weights of two bits the program is no longer the network."""
    rng, count = np.random.default_rng(0), 50
    neurons = lif((10,), v_threshold=2.0, reset="hard")
    path = write(tmp_path / "n.nir", chain((16,), nir.Linear(rng.normal(size=(10, 16))), neurons))
    samples = rng.normal(size=(count, 16))
    graph = import_nir(path, dt=1e-4, timesteps=8)
    logits = NirNetwork(graph).run(samples.reshape(count, 16, 1, 1), lambda *_: None)
    np.save(tmp_path / "x.npy", samples)
    np.save(tmp_path / "labels.npy", predict(logits))
    build, result = tmp_path / "b", tmp_path / "r.json"
    time = ["--dt", "1e-4", "--timesteps", "8"]
    assert compile_main([str(path), "--target", "sim", *time, "--weight-bits", "2", "-o", str(build)]) == 0
    command = [str(build), "--model", str(path), "--input", str(tmp_path / "x.npy"), "--backend", "sim"]
    command += ["--json", str(result)]
    assert said(command, capsys)[0] == 0
    agreement = read_json(result)["agreement"]
    assert agreement < 0.9
    assert read_json(result)["passed"]
    status, lines = said([*command, "--min-agreement", "0.9"], capsys)
    found = read_json(result)
    assert (status, found["equivalent"], found["passed"]) == (1, True, False)
    assert found["limits"] == {"min_agreement": 0.9, "max_accuracy_drop": None}
    assert found["shortfalls"] == ["the agreement is below the 90.00% that --min-agreement demands"]
    assert found["verdict"] == lines
    assert lines[0].startswith("EQUIVALENT: ")
    facts = f"top-1 agreement {agreement:.2%}; accuracy itself is unknown: {NO_LABELS}"
    assert lines[1] == f"ACCURACY NOT KEPT: {found['shortfalls'][0]}; {facts}"
    # with the original's predictions as labels, the accuracy drops by the share of samples that disagree
    command += ["--labels", str(tmp_path / "labels.npy")]
    assert said([*command, "--max-accuracy-drop", str(1 - agreement - 0.01)], capsys)[0] == 1
    found = read_json(result)
    assert found["accuracy_drop"] == pytest.approx(1 - agreement)
    assert (found["accuracy"]["original"], found["labelled"]) == (1.0, count)
    assert said([*command, "--max-accuracy-drop", str(1 - agreement)], capsys)[0] == 0


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--min-agreement", "90", "--min-agreement: 90 is no share of the samples; give 0 to 1"),
        ("--min-agreement", "-0.1", "--min-agreement: -0.1 is no share"),
        ("--min-agreement", "nan", "--min-agreement: nan is no share"),
        ("--min-agreement", "most", "'most' is not a number such as 0.9"),
        ("--max-accuracy-drop", "1", "--max-accuracy-drop: 1 is no share of the samples; give 0 to less than 1"),
        ("--max-accuracy-drop", "0.1", "--max-accuracy-drop: there are no labels"),
    ],
)
def test_limits_out_of_range_are_wrong_usage(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], option: str, value: str, words: str
) -> None:
    command = [str(tiny.build), "--model", str(tiny.model), "--input", str(tiny.images), "--backend", "sim"]
    assert verify_main([*command, f"{option}={value}"]) == 2
    assert words in capsys.readouterr().err


def test_limits_need_the_original(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(tiny.build), "--input", str(tiny.images), "--backend", "sim", "--min-agreement", "0.5"]
    assert verify_main(command) == 2
    assert "--min-agreement: compares with the original; name it with --model" in capsys.readouterr().err
    compiled = resformer.load(tiny.build)
    with pytest.raises(InputError, match="min_agreement: compares with the original; give model"):
        compiled.verify(tiny.images, min_agreement=0.5)
    with pytest.raises(InputError, match="max_accuracy_drop: there are no labels"):
        compiled.verify(tiny.images, model=tiny.model, max_accuracy_drop=0.5)
    with pytest.raises(InputError, match="max_accuracy_drop: 1 is no share"):
        compiled.verify(tiny.images, model=tiny.model, max_accuracy_drop=1)
    assert (
        not compiled.verify(tiny.images, model=tiny.model, labels=tiny.labels, min_agreement=1.0)
        .verdict[1]
        .startswith("accuracy")
    )


@pytest.fixture(scope="module")
def wrong_unit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A NIR file whose neurons would fire at steps of 0.1 s, and samples for it."""
    folder, rng = tmp_path_factory.mktemp("nir"), np.random.default_rng(0)
    neurons = [nir.IF(r=np.ones(size), v_threshold=np.ones(size), v_reset=np.zeros(size)) for size in (5, 4)]
    layers = [nir.Linear(rng.random((5, 6))), neurons[0], nir.Linear(rng.random((4, 5))), neurons[1]]
    np.save(folder / "x.npy", rng.random((3, 8, 6)) * 4)
    return write(folder / "n.nir", chain((6,), *layers)), folder / "x.npy"


def test_a_network_that_never_fires_is_no_success(
    wrong_unit: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, samples = wrong_unit
    build, result = tmp_path / "b", tmp_path / "r.json"
    assert compile_main([str(path), "--target", "sim", "--dt", "1e-4", "--timesteps", "8", "-o", str(build)]) == 0
    (warned,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert warned.startswith("warning: no population can ever fire: n1, n3: ")
    assert "if --dt (0.0001) is in another unit than the file's" in warned
    assert read_json(build / "report.json")["warnings"] == [warned.removeprefix("warning: ")]
    again = ["--target", "sim", "--dt", "1e-4", "--timesteps", "8", "--quiet", "-o", str(tmp_path / "again")]
    assert compile_main([str(path), *again]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", f"{warned}\n")
    command = [str(build), "--model", str(path), "--input", str(samples), "--backend", "sim"]
    _, lines = said([*command, "--json", str(result)], capsys)
    assert lines[2].startswith(f"to know: {SILENT}")
    assert "is --dt in the file's unit of time?" in lines[2]
    found = read_json(result)
    assert (found["any_fired"], found["never_fired"], found["always_fired"]) == (False, ["n1", "n3"], [])
    assert [layer["fired"] for layer in found["layers"]] == [0, 0]
    assert run_main([*command[:1], *command[3:]]) == 0
    assert "warning: every logit is zero: no spike reached the output" in capsys.readouterr().out


def test_python_warns(wrong_unit: tuple[Path, Path]) -> None:
    path, samples = wrong_unit
    with pytest.warns(ResformerWarning, match="no population can ever fire.*--dt") as caught:
        compiled = resformer.compile(path, target="sim", options=resformer.CompileOptions(dt=1e-4, timesteps=8))
    assert [each.filename for each in caught] == [__file__]
    with pytest.warns(ResformerWarning, match=SILENT) as caught:
        result = compiled.verify(samples, backend="sim")
    assert [each.filename for each in caught] == [__file__]
    assert SILENT in " ".join(str(result).split())
    with pytest.warns(ResformerWarning, match=SILENT):
        assert SILENT in compiled.run(samples, record=True).to_know[0]
    with pytest.warns(ResformerWarning, match="every logit is zero"):
        compiled.run(samples)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResformerWarning)
        options = resformer.CompileOptions(dt=0.1, timesteps=8, calibration=np.load(samples))
        fires = resformer.compile(path, target="sim", options=options)
        fires.run(samples, record=True)
        assert fires.verify(samples).to_know == ()


def test_input_that_was_clipped(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pixels of 0 to 255 that nobody divided."""
    pixels: npt.NDArray[np.float32] = np.load(tiny.images) * 255
    np.save(tmp_path / "x.npy", pixels)
    command = [str(tiny.build), "--input", str(tmp_path / "x.npy"), "--backend", "sim"]
    _, lines = said([*command, "--json", str(tmp_path / "r.json")], capsys)
    found = read_json(tmp_path / "r.json")
    low, high = found["input_range"]
    assert found["input_largest"] == pixels.max()
    assert found["input_values_clipped"] == np.count_nonzero(np.abs(pixels) > high)
    told = (
        f"clipped to the range that the program takes, {low:g} to {high:g}; the largest is {pixels.max():g}: divide by"
    )
    assert f"{told} 255?" in lines[2]
    assert run_main(command) == 0
    assert f"{told} 255?" in capsys.readouterr().out
    with pytest.warns(ResformerWarning, match=r"divide by 255\?"):
        resformer.load(tiny.build).run(pixels, backend="sim")


def test_a_population_that_always_fires(tmp_path: Path) -> None:
    """Neurons whose leak lies above their threshold fire at every step, whatever they are given."""
    neurons = lif((3,), v_leak=5.0, v_threshold=1.0, reset="hard")
    layer = nir.Linear(np.eye(3) * 1e-3)
    path = write(tmp_path / "n.nir", chain((3,), layer, neurons))
    with pytest.warns(ResformerWarning, match="n1: every neuron fires in every step, whatever the input"):
        compiled = resformer.compile(path, target="sim", options=resformer.CompileOptions(dt=1e-4, timesteps=4))
    with pytest.warns(ResformerWarning, match="always fired, every neuron in every step, 1 of 1 populations: n1"):
        assert compiled.verify(np.ones((2, 3))).equivalent


def test_the_summary_has_the_three_lines(sound: Verification) -> None:
    title, rows = sound.summary()
    assert title == f"EQUIVALENT: {SAMPLES} samples in reference"
    told = dict(rows)
    assert told["same spikes"] == sound.verdict[0]
    assert f"accuracy: {told['accuracy']}" == sound.verdict[1]
    assert f"to know: {told['to know']}" == sound.verdict[2]
