"""Names of classes, and the choice of about equally many samples of each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir import summary
from resformer.errors import FileFormatError, InputError
from resformer.models.boundary import require_regular
from resformer.models.limits import LARGEST_CLASSES, LONGEST_NAME, allowed

SHOWN = 5
"""The most names that a message lists."""

Indices = npt.NDArray[np.int64]


def check_classes(names: Sequence[str], count: int, source: str) -> tuple[str, ...]:
    """Check the names of a network's classes, and return them, class 0 first.

    Args:
        names: One name a class.
        count: The number of classes that the network tells apart.
        source: What messages call the names.

    Raises:
        InputError: There is not one name a class, two names are equal, or a name cannot be printed or is too long.
    """
    if len(names) != count:
        raise InputError(
            f"{source}: {len(names)} names ({listed(names)}), the network tells {count} classes apart; name each of "
            "them, class 0 first"
        )
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if not name.strip() or not name.isprintable():
            raise InputError(f"{source}: the name of class {index} is {name!r}, which cannot be read; give another")
        if len(name) > (limit := allowed(LONGEST_NAME)):
            raise InputError(
                f"{source}: the name of class {index} has {len(name):,} characters, the limit is {limit}; give another"
            )
        if name in first:
            raise InputError(f"{source}: {name!r} names class {first[name]} and class {index}; tell them apart")
        first[name] = index
    return tuple(names)


def read_classes(text: str) -> tuple[str, ...]:
    """The names of classes that an argument gives: the lines of the file of that name, or the parts between commas.

    Raises:
        FileFormatError: The file is no text, or too large.
        OSError: The file cannot be read.
    """
    path = Path(text)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # longer than a path may be
        is_file = False
    if not is_file:
        return tuple(name.strip() for name in text.split(","))
    try:
        require_regular(path, largest=LARGEST_CLASSES)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from error
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}: no text in UTF-8 ({error.reason}); write one name a line") from error
    return tuple(line.strip() for line in lines if line.strip())


def named(label: int, classes: Sequence[str] | None) -> str:
    """What messages call a class: its name, or "class" and its number if the names are not known."""
    return f"class {label}" if classes is None else classes[label]


def listed(names: Sequence[str]) -> str:
    """Some names in a message: the first few, and how many more there are."""
    return summary.listed([name if name.isprintable() else repr(name) for name in names], SHOWN)


def class_folders(names: Sequence[str]) -> tuple[str, ...] | None:
    """The class of each image, which is the topmost folder that it is in; None if any image is in no folder.

    Args:
        names: The images' paths below the folder that was given, with "/" between folders.
    """
    if not all("/" in name for name in names):
        return None
    return tuple(name.split("/", 1)[0] for name in names)


def first_of_each(names: Sequence[str], count: int) -> Indices:
    """The indices of ``count`` images, taken from all classes as equally as possible: the first images of each class.

    A class with too few images gives all of them. If the classes cannot all give equally many, the first ones in sorted
    order give one image more. If the images are in no folders, there are no classes, and the first images are taken.

    Args:
        names: The images' paths, as ``class_folders`` takes them.
        count: The number of images to choose; at most as many as there are.
    """
    return _chosen(names, count, spread=False)


def spread_over_each(names: Sequence[str], count: int) -> Indices:
    """The indices of ``count`` images, taken from all classes as equally as possible, evenly spaced within each class.

    This is as ``first_of_each``, but the classes that give one image more are evenly spaced too.
    """
    return _chosen(names, count, spread=True)


def _chosen(names: Sequence[str], count: int, *, spread: bool) -> Indices:
    folders = class_folders(names)
    if folders is None:
        return _some(len(names), count, spread=spread)
    groups: dict[str, list[int]] = {}
    for index, folder in enumerate(folders):
        groups.setdefault(folder, []).append(index)
    members = [np.array(groups[folder], dtype=np.int64) for folder in sorted(groups)]
    shares = _shares([len(each) for each in members], count, spread=spread)
    chosen = [each[_some(len(each), share, spread=spread)] for each, share in zip(members, shares, strict=True)]
    return np.sort(np.concatenate(chosen))


def _some(size: int, count: int, *, spread: bool) -> Indices:
    """``count`` indices below ``size``: the first ones, or evenly spaced ones."""
    if not spread:
        return np.arange(count, dtype=np.int64)
    return np.linspace(0, size - 1, count).round().astype(np.int64)


def _shares(sizes: Sequence[int], count: int, *, spread: bool) -> list[int]:
    """How many of ``count`` images each class gives, at most its size."""
    shares, left = [0] * len(sizes), count
    open_ = [index for index, size in enumerate(sizes) if size]
    while open_ and left >= len(open_):
        each = min(left // len(open_), *(sizes[index] - shares[index] for index in open_))
        for index in open_:
            shares[index] += each
        left -= each * len(open_)
        open_ = [index for index in open_ if shares[index] < sizes[index]]
    for turn in range(left if open_ else 0):
        shares[open_[(turn + 1) * len(open_) // left - 1 if spread else turn]] += 1
    return shares
