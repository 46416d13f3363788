"""What the type checker refuses: a float graph where an integer program belongs, and the reverse.

Each case is a line of code and the error code with which mypy must refuse it, or None where mypy must accept it. The
error code is given so that a line refused for another reason, such as a wrong import, fails its test.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import nir
import pytest

ROOT = Path(__file__).parents[2]

HEADER = """\
from pathlib import Path

import nir
import numpy as np

from resformer.compiler.backends import Runner
from resformer.compiler.files.nir import write_nir
from resformer.compiler.files.program import write_program
from resformer.compiler.ir import float_interpreter, reference
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.primitives import as_layer
from resformer.compiler.ir.ops import Op
from resformer.compiler.ir.program import Scheduled, Unscheduled
from resformer.compiler.ir.verify import verify_graph, verify_program
from resformer.compiler.passes.float.fold_batchnorm import fold_batchnorm
from resformer.compiler.passes.integer.balance_delays import balance_delays
from resformer.compiler.passes.integer.bound_ranges import bound_ranges
from resformer.compiler.passes.integer.place_biases import place_biases
from resformer.compiler.quantize.lower import quantize
from resformer.compiler.quantize.plan import QuantizationPlan

float_graph: Graph[nir.NIRNode]
program: Unscheduled
scheduled: Scheduled
run: Runner
encoded = np.zeros((1, 1, 4, 4), dtype=np.int32)
plan: QuantizationPlan
float_node: Node[nir.NIRNode]
integer_node: Node[Op]
weight = np.zeros((2, 3))
samples = np.zeros((1, 1, 4, 4), dtype=np.int64)
path = Path("a")

"""

CASES: list[tuple[str, str | None]] = [
    # a float pass
    ("fold_batchnorm(program)", "arg-type"),
    ("fold_batchnorm(fold_batchnorm(float_graph))", None),
    # an integer pass
    ("place_biases(float_graph)", "arg-type"),
    ("place_biases(bound_ranges(program))", None),
    # a schedule, which is made once, and which backends need
    ("balance_delays(bound_ranges(program))", None),
    ("balance_delays(balance_delays(program))", "arg-type"),
    ("place_biases(scheduled)", "arg-type"),
    ("run(program, encoded)", "arg-type"),
    ("run(balance_delays(program), encoded)", None),
    ("program.latency", "attr-defined"),
    ("scheduled.latency", None),
    # quantizing, which leads from the one to the other, once
    ("quantize(program, plan)", "arg-type"),
    ("quantize(quantize(float_graph, plan), plan)", "arg-type"),
    ("fold_batchnorm(quantize(float_graph, plan))", "arg-type"),
    ("place_biases(quantize(fold_batchnorm(float_graph), plan))", None),
    # the interpreters
    ("float_interpreter.run(program, samples)", "arg-type"),
    ("reference.run(float_graph, samples)", "arg-type"),
    ("float_interpreter.run(float_graph, samples)", None),
    ("reference.run(program, samples)", None),
    # the verifiers
    ("verify_graph(program)", "arg-type"),
    ("verify_program(float_graph)", "arg-type"),
    ("verify_graph(float_graph)", None),
    ("verify_program(program)", None),
    # the files
    ("write_nir(program, path)", "arg-type"),
    ("write_program(float_graph, path)", "arg-type"),
    ("write_nir(float_graph, path)", None),
    ("write_program(program, path)", None),
    # the nodes
    ("float_graph.edit().set_op('a', integer_node.op)", "arg-type"),
    ("program.edit().set_op('a', float_node.op)", "arg-type"),
    ("float_graph.edit().set_op('a', float_node.op)", None),
    ("program.edit().set_op('a', integer_node.op)", None),
    # NIR's own nodes, as typings/nir states them
    ("float_node.op.weight", "attr-defined"),
    ("as_layer(float_node.op).weight", None),
    ("nir.Affine(weight)", "call-arg"),
    ("nir.Linear(weight)", None),
]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The error codes that mypy gives each case, by its code; one run for all of them."""
    api = pytest.importorskip("mypy.api", reason="mypy is not installed")
    checked = tmp_path_factory.mktemp("types") / "checked.py"
    checked.write_text(HEADER + "".join(f"{code}\n" for code, _ in CASES))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # the paths in pyproject.toml start there
        output, problems, _ = api.run([str(checked), "--no-error-summary", "--hide-error-context", "--no-pretty"])
    assert not problems, problems
    found: dict[str, list[str]] = {code: [] for code, _ in CASES}
    lines = [*HEADER.splitlines(), *found]
    for file, line, kind, error in re.findall(r"^(.+?):(\d+): error: (.*?)  \[([a-z-]+)\]$", output, re.MULTILINE):
        code = lines[int(line) - 1] if Path(file).name == checked.name else ""
        assert code in found, f"{file}:{line}: {kind} [{error}]: not a case"
        found[code].append(error)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("code", "error"), CASES, ids=[code for code, _ in CASES])
def test_mypy_refuses_what_mixes_levels_and_nothing_else(
    code: str, error: str | None, refusals: dict[str, list[str]]
) -> None:
    assert refusals[code] == ([] if error is None else [error])


def test_every_case_is_there_once() -> None:
    codes = [code for code, _ in CASES]
    assert len(set(codes)) == len(codes)


def _stubs() -> dict[str, ast.ClassDef]:
    tree = ast.parse((ROOT / "typings/nir/ir/__init__.pyi").read_text())
    return {each.name: each for each in tree.body if isinstance(each, ast.ClassDef)}


@pytest.mark.parametrize("name", sorted(_stubs()))
def test_the_stubs_state_the_fields_of_the_installed_nir(name: str) -> None:
    stated = [
        each.target.id
        for each in _stubs()[name].body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    ]
    installed = [each.name for each in dataclasses.fields(getattr(nir, name))]
    inherited = () if name == "NIRNode" else ("input_type", "output_type", "metadata")
    # what a class states again, such as Input its type, takes the place of what it inherits
    assert sorted(stated) == sorted(each for each in installed if each not in inherited or each in stated)
    assert [each for each in installed if each in stated] == stated
