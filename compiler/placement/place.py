"""Placement: every population tiled, every tile on a core, every core on a chip."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.chips.chip import Chip
from resformer.compiler.files.placement import FORMAT, FORMAT_VERSION, Layout
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.summary import Rows, Summarized, Summary, counted, sizes
from resformer.compiler.placement.mapping import Population, Shape3, map_program
from resformer.compiler.placement.tiling import RESOURCES, Reader, Tiling, best_tiling
from resformer.errors import CapacityError
from resformer.models.limits import MOST_CORES, allowed, raise_limits

REMEDIES = {
    "neurons": "a smaller --input-size needs fewer",
    "synapse words": "fewer --weight-bits need fewer, or narrower layers",
    "axons in": "a narrower layer before it needs fewer",
    "axon map words": "a smaller --input-size needs fewer",
    "memory words": "fewer --weight-bits or a smaller --input-size need fewer",
    "neuron groups": "name a chip whose cores hold more",
}
FAN_IN = ("synapse words", "axons in", "memory words")
"""Resources whose use in a core grows with the number of values that each neuron reads."""


@dataclass(frozen=True)
class Placed:
    """A population on its cores.

    Attributes:
        tiling: How the population is cut.
        first_core: The number of the population's first core, in the order of the layers; its other cores follow,
            columns fastest, then rows, then channels.
    """

    tiling: Tiling
    first_core: int

    @property
    def population(self) -> Population:
        """The population that is placed."""
        return self.tiling.population

    @property
    def cores(self) -> int:
        """The number of its cores."""
        return self.tiling.cores

    @property
    def busiest(self) -> float:
        """The share of the neurons that the fullest core holds."""
        held = math.prod(map(min, self.tiling.tile, self.population.shape))
        return held / self.population.neurons

    def boxes(self) -> Iterator[tuple[int, list[list[int]]]]:
        """Each core's number, and its neurons as [first, past the last] of channels, rows and columns."""
        for offset, index in enumerate(np.ndindex(*self.tiling.counts)):
            sizes = zip(index, self.tiling.tile, self.population.shape, strict=True)
            yield self.first_core + offset, [[i * tile, min((i + 1) * tile, size)] for i, tile, size in sizes]


@dataclass(frozen=True, repr=False)
class Placement(Summarized):
    """A network on chips.

    Attributes:
        chip: The kind of chip.
        layers: The populations, in the program's order.
        violations: One line for each limit that is exceeded; empty where the network fits.
        sites: The number of each core on the chips, in the order of the layers; None where the cores are numbered in
            that order.
        layout: How the layout was chosen, as ``placement.json`` holds it; None for the layout with the fewest cores.
    """

    chip: Chip
    layers: tuple[Placed, ...]
    violations: tuple[str, ...]
    sites: tuple[int, ...] | None = None
    layout: Layout | None = None

    @property
    def cores(self) -> int:
        """The number of cores of all layers."""
        return sum(layer.cores for layer in self.layers)

    @property
    def chips(self) -> int:
        """The number of chips that hold these cores."""
        return -(-self.cores // self.chip.cores_per_chip)

    @cached_property
    def numbers(self) -> npt.NDArray[np.int64]:
        """The number of each core on the chips, in the order of the layers; chip 0 has the lowest numbers."""
        return np.arange(self.cores) if self.sites is None else np.array(self.sites, dtype=np.int64)

    @cached_property
    def positions(self) -> npt.NDArray[np.int64]:
        """The place of each core's tile in the mesh, (cores, 2), as :func:`tile_positions` returns it."""
        return tile_positions(self.chip, self.numbers)

    def boxes(self, layer: Placed) -> Iterator[tuple[int, list[list[int]]]]:
        """The boxes of ``Placed.boxes``, with the cores' numbers on the chips."""
        for core, box in layer.boxes():
            yield int(self.numbers[core]), box

    @cached_property
    def depths(self) -> dict[str, int]:
        """The length of the longest chain of messages from the input to each population; each message takes a step."""
        depths: dict[str, int] = {}
        for layer in self.layers:
            population = layer.population
            before = [edge.source for edge in population.edges if edge.source != population.name]
            depths[population.name] = max((depths[source] + 1 for source in before), default=0)
        return depths

    @property
    def depth(self) -> int:
        """The length of the longest chain of messages from the input to the logits; each takes a step on the chip."""
        return self.depths[self.layers[-1].population.name]

    def summary(self) -> Summary:
        """The cores and chips that the network takes, and whether it fits."""
        largest = max(self.layers, key=lambda layer: layer.cores)
        return f"Placement on {self.chip.name}", [
            ("takes", f"{counted(self.cores, 'core')}, {counted(self.chips, 'chip')}"),
            ("layers", f"{len(self.layers)}; {largest.population.name} takes most cores: {largest.cores:,}"),
            ("fits", "yes" if not self.violations else f"NO: {'; '.join(self.violations)}"),
        ]

    def sound(self) -> bool:
        """Whether the network fits."""
        return not self.violations

    def details(self) -> tuple[str, Rows]:
        """Each layer's neurons and cores."""
        rows = [
            (
                layer.population.name,
                sizes(layer.population.shape),
                f"{layer.population.neurons:,}",
                f"{layer.cores:,}",
                f"{layer.busiest:.1%}",
            )
            for layer in self.layers
        ]
        title = f"{counted(len(self.layers), 'layer')} on {counted(self.cores, 'core')}"
        return title, (("layer", "shape", " neurons", " cores", " of its neurons on the fullest"), rows)

    @cached_property
    def by_name(self) -> dict[str, Placed]:
        """The layers under their populations' names."""
        return {layer.population.name: layer for layer in self.layers}

    def require(self) -> None:
        """Refuse a network that does not fit.

        Raises:
            CapacityError: It does not fit; the message lists every violation.
        """
        if self.violations:
            raise CapacityError(*self.violations)

    def to_json(self, *, boxes: bool = True) -> dict[str, Any]:
        """The placement as JSON can hold it; with ``boxes``, it also says which core holds which neurons."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "chip": self.chip.to_json(),
            "fits": not self.violations,
            "violations": list(self.violations),
            "cores": self.cores,
            "chips": self.chips,
            "neurons": sum(layer.population.neurons for layer in self.layers),
            "layout": self.layout,
            "layers": [self._layer(layer, boxes=boxes) for layer in self.layers],
        }

    def _layer(self, layer: Placed, *, boxes: bool) -> dict[str, Any]:
        population, tiling = layer.population, layer.tiling
        facts: dict[str, Any] = {
            "name": population.name,
            "nodes": list(population.nodes),
            "synapses": [edge.name for edge in population.edges],
            "kind": population.kind,
            "shape": list(population.shape),
            "neurons": population.neurons,
            "tile": list(tiling.tile),
            "cores": layer.cores,
            "bound": tiling.bound(self.chip),
            "usage": tiling.usage,
            "utilization": {name: round(share, 4) for name, share in tiling.utilization(self.chip).items()},
            "deliveries": tiling.deliveries,
            "first_core": int(self.numbers[layer.first_core]),
        }
        if boxes:
            facts["placed"] = [
                {"chip": core // self.chip.cores_per_chip, "core": core % self.chip.cores_per_chip, "neurons": box}
                for core, box in self.boxes(layer)
            ]
        return facts


def place(program: Program, chip: Chip, at_least: Mapping[str, int] | None = None) -> Placement:
    """Tile a program's populations and lay them out on chips.

    Args:
        program: A scheduled program.
        chip: The kind of chip.
        at_least: The least number of cores for some populations, by name; it holds where a population can be cut into
            that many.

    Raises:
        CapacityError: The program takes more cores than ``MOST_CORES`` allows.
    """
    return place_populations(map_program(program), chip, at_least)


def place_populations(
    populations: tuple[Population, ...], chip: Chip, at_least: Mapping[str, int] | None = None
) -> Placement:
    """Tile populations, given in topological order, and lay them out on chips in that order; see :func:`place`."""
    shapes = {each.name: each.shape for each in populations}
    readers: dict[str, list[Reader]] = {name: [] for name in shapes}
    tilings: dict[str, Tiling] = {}
    # readers first: the number of cores that read a spike says how many words its address takes
    for population in reversed(populations):
        wanted = 1 if at_least is None else at_least.get(population.name, 1)
        tiling = best_tiling(population, shapes, readers[population.name], chip, at_least=wanted)
        tilings[population.name] = tiling
        for edge in population.edges:
            if edge.source != population.name:
                readers[edge.source].append(Reader(edge, tiling))
    return lay_out([tilings[population.name] for population in populations], chip)


def lay_out(tilings: Sequence[Tiling], chip: Chip, sites: tuple[int, ...] | None = None) -> Placement:
    """Lay out populations that have been cut.

    Args:
        tilings: The tilings of all populations, in topological order.
        chip: The kind of chip.
        sites: The number of each core on the chips, as in ``Placement``.

    Raises:
        CapacityError: The populations take more cores than ``MOST_CORES`` allows.
    """
    _require_countable(tilings, chip)
    shapes = {tiling.population.name: tiling.population.shape for tiling in tilings}
    layers, core = [], 0
    for tiling in tilings:
        layers.append(Placed(tiling, core))
        core += tiling.cores
    found = [line for layer in layers for line in _violations(layer, shapes, chip)]
    chips = -(-core // chip.cores_per_chip)
    if chips > chip.chips_per_system:
        found.append(
            f"the network: takes {core:,} cores, {chips:,} chips, {chip.name}'s largest system has "
            f"{chip.chips_per_system:,}; a smaller --input-size takes fewer"
        )
    return Placement(chip, tuple(layers), tuple(found), sites)


def _require_countable(tilings: Sequence[Tiling], chip: Chip) -> None:
    """Refuse more cores than ``MOST_CORES`` allows, before any work is done for each core and its messages.

    Raises:
        CapacityError: There are more; the message names the chip's constant that bounds the largest layer.
    """
    cores, limit = sum(tiling.cores for tiling in tilings), allowed(MOST_CORES)
    if cores <= limit:
        return
    largest = max(tilings, key=lambda tiling: tiling.cores)
    constant = RESOURCES[largest.bound(chip)]
    raise CapacityError(
        f"{largest.population.name}: takes {largest.cores:,} of the network's {cores:,} cores, since {chip.name}'s "
        f"{constant} is {getattr(chip, constant):,}; the limit of a network is {limit:,} cores: name a chip with a "
        f"larger {constant}, take a smaller --input-size, or {raise_limits(cores, MOST_CORES)}"
    )


def _largest_fan_in(chip: Chip) -> int:
    """The most values that a neuron can read: each value takes an axon or a part of one, and a word of synapses."""
    limits = [chip.synapse_words_per_core]
    if chip.memory_words_per_core is not None:
        # the neuron itself takes one word, and the address that it sends to may take another
        limits.append((chip.memory_words_per_core - 2) // 2)
    return max(min(*limits, chip.axon_in_per_core), 1)


def _remedy(name: str, population: Population, shapes: Mapping[str, Shape3], chip: Chip) -> str:
    """Advice for an error message: how a population can take less of a resource."""
    read = sum(edge.values_read(shapes[edge.source]) for edge in population.edges)
    most = _largest_fan_in(chip)
    if name in FAN_IN and read > most:
        return (
            f"each neuron reads {read:,} values, whatever the bits and the tile; let it read at most {most:,}: pool or "
            "stride what it reads, or make it narrower"
        )
    return REMEDIES[name]


def _violations(layer: Placed, shapes: Mapping[str, Shape3], chip: Chip) -> Iterator[str]:
    population, tiling = layer.population, layer.tiling
    read = dict.fromkeys(edge.name for edge in population.edges if edge.name != population.name)
    title = f"{population.name} (of {', '.join(read)})" if read else population.name
    for name, (need, limit) in tiling.excess(chip).items():
        size = " x ".join(map(str, tiling.tile))
        yield (
            f"{title}: needs {need:,} {name} in a core even in tiles of {size}, {chip.name} has {limit:,}; "
            f"{_remedy(name, population, shapes, chip)}"
        )
    if population.delay > chip.delay_steps_max:
        yield (
            f"{population.name}: an input waits {population.delay} steps, {chip.name}'s limit is "
            f"{chip.delay_steps_max}; shorten the branch beside it"
        )
    if population.payload_bits > chip.payload_bits:
        yield (
            f"{population.name}: needs graded spikes of {population.payload_bits} bits, {chip.name}'s have "
            f"{chip.payload_bits}; name a chip with graded spikes, such as loihi2"
        )


def tile_positions(chip: Chip, cores: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The places of cores: (column, row) of their tiles in the mesh of all chips, (..., 2)."""
    chips, within = np.divmod(cores, chip.cores_per_chip)
    column, row = _snake(within // chip.cores_per_tile, chip.mesh_columns)
    chip_column, chip_row = _snake(chips, chip.chip_columns)
    return np.stack([chip_column * chip.mesh_columns + column, chip_row * chip.mesh_rows + row], axis=-1)


def _snake(index: npt.NDArray[np.int64], columns: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The column and the row of each index, if rows are filled one after another, back and forth."""
    row, column = np.divmod(index, columns)
    return np.where(row % 2, columns - 1 - column, column), row
