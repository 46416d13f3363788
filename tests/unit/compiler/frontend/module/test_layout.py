"""Views as products of atoms: a layout follows whatever is done to a tensor's axes."""

from __future__ import annotations

import math
import random

import pytest
import torch

from resformer.compiler.frontend.module.constants import unit_of
from resformer.compiler.frontend.module.layout import BATCH, TIME, Atom, Layout, plain

SHAPE = (12, 4, 6)
STEPS, SAMPLES = 3, 5
LEAD = ((Atom(TIME, STEPS),), (Atom(BATCH, SAMPLES),))
VALUE = torch.arange(STEPS * SAMPLES * math.prod(SHAPE)).reshape(STEPS, SAMPLES, *SHAPE)


def test_plain_is_the_value() -> None:
    layout = plain(LEAD, SHAPE)
    assert layout.sizes == VALUE.shape
    assert layout.in_order
    assert layout.shows_all(SHAPE)
    assert torch.equal(layout.arrange(VALUE, SHAPE), VALUE)


@pytest.mark.parametrize("seed", range(40))
def test_views_in_any_order_are_followed(seed: int) -> None:
    rng = random.Random(seed)
    layout, tensor = plain(LEAD, SHAPE), VALUE
    for _ in range(6):
        if rng.random() < 0.5:
            order = [0, 1, *rng.sample(range(2, tensor.dim()), tensor.dim() - 2)]
            layout, tensor = layout.permuted(order), tensor.permute(order)
        else:
            sizes = [STEPS, SAMPLES]
            left = math.prod(SHAPE)
            while left > 1:
                size = rng.choice([each for each in range(2, left + 1) if left % each == 0])
                sizes.append(size)
                left //= size
            made = layout.reshaped(sizes)
            if made is None:  # an axis would mix parts of dimensions that do not divide
                continue
            layout, tensor = made, tensor.reshape(sizes)
        assert layout.sizes == tensor.shape
    assert torch.equal(layout.arrange(tensor, SHAPE), VALUE)
    assert layout.in_order == torch.equal(tensor.reshape(VALUE.shape), VALUE)


def test_heads_and_their_halves_are_runs_of_channels() -> None:
    layout = plain(LEAD, SHAPE).reshaped((STEPS, SAMPLES, 2, 6, 24))
    assert layout is not None
    half = layout.cut(3, 3, 6)
    assert half is not None
    assert half.axes[2:4] == ((Atom(0, 2, 6),), (Atom(0, 3, 1),))
    assert half.start(0) == 3
    assert not half.shows_all(SHAPE)
    assert half.reshaped((STEPS, SAMPLES, 6, 24)).axes[2] == (Atom(0, 2, 6), Atom(0, 3, 1))


def test_what_mixes_is_no_view() -> None:
    layout = plain(LEAD, SHAPE)
    assert layout.reshaped((SAMPLES, STEPS, *SHAPE)) is None
    assert layout.reshaped((STEPS, SAMPLES, 5, -1)) is None
    assert layout.cut(0, 0, 1) is None
    assert layout.cut(1, 0, 2) is None
    merged = layout.reshaped((STEPS, SAMPLES, 48, 6))
    assert merged is not None
    assert merged.cut(2, 0, 6) is None
    assert merged.cut(2, 4, 12) is not None


def test_an_axis_of_one_step_is_still_time() -> None:
    layout = Layout(((Atom(TIME, 1),), (Atom(BATCH, SAMPLES),), (Atom(0, 12),)))
    made = layout.reshaped((SAMPLES, 12))
    assert made == Layout(((Atom(TIME, 1), Atom(BATCH, SAMPLES)), (Atom(0, 12),)))
    assert made.reshaped((1, SAMPLES, 12)) == layout


@pytest.mark.parametrize("sizes", [(2, 1, 1), (1, 6, 1), (2, 6, 24), (1, 1, 24), (1, 1, 1), ()])
def test_constants_are_spread_as_torch_broadcasts_them(sizes: tuple[int, ...]) -> None:
    layout = plain(LEAD, SHAPE).reshaped((STEPS, SAMPLES, 2, 6, 24))
    assert layout is not None
    layout = layout.permuted((0, 1, 4, 2, 3))
    constant = torch.rand(sizes, dtype=torch.float64)
    if sizes:
        constant = constant.permute(2, 0, 1)
    spread = layout.spread(constant, SHAPE)
    assert spread is not None
    view = VALUE.double().reshape(STEPS, SAMPLES, 2, 6, 24).permute(0, 1, 4, 2, 3)
    expected = layout.arrange(view * constant, SHAPE)
    assert torch.equal(VALUE * torch.from_numpy(spread.copy()), expected)


def test_constants_over_samples_are_not_spread() -> None:
    assert plain(LEAD, SHAPE).spread(torch.rand(SAMPLES, 1, 1, 1), SHAPE) is None


@pytest.mark.parametrize("count", [1, 9, 32, 49, 196, 237])
def test_the_unit_of_a_scale_is_found(count: int) -> None:
    found = unit_of(lambda rate: 1.0 / torch.sqrt(torch.full((2,), rate, dtype=torch.float64) * count))
    assert found == pytest.approx(1 / count, rel=1e-15)


def test_what_is_no_power_has_no_unit() -> None:
    assert unit_of(lambda rate: torch.tensor(2.0 + 0 * rate)) is None
    assert unit_of(lambda rate: torch.tensor(1.0 + rate)) is None
    assert unit_of(lambda rate: torch.tensor(-rate)) is None
