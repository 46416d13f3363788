"""The page in a real browser: no errors, nothing loaded, and the numbers of the build's own files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resformer.runtime.cli.compile_options import main as compile_main
from resformer.runtime.cli.report import main as report_main
from resformer.runtime.cli.verify import main as verify_main
from support.builds import Tiny, read_json
from support.nir_files import written
from support.pages import read_page

HOSTILE = "<script>window.broken=1</script><img src=x onerror=window.broken=1>"


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> Path:
    """A folder with the MNIST example's build, its verification and its page."""
    folder, images = tmp_path_factory.mktemp("mnist"), mnist_checkpoint.parent / "test_images.npy"
    build, result = folder / "build", folder / "r.json"
    assert compile_main([str(mnist_checkpoint), "--target", "sim", "-o", str(build), "--quiet"]) == 0
    given = [str(build), "--input", str(images), "--samples", "2"]
    assert verify_main([*given, "--backend", "sim", "--json", str(result)]) == 0
    assert report_main([*given, "--verify", str(result), "-o", str(folder / "report.html")]) == 0
    return folder


def value_at(report: Any, path: str) -> Any:
    for key in path.split("."):
        report = report[key]
    return report


@pytest.mark.parametrize("options", [{"color_scheme": "dark"}, {"viewport": {"width": 400, "height": 800}}])
def test_mnist_opens_without_errors(mnist: Path, open_page: Callable[..., Any], options: dict[str, Any]) -> None:
    assert (mnist / "report.html").stat().st_size < 5e6
    page = open_page(mnist / "report.html", **options)
    assert page.locator("#verdict").inner_text() == "Equivalent"
    assert page.locator("main > section").count() == 12
    assert page.locator(".empty").count() == 0
    # the page does not scroll sideways; wide figures do so in their own frames
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("button.theme").click()
    dark = "color_scheme" in options
    assert page.evaluate("document.documentElement.dataset.theme") == ("light" if dark else "dark")


def test_its_numbers_are_those_of_the_files(mnist: Path, open_page: Callable[..., Any]) -> None:
    page, report = open_page(mnist / "report.html"), read_json(mnist / "build" / "report.json")
    shown = {each.get_attribute("data-key"): each for each in page.locator("[data-key]").all()}
    for path in ("timesteps", "totals.parameters", "totals.neurons", "totals.synapses", "placement.cores"):
        expected = value_at(report, path)
        assert shown[path].get_attribute("data-value") == str(expected)
        assert shown[path].inner_text() == f"{expected:,}"
    rows = page.locator("table.layers tbody tr")
    assert rows.count() == len(report["placement"]["layers"])
    cores = {layer["name"]: f"{layer['cores']:,}" for layer in report["placement"]["layers"]}
    heading = [each.split("\n")[0].strip() for each in page.locator("table.layers thead th").all_inner_texts()]
    at = heading.index("cores")
    for row in rows.all():
        cells = row.locator("td").all_inner_texts()
        assert cells[at] == cores[cells[1]]
    total = page.locator("table.layers tfoot td").nth(at).inner_text()
    assert total == f"{report['placement']['cores']:,}"
    # every synaptic operation is in one row, and in no other
    at = heading.index("SOPs") + 1
    sops = page.locator(f"table.layers tbody td:nth-child({at})").evaluate_all(
        "cells => cells.reduce((sum, cell) => sum + Number(cell.dataset.value), 0)"
    )
    assert sops == pytest.approx(read_page(mnist / "report.html")[0]["builds"][0]["cost"]["paper"]["sops"], rel=1e-12)
    verification = read_json(mnist / "r.json")
    for text, check in zip(
        page.locator(".checks .note:nth-of-type(3)").all_inner_texts(), verification["checks"].values(), strict=True
    ):
        expected = f"{check['mismatched']:,} of {check['compared']:,} differ" if check else "not run"
        assert expected in text or not check


def test_what_to_know_is_on_the_first_screen(mnist: Path, open_page: Callable[..., Any], tmp_path: Path) -> None:
    """Each sentence of the build, the run and the verification, once, and as text."""
    report = read_json(mnist / "build" / "report.json")
    page, (tags, text) = tmp_path / "r.html", ("<b>x</b>", (mnist / "report.html").read_text(encoding="utf-8"))
    (said,) = re.findall(r'"run":\{.*?"notes":\[\]', text)
    wrong = json.dumps([f"conv: replaced {tags}"]).replace("<", "\\u003c").replace(">", "\\u003e")
    page.write_text(text.replace(said, said.removesuffix("[]") + wrong), encoding="utf-8")
    opened = open_page(page)
    lines = opened.locator("#to-know li").all_inner_texts()
    assert len(lines) == len(set(lines))
    shown = {tuple(line.split("\n", 1)) for line in lines}
    assert {("assumed", each) for each in report["assumptions"]} < shown
    assert ("note", f"conv: replaced {tags}") in shown
    box = opened.locator("#to-know").bounding_box()
    assert box["y"] + box["height"] < opened.viewport_size["height"]


def test_headings_sort(mnist: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(mnist / "report.html")
    heads = page.locator("table.layers thead th")
    titles = heads.all_inner_texts()
    at = titles.index("energy")

    def column() -> list[float]:
        return page.locator(f"table.layers tbody td:nth-child({at + 1})").evaluate_all(
            "cells => cells.map(cell => Number(cell.dataset.value))"
        )

    before = column()
    for order, reverse in (("descending", True), ("ascending", False)):
        heads.nth(at).locator("button").click()
        assert heads.nth(at).get_attribute("aria-sort") == order
        assert column() == sorted(before, reverse=reverse) != before


def test_a_build_alone_says_what_is_missing(tiny: Tiny, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    assert report_main([str(tiny.build), "-o", str(tmp_path / "r.html")]) == 0
    page = open_page(tmp_path / "r.html")
    assert page.locator(".verdict .word").inner_text() == "Not verified"
    missing = page.locator(".empty").all_inner_texts()
    assert len(missing) == 6
    assert all("resformer-" in text for text in missing)


def test_comparison_opens(tiny: Tiny, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    other, path = tiny.copied_build(tmp_path), tmp_path / "r.html"
    given = ["--input", str(tiny.images), "--samples", "2"]
    assert report_main([str(tiny.build), str(other), *given, "-o", str(path)]) == 0
    page = open_page(path)
    assert page.locator("table.compare tbody tr").count() > 10
    assert "No measured number differs" in page.locator("#bars").inner_text()


def test_widths_are_those_of_the_weights(tiny: Tiny, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    layer, build, path = "layers.0.1.up.1", tmp_path / "mixed", tmp_path / "r.html"
    arguments = [str(tiny.model), "--target", "sim", "-o", str(build), "--quiet", *tiny.arguments]
    assert compile_main([*arguments, "--layer-bits", f"{layer}=12,classifier=4"]) == 0
    assert report_main([str(build), "-o", str(path)]) == 0
    page = open_page(path)
    assert page.locator("[data-key='weight bits']").inner_text() == "4 to 12 bits"
    assert f"{layer}=12, classifier=4" in page.locator("#sources").inner_text()
    tips = [
        page.locator(f"#network g.layer[data-layer='{layer}{part}']").get_attribute("data-tip") for part in ("", ".hi")
    ]
    assert "weights of 12 bits, exponent" in tips[0]
    assert f"of the weights of {layer}" in tips[1]
    assert report_main([str(tiny.build), str(build), "-o", str(path)]) == 0
    page = open_page(path)
    assert page.locator("table.compare tbody tr").nth(0).locator("td").all_inner_texts()[1:] == [
        "weight bits",
        "8",
        "4 to 12",
    ]
    text = page.locator("#sources").inner_text()
    assert f"{layer}=12" in text
    assert "[object" not in text


def test_hostile_names_are_shown_and_do_nothing(tiny: Tiny, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    build = tiny.copied_build(tmp_path)
    for name in ("report.json", "placement.json"):
        text = (build / name).read_text()
        first = read_json(tiny.build / "report.json")["nodes"][1]["name"]
        (build / name).write_text(text.replace(json.dumps(first), json.dumps(HOSTILE)))
    assert report_main([str(build), "-o", str(tmp_path / "r.html")]) == 0
    page = open_page(tmp_path / "r.html")
    assert page.evaluate("window.broken") is None
    assert page.locator("table.layers").get_by_text(HOSTILE, exact=True).count() == 1
    assert page.locator("img").count() == 0


def test_recurrent_networks_open_too(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    network, build, page = written("snntorch_recurrent", tmp_path), tmp_path / "build", tmp_path / "r.html"
    np.save(tmp_path / "x.npy", network.samples)
    time = ["--dt", str(network.dt), "--timesteps", str(network.timesteps), "--input-kind", "frames"]
    assert compile_main([str(network.path), "--target", "sim", "-o", str(build), "--quiet", *time]) == 0
    assert report_main([str(build), "--input", str(tmp_path / "x.npy"), "-o", str(page)]) == 0
    opened = open_page(page)
    (shown,) = read_page(page)[0]["builds"]
    at = opened.locator("table.layers thead th").all_inner_texts().index("SOPs") + 1
    sops = opened.locator(f"table.layers tbody td:nth-child({at})").evaluate_all(
        "cells => cells.reduce((sum, cell) => sum + Number(cell.dataset.value), 0)"
    )
    assert sops == pytest.approx(shown["cost"]["paper"]["sops"], rel=1e-12)
    assert opened.locator("#margins .multiple").count() == len(shown["run"]["rates"])
