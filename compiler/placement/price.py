"""The model that layouts are judged by: what a run does on a placement, and what that costs in energy and time.

``docs/placement.md`` states it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from resformer.compiler.chips.chip import Chip
from resformer.compiler.placement.activity import Activity
from resformer.compiler.placement.links import Mesh
from resformer.compiler.placement.mapping import Edge, Link, Population
from resformer.compiler.placement.place import Placement
from resformer.compiler.placement.steps import Steps, Work, lasting
from resformer.compiler.placement.traffic import Route, route
from resformer.errors import FileFormatError

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

SHORTEST_STEP_NS = 1e-6
"""What a step takes at least: power is an energy divided by a time, which a description may give as zero."""


@dataclass(frozen=True)
class LayerCost:
    """One population and one sample on the chip; energies in pJ, all T steps; times in ns.

    Attributes:
        name: The population.
        cores: On how many cores.
        operations: Synaptic operations: those of graded spikes and of copied synapses included, those of weights that
            the chip passes over left out.
        updates: Neuron updates.
        active: Of those, updates of neurons that fire or send.
        messages: Spikes that arrive at its cores.
        hops: Tiles that they cross.
        synapses_pj: Energy of the operations.
        neurons_pj: Of the updates.
        messages_pj: Of the messages.
        busiest: The share of the neurons, and of the work, that its fullest core has.
        synapses_ns: What the operations of its busiest step take that core.
        neurons_ns: What the updates of its busiest step take.
        messages_in_ns: What taking in its busiest step's messages takes a core, on average.
        messages_out_ns: What sending those of its busiest step takes.
    """

    name: str
    cores: int
    operations: float
    updates: int
    active: float
    messages: float
    hops: float
    synapses_pj: float
    neurons_pj: float
    messages_pj: float
    busiest: float
    synapses_ns: float
    neurons_ns: float
    messages_in_ns: float
    messages_out_ns: float

    @property
    def energy_pj(self) -> float:
        """All of its energy."""
        return self.synapses_pj + self.neurons_pj + self.messages_pj

    @property
    def step_ns(self) -> float:
        """What its busiest step takes: a core does all of its work at the same time."""
        return max(self.synapses_ns, self.neurons_ns, self.messages_in_ns, self.messages_out_ns)

    @property
    def work_ns(self) -> float:
        """What its busiest step would take a single core."""
        return max(self.synapses_ns, self.neurons_ns) / self.busiest


@dataclass(frozen=True)
class Totals:
    """What a sample takes on the chip, with one value of each constant.

    Attributes:
        step_ns: How long a step lasts, on average.
        latency_us: From a sample's first frame to its last logits.
        interval_us: Between samples that follow each other.
        dynamic_mj: Energy of operations, updates and messages.
        static_mj: What idle chips take in that interval.
        static_mw: Their power.
    """

    step_ns: float
    latency_us: float
    interval_us: float
    dynamic_mj: float
    static_mj: float
    static_mw: float

    @property
    def energy_mj(self) -> float:
        """All energy of one sample."""
        return self.dynamic_mj + self.static_mj


@dataclass(frozen=True, eq=False)
class Counts:
    """What a run does on a placement, whatever that costs.

    Attributes:
        works: Of each layer, what its busiest core does.
        operations: Of each layer, (T,).
        arrived: Of each connection, the messages that arrive for a sample.
        chip: On which they were counted.
        ways: Of each connection, its messages' way.
        links: Messages of the busiest link along each axis, in the order of the first layer's steps, (T,).
    """

    works: tuple[Work, ...]
    operations: tuple[FloatArray, ...]
    arrived: tuple[tuple[float, ...], ...]
    chip: Chip
    ways: tuple[tuple[Route, ...], ...]
    links: dict[str, FloatArray]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one sample takes on a placement.

    Attributes:
        layers: What each population costs.
        steps: How long each step lasts, and what it waits for.
        totals: What it takes.
        low: What it takes if each constant is the least that it may be.
        high: If each is the most.
    """

    layers: tuple[LayerCost, ...]
    steps: Steps
    totals: Totals
    low: Totals
    high: Totals


def predict(activity: Activity, placement: Placement) -> Prediction:
    """What one sample takes, on average over those whose activity this is.

    Raises:
        FileFormatError: The chip's constants let a step take no time.
    """
    counts, chip = count(activity, placement), placement.chip
    layers, steps, totals = price(counts, activity, placement)
    low, high = (price(counts, activity, replace(placement, chip=chip.extreme(high=high)))[2] for high in (False, True))
    if low.step_ns < SHORTEST_STEP_NS:
        raise FileFormatError(
            f"{chip.name}: a step may take {low.step_ns:g} ns, so that its power has no bound; give step_ns, or the "
            f"low end of its range, at least {SHORTEST_STEP_NS:g} ns"
        )
    return Prediction(layers, steps, totals, low, high)


@dataclass(frozen=True, eq=False)
class Cut:
    """Ways to cut a population, as far as its cores' work depends on them; one element a way.

    Attributes:
        cores: On how many cores.
        depths: How many channels a core holds.
        busiest: The share of the neurons that the fullest core holds.
        fan_outs: Of each of the population's connections, the cores that receive a message, (connections, ways).
    """

    cores: Int64Array
    depths: Int64Array
    busiest: FloatArray
    fan_outs: FloatArray


def work_of(
    population: Population, depth: int, sent: Sequence[FloatArray], cut: Cut, activity: Activity, chip: Chip
) -> tuple[Work, FloatArray]:
    """What a population's fullest core does for a sample, but for sending, which its readers decide.

    Args:
        population: Whose.
        depth: The steps by which it works later than the input.
        sent: Of each of its connections, the messages that come through it, as :func:`arriving_through` has them.
        cut: Ways to cut it.
        activity: Of the run.
        chip: Which rows are wide, and which weights cause no operation.

    Returns:
        The work, each kind of it (ways, T); and the operations of all its cores, (T,).
    """
    steps, ways = activity.timesteps, len(cut.cores)
    narrow, wide, arriving = (np.zeros((ways, steps)) for _ in range(3))
    total = np.zeros(steps)
    for edge, messages, fan_out in zip(population.edges, sent, cut.fan_outs, strict=True):
        first = steps - len(messages)
        operations = operations_of(edge, population, messages, activity, chip)
        is_wide = outputs_in_row(edge, population, cut.depths)[:, None] > chip.wide_row_outputs
        narrow[:, first:] += np.where(is_wide, 0.0, operations)
        wide[:, first:] += np.where(is_wide, operations, 0.0)
        arriving[:, first:] += np.multiply.outer(fan_out, messages.sum(axis=(1, 2)))
        total[first:] += operations
    active = messages_of(activity, population).sum(axis=(1, 2))
    share = cut.busiest[:, None]
    work = Work(
        population.name,
        depth,
        narrow=narrow * share,
        wide=wide * share,
        active=active * share,
        inactive=(population.neurons - active) * share,
        arriving=arriving / cut.cores[:, None],
        leaving=np.zeros((ways, steps)),
    )
    return work, total


def arriving_through(edge: Edge, source: Population, reader: Population, activity: Activity) -> FloatArray:
    """The messages that come through a connection for a sample, (T, rows, columns), or one step fewer.

    What the last step of a sample fires does not come back to the population itself.
    """
    sent = messages_of(activity, source)
    return sent[:-1] if edge.source == reader.name else sent


def count(activity: Activity, placement: Placement) -> Counts:
    """What a sample of an activity does on a placement."""
    chip, mesh = placement.chip, Mesh.of(placement)
    steps = activity.timesteps
    leaving = {placed.population.name: np.zeros(steps) for placed in placement.layers}
    works, totals, arrived, ways = [], [], [], []
    carried = [mesh.none() for _ in range(steps)]
    for placed in placement.layers:
        population = placed.population
        depth = placement.depths[population.name]
        sources = [placement.by_name[edge.source].population for edge in population.edges]
        sent = [
            arriving_through(edge, source, population, activity)
            for edge, source in zip(population.edges, sources, strict=True)
        ]
        routes = [route(placement, edge, placed) for edge in population.edges]
        counts = []
        for edge, source, through, way in zip(population.edges, sources, sent, routes, strict=True):
            messages = through.sum(axis=(1, 2))
            leaving[edge.source][: len(messages)] += messages * way.fan_out
            counts.append(float(messages.sum()) * way.fan_out)
            load = mesh.carry(edge, placed)
            for step, each in enumerate(messages, steps - len(messages)):
                at = (step + depth) % steps
                carried[at] = carried[at].plus(load.times(float(each) / source.neurons))
        cut = Cut(
            cores=np.array([placed.cores]),
            depths=np.array([placed.tiling.tile[0]]),
            busiest=np.array([placed.busiest]),
            fan_outs=np.array([[way.fan_out] for way in routes]),
        )
        work, total = work_of(population, depth, sent, cut, activity, chip)
        works.append(work)
        totals.append(total)
        arrived.append(tuple(counts))
        ways.append(tuple(routes))
    # what a layer sends is known once all of its readers have been seen
    sending = {placed.population.name: leaving[placed.population.name] / placed.cores for placed in placement.layers}
    return Counts(
        tuple(work.of_way(0, sending[work.name]) for work in works),
        tuple(totals),
        tuple(arrived),
        chip,
        tuple(ways),
        {
            "east-west": np.array([each.along_rows.max(initial=0) for each in carried]),
            "north-south": np.array([each.along_columns.max(initial=0) for each in carried]),
        },
    )


def longest_way_ns(counts: Counts, placement: Placement) -> float:
    """The longest way of a message, which is measured anew where hops take another time than when it was counted."""
    hop_ns = [(chip.hop_east_west_ns, chip.hop_north_south_ns) for chip in (counts.chip, placement.chip)]
    if hop_ns[0] == hop_ns[1]:
        return max((way.longest_ns for ways in counts.ways for way in ways), default=0.0)
    edges = ((edge, placed) for placed in placement.layers for edge in placed.population.edges)
    return max((route(placement, edge, placed).longest_ns for edge, placed in edges), default=0.0)


def outputs_in_row(edge: Edge, population: Population, depth: Int64Array) -> Int64Array:
    """The outputs in a row of a connection's weights, in cores that hold so many channels; 0 where rows do not matter.

    A core does the operations of rows of more than the chip's ``wide_row_outputs`` more slowly.
    """
    if edge.link is not Link.CONVOLUTION or not edge.weights:
        return np.zeros_like(depth)
    return np.minimum(depth, population.shape[0] // edge.groups)


def price(counts: Counts, activity: Activity, placement: Placement) -> tuple[tuple[LayerCost, ...], Steps, Totals]:
    """What the counts cost with the constants of a placement's chip."""
    chip = placement.chip
    layers = []
    for index, (placed, work) in enumerate(zip(placement.layers, counts.works, strict=True)):
        population, ways, arrived = placed.population, counts.ways[index], counts.arrived[index]
        operations = float(counts.operations[index].sum())
        active = float(messages_of(activity, population).sum())
        updates = population.neurons * activity.timesteps
        hops = energy = 0.0
        for way, messages in zip(ways, arrived, strict=True):
            hops += messages * (way.hops_east_west + way.hops_north_south)
            energy += messages * (
                chip.spike_in_tile_pj
                + way.hops_east_west * chip.hop_east_west_pj
                + way.hops_north_south * chip.hop_north_south_pj
            )
        synapses, neurons, messages_in, messages_out = (float(each.max()) for each in work.terms(chip).values())
        layers.append(
            LayerCost(
                population.name,
                placed.cores,
                operations=operations,
                updates=updates,
                active=active,
                messages=sum(arrived),
                hops=hops,
                synapses_pj=operations * chip.synaptic_op_pj,
                neurons_pj=active * chip.neuron_update_active_pj + (updates - active) * chip.neuron_update_inactive_pj,
                messages_pj=energy,
                busiest=placed.busiest,
                synapses_ns=synapses,
                neurons_ns=neurons,
                messages_in_ns=messages_in,
                messages_out_ns=messages_out,
            )
        )
    steps = lasting(counts.works, counts.links, chip, longest_way_ns(counts, placement))
    interval = steps.mean_ns * activity.timesteps
    static = placement.chips * chip.static_mw_per_chip
    totals = Totals(
        step_ns=steps.mean_ns,
        latency_us=steps.mean_ns * (placement.depth + activity.timesteps) * 1e-3,
        interval_us=interval * 1e-3,
        dynamic_mj=sum(layer.energy_pj for layer in layers) * 1e-9,
        static_mj=static * interval * 1e-9,
        static_mw=static,
    )
    return tuple(layers), steps, totals


def messages_of(activity: Activity, population: Population) -> FloatArray:
    """Messages that a population sends for one sample, (T, rows, columns), summed over channels.

    Graded neurons are taken to send at every step, but for those that send counts of spikes, which were recorded.
    """
    if population.name in activity.spikes:
        return activity.spikes[population.name] / activity.samples
    channels, rows, columns = population.shape
    return np.broadcast_to(float(channels), (activity.timesteps, rows, columns))


def operations_of(edge: Edge, population: Population, sent: FloatArray, activity: Activity, chip: Chip) -> FloatArray:
    """Synaptic operations that messages cause, (T,); weights that the chip passes over cause none."""
    channels, rows, _ = population.shape
    total: FloatArray = sent.sum(axis=(1, 2))
    match edge.link:
        case Link.CONVOLUTION:
            counts = [edge.window.readers(axis, sent.shape[1 + axis], population.shape[1 + axis]) for axis in range(2)]
            found: FloatArray = np.einsum("trc,r,c->t", sent, *counts) * (channels // edge.groups)
            if not chip.skips_zero_weights:
                return found * edge.synapses(chip.synapse_index_bits)
            return found * _not_zero(edge, activity, len(sent))
        case Link.DENSE:
            found = total * population.neurons
            return found * _not_zero(edge, activity, len(sent)) if chip.sparse_dense_rows else found
        case Link.GATES:
            return total * (rows if edge.transpose else channels // edge.groups)
        case Link.VALUES:
            # written into the core's words, added by the gates
            return np.zeros(len(sent))


def _not_zero(edge: Edge, activity: Activity, steps: int) -> FloatArray:
    """Of a layer's synapses that messages meet, the share whose weight is not zero, (steps,), two where it is stacked.

    As counted spike by spike where the layer reads spikes; else as though all messages were alike.
    """
    mean = edge.synapses(0, skips_zero=True)
    if edge.name not in activity.not_zero:
        return np.full(steps, mean)
    # of a recurrent layer, the first step's messages came from no step
    found, every = (each[edge.name][-steps:] for each in (activity.not_zero, activity.sops))
    return np.where(every > 0, found / np.maximum(every, 1), mean)
