"""Numbers as people read them: 838 M SOPs, 46.1 ms, 3.05 mJ, 12.4 KiB. JSON and CSV keep the numbers themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

PREFIXES = {-12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}
"""The prefixes of SI units, by power of ten."""
SI_UNITS = ("J", "s", "W")
"""Units that a prefix is joined to: mJ. Any other unit is a separate word, with a prefix from a million on: M SOPs."""
DIGITS = 3
"""Significant digits of a quantity: constants of a chip are not known any better."""
COMPARED = 4
"""Significant digits of quantities that are shown to be compared with each other."""
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")


def quantity(value: float, unit: str, digits: int = DIGITS) -> str:
    """A quantity and its unit: "46.1 ms", "838 M SOPs", "45,678 SOPs".

    Args:
        value: In the unit itself, such as seconds, joules or watts; in any other unit, a count.
        unit: One of :data:`SI_UNITS`, or a word such as "SOPs" or "frames/s".
        digits: Significant digits; no digit before the decimal point is dropped.
    """
    power = power_of(value, unit)
    return f"{scaled(value, power, digits)} {prefixed(unit, power)}"


def between(value: float, low: float, high: float, unit: str, digits: int = DIGITS) -> str:
    """A quantity and its interval, all with one prefix: "46.1 ms (40.2 to 52.3)"; just the quantity if it is exact."""
    text = quantity(value, unit, digits)
    if low == high:
        return text
    power = power_of(value, unit)
    return f"{text} ({scaled(low, power, digits)} to {scaled(high, power, digits)})"


def power_of(value: float, unit: str) -> int:
    """The power of ten of the prefix with which a value is at least 1 and below 1000, as far as prefixes go.

    Seconds get no prefix above one, and a unit that is not in :data:`SI_UNITS` gets one only from a million on.
    """
    if value == 0 or not math.isfinite(value):
        return 0
    # a value that rounds up to 1000 with one prefix is 1 with the next
    exponent = int(f"{abs(value):.{DIGITS - 1}e}".partition("e")[2])
    power = 3 * (exponent // 3)
    if unit not in SI_UNITS:
        return min(power, max(PREFIXES)) if power >= 6 else 0
    return min(max(power, min(PREFIXES)), 0 if unit == "s" else max(PREFIXES))


def common_power(values: Sequence[float], unit: str) -> int:
    """The power of ten of the prefix that a column of quantities shares: that of the largest."""
    return power_of(max(map(abs, values), default=0.0), unit)


def scaled(value: float, power: int, digits: int = DIGITS) -> str:
    """A number divided by a power of ten, with separators and without an exponent."""
    number = value / 10.0**power
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    rounded = float(f"{number:.{digits - 1}e}") if abs(number) < 10**digits else number
    decimals = max(digits - 1 - math.floor(math.log10(abs(rounded))), 0)
    return f"{rounded:,.{decimals}f}"


def prefixed(unit: str, power: int) -> str:
    """A unit with the prefix of a power of ten: "mJ", "M SOPs"."""
    prefix = PREFIXES[power]
    return f"{prefix}{unit}" if unit in SI_UNITS or not prefix else f"{prefix} {unit}"


def size(count: int) -> str:
    """A number of bytes: "999 B", "12.4 KiB"."""
    if count < 1024:
        return f"{count} B"
    number, index = float(count), 0
    while number >= 999.5 and index < len(_BYTES) - 1:
        number /= 1024
        index += 1
    return f"{scaled(number, 0)} {_BYTES[index]}"
