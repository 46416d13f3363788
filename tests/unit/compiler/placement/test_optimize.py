"""Layouts for time and energy: never worse than the default, within the allowed cores, above a true lower bound."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from resformer.compiler.chips.chip import Chip, load_chip
from resformer.compiler.files.placement import ASSUMED_RATE, Goal
from resformer.compiler.ir import reference
from resformer.compiler.ir.program import Program
from resformer.compiler.placement.activity import Activity, assumed, measure
from resformer.compiler.placement.bound import Table, least_busy_ns, tables_of
from resformer.compiler.placement.curves import curves
from resformer.compiler.placement.mapping import map_program
from resformer.compiler.placement.optimize import compare, optimize
from resformer.compiler.placement.place import Placement, lay_out, place, tile_positions
from resformer.compiler.placement.price import count, predict
from resformer.compiler.placement.restore import restore
from resformer.compiler.placement.tiling import Reader, Tiling, candidates
from resformer.compiler.placement.ways import ways_of
from resformer.errors import FileFormatError
from support.program_builder import ProgramBuilder, tiny_resformer

LOIHI2 = load_chip("loihi2")
SMALL = replace(
    LOIHI2, neurons_per_core=128, memory_words_per_core=900, cores_per_tile=1, cores_per_chip=12, mesh_columns=3
)
"""Small cores and chips, so that small networks take many of both."""
GOALS: tuple[Goal, ...] = ("time", "energy")


def convolutions() -> tuple[Program, ProgramBuilder]:
    net = ProgramBuilder((2, 8, 8))
    first = net.lif("first", net.conv("stem", "input", 8, (3, 3), padding=(1, 1)))
    second = net.lif("second", net.conv("narrow", first, 16, (3, 3), stride=(2, 2), padding=(1, 1)))
    net.lif("third", net.dense("dense", net.flatten("flat", second), 40))
    return net.finish(), net


NETWORKS = {
    "convolutions": (convolutions, SMALL, 130),
    "resformer": (tiny_resformer, replace(SMALL, neurons_per_core=256, memory_words_per_core=3000), 150),
    "unshared kernels": (convolutions, replace(SMALL, shared_kernels=0, memory_words_per_core=9000), 150),
    "slow links": (convolutions, replace(SMALL, link_ns=30.0, hop_east_west_ns=40.0), 120),
}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[Program, Activity, Placement, int]:
    make, chip, percent = NETWORKS[request.param]
    program, net = make()
    activity = measure(program, reference.run(program, net.samples(2), record=True).spikes)
    default = place(program, chip)
    assert not default.violations
    return program, activity, default, percent


@pytest.fixture(scope="module", params=GOALS)
def goal(request: pytest.FixtureRequest) -> Goal:
    return request.param


@pytest.fixture(scope="module")
def found(case, goal: Goal) -> Placement:
    _, activity, default, percent = case
    return optimize(default, activity, "measured", goal, cores_percent=percent)


def test_the_bound_is_no_more_than_the_layout_which_is_no_worse_than_the_default(case, goal, found) -> None:
    _, activity, default, _ = case
    figure = "step_ns" if goal == "time" else "energy_mj"
    layout = found.layout
    assert 0 < layout["least"] <= layout["chosen"][figure] < layout["default"][figure]
    for name, placement in (("default", default), ("chosen", found)):
        told, expected = layout[name], predict(activity, placement)
        assert told["step_ns"] == expected.totals.step_ns
        assert told["energy_mj"] == expected.totals.energy_mj
        assert told["step_ns_between"] == [expected.low.step_ns, expected.high.step_ns]
        assert told["energy_mj_between"] == [expected.low.energy_mj, expected.high.energy_mj]
        assert (told["cores"], told["chips"]) == (placement.cores, placement.chips)


def test_it_keeps_to_its_cores_and_to_every_limit(case, found: Placement) -> None:
    _, _, default, percent = case
    assert found.layout["cores_allowed"] == default.cores * percent // 100
    assert found.cores <= found.layout["cores_allowed"]
    assert found.violations == ()
    chip = found.chip
    for layer in found.layers:
        assert layer.tiling.excess(chip) == {}
        if layer.cores > 1 and any(edge.link.value == "dense" for edge in layer.population.edges):
            assert layer.tiling.usage["synapse words"] <= chip.dense_fill * chip.synapse_words_per_core
    numbers = found.numbers.tolist()
    assert len(set(numbers)) == found.cores
    assert 0 <= min(numbers) <= max(numbers) < found.chips * chip.cores_per_chip


def test_every_neuron_is_on_one_core(found: Placement) -> None:
    for layer in found.layers:
        held = np.zeros(layer.population.shape, dtype=int)
        for _, ((c0, c1), (y0, y1), (x0, x1)) in found.boxes(layer):
            held[c0:c1, y0:y1, x0:x1] += 1
        assert (held == 1).all()


def test_the_same_seed_gives_the_same_layout_and_its_file_gives_it_back(case, goal: Goal, found: Placement) -> None:
    program, activity, default, percent = case
    again = optimize(default, activity, "measured", goal, cores_percent=percent)
    assert again == found
    assert again.to_json() == found.to_json()
    assert restore(program, found.to_json()) == found
    assert optimize(default, activity, "measured", goal, cores_percent=percent, seed=7).layout["seed"] == 7


def test_another_activity_judges_both_layouts_anew(case, found: Placement) -> None:
    program, activity, default, _ = case
    assert compare(default, default, activity, "measured") is None
    assert compare(found, default, activity, "measured") == found.layout
    other = compare(found, default, assumed(program, 0.9), "all but silent")
    assert other["chosen"]["step_ns"] == predict(assumed(program, 0.9), found).totals.step_ns
    assert other["activity"] == "all but silent"
    assert other["chosen"]["step_ns"] != found.layout["chosen"]["step_ns"]


def layouts(program: Program, default: Placement, allowed: int) -> Iterator[Placement]:
    """Every layout within the limits: all ways to cut every population, along every curve."""
    chip, populations = default.chip, map_program(program)
    shapes = {population.name: population.shape for population in populations}
    ways = [
        candidates(population, shapes, chip, default.by_name[population.name].tiling.tile) for population in populations
    ]
    for chosen in itertools.product(*(range(len(each.tiles)) for each in ways)):
        readers: dict[str, list[Reader]] = {name: [] for name in shapes}
        tilings: list[Tiling] = []
        for each, index in reversed(list(zip(ways, chosen, strict=True))):
            tilings.insert(0, each.read_by(readers[each.population.name]).tiling(index))
            for edge in each.population.edges:
                readers[edge.source].append(Reader(edge, tilings[0]))
        cores = sum(tiling.cores for tiling in tilings)
        if cores <= allowed and not lay_out(tilings, chip).violations:
            yield from (lay_out(tilings, chip, sites) for sites in curves(chip, cores))


@pytest.mark.parametrize("seed", range(2))
def test_of_a_tiny_network_it_finds_the_best_layout_of_all(seed: int) -> None:
    net = ProgramBuilder((1, 4, 1), seed)
    first = net.lif("first", net.conv("stem", "input", 4, (3, 3), padding=(1, 1)))
    net.lif("second", net.conv("layer", first, 4, (3, 3), padding=(1, 1)))
    program = net.finish(timesteps=3)
    chip = replace(LOIHI2, cores_per_tile=1, cores_per_chip=4, mesh_columns=2, neurons_per_core=12, link_ns=0.01)
    activity = measure(program, reference.run(program, net.samples(2), record=True).spikes)
    default = place(program, chip)
    allowed = default.cores * 200 // 100
    tried = [predict(activity, each).totals for each in layouts(program, default, allowed)]
    assert len(tried) > 100
    for goal, best in (
        ("time", min(each.step_ns for each in tried)),
        ("energy", min(each.energy_mj for each in tried)),
    ):
        layout = optimize(default, activity, "measured", goal, cores_percent=200, seed=seed).layout
        figure = "step_ns" if goal == "time" else "energy_mj"
        # once no link sets a step, the search does not shorten the farthest message's path, a ns or so
        assert layout["chosen"][figure] == pytest.approx(best, rel=0.01)
        assert layout["chosen"][figure] >= best
        assert layout["least"] <= best
        assert layout["least"] >= 0.9 * best


def test_each_populations_table_is_below_what_it_does_in_every_layout() -> None:
    """Words of axon maps are scarce and sending is slow, so that readers matter to the populations that they read."""
    net = ProgramBuilder((1, 4, 1))
    first = net.lif("first", net.conv("stem", "input", 4, (3, 3), padding=(1, 1)))
    net.lif("second", net.conv("layer", first, 4, (3, 3), padding=(1, 1)))
    program = net.finish(timesteps=3)
    chip = replace(LOIHI2, neurons_per_core=12, axon_map_per_core=24, message_out_ns=500.0, link_ns=0.0)
    activity = measure(program, reference.run(program, net.samples(2), record=True).spikes)
    default = place(program, chip)
    tables = tables_of(ways_of(default, activity))
    seen = 0
    for placement in layouts(program, default, 3 * default.cores):
        steps = []
        for table, layer, work in zip(tables, placement.layers, count(activity, placement).works, strict=True):
            busy = np.roll(np.max(list(work.terms(chip).values()), axis=0), work.depth)
            better = (table.busy_ns <= busy * (1 + 1e-12)).all(axis=1)
            assert table.cores[better].min(initial=10**6) <= layer.cores
            steps.append(busy)
        # these are the model's own steps, since links take no time
        np.testing.assert_allclose(np.max(steps, axis=0), predict(activity, placement).steps.busy_ns)
        seen += 1
    assert seen > 100


@pytest.mark.parametrize("seed", range(20))
def test_the_bound_of_tables_is_the_least_of_all_choices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(1, 4))
    tables = [
        Table(rng.integers(1, 9, 5), rng.integers(1, 100, (5, steps)).astype(float), np.zeros(0)) for _ in range(3)
    ]
    allowed = 10
    means = [
        np.max([table.busy_ns[index] for table, index in zip(tables, chosen, strict=True)], axis=0)
        for chosen in itertools.product(range(5), repeat=3)
        if sum(int(table.cores[index]) for table, index in zip(tables, chosen, strict=True)) <= allowed
    ]
    best = min(each.mean() for each in means) if means else np.inf
    known = max(means, key=lambda each: each.mean()) if means else np.full(steps, 50.0)
    bound = least_busy_ns(tables, allowed, known)
    assert bound <= best
    assert bound >= 0.99 * min(best, known.mean())


def test_curves_fill_each_core_once_and_neighbours_follow_each_other() -> None:
    chip: Chip = replace(SMALL, chip_columns=2)
    found = list(curves(chip, 48))
    assert found[0] is None
    assert len(set(found)) > 4
    for sites in found[1:]:
        assert sorted(sites) == list(range(48))
    # strips as wide as a tile: each core's tile lies beside the tile of the core before
    steps = np.abs(np.diff(tile_positions(chip, np.array(found[1])), axis=0)).sum(axis=1)
    assert (steps == 1).all()
    assert all(len(sites) == 5 for sites in list(curves(chip, 5))[1:])


def test_a_mesh_beyond_any_machine_is_filled_in_its_own_order() -> None:
    assert list(curves(replace(SMALL, cores_per_chip=2**31 - 1), 3)) == [None]


def test_an_assumed_activity_says_what_fires() -> None:
    program, _ = convolutions()
    activity = assumed(program)
    assert set(activity.spikes) == {"first", "second", "third"}
    for name, spikes in activity.spikes.items():
        neurons = int(np.prod(program[name].shape))
        assert spikes.sum() / activity.samples / program.timesteps == pytest.approx(ASSUMED_RATE * neurons, rel=1e-3)


def test_a_layout_for_a_chip_that_is_too_small_is_compared_too() -> None:
    program, _ = convolutions()
    found = optimize(place(program, SMALL), assumed(program), "assumed", "time", cores_percent=130).to_json()
    found["chip"]["constants"]["axon_in_per_core"]["value"] = 1
    chosen = restore(program, found)
    default = place(program, chosen.chip)
    assert chosen.violations
    assert default.violations
    with np.errstate(all="raise"):
        layout = compare(chosen, default, assumed(program), "assumed")
    assert layout is not None
    assert 0 < layout["least"] <= layout["chosen"]["step_ns"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: content["layers"].reverse(), "its layers are not the program's"),
        (lambda content: content["layers"][1]["placed"][0].update(core=11), "not each on a place of their own"),
        (lambda content: content["layers"][1]["placed"].pop(), "is said to take others"),
        (lambda content: content["layers"][1].update(tile=[900, 1, 1]), "first is cut into tiles of"),
        (lambda content: content["layers"][1].update(tile=[8, 1]), "first is cut into tiles of"),
    ],
)
def test_a_file_of_another_program_is_refused(change, says: str) -> None:
    program, _ = convolutions()
    content = optimize(place(program, SMALL), assumed(program), "assumed", "time", cores_percent=130).to_json()
    change(content)
    with pytest.raises(FileFormatError, match=says):
        restore(program, content)
