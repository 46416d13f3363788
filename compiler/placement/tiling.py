"""Tilings: how many cores a population takes, and what each of them holds.

All candidates of a population are judged at once, in arrays, one element a candidate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resformer.compiler.chips.chip import WORD_BITS, Chip
from resformer.compiler.ir.arrays import WeightArray
from resformer.compiler.ir.storage import mantissa_bits, stored_share
from resformer.compiler.placement.mapping import Edge, Link, Population, Shape3

Int64Array = npt.NDArray[np.int64]

RESOURCES = {
    "neurons": "neurons_per_core",
    "synapse words": "synapse_words_per_core",
    "axons in": "axon_in_per_core",
    "axon map words": "axon_map_per_core",
    "memory words": "memory_words_per_core",
    "neuron groups": "neuron_groups_per_core",
}
"""What a core has limited amounts of, and the chip's field that says how much."""


@dataclass(frozen=True)
class Tiling:
    """A population cut into boxes of (channels, rows, columns), one a core.

    Attributes:
        population: What is cut.
        tile: A box's size; the last along an axis may hold less.
        counts: Boxes along each axis.
        usage: Of each resource, what the fullest core takes.
        needed: Of each resource, the cores that the population would take if nothing else were limited.
        deliveries: Messages that its cores receive if every neuron that it reads sends one.
    """

    population: Population
    tile: Shape3
    counts: Shape3
    usage: dict[str, int]
    needed: dict[str, int]
    deliveries: int

    @property
    def cores(self) -> int:
        """How many there are."""
        return math.prod(self.counts)

    def utilization(self, chip: Chip) -> dict[str, float]:
        """Of each resource, the part of its limit that the fullest core takes."""
        return {
            name: self.usage[name] / limit
            for name, attribute in RESOURCES.items()
            if (limit := getattr(chip, attribute)) is not None
        }

    def bound(self, chip: Chip) -> str:
        """The resource that asks for the most cores, and of those the one that is used most."""
        shares = self.utilization(chip)
        return max(shares, key=lambda name: (self.needed[name], shares[name]))

    def excess(self, chip: Chip) -> dict[str, tuple[int, int]]:
        """What does not fit: of each resource, the need and the limit."""
        found = {name: (self.usage[name], getattr(chip, RESOURCES[name])) for name in self.utilization(chip)}
        return {name: (need, limit) for name, (need, limit) in found.items() if need > limit}


@dataclass(frozen=True)
class Reader:
    """Where a population's spikes go: an edge, and how the population at its other end is tiled."""

    edge: Edge
    tiling: Tiling


def best_tiling(
    population: Population, shapes: dict[str, Shape3], readers: list[Reader], chip: Chip, *, at_least: int = 1
) -> Tiling:
    """The tiling with the fewest cores, and of those the one with the least traffic.

    Where none fits, the one that exceeds its limits least; :meth:`Tiling.excess` tells.

    Args:
        population: What to cut.
        shapes: Of all populations.
        readers: Who else reads this one.
        chip: Whose limits hold.
        at_least: Take so many cores, if it can be cut into as many.
    """
    tiles = _candidates(population.shape, power_of_two=bool(chip.power_of_two_tiles))
    held = np.minimum(tiles, np.array(population.shape))
    counts = -(-np.array(population.shape) // tiles)
    usage = _usage(population, tiles, held, counts, shapes, readers, chip)
    deliveries = sum(
        (_deliveries(edge, population, tiles, held, counts, shapes[edge.source]) for edge in population.edges),
        start=np.zeros(len(tiles), dtype=np.int64),
    )
    cores = counts.prod(axis=1)
    needed = {}
    worst = np.zeros(len(tiles))
    for name, attribute in RESOURCES.items():
        limit = getattr(chip, attribute)
        share = usage[name] / limit if limit is not None else np.zeros(len(tiles))
        worst = np.maximum(worst, share)
        needed[name] = int(cores[share <= 1].min(initial=np.iinfo(np.int64).max))
    over = np.maximum(worst, 1)
    # lexsort's last key leads
    chosen = int(np.lexsort((worst, deliveries, cores, cores < at_least, over))[0])
    return Tiling(
        population,
        tile=_triple(tiles[chosen]),
        counts=_triple(counts[chosen]),
        usage={name: int(values[chosen]) for name, values in usage.items()},
        needed=needed,
        deliveries=int(deliveries[chosen]),
    )


def fan_out(reader: Reader, source: Shape3) -> float:
    """The cores that a neuron's message goes to, on average over the source's neurons."""
    edge, tiling = reader.edge, reader.tiling
    _, rows, columns = tiling.counts
    neurons = math.prod(source)
    match edge.link:
        case Link.DENSE:
            return float(tiling.cores)
        case Link.VALUES:
            return float(columns if edge.transpose else rows * columns)
        case Link.GATES | Link.CONVOLUTION:
            tiles, held = np.array([tiling.tile]), np.minimum([tiling.tile], tiling.population.shape)
            counts = np.array([tiling.counts])
            return float(_deliveries(edge, tiling.population, tiles, held, counts, source)[0]) / neurons


def _candidates(shape: Shape3, *, power_of_two: bool) -> Int64Array:
    """Sizes of tiles, (candidates, 3)."""

    def halvings(size: int) -> list[int]:
        return sorted({-(-size // 2**k) for k in range(size.bit_length() + 1)})

    def parts(size: int) -> list[int]:
        return sorted({-(-size // k) for k in range(1, size + 1)})

    channels, rows, columns = shape
    if power_of_two:
        widths = [2**k for k in range((columns - 1).bit_length() + 1)]
        axes = (halvings(channels), halvings(rows), widths)
    else:
        axes = (parts(channels), parts(rows), parts(columns))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.int64)


def _usage(
    population: Population,
    tiles: Int64Array,
    held: Int64Array,
    counts: Int64Array,
    shapes: dict[str, Shape3],
    readers: list[Reader],
    chip: Chip,
) -> dict[str, Int64Array]:
    """Of each resource, what a full core of each candidate takes."""
    neurons = tiles.prod(axis=1)
    synapses, axons_in = np.zeros_like(neurons), np.zeros_like(neurons)
    for edge in population.edges:
        synapses = synapses + _synapse_words(edge, population, held, shapes[edge.source], chip)
        axons_in = axons_in + _axons_in(edge, held, shapes[edge.source], chip)
    positions = held[:, 1] * held[:, 2]
    axon_map = np.zeros_like(neurons)
    for reader in readers:
        if reader.edge.link is Link.DENSE:
            axon_map = axon_map + held.prod(axis=1)
            continue
        further = max(fan_out(reader, population.shape) - 1, 0.0)
        words = chip.axon_map_per_position + chip.axon_map_per_destination * further
        axon_map = axon_map + np.ceil(positions * words).astype(np.int64)
    for edge in population.edges:
        if edge.source == population.name:
            # where its own messages go, each candidate says of itself
            reached = _deliveries(edge, population, tiles, held, counts, population.shape) / population.neurons
            each = chip.axon_map_per_position + chip.axon_map_per_destination * np.maximum(reached - 1, 0)
            axon_map = axon_map + np.ceil(positions * each).astype(np.int64)
    waiting = -(-population.delay // chip.delay_slots_per_word)
    return {
        "neurons": neurons,
        "synapse words": synapses,
        "axons in": axons_in,
        "axon map words": axon_map,
        "memory words": neurons * (1 + population.parameter_words + waiting) + synapses + axons_in + axon_map,
        "neuron groups": np.ones_like(neurons),
    }


def _synapse_words(edge: Edge, population: Population, held: Int64Array, source: Shape3, chip: Chip) -> Int64Array:
    channels: Int64Array = held[:, 0]
    match edge.link:
        case Link.DENSE:
            bits = channels * (edge.weight_bits + chip.synapse_index_bits) + chip.synapse_row_header_bits
            return math.prod(source) * _words(bits)
        case Link.VALUES:
            # a word a value
            return edge.reads * (channels * held[:, 1] if edge.transpose else channels)
        case Link.GATES:
            return np.zeros_like(channels)
        case Link.CONVOLUTION:
            in_row = np.minimum(channels, max(population.shape[0] // edge.groups, 1))
            groups, _ = _groups_read(edge, population, channels)
            rows = groups * (source[0] // edge.groups) * edge.window.area
            if not edge.weights:
                return rows * _words(in_row * edge.weight_bits + chip.synapse_row_header_bits)
            words = np.zeros_like(channels)
            for weight in edge.weights:
                if stored_share(weight, chip.synapse_index_bits) < 1:
                    words = words + groups * _sparse_words(weight, edge.groups, in_row, chip)
                else:
                    words = words + rows * _words(in_row * mantissa_bits(weight) + chip.synapse_row_header_bits)
            return words


def _sparse_words(weight: WeightArray, groups: int, in_row: Int64Array, chip: Chip) -> Int64Array:
    """Words of one group's rows in the core that holds most of them; a row without weights is not stored."""
    nonzero = (weight != 0).reshape(groups, len(weight) // groups, -1)
    words = np.zeros_like(in_row)
    for held in np.unique(in_row):
        # (groups, cores, rows)
        targets = np.add.reduceat(nonzero, np.arange(0, nonzero.shape[1], held), axis=1, dtype=np.int64)
        bits = targets * (mantissa_bits(weight) + chip.synapse_index_bits) + chip.synapse_row_header_bits
        words[in_row == held] = np.where(targets > 0, _words(bits), 0).sum(axis=2).max()
    return words


def _axons_in(edge: Edge, held: Int64Array, source: Shape3, chip: Chip) -> Int64Array:
    channels: Int64Array = held[:, 0]
    match edge.link:
        case Link.DENSE:
            return np.full_like(channels, math.prod(source))
        case Link.VALUES:
            values: Int64Array = edge.reads * (channels * held[:, 1] if edge.transpose else channels)
            return values
        case _:
            return np.full_like(channels, chip.axon_in_per_edge)


def _deliveries(
    edge: Edge, population: Population, tiles: Int64Array, held: Int64Array, counts: Int64Array, source: Shape3
) -> Int64Array:
    """Messages that arrive at all cores of each candidate if every neuron of the source sends one."""
    neurons = math.prod(source)
    match edge.link:
        case Link.DENSE:
            everywhere: Int64Array = neurons * counts.prod(axis=1)
            return everywhere
        case Link.VALUES:
            return neurons * (counts[:, 2] if edge.transpose else counts[:, 1] * counts[:, 2])
        case Link.GATES:
            _, heads = _groups_read(edge, population, held[:, 0])
            return neurons // edge.groups * heads * (counts[:, 1] if edge.transpose else 1)
        case Link.CONVOLUTION:
            _, groups = _groups_read(edge, population, held[:, 0])
            channels = groups * (source[0] // edge.groups)
            rows, columns = (
                _read(edge, axis, tiles[:, 1 + axis], counts[:, 1 + axis], population.shape, source)
                for axis in range(2)
            )
            return channels * rows * columns


def _groups_read(edge: Edge, population: Population, channels: Int64Array) -> tuple[Int64Array, Int64Array]:
    """The groups of channels that tiles so deep lie in: of the tile that lies in most, and of all tiles together."""
    size = population.shape[0]
    per_group = max(size // edge.groups, 1)
    most, total = np.zeros_like(channels), np.zeros_like(channels)
    for depth in np.unique(channels):
        first = np.arange(0, size, depth)
        groups = -(-np.minimum(first + depth, size) // per_group) - first // per_group
        most[channels == depth], total[channels == depth] = groups.max(), groups.sum()
    return most, total


def _read(edge: Edge, axis: int, tile: Int64Array, count: Int64Array, shape: Shape3, source: Shape3) -> Int64Array:
    """Rows (axis 0) or columns of the source that all tiles along an axis read, together.

    What lies between is taken to be read too, where strides and dilations leave it out.
    """
    total = np.zeros_like(tile)
    size, extent = shape[1 + axis], source[1 + axis]
    for index, (width, tiles) in enumerate(zip(tile, count, strict=True)):
        first = np.arange(tiles) * width
        last = np.minimum(first + width, size) - 1
        low, high = (np.clip(each, 0, extent) for each in edge.window.reach(axis, first, last))
        total[index] = np.maximum(high - low, 0).sum()
    return total


def _words(bits: Int64Array) -> Int64Array:
    words: Int64Array = -(-bits // WORD_BITS)
    return words


def _triple(values: Int64Array) -> Shape3:
    channels, rows, columns = (int(each) for each in values)
    return channels, rows, columns
