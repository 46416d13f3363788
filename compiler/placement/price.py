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
"""The shortest step that is accepted, in ns: power is energy divided by time, and a chip description may give 0."""


@dataclass(frozen=True)
class LayerCost:
    """The cost of one population for one sample on the chip: energies of all T steps in pJ, times of a step in ns.

    Attributes:
        name: The population.
        cores: The number of its cores.
        operations: Synaptic operations: those of graded spikes and of copied synapses included, those of weights that
            the chip passes over left out.
        updates: Neuron updates.
        active: Updates of neurons that fire or send; these are part of ``updates``.
        messages: Spikes that arrive at its cores.
        hops: Tiles that these spikes cross.
        synapses_pj: Energy of the operations.
        neurons_pj: Energy of the updates.
        messages_pj: Energy of the messages.
        busiest: The share of the neurons, and of the work, that its fullest core has.
        synapses_ns: Time that the fullest core takes for operations in the step where they take longest.
        neurons_ns: Time that the fullest core takes for updates in the step where they take longest.
        messages_in_ns: Time that a core takes, on average, to receive messages in the step that has the most.
        messages_out_ns: Time that a core takes, on average, to send messages in the step that has the most.
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
        """The energy of operations, updates and messages together."""
        return self.synapses_pj + self.neurons_pj + self.messages_pj

    @property
    def step_ns(self) -> float:
        """The time of the busiest step: the longest term, since a core does all kinds of its work at the same time."""
        return max(self.synapses_ns, self.neurons_ns, self.messages_in_ns, self.messages_out_ns)

    @property
    def work_ns(self) -> float:
        """The time that operations or updates of the busiest step would take on a single core."""
        return max(self.synapses_ns, self.neurons_ns) / self.busiest


@dataclass(frozen=True)
class Totals:
    """The time and energy of a sample on the chip, with one value of each constant.

    Attributes:
        step_ns: How long a step lasts, on average.
        latency_us: Time from a sample's first frame to its last logits.
        interval_us: Time between samples that follow each other.
        dynamic_mj: Energy of operations, updates and messages.
        static_mj: Energy that idle chips take in ``interval_us``.
        static_mw: Power of the idle chips.
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
    """The work of a run on a placement, before it is priced with a chip's constants.

    Attributes:
        works: The work of each layer's busiest core.
        operations: The synaptic operations of each layer, (T,).
        arrived: For each connection of each layer, the messages that arrive for a sample.
        chip: The chip on which they were counted.
        ways: For each connection of each layer, the way of its messages.
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
    """The predicted time and energy of one sample on a placement.

    Attributes:
        layers: The cost of each population.
        steps: How long each step lasts, and what it waits for.
        totals: The totals with the chip's constants.
        low: The totals if each constant is the least that it may be.
        high: The totals if each constant is the most that it may be.
    """

    layers: tuple[LayerCost, ...]
    steps: Steps
    totals: Totals
    low: Totals
    high: Totals


def predict(activity: Activity, placement: Placement) -> Prediction:
    """Predict the time and energy of one sample, on average over the samples of an activity.
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
    """The properties of ways to cut a population that decide the work of its cores.

    Attributes:
        cores: The number of cores, (ways,).
        depths: The number of channels that a core holds, (ways,).
        busiest: The share of the neurons that the fullest core holds, (ways,).
        fan_outs: For each of the population's connections, the cores that receive a message, (connections, ways).
    """

    cores: Int64Array
    depths: Int64Array
    busiest: FloatArray
    fan_outs: FloatArray


def work_of(
    population: Population, depth: int, sent: Sequence[FloatArray], cut: Cut, activity: Activity, chip: Chip
) -> tuple[Work, FloatArray]:
    """The work of a population's fullest core for a sample; sending is left out, since the readers decide it.

    Args:
        population: The population.
        depth: The steps by which the population works later than the input.
        sent: For each of its connections, the messages that come through it, as :func:`arriving_through` returns them.
        cut: The ways to cut the population.
        activity: The activity of the run.
        chip: The chip, which decides which rows are wide and which weights cause no operation.

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
    """The messages that come through a connection for a sample, (T, rows, columns), or (T - 1, ...) if it is recurrent.

    Spikes of a sample's last step do not come back to the population that fired them.
    """
    sent = messages_of(activity, source)
    return sent[:-1] if edge.source == reader.name else sent


def count(activity: Activity, placement: Placement) -> Counts:
    """Count the work of one sample of an activity on a placement."""
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
    """The time of the longest way of a message; it is measured anew if hops take another time than in ``counts``."""
    hop_ns = [(chip.hop_east_west_ns, chip.hop_north_south_ns) for chip in (counts.chip, placement.chip)]
    if hop_ns[0] == hop_ns[1]:
        return max((way.longest_ns for ways in counts.ways for way in ways), default=0.0)
    edges = ((edge, placed) for placed in placement.layers for edge in placed.population.edges)
    return max((route(placement, edge, placed).longest_ns for edge, placed in edges), default=0.0)


def outputs_in_row(edge: Edge, population: Population, depth: Int64Array) -> Int64Array:
    """The outputs in a row of a connection's weights, in cores of ``depth`` channels; 0 if the row does not matter.

    A core is slower at operations of rows that have more outputs than the chip's ``wide_row_outputs``.
    """
    if edge.link is not Link.CONVOLUTION or not edge.weights:
        return np.zeros_like(depth)
    return np.minimum(depth, population.shape[0] // edge.groups)


def price(counts: Counts, activity: Activity, placement: Placement) -> tuple[tuple[LayerCost, ...], Steps, Totals]:
    """The cost of the counted work with the constants of a placement's chip: by layer, by step and in total."""
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

    Graded neurons are taken to send at every step, except those that send counts of spikes: these were recorded.
    Readouts send nothing: the host reads them.
    """
    if population.name in activity.spikes:
        return activity.spikes[population.name] / activity.samples
    channels, rows, columns = population.shape
    sent = float(channels) if population.graded else 0.0
    return np.broadcast_to(sent, (activity.timesteps, rows, columns))


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
            # values are only written into the core's words; the messages of the gates cause the operations
            return np.zeros(len(sent))


def _not_zero(edge: Edge, activity: Activity, steps: int) -> FloatArray:
    """The share of the synapses that messages meet whose weight is not zero, (steps,); up to 2 for stacked synapses.

    It was counted spike by spike where the layer reads spikes; elsewhere, all messages are taken to be alike.
    """
    mean = edge.synapses(0, skips_zero=True)
    if edge.name not in activity.not_zero:
        return np.full(steps, mean)
    # a recurrent layer receives no messages from itself in the first step
    found, every = (each[edge.name][-steps:] for each in (activity.not_zero, activity.sops))
    return np.where(every > 0, found / np.maximum(every, 1), mean)
