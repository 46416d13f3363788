"""What a run costs: the paper's energy, and a chip's energy and time, each from constants whose source is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resformer._version import __version__
from resformer.compiler.chips.chip import COSTS, Chip
from resformer.compiler.files.cost import FORMAT, FORMAT_VERSION, CostFile
from resformer.compiler.files.json_schema import check
from resformer.compiler.files.placement import Layout
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.summary import Rows, Summarized, Summary, counted
from resformer.compiler.placement.activity import Activity, stem_macs
from resformer.compiler.placement.optimize import compare
from resformer.compiler.placement.place import Placement, place
from resformer.compiler.placement.price import LayerCost, Totals, predict
from resformer.compiler.placement.steps import Steps
from resformer.runtime.units import COMPARED, between, common_power, prefixed, quantity, scaled

SOP_PJ = 0.9
"""Energy of one SOP in the paper's table: SpikingResformer, arXiv 2403.14302."""
MAC_PJ = 4.6
"""Energy of a 32-bit multiply-accumulate at 45 nm: M. Horowitz, ISSCC 2014; the paper uses it for other networks."""


@dataclass(frozen=True)
class PaperCost:
    """What one sample costs in the paper's terms.

    Attributes:
        sops: Synaptic operations.
        stem_macs: Multiply-accumulates of the stem.
        energy_mj: Energy at 0.9 pJ for each synaptic operation, without the stem, as in the paper's table.
        energy_with_stem_mj: ``energy_mj`` plus 4.6 pJ for each multiply-accumulate of the stem, as the paper's table
            counts for other networks.
    """

    sops: float
    stem_macs: int
    energy_mj: float
    energy_with_stem_mj: float


@dataclass(frozen=True, repr=False)
class Cost(Summarized):
    """What one sample costs, on average over those that ran.

    Attributes:
        activity: What the samples did: spikes and synaptic operations.
        paper: The cost in the paper's terms.
        placement: The cores that the populations are on.
        layers: What each population costs on the chip.
        steps: How long each step lasts, and what it waits for.
        totals: Time and energy of the sample on the chip.
        low: ``totals`` if each constant has the least value that it may have.
        high: ``totals`` if each constant has the largest value that it may have.
        layout: For an optimised placement, its time and energy beside those of the placement with the fewest cores;
            None for any other placement.
    """

    activity: Activity
    paper: PaperCost
    placement: Placement
    layers: tuple[LayerCost, ...]
    steps: Steps
    totals: Totals
    low: Totals
    high: Totals
    layout: Layout | None = None

    def summary(self) -> Summary:
        """The totals, as ``total_rows`` lists them."""
        return f"Cost of a sample, on average over {self.activity.samples:,}", total_rows(self)

    def details(self) -> tuple[str, Rows]:
        """What each layer costs, as ``layer_rows`` lists it."""
        return f"What {counted(len(self.layers), 'layer')} take", layer_rows(self)

    @property
    def step_ns(self) -> float:
        """How long a step lasts on average, in ns: its slowest part, a message's longest way, and the barrier."""
        return self.totals.step_ns

    @property
    def latency_us(self) -> float:
        """The time from a sample's first frame to its last logits, in us."""
        return self.totals.latency_us

    @property
    def interval_us(self) -> float:
        """The time between one sample and the next, in us."""
        return self.totals.interval_us

    @property
    def static_mj(self) -> float:
        """The energy that idle chips take in ``interval_us``, in mJ."""
        return self.totals.static_mj

    @property
    def dynamic_mj(self) -> float:
        """The energy of operations, updates and messages of one sample, in mJ."""
        return self.totals.dynamic_mj

    @property
    def energy_mj(self) -> float:
        """All energy of one sample on the chip, in mJ."""
        return self.totals.energy_mj

    @property
    def power_mw(self) -> float:
        """The power of the chips while samples follow each other, in mW."""
        return _power(self.totals, self.totals)

    def between(self, figure: str) -> tuple[float, float]:
        """The least and the largest value that one of the figures above may have, given the figure's name.

        Power is least where the dynamic energy is least and is spread over the longest time.
        """
        if figure == "power_mw":
            return _power(self.low, self.high), _power(self.high, self.low)
        return getattr(self.low, figure), getattr(self.high, figure)


FIGURES = ("step_ns", "latency_us", "interval_us", "power_mw")
"""The figures of a cost that have an interval, apart from its energies."""
ENERGIES = ("dynamic", "static", "total")


def _power(energy: Totals, time: Totals) -> float:
    """Power with the energies of one set of constants and the times of another, in mW."""
    return energy.static_mw + energy.dynamic_mj / time.interval_us * 1e6


def estimate(program: Program, activity: Activity, placement: Placement) -> Cost:
    """The cost of one sample, on average over those that ran.

    Args:
        program: The scheduled program.
        activity: The activity of its run.
        placement: The placement of its populations.

    Raises:
        FileFormatError: The chip's constants let a step take no time.
    """
    sops, macs = activity.sops_per_sample, stem_macs(program)
    paper = PaperCost(sops, macs, sops * SOP_PJ * 1e-9, (sops * SOP_PJ + macs * MAC_PJ) * 1e-9)
    found = predict(activity, placement)
    layout = None
    if placement.layout is not None:
        told = f"measured on {counted(activity.samples, 'sample')}"
        layout = compare(placement, place(program, placement.chip), activity, told)
    return Cost(activity, paper, placement, found.layers, found.steps, found.totals, found.low, found.high, layout)


def to_json(cost: Cost) -> dict[str, Any]:
    """All of a cost, as JSON can hold it; counts are averages of one sample."""
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
        "layout": cost.layout,
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
                *(scaled(each / samples, 0, COMPARED) for each in steps),
                scaled(steps.sum() / samples, 0, COMPARED),
                "-" if not_zero is None else scaled(not_zero.sum() / samples, 0, COMPARED),
            )
        )
    return headings, rows


def layer_rows(cost: Cost) -> tuple[Sequence[str], list[Sequence[str]]]:
    """What each population costs on the chip: headings and rows."""
    energy = common_power([layer.energy_pj * 1e-12 for layer in cost.layers], "J")
    step = common_power([layer.step_ns * 1e-9 for layer in cost.layers], "s")
    headings = (
        *("layer", " cores", " operations", " updates", " messages", " hops each"),
        *(f" energy, {prefixed('J', energy)}", f" step, {prefixed('s', step)}"),
    )
    rows: list[Sequence[str]] = [
        (
            layer.name,
            f"{layer.cores:,}",
            f"{layer.operations:,.0f}",
            f"{layer.updates:,}",
            f"{layer.messages:,.0f}",
            f"{layer.hops / layer.messages:.1f}" if layer.messages else "-",
            scaled(layer.energy_pj * 1e-12, energy),
            scaled(layer.step_ns * 1e-9, step),
        )
        for layer in cost.layers
    ]
    return headings, rows


def _skipping(chip: Chip) -> str:
    return ", where weights of zero cause none" if chip.skips_zero_weights else ""


UNITS = {"_mj": ("J", 1e-3), "_ns": ("s", 1e-9), "_us": ("s", 1e-6), "_mw": ("W", 1e-3)}
"""The endings of the names of a cost's figures, and what each stands for: an SI unit, and a factor to it."""


def shown_between(cost: Cost, figure: str) -> str:
    """One of a cost's figures and its interval, as text.

    Args:
        cost: The cost.
        figure: The name of the figure.
    """
    unit, factor = UNITS[figure[-3:]]
    value, low, high = (factor * each for each in (getattr(cost, figure), *cost.between(figure)))
    return between(value, low, high, unit)


def total_rows(cost: Cost) -> list[tuple[str, str]]:
    """Rows of the totals, each with its interval, and of the constants that are in a range, assumed or fitted."""
    chip, placement = cost.placement.chip, cost.placement
    worst = int(cost.steps.ns.argmax())
    layer, term = cost.steps.slowest[worst]
    waits = f"the slowest waits for the {term} of {layer}"
    every, macs = cost.interval_us * 1e-6, quantity(cost.paper.stem_macs, "MACs")
    rows = [
        ("SOPs", f"{quantity(cost.paper.sops, 'SOPs')}, as the authors count them"),
        (
            "operations",
            f"{quantity(sum(layer.operations for layer in cost.layers), 'operations')} on the chip{_skipping(chip)}",
        ),
        ("paper's energy", f"{quantity(cost.paper.energy_mj * 1e-3, 'J')} at {SOP_PJ} pJ a SOP"),
        ("and with the stem", f"{quantity(cost.paper.energy_with_stem_mj * 1e-3, 'J')}: {macs} at {MAC_PJ} pJ each"),
        ("chip", f"{counted(placement.cores, 'core')}, {counted(placement.chips, 'chip')} of {chip.name}"),
        ("energy there", shown_between(cost, "energy_mj")),
        ("of it dynamic", shown_between(cost, "dynamic_mj")),
        ("of it static", shown_between(cost, "static_mj")),
        ("power there", shown_between(cost, "power_mw")),
        ("a step there", f"{shown_between(cost, 'step_ns')}; {waits}"),
        ("a sample every", f"{shown_between(cost, 'interval_us')}: {quantity(1 / every, 'samples/s')}"),
        ("frame to logits", shown_between(cost, "latency_us")),
    ]
    costs = {name: source for name, source in chip.sources.items() if name.endswith(COSTS)}
    told = {
        "in a range": [name for name, source in costs.items() if source.range is not None],
        f"assumed for {chip.name}": [
            name for name, source in costs.items() if source.status == "assumed" and source.range is None
        ],
        f"fitted for {chip.name}": [name for name, source in costs.items() if source.status == "fitted"],
    }
    rows.extend((title, ", ".join(names)) for title, names in told.items() if names)
    if placement.violations:
        exceeded = counted(len(placement.violations), "limit")
        verb = "is" if len(placement.violations) == 1 else "are"
        rows.append(("does not fit", f"{exceeded} of {chip.name} {verb} exceeded: see --check"))
    return rows
