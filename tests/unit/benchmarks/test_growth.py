"""What ``benchmarks/growth.py`` concludes from its measurements, and what it does not run."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def growth() -> Iterator[ModuleType]:
    """The benchmark, which is part of no package, and finds its neighbour by the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("growth", BENCHMARKS / "growth.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "growth", module)
        spec.loader.exec_module(module)
        yield module


def told(growth: ModuleType, amounts: list[float], values: list[float]) -> str:
    return str(growth.sentence("time", "image", amounts, values, growth.seconds))


def test_a_line_is_called_linear_with_what_it_costs(growth: ModuleType) -> None:
    amounts = [1.0, 2.0, 4.0, 256.0]
    line = growth.fit(amounts, [0.5 + 0.25 * each for each in amounts])
    assert (line.fixed, line.each, line.off) == pytest.approx((0.5, 0.25, 0.0), abs=1e-9)
    found = told(growth, amounts, [0.5 + 0.25 * each for each in amounts])
    assert found == "time: linear, 500 ms and 250 ms an image (no point further off than 0%)"


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ([1.0, 1.02, 1.05, 1.01], ["does not grow, 1 s to 1.05 s"]),
        (
            [1.0, 2.0, 4.0, 16.0],
            ["not linear", "from 1 to 8 an image grows dearer, 1 s to 2 s, most from 4 to 8"],
        ),
        (
            [4.0, 4.1, 4.0, 16.0],
            [
                "not linear",
                "costs 4 s at 1 and 1 s at 4, as a fixed cost",
                "grows dearer, 1 s to 2 s, most from 4 to 8",
            ],
        ),
        ([1.0, 2.0, 2.2, 2.3], ["not linear", "costs 1 s at 1 and 288 ms at 8"]),
    ],
)
def test_what_is_not_linear_says_why(growth: ModuleType, values: list[float], parts: list[str]) -> None:
    found = told(growth, [1.0, 2.0, 4.0, 8.0], values)
    assert found.startswith("time: ")
    for part in parts:
        assert part in found


def test_what_would_exceed_a_budget_is_foretold(growth: ModuleType) -> None:
    small = growth.Point("ti", 224, 4, 8, 1)
    before = (small, growth.Measured(seconds=2.0, peak=3e9, above=1e9, products=100.0))
    budget = growth.Budget(seconds=10.0, bytes=6e9, rounds=3)
    larger = growth.replace(small, batch=16)
    assert growth.too_much(larger, 200.0, budget, before) is None
    assert "would take 20 s a run, budget 10 s" in growth.too_much(
        growth.replace(small, batch=80), 1000.0, budget, before
    )
    assert "would hold 5.59 GiB" in growth.too_much(
        growth.replace(small, batch=32), 400.0, growth.Budget(10, 5e9, 3), before
    )
    other = growth.replace(small, variant="l")
    assert "would hold" in growth.too_much(other, 450.0, budget, before)


def test_a_point_that_was_not_run_is_a_row_that_says_so(growth: ModuleType) -> None:
    (batches, *_) = growth.all_series(False, 2)
    assert [point.batch for point in batches.points] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    found = {
        point: growth.Measured(0.1 * point.batch, 4e8, 1e6 * point.batch, 1e9 * point.batch) for point in batches.points
    }
    last = batches.points[-1]
    found[last] = growth.Measured(products=1e9, skipped="not run: would take 2 h")
    table = growth.rows(batches, found)
    assert table[-1][1] == "not run: would take 2 h"
    assert table[0][1:4] == ["0.1000", "10.00", "10.0"]
    time, memory = growth.conclusions(batches, found)
    assert "time: linear" in time
    assert "memory: linear" in memory
    one = {growth.replace(point, threads=1): each for point, each in found.items()}
    assert growth.scaling(one, found, 2).startswith("threads: not linear, 2 are 1.00 (")
