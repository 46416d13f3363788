"""Each way in which a program file can be wrong, and the line that says so."""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from resformer.compiler.backends.sim import SimBackend
from resformer.compiler.files.program import FORMAT_VERSION, read_program, write_program
from resformer.compiler.ir import ops, reference
from resformer.compiler.ir.ops import Relay
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import Signal
from resformer.compiler.passes.integer.balance_delays import balance_delays
from resformer.compiler.passes.integer.bound_ranges import bound_ranges
from resformer.errors import FileFormatError
from support.program_files import Tensors, put_together, take_apart
from support.programs import GRADED, ProgramByHand

Damage = Callable[[Any, Tensors], object]


def small_program() -> Program:
    build = ProgramByHand((1, 4, 4))
    conv = build.conv("conv", "input", np.ones((2, 1, 3, 3)), padding=1)
    pool = build.add("pool", ops.MaxPool2d(Signal(GRADED, 0), (2, 2), (2, 2), (0, 0)), conv)
    lif = build.lif("lif", pool, 3)
    total = build.sum("sum", build.conv("conv2", lif, np.ones((2, 2, 1, 1))), pool)
    total = build.add("relay", Relay(Signal(GRADED, 0), np.zeros(2, dtype=np.int32), 1000), total)
    value = build.add("flatten", ops.Flatten(Signal(GRADED, 0)), total)
    build.output(build.dense("classifier", value, np.ones((3, 8))), divisor=4)
    return balance_delays(bound_ranges(build.finish(timesteps=2)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_program(small_program(), tmp_path / "program.safetensors")
    return tmp_path / "program.safetensors"


def test_a_program_is_always_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for index in range(8):
        write_program(small_program(), tmp_path / f"{index}.safetensors")
        contents.append((tmp_path / f"{index}.safetensors").read_bytes())
    assert len(set(contents)) == 1


def refusal(path: Path) -> str:
    """The message with which the file is refused, without its name; one printable line."""
    with pytest.raises(FileFormatError) as caught:
        read_program(path)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def entry(program: Any, name: str) -> Any:
    (found,) = (each for each in program["nodes"] if each["name"] == name)
    return found


def set_value(name: str, field: str, value: Any) -> Damage:
    return lambda program, tensors: entry(program, name)["values"].update({field: value})


def set_signal(name: str, index: int, value: Any) -> Damage:
    return lambda program, tensors: entry(program, name)["signal"].__setitem__(index, value)


def set_field(name: str, field: str, value: Any) -> Damage:
    return lambda program, tensors: entry(program, name).update({field: value})


def set_fact(key: str, value: Any) -> Damage:
    return lambda program, tensors: program.update({key: value})


def set_tensor(key: str, array: Any) -> Damage:
    return lambda program, tensors: tensors.update({key: array})


def empty(program: Any, tensors: Tensors) -> None:
    tensors.clear()
    program.update({"nodes": [], "offsets": None})


DAMAGES: dict[str, tuple[Damage, str]] = {
    "missing tensor": (lambda p, t: t.pop("conv/weight"), "the tensor conv/weight is missing"),
    "tensor that nothing reads": (set_tensor("spare", np.zeros(1)), "no node has the tensor spare"),
    "wrong type": (
        lambda p, t: t.update({"conv/weight": t["conv/weight"].astype(np.int32)}),
        "the tensor conv/weight is int32, not int8",
    ),
    "weight beyond 8 bits": (
        set_tensor("conv2/weight", np.full((2, 2, 1, 1), -128, dtype=np.int8)),
        r"conv2: weight spans \[-128, -128\], beyond \[-127, 127\]",
    ),
    "weight of another shape": (
        set_tensor("conv2/weight", np.zeros((2, 3, 1, 1), dtype=np.int8)),
        "conv2: weights for 3 x 1 channels, but 2 come in",
    ),
    "weight of five axes": (
        set_tensor("conv2/weight", np.zeros((2, 2, 1, 1, 1), dtype=np.int8)),
        "conv2: a kernel of 3 axes, not 2",
    ),
    "empty kernel": (
        set_tensor("conv2/weight", np.zeros((2, 2, 0, 1), dtype=np.int8)),
        "conv2: kernel, stride and dilation must be at least 1",
    ),
    "bias that is no number": (
        set_tensor("output/bias", np.array([0.0, np.nan, 0.0])),
        "output: bias holds NaN or infinite values",
    ),
    "no nodes": (empty, "a graph without nodes"),
    "nodes that are none": (set_fact("nodes", [3]), "there is no name in 3"),
    "program that is a list": (lambda p, t: p.clear(), r"there is no nodes in \{\}"),
    "unknown operation": (set_field("lif", "op", "Reactor"), "lif is a Reactor, which is no operation"),
    "operation of Python": (set_field("lif", "op", "__import__"), "lif is a __import__, which is no operation"),
    "operation without its fields": (set_field("lif", "op", "Delay"), "there is no steps in"),
    "input that does not exist": (
        set_field("lif", "inputs", ["ghost"]),
        "lif: reads ghost, which does not come before",
    ),
    "cycle": (set_field("lif", "inputs", ["sum"]), "lif: reads sum, which does not come before it"),
    "input that is no name": (set_field("lif", "inputs", [["pool"]]), "unhashable"),
    "two nodes of one name": (
        lambda p, t: (p.update({"offsets": None}), entry(p, "sum").update({"name": "lif"})),
        "lif: two nodes have this name",
    ),
    "shape that nothing makes": (set_field("lif", "shape", [2, 2, 3]), r"lif: makes shape \(2, 2, 2\)"),
    "shape of words": (set_field("lif", "shape", ["2", 2, 2]), "the shape of lif is '2'"),
    "shape of truths": (set_field("lif", "shape", [True, 2, 2]), "the shape of lif is True"),
    "negative shape": (set_field("input", "shape", [1, -4, 4]), "is not of positive integers"),
    "giant shape": (set_field("input", "shape", [1, 10**12, 10**12]), "conv: makes shape"),
    "giant number": (set_field("input", "shape", [10**13, 4, 4]), "the shape of input is 10000000000000"),
    "no steps": (set_fact("timesteps", 0), "timesteps is 0"),
    "negative steps": (set_fact("timesteps", -4), "timesteps is -4"),
    "steps that are a word": (set_fact("timesteps", "4"), "timesteps is '4', not of type int"),
    "more steps than memory": (set_fact("timesteps", 2**39), "input has 8796093022208 values over all steps"),
    "metadata of lists": (set_fact("metadata", {"dt": [1]}), "metadata: dt is a list"),
    "metadata that are none": (set_fact("metadata", None), "metadata is None, not of type dict"),
    "schedule with a hole": (lambda p, t: p["offsets"].pop("lif"), "lif: has no step in the schedule"),
    "schedule that is wrong": (
        lambda p, t: p["offsets"].update({"lif": 2}),
        "lif: is at step 2, but its inputs imply 1",
    ),
    "schedule of fractions": (lambda p, t: p["offsets"].update({"lif": 1.0}), "the step of lif is 1.0"),
    "schedule of strangers": (lambda p, t: p["offsets"].update({"x": 1}), "the schedule names x, which is no node"),
    "no word on a schedule": (lambda p, t: p.pop("offsets"), "there is no offsets in"),
    "stride of zero": (set_value("conv", "stride", [0, 1]), "conv: kernel, stride and dilation must be at least 1"),
    "stride of one axis": (set_value("conv", "stride", [1]), "index out of range"),
    "stride that is a word": (set_value("conv", "stride", "11"), "stride is '11', not of type list"),
    "negative padding": (set_value("conv", "padding", [-1, 1]), "conv: padding -1 is negative"),
    "padding without end": (set_value("conv", "padding", [1000, 1]), "conv: makes shape"),
    "no groups": (set_value("conv", "groups", 0), "conv: weights for 1 x 0 channels, but 1 come in"),
    "threshold beyond 17 bits": (set_value("lif", "vth", 2**17), r"lif: vth spans \[131072, 131072\]"),
    "threshold that is a fraction": (set_value("lif", "vth", 3.0), "vth is 3.0, not of type int"),
    "exponent beyond 3 bits": (
        set_tensor("lif/bias_exp", np.array([8], dtype=np.int8)),
        r"lif: bias_exp spans \[8, 8\]",
    ),
    "shift that is no width": (set_value("relay", "shift", -1), r"relay: shift spans \[-1, -1\]"),
    "delay of nothing": (set_value("sum.delay", "steps", 0), "sum.delay: delays by 0 steps"),
    "division by zero": (set_value("output", "divisor", 0), "output: divisor is 0"),
    "scale out of this world": (set_signal("conv", 1, 65), "a scale's exponent is 65"),
    "signal of a new kind": (set_signal("conv", 0, "smoke"), "'smoke' is not a valid SignalKind"),
    "signal of too few parts": (set_field("conv", "signal", ["current", 0]), "not enough values"),
    "bounds upside down": (set_signal("conv", 2, 1000), "conv: low 1000 above high"),
    "bound that is a fraction": (set_signal("conv", 2, -0.5), "a signal's bound is -0.5"),
    "currents that may wrap": (set_signal("pool", 3, 2**17), "lif: a neuron's input spans"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named(path: Path, damage: Damage, message: str) -> None:
    metadata, program, tensors = take_apart(path)
    damage(program, tensors)
    put_together(path, metadata, program, tensors)
    said = refusal(path)
    assert said.startswith("damaged: ")
    assert said.endswith("; compile the model again")
    assert re.search(message, said), said


def test_a_convolution_may_pad_by_more_than_its_window(tmp_path: Path) -> None:
    """PyTorch's convolutions may, too; some windows then read only zeros."""
    build = ProgramByHand((1, 4, 4))
    conv = build.conv("conv", "input", np.ones((2, 1, 1, 1)), padding=1)
    wide = build.conv("wide", build.lif("lif", conv, 3), np.ones((2, 2, 3, 3)), padding=5)
    value = build.add("flatten", ops.Flatten(Signal(GRADED, 0)), wide)
    build.output(build.dense("classifier", value, np.ones((3, 2 * 14 * 14))), divisor=4)
    program = balance_delays(bound_ranges(build.finish(timesteps=2)))
    write_program(program, tmp_path / "program.safetensors")
    samples = np.arange(16, dtype=np.int32).reshape(1, 1, 4, 4) % 5
    expected = reference.run(program, samples)
    read = read_program(tmp_path / "program.safetensors")
    assert_array_equal(reference.run(read, samples).logits, expected.logits)
    assert_array_equal(SimBackend().run(read, samples, self_check=True).logits, expected.logits)


def test_padding_and_delays_out_of_all_proportion_are_refused(path: Path) -> None:
    """They would make a small file take all memory when run, however consistent they are."""
    metadata, program, tensors = take_apart(path)
    conv = entry(program, "conv")
    conv["values"] |= {"padding": [3 * 10**6, 1], "stride": [2 * 10**6, 1]}
    put_together(path, metadata, program, tensors)
    assert "conv pads what it reads to 36000024 values a step, the limit is 16777216" in refusal(path)

    write_program(small_program(), path)
    metadata, program, tensors = take_apart(path)
    entry(program, "pool")["values"] |= {"padding": [2, 0], "stride": [4, 2]}
    put_together(path, metadata, program, tensors)
    assert "pool pads by (2, 0) for windows of (2, 2)" in refusal(path)

    _, program, _ = take_apart(path)
    write_program(small_program(), path)
    metadata, program, tensors = take_apart(path)
    program["offsets"] = None
    entry(program, "sum.delay")["values"]["steps"] = 10**6
    put_together(path, metadata, program, tensors)
    assert "sum.delay waits 1000000 steps in a program of 11 nodes" in refusal(path)


def test_names_from_the_file_cannot_forge_lines_or_colours(path: Path) -> None:
    metadata, program, tensors = take_apart(path)
    entry(program, "lif")["op"] = "\x1b[31m\nall is well\r" + "x" * 1000
    put_together(path, metadata, program, tensors)
    said = refusal(path)
    assert "all is well" in said
    assert len(said) < 300


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, 2000, -1])
def test_truncated_files_are_refused(path: Path, size: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:size])
    assert "not a readable safetensors file" in refusal(path)


def test_bytes_too_many_are_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    assert "not a readable safetensors file" in refusal(path)


def test_a_header_that_claims_to_be_huge_is_refused(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:])
    assert "not a readable safetensors file" in refusal(path)


def test_json_nested_without_end_is_refused(path: Path) -> None:
    metadata, _, tensors = take_apart(path)
    from safetensors.numpy import save_file

    save_file(tensors, path, metadata | {"program": "[" * 100_000})
    assert refusal(path).startswith("damaged: ")


def test_a_number_of_thousands_of_digits_is_refused(path: Path) -> None:
    metadata, _, tensors = take_apart(path)
    from safetensors.numpy import save_file

    save_file(tensors, path, metadata | {"program": '{"timesteps": ' + "9" * 5000 + "}"})
    assert refusal(path).startswith("damaged: ")


def test_a_pickle_is_not_unpickled(path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (path.with_name("exploded"),)

    path.write_bytes(pickle.dumps(Bomb()))
    refusal(path)
    assert not path.with_name("exploded").exists()


def test_tensors_that_numpy_lacks_are_refused(path: Path) -> None:
    """Here tensors of bfloat16."""
    import torch
    from safetensors.torch import save_file

    metadata, _, _ = take_apart(path)
    save_file({"conv/weight": torch.zeros(1, dtype=torch.bfloat16)}, path, {"program": "{}"} | metadata)
    assert "not a readable safetensors file" in refusal(path) or "damaged" in refusal(path)


def test_other_safetensors_files_are_told_apart(path: Path) -> None:
    metadata, program, tensors = take_apart(path)
    put_together(path, metadata | {"format": "pt"}, program, tensors)
    assert refusal(path) == "a safetensors file, but not a resformer-program; give the program of a build"


@pytest.mark.parametrize("version", ["0", str(FORMAT_VERSION + 1), "\x1b"])
def test_other_versions_are_refused(path: Path, version: str) -> None:
    metadata, program, tensors = take_apart(path)
    put_together(path, metadata | {"version": version}, program, tensors)
    assert re.search(rf"format version .*, this resformer reads {FORMAT_VERSION}; compile", refusal(path))


def test_absent_files_and_folders_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing") == "no such file; compile the model first"
    assert refusal(tmp_path) == "not a file; compile the model first"
