"""Tilings: how many cores a population takes, and what each of them holds.

All candidates of a population are judged at once, in arrays with one element for each candidate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from resformer.compiler.chips.chip import WORD_BITS, Chip
from resformer.compiler.ir.arrays import WeightArray
from resformer.compiler.ir.storage import stored_share, synapse_bits
from resformer.compiler.placement.mapping import Edge, Link, Population, Shape3

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

WHOLE_CHANNELS = 1.1
"""A tiling that keeps channels whole may take this many times the fewest cores: Intel's compiler took 13, not 12."""
DENSE_STEP = 0.8
"""Factor by which a dense layer's cores get fewer neurons, applied again as long as they are too full."""

RESOURCES = {
    "neurons": "neurons_per_core",
    "synapse words": "synapse_words_per_core",
    "axons in": "axon_in_per_core",
    "axon map words": "axon_map_per_core",
    "memory words": "memory_words_per_core",
    "neuron groups": "neuron_groups_per_core",
}
"""The resources that a core has limited amounts of, each with the field of ``Chip`` that holds its limit."""


@dataclass(frozen=True)
class Tiling:
    """A population cut into boxes of (channels, rows, columns), one for each core.

    Attributes:
        population: The population that is cut.
        tile: The size of a box; the last box along an axis may hold less.
        counts: The number of boxes along each axis.
        usage: For each resource, what the fullest core takes.
        needed: For each resource, the cores that the population would take if nothing else were limited.
        deliveries: Messages that the cores receive if every neuron that the population reads sends one.
    """

    population: Population
    tile: Shape3
    counts: Shape3
    usage: dict[str, int]
    needed: dict[str, int]
    deliveries: int

    @property
    def cores(self) -> int:
        """The number of cores."""
        return math.prod(self.counts)

    def utilization(self, chip: Chip) -> dict[str, float]:
        """For each resource, the share of its limit that the fullest core takes."""
        return {
            name: self.usage[name] / limit
            for name, attribute in RESOURCES.items()
            if (limit := getattr(chip, attribute)) is not None
        }

    def bound(self, chip: Chip) -> str:
        """The resource that asks for the most cores; of several such resources, the one that is used most."""
        shares = self.utilization(chip)
        return max(shares, key=lambda name: (self.needed[name], shares[name]))

    def excess(self, chip: Chip) -> dict[str, tuple[int, int]]:
        """The resources that do not fit, each with its need and its limit."""
        found = {name: (self.usage[name], getattr(chip, RESOURCES[name])) for name in self.utilization(chip)}
        return {name: (need, limit) for name, (need, limit) in found.items() if need > limit}


@dataclass(frozen=True)
class Reader:
    """A destination of a population's spikes: an edge, and the tiling of the population at its other end."""

    edge: Edge
    tiling: Tiling


def best_tiling(
    population: Population, shapes: dict[str, Shape3], readers: list[Reader], chip: Chip, *, at_least: int = 1
) -> Tiling:
    """The tiling with the fewest cores, and of several such tilings the one with the least traffic.

    If no tiling fits, it is the one that exceeds its limits least; :meth:`Tiling.excess` then tells by how much.

    Args:
        population: The population to cut.
        shapes: The shapes of all populations, by name.
        readers: The other populations that read this one.
        chip: The chip whose limits hold.
        at_least: The least number of cores to take, if the population can be cut into that many.
    """
    if any(edge.link is Link.DENSE for edge in population.edges):
        return _dense_tiling(population, shapes, readers, chip, at_least)
    tiles = _candidates(population.shape, power_of_two=bool(chip.power_of_two_tiles))
    judged = _judge(population, tiles, shapes, readers, chip)
    over = np.maximum(judged.worst, 1)
    # a product is cut along all of its axes alike
    products = any(edge.link in (Link.VALUES, Link.GATES) for edge in population.edges)
    fewest = judged.cores[judged.worst <= 1].min(initial=np.iinfo(np.int64).max)
    whole = (judged.counts[:, 0] == 1) & (judged.cores <= WHOLE_CHANNELS * fewest)
    split = np.zeros_like(whole) if products else ~whole
    too_few = judged.cores < at_least
    # lexsort's last key leads
    chosen = int(np.lexsort((judged.worst, judged.deliveries, judged.cores, split, too_few, over))[0])
    return judged.tiling(chosen)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidate sizes of tiles, and what a core takes with each of them.

    Attributes:
        population: The population that is cut.
        chip: The chip whose limits hold.
        tiles: The sizes, (candidates, 3).
        counts: The number of boxes along each axis, (candidates, 3).
        usage: For each resource, what a full core takes, (candidates,).
        arriving: For each of the population's connections, the messages that all cores receive if every neuron that
            they read sends one, (candidates,).
    """

    population: Population
    chip: Chip
    tiles: Int64Array
    counts: Int64Array
    usage: dict[str, Int64Array]
    arriving: tuple[Int64Array, ...]

    @cached_property
    def held(self) -> Int64Array:
        """The channels, rows and columns of the population that a full tile holds, (candidates, 3)."""
        held: Int64Array = np.minimum(self.tiles, np.array(self.population.shape))
        return held

    @cached_property
    def cores(self) -> Int64Array:
        """The number of boxes, (candidates,)."""
        cores: Int64Array = self.counts.prod(axis=1)
        return cores

    @cached_property
    def deliveries(self) -> Int64Array:
        """Messages that all cores receive if every neuron that they read sends one, (candidates,)."""
        return sum(self.arriving, start=np.zeros(len(self.tiles), dtype=np.int64))

    @cached_property
    def shares(self) -> dict[str, FloatArray]:
        """For each resource, the share of its limit that a full core takes, (candidates,)."""
        limits = {name: getattr(self.chip, attribute) for name, attribute in RESOURCES.items()}
        return {
            name: np.zeros(len(self.tiles)) if limit is None else self.usage[name] / limit
            for name, limit in limits.items()
        }

    @cached_property
    def worst(self) -> FloatArray:
        """The largest share of a limit that a full core takes, (candidates,); a candidate fits if this is at most 1."""
        worst: FloatArray = np.max(list(self.shares.values()), axis=0)
        return worst

    def sending(self, copies: Sequence[tuple[Edge, float]]) -> Candidates:
        """These candidates, with the axon map words that their messages to other populations take.

        Args:
            copies: The connections by which others read the population, each with the cores that a message goes to.
        """
        words = np.zeros_like(self.cores)
        for edge, each in copies:
            words = words + _map_words(edge, each, self.held, self.chip)
        added = {name: self.usage[name] + words for name in ("axon map words", "memory words")}
        return replace(self, usage={**self.usage, **added})

    def read_by(self, readers: Sequence[Reader]) -> Candidates:
        """These candidates, with the axon map words that their messages take; the readers are cut already."""
        return self.sending([(reader.edge, fan_out(reader, self.population.shape)) for reader in readers])

    def tiling(self, chosen: int) -> Tiling:
        """The tiling of one candidate."""
        most = np.iinfo(np.int64).max
        return Tiling(
            self.population,
            tile=_triple(self.tiles[chosen]),
            counts=_triple(self.counts[chosen]),
            usage={name: int(values[chosen]) for name, values in self.usage.items()},
            needed={name: int(self.cores[share <= 1].min(initial=most)) for name, share in self.shares.items()},
            deliveries=int(self.deliveries[chosen]),
        )


def candidates(population: Population, shapes: dict[str, Shape3], chip: Chip, also: Shape3) -> Candidates:
    """All ways to cut a population that a layout may choose among, without the words that messages to others take.

    Args:
        population: The population to cut.
        shapes: The shapes of all populations, by name.
        chip: The chip whose limits hold.
        also: A size of tile that is among the candidates in any case.
    """
    is_dense = any(edge.link is Link.DENSE for edge in population.edges)
    if is_dense:
        neurons, *rest = population.shape
        tiles = np.array([[size, *rest] for size in parts(neurons)], dtype=np.int64)
    else:
        tiles = _candidates(population.shape, power_of_two=bool(chip.power_of_two_tiles))
    if not (tiles == also).all(axis=1).any():
        tiles = np.concatenate([tiles, np.array([also], dtype=np.int64)])
    found = _judge(population, tiles, shapes, [], chip)
    if not is_dense:
        return found
    # as in the default layout, the cores of a dense layer that is cut are not filled up
    kept = (found.shares["synapse words"] <= chip.dense_fill) | (found.cores == 1) | (tiles == also).all(axis=1)
    return _judge(population, tiles[kept], shapes, [], chip)


def _judge(
    population: Population, tiles: Int64Array, shapes: dict[str, Shape3], readers: list[Reader], chip: Chip
) -> Candidates:
    """The candidates with these sizes of tiles."""
    held = np.minimum(tiles, np.array(population.shape))
    counts = -(-np.array(population.shape) // tiles)
    arriving = tuple(
        _deliveries(edge, population, tiles, held, counts, shapes[edge.source]) for edge in population.edges
    )
    found = Candidates(
        population, chip, tiles, counts, _usage(population, tiles, held, shapes, arriving, chip), arriving
    )
    return found.read_by(readers)


def _dense_tiling(
    population: Population, shapes: dict[str, Shape3], readers: list[Reader], chip: Chip, at_least: int
) -> Tiling:
    """The tiling of a population that reads a dense layer: cores are filled one after another, the last in part.

    It follows Intel's compiler. The number of parts is a power of two, and each has one neuron less than its share. If
    a part is too large for a core, parts have four fifths of that size, and so on.
    """
    neurons = population.shape[0]

    def judge(sizes: list[int]) -> Candidates:
        tiles = np.array([[size, *population.shape[1:]] for size in sizes], dtype=np.int64)
        return _judge(population, tiles, shapes, readers, chip)

    whole = judge([neurons, max(neurons - 1, 1)])
    if whole.worst[0] <= 1 and at_least <= 1:
        return whole.tiling(0)
    needed = max(float(whole.worst[1]), at_least, 2)
    size = max(-(-neurons // 2 ** math.ceil(math.log2(needed))) - 1, 1)
    sizes = [size]
    while sizes[-1] > 1:
        sizes.append(int(sizes[-1] * DENSE_STEP))
    # the whole population is judged too: a resource whose limit it keeps needs no more than one core
    judged = judge([neurons, *sizes])
    shares = {**judged.shares, "synapse words": judged.shares["synapse words"] / chip.dense_fill}
    fits = np.max(list(shares.values()), axis=0)[1:] <= 1
    return judged.tiling(1 + (int(fits.argmax()) if fits.any() else len(sizes) - 1))


def fan_out(reader: Reader, source: Shape3) -> float:
    """The number of cores that a neuron's message goes to, on average over the source's neurons."""
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


def parts(size: int) -> list[int]:
    """All sizes of equal parts into which ``size`` elements can be cut; the last part may be smaller."""
    return sorted({-(-size // k) for k in range(1, size + 1)})


def _candidates(shape: Shape3, *, power_of_two: bool) -> Int64Array:
    """The sizes of tiles to judge, (candidates, 3)."""

    def halvings(size: int) -> list[int]:
        return sorted({-(-size // 2**k) for k in range(size.bit_length() + 1)})

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
    shapes: dict[str, Shape3],
    arriving: tuple[Int64Array, ...],
    chip: Chip,
) -> dict[str, Int64Array]:
    """For each resource, what a full core of each candidate takes, without words for messages to other populations."""
    neurons = tiles.prod(axis=1)
    synapses, axons_in = np.zeros_like(neurons), np.zeros_like(neurons)
    for edge in population.edges:
        synapses = synapses + _synapse_words(edge, population, held, shapes[edge.source], chip)
        axons_in = axons_in + _axons_in(edge, population, held, shapes[edge.source], chip)
    positions = held[:, 1] * held[:, 2]
    axon_map = np.zeros_like(neurons)
    for edge, reached in zip(population.edges, arriving, strict=True):
        if edge.source == population.name:
            # the cores that messages to the population itself go to follow from the candidate
            further = np.maximum(reached / population.neurons - 1, 0)
            each = chip.axon_map_per_position + chip.axon_map_per_destination * further
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


def _map_words(edge: Edge, copies: float, held: Int64Array, chip: Chip) -> Int64Array:
    """Axon map words that a core's messages take on one connection to another population, (candidates,)."""
    neurons: Int64Array = held.prod(axis=1)
    if edge.link is Link.DENSE:
        return neurons
    if edge.link is Link.CONVOLUTION and not chip.shared_kernels:
        # a word a neuron for each core that reads it
        words = neurons * max(copies, 1.0)
    else:
        each = chip.axon_map_per_position + chip.axon_map_per_destination * max(copies - 1, 0.0)
        words = held[:, 1] * held[:, 2] * each
    rounded: Int64Array = np.ceil(words).astype(np.int64)
    return rounded


def _synapse_words(edge: Edge, population: Population, held: Int64Array, source: Shape3, chip: Chip) -> Int64Array:
    channels: Int64Array = held[:, 0]
    match edge.link:
        case Link.DENSE:
            if chip.sparse_dense_rows:
                (weight,) = edge.weights
                return _sparse_words(weight, 1, channels, chip)
            bits = channels * (edge.weight_bits + chip.synapse_index_bits) + chip.synapse_row_header_bits
            return math.prod(source) * _words(bits)
        case Link.VALUES:
            # a word a value
            return edge.reads * (channels * held[:, 1] if edge.transpose else channels)
        case Link.GATES:
            return np.zeros_like(channels)
        case Link.CONVOLUTION if not chip.shared_kernels:
            return _unshared_words(edge, population, held, source, chip)
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
                    words = words + rows * _words(in_row * synapse_bits(weight) + chip.synapse_row_header_bits)
            return words


def _unshared_words(edge: Edge, population: Population, held: Int64Array, source: Shape3, chip: Chip) -> Int64Array:
    """Synapse words of a convolution whose kernel is not shared: a core has a row for each neuron that it reads."""
    channels: Int64Array = held[:, 0]
    in_row = np.minimum(channels, max(population.shape[0] // edge.groups, 1))
    groups, _ = _groups_read(edge, population, channels)
    widths = [synapse_bits(weight) for weight in edge.weights] or [edge.weight_bits]
    words = np.zeros_like(channels)
    for index, (_, rows, columns) in enumerate(held):
        (down, often), (across, as_often) = (
            _targets(edge, axis, int(size), population.shape, source) for axis, size in enumerate((rows, columns))
        )
        targets = np.multiply.outer(down, across) * in_row[index]
        neurons = np.multiply.outer(often, as_often)
        for bits in widths:
            row = _words(targets * (bits + chip.synapse_index_bits) + chip.synapse_row_header_bits)
            words[index] += int((row * neurons).sum())
    read: Int64Array = words * groups * (source[0] // edge.groups)
    return read


def _targets(edge: Edge, axis: int, size: int, shape: Shape3, source: Shape3) -> tuple[Int64Array, Int64Array]:
    """The numbers of tile rows (axis 0) or columns that a source row or column leads to, and how often each occurs."""
    read = edge.window.reads(axis, size)
    if size >= shape[1 + axis]:
        # a tile that spans the axis also reads padding, which has no synapses; a tile between others reads none
        read = read[(read >= 0) & (read < source[1 + axis])]
    _, targets = np.unique(read, return_counts=True)
    counts, often = np.unique(targets, return_counts=True)
    return counts.astype(np.int64), often.astype(np.int64)


def _sparse_words(weight: WeightArray, groups: int, in_row: Int64Array, chip: Chip) -> Int64Array:
    """Words that one group's rows take in the core where they take most; a row without weights is not stored."""
    nonzero = (weight != 0).reshape(groups, len(weight) // groups, -1)
    words = np.zeros_like(in_row)
    for held in np.unique(in_row):
        # (groups, cores, rows)
        targets = np.add.reduceat(nonzero, np.arange(0, nonzero.shape[1], held), axis=1, dtype=np.int64)
        bits = targets * (synapse_bits(weight) + chip.synapse_index_bits) + chip.synapse_row_header_bits
        words[in_row == held] = np.where(targets > 0, _words(bits), 0).sum(axis=2).max()
    return words


def _axons_in(edge: Edge, population: Population, held: Int64Array, source: Shape3, chip: Chip) -> Int64Array:
    channels: Int64Array = held[:, 0]
    match edge.link:
        case Link.DENSE:
            return np.full_like(channels, math.prod(source))
        case Link.VALUES:
            values: Int64Array = edge.reads * (channels * held[:, 1] if edge.transpose else channels)
            return values
        case Link.CONVOLUTION if not chip.shared_kernels:
            groups, _ = _groups_read(edge, population, channels)
            read = groups * (source[0] // edge.groups)
            for axis in range(2):
                low, high = edge.window.reach(axis, np.zeros_like(channels), held[:, 1 + axis] - 1)
                read = read * np.minimum(high - low, source[1 + axis])
            return read
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
    """The groups that tiles of ``channels`` channels overlap: the most of any tile, and the sum over all tiles."""
    size = population.shape[0]
    per_group = max(size // edge.groups, 1)
    most, total = np.zeros_like(channels), np.zeros_like(channels)
    for depth in np.unique(channels):
        first = np.arange(0, size, depth)
        groups = -(-np.minimum(first + depth, size) // per_group) - first // per_group
        most[channels == depth], total[channels == depth] = groups.max(), groups.sum()
    return most, total


def _read(edge: Edge, axis: int, tile: Int64Array, count: Int64Array, shape: Shape3, source: Shape3) -> Int64Array:
    """Rows (axis 0) or columns of the source that tiles along an axis read, summed over the tiles.

    Rows or columns between them that a stride or dilation leaves out are counted as read.
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
