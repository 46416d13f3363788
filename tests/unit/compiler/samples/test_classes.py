"""Names of classes, and equal numbers of samples from each class."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from resformer.compiler.samples.classes import (
    check_classes,
    first_of_each,
    named,
    read_classes,
    spread_over_each,
)
from resformer.errors import FileFormatError, InputError
from resformer.models.limits import LARGEST_CLASSES, raised


def paths(**sizes: int) -> list[str]:
    return [f"{folder}/{index}.png" for folder in sorted(sizes) for index in range(sizes[folder])]


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ({"a": 5, "b": 5, "c": 5}, 6, "a0 a1 b0 b1 c0 c1"),
        ({"a": 5, "b": 5, "c": 5}, 5, "a0 a1 b0 b1 c0"),
        ({"a": 5, "b": 5, "c": 5}, 2, "a0 b0"),
        ({"a": 1, "b": 5, "c": 5}, 7, "a0 b0 b1 b2 c0 c1 c2"),
        ({"a": 1, "b": 9, "c": 2}, 8, "a0 b0 b1 b2 b3 b4 c0 c1"),
        ({"a": 2, "b": 1}, 3, "a0 a1 b0"),
    ],
)
def test_each_class_gives_its_first(sizes: dict[str, int], count: int, expected: str) -> None:
    names = paths(**sizes)
    chosen = [names[index].replace("/", "").removesuffix(".png") for index in first_of_each(names, count)]
    assert chosen == expected.split()


@pytest.mark.parametrize("count", range(1, 41))
@pytest.mark.parametrize("sizes", [{"a": 20, "b": 20}, {"a": 3, "b": 17, "c": 11, "d": 9}])
def test_no_class_gives_two_more_than_another_that_has_more_to_give(sizes: dict[str, int], count: int) -> None:
    names = paths(**sizes)
    for choose in (first_of_each, spread_over_each):
        chosen = choose(names, count)
        assert len(set(chosen.tolist())) == count
        assert (np.diff(chosen) > 0).all()
        taken = Counter(names[index][0] for index in chosen)
        spare = [taken[folder] for folder, size in sizes.items() if taken[folder] < size]
        assert max(taken.values()) - min(spare, default=max(taken.values())) <= 1


def test_spread_takes_from_all_over_a_class_and_over_the_classes() -> None:
    names = paths(a=9, b=9)
    assert spread_over_each(names, 6).tolist() == [0, 4, 8, 9, 13, 17]
    many = paths(**{f"{index:03}": 1 for index in range(100)})
    assert spread_over_each(many, 4).tolist() == [24, 49, 74, 99]


def test_images_in_no_folder_have_no_classes() -> None:
    names = ["a/0.png", "a/1.png", "b/0.png", "stray.png"]
    assert first_of_each(names, 2).tolist() == [0, 1]
    assert spread_over_each(names, 2).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["cat", "dog"], r"--classes: 2 names \(cat, dog\), the network tells 3 classes apart"),
        (["cat", "dog", "cat"], "'cat' names class 0 and class 2"),
        (["cat", "", "dog"], "class 1 is ''"),
        (["cat", "dog", "\x1b[31m"], r"class 2 is '\\x1b"),
        (["cat", "dog", "c" * 1025], "the name of class 2 has 1,025 characters, the limit is 1024"),
    ],
)
def test_names_that_name_nothing(names: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_classes(names, 3, "--classes")


def test_limits_that_are_raised_allow_longer_names() -> None:
    names = ["cat", "dog", "c" * 1025]
    with raised(2):
        assert check_classes(names, 3, "--classes") == tuple(names)


def test_names_are_said_or_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("tabby cat\ndog, any\n\n")
    assert read_classes(str(path)) == ("tabby cat", "dog, any")
    assert read_classes("cat, dog") == ("cat", "dog")
    assert read_classes("c" * 5000) == ("c" * 5000,)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FileFormatError, match=r"names\.txt: no text in UTF-8"):
        read_classes(str(path))
    path.write_bytes(b"c\n" * (LARGEST_CLASSES // 2 + 1))
    with pytest.raises(FileFormatError, match=r"names\.txt: has \d+ bytes, the limit is .* with --limits 2$"):
        read_classes(str(path))
    with raised(2):
        assert len(read_classes(str(path))) == LARGEST_CLASSES // 2 + 1
    assert (named(1, ("cat", "dog")), named(1, None)) == ("dog", "class 1")


def test_looking_for_names_that_are_alike_takes_no_longer_than_reading_them() -> None:
    """There are as many names as a report may hold; comparing each with each would take an hour."""
    names = [str(index) for index in range(300_000)]
    started = time.process_time()
    assert len(check_classes(names, len(names), "--classes")) == len(names)
    assert time.process_time() - started < 5
