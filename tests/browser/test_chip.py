"""The map of chips in a real browser: one at a time, layers marked by keyboard, and no two alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.made_pages import Edited, Shown, spread
from support.pages import read_page


def test_chips_are_shown_one_at_a_time(edited: Edited, open_page: Callable[..., Any]) -> None:
    page = open_page(edited(spread))
    layers = read_page(Path(page.url.removeprefix("file://")))[0]["builds"][0]["placement"]["layers"]
    thumbs = page.locator(".thumb")
    assert thumbs.count() == len(layers)
    for chip, key in ((0, None), (1, "ArrowRight"), (0, "ArrowLeft"), (len(layers) - 1, "ArrowLeft")):
        if key is None:
            thumbs.first.focus()
        else:
            page.keyboard.press(key)
        assert page.locator(".one-chip h3").inner_text().startswith(f"Chip {chip} ")
        assert page.locator(".layers-here .mono").all_inner_texts() == [layers[chip]["name"]]
        assert page.locator(".one-chip .cores g.layer").count() == layers[chip]["cores"]
        assert page.locator(":focus").get_attribute("data-chip") == str(chip)


def test_layers_are_marked_by_keyboard(edited: Edited, open_page: Callable[..., Any]) -> None:
    page = open_page(edited(spread))
    name = page.locator(".layers-here button").first.get_attribute("data-layer")

    def marked() -> set[str]:
        return set(page.locator(".cores .hot").evaluate_all("each => each.map(one => one.dataset.layer)"))

    assert marked() == set()
    page.locator(".layers-here button").first.focus()
    assert marked() == {name}
    assert page.locator(".thumbs").evaluate("each => each.classList.contains('picking')")
    page.keyboard.press("Enter")
    page.locator("h1").click()
    assert marked() == {name}, "a layer stays marked whose name was pressed"
    assert "1 chip" not in page.locator(".finder output").inner_text()
    assert f"{name}: " in page.locator(".finder output").inner_text()
    page.locator(".layers-here button").first.click()
    page.locator("h1").click()
    assert marked() == set()
    page.locator(".finder select").select_option(index=3)
    chosen = page.locator(".finder option").nth(3).inner_text()
    assert marked() == {chosen}
    assert page.locator(".layers-here .mono").all_inner_texts() == [chosen]


TI = [
    *("input", "prologue.0", "prologue.2", "prologue.2.relay"),
    *(
        f"layers.{stage}.{block}.{part}"
        for stage, blocks in enumerate((2, 5, 7))
        for block in range(blocks)
        for part in ("activation_in", "W.y1", "W.y2", "matmul1", "attn", "matmul2", "out", "Wproj", "add", "relay")
    ),
    "avgpool",
    "classifier",
    "output",
]


def test_no_two_layers_look_alike(shown: Shown, open_page: Callable[..., Any]) -> None:
    """Of a network as large as Ti, two layers differ in their pattern, or in their colour so that eyes see it."""
    page = open_page(shown.page)
    apart = """names => {
      const lab = (colour) => {
        const [l, c, h] = colour.slice(6, -1).split(" ").map(Number);
        return [l, c * Math.cos((h * Math.PI) / 180), c * Math.sin((h * Math.PI) / 180)];
      };
      const found = [...looks(names.map((name) => ({ name }))).values()];
      let least = Infinity;
      found.forEach((one, index) => found.slice(index + 1).forEach((other) => {
        if (one.pattern !== other.pattern) return;
        const [a, b] = [lab(one.colour), lab(other.colour)];
        least = Math.min(least, Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]));
      }));
      return least;
    }"""
    assert page.evaluate(apart, TI) > 0.03
