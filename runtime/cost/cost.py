"""What a run costs: the paper's energy, and a chip's energy and time, each from constants whose source is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resformer._version import __version__
from resformer.compiler.chips.chip import Chip
from resformer.compiler.files.cost import FORMAT, FORMAT_VERSION, CostFile
from resformer.compiler.files.json_schema import check
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.summary import Summarized, Summary, counted
from resformer.compiler.placement.mapping import Edge, Link, Population
from resformer.compiler.placement.place import Placed, Placement
from resformer.compiler.placement.traffic import route
from resformer.runtime.cost.activity import Activity, stem_macs

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
    """One population and one sample on the chip; energies in pJ, all T steps.

    Attributes:
        name: The population.
        cores: On how many cores.
        operations: Synaptic operations: those of graded spikes and of copied synapses included.
        updates: Neuron updates.
        active: Of those, updates of neurons that fire or send.
        messages: Spikes that arrive at its cores.
        hops: Tiles that they cross.
        synapses_pj: Energy of the operations.
        neurons_pj: Of the updates.
        messages_pj: Of the messages.
        step_ns: What its busiest step takes a core, on average over its cores.
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
    step_ns: float

    @property
    def energy_pj(self) -> float:
        """All of its energy."""
        return self.synapses_pj + self.neurons_pj + self.messages_pj


@dataclass(frozen=True, repr=False)
class Cost(Summarized):
    """One sample, on average over those that ran.

    Attributes:
        activity: What they did.
        paper: In the paper's terms.
        placement: On which cores.
        layers: On the chip.
        step_ns: Duration of one step: the busiest layer's, the longest way, and the barrier.
        latency_us: From a sample's first frame to its last logits.
        interval_us: Between samples that follow each other.
        static_mj: What idle chips take in that interval.
    """

    activity: Activity
    paper: PaperCost
    placement: Placement
    layers: tuple[LayerCost, ...]
    step_ns: float
    latency_us: float
    interval_us: float
    static_mj: float

    def summary(self) -> Summary:
        """The sums, as ``total_rows`` has them."""
        return f"Cost of a sample, on average over {self.activity.samples:,}", total_rows(self)

    @property
    def dynamic_mj(self) -> float:
        """Energy of operations, updates and messages."""
        return sum(layer.energy_pj for layer in self.layers) * 1e-9

    @property
    def energy_mj(self) -> float:
        """All energy of one sample on the chip."""
        return self.dynamic_mj + self.static_mj


def estimate(program: Program, activity: Activity, placement: Placement) -> Cost:
    """The cost of one sample, on average over those that ran.

    Args:
        program: Scheduled.
        activity: Of its run.
        placement: Of its populations.
    """
    sops, macs = activity.sops_per_sample, stem_macs(program)
    paper = PaperCost(sops, macs, sops * SOP_PJ * 1e-9, (sops * SOP_PJ + macs * MAC_PJ) * 1e-9)
    layers, ways = [], [0.0]
    for placed in placement.layers:
        layer, longest = _layer(activity, placement, placed)
        layers.append(layer)
        ways.append(longest)
    step = max(layer.step_ns for layer in layers) + max(ways) + placement.chip.step_ns
    interval = step * program.timesteps
    return Cost(
        activity,
        paper,
        placement,
        tuple(layers),
        step_ns=step,
        latency_us=step * (placement.depth + program.timesteps) * 1e-3,
        interval_us=interval * 1e-3,
        static_mj=placement.chips * placement.chip.static_mw_per_chip * interval * 1e-9,
    )


def _layer(activity: Activity, placement: Placement, placed: Placed) -> tuple[LayerCost, float]:
    """A population's cost, and the time of the longest way that a message to it takes."""
    chip, population = placement.chip, placed.population
    operations = np.zeros(activity.timesteps)
    messages = hops = energy = longest = 0.0
    for edge in population.edges:
        sent = _sent(activity, placement.by_name[edge.source].population)
        if edge.source == population.name:
            sent = sent[:-1]  # what the last step of a sample fires does not come back
        way = route(placement, edge, placed)
        arrived = float(sent.sum()) * way.fan_out
        operations[len(operations) - len(sent) :] += _operations(edge, population, sent, activity, chip)
        messages += arrived
        hops += arrived * (way.hops_east_west + way.hops_north_south)
        energy += arrived * (
            chip.spike_in_tile_pj
            + way.hops_east_west * chip.hop_east_west_pj
            + way.hops_north_south * chip.hop_north_south_pj
        )
        longest = max(longest, way.longest_ns)
    active = _sent(activity, population).sum(axis=(1, 2))
    inactive = population.neurons - active
    work = (
        operations * chip.synaptic_op_ns
        + active * chip.neuron_update_active_ns
        + inactive * chip.neuron_update_inactive_ns
    )
    layer = LayerCost(
        population.name,
        placed.cores,
        operations=float(operations.sum()),
        updates=population.neurons * activity.timesteps,
        active=float(active.sum()),
        messages=messages,
        hops=hops,
        synapses_pj=float(operations.sum()) * chip.synaptic_op_pj,
        neurons_pj=float(active.sum() * chip.neuron_update_active_pj + inactive.sum() * chip.neuron_update_inactive_pj),
        messages_pj=energy,
        step_ns=float(work.max()) / placed.cores,
    )
    return layer, longest


def _sent(activity: Activity, population: Population) -> npt.NDArray[np.float64]:
    """Messages that a population sends for one sample, (T, rows, columns), summed over channels.

    Graded neurons are taken to send at every step.
    """
    if not population.graded and population.name in activity.spikes:
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
        "step_ns": cost.step_ns,
        "latency_us": cost.latency_us,
        "interval_us": cost.interval_us,
        "energy_mj": {"dynamic": cost.dynamic_mj, "static": cost.static_mj, "total": cost.energy_mj},
        "layers": [asdict(layer) for layer in cost.layers],
    }
    check(content, CostFile)
    return content


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


def total_rows(cost: Cost) -> list[tuple[str, str]]:
    """The sums, with how far each can be trusted."""
    chip, placement = cost.placement.chip, cost.placement
    interval, latency = (f"{each:,.4g} us" for each in (cost.interval_us, cost.latency_us))
    slowest = max(cost.layers, key=lambda layer: layer.step_ns)
    pace = f"{cost.step_ns * 1e-3:,.4g} us a step ({slowest.name} is the slowest), a sample every {interval}"
    rows = [
        ("SOPs", f"{cost.paper.sops:,.1f}, as the authors count them"),
        ("operations", f"{sum(layer.operations for layer in cost.layers):,.1f} on the chip{_skipping(chip)}"),
        ("paper's energy", f"{cost.paper.energy_mj:.4g} mJ at {SOP_PJ} pJ a SOP"),
        (
            "and with the stem",
            f"{cost.paper.energy_with_stem_mj:.4g} mJ: {cost.paper.stem_macs:,} MACs at {MAC_PJ} pJ each",
        ),
        ("chip", f"{counted(placement.cores, 'core')}, {counted(placement.chips, 'chip')} of {chip.name}"),
        ("energy there", f"{cost.energy_mj:.4g} mJ: {cost.dynamic_mj:.4g} dynamic, {cost.static_mj:.4g} static"),
        ("time there", f"{pace}, {latency} from frame to logits"),
    ]
    for status in ("assumed", "fitted"):
        names = [name for name, source in chip.sources.items() if source.status == status and name.endswith(_COSTS)]
        if names:
            rows.append((f"{status} for {chip.name}", ", ".join(names)))
    if placement.violations:
        rows.append(("does not fit", f"{len(placement.violations)} limits of {chip.name} are exceeded: see --check"))
    return rows
