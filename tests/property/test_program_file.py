"""Program files: what is written is read back, and any damaged file is refused or read, without a crash."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resformer.compiler.files.program import read_program, write_program
from resformer.compiler.ir.program import Program
from resformer.compiler.passes.integer.balance_delays import balance_delays
from resformer.compiler.pipeline import INTEGER_PASSES
from resformer.errors import FileFormatError
from support.compare import first_difference
from support.graphs import GraphBuilder
from support.program_files import put_together, take_apart
from support.programs import Lowered, lower, lowered_graphs

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)


@same_folder
@given(lowered=lowered_graphs())
def test_programs_are_read_as_they_were_written(tmp_path: Path, lowered: Lowered) -> None:
    program = lowered.quantized
    write_program(program, tmp_path / "program")
    assert first_difference(read_program(tmp_path / "program"), program) is None
    for integer_pass in (*INTEGER_PASSES, balance_delays):
        program = integer_pass(program)
        write_program(program, tmp_path / "program")
        assert first_difference(read_program(tmp_path / "program"), program) is None


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small program of every operation, scheduled."""
    build = GraphBuilder((1, 8, 8))
    value = build.pool("stem.2", build.norm("stem.1", build.random_conv("stem.0", "input", 2, 3, padding=1)), 2, 2, 0)
    build.head(build.attention("dssa", value, heads=2, patch=2))
    path = tmp_path_factory.mktemp("original") / "program.safetensors"
    write_program(lower(build.finish()).program, path)
    return path


def test_the_original_has_every_operation(original: Path) -> None:
    kinds = {type(node.op).__name__ for node in read_program(original)}
    assert kinds == {
        "Input", "Conv2d", "MaxPool2d", "LIF", "SpikeMatMul", "Add", "Delay", "Relay", "SumPool2d", "Flatten", "Dense",
        "Output",
    }  # fmt: skip


def read_or_refuse(path: Path) -> Program | None:
    """The program, or None where the file is refused in one printable line that names it."""
    try:
        return read_program(path)
    except FileFormatError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 400
    return None


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every entry in nested JSON."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from(
        [-(10**30), 10**12, 10**30, 1.5, float("nan"), float("inf"), "", "LIF", "input", "\x1b[31m\n", "output"]
    ),
)
junk = st.one_of(scalars, st.lists(scalars, max_size=4), st.dictionaries(st.sampled_from("ab"), scalars, max_size=2))


@settings(same_folder, max_examples=400)
@given(data=st.data())
def test_any_entry_of_the_header_may_be_anything(original: Path, tmp_path: Path, data: st.DataObject) -> None:
    metadata, program, tensors = take_apart(original)
    damaged = copy.deepcopy(program)
    for place in data.draw(st.lists(st.sampled_from(list(places(program))), min_size=1, max_size=2)):
        holder = damaged
        try:
            for key in place[:-1]:
                holder = holder[key]
            if data.draw(st.booleans()):
                holder[place[-1]] = data.draw(junk)
            else:
                del holder[place[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # the first damage took the second's place away
    put_together(tmp_path / "damaged", metadata, damaged, tensors)
    read = read_or_refuse(tmp_path / "damaged")
    if read is not None:  # another program: reading has neither dropped nor invented anything
        write_program(read, tmp_path / "again")
        _, again, _ = take_apart(tmp_path / "again")
        assert json.dumps(again, sort_keys=True) == json.dumps(damaged, sort_keys=True)


@settings(same_folder, max_examples=100)
@given(data=st.data())
def test_any_bytes_may_be_lost_or_changed(original: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(original.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (tmp_path / "damaged").write_bytes(content)
    read_or_refuse(tmp_path / "damaged")


@same_folder
@given(content=st.binary(max_size=64))
def test_any_file_may_be_given(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "damaged").write_bytes(content)
    assert read_or_refuse(tmp_path / "damaged") is None
