"""Chip descriptions: packaged, users' own, and wrong ones."""

from __future__ import annotations

from dataclasses import fields, replace
from importlib import resources
from pathlib import Path

import pytest

from resformer.compiler.chips.chip import PACKAGED, STATUSES, Chip, load_chip
from resformer.errors import FileFormatError


@pytest.mark.parametrize("name", PACKAGED)
def test_every_packaged_constant_has_a_source(name: str) -> None:
    chip = load_chip(name)
    assert chip.name == name
    assert set(chip.sources) == {each.name for each in fields(chip)} - {"name", "sources"}
    for source in chip.sources.values():
        assert source.status in STATUSES
        assert len(source.text) > 5
    text = resources.files("resformer.compiler.chips").joinpath(f"{name}.yaml").read_text()
    assert "given in" not in text
    assert not [each for each in chip.sources.values() if each.text.startswith("given in")]


def test_a_file_may_extend_a_chip(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nextends: loihi2\nneurons_per_core: 8192\nsynaptic_op_pj: {value: 4, source: a paper}\n"
    )
    chip, base = load_chip(str(path)), load_chip("loihi2")
    assert (chip.name, chip.neurons_per_core, chip.synaptic_op_pj) == ("mine", 8192, 4.0)
    assert chip.sources["neurons_per_core"].text == "given in mine.yaml"
    assert chip.sources["neurons_per_core"].status == "assumed"
    assert chip.sources["synaptic_op_pj"].text == "a paper"
    assert chip.sources["step_ns"] == base.sources["step_ns"]
    assert chip.step_ns == base.step_ns


def test_a_range_is_kept_and_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nextends: loihi2\nstep_ns: {value: 7, range: [5, 9]}\nstatic_mw_per_chip: {value: 3, range: null}\n"
    )
    chip = load_chip(str(path))
    assert (chip.bounds("step_ns"), chip.bounds("static_mw_per_chip")) == ((5, 9), (3, 3))
    assert (chip.extreme(high=False).step_ns, chip.extreme(high=True).step_ns) == (5, 9)
    assert chip.extreme(high=True).static_mw_per_chip == 3
    assert chip.to_json()["constants"]["step_ns"]["range"] == [5.0, 9.0]
    again = Chip.from_json(chip.to_json())
    assert (again, again.sources) == (chip, chip.sources)
    # a value that replaces the constant lies inside its range
    assert replace(chip, step_ns=20.0).bounds("step_ns") == (5, 20)


def test_the_newer_profile_differs_in_its_cores_alone() -> None:
    chip, base = load_chip("loihi2-152"), load_chip("loihi2")
    assert chip.cores_per_chip == 152
    assert replace(chip, name=base.name, cores_per_chip=base.cores_per_chip) == base


def test_a_whole_description_stands_alone(tmp_path: Path) -> None:
    text = resources.files("resformer.compiler.chips").joinpath("loihi1.yaml").read_text()
    path = tmp_path / "whole.yaml"
    path.write_text(text)
    assert load_chip(str(path)) == load_chip("loihi1")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("neurons: 4", "bad.yaml:3: neurons: no such constant; there are cores_per_chip, "),
        ("neurons_per_core: -1", "bad.yaml:3: neurons_per_core is -1; the least is 1"),
        ("neurons_per_core: 0", "bad.yaml:3: neurons_per_core is 0; the least is 1"),
        ("neurons_per_core: 1.5", "bad.yaml:3: neurons_per_core is 1.5; write a whole number"),
        ("neurons_per_core: true", "bad.yaml:3: neurons_per_core is True; write a whole number"),
        ("neurons_per_core: null", "bad.yaml:3: neurons_per_core is None; write a whole number"),
        ("step_ns: .inf", "bad.yaml:3: step_ns is inf; write a number"),
        ("step_ns: -0.5", "bad.yaml:3: step_ns is -0.5; the least is 0"),
        ("step_ns: {value: 1, sauce: x}", "bad.yaml:3: step_ns has sauce; give value, status and source"),
        ("step_ns: {source: x}", "bad.yaml:3: step_ns has no value"),
        ("step_ns: {value: 1, status: sure}", "bad.yaml:3: step_ns: status 'sure' is none of published"),
        ("step_ns: 1\nstep_ns: 2", "bad.yaml:4: step_ns is there already, in line 3"),
        ("step_ns: [", "bad.yaml: no YAML: "),
        ("step_ns: {value: 2, range: [3, 1]}", "bad.yaml:3: step_ns: its range [3, 1] is reversed"),
        ("step_ns:\n  value: 2\n  range: [1, 1.5]", "bad.yaml:5: step_ns: its range [1, 1.5] leaves out its value, 2"),
        ("step_ns: {value: 2, range: [-1, 3]}", "bad.yaml:3: step_ns: its range's end is -1; the least is 0"),
        ("step_ns: {value: 2, range: [1, .inf]}", "bad.yaml:3: step_ns: its range's end is inf; write a number"),
        ("step_ns: {value: 2, range: [1]}", "bad.yaml:3: step_ns: its range is no list of two numbers"),
        ("step_ns: {value: 2, range: 3}", "bad.yaml:3: step_ns: its range is no list of two numbers"),
        ("step_ns: {value: 2, range: [[1], 3]}", "bad.yaml:3: a list, where a number"),
        ("neurons_per_core: {value: 2, range: [1, 3]}", "bad.yaml:3: neurons_per_core has a range; only energies"),
        ("shared_kernels: 2", "bad.yaml:3: shared_kernels is 2; the largest is 1"),
    ],
)
def test_wrong_constants_are_refused_with_their_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"name: bad\nextends: loihi2\n{line}\n")
    with pytest.raises(FileFormatError) as error:
        load_chip(str(path))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no chip"),
        ("- 1", "no chip"),
        ("name: a\nneurons_per_core: 1", "lacks cores_per_chip, "),
        ("extends: loihi2", "name is None"),
        ("name: a\nextends: loihi3", ":2: extends 'loihi3'; there are loihi2, loihi2-152 and loihi1"),
        ("name: a\n? [1, 2]\n: 3", "no YAML"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=r"bad\.yaml") as error:
        load_chip(str(path))
    assert message in str(error.value)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(FileFormatError, match="loihi3: no such chip; there are loihi2, loihi2-152 and loihi1"):
        load_chip("loihi3")
    with pytest.raises(OSError, match="absent"):
        load_chip("absent.yaml")
