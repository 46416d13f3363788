"""Packed spikes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resformer.compiler.ir.trace import SpikeTrain

shapes = st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple)


@given(shapes, st.integers(0, 2**16), st.sampled_from([np.bool_, np.int64, np.float64, np.uint8]))
def test_spikes_survive_packing(shape: tuple[int, ...], seed: int, dtype: type[np.generic]) -> None:
    spikes = np.random.default_rng(seed).random(shape) < 0.3
    train = SpikeTrain.pack(spikes.astype(dtype))
    np.testing.assert_array_equal(train.dense(), spikes)
    assert train.dense().dtype == np.bool_
    assert (train.size, train.count) == (spikes.size, spikes.sum())
    assert train.packed.nbytes == -(-spikes.size // 8)


@given(shapes, st.integers(0, 2**16))
def test_mismatches_are_counted_both_ways(shape: tuple[int, ...], seed: int) -> None:
    left, right = (np.random.default_rng(seed).random((2, *shape)) < 0.5)[:2]
    assert SpikeTrain.pack(left).mismatches(SpikeTrain.pack(right)) == (left != right).sum()
    assert SpikeTrain.pack(left).mismatches(SpikeTrain.pack(left)) == 0


def test_any_axis_order_in_memory_packs_alike() -> None:
    spikes = np.random.default_rng(0).random((3, 4, 5)) < 0.5
    turned = np.ascontiguousarray(spikes.transpose(2, 1, 0)).transpose(2, 1, 0)
    assert SpikeTrain.pack(spikes).mismatches(SpikeTrain.pack(turned)) == 0


def test_trains_of_different_shapes_are_not_compared() -> None:
    with pytest.raises(AssertionError, match=r"\(2, 3\) against \(3, 2\)"):
        SpikeTrain.pack(np.zeros((2, 3))).mismatches(SpikeTrain.pack(np.zeros((3, 2))))


def test_counting_needs_no_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    train = SpikeTrain.pack(np.array([[1, 0, 1], [1, 1, 1]]))
    assert train.count == 5
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert train.count == 5
