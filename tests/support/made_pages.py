"""Pages that tests open: the verified tiny network's, and copies of that page with changed data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from resformer.runtime.cli.report import main as report_main
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.page.write import embedded
from support.builds import Tiny, read_json
from support.pages import read_page

SAMPLES = 5

Edited: TypeAlias = Callable[[Callable[[Any], None]], Path]
"""Takes a function that changes the data of the page's build; writes a page of the changed data, returns its path."""


@dataclass(frozen=True)
class Shown:
    """A page, and the content of the files that it was made of, by their names in the page's data."""

    page: Path
    files: dict[str, Any]


@pytest.fixture(scope="session")
def shown(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The page of the tiny network, verified on five samples with labels."""
    folder = tmp_path_factory.mktemp("shown")
    result, cost, page = folder / "v.json", folder / "c.json", folder / "r.html"
    given = [str(tiny.build), "--input", str(tiny.images), "--samples", str(SAMPLES), "--labels", str(tiny.labels)]
    model = ["--model", str(tiny.model)]
    assert verify_main([*given, *model, "--backend", "sim", "--json", str(result)]) == 0
    assert run_main([*given, "--backend", "sim", "--cost", "--json", str(cost)]) == 0
    assert report_main([*given, *model, "--verify", str(result), "--cost", str(cost), "-o", str(page)]) == 0
    files = {"report": read_json(tiny.build / "report.json"), "placement": read_json(tiny.build / "placement.json")}
    return Shown(page, {**files, "verification": read_json(result), "cost": read_json(cost)})


@pytest.fixture
def edited(shown: Shown, tmp_path: Path) -> Edited:
    """A function that writes a copy of the page with changed data."""

    def write(change: Callable[[Any], None]) -> Path:
        data, text = read_page(shown.page)[0], shown.page.read_text(encoding="utf-8")
        before = embedded(data)
        change(data["builds"][0])
        path = tmp_path / "edited.html"
        assert before in text
        path.write_text(text.replace(before, embedded(data)), encoding="utf-8")
        return path

    return write


def spread(build: Any) -> None:
    """Let every layer of a placement begin on a chip of its own."""
    per_chip = len(build["placement"]["chip_cores"])
    for chip, layer in enumerate(build["placement"]["layers"]):
        layer["sites"] = [chip * per_chip + index for index in range(len(layer["sites"]))]
    build["placement"]["chips"] = len(build["placement"]["layers"])
