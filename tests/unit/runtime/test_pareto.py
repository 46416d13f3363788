"""The choices that no other choice beats, against the definition."""

from __future__ import annotations

import numpy as np
import pytest

from resformer.runtime.pareto import front


@pytest.mark.parametrize("seed", range(20))
def test_no_way_of_the_front_is_beaten_and_all_others_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gains, costs = rng.integers(0, 6, (2, 12)).tolist()

    def beats(one: int, other: int) -> bool:
        as_good = gains[one] >= gains[other] and costs[one] <= costs[other]
        return as_good and (gains[one], costs[one]) != (gains[other], costs[other])

    found = front(gains, costs)
    assert set(found) == {each for each in range(12) if not any(beats(other, each) for other in range(12))}
    assert [costs[each] for each in found] == sorted(costs[each] for each in found)


def test_what_was_not_measured_is_no_choice() -> None:
    assert front([0.9, None, 0.8, 0.95], [1.0, 0.1, None, 3.0]) == [0, 3]
    assert front([], []) == []
    assert front([0.9, 0.9], [2, 2]) == [0, 1]
