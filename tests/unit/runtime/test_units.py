"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resformer.runtime.units import between, common_power, prefixed, quantity, scaled, size


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (838_123_456.0, "SOPs", "838 M SOPs"),
        (45_678.4, "SOPs", "45,678 SOPs"),
        (999_999.9, "SOPs", "1.00 M SOPs"),
        (12.34, "SOPs", "12.3 SOPs"),
        (7_081.2, "samples/s", "7,081 samples/s"),
        (0.0461, "s", "46.1 ms"),
        (35.3e-6, "s", "35.3 µs"),
        (0.9996, "s", "1.00 s"),
        (3_600, "s", "3,600 s"),
        (3.05e-3, "J", "3.05 mJ"),
        (0.9e-12, "J", "0.900 pJ"),
        (2.18, "W", "2.18 W"),
        (0.0, "J", "0 J"),
        (-0.0461, "s", "-46.1 ms"),
    ],
)
def test_quantities(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_an_interval_has_one_prefix() -> None:
    assert between(46.1e-3, 0.4e-3, 2.5, "s") == "46.1 ms (0.400 to 2,500)"
    assert between(46.1e-3, 46.1e-3, 46.1e-3, "s") == "46.1 ms"


def test_a_column_has_the_prefix_of_its_largest() -> None:
    values = [0.0002, 0.05, 0.0]
    power = common_power(values, "J")
    assert prefixed("J", power) == "mJ"
    assert [scaled(value, power) for value in values] == ["0.200", "50.0", "0"]
    assert common_power([], "J") == 0
    assert prefixed("SOPs", 9) == "G SOPs"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (2**20 - 1, "1.00 MiB"), (5 * 2**40, "5.00 TiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@given(st.floats(1e-11, 1e14), st.sampled_from(["s", "J", "W"]))
def test_a_quantity_is_read_back(value: float, unit: str) -> None:
    number, _, prefixed_unit = quantity(value, unit).partition(" ")
    prefix = prefixed_unit.removesuffix(unit)
    factor = {"p": 1e-12, "n": 1e-9, "µ": 1e-6, "m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[prefix]
    assert math.isclose(float(number.replace(",", "")) * factor, value, rel_tol=0.0051)  # three digits
    assert "e" not in number
