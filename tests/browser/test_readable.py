"""Whether people can read and use the page: contrast, keyboard, paper, and what axe looks for."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from support.browsers import browser_path
from support.made_pages import Edited, Shown, spread

AXE = Path(os.environ.get("RESFORMER_AXE", "build/axe/node_modules/axe-core/axe.min.js"))
"""What checks pages for what keeps people from using them; ``make axe`` installs it."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_it_lies_on(shown: Shown, open_page: Callable[..., Any], scheme: str) -> None:
    """4.5 to 1, which axe does not look for in drawings and in shades."""
    page = open_page(shown.page, color_scheme=scheme)
    found = page.evaluate("""() => {
      const box = document.body.appendChild(document.createElement("div"));
      const pixel = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
      const canvas = pixel.getContext("2d", { willReadFrequently: true });
      const rgb = (value) => {
        box.style.color = value;
        canvas.fillStyle = getComputedStyle(box).color;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
      };
      const light = (value) => {
        const linear = (each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
        const [r, g, b] = rgb(value).map((each) => linear(each / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ratio = (one, other) => {
        const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
      };
      const found = [];
      for (const ink of ["ink", "soft", "faint", "good", "bad", "warn", "accent"])
        for (const paper of ["paper", "raised"])
          found.push([`${ink} on ${paper}`, ratio(`var(--${ink})`, `var(--${paper})`)]);
      for (const cell of document.querySelectorAll("table.confusion td[data-count]"))
        found.push([cell.textContent, ratio(getComputedStyle(cell).color, getComputedStyle(cell).backgroundColor)]);
      box.remove();
      return found;
    }""")
    assert len(found) > 14
    assert [pair for pair in found if pair[1] < 4.5] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_axe_finds_nothing_serious(edited: Edited, open_page: Callable[..., Any], scheme: str, width: int) -> None:
    if not AXE.is_file():
        pytest.skip(f"axe-core is not at {AXE}: make axe installs it, RESFORMER_AXE names another")
    page = open_page(edited(spread), color_scheme=scheme, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = page.evaluate(
        """async (source) => {
          (0, eval)(source);
          const { violations } = await axe.run();
          return violations.map((each) => [each.impact, each.id, each.nodes.map((node) => node.html).slice(0, 3)]);
        }""",
        AXE.read_text(encoding="utf-8"),
    )
    assert [each for each in found if each[0] in ("serious", "critical")] == []


def test_the_page_prints(shown: Shown, tmp_path: Path) -> None:
    """All of it: what scrolls on a screen is whole on paper."""
    browser = browser_path()
    target = tmp_path / "page.pdf"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--print-to-pdf={target}", shown.page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert target.read_bytes().startswith(b"%PDF")
    assert len(re.findall(rb"/Type ?/Page\b", target.read_bytes())) >= 3


def test_layers_scroll_inside_their_own_frame_by_keyboard(shown: Shown, open_page: Callable[..., Any]) -> None:
    page = open_page(shown.page, viewport={"width": 900, "height": 400})
    frame = page.locator("#layers .tall")
    assert frame.evaluate("each => [each.scrollHeight > each.clientHeight, each.tabIndex]") == [True, 0]
    assert "layers" in frame.get_attribute("aria-label")
    frame.focus()
    page.keyboard.press("End")
    for _ in range(200):  # scrolling takes its time
        if frame.evaluate("each => each.scrollTop"):
            break
        page.wait_for_timeout(20)
    assert frame.evaluate("each => each.scrollTop") > 0
    top = frame.evaluate("each => each.getBoundingClientRect().top")
    head = frame.locator("thead th").first.evaluate("each => each.getBoundingClientRect().top")
    assert head == pytest.approx(top, abs=2)
    page.emulate_media(media="print")
    assert frame.evaluate("each => each.scrollHeight <= each.clientHeight + 1")


def test_no_value_is_shown_as_a_program_has_it(shown: Shown, edited: Edited, open_page: Callable[..., Any]) -> None:
    for path in (shown.page, edited(spread)):
        page = open_page(path)
        # what was chosen is quoted as the build's file has it
        page.evaluate("document.getElementById('sources').remove()")
        text = page.locator("body").inner_text()
        assert re.findall(r"\b(?:undefined|null|NaN|false|true,|Infinity)\b|\[object", text) == []


def test_a_share_reads_as_0_or_100_only_where_it_is(open_page: Callable[..., Any], tmp_path: Path) -> None:
    numbers = resources.files("resformer.runtime.page").joinpath("assets", "numbers.js").read_text(encoding="utf-8")
    path = tmp_path / "numbers.html"
    path.write_text(f"<!doctype html><meta charset='utf-8'><script>{numbers}</script>", encoding="utf-8")
    given = [0, 1e-9, 0.5, 0.9994, 0.9996, 0.99999, 1 - 1e-9, 1, 1.5]
    shown = open_page(path).evaluate("(given) => given.map((share) => [percent(share), percent(share, 2)])", given)
    assert [float(three.removesuffix(" %")) in (0, 100) for three, _ in shown] == [share in (0, 1) for share in given]
    assert [text for pair in shown[2:7] for text in pair] == [
        *("50.0 %", "50 %"), *("99.9 %", "99.9 %"), *("99.96 %", "99.96 %"), *("99.999 %", "99.999 %"),
        *("99.9999999 %", "99.9999999 %"),
    ]  # fmt: skip
