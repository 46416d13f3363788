"""How sure accuracies are: against published values, and against what must hold of any interval."""

from __future__ import annotations

import numpy as np
import pytest

from resformer.runtime.verify.intervals import drop_interval, share_interval


def test_shares_as_published() -> None:
    # Brown, Cai and DasGupta (2001) give Wilson's interval; values by their formula
    assert share_interval(9, 10) == pytest.approx((0.5958, 0.9821), abs=5e-5)
    assert share_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=5e-5)
    assert share_interval(982, 1000) == pytest.approx((0.9717, 0.9886), abs=5e-5)


@pytest.mark.parametrize("samples", [1, 2, 16, 1000, 50_000])
def test_a_share_lies_in_its_interval(samples: int) -> None:
    for right in {0, 1, samples // 2, samples - 1, samples}:
        low, high = share_interval(right, samples)
        assert 0 <= low <= right / samples <= high <= 1
        assert low < high


def test_drops_by_hand() -> None:
    # (5.5 - 1.5) / 102, and 1.96 * sqrt(7 - 16 / 102) / 102 on either side
    assert drop_interval(5, 1, 100) == pytest.approx((-0.011050, 0.089482), abs=2e-6)
    low, high = drop_interval(0, 0, 100)
    assert -high == low < 0


def test_a_drop_and_its_reverse_mirror_each_other() -> None:
    low, high = drop_interval(7, 2, 60)
    assert drop_interval(2, 7, 60) == pytest.approx((-high, -low))
    assert -1 <= drop_interval(0, 1, 1)[0] <= drop_interval(0, 1, 1)[1] <= 1


def test_most_drops_lie_within() -> None:
    """For random samples, about 95 % of the intervals hold the drop with which the samples were drawn."""
    lost, gained, samples = 0.06, 0.02, 200
    drawn = np.random.default_rng(1).multinomial(samples, [lost, gained, 1 - lost - gained], size=2000)
    held = [low <= lost - gained <= high for low, high in (drop_interval(a, b, samples) for a, b, _ in drawn)]
    assert 0.93 < np.mean(held) < 0.98
