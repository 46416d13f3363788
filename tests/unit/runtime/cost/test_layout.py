"""Faster layouts: they stay on the chips, are never slower, and hold every neuron."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resformer.compiler.chips.chip import load_chip
from resformer.compiler.ir import reference
from resformer.compiler.placement.activity import measure
from resformer.compiler.placement.place import place
from resformer.errors import CapacityError
from resformer.runtime.cost.cost import Cost, estimate
from resformer.runtime.cost.layout import PRECISION, spread
from support.program_builder import tiny_resformer

CHIP = replace(load_chip("loihi2"), cores_per_chip=40, chips_per_system=3)


@pytest.fixture(scope="module")
def run():
    program, net = tiny_resformer()
    return program, measure(program, reference.run(program, net.samples(2), record=True).spikes)


@pytest.fixture(scope="module")
def fewest(run) -> Cost:
    program, activity = run
    return estimate(program, activity, place(program, CHIP))


def test_populations_can_be_asked_to_take_more_cores(run) -> None:
    program, _ = run
    plain = place(program, CHIP)
    name = max(plain.layers, key=lambda layer: layer.population.neurons).population.name
    wanted = place(program, CHIP, {name: 5})
    assert wanted.by_name[name].cores >= 5 > plain.by_name[name].cores
    neurons = sum((a[1] - a[0]) * (b[1] - b[0]) * (c[1] - c[0]) for _, (a, b, c) in wanted.by_name[name].boxes())
    assert neurons == wanted.by_name[name].population.neurons
    # one neuron cannot be cut, and asking for it changes nothing
    (*_, last) = plain.layers
    most = last.population.neurons
    assert place(program, CHIP, {last.population.name: 10 * most}).by_name[last.population.name].cores <= most


def test_a_spread_layout_is_faster_and_does_the_same_work(run, fewest: Cost) -> None:
    program, activity = run
    found = spread(program, activity, fewest)
    assert fewest.placement.chips == 1
    assert fewest.placement.cores < found.placement.cores <= 40
    assert found.step_ns < fewest.step_ns
    assert not found.placement.violations
    for before, after in zip(fewest.layers, found.layers, strict=True):
        assert after.cores >= before.cores
        assert after.operations == pytest.approx(before.operations, rel=1e-12)
        assert after.step_ns * after.cores == pytest.approx(before.step_ns * before.cores)


def test_no_step_that_is_clearly_shorter_would_fit(run, fewest: Cost) -> None:
    program, activity = run
    found = spread(program, activity, fewest)
    shortest = max(layer.step_ns for layer in found.layers)
    wanted = {}
    for layer in fewest.layers:
        cores = 1
        while layer.step_ns * layer.cores / cores > shortest * (1 - 2 * PRECISION):
            cores += 1
        wanted[layer.name] = cores
    tried = place(program, CHIP, wanted)
    slowest = max(each.step_ns for each in estimate(program, activity, tried).layers)
    assert tried.cores > 40 or slowest >= shortest * (1 - 2 * PRECISION)


def test_more_chips_are_never_slower(run, fewest: Cost) -> None:
    program, activity = run
    steps = [spread(program, activity, fewest, chips).step_ns for chips in (1, 2, 3)]
    assert steps == sorted(steps, reverse=True)
    assert steps[2] < steps[0]


@pytest.mark.parametrize("chips", [0, 4])
def test_impossible_numbers_of_chips_are_refused(run, fewest: Cost, chips: int) -> None:
    program, activity = run
    with pytest.raises(CapacityError, match=f"--spread: {chips} chips, the network takes 1 at least"):
        spread(program, activity, fewest, chips)


def test_where_no_work_takes_time_more_cores_save_none(run) -> None:
    program, activity = run
    kinds = ("synaptic_op", "synaptic_op_wide", "neuron_update_active", "neuron_update_inactive")
    free = replace(CHIP, **dict.fromkeys((f"{kind}_ns" for kind in kinds), 0.0), sources={})
    cost = estimate(program, activity, place(program, free))
    assert spread(program, activity, cost) is cost
