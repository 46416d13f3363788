"""What a run costs: the paper's energy, and a chip's energy and time, each from constants whose source is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from resformer._version import __version__
from resformer.compiler.chips.chip import Chip
from resformer.compiler.files.cost import FORMAT, FORMAT_VERSION, CostFile
from resformer.compiler.files.json_schema import check
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.summary import Summarized, Summary, counted
from resformer.compiler.placement.links import Mesh
from resformer.compiler.placement.mapping import Edge, Link, Population
from resformer.compiler.placement.place import Placed, Placement
from resformer.compiler.placement.traffic import Route, route
from resformer.errors import FileFormatError
from resformer.runtime.cost.activity import Activity, stem_macs
from resformer.runtime.cost.steps import Steps, Work, lasting

SOP_PJ = 0.9
"""Energy of one SOP in the paper's table: SpikingResformer, arXiv 2403.14302."""
MAC_PJ = 4.6
"""Energy of a 32-bit multiplication and addition at 45 nm: M. Horowitz, ISSCC 2014; the paper uses it for rivals."""

_COSTS = ("_pj", "_ns", "_mw_per_chip")
"""How the names of the constants end that energies and times rest on."""


@dataclass(frozen=True)
class PaperCost:
    """One sample in the paper's terms.

    Attributes:
        sops: Synaptic operations.
        stem_macs: Multiplications of the stem.
        energy_mj: 0.9 pJ an operation, as the paper's table has it: without the stem.
        energy_with_stem_mj: And 4.6 pJ for each of the stem's multiplications, as rivals' rows have it.
    """

    sops: float
    stem_macs: int
    energy_mj: float
    energy_with_stem_mj: float


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


@dataclass(frozen=True, repr=False)
class Cost(Summarized):
    """One sample, on average over those that ran.

    Attributes:
        activity: What they did.
        paper: In the paper's terms.
        placement: On which cores.
        layers: On the chip.
        steps: How long each of its steps lasts, and what it waits for.
        totals: What it takes.
        low: What it takes if each constant is the least that it may be.
        high: If each is the most.
    """

    activity: Activity
    paper: PaperCost
    placement: Placement
    layers: tuple[LayerCost, ...]
    steps: Steps
    totals: Totals
    low: Totals
    high: Totals

    def summary(self) -> Summary:
        """The sums, as ``total_rows`` has them."""
        return f"Cost of a sample, on average over {self.activity.samples:,}", total_rows(self)

    @property
    def step_ns(self) -> float:
        """How long a step lasts, on average: its slowest part, the longest way, and the barrier."""
        return self.totals.step_ns

    @property
    def latency_us(self) -> float:
        """From a sample's first frame to its last logits."""
        return self.totals.latency_us

    @property
    def interval_us(self) -> float:
        """Between samples that follow each other."""
        return self.totals.interval_us

    @property
    def static_mj(self) -> float:
        """What idle chips take in that interval."""
        return self.totals.static_mj

    @property
    def dynamic_mj(self) -> float:
        """Energy of operations, updates and messages."""
        return self.totals.dynamic_mj

    @property
    def energy_mj(self) -> float:
        """All energy of one sample on the chip."""
        return self.totals.energy_mj

    @property
    def power_mw(self) -> float:
        """What the chips take while samples stream."""
        return _milliwatts(self.energy_mj, self.interval_us)

    def between(self, figure: str) -> tuple[float, float]:
        """The least and the most that one of the figures above may be, by its name.

        Power is least where the dynamic energy is least and spread over the longest time.
        """
        if figure == "power_mw":
            return _power(self.low, self.high), _power(self.high, self.low)
        return getattr(self.low, figure), getattr(self.high, figure)


FIGURES = ("step_ns", "latency_us", "interval_us", "power_mw")
"""The figures of a cost that have an interval, beside its energies."""
ENERGIES = ("dynamic", "static", "total")
SHORTEST_STEP_NS = 1e-6
"""What a step takes at least: power is an energy divided by a time, which a description may give as zero."""


def _milliwatts(energy_mj: float, interval_us: float) -> float:
    return energy_mj / interval_us * 1e6


def _power(energy: Totals, time: Totals) -> float:
    """Power with the energies of one set of constants and the times of another, in mW."""
    return energy.static_mw + _milliwatts(energy.dynamic_mj, time.interval_us)


def estimate(program: Program, activity: Activity, placement: Placement) -> Cost:
    """The cost of one sample, on average over those that ran.

    Args:
        program: Scheduled.
        activity: Of its run.
        placement: Of its populations.

    Raises:
        FileFormatError: The chip's constants let a step take no time.
    """
    sops, macs = activity.sops_per_sample, stem_macs(program)
    paper = PaperCost(sops, macs, sops * SOP_PJ * 1e-9, (sops * SOP_PJ + macs * MAC_PJ) * 1e-9)
    counts = _count(activity, placement)
    chip = placement.chip
    layers, steps, totals = _price(counts, activity, placement)
    low, high = (
        _price(counts, activity, replace(placement, chip=chip.extreme(high=high)))[2] for high in (False, True)
    )
    if low.step_ns < SHORTEST_STEP_NS:
        raise FileFormatError(
            f"{chip.name}: a step may take {low.step_ns:g} ns, so that its power has no bound; give step_ns, or the "
            f"low end of its range, at least {SHORTEST_STEP_NS:g} ns"
        )
    return Cost(activity, paper, placement, layers, steps, totals, low, high)


@dataclass(frozen=True, eq=False)
class _Counts:
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
    operations: tuple[npt.NDArray[np.float64], ...]
    arrived: tuple[tuple[float, ...], ...]
    chip: Chip
    ways: tuple[tuple[Route, ...], ...]
    links: dict[str, npt.NDArray[np.float64]]


def _count(activity: Activity, placement: Placement) -> _Counts:
    chip, mesh = placement.chip, Mesh.of(placement)
    steps = activity.timesteps
    leaving = {placed.population.name: np.zeros(steps) for placed in placement.layers}
    works, totals, arrived, ways = [], [], [], []
    carried = [mesh.none() for _ in range(steps)]
    for placed in placement.layers:
        population = placed.population
        depth = placement.depths[population.name]
        narrow, wide, arriving = np.zeros(steps), np.zeros(steps), np.zeros(steps)
        counts, routes = [], []
        for edge in population.edges:
            source = placement.by_name[edge.source]
            sent = _sent(activity, source.population)
            if edge.source == population.name:
                sent = sent[:-1]  # what the last step of a sample fires does not come back
            way = route(placement, edge, placed)
            first = steps - len(sent)
            operations = wide if _is_wide(edge, placed, chip) else narrow
            operations[first:] += _operations(edge, population, sent, activity, chip)
            messages = sent.sum(axis=(1, 2))
            arriving[first:] += messages * way.fan_out
            leaving[edge.source][: len(sent)] += messages * way.fan_out
            counts.append(float(messages.sum()) * way.fan_out)
            routes.append(way)
            load = mesh.carry(edge, placed)
            for step, each in enumerate(messages, first):
                at = (step + depth) % steps
                carried[at] = carried[at].plus(load.times(float(each) / source.population.neurons))
        active = _sent(activity, population).sum(axis=(1, 2))
        share, cores = placed.busiest, placed.cores
        works.append(
            Work(
                population.name,
                depth,
                narrow=narrow * share,
                wide=wide * share,
                active=active * share,
                inactive=(population.neurons - active) * share,
                arriving=arriving / cores,
                leaving=leaving[population.name],
            )
        )
        totals.append(narrow + wide)
        arrived.append(tuple(counts))
        ways.append(tuple(routes))
    # what a layer sends is known once all of its readers have been seen
    sending = {placed.population.name: leaving[placed.population.name] / placed.cores for placed in placement.layers}
    return _Counts(
        tuple(replace(work, leaving=sending[work.name]) for work in works),
        tuple(totals),
        tuple(arrived),
        chip,
        tuple(ways),
        {
            "east-west": np.array([each.along_rows.max(initial=0) for each in carried]),
            "north-south": np.array([each.along_columns.max(initial=0) for each in carried]),
        },
    )


def _longest_ns(counts: _Counts, placement: Placement) -> float:
    """The longest way of a message, which is measured anew where hops take another time than when it was counted."""
    hop_ns = [(chip.hop_east_west_ns, chip.hop_north_south_ns) for chip in (counts.chip, placement.chip)]
    if hop_ns[0] == hop_ns[1]:
        return max((way.longest_ns for ways in counts.ways for way in ways), default=0.0)
    edges = ((edge, placed) for placed in placement.layers for edge in placed.population.edges)
    return max((route(placement, edge, placed).longest_ns for edge, placed in edges), default=0.0)


def _is_wide(edge: Edge, placed: Placed, chip: Chip) -> bool:
    """Whether a connection's rows hold more outputs than the chip does at its best."""
    if edge.link is not Link.CONVOLUTION or not edge.weights:
        return False
    channels = placed.population.shape[0]
    return min(placed.tiling.tile[0], channels // edge.groups) > chip.wide_row_outputs


def _price(counts: _Counts, activity: Activity, placement: Placement) -> tuple[tuple[LayerCost, ...], Steps, Totals]:
    """What the counts cost with the constants of a placement's chip."""
    chip = placement.chip
    layers = []
    for index, (placed, work) in enumerate(zip(placement.layers, counts.works, strict=True)):
        population, ways, arrived = placed.population, counts.ways[index], counts.arrived[index]
        operations = float(counts.operations[index].sum())
        active = float(_sent(activity, population).sum())
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
    steps = lasting(counts.works, counts.links, chip, _longest_ns(counts, placement))
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


def _sent(activity: Activity, population: Population) -> npt.NDArray[np.float64]:
    """Messages that a population sends for one sample, (T, rows, columns), summed over channels.

    Graded neurons are taken to send at every step, but for those that send counts of spikes, which were recorded.
    """
    if population.name in activity.spikes:
        return activity.spikes[population.name] / activity.samples
    channels, rows, columns = population.shape
    return np.full((activity.timesteps, rows, columns), float(channels))


def _operations(
    edge: Edge, population: Population, sent: npt.NDArray[np.float64], activity: Activity, chip: Chip
) -> npt.NDArray[np.float64]:
    """Synaptic operations that messages cause, (T,); weights that the chip passes over cause none."""
    channels, rows, _ = population.shape
    total: npt.NDArray[np.float64] = sent.sum(axis=(1, 2))
    match edge.link:
        case Link.CONVOLUTION:
            counts = [edge.window.readers(axis, sent.shape[1 + axis], population.shape[1 + axis]) for axis in range(2)]
            found: npt.NDArray[np.float64] = np.einsum("trc,r,c->t", sent, *counts) * (channels // edge.groups)
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


def _not_zero(edge: Edge, activity: Activity, steps: int) -> npt.NDArray[np.float64]:
    """Of a layer's synapses that messages meet, the share whose weight is not zero, (steps,), two where it is stacked.

    As counted spike by spike where the layer reads spikes; else as though all messages were alike.
    """
    mean = edge.synapses(0, skips_zero=True)
    if edge.name not in activity.not_zero:
        return np.full(steps, mean)
    # of a recurrent layer, the first step's messages came from no step
    found, every = (each[edge.name][-steps:] for each in (activity.not_zero, activity.sops))
    return np.where(every > 0, found / np.maximum(every, 1), mean)


def to_json(cost: Cost) -> dict[str, Any]:
    """All of a cost, as JSON can hold it; counts are of one sample."""
    activity = cost.activity
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "samples": activity.samples,
        "timesteps": activity.timesteps,
        "paper": {
            **asdict(cost.paper),
            "constants": {
                "sop_pj": {"value": SOP_PJ, "source": "SpikingResformer, arXiv 2403.14302"},
                "mac_pj": {"value": MAC_PJ, "source": "M. Horowitz, ISSCC 2014"},
            },
        },
        "sops": {name: [int(each) / activity.samples for each in steps] for name, steps in activity.sops.items()},
        "sops_not_zero": {
            name: [int(each) / activity.samples for each in steps] for name, steps in activity.not_zero.items()
        },
        "spikes": {
            name: [int(each) / activity.samples for each in steps.sum(axis=(1, 2))]
            for name, steps in activity.spikes.items()
        },
        "chip": cost.placement.chip.to_json(),
        "fits": not cost.placement.violations,
        "cores": cost.placement.cores,
        "chips": cost.placement.chips,
        **{figure: getattr(cost, figure) for figure in FIGURES},
        "energy_mj": _energies(cost.totals),
        "intervals": {
            **{figure: list(cost.between(figure)) for figure in FIGURES},
            "energy_mj": {name: [_energies(cost.low)[name], _energies(cost.high)[name]] for name in ENERGIES},
        },
        "steps": [
            {"ns": float(ns), "layer": layer, "term": term}
            for ns, (layer, term) in zip(cost.steps.ns, cost.steps.slowest, strict=True)
        ],
        "layers": [{**asdict(layer), "step_ns": layer.step_ns} for layer in cost.layers],
    }
    check(content, CostFile)
    return content


def _energies(totals: Totals) -> dict[str, float]:
    return dict(zip(ENERGIES, (totals.dynamic_mj, totals.static_mj, totals.energy_mj), strict=True))


def sop_rows(cost: Cost) -> tuple[Sequence[str], list[Sequence[str]]]:
    """SOPs by layer and step: headings and rows."""
    samples = cost.activity.samples
    steps_shown = (f" step {step}" for step in range(cost.activity.timesteps))
    headings = ("layer", *steps_shown, " SOPs a sample", " weights not zero")
    rows: list[Sequence[str]] = []
    for name, steps in cost.activity.sops.items():
        not_zero = cost.activity.not_zero.get(name)
        rows.append(
            (
                name,
                *(f"{each / samples:,.1f}" for each in steps),
                f"{steps.sum() / samples:,.1f}",
                "-" if not_zero is None else f"{not_zero.sum() / samples:,.1f}",
            )
        )
    return headings, rows


def layer_rows(cost: Cost) -> tuple[Sequence[str], list[Sequence[str]]]:
    """What each population costs on the chip: headings and rows."""
    headings = ("layer", " cores", " operations", " updates", " messages", " hops each", " energy, uJ", " step, ns")
    rows: list[Sequence[str]] = [
        (
            layer.name,
            f"{layer.cores:,}",
            f"{layer.operations:,.0f}",
            f"{layer.updates:,}",
            f"{layer.messages:,.0f}",
            f"{layer.hops / layer.messages:.1f}" if layer.messages else "-",
            f"{layer.energy_pj * 1e-6:,.3f}",
            f"{layer.step_ns:,.0f}",
        )
        for layer in cost.layers
    ]
    return headings, rows


def _skipping(chip: Chip) -> str:
    return ", where weights of zero cause none" if chip.skips_zero_weights else ""


def shown_between(cost: Cost, figure: str, unit: str) -> str:
    """One of a cost's figures and its interval, as text.

    Args:
        cost: Whose.
        figure: Its name.
        unit: In which it is shown; what is kept in ns is shown in us.
    """
    factor = 1e-3 if figure.endswith("_ns") else 1.0
    value, low, high = (factor * each for each in (getattr(cost, figure), *cost.between(figure)))
    if low == high:
        return f"{value:,.4g} {unit}"
    return f"{value:,.4g} {unit} ({low:,.4g} to {high:,.4g})"


def total_rows(cost: Cost) -> list[tuple[str, str]]:
    """The sums, with how far each can be trusted."""
    chip, placement = cost.placement.chip, cost.placement
    worst = int(cost.steps.ns.argmax())
    layer, term = cost.steps.slowest[worst]
    waits = f"the slowest waits for the {term} of {layer}"
    rows = [
        ("SOPs", f"{cost.paper.sops:,.1f}, as the authors count them"),
        ("operations", f"{sum(layer.operations for layer in cost.layers):,.1f} on the chip{_skipping(chip)}"),
        ("paper's energy", f"{cost.paper.energy_mj:.4g} mJ at {SOP_PJ} pJ a SOP"),
        (
            "and with the stem",
            f"{cost.paper.energy_with_stem_mj:.4g} mJ: {cost.paper.stem_macs:,} MACs at {MAC_PJ} pJ each",
        ),
        ("chip", f"{counted(placement.cores, 'core')}, {counted(placement.chips, 'chip')} of {chip.name}"),
        ("energy there", shown_between(cost, "energy_mj", "mJ")),
        ("of it dynamic", shown_between(cost, "dynamic_mj", "mJ")),
        ("of it static", shown_between(cost, "static_mj", "mJ")),
        ("power there", shown_between(cost, "power_mw", "mW")),
        ("a step there", f"{shown_between(cost, 'step_ns', 'us')}; {waits}"),
        ("a sample every", shown_between(cost, "interval_us", "us")),
        ("frame to logits", shown_between(cost, "latency_us", "us")),
    ]
    costs = {name: source for name, source in chip.sources.items() if name.endswith(_COSTS)}
    told = {
        "in a range": [name for name, source in costs.items() if source.range is not None],
        f"assumed for {chip.name}": [
            name for name, source in costs.items() if source.status == "assumed" and source.range is None
        ],
        f"fitted for {chip.name}": [name for name, source in costs.items() if source.status == "fitted"],
    }
    rows.extend((title, ", ".join(names)) for title, names in told.items() if names)
    if placement.violations:
        rows.append(("does not fit", f"{len(placement.violations)} limits of {chip.name} are exceeded: see --check"))
    return rows
