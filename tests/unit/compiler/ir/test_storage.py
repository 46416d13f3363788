"""How much memory weights take."""

from __future__ import annotations

import numpy as np
import pytest

from resformer.compiler.ir.storage import mantissa_bits, stored_bits, stored_share


@pytest.mark.parametrize(("largest", "bits"), [(0, 1), (1, 2), (-1, 2), (63, 7), (64, 8), (-127, 8), (128, 9)])
def test_a_mantissa_s_bits_count_its_sign(largest: int, bits: int) -> None:
    assert mantissa_bits(np.array([largest, 0], dtype=np.int16)) == bits


@pytest.mark.parametrize(
    ("nonzero", "share", "bits"),
    [
        (100, 1.0, 800),
        (41, 1.0, 800),  # 41 * 20 bits are more
        (40, 1.0, 800),  # as many
        (39, 0.39, 780),
        (1, 0.01, 20),
        (0, 0.0, 0),
    ],
)
def test_zeros_are_left_out_where_that_takes_less(nonzero: int, share: float, bits: int) -> None:
    weight = np.zeros((10, 10), dtype=np.int8)
    weight.flat[:nonzero] = 127
    assert stored_share(weight, 12) == share
    assert stored_bits(weight, 12) == bits


def test_without_an_index_no_weight_is_stored_by_itself() -> None:
    weight = np.zeros((10, 10), dtype=np.int8)
    weight[0, 0] = 127
    assert stored_share(weight, 0) == 1
    assert stored_bits(weight, 0) == 800
