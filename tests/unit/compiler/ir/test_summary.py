"""Summaries: short, wrapped, escaped."""

from __future__ import annotations

from resformer.compiler.ir.summary import LINES_MAX, WIDTH, Summarized, Summary, as_html, as_text, sizes


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
    assert as_html(("<i>", [("a&b", "<script>")])) == (
        "<table><caption>&lt;i&gt;</caption><tr><th>a&amp;b</th><td>&lt;script&gt;</td></tr></table>"
    )


def test_objects_print_as_their_summary() -> None:
    class Thing(Summarized):
        def summary(self) -> Summary:
            return "Thing", [("size", sizes((3, 4)))]

    assert repr(Thing()) == "Thing\n  size  3 x 4"
    assert Thing()._repr_html_() == "<table><caption>Thing</caption><tr><th>size</th><td>3 x 4</td></tr></table>"
