"""The error of rounding samples to an input's steps, against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resformer.compiler.samples.arrays import LARGEST_VALUE, ArraySamples
from resformer.compiler.samples.rounding import LOOKED_AT, VALUES_AT_ONCE, rounding_cost, rounding_warning


def samples(values: Any, *, counts: bool = True) -> ArraySamples:
    array = np.asarray(values)
    return ArraySamples(array.reshape(-1, 1, 1, 1), counts)


def test_the_cost_is_that_of_the_nearest_steps() -> None:
    values = np.random.default_rng(0).random(VALUES_AT_ONCE + 50) * 3
    cost = rounding_cost(samples(values), 0)
    errors = values - np.round(values)
    assert cost.largest == np.abs(errors).max()
    assert cost.rms == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-12)
    assert cost.signal == pytest.approx(np.sqrt(np.mean(values**2)), rel=1e-12)
    finer = rounding_cost(samples(values[:LOOKED_AT]), 3)
    assert finer.largest == np.abs(values[:LOOKED_AT] - np.round(values[:LOOKED_AT] * 8) / 8).max()


def test_fractions_among_many_whole_numbers_are_found() -> None:
    values = np.zeros(2 * VALUES_AT_ONCE)
    values[-1] = 0.25
    assert rounding_cost(samples(values), 0).largest == 0.25


@pytest.mark.parametrize(
    ("values", "exp", "matters"),
    [
        (np.array([0.0, 0.3, 2.7]), 0, True),
        (np.array([0.0, 3.0, 2.0]), 0, False),
        (np.zeros(3), 0, False),
        (np.array([0, 3, 2]), 0, False),
        (np.array([0.25, 0.5]), 2, False),
        (np.array([1e-3, 2e-3]), 6, True),
        (np.linspace(0, 1, 100), 6, False),
        (np.linspace(0, 1, 100), 1, True),
        (np.linspace(0, 1e4, 100), 0, False),
    ],
)
def test_what_matters(values: Any, exp: int, matters: bool) -> None:
    cost = rounding_cost(samples(values), exp)
    assert cost.matters == matters
    assert (rounding_warning(cost, "x", 13) is not None) == matters


def test_the_largest_samples_have_a_mean_square() -> None:
    with np.errstate(all="raise"):
        assert rounding_cost(samples(np.full(LOOKED_AT, LARGEST_VALUE)), 13).signal == LARGEST_VALUE


@pytest.mark.parametrize("size", [2e-3, 0.3, 40.0])
def test_the_recommended_scale_loses_next_to_nothing(size: float) -> None:
    values = np.random.default_rng(0).random(2000) * size
    finer = rounding_cost(samples(values), 0).finer_exp
    again = rounding_cost(samples(values), finer)
    assert again.rms < 0.011 * again.signal
    warning = rounding_warning(rounding_cost(samples(values + 0.3), 0), "x.npy", 2)
    assert warning is not None
    assert warning.startswith("x.npy: ")
    assert "--calibration" in warning
    assert "--input-scale-exp 2" in warning or "--input-scale-exp 1" in warning


def test_bytes_of_pixels_are_fractions_and_counts_are_not() -> None:
    pixels = np.arange(256, dtype=np.uint8)
    assert rounding_cost(samples(pixels), 0).rms == 0
    assert rounding_cost(samples(pixels, counts=False), 0).matters


def test_what_takes_whole_numbers_alone_is_warned_of_large_losses_only() -> None:
    values = np.linspace(-20.0, 20.0, 3 * 4 * 4).reshape(3, 1, 4, 4)
    assert rounding_warning(rounding_cost(samples(values), 0), "x.npy", 2) is not None
    assert rounding_warning(rounding_cost(samples(values), 0), "x.npy", 0) is None
    warning = rounding_warning(rounding_cost(samples(values / 20), 0), "x.npy", 0)
    assert warning is not None
    assert "so scale the samples" in warning
    assert "--calibration" not in warning
