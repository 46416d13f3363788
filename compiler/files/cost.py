"""The file that ``resformer-run --cost --json`` writes: its type, also the schema of its writer and its reader."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from resformer.compiler.files.json_schema import Count, Positive, Within
from resformer.compiler.files.placement import Amount, Between, ChipFacts, Layout

FORMAT = "resformer-cost"
FORMAT_VERSION = 3
"""Version 2 had no layout. Version 1 also had no intervals, no ``sops_not_zero`` and no terms of a step."""


class PaperConstant(TypedDict):
    """A constant of the paper's table."""

    value: Amount
    source: str


class PaperConstants(TypedDict):
    """The constants that the paper's energies rest on."""

    sop_pj: PaperConstant
    mac_pj: PaperConstant


class Paper(TypedDict):
    """One sample in the paper's terms."""

    sops: Amount
    stem_macs: Count
    energy_mj: Amount
    energy_with_stem_mj: Amount
    constants: PaperConstants


class Energy(TypedDict):
    """One sample on the chip."""

    dynamic: Amount
    static: Amount
    total: Amount


class EnergyIntervals(TypedDict):
    """The intervals of the energies of one sample."""

    dynamic: Between
    static: Between
    total: Between


class Intervals(TypedDict):
    """The intervals of all figures that rest on a chip's constants."""

    step_ns: Between
    latency_us: Between
    interval_us: Between
    power_mw: Between
    energy_mj: EnergyIntervals


class Step(TypedDict):
    """One step of the chip, and what takes longest in it: a layer and one of its terms, or the mesh."""

    ns: Amount
    layer: str
    term: str


class Layer(TypedDict):
    """What one population takes for one sample on the chip."""

    name: str
    cores: Positive
    operations: Amount
    updates: Count
    active: Amount
    messages: Amount
    hops: Amount
    synapses_pj: Amount
    neurons_pj: Amount
    messages_pj: Amount
    busiest: Amount
    synapses_ns: Amount
    neurons_ns: Amount
    messages_in_ns: Amount
    messages_out_ns: Amount
    step_ns: Amount


class CostFile(TypedDict):
    """The whole file."""

    format: Literal["resformer-cost"]
    format_version: Annotated[int, Within(FORMAT_VERSION, FORMAT_VERSION)]
    version: str
    samples: Positive
    timesteps: Positive
    paper: Paper
    sops: dict[str, list[Amount]]
    sops_not_zero: dict[str, list[Amount]]
    spikes: dict[str, list[Amount]]
    chip: ChipFacts
    fits: bool
    cores: Count
    chips: Count
    step_ns: Amount
    latency_us: Amount
    interval_us: Amount
    power_mw: Amount
    energy_mj: Energy
    intervals: Intervals
    steps: list[Step]
    layout: Layout | None
    layers: list[Layer]
