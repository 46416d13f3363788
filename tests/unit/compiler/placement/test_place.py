"""Populations, tilings and places of small networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from resformer.compiler.chips.chip import Chip, load_chip
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import OPERATIONS, Conv2d, Delay, Dense, Flatten, Op, SampleDelay
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.signal import SPIKE
from resformer.compiler.placement.mapping import Link, _kind, map_program
from resformer.compiler.placement.place import Placement, place, tile_positions
from resformer.errors import CapacityError, UnsupportedError
from resformer.models import limits
from support.program_builder import ProgramBuilder, tiny_resformer

LOIHI2 = load_chip("loihi2")


def small(**limits: int) -> Chip:
    return replace(LOIHI2, name="small", **limits)


def convolution(channels: int = 8, size: int = 16) -> ProgramBuilder:
    net = ProgramBuilder((2, size, size))
    net.lif("lif", net.conv("conv", "input", channels, (3, 3), padding=(1, 1)))
    return net


def layer(placement: Placement, name: str):
    return placement.by_name[name]


def test_a_spiking_transformers_populations() -> None:
    program, _ = tiny_resformer()
    populations = {each.name: each for each in map_program(program)}
    computed = [node for each in populations.values() for node in each.nodes]
    assert len(computed) == len(set(computed))
    assert set(program.lif_names) <= set(computed)

    # a product shares its neurons with the LIF that alone reads it
    attention = populations["layers.0.0.activation_attn"]
    assert attention.nodes == ("layers.0.0.matmul1", "layers.0.0.activation_attn")
    assert [(edge.source, edge.link, edge.delay) for edge in attention.edges] == [
        ("layers.0.0.W.y1", Link.VALUES, 0),
        ("layers.0.0.activation_in", Link.GATES, 1),
    ]
    # y2 waits for the map; its values are carried by neurons
    mixed = populations["layers.0.0.activation_out"]
    assert [(edge.source, edge.delay) for edge in mixed.edges] == [
        ("layers.0.0.W.y2", 1),
        ("layers.0.0.activation_attn", 0),
    ]
    assert populations["layers.0.0.W.y1"].kind == "carrier"
    # the expansion's synapses are copied where the inner residual adds them, a step later
    down = populations["layers.0.1.down.0"]
    assert [(edge.name, edge.source, edge.delay) for edge in down.edges] == [
        ("layers.0.1.conv.0.1", "layers.0.1.conv.0.0", 0),
        ("layers.0.1.up.1", "layers.0.1.up.0", 1),
    ]
    assert populations["output"].kind == "readout"


def test_the_fewest_cores_then_the_least_traffic() -> None:
    placement = place(convolution().finish(), small(neurons_per_core=512))
    found = layer(placement, "lif")
    assert found.cores == 8 * 16 * 16 // 512
    # whole channels and wide boxes overlap less than any other cut into four
    assert found.tiling.tile in ((8, 8, 8), (8, 4, 16))
    assert found.tiling.bound(placement.chip) == "neurons"
    assert found.tiling.usage["neurons"] == 512


@pytest.mark.parametrize("constant", ["neurons_per_core", "memory_words_per_core"])
def test_more_cores_than_anybody_has_are_refused_by_the_constants_name(
    constant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = convolution().finish()
    assert place(program, small(**{constant: 1})).cores == 8 * 256 + 2 * 256
    monkeypatch.setattr("resformer.compiler.placement.place.MOST_CORES", 2000)
    with pytest.raises(CapacityError, match=rf"^lif: takes 2,048 of .* small's {constant} is 1; .* --limits 2$"):
        place(program, small(**{constant: 1}))
    with limits.raised(2):
        assert place(program, small(**{constant: 1})).cores > 2000
    assert place(program, LOIHI2).cores < 2000


def test_a_tiles_synapses_are_counted_by_hand() -> None:
    placement = place(convolution().finish(), LOIHI2)
    # 2 inputs x 9 taps, each row 8 weights of 8 bits and 10 bits: 74 bits, two words
    assert layer(placement, "lif").tiling.usage["synapse words"] == 2 * 9 * 2
    tight = place(convolution().finish(), small(synapse_words_per_core=18))
    # no more than 6 weights fit a word beside the header
    assert layer(tight, "lif").tiling.usage["synapse words"] == 18
    assert layer(tight, "lif").tiling.tile[0] == 4
    assert layer(tight, "lif").tiling.bound(tight.chip) == "synapse words"


def test_grouped_convolutions_store_their_own_groups_only() -> None:
    net = ProgramBuilder((8, 4, 4))
    net.lif("lif", net.conv("conv", "input", 8, (3, 3), padding=(1, 1), groups=4))
    # 4 groups x 2 inputs x 9 taps, rows of 2 weights in one word
    assert layer(place(net.finish(), LOIHI2), "lif").tiling.usage["synapse words"] == 72


def stack(few: int) -> ProgramBuilder:
    """Stacked synapses from 8 channels to 16; of each row (a tap) of the high part, the first ``few`` are not zero."""
    net = ProgramBuilder((8, 1, 1))
    for name in ("conv.hi", "conv.lo"):
        net.conv(name, "input", 16, (3, 3), padding=(1, 1))
        op = net.nodes[name].op
        assert isinstance(op, Conv2d)
        weight = np.full_like(op.weight, 100)
        if name == "conv.hi":
            weight[few:] = 0
            weight[:, 4:] = 0
        net.nodes[name] = replace(net.nodes[name], op=replace(op, weight=weight))
    net.lif("lif", net.plus("conv", "conv.hi", "conv.lo"))
    return net


def edge_words(few: int) -> int:
    return layer(place(stack(few).finish(), LOIHI2), "lif").tiling.usage["synapse words"]


def test_of_a_second_synapse_only_what_is_not_zero_is_stored() -> None:
    population = next(each for each in map_program(stack(2).finish()) if each.name == "lif")
    (edge,) = population.edges
    assert (edge.name, edge.source) == ("conv", "input"), "an axon reaches both parts"
    assert edge.synapses(LOIHI2.synapse_index_bits) == 1 + 2 / 16 / 2
    # low: 8 x 9 rows of 16 weights of 8 bits and 10 bits, three words; high: 4 x 9 rows of two of 20 bits, one word
    assert edge_words(2) == 72 * 3 + 36
    # four of 20 bits and 10 are two words
    assert edge_words(4) == 72 * 3 + 36 * 2
    # in a core of 2 channels: low: two weights and 10 bits; high: two of 20 bits in the first core, none in the others
    tiling = layer(place(stack(2).finish(), small(neurons_per_core=2)), "lif").tiling
    assert tiling.tile == (2, 1, 1)
    assert tiling.usage["synapse words"] == 72 + 36
    # where most are not zero, all are stored
    assert edge_words(16) == 72 * 3 * 2


def test_dense_layers_store_an_index_beside_each_weight() -> None:
    net = ProgramBuilder((3, 2, 2))
    spikes = net.lif("lif", net.conv("conv", "input", 10))
    net.lif("second", net.dense("dense", net.flatten("flatten", spikes), 7))
    usage = layer(place(net.finish(), LOIHI2), "second").tiling.usage
    # 40 inputs, each row 7 weights of 8 and 12 bits and 10 bits: 150 bits, three words
    assert (usage["synapse words"], usage["axons in"]) == (120, 40)


def test_weights_of_one_sign_take_no_bit_for_it_and_seven_bits_take_eight() -> None:
    def words(weight: np.ndarray) -> int:
        net = ProgramBuilder((4, 1, 1))
        net.conv("conv", "input", 40)
        op = net.nodes["conv"].op
        assert isinstance(op, Conv2d)
        net.nodes["conv"] = replace(net.nodes["conv"], op=replace(op, weight=weight.reshape(40, 4, 1, 1)))
        net.lif("lif", "conv")
        return layer(place(net.finish(), small(synapse_row_header_bits=0)), "lif").tiling.usage["synapse words"]

    three = np.full(160, 7, dtype=np.int8)
    assert [words(each) for each in (three, -three)] == [4 * 2, 4 * 2]  # 40 x 3 bits: two words
    three[0] = -7
    assert words(three) == 4 * 3  # 40 x 4 bits
    seven = np.full(160, 63, dtype=np.int8)
    seven[0] = -63
    assert words(seven) == 4 * 5  # 40 x 8 bits
    assert words(np.full(160, 63, dtype=np.int8)) == 4 * 4  # 40 x 6 bits


def test_rows_of_a_dense_layer_hold_what_is_not_zero_where_the_chip_does_so() -> None:
    net = ProgramBuilder((4, 1, 1))
    net.dense("dense", net.flatten("flat", net.lif("first", net.conv("conv", "input", 4))), 12)
    op = net.nodes["dense"].op
    assert isinstance(op, Dense)
    weight = np.zeros((12, 4), dtype=np.int8)
    weight[:4, 0], weight[:3, 1], weight[11, 2] = 127, -127, 1
    net.nodes["dense"] = replace(net.nodes["dense"], op=replace(op, weight=weight))
    net.lif("second", "dense")
    program = net.finish()
    words = [
        layer(place(program, small(sparse_dense_rows=sparse)), "second").tiling.usage["synapse words"]
        for sparse in (0, 1)
    ]
    # all: 12 x 20 bits and 10, four words a row; else 90, 70 and 30 bits, and a row without any
    assert words == [4 * 4, 2 + 2 + 1]


@pytest.mark.parametrize(("size", "cores"), [(6, 1), (32, 2)])
def test_kernels_that_are_not_shared_keep_each_synapse(size: int, cores: int) -> None:
    """A 3 x 3 kernel, counted neuron by neuron: how many of a tile's neurons each source reaches."""
    net = ProgramBuilder((2, size, size))
    net.lif("lif", net.conv("conv", "input", 4, (3, 3), padding=(1, 1), largest=15))
    chip = small(shared_kernels=0, synapse_index_bits=0, neurons_per_core=2048, synapse_words_per_core=10**6)
    found = layer(place(net.finish(), replace(chip, memory_words_per_core=None)), "lif")
    assert found.cores == cores
    rows, columns = (min(each, size) for each in found.tiling.tile[1:])
    # a tile between others reads no padding
    around = [range(each) if each == size else range(-1, each + 1) for each in (rows, columns)]
    reached = [
        sum(abs(y - ty) <= 1 and abs(x - tx) <= 1 for ty in range(rows) for tx in range(columns))
        for y in around[0]
        for x in around[1]
    ]
    words = sum(-(-(targets * 4 * 5 + 10) // 64) for targets in reached)
    assert found.tiling.usage["synapse words"] == 2 * words
    read = min(rows + 2, size) * min(columns + 2, size)
    assert found.tiling.usage["axons in"] == 2 * read


@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_what_reads_too_much_for_a_core_is_told_how_much_it_may_read(kind: str) -> None:
    def placed(values: int) -> Placement:
        net = ProgramBuilder((values, 1, 1))
        if kind == "dense":
            net.lif("lif", net.dense("layer", net.flatten("flat", "input"), 10))
        else:
            net.lif("lif", net.conv("layer", "input", 10))
        chip = small(synapse_words_per_core=600, axon_in_per_core=500, memory_words_per_core=1000)
        return place(net.finish(), chip)

    lines = [line for line in placed(5000).violations if line.startswith("lif (of layer)")]
    assert len(lines) == (3 if kind == "dense" else 2)
    for line in lines:
        assert "each neuron reads 5,000 values, whatever the bits and the tile; let it read at most 499: pool" in line
    assert not any("--weight-bits" in line for line in lines)
    # that remedy helps
    assert not [line for line in placed(499).violations if line.startswith("lif (of layer)")]


@pytest.mark.parametrize(("header", "words"), [(0, 2), (8, 2), (9, 3), (10, 3), (72, 3), (73, 4)])
def test_each_row_of_a_dense_layer_has_its_header(header: int, words: int) -> None:
    """Six weights of 8 and 12 bits take 120 bits; with a header of 8 bits, they fill two words of 64."""
    net = ProgramBuilder((2, 2, 2))
    spikes = net.lif("lif", net.conv("conv", "input", 5))
    net.lif("second", net.dense("dense", net.flatten("flatten", spikes), 6))
    chip = small(synapse_row_header_bits=header)
    assert layer(place(net.finish(), chip), "second").tiling.usage["synapse words"] == 5 * 2 * 2 * words


def test_a_spikes_destinations_take_axon_map_words() -> None:
    net = ProgramBuilder((1, 8, 8))
    first = net.lif("first", net.conv("stem", "input", 2))
    second = net.lif("second", net.conv("conv", first, 4))
    net.lif("third", net.dense("dense", net.flatten("flatten", second), 4))
    program = net.finish()
    placement = place(program, LOIHI2)
    # two words a position, one a neuron where a dense layer reads
    assert layer(placement, "first").tiling.usage["axon map words"] == 2 * 64
    assert layer(placement, "second").tiling.usage["axon map words"] == 4 * 64
    assert layer(placement, "third").tiling.usage["axon map words"] == 0
    # four cores, by channels: each position is sent to three more
    split = place(program, small(neurons_per_core=64, power_of_two_tiles=0, synapse_words_per_core=300))
    assert layer(split, "second").tiling.counts[0] in (1, 4)
    tiling = layer(split, "first").tiling
    further = layer(split, "second").tiling.counts[0] - 1
    assert tiling.usage["axon map words"] == tiling.tile[1] * tiling.tile[2] * (2 + 6 * further)


def test_a_residual_sum_that_several_read_is_carried() -> None:
    net = ProgramBuilder((2, 4, 4))
    x = net.lif("first", net.conv("stem", "input", 2))
    stream = net.plus("stream", net.conv("left", x, 2), net.conv("right", x, 2))
    net.plus("later", net.conv("block", net.lif("inside", stream), 2), stream)
    net.lif("last", "later")
    populations = {each.name: each for each in map_program(net.finish())}
    assert populations["stream"].kind == "carrier"
    assert [edge.name for edge in populations["stream"].edges] == ["left", "right"]
    assert [(edge.source, edge.delay) for edge in populations["inside"].edges] == [("stream", 0)]
    assert [(edge.source, edge.delay) for edge in populations["last"].edges] == [("inside", 0), ("stream", 1)]


def test_spikes_that_wait_before_a_convolution_wait_in_its_synapses() -> None:
    net = ProgramBuilder((2, 4, 4))
    x = net.lif("first", net.conv("stem", "input", 2))
    waiting = net.add("wait", Delay(SPIKE, steps=3), x)
    net.lif("second", net.conv("conv", waiting, 2))
    populations = {each.name: each for each in map_program(net.finish())}
    assert "wait" not in populations
    assert [(edge.source, edge.delay) for edge in populations["second"].edges] == [("first", 3)]


def test_tiles_that_cut_groups_store_both_groups() -> None:
    net = ProgramBuilder((6, 1, 1))
    net.lif("lif", net.conv("conv", "input", 12, groups=3))
    # tiles of 3 channels: [3, 6) lies in the groups [0, 4) and [4, 8), 2 inputs each
    placement = place(net.finish(), small(neurons_per_core=3))
    assert layer(placement, "lif").tiling.tile == (3, 1, 1)
    assert layer(placement, "lif").tiling.usage["synapse words"] == 4
    assert layer(placement, "lif").tiling.deliveries == 2 * (1 + 2 + 2 + 1)


def test_delays_take_memory_and_have_a_limit() -> None:
    program, _ = tiny_resformer()
    down = "layers.0.1.down.0"
    usage = layer(place(program, LOIHI2), down).tiling.usage
    rest = usage["synapse words"] + usage["axons in"] + usage["axon map words"]
    assert usage["memory words"] == 2 * usage["neurons"] + rest
    refused = place(program, small(delay_steps_max=0))
    assert any(line.startswith(f"{down}: an input waits 1 steps, small's limit is 0") for line in refused.violations)


def test_a_product_keeps_its_values_in_the_core() -> None:
    program, _ = tiny_resformer()
    found = layer(place(program, LOIHI2), "layers.0.0.activation_attn")
    heads, rows, _ = found.tiling.tile
    assert found.tiling.usage["synapse words"] == heads * rows * 2  # 4 channels, 2 heads


def test_every_layer_that_does_not_fit_is_named() -> None:
    program, _ = tiny_resformer()
    placement = place(program, small(synapse_words_per_core=1, chips_per_system=1, cores_per_chip=1))
    assert len(placement.violations) > 5
    assert placement.violations[-1].startswith("the network: takes ")
    with pytest.raises(CapacityError) as error:
        placement.require()
    assert error.value.findings == placement.violations


@pytest.mark.parametrize("power_of_two", [0, 1])
def test_boxes_cover_every_neuron_once_and_no_core_twice(power_of_two: int) -> None:
    program, _ = tiny_resformer()
    chip = small(neurons_per_core=60, power_of_two_tiles=power_of_two)
    placement = place(program, chip)
    assert placement.violations == ()
    seen: list[int] = []
    for each in placement.layers:
        held = np.zeros(each.population.shape, dtype=int)
        for core, box in each.boxes():
            seen.append(core)
            held[tuple(slice(*axis) for axis in box)] += 1
        assert (held == 1).all()
        assert each.tiling.usage["neurons"] <= 60
    assert seen == list(range(placement.cores))


def test_free_tiles_take_no_more_cores() -> None:
    program, _ = tiny_resformer(image=32)
    chip = small(neurons_per_core=100)
    assert place(program, replace(chip, power_of_two_tiles=0)).cores <= place(program, chip).cores


def test_depth_counts_messages() -> None:
    net = ProgramBuilder((1, 4, 4))
    x = net.lif("first", net.conv("stem", "input", 2))
    y = net.lif("second", net.conv("conv", x, 2))
    net.lif("third", net.plus("sum", net.conv("long", y, 2), net.conv("short", x, 2)))
    # the readout is the LIF itself: input, first, second, third
    assert place(net.finish(), LOIHI2).depth == 3


def test_cores_lie_side_by_side() -> None:
    chip = small(neurons_per_core=16)
    placement = place(convolution(size=32).finish(), chip)
    assert placement.chips > 1
    cores = np.arange(placement.cores)
    places = tile_positions(placement.chip, cores)
    inside = cores[:-1] // chip.cores_per_chip == cores[1:] // chip.cores_per_chip
    steps = np.abs(np.diff(places, axis=0)).sum(axis=1)
    assert steps[inside].max() == 1
    _, counts = np.unique(places, axis=0, return_counts=True)
    assert counts.max() == chip.cores_per_tile


def test_recurrent_synapses_and_own_parameters_take_memory() -> None:
    def usage(**options) -> dict[str, int]:
        net = ProgramBuilder((1, 4, 4))
        net.cuba_lif("cuba", net.conv("conv", "input", 8), **options)
        placement = place(net.finish(), LOIHI2)
        assert placement.depth == 1
        return layer(placement, "cuba").tiling.usage

    alike, own = usage(spread=(False,) * 3), usage(spread=(True, False, False))
    recurrent = usage(spread=(False,) * 3, kernel=(3, 3))
    # 17 + 2 * 12 + 2 * 24 bits, and none of v_drop, which is one zero: two words a neuron
    assert own["memory words"] - alike["memory words"] == 2 * 8 * 4 * 4
    # 8 x 9 rows of 8 weights, 74 bits; two axons; two words a position
    assert recurrent["synapse words"] - alike["synapse words"] == 8 * 9 * 2
    assert recurrent["axons in"] - alike["axons in"] == 2
    assert recurrent["axon map words"] - alike["axon map words"] == 2 * 16


def test_a_delay_of_the_network_waits_like_one_of_the_schedule() -> None:
    net = ProgramBuilder((1, 4, 4))
    first = net.lif("first", net.conv("stem", "input", 2))
    wait = net.add("wait", SampleDelay(SPIKE, np.array([[[1]], [[7]]], np.int32)), first)
    net.lif("second", net.conv("conv", wait, 3))
    populations = {each.name: each for each in map_program(net.finish())}
    assert set(populations) == {"input", "first", "second"} | {name for name in populations if name == "output"}
    assert [(edge.source, edge.delay) for edge in populations["second"].edges] == [("first", 7)]


class Strange(Op):
    """An operation that placement has never heard of."""


def test_an_operation_that_placement_does_not_know_is_refused() -> None:
    """It is refused whatever reads it, and wherever it stands."""
    net = ProgramBuilder((2, 4, 4))
    first = net.lif("first", net.conv("conv", "input", 4))
    net.lif("second", net.relay("relay", net.plus("sum", net.conv("last", first, 4), first), limit=50))
    program = net.finish()
    for name in ("conv", "first", "last", "sum", "relay", "second"):
        nodes = (replace(node, op=Strange(node.op.signal)) if node.name == name else node for node in program)
        with pytest.raises(UnsupportedError, match=rf"^{name}: .*for a Strange; place a network without it"):
            map_program(Program(tuple(nodes), program.timesteps))


@pytest.mark.parametrize("kind", OPERATIONS.values())
def test_each_operation_has_a_name_in_reports_or_no_neurons(kind: type[Op]) -> None:
    node = Node("node", object.__new__(kind), (), (1,))
    if kind in (Delay, SampleDelay, Flatten):
        with pytest.raises(UnsupportedError, match=f"^node: .* for a {kind.__name__}; place"):
            _kind([node])
    else:
        assert _kind([node])
