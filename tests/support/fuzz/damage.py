"""Damage to files: to their bytes, whatever the format, and to their structure (trees, arrays)."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

Rng: TypeAlias = np.random.Generator
Array: TypeAlias = npt.NDArray[Any]
T = TypeVar("T")

NUMBERS: Sequence[object] = (
    0, 1, -1, 2, 3, -7, 127, 128, -129, 255, 2**15, 2**16 + 1, 2**23, 2**24 + 1, 2**31 - 1, 2**31, -(2**31), 2**39,
    2**62, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, 0.0, -0.0, 0.5, -0.5, 1e-300, 1e300, -1e300,
    float("nan"), float("inf"), float("-inf"), True, False,
)  # fmt: skip
"""Numbers at which readers of any format may break."""
TEXTS: Sequence[str] = (
    "", " ", "\x00", "\x1b[31mred\x1b[0m", "\r\n", "../../x", "/etc/passwd", "a" * 100_000, "é" * 300, "\ud800",
    "-1", "nan", "1e999", "9" * 500, "0x10", "__class__", "%s%n", "{0}", "\N{RIGHT-TO-LEFT OVERRIDE}abc", "loihi2",
    "input",
)  # fmt: skip
"""Texts at which readers of any format may break."""
DTYPES = (
    "?", "u1", "i1", "u2", "i4", "i8", "u8", "f2", "f4", "f8", ">f4", ">i8", "c8", "c16", "S5", "U3", "V4", "M8[s]",
    "m8[D]", "O", "f4,i4", "g",
)  # fmt: skip
"""Element types that an array's file may name."""
DEEP = 100
"""More levels of nesting than any file of ours has; Python can still copy three times this depth."""


def pick(rng: Rng, choices: Sequence[T]) -> T:
    """One of the choices, at random."""
    return choices[int(rng.integers(len(choices)))]


def damaged_bytes(rng: Rng, data: bytes) -> bytes:
    """One to four changes of a file's bytes."""
    made = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(made) + 1))
        length = int(2 ** rng.uniform(0, 10))
        change = rng.integers(8)
        if change == 0 and at < len(made):
            made[at] ^= 1 << int(rng.integers(8))
        elif change == 1:
            made[at : at + 1] = bytes([pick(rng, (0, 1, 0x7F, 0x80, 0xFF))])
        elif change == 2:
            made[at:at] = rng.bytes(length)
        elif change == 3:
            del made[at : at + length]
        elif change == 4:
            made[at:at] = made[at : at + length]
        elif change == 5:
            del made[at:]
        else:  # a length or an offset
            width = pick(rng, (2, 4, 8))
            value = int(pick(rng, (0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)))
            made[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, pick(rng, ("little", "big")))
    return bytes(made)


def damaged_text(rng: Rng, text: str) -> str:
    """One to three changes of a text: lines doubled, dropped or swapped, and characters put in."""
    lines = text.splitlines(keepends=True) or [""]
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(lines)))
        change = rng.integers(5)
        if change == 0:
            lines.insert(at, lines[at])
        elif change == 1 and len(lines) > 1:
            del lines[at]
        elif change == 2:
            other = int(rng.integers(len(lines)))
            lines[at], lines[other] = lines[other], lines[at]
        else:
            cut = int(rng.integers(len(lines[at]) + 1))
            inside = pick(rng, ("[", "{", "&a ", "*a", ": ", "!!python/name:os.system ", '"', "- ", "\t", *TEXTS))
            lines[at] = lines[at][:cut] + inside + lines[at][cut:]
    return "".join(lines)


def any_value(rng: Rng) -> object:
    """A value that a tree of JSON or YAML may hold where another stood."""
    kind = rng.integers(8)
    if kind < 4:
        return pick(rng, NUMBERS)
    if kind < 6:
        return pick(rng, TEXTS)
    return pick(rng, (None, [], {}, [[]], {"": None}, [0] * 10_000, [1, "a", None], nested(int(rng.integers(DEEP)))))


def nested(levels: int) -> object:
    """A list in a list in a list."""
    made: object = []
    for _ in range(levels):
        made = [made]
    return made


def damaged_tree(rng: Rng, tree: Any) -> Any:
    """One to three changes of a tree of dictionaries and lists: values, keys and whole branches."""
    made = copy.deepcopy(tree)
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(made))
        if not places:
            return any_value(rng)
        holder, key = pick(rng, places)
        change = rng.integers(8)
        if change < 4:
            holder[key] = _near(rng, holder[key]) if rng.random() < 0.4 else any_value(rng)
        elif change == 4:
            del holder[key]
        elif change == 5:
            other, name = pick(rng, places)
            holder[key] = copy.deepcopy(other[name])
        elif isinstance(holder, dict):
            holder[pick(rng, TEXTS) if change == 6 else f"{key}x"] = copy.deepcopy(holder[key])
        else:
            holder.insert(key, copy.deepcopy(holder[key]))
    return made


def _near(rng: Rng, value: object) -> object:
    """A value that is nearly right: a number next to it, or a text that lacks a character."""
    if isinstance(value, int | float):
        of_another_type = float(value) if abs(value) <= sys.float_info.max else str(value)
        return pick(rng, (value + 1, value - 1, -value, value * 2, value * 1000, of_another_type, str(value)))
    if isinstance(value, str):
        return pick(rng, (value[:-1], value + "x", value.upper(), [value]))
    if isinstance(value, list):
        return pick(rng, (value[:-1], value * 2, value[::-1], value[0] if value else None))
    return [value]


def _places(tree: Any) -> Any:
    """Every (holder, key) in a tree."""
    items: Any = ()
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)
    for key, value in list(items):
        yield tree, key
        yield from _places(value)


def damaged_array(rng: Rng, array: Array) -> Array:
    """The array with another type, shape, order or other values; no change makes it large."""
    changes: Sequence[Callable[[], Array]] = (
        lambda: array.astype(pick(rng, ("?", "u1", "i1", "i2", "u2", "i4", "i8", "u8", "f2", "f8", ">f4", "c8"))),
        lambda: array[..., :0] if array.ndim else array,
        lambda: array[0] if array.ndim else array,
        lambda: array[None],
        lambda: np.asfortranarray(array),
        lambda: np.moveaxis(array, 0, -1) if array.ndim else array,
        lambda: np.resize(array, tuple(int(each) for each in rng.integers(0, 5, int(rng.integers(0, 9))))),
        lambda: np.resize(array, (*array.shape[:-1], array.shape[-1] + 1) if array.ndim else (2,)),
        lambda: _with_values(rng, array),
        lambda: _with_values(rng, array),
        lambda: np.zeros(3, "f4,i4"),
        lambda: np.array(["a", "bc"]),
        lambda: array * np.asarray(pick(rng, (0, -1, 255, 1e30)), array.dtype) if array.dtype.kind == "f" else array,
    )
    with np.errstate(all="ignore"):
        return pick(rng, changes)()


def _with_values(rng: Rng, array: Array) -> Array:
    """The array with elements replaced by one extreme value of their type."""
    made = array.copy()
    if not made.size:
        return made
    extremes: Sequence[object]
    if made.dtype.kind == "f":
        extremes = (np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-40, 0.0)
    elif made.dtype.kind in "iu":
        info = np.iinfo(made.dtype)
        extremes = (info.min, info.max, 0, 1)
    else:
        return made
    count = int(rng.integers(1, 4)) if rng.random() < 0.5 else made.size
    made.reshape(-1)[rng.integers(0, made.size, count)] = pick(rng, extremes)
    return made
