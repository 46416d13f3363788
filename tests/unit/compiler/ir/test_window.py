"""Windows against PyTorch's convolutions and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from resformer.compiler.ir.arrays import InvariantError
from resformer.compiler.ir.window import Window


def pairs(least: int, most: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(least, most), st.integers(least, most))


WINDOWS = st.builds(Window, kernel=pairs(1, 4), stride=pairs(1, 4), padding=pairs(0, 3), dilation=pairs(1, 3))
SOURCES = pairs(1, 9)


def fits(window: Window, source: tuple[int, int]) -> bool:
    return all(source[axis] + 2 * window.padding[axis] >= window.span[axis] for axis in range(2))


def convolved(window: Window, image: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.conv2d(image, weight, None, window.stride, window.padding, window.dilation)


@given(window=WINDOWS, source=SOURCES)
def test_as_many_windows_fit_as_pytorch_makes_or_both_refuse(window: Window, source: tuple[int, int]) -> None:
    image, ones = torch.ones(1, 1, *source), torch.ones(1, 1, *window.kernel)
    if fits(window, source):
        assert window.targets(source) == tuple(convolved(window, image, ones).shape[2:])
        return
    with pytest.raises(InvariantError, match="does not fit"):
        window.targets(source)
    with pytest.raises(RuntimeError):
        convolved(window, image, ones)


@given(window=WINDOWS, source=SOURCES)
def test_each_target_reads_what_pytorch_unfolds(window: Window, source: tuple[int, int]) -> None:
    assume(fits(window, source))
    image = torch.arange(1, math.prod(source) + 1, dtype=torch.float64).reshape(1, 1, *source)
    unfolded = F.unfold(image, window.kernel, window.dilation, window.padding, window.stride)
    targets = window.targets(source)
    rows, columns = (window.reads(axis, targets[axis]) for axis in range(2))
    assert rows.shape == (targets[0], window.kernel[0])
    assert columns.shape == (targets[1], window.kernel[1])
    padded = np.pad(image[0, 0].numpy(), [(each, each) for each in window.padding])
    # (rows, columns, K_h, K_w)
    read = padded[
        rows[:, None, :, None] + window.padding[0],
        columns[None, :, None, :] + window.padding[1],
    ]
    wanted = unfolded[0].numpy().reshape(window.area, *targets)
    np.testing.assert_array_equal(read.transpose(2, 3, 0, 1).reshape(wanted.shape), wanted)


@given(window=WINDOWS, source=SOURCES)
def test_readers_are_the_gradient_of_a_sum_of_windows(window: Window, source: tuple[int, int]) -> None:
    assume(fits(window, source))
    image = torch.ones(1, 1, *source, dtype=torch.float64, requires_grad=True)
    convolved(window, image, torch.ones(1, 1, *window.kernel, dtype=torch.float64)).sum().backward()
    assert image.grad is not None
    targets = window.targets(source)
    rows, columns = (window.readers(axis, source[axis], targets[axis]) for axis in range(2))
    np.testing.assert_array_equal(np.outer(rows, columns), image.grad[0, 0].numpy())


@given(window=WINDOWS, source=SOURCES)
def test_reads_inside_are_the_gradient_of_the_weights(window: Window, source: tuple[int, int]) -> None:
    assume(fits(window, source))
    weight = torch.ones(1, 1, *window.kernel, dtype=torch.float64, requires_grad=True)
    convolved(window, torch.ones(1, 1, *source, dtype=torch.float64), weight).sum().backward()
    assert weight.grad is not None
    targets = window.targets(source)
    rows, columns = (window.inside(axis, source[axis], targets[axis]) for axis in range(2))
    np.testing.assert_array_equal(np.outer(rows, columns), weight.grad[0, 0].numpy())


@given(window=WINDOWS, source=SOURCES)
def test_span_and_area_by_plain_loops(window: Window, source: tuple[int, int]) -> None:
    assume(fits(window, source))
    taps = [
        (row * window.dilation[0], column * window.dilation[1])
        for row in range(window.kernel[0])
        for column in range(window.kernel[1])
    ]
    assert window.area == len(taps)
    assert window.span == (1 + max(row for row, _ in taps), 1 + max(column for _, column in taps))


@given(window=WINDOWS, source=SOURCES, data=st.data())
def test_targets_reach_from_the_first_to_past_the_last_that_they_read(
    window: Window, source: tuple[int, int], data: st.DataObject
) -> None:
    assume(fits(window, source))
    for axis, count in enumerate(window.targets(source)):
        first = data.draw(st.integers(0, count - 1))
        last = data.draw(st.integers(first, count - 1))
        read = window.reads(axis, count)[first : last + 1]
        assert window.reach(axis, first, last) == (read.min(), read.max() + 1)
        low, high = window.reach(axis, np.array([first, last]), np.array([last, last]))
        every = window.reads(axis, count)
        assert low.tolist() == [every[first].min(), every[last].min()]
        assert high.tolist() == [every[last].max() + 1] * 2


@given(window=WINDOWS, source=SOURCES)
def test_a_patch_reads_each_position_once_and_no_padding(window: Window, source: tuple[int, int]) -> None:
    """On a source that windows fill, all patches do so, and no other windows without dilation do."""
    size = 3 * window.kernel[0] * window.dilation[0], 3 * window.kernel[1] * window.dilation[1]
    once = True
    for axis in range(2):
        targets = window.targets(size)[axis]
        read = sorted(int(each) for each in window.reads(axis, targets).reshape(-1))
        # positions that the last windows leave over are not read at all
        once &= read == list(range(len(read))) and len(read) > size[axis] - window.kernel[axis]
    if window.is_patch:
        assert once
    elif window.dilation == (1, 1):
        assert not once


@pytest.mark.parametrize(
    ("window", "is_patch"),
    [
        (Window((2, 3), (2, 3)), True),
        (Window((1, 1)), True),
        (Window((2, 2), (2, 1)), False),
        (Window((2, 2), (3, 2)), False),
        (Window((2, 2), (2, 2), padding=(0, 1)), False),
        (Window((2, 2), (2, 2), dilation=(2, 1)), False),
    ],
)
def test_what_a_patch_is(window: Window, is_patch: bool) -> None:
    assert window.is_patch is is_patch


@given(kernel=pairs(1, 5), dilation=pairs(1, 3), source=SOURCES)
def test_same_padding_is_pytorchs(kernel: tuple[int, int], dilation: tuple[int, int], source: tuple[int, int]) -> None:
    window = Window(kernel, dilation=dilation)
    around, image = window.same_padding, torch.rand(1, 1, *source, dtype=torch.float64)
    weight = torch.rand(1, 1, *kernel, dtype=torch.float64)
    if around is None:
        # equal padding before and behind would make one target too few or too many
        assert any((gap * (size - 1)) % 2 for gap, size in zip(dilation, kernel, strict=True))
        return
    assert Window(kernel, padding=around, dilation=dilation).targets(source) == source
    wanted = F.conv2d(image, weight, padding="same", dilation=dilation)
    torch.testing.assert_close(F.conv2d(image, weight, padding=around, dilation=dilation), wanted)


@pytest.mark.parametrize(
    ("window", "complaint"),
    [
        (Window((0, 1)), "must be at least 1"),
        (Window((1, 1), stride=(1, 0)), "must be at least 1"),
        (Window((1, 1), dilation=(0, 1)), "must be at least 1"),
        (Window((1, 1), padding=(0, -1)), "padding -1 is negative"),
        (Window((3, 5), dilation=(1, 2), padding=(0, 1)), "a window of 9 does not fit 6 padded by 1"),
    ],
)
def test_what_makes_no_window_is_refused(window: Window, complaint: str) -> None:
    with pytest.raises(InvariantError, match=complaint):
        window.targets((6, 6))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((4, 4, 3, 1, 1, 1), [2, 3, 3, 2]),
        ((4, 2, 2, 2, 0, 1), [1, 1, 1, 1]),
        ((5, 2, 3, 2, 0, 1), [1, 1, 2, 1, 1]),
        ((4, 2, 1, 2, 0, 1), [1, 0, 1, 0]),
        ((5, 1, 3, 1, 0, 2), [1, 0, 1, 0, 1]),
        ((4, 4, 3, 1, 2, 2), [2, 2, 2, 2]),
    ],
)
def test_readers_by_hand(arguments: tuple[int, int, int, int, int, int], expected: list[int]) -> None:
    source, targets, kernel, stride, padding, dilation = arguments
    along = Window((1, kernel), (1, stride), (0, padding), (1, dilation))
    down = Window((kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
    assert along.readers(1, source, targets).tolist() == expected
    assert down.readers(0, source, targets).tolist() == expected
