"""The ways of messages, on a mesh as long as a chip's description may say."""

from __future__ import annotations

import numpy as np

from resformer.compiler.placement.traffic import _among_all


def test_sums_of_long_ways_do_not_wrap() -> None:
    far, readers = 2**48, 40_000
    starts = np.array([[far, 0], [0, 3]], dtype=np.int64)
    pairs, hops, longest = _among_all(starts, np.zeros((readers, 2), dtype=np.int64), np.array([1.0, 1.0]))
    assert pairs == 2 * readers
    assert hops == [readers * far, readers * 3]
    assert longest == far
