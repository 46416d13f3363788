"""Traces joined, split and compared."""

from __future__ import annotations

import numpy as np
import pytest

from resformer.compiler.ir.trace import SpikeTrain, Trace
from resformer.runtime.run.trace import Comparison, ElementPosition, join, require_complete, split

GENERATOR = np.random.default_rng(0)


def trace(samples: int) -> Trace:
    spikes = GENERATOR.random((4, samples, 3, 5)) < 0.3
    return Trace(
        logits=GENERATOR.integers(-9, 9, (4, samples, 2)),
        spikes={"a": SpikeTrain.pack(spikes)},
        graded={"b": GENERATOR.integers(-9, 9, (4, samples, 7), dtype=np.int32)},
        saturated={"b": samples},
    )


def assert_equal(left: Trace, right: Trace) -> None:
    np.testing.assert_array_equal(left.logits, right.logits)
    np.testing.assert_array_equal(left.spikes["a"].dense(), right.spikes["a"].dense())
    np.testing.assert_array_equal(left.graded["b"], right.graded["b"])


def test_join_undoes_split() -> None:
    whole = trace(7)
    parts = split(whole, [(0, 3), (3, 4), (4, 7)])
    assert [part.logits.shape[1] for part in parts] == [3, 1, 3]
    assert_equal(join(parts), whole)


def test_join_adds_counts_of_saturation() -> None:
    assert join([trace(2), trace(3)]).saturated == {"b": 5}


def test_comparisons_count_by_layer_and_find_the_first_place() -> None:
    comparison = Comparison(["early", "late"])
    differ = np.zeros((4, 2, 3, 5), dtype=bool)
    comparison.add("late", differ, [10, 11])
    assert comparison.first is None
    differ[1, 0, 2, 4] = differ[3, 1, 0, 0] = True
    comparison.add("late", differ, [12, 13])
    assert comparison.first == ElementPosition(layer=1, step=1, sample=12, neuron=(2, 4))
    other = Comparison(["early", "late"])
    late_in_time = np.zeros((4, 1, 6), dtype=bool)
    late_in_time[3, 0, 5] = True
    other.add("early", late_in_time, [14])
    comparison.merge(other)
    assert comparison.first == ElementPosition(layer=0, step=3, sample=14, neuron=(5,)), (
        "the cause is in the earlier layer"
    )
    assert comparison.compared == {"early": 24, "late": 240}
    assert comparison.mismatched == {"early": 1, "late": 2}
    assert (comparison.total, comparison.wrong) == (264, 3)


def test_no_samples_count_nothing() -> None:
    comparison = Comparison(["a"])
    comparison.add("a", np.zeros((4, 0, 3), dtype=bool), [])
    assert (comparison.total, comparison.wrong, comparison.first) == (0, 0, None)


def test_each_sample_needs_its_index() -> None:
    with pytest.raises(AssertionError):
        Comparison(["a"]).add("a", np.zeros((4, 2, 3), dtype=bool), [0])


@pytest.mark.parametrize(
    ("compared", "expected"),
    [
        ({}, {}),
        ({"a": 5}, {"a": 6}),
        ({"a": 5}, {"a": 5, "b": 5}),
        ({"a": 5, "b": 5}, {"a": 5}),
        ({"a": 0}, {"a": 0}),
    ],
)
def test_an_incomplete_comparison_is_a_bug(compared: dict[str, int], expected: dict[str, int]) -> None:
    with pytest.raises(AssertionError):
        require_complete("E1", compared, expected)


def test_a_complete_comparison_passes() -> None:
    require_complete("E1", {"a": 5, "b": 7}, {"a": 5, "b": 7})
