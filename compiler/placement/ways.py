"""The work of each population's cores in each way to cut it; layouts and their bounds are found from these ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from resformer.compiler.chips.chip import Chip
from resformer.compiler.placement.activity import Activity
from resformer.compiler.placement.mapping import Edge, Link, Population
from resformer.compiler.placement.place import Placement
from resformer.compiler.placement.price import Cut, arriving_through, messages_of, work_of
from resformer.compiler.placement.tiling import Candidates, candidates

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Read:
    """A connection by which another population reads a population.

    Attributes:
        edge: The connection.
        reader: The number of the population that reads.
        index: Which of the reader's connections it is.
    """

    edge: Edge
    reader: int
    index: int


@dataclass(frozen=True, eq=False)
class Ways:
    """All ways to cut one population. Steps are in the order in which the first layer works on them.

    Attributes:
        candidates: The tiles, judged without the words that messages to other populations take.
        own_ns: The largest of a core's terms, sending left out, in ns, (ways, T).
        fan_outs: For each connection, the cores that receive a message, (connections, ways).
        through: For each connection, the messages that its senders send in a sample, (connections,).
        sent: The messages that the population sends, before they are copied to several cores, (T,).
        returning: The messages that the population sends to itself, over all its cores, (ways, T).
        messages: The messages that arrive at all cores of the population in a sample, (ways,).
        words: The words that these messages take in the axon maps of the cores that send them, (ways,).
        reads: The connections by which other populations read this one.
    """

    candidates: Candidates
    own_ns: FloatArray
    fan_outs: FloatArray
    through: FloatArray
    sent: FloatArray
    returning: FloatArray
    messages: FloatArray
    words: FloatArray
    reads: tuple[Read, ...]

    @property
    def population(self) -> Population:
        """The population that is cut."""
        return self.candidates.population

    @cached_property
    def cores(self) -> Int64Array:
        """The number of cores that each way takes, (ways,)."""
        return self.candidates.cores

    def fits(self, copies: Sequence[float]) -> BoolArray:
        """Which ways keep every limit, (ways,), if messages go to ``copies`` cores, a number for each of ``reads``."""
        judged = self.candidates.sending([(read.edge, each) for read, each in zip(self.reads, copies, strict=True)])
        fits: BoolArray = judged.worst <= 1
        return fits

    def busy_ns(self, copies: Sequence[float]) -> FloatArray:
        """The largest of a core's terms, in ns, (ways, T); ``copies`` is as for :meth:`fits`."""
        leaving = (self.sent * sum(copies) + self.returning) / self.cores[:, None]
        busy: FloatArray = np.maximum(self.own_ns, leaving * self.candidates.chip.message_out_ns)
        return busy


def undominated(costs: FloatArray) -> Int64Array:
    """The rows of a table, (ways, costs), that no other row equals or beats in every cost; of equal rows, the first."""
    kept: list[int] = []
    # lexsort's last key leads: a row that beats another comes before it
    for index in np.lexsort(costs.T[::-1]):
        if not (costs[kept] <= costs[index]).all(axis=1).any():
            kept.append(int(index))
    return np.array(kept, dtype=np.int64)


def ways_of(default: Placement, activity: Activity) -> tuple[Ways, ...]:
    """The ways to cut each population of a placement, in the program's order; the placement's tile is among them."""
    chip = default.chip
    populations = {placed.population.name: placed.population for placed in default.layers}
    numbers = {name: number for number, name in enumerate(populations)}
    reads: dict[str, list[Read]] = {name: [] for name in populations}
    for name, population in populations.items():
        for index, edge in enumerate(population.edges):
            if edge.source != name:
                reads[edge.source].append(Read(edge, numbers[name], index))
    shapes = {name: population.shape for name, population in populations.items()}
    return tuple(
        _ways(
            candidates(placed.population, shapes, chip, placed.tiling.tile),
            default.depths[name],
            populations,
            tuple(reads[name]),
            activity,
        )
        for name, placed in default.by_name.items()
    )


def _ways(
    cuts: Candidates, depth: int, populations: Mapping[str, Population], reads: tuple[Read, ...], activity: Activity
) -> Ways:
    population, chip = cuts.population, cuts.chip
    sources = [populations[edge.source] for edge in population.edges]
    fan_outs = np.array(
        [arriving / source.neurons for arriving, source in zip(cuts.arriving, sources, strict=True)]
    ).reshape(len(sources), len(cuts.tiles))
    sent = [
        arriving_through(edge, source, population, activity)
        for edge, source in zip(population.edges, sources, strict=True)
    ]
    cut = Cut(cuts.cores, cuts.held[:, 0], cuts.held.prod(axis=1) / population.neurons, fan_outs)
    work, _ = work_of(population, depth, sent, cut, activity, chip)
    own = np.maximum.reduce(list(work.terms(chip).values()))
    totals = [each.sum(axis=(1, 2)) for each in sent]
    messages, words, returning = np.zeros(len(cuts.tiles)), np.zeros(len(cuts.tiles)), np.zeros_like(own)
    for edge, source, fan_out, total in zip(population.edges, sources, fan_outs, totals, strict=True):
        messages += total.sum() * fan_out
        if edge.source == population.name:
            returning[:, : len(total)] += np.multiply.outer(fan_out, total)
        else:
            words += _words(edge, source, fan_out, chip)
    return Ways(
        cuts,
        own_ns=np.roll(own, depth, axis=1),
        fan_outs=fan_outs,
        through=np.array([total.sum() for total in totals]),
        sent=np.roll(messages_of(activity, population).sum(axis=(1, 2)), depth),
        returning=np.roll(returning, depth, axis=1),
        messages=messages,
        words=words,
        reads=reads,
    )


def _words(edge: Edge, source: Population, fan_out: FloatArray, chip: Chip) -> FloatArray:
    """Approximate number of words in the axon maps of the sending cores, for each way to cut the reader, (ways,)."""
    if edge.link is Link.DENSE:
        return np.zeros_like(fan_out)
    if edge.link is Link.CONVOLUTION and not chip.shared_kernels:
        return source.neurons * fan_out
    _, rows, columns = source.shape
    words: FloatArray = rows * columns * chip.axon_map_per_destination * np.maximum(fan_out - 1, 0)
    return words
