"""Tables as lines of text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resformer.runtime.cli.tables import cut_apart, hanging, lay_out, wrapped

HEADINGS = ("layer", " cores", " operations", "bound by")
ROWS = [("layers.0.0.activation_in", "128", "2,844,313", "memory words"), ("layers.1.0.activation_in", "1", "0", "-")]


def test_what_fits_stays_as_it_is() -> None:
    for width in (None, 61):
        laid = lay_out(HEADINGS, ROWS, width)
        assert laid.headings == ["  layer                     cores  operations  bound by"]
        assert laid.body == [
            "  layers.0.0.activation_in    128   2,844,313  memory words",
            "  layers.1.0.activation_in      1           0  -",
        ]


def test_texts_are_wrapped_and_names_are_cut_apart() -> None:
    laid = lay_out(HEADINGS, ROWS, 50)
    assert laid.body == [
        "  layers.0.…ation_in    128   2,844,313  memory",
        "                                         words",
        "  layers.1.…ation_in      1           0  -",
    ]


def test_headings_of_numbers_are_wrapped() -> None:
    laid = lay_out(("n", " of all spikes"), [("a", "12345")], 12)
    assert laid.headings == ["      of all", "  n   spikes"]
    assert laid.body == ["  a    12345"]


def test_rows_become_blocks_where_that_is_not_enough() -> None:
    laid = lay_out(HEADINGS, ROWS, 30)
    assert laid.headings == []
    assert laid.body == [
        "  layer:",
        "      layers.0.0.activation_in",
        "    cores: 128",
        "    operations: 2,844,313",
        "    bound by: memory words",
        "  layer:",
        "      layers.1.0.activation_in",
        "    cores: 1",
        "    operations: 0",
        "    bound by: -",
    ]


def test_names_that_would_become_one_become_blocks() -> None:
    alike = [(f"{'x' * 60}{each}{'y' * 60}", "1") for each in "ab"]
    assert lay_out(("layer", " n"), alike, 40).headings == []
    assert lay_out(("layer", " n"), [(f"{each}{'y' * 60}", "1") for each in "ab"], 40).headings


def test_names_are_cut_as_near_to_the_middle_as_keeps_them_apart() -> None:
    assert cut_apart(["layers.0.1.conv", "short"], 9) == ["laye…conv", "short"]
    assert cut_apart(["layers.0.1.conv", "layers.0.2.conv"], 9) == ["la…1.conv", "la…2.conv"]
    assert cut_apart(["conv.1.layers.", "conv.2.layers."], 9) == ["conv.1…s.", "conv.2…s."]


def test_wide_letters_take_two_columns() -> None:
    laid = lay_out(("class", " n"), [("漢字", "1"), ("ab", "23")])
    assert laid.body == ["  漢字    1", "  ab     23"]
    assert cut_apart(["漢字漢字漢字"], 5) == ["漢…字"]


def test_shapes_quantities_and_intervals_are_not_divided() -> None:
    assert wrapped("12 x 4 x 4 at 46.1 ms (40.2 to 52.3)", 4) == ["12 x 4 x 4", "at", "46.1 ms", "(40.2 to 52.3)"]
    assert wrapped("838 M SOPs, 1.25 MiB, 5 samples", 3) == ["838 M SOPs,", "1.25 MiB,", "5", "samples"]


def test_sentences_hang() -> None:
    assert hanging("note: a b c", 8, "  ") == "note: a\n  b c"
    assert hanging("note:  two blanks", 80, "  ") == "note:  two blanks"


_names = st.text("ab.0", min_size=1, max_size=40).filter(lambda name: not re.fullmatch(r"[.0]*", name))
_numbers = st.integers(0, 10**12).map("{:,}".format)


@given(st.lists(st.tuples(_names, _numbers, _numbers, _numbers), min_size=1, max_size=5), st.integers(20, 90))
def test_no_digit_is_lost(rows: list[tuple[str, ...]], width: int) -> None:
    laid = lay_out(("layer", " first", " second one", " third"), rows, width)
    for line in (*laid.headings, *laid.body):
        assert len(line) <= width or len(line.split()) == 1, line
    if laid.headings:
        assert [line.split()[1:] for line in laid.body] == [list(row[1:]) for row in rows]
    else:
        text = "".join(laid.body)
        assert re.findall(r"(?:first|second one|third):\s*([\d,]+)", text) == [each for row in rows for each in row[1:]]


@pytest.mark.parametrize("rows", [[], [("", "", "", "")]])
def test_empty_tables(rows: list[tuple[str, ...]]) -> None:
    for width in (None, 10):
        lay_out(HEADINGS, rows, width)
