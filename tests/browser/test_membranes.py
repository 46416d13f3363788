"""Membrane traces in a real browser: chosen by keyboard, and every number that of the page's data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resformer.runtime.cli.report import main
from support.builds import Tiny
from support.pages import read_page


@pytest.fixture(scope="module")
def report(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("membranes") / "r.html"
    assert main([str(tiny.build), "--input", str(tiny.images), "--samples", "6", "-o", str(page)]) == 0
    return page


def numbers(page: Any) -> list[list[float]]:
    """What the table of the trace holds, a list a column."""
    rows = page.locator("#membrane table.trace-numbers tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.querySelectorAll('td[data-value]')].map(cell => Number(cell.dataset.value)))"
    )
    return [list(column) for column in zip(*rows, strict=True)]


def shown_of(trace: Any) -> list[list[float]]:
    return [trace[side][key] for side in ("integer", "real") for key in ("current", "potential", "left", "spikes")]


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark", "viewport": {"width": 390, "height": 800}}])
def test_the_numbers_are_those_of_the_data(
    report: Path, open_page: Callable[..., Any], options: dict[str, Any]
) -> None:
    page, traces = open_page(report, **options), read_page(report)[0]["builds"][0]["run"]["membranes"]
    section = page.locator("#membrane")
    names = section.locator("select option").evaluate_all("each => each.map(one => one.value)")
    assert names == list(traces["layers"])
    for name in (names[1], names[-1]):
        section.locator("select").select_option(name)
        keys = section.locator("input[name=membrane-neuron]")
        assert keys.count() == len(traces["layers"][name])
        for index, trace in enumerate(traces["layers"][name]):
            if index:
                # radio buttons: an arrow goes on to the next
                page.keyboard.press("ArrowRight")
            else:
                keys.first.focus()
            assert numbers(page) == shown_of(trace)
            said = section.locator(".told").inner_text()
            assert said.startswith(f"Neuron ({', '.join(map(str, trace['index']))}) of {name}: ")
            differ = sum(a != b for a, b in zip(trace["integer"]["spikes"], trace["real"]["spikes"], strict=True))
            assert section.locator("svg.trace .differ").count() == differ
            assert section.locator("svg.trace .spike.whole").count() == sum(trace["integer"]["spikes"])
    section.locator("summary").click()
    section.locator("label", has_text="Loihi's integers").click()
    cells = section.locator("table.trace-numbers tbody td:nth-child(4)").all_inner_texts()
    assert [int(each.replace(",", "")) for each in cells] == trace["integer"]["potential"]
    # the threshold line says the register's value, and the page does not scroll sideways
    assert f"{trace['integer']['threshold']:,}" in section.locator(".threshold-text").text_content()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
