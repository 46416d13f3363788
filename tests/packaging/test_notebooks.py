"""The notebooks run from top to bottom, and what they show is in the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from support import scripts

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 300_000
"""Bytes of a notebook with its outputs."""


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> list[tuple[str, list[str]]]:
    """Of each output, its kind and its formats."""
    return [(each.output_type, sorted(each.get("data", {}))) for each in cell.outputs]


def text(output: Any) -> str:
    """All that an output says, but for images."""
    data = output.get("data", {})
    return "".join([output.get("text", ""), *(data[each] for each in data if each.startswith("text/"))])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_and_show_what_they_showed(path: Path) -> None:
    executed = scripts.load(ROOT / "tools" / "notebooks.py", "resformer_notebooks").execute(path)
    for cell, before in zip(code(executed), code(nbformat.read(path, as_version=4)), strict=True):
        assert shown(cell) == shown(before), f"make notebooks: {cell.source}"
        assert not [each for each in cell.outputs if each.get("name") == "stderr"], cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_with_their_outputs_and_light(path: Path) -> None:
    assert path.stat().st_size < LARGEST
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code(notebook)] == [*range(1, len(code(notebook)) + 1)]
    told = [text(output) for cell in code(notebook) for output in cell.outputs]
    assert any("EQUIVALENT: " in each and "NOT EQUIVALENT" not in each for each in told)
    for each in told:
        assert not re.search(r"(?<![\w.:/<])/[a-z]+/\w", each), f"the path of a machine: {each}"
        assert not re.search(r"[A-Z]:\\", each)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["first_network", "own_lava_program"]
