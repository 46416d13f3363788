"""Rounding weights together: against the nearest, in cases that can be solved by hand, and by blocks."""

from __future__ import annotations

import pytest
import torch

from resformer.compiler.quantize import rounding
from resformer.compiler.quantize.rounding import round_together


def problem(seed: int, taps: int = 12, groups: int = 2, outputs: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights in units of their step, and the second moments of inputs that move together."""
    generator = torch.Generator().manual_seed(seed)
    weight = 3 * torch.randn(groups, outputs, taps, generator=generator, dtype=torch.float64)
    mixed = torch.rand(groups, 200, 3, generator=generator, dtype=torch.float64) @ torch.rand(
        groups, 3, taps, generator=generator, dtype=torch.float64
    )
    inputs = mixed + 0.1 * torch.rand(groups, 200, taps, generator=generator, dtype=torch.float64)
    return weight, inputs.transpose(1, 2) @ inputs / 200


def loss(rounded: torch.Tensor, weight: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    return torch.einsum("gcd,gde,gce->gc", rounded - weight, gram, rounded - weight)


def bounds(taps: int, largest: float) -> torch.Tensor:
    return torch.full((taps,), largest, dtype=torch.float64)


@pytest.mark.parametrize("largest", [1.0, 3.0, 127.0])
@pytest.mark.parametrize("seed", range(5))
def test_no_output_loses_more_than_by_the_nearest(seed: int, largest: float) -> None:
    weight, gram = problem(seed)
    rounded = round_together(weight, torch.ones(1, dtype=torch.float64), bounds(12, largest), gram)
    nearest = weight.round().clamp(-largest, largest)
    assert (rounded == rounded.round()).all()
    assert rounded.abs().max() <= largest
    assert (loss(rounded, weight, gram) <= loss(nearest, weight, gram) * (1 + 1e-12)).all()
    if largest > 100:
        assert loss(rounded, weight, gram).sum() < 0.3 * loss(nearest, weight, gram).sum()


def test_taps_that_have_nothing_in_common_are_rounded_to_the_nearest() -> None:
    weight, _ = problem(0)
    rounded = round_together(weight, torch.ones(1, dtype=torch.float64), bounds(12, 5.0), torch.eye(12).double()[None])
    assert torch.equal(rounded, weight.round().clamp(-5, 5))


def test_taps_that_always_fire_together_keep_their_sum() -> None:
    weight = torch.full((1, 1, 10), 0.3, dtype=torch.float64)
    gram = torch.ones(1, 10, 10, dtype=torch.float64)
    rounded = round_together(weight, torch.ones(1, dtype=torch.float64), bounds(10, 5.0), gram)
    assert rounded.sum() == 3


def test_a_tap_without_bounds_makes_up_for_those_that_are_clipped() -> None:
    weight = torch.tensor([[[40.0, 0.0]]], dtype=torch.float64)
    gram = torch.ones(1, 2, 2, dtype=torch.float64)
    step = torch.tensor([1.0, 0.25], dtype=torch.float64)
    largest = torch.tensor([7.0, torch.inf], dtype=torch.float64)
    rounded = round_together(weight, step.expand(1, 1, 2), largest, gram)
    assert rounded[0, 0, 0] == 7
    assert abs(float((rounded * step).sum()) - 40) < 1  # damping leaves a little


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, gram = problem(7)
    whole = round_together(weight, torch.ones(1, dtype=torch.float64), bounds(12, 127.0), gram)
    monkeypatch.setattr(rounding, "BLOCK", 5)
    assert torch.equal(round_together(weight, torch.ones(1, dtype=torch.float64), bounds(12, 127.0), gram), whole)


def test_inputs_that_never_fire_have_a_rounding() -> None:
    weight, gram = problem(3)
    gram[0] = 0
    rounded = round_together(weight, torch.ones(1, dtype=torch.float64), bounds(12, 127.0), gram)
    assert torch.equal(rounded[0], weight[0].round())
