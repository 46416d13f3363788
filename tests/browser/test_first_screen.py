"""What a reader meets first, in a real browser: answers whose numbers are the files' own."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from support.made_pages import Edited, Shown

FACTORS = {"%": 100, "points": 100, "mJ": 1, "µJ": 1e3, "nJ": 1e6, "s": 1e-6, "ms": 1e-3, "µs": 1, "W": 1e-3, "mW": 1}
"""From the files' shares, mJ, us and mW to what is shown."""


ENERGIES = ("synapses", "neurons", "messages")


def at(files: Any, path: str) -> Any:
    for key in path.split("/"):
        files = files[int(key)] if isinstance(files, list) else files[key]
    return files


def number(text: str) -> tuple[float, str, float]:
    """A number as it is shown, its unit, and by how much rounding may have changed it."""
    found = re.fullmatch(r"([−+]?)([\d,]+(?:\.(\d+))?) ?(\D*)", text)
    assert found, text
    sign, digits, decimals, unit = found.groups()
    return float(digits.replace(",", "")) * (-1 if sign == "−" else 1), unit.strip(), 0.5 * 10.0 ** -len(decimals or "")


def test_every_cited_number_is_the_files_own(shown: Shown, open_page: Callable[..., Any]) -> None:
    page = open_page(shown.page)
    cited = page.locator("[data-path]").evaluate_all(
        "each => each.map(one => [one.dataset.path, one.dataset.value, one.textContent])"
    )
    paths = {path for path, *_ in cited}
    for name in ("original", "quantized"):
        assert f"verification/accuracy/{name}" in paths
        assert f"verification/accuracy_intervals/{name}/0" in paths
    assert {"cost/energy_mj/total", "cost/intervals/latency_us/1", "placement/cores"} < paths
    for path, value, text in cited:
        expected = at(shown.files, path)
        assert float(value) == expected, path
        said, unit, half = number(text)
        if "drop" in path:  # a drop of 0.01 is a change of -1 point
            expected, unit = -expected, "points"
        scales = [FACTORS[unit]] if unit in FACTORS else [1, *FACTORS.values()]
        assert any(abs(said - expected * scale) <= half * (1 + 1e-9) for scale in scales), (path, text, expected)


def test_accuracies_are_the_verifications(edited: Edited, open_page: Callable[..., Any]) -> None:
    """Not those of the samples that ran for the page."""

    def change(build: Any) -> None:
        build["run"]["accuracy"] = 0.123
        build["verification"] |= {"samples": 1000, "accuracy": {"original": 0.983, "quantized": 0.982}}

    page = open_page(edited(change))
    rows = page.locator(".answer:nth-child(2) tr").all_inner_texts()
    assert [row.split("\t")[:2] for row in rows] == [["original", "98.3 %"], ["quantized", "98.2 %"]]
    assert "12.3" not in page.locator(".summary").inner_text()


@pytest.mark.parametrize(
    ("limits", "shortfalls", "word", "tone"),
    [
        ({"min_agreement": None, "max_accuracy_drop": None}, [], "−1.00 points", "plain"),
        ({"min_agreement": None, "max_accuracy_drop": 0.02}, [], "Kept", "good"),
        ({"min_agreement": 0.9, "max_accuracy_drop": None}, ["the agreement is below"], "Not kept", "bad"),
    ],
)
def test_accuracy_is_judged_by_the_users_limits_alone(
    edited: Edited,
    open_page: Callable[..., Any],
    limits: dict[str, Any],
    shortfalls: list[str],
    word: str,
    tone: str,
) -> None:
    def change(build: Any) -> None:
        build["verification"] |= {"limits": limits, "shortfalls": shortfalls, "accuracy_drop": 0.01}

    page = open_page(edited(change))
    card = page.locator(".answer").nth(1)
    assert card.locator(".word").inner_text() == word
    assert tone in card.get_attribute("class").split()
    # what is measured has no colour
    last = page.locator(".checks > div").last.locator(".result")
    assert "measured" in last.inner_text()
    assert last.get_attribute("class") == "result"


def test_figures_and_layers_are_the_files_own(shown: Shown, open_page: Callable[..., Any]) -> None:
    page, (report, cost) = open_page(shown.page), (shown.files["report"], shown.files["cost"])
    figures = page.locator("[data-key]").evaluate_all("each => each.map(one => [one.dataset.key, one.dataset.value])")
    of_cost = {"paper.sops", "paper.energy_mj", "paper.energy_with_stem_mj", "energy_mj.total", "power_mw", "step_ns"}
    of_report = {"timesteps", "totals.parameters", "totals.neurons", "totals.synapses", "placement.cores"}
    assert {*of_cost, "latency_us", *of_report} <= dict(figures).keys()
    for key, value in figures:
        if key in of_report or key in of_cost or key == "latency_us":
            assert float(value) == at(report if key in of_report else cost, key.replace(".", "/")), key
    titles = page.locator("table.layers thead th").all_inner_texts()
    rows = page.locator("table.layers tbody tr").evaluate_all(
        "rows => rows.map(row => [row.dataset.layer, ...[...row.cells].map(cell => cell.dataset.value)])"
    )
    assert [name for name, *_ in rows] == [layer["name"] for layer in cost["layers"]]
    for layer, (_, *cells) in zip(cost["layers"], rows, strict=True):
        told = dict(zip(titles, cells, strict=True))
        assert float(told["energy"]) == pytest.approx(sum(layer[f"{kind}_pj"] for kind in ENERGIES), rel=1e-12)
        for title, key in {"cores": "cores", "updates": "updates", "messages": "messages", "step": "step_ns"}.items():
            assert float(told[title]) == layer[key], (layer["name"], title)


def test_a_cost_of_another_layout_says_so(shown: Shown, edited: Edited, open_page: Callable[..., Any]) -> None:
    def change(build: Any) -> None:
        build["cost"]["chip"]["name"] = "loihi1"
        build["cost"]["fits"] = False

    for path, differs in ((shown.page, False), (edited(change), True)):
        said = open_page(path).locator(".answer").nth(3).inner_text()
        assert ("This is another layout than the one that is judged here" in said) == differs
        assert ("The network does not fit loihi1." in said) == differs
