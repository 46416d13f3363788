"""``placement.json``: its type, which is also the schema that its reader checks it against."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from resformer.compiler.files.json_schema import Bounds, Count, Length, Positive, Within

FORMAT = "resformer-placement"
FORMAT_VERSION = 3
"""2 had no layout; 1 had no ranges, and fewer constants of chips."""

Goal = Literal["time", "energy"]
"""What a layout is optimised for: the step, or the energy of a sample."""
CORES_PERCENT = 110
"""Of the fewest cores, how many an optimised layout may take unless told otherwise."""
FEWEST_PERCENT = 100
"""The least that it may be told: what the fewest cores are of themselves."""
ASSUMED_RATE = 0.18
"""The share of neurons that fire at each step where a layout has no data: Ti's mean in benchmarks/layout.py."""

Share = Annotated[float, Within(0)]
LARGEST = 1e60
"""Of an energy, a time or a mean; a chip's constants reach 1e15."""
Amount = Annotated[float, Within(0, LARGEST)]
Between = Annotated[list[Amount], Length(2)]
"""The least and the most that a figure may be."""


class Constant(TypedDict):
    """A constant of a chip; ``Chip.from_json`` knows the ranges."""

    value: float | None
    range: Annotated[list[float], Length(2)] | None
    status: str
    source: str


class ChipFacts(TypedDict):
    """The chip that was placed on."""

    name: str
    constants: dict[str, Constant]


class Core(TypedDict):
    """A core, and its neurons as [first, past the last] of channels, rows and columns."""

    chip: Count
    core: Count
    neurons: list[Bounds]


class Layer(TypedDict):
    """A population and its cores."""

    name: str
    nodes: list[str]
    synapses: list[str]
    kind: str
    shape: list[Positive]
    neurons: Count
    tile: list[Positive]
    cores: Positive
    bound: str
    usage: dict[str, Count]
    utilization: dict[str, Share]
    deliveries: Count
    first_core: Count
    placed: list[Core]


class Predicted(TypedDict):
    """What a layout takes for one sample, each figure with the least and the most that it may be."""

    cores: Count
    chips: Count
    step_ns: Amount
    step_ns_between: Between
    energy_mj: Amount
    energy_mj_between: Between


class Layout(TypedDict):
    """How an optimised layout was chosen, beside the one with the fewest cores, at the same activity.

    ``least`` is what no layout can go below whose cores are as few: of the step's ns if the goal is time, of the
    energy's mJ if it is energy.
    """

    goal: Goal
    activity: str
    seed: Count
    cores_allowed: Positive
    default: Predicted
    chosen: Predicted
    least: Amount


class PlacementFile(TypedDict):
    """The whole file."""

    format: Literal["resformer-placement"]
    format_version: Annotated[int, Within(FORMAT_VERSION, FORMAT_VERSION)]
    chip: ChipFacts
    fits: bool
    violations: list[str]
    cores: Count
    chips: Count
    neurons: Count
    layout: Layout | None
    layers: list[Layer]
