"""Energy and time from activity, placement and constants."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from resformer.compiler.chips.chip import Chip, load_chip
from resformer.compiler.ir import reference
from resformer.compiler.ir.ops import Conv2d, Dense
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.trace import SpikeTrain
from resformer.compiler.placement import traffic
from resformer.compiler.placement.activity import Activity, measure
from resformer.compiler.placement.place import Placement, place, tile_positions
from resformer.compiler.placement.traffic import route
from resformer.errors import FileFormatError
from resformer.runtime.cost.cost import Cost, estimate, to_json, total_rows
from support.program_builder import ProgramBuilder, tiny_resformer

LOIHI1, LOIHI2 = load_chip("loihi1"), load_chip("loihi2")


@pytest.fixture(scope="module")
def run():
    program, net = tiny_resformer()
    return program, measure(program, reference.run(program, net.samples(3), record=True).spikes)


def cost_on(run, chip: Chip) -> Cost:
    program, activity = run
    return estimate(program, activity, place(program, chip))


def test_the_papers_energy_has_two_bases(run) -> None:
    _, activity = run
    paper = cost_on(run, LOIHI2).paper
    assert paper.sops == activity.sops_per_sample > 0
    assert paper.energy_mj == pytest.approx(0.9e-9 * paper.sops, rel=1e-12)
    assert paper.stem_macs == 4 * 16 * 16 * 27
    assert paper.energy_with_stem_mj == pytest.approx(paper.energy_mj + 4.6e-9 * paper.stem_macs, rel=1e-12)


def test_a_step_takes_time_since_power_divides_by_it(run) -> None:
    none = dict.fromkeys((each.name for each in fields(Chip) if each.name.endswith("_ns")), 0.0)
    with pytest.raises(FileFormatError, match=r"loihi2: a step may take 0 ns.*give step_ns, .*at least 1e-06 ns"):
        cost_on(run, replace(LOIHI2, **none, sources={}))
    assert cost_on(run, replace(LOIHI2, **{**none, "step_ns": 1e-6}, sources={})).power_mw > 0


def test_one_layers_cost_by_hand() -> None:
    net = ProgramBuilder((2, 4, 4))
    first = net.lif("first", net.conv("stem", "input", 3, (3, 3), padding=(1, 1)))
    net.lif("second", net.conv("conv", first, 5, (3, 3), padding=(1, 1)))
    program = net.finish(timesteps=2)
    spikes = {"first": np.zeros((2, 4, 4), dtype=np.int64), "second": np.zeros((2, 4, 4), dtype=np.int64)}
    spikes["first"][1, 0, 0] = spikes["first"][1, 2, 2] = 2
    spikes["second"][1, 3, 3] = 4
    activity = Activity(2, 2, spikes, {})
    layers = {layer.name: layer for layer in estimate(program, activity, place(program, LOIHI1)).layers}
    second = layers["second"]
    # a sample: one spike in a corner that reaches 4 places, one in the middle that reaches 9, of 5 channels
    assert second.operations == (4 + 9) * 5
    assert (second.cores, second.updates, second.active, second.messages) == (1, 160, 2, 2)
    assert second.synapses_pj == pytest.approx(65 * 23.6)
    assert second.neurons_pj == pytest.approx(2 * 81 + 158 * 52)
    assert second.messages_pj == pytest.approx(2 * 1.7)  # in the same tile
    # synapses and neurons of a core work at the same time
    assert second.synapses_ns == pytest.approx(65 * 3.5)
    assert second.step_ns == second.neurons_ns == pytest.approx(2 * 8.4 + 78 * 5.3)
    assert (second.messages_in_ns, second.messages_out_ns) == (2 * 2.1, 0)
    # pixels are graded: every one is sent at both steps
    assert layers["first"].messages == 2 * 2 * 16
    assert layers["first"].operations == 2 * 2 * 3 * (4 * 4 + 8 * 6 + 4 * 9)


CONSTANTS_PJ = (
    "synaptic_op_pj",
    "neuron_update_active_pj",
    "neuron_update_inactive_pj",
    "spike_in_tile_pj",
    "hop_east_west_pj",
    "hop_north_south_pj",
)


def test_dynamic_energy_is_the_sum_of_what_each_constant_pays_for(run) -> None:
    # small cores, so that messages travel
    chip = replace(LOIHI2, neurons_per_core=60)
    before = cost_on(run, chip)
    changes = []
    for constant in CONSTANTS_PJ:
        after = cost_on(run, replace(chip, **{constant: 2 * getattr(chip, constant)}))
        changes.append(after.energy_mj - before.energy_mj)
        assert changes[-1] > 0, constant
        assert after.step_ns == before.step_ns
    # doubling each constant in turn adds the whole energy once more
    assert sum(changes) == pytest.approx(before.dynamic_mj, rel=1e-9)
    assert changes[0] == pytest.approx(sum(layer.synapses_pj for layer in before.layers) * 1e-9)
    assert changes[3] == pytest.approx(sum(layer.messages for layer in before.layers) * chip.spike_in_tile_pj * 1e-9)


@pytest.mark.parametrize("skips", [0, 1])
def test_operations_of_spikes_are_the_sops_of_weights_that_the_chip_does_not_skip(run, skips: int) -> None:
    _, activity = run
    cost = cost_on(run, replace(LOIHI2, skips_zero_weights=skips))
    layers = {layer.name: layer for layer in cost.layers}
    seen = 0
    for placed in cost.placement.layers:
        population = placed.population
        read = {edge.name for edge in population.edges}
        if read <= activity.sops.keys():
            counted = {**activity.sops, **activity.not_zero} if skips else activity.sops
            sops = sum(counted[name].sum() for name in read) / activity.samples
            assert layers[population.name].operations == pytest.approx(sops, rel=1e-12), population.name
            seen += any(counted[name].sum() < activity.sops[name].sum() for name in read)
    assert seen == 0 or skips
    assert layers["layers.0.0.activation_attn"].operations > 0


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_weights_of_zero_cause_no_operation_where_the_chip_skips_them(kind: str, groups: int) -> None:
    """Restated in PyTorch: each spike meets the weights of its own taps and channel that are not zero."""
    rng = np.random.default_rng(1)
    net = ProgramBuilder((1, 5, 6))
    first = net.lif("first", net.conv("stem", "input", 4))
    if kind == "conv":
        net.conv("layer", first, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=groups, largest=1)
    else:
        net.dense("layer", net.flatten("flat", first), 7, largest=1)
    net.lif("second", "layer")
    program = net.finish(timesteps=2)
    spikes = rng.random((2, 3, 4, 5, 6)) < 0.3
    silent = SpikeTrain.pack(np.zeros((2, 3, *program["second"].shape), dtype=bool))
    activity = measure(program, {"first": SpikeTrain.pack(spikes), "second": silent})
    op = program["layer"].op
    assert isinstance(op, Conv2d | Dense)
    ones = torch.from_numpy((op.weight != 0).astype(np.float64))
    maps = torch.from_numpy(spikes.reshape(6, 4, 5, 6).astype(np.float64))
    if isinstance(op, Conv2d):
        found = torch.conv2d(maps, ones, stride=(2, 1), padding=(1, 0), groups=groups)
    else:
        found = maps.flatten(1) @ ones.T
    assert activity.not_zero["layer"].sum() == int(found.sum()) < activity.sops["layer"].sum()
    chip = replace(LOIHI2, sparse_dense_rows=1)
    layers = {layer.name: layer for layer in estimate(program, activity, place(program, chip)).layers}
    assert layers["second"].operations * 3 == pytest.approx(int(found.sum()))
    # rows of dense layers hold every weight, unless the chip says otherwise
    layers = {layer.name: layer for layer in estimate(program, activity, place(program, LOIHI2)).layers}
    expected = activity.sops["layer"].sum() if kind == "dense" else int(found.sum())
    assert layers["second"].operations * 3 == pytest.approx(expected)


def test_a_dilated_convolutions_operations_and_routes() -> None:
    net = ProgramBuilder((1, 32, 32))
    first = net.lif("first", net.conv("stem", "input", 2))
    net.lif("second", net.conv("conv", first, 3, (3, 3), padding=(8, 8), dilation=(8, 8)))
    program = net.finish(timesteps=2)
    spikes = np.random.default_rng(0).random((2, 1, 2, 32, 32)) < 0.3
    silent = SpikeTrain.pack(np.zeros((2, 1, 3, 32, 32), dtype=bool))
    activity = measure(program, {"first": SpikeTrain.pack(spikes), "second": silent})
    cost = estimate(program, activity, place(program, replace(LOIHI2, neurons_per_core=64)))
    layers = {layer.name: layer for layer in cost.layers}
    weights, maps = torch.ones(3, 2, 3, 3), torch.from_numpy(spikes[:, 0]).float()
    expected = torch.conv2d(maps, weights, padding=8, dilation=8).sum()
    assert activity.sops["conv"].sum() == int(expected)
    assert layers["second"].operations == activity.not_zero["conv"].sum() <= int(expected)
    # each place is read by cores up to eight places away
    assert layers["second"].messages > 4 * spikes.sum()


def test_cores_share_a_layers_work(run) -> None:
    one = {layer.name: layer for layer in cost_on(run, LOIHI2).layers}
    many = {layer.name: layer for layer in cost_on(run, replace(LOIHI2, neurons_per_core=60)).layers}
    assert any(many[name].cores > one[name].cores for name in one)
    for name, layer in one.items():
        assert many[name].step_ns * many[name].cores == pytest.approx(layer.step_ns * layer.cores)


def test_idle_chips_take_power(run) -> None:
    before = cost_on(run, LOIHI2)
    after = cost_on(run, replace(LOIHI2, static_mw_per_chip=3 * LOIHI2.static_mw_per_chip))
    assert after.energy_mj - before.energy_mj == pytest.approx(2 * before.static_mj)
    # one chip, 271 mW: the median of what Oheo Gulch printed, in place of Loihi 1's 104
    assert before.static_mj == pytest.approx(271 * before.interval_us * 1e-6)


def test_a_faster_chip_is_faster(run) -> None:
    before = cost_on(run, LOIHI2)
    after = cost_on(run, replace(LOIHI2, step_ns=LOIHI2.step_ns + 1000))
    assert after.step_ns == pytest.approx(before.step_ns + 1000)
    program, _ = run
    assert after.interval_us == pytest.approx(after.step_ns * program.timesteps * 1e-3)
    # a message a population: stem, max-pool and relay before the first block's input, and so on
    assert after.placement.depth > program.latency
    assert after.latency_us == pytest.approx(after.step_ns * (program.timesteps + after.placement.depth) * 1e-3)
    slower = cost_on(run, replace(LOIHI2, synaptic_op_ns=2 * LOIHI2.synaptic_op_ns))
    assert slower.step_ns > before.step_ns


def test_routes_of_neighbours_are_shorter_than_of_strangers() -> None:
    net = ProgramBuilder((1, 64, 64))
    first = net.lif("first", net.conv("stem", "input", 4, (3, 3), padding=(1, 1)))
    net.lif("second", net.conv("conv", first, 4, (3, 3), padding=(1, 1)))
    placement = place(net.finish(), replace(LOIHI2, neurons_per_core=64))
    second = placement.by_name["second"]
    (edge,) = second.population.edges
    near = route(placement, edge, second)
    # 8 x 2 x 4 boxes or their like: a place is read by its own box and by a part of those beside it
    assert 1 < near.fan_out < 3
    assert near.longest_ns > 0
    assert near.hops_east_west + near.hops_north_south > 0


def test_routes_of_one_to_one_connections_are_from_box_to_like_box() -> None:
    net = ProgramBuilder((1, 64, 64))
    first = net.lif("first", net.conv("stem", "input", 1))
    net.lif("second", net.conv("conv", first, 1))
    placement = place(net.finish(), replace(LOIHI2, neurons_per_core=64))
    sender, reader = placement.by_name["first"], placement.by_name["second"]
    assert sender.tiling.tile == reader.tiling.tile
    way = route(placement, reader.population.edges[0], reader)
    cores = np.arange(sender.cores)
    distance = tile_positions(placement.chip, sender.first_core + cores) - tile_positions(
        placement.chip, reader.first_core + cores
    )
    assert way.fan_out == 1
    assert (way.hops_east_west, way.hops_north_south) == pytest.approx(tuple(np.abs(distance).mean(axis=0)))


@pytest.mark.parametrize(("lines", "told"), [(1, "1 limit of loihi2 is"), (2, "2 limits of loihi2 are")])
def test_what_does_not_fit_is_counted(run, lines: int, told: str) -> None:
    cost = cost_on(run, load_chip("loihi2"))
    exceeding = replace(cost, placement=replace(cost.placement, violations=("a line",) * lines))
    assert total_rows(exceeding)[-1] == ("does not fit", f"{told} exceeded: see --check")
    assert total_rows(cost)[-1][0] != "does not fit"


def test_json_holds_every_constants_source(run) -> None:
    content = json.loads(json.dumps(to_json(cost_on(run, LOIHI2)), allow_nan=False))
    assert content["chip"]["constants"]["synaptic_op_pj"]["status"] == "assumed"
    assert content["energy_mj"]["total"] == pytest.approx(sum(content["energy_mj"][k] for k in ("dynamic", "static")))
    assert sum(map(sum, content["sops"].values())) == pytest.approx(content["paper"]["sops"])
    program, activity = run
    assert {name: sum(each) * 3 for name, each in content["sops_not_zero"].items()} == {
        name: pytest.approx(int(each.sum())) for name, each in activity.not_zero.items()
    }
    assert content["spikes"].keys() == set(program.lif_names)


def test_recurrent_messages_are_paid_for() -> None:
    net = ProgramBuilder((1, 4, 4))
    net.cuba_lif("cuba", net.conv("stem", "input", 2), kernel=(3, 3))
    program = net.finish(timesteps=2)
    spikes = {"cuba": np.zeros((2, 4, 4), dtype=np.int64)}
    spikes["cuba"][0, 0, 0] = spikes["cuba"][1, 1, 1] = 1
    every = replace(LOIHI2, skips_zero_weights=0)
    (_, cuba) = estimate(program, Activity(1, 2, spikes, {}), place(program, every)).layers
    # pixels at both steps, to one place and two channels each; a corner's spike reaches 4 places, the last none
    assert cuba.operations == 2 * 16 * 2 + 4 * 2
    assert cuba.messages == 2 * 16 + 1


def chain(populations: int) -> Program:
    """LIF populations of eight neurons in a chain; with the input, they take ``populations`` + 1 cores."""
    net = ProgramBuilder((1, 2, 4))
    value = "input"
    for index in range(populations):
        value = net.lif(f"lif{index}", net.conv(f"conv{index}", value, 1))
    return net.finish(timesteps=2)


def silent(program: Program) -> Activity:
    """A run in which nothing fired."""
    return Activity(1, program.timesteps, {name: np.zeros((2, 2, 4), dtype=np.int64) for name in program.lif_names}, {})


def test_each_chip_takes_its_own_static_power() -> None:
    program = chain(4)
    costs = [
        estimate(program, silent(program), place(program, replace(LOIHI2, cores_per_chip=cores)))
        for cores in (120, 5, 2, 1)
    ]
    for cost, chips in zip(costs, (1, 1, 3, 5), strict=True):
        # 271 mW a chip; 1 mW for 1 us are 1e-6 mJ
        assert cost.static_mj == pytest.approx(chips * 271 * cost.interval_us * 1e-6, rel=1e-12)


NS = {"hop_east_west_ns": 1000.0, "hop_north_south_ns": 70.0, "step_ns": 5.0}
NO_WORK = dict.fromkeys(
    (
        *("synaptic_op_ns", "neuron_update_active_ns", "neuron_update_inactive_ns"),
        *("message_in_ns", "message_out_ns", "link_ns"),
    ),
    0.0,
)


@pytest.mark.parametrize(
    ("columns", "farthest_ns"),
    [
        (8, 2 * 1000),  # in a row: input, lif0, lif1, lif2
        (1, 2 * 70),  # in a column
        (2, 1000 + 70),  # back and forth: lif0 in the first row's east, lif2 in the second row's west
    ],
)
def test_a_step_waits_for_the_message_that_travels_longest(columns: int, farthest_ns: float) -> None:
    """All messages go to the next tile but those of lif0 to lif2, which skip one."""
    net = ProgramBuilder((1, 2, 4))
    near = net.lif("lif0", net.conv("conv0", "input", 1))
    middle = net.lif("lif1", net.conv("conv1", near, 1))
    net.lif("lif2", net.plus("sum", net.conv("long", near, 1), net.conv("conv2", middle, 1)))
    program = net.finish(timesteps=2)
    chip = replace(LOIHI2, cores_per_tile=1, mesh_columns=columns, **NS, **NO_WORK)
    placement = place(program, chip)
    assert [(each.population.name, each.first_core) for each in placement.layers] == [
        ("input", 0),
        ("lif0", 1),
        ("lif1", 2),
        ("lif2", 3),
    ]
    assert estimate(program, silent(program), placement).step_ns == pytest.approx(farthest_ns + 5)


def split_in_two(*, kernel: int) -> Placement:
    """A layer of two cores that reads another of two, each holding one row, in a line of tiles from west to east."""
    net = ProgramBuilder((1, 2, 1))
    first = net.lif("first", net.conv("stem", "input", 1))
    net.lif("second", net.conv("conv", first, 1, (kernel, 1), padding=(kernel // 2, 0)))
    chip = replace(LOIHI2, cores_per_tile=1, mesh_columns=8, **NS)
    placement = place(net.finish(timesteps=2), chip, at_least={"first": 2, "second": 2})
    assert [placement.by_name[name].tiling.tile for name in ("first", "second")] == [(1, 1, 1)] * 2
    return placement


@pytest.mark.parametrize(("kernel", "longest"), [(1, 2), (3, 3)])
def test_the_longest_way_is_the_farthest_of_the_cores_that_talk(kernel: int, longest: int) -> None:
    """Cores 1 and 2 send to 3 and 4: with a kernel of one row, each to its counterpart; with three rows, to both."""
    placement = split_in_two(kernel=kernel)
    second = placement.by_name["second"]
    way = route(placement, second.population.edges[0], second)
    assert way.longest_ns == longest * 1000
    # the mean of 2, 3, 1 and 2 is that of 2 and 2
    assert (way.hops_east_west, way.hops_north_south) == (2, 0)


@pytest.mark.parametrize(("groups", "channels"), [(1, 5), (2, 4)])
@pytest.mark.parametrize("at_once", [7, 2**18])
def test_routes_are_what_looking_at_each_pair_of_neurons_gives(
    groups: int, channels: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a convolution, each sender's neurons with the tiles that read them; for other links, each core with each."""
    monkeypatch.setattr(traffic, "PAIRS_AT_ONCE", at_once)
    net = ProgramBuilder((2, 6, 6))
    first = net.lif("first", net.conv("stem", "input", channels))
    second = net.lif("second", net.conv("conv", first, 6, (3, 3), padding=(1, 1), groups=groups))
    net.lif("third", net.dense("dense", net.flatten("flat", second), 9))
    chip = replace(LOIHI2, cores_per_tile=1, cores_per_chip=6, mesh_columns=3, chip_columns=2, neurons_per_core=9)
    placement = place(net.finish(), chip)
    first, second, third = (placement.by_name[name] for name in ("first", "second", "third"))
    core = np.zeros((channels, 6, 6), dtype=int)
    for number, box in first.boxes():
        core[tuple(slice(*each) for each in box)] = number
    pairs = []
    for number, ((c0, c1), (y0, y1), (x0, x1)) in second.boxes():
        for c, y, x in np.ndindex(channels, 6, 6):
            seen = y0 - 1 <= y < y1 + 1 and x0 - 1 <= x < x1 + 1
            if seen and any(each * groups // 6 == c * groups // channels for each in range(c0, c1)):
                pairs.append((core[c, y, x], number))
    everywhere = [(a + second.first_core, b + third.first_core) for a, b in np.ndindex(second.cores, third.cores)]
    for layer, found in ((second, pairs), (third, everywhere)):
        starts, ends = (tile_positions(chip, np.array(each)) for each in zip(*found, strict=True))
        hops = np.abs(starts - ends)
        way = route(placement, layer.population.edges[0], layer)
        assert (way.hops_east_west, way.hops_north_south) == tuple(hops.sum(axis=0) / len(found))
        assert way.longest_ns == (hops * (chip.hop_east_west_ns, chip.hop_north_south_ns)).sum(axis=1).max()


def test_tiles_lie_in_columns_from_west_to_east_and_rows_from_north_to_south() -> None:
    """Back and forth, on a chip of three columns and two rows, with a second chip to the east."""
    chip = replace(LOIHI2, cores_per_tile=2, cores_per_chip=12, mesh_columns=3, chip_columns=2)
    places = tile_positions(chip, np.array([0, 1, 2, 4, 6, 8, 10, 12, 14, 18, 24, 36]))
    assert [tuple(each) for each in places.tolist()] == [
        (0, 0),
        (0, 0),  # two cores a tile
        (1, 0),
        (2, 0),
        (2, 1),  # the second row begins in the east
        (1, 1),
        (0, 1),
        (3, 0),  # the second chip
        (4, 0),
        (5, 1),
        (3, 2),  # the third chip, below the second
        (0, 2),
    ]


@pytest.mark.parametrize(("columns", "hop_pj"), [(8, 100.0), (1, 9.0)])
def test_hops_along_rows_and_along_columns_cost_their_own_energy(columns: int, hop_pj: float) -> None:
    program = chain(1)
    chip = replace(
        LOIHI2,
        cores_per_tile=1,
        mesh_columns=columns,
        hop_east_west_pj=100.0,
        hop_north_south_pj=9.0,
        spike_in_tile_pj=1.0,
    )
    placement = place(program, chip)
    (edge,) = placement.by_name["lif0"].population.edges
    way = route(placement, edge, placement.by_name["lif0"])
    assert (way.hops_east_west, way.hops_north_south) == ((1, 0) if columns == 8 else (0, 1))
    (lif,) = (each for each in estimate(program, silent(program), placement).layers if each.name == "lif0")
    # eight pixels at each of two steps
    assert lif.messages == 16
    assert lif.messages_pj == pytest.approx(16 * (1 + hop_pj))


def test_without_ranges_power_is_both_of_its_ends(run) -> None:
    program, activity = run
    for static in (0.1, 30.3, 178.7):
        cost = estimate(program, activity, place(program, replace(LOIHI1, static_mw_per_chip=static, sources={})))
        assert cost.between("power_mw") == (cost.power_mw, cost.power_mw)


def test_readouts_send_nothing() -> None:
    net = ProgramBuilder((1, 4, 4))
    net.dense("classifier", net.flatten("flatten", net.lif("first", net.conv("stem", "input", 2))), 3)
    program = net.finish(timesteps=2)
    activity = Activity(1, 2, {"first": np.ones((2, 4, 4), dtype=np.int64)}, {})
    layers = {layer.name: layer for layer in estimate(program, activity, place(program, LOIHI1)).layers}
    last = list(layers.values())[-1]
    assert (last.updates, last.active) == (3 * 2, 0)
    assert layers["input"].active == 2 * 16  # pixels are graded, and sent at each step
