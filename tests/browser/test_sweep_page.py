"""The page of a sweep in a real browser: every number that of the table, whatever axes are chosen."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resformer.runtime.cli.sweep import COSTS, GAINS, Point, to_json
from resformer.runtime.page.sweep import write_sweep_page
from support.pages import read_page

HOSTILE = "<img src=x onerror=window.broken=1>"


def point(bits: str, steps: str, accuracy: float, energy: float, latency: float, *, fits: bool = True) -> Point:
    """A combination, of which everything was measured."""
    return Point(
        {"weight-bits": bits, "timesteps": steps},
        fits=fits,
        cores=10 + int(bits),
        chips=1,
        sqnr_db=6.02 * int(bits),
        samples=100,
        accuracy=accuracy,
        accuracy_low=accuracy - 0.03,
        accuracy_high=accuracy + 0.02,
        accuracy_original=0.97,
        agreement=accuracy + 0.005,
        agreement_low=accuracy - 0.01,
        agreement_high=accuracy + 0.015,
        sops=1234567.5 * energy,
        paper_mj=energy / 7,
        energy_mj=energy,
        energy_mj_low=0.8 * energy,
        energy_mj_high=1.3 * energy,
        power_mw=200 + energy,
        power_mw_low=150.0,
        power_mw_high=300.0,
        latency_us=latency,
        latency_us_low=latency,
        latency_us_high=latency,
        interval_us=latency / 3,
        interval_us_low=latency / 4,
        interval_us_high=latency / 2,
        saturated=int(10 * energy),
        page=f"{bits}-{steps}.html",
    )


POINTS = (
    point("4", "1", 0.91, 0.1, 500.0),
    point("4", "4", 0.925, 0.4, 900.0),
    point("8", "1", 0.93, 0.12, 650.0),
    point("8", "4", 0.96, 0.5, 990.0),
    point("9", "4", 0.97, 0.45, 870.0, fits=False),
    Point({"weight-bits": "9", "timesteps": HOSTILE}, error=f"no such value {HOSTILE}"),
)


def written(folder: Path, points: tuple[Point, ...] = POINTS, file: str | None = "x.npy") -> Path:
    page, given = folder / "s.html", None if file is None else Path(file)
    table = to_json(points, Namespace(model=Path("m.pt"), input=given))
    pages = [each.page and f"s-points/{each.page}" for each in points]
    write_sweep_page(table, pages=pages, told={"warnings": [f"doubtful {HOSTILE}"], "notes": ["a note"]}, path=page)
    return page


def values(page: Any) -> list[list[str]]:
    """What the cells of the table hold, by rows."""
    found: list[list[str]] = page.locator("table.ways tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.dataset.value))"
    )
    return found


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark", "viewport": {"width": 390, "height": 800}}])
def test_numbers_are_those_of_the_table(tmp_path: Path, open_page: Callable[..., Any], options: dict[str, Any]) -> None:
    path = written(tmp_path)
    page, data = open_page(path, **options), read_page(path)[0]
    expected = data["sweep"]["points"]
    keys = (*GAINS, *COSTS)
    for index, (cells, each) in enumerate(zip(values(page), expected, strict=True)):
        assert cells[:3] == [str(index + 1), *each["choices"].values()]
        shown = [None if cell == "" else float(cell) for cell in cells[3 : 3 + len(keys)]]
        assert shown == [each[key] for key in keys]
    links = page.locator("table.ways a").evaluate_all("each => each.map(one => one.getAttribute('href'))")
    assert links == [each for each in data["pages"] if each is not None]
    figures = {each.get_attribute("data-key"): each for each in page.locator(".figures [data-key]").all()}
    best = max(each["accuracy"] for each in expected if each["fits"])
    assert float(figures["accuracy"].get_attribute("data-value")) == best
    assert float(figures["accuracy_original"].get_attribute("data-value")) == 0.97
    # names and reasons are text
    assert page.evaluate("window.broken") is None
    assert f"no such value {HOSTILE}" in page.locator("#to-know").inner_text()
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_axes_are_chosen_by_keyboard_and_fronts_are_those_of_the_table(
    tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    path = written(tmp_path)
    page, sweep = open_page(path), read_page(path)[0]["sweep"]
    # the second gains less than the third, which costs less; the fifth does not fit
    assert sweep["fronts"]["accuracy"]["energy_mj"] == [0, 2, 3]
    page.locator("input[name=sweep-gain]").first.focus()
    for row, gain in enumerate(GAINS):
        if row:
            page.locator("input[name=sweep-gain]:checked").focus()
            page.keyboard.press("ArrowRight")
        page.locator("input[name=sweep-cost]").first.check(force=True)
        for column, cost in enumerate(COSTS):
            if column:
                page.locator("input[name=sweep-cost]:checked").focus()
                page.keyboard.press("ArrowRight")
            marks = page.locator("svg.pareto .way[data-index]").evaluate_all(
                "all => all.map(each => [each.dataset.index, each.dataset.x, each.dataset.y, each.matches('.best')])"
            )
            front = sweep["fronts"][gain][cost]
            assert {int(index): (float(x), float(y), best) for index, x, y, best in marks} == {
                index: (each[cost], each[gain], index in front)
                for index, each in enumerate(sweep["points"])
                if each["error"] is None
            }
            rows = page.locator("table.ways tr.front").evaluate_all("all => all.map(one => Number(one.dataset.index))")
            assert sorted(rows) == sorted(front)
            bars = page.locator("svg.pareto .interval").evaluate_all("all => all.map(one => one.dataset.interval)")
            wide = [
                f"{key} {index}"
                for index, each in enumerate(sweep["points"])
                for key in (cost, gain)
                if each.get(f"{key}_low") is not None and each[f"{key}_low"] != each[f"{key}_high"]
            ]
            assert sorted(bars) == sorted(wide)
    page.locator("label", has_text="hidden").click()
    assert page.locator("svg.pareto .interval").count() == 0
    # what does not fit is shown, and is no choice
    assert page.locator("svg.pareto .way.unfit").count() == 1
    assert page.locator("svg.pareto a.way").first.get_attribute("href").startswith("s-points/")


def test_headings_sort_and_a_way_is_marked_in_both(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(written(tmp_path))
    heads = page.locator("table.ways thead th")
    at = heads.all_inner_texts().index("latency")
    heads.nth(at).locator("button").press("Enter")
    assert heads.nth(at).get_attribute("aria-sort") == "descending"
    shown = [float(cells[at]) for cells in values(page) if cells[at]]
    assert shown == sorted(shown, reverse=True)
    assert page.locator("table.ways tr.front").count() == 3
    way = page.locator("svg.pareto .way[data-index='3']")
    way.focus()
    assert page.locator("table.ways tr.hot").evaluate_all("all => all.map(one => one.dataset.index)") == ["3"]
    said = way.get_attribute("aria-label")
    assert said.startswith("weight-bits 8, timesteps 4, accuracy 96.00 % (93.00 % to 98.00 %), energy a sample 500 µJ")


def test_without_labels_agreement_stands_for_accuracy(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    hidden = {"accuracy": None, "accuracy_low": None, "accuracy_high": None, "accuracy_original": None}
    page = open_page(written(tmp_path, tuple(Point(**{**vars(each), **hidden}) for each in POINTS[:4])))
    keys = page.locator("input[name=sweep-gain]").evaluate_all("all => all.map(one => one.value)")
    assert keys == ["agreement", "sqnr_db"]
    assert "agreement with the original and energy" in page.locator(".sweep-view .told").inner_text()
    assert "accuracy" not in page.locator("table.ways thead").inner_text()


def test_without_samples_widths_are_plotted_against_cores(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    points = tuple(
        Point({"weight-bits": bits}, sqnr_db=6.0 * int(bits), cores=int(bits) + 3, fits=True) for bits in "48"
    )
    page = open_page(written(tmp_path, points, None))
    assert page.locator("svg.pareto g.way.best[data-index]").count() == 2
    assert "No samples were run" in page.locator("header.top").inner_text()
    # nothing at all
    page = open_page(written(tmp_path, (Point({"weight-bits": "4"}),), None))
    assert "Nothing was measured that could be plotted" in page.locator(".empty").inner_text()
