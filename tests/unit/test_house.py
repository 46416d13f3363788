"""The package's imports: no cycle among its files, and none inside the package of ``resformer`` itself."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("compiler", "models", "runtime")


def modules() -> dict[str, Path]:
    """All files of the package, under their modules' names."""
    found = {f"resformer.{path.stem}": path for path in (ROOT / "src" / "resformer").glob("*.py")}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(("resformer", *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


def imported(path: Path, known: frozenset[str]) -> set[str]:
    """The package's modules that a file imports, at its top or late, but for imports that only a type checker sees."""
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in known else node.module for name in names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found & known


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A cycle of a graph, or an empty list."""
    try:
        TopologicalSorter(graph).prepare()
    except ValueError as error:
        return list(error.args[1])
    return []


def test_no_file_imports_itself_in_the_end() -> None:
    known = modules()
    graph = {name: imported(path, frozenset(known)) - {name} for name, path in known.items()}
    assert len(graph) > 150, "the files were not found"
    assert circle(graph) == []


def test_a_circle_is_found() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


@pytest.mark.parametrize("room", ROOMS)
def test_nobody_inside_goes_through_the_front_door(room: str) -> None:
    known = modules()
    inside = {name: path for name, path in known.items() if name.startswith(f"resformer.{room}")}
    front = frozenset({"resformer.__init__", "resformer"})
    through = [name for name, path in inside.items() if imported(path, front)]
    assert through == []
