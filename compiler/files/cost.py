"""What ``resformer-run --cost --json`` writes: its type, which is also the schema of its writer and its reader."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from resformer.compiler.files.json_schema import Count, Positive, Within
from resformer.compiler.files.placement import ChipFacts

FORMAT = "resformer-cost"
FORMAT_VERSION = 2
"""1 had no intervals, no operations of weights that are not zero, and no terms of a step."""

LARGEST = 1e60
"""Of an energy, a time or a mean; a chip's constants reach 1e15."""
Amount = Annotated[float, Within(0, LARGEST)]


class PaperConstant(TypedDict):
    """A constant of the paper's table."""

    value: Amount
    source: str


class PaperConstants(TypedDict):
    """Those that the paper's energies rest on."""

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


class Layer(TypedDict):
    """One population and one sample on the chip."""

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
    energy_mj: Energy
    layers: list[Layer]
