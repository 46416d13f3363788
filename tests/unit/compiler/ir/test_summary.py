"""Summaries: short, wrapped, escaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from resformer.compiler.ir.summary import (
    LINES_MAX,
    ROWS_MAX,
    WIDTH,
    Rows,
    Summarized,
    Summary,
    as_html,
    as_text,
    ordinal,
    sizes,
)


class Elements(HTMLParser):
    """What a page holds: its elements in order with their attributes, and its text; all must be closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def luminance(colour: str) -> float:
    """The relative luminance of a colour, as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_is_aligned_and_wrapped() -> None:
    lines = as_text(("Title", [("a", "1"), ("longer", "word " * 40)])).splitlines()
    assert lines[:2] == ["Title", "  a       1"]
    assert lines[2].startswith("  longer  word word")
    assert len(lines) > 3
    assert all(len(line) <= WIDTH for line in lines)


def test_text_fits_on_a_screen() -> None:
    lines = as_text(("Title", [(str(each), "x") for each in range(100)])).splitlines()
    assert len(lines) == LINES_MAX
    assert lines[-1] == "  ..."
    assert len(as_text(("Title", [(str(each), "x") for each in range(LINES_MAX - 1)])).splitlines()) == LINES_MAX


def test_html_is_escaped() -> None:
    page = Elements(as_html(("<i>", [("a&b", "<script>")]), None, ("<b>", (("<u>", " <s>"), [("<p>", "<q>")]))))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"i", "script", "b", "u", "s", "p", "q"}
    assert page.texts == ["<i>", "a&b", "<script>", "<b>", "<u>", "<s>", "<p>", "<q>"]


def test_html_says_what_its_cells_are() -> None:
    page = Elements(as_html(("Title", [("a", "1")]), True, ("More", (("layer", " cores"), [("stem", "4")]))))
    assert [tag for tag, _ in page.elements if tag in ("caption", "details", "summary")] == [
        "caption",
        "details",
        "summary",
    ]
    scopes = [attributes["scope"] for tag, attributes in page.elements if tag == "th"]
    assert scopes == ["row", "col", "col", "row"]
    aligned = [re.findall(r"text-align: (\w+)", str(each["style"])) for tag, each in page.elements if tag == "td"]
    assert aligned == [["left"], ["right"]], "numbers stand under one another"


@pytest.mark.parametrize("background", ["#ffffff", "#111111"])
def test_html_takes_the_colours_of_light_and_dark_pages(background: str) -> None:
    edges = set()
    for sound in (None, True, False):
        page = as_html(("Title", [("a", "1")]), sound, ("More", (("layer",), [("stem",)])))
        (edge,) = re.findall(r"#[0-9a-f]{6}", page)
        assert contrast(edge, background) >= 3, "WCAG 2.2, 1.4.11: what is no text"
        assert re.findall(r"[^-]color: (\w+)", page) == ["inherit"] * 3
        assert "background" not in page
        edges.add(edge)
    assert len(edges) == 3


def test_long_tables_are_cut_and_say_so() -> None:
    page = as_html(("Title", []), None, ("More", (("n",), [(str(each),) for each in range(ROWS_MAX + 2)])))
    assert f">{ROWS_MAX - 1}<" in page
    assert f">{ROWS_MAX}<" not in page
    assert "and 2 rows more" in page
    assert "more" not in as_html(("T", []), None, ("M", (("n",), [("1",)] * ROWS_MAX)))


def test_objects_print_as_their_summary() -> None:
    class Thing(Summarized):
        def summary(self) -> Summary:
            return "Thing", [("size", sizes((3, 4)))]

    class More(Thing):
        def sound(self) -> bool:
            return False

        def details(self) -> tuple[str, Rows]:
            return "Rows", (("a",), [("b",)])

    assert repr(Thing()) == repr(More()) == "Thing\n  size  3 x 4"
    assert Thing()._repr_html_() == as_html(("Thing", [("size", "3 x 4")]))
    assert More()._repr_html_() == as_html(("Thing", [("size", "3 x 4")]), False, ("Rows", (("a",), [("b",)])))
    assert Elements(Thing()._repr_html_()).texts == ["Thing", "size", "3 x 4"]


def test_ordinals() -> None:
    numbers = (1, 2, 3, 4, 10, 11, 12, 13, 20, 21, 22, 23, 101, 111, 113, 1003)
    assert " ".join(map(ordinal, numbers)) == (
        "1st 2nd 3rd 4th 10th 11th 12th 13th 20th 21st 22nd 23rd 101st 111th 113th 1,003rd"
    )
