"""``placement.json``: its type, which is also the schema that its reader checks it against."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from resformer.compiler.files.json_schema import Bounds, Count, Length, Positive, Within

FORMAT = "resformer-placement"
FORMAT_VERSION = 3
"""Version 2 had no layout. Version 1 also had no ranges, and fewer constants of chips."""

Goal = Literal["time", "energy"]
"""What a layout is optimised for: the time of a step, or the energy of a sample."""
CORES_PERCENT = 110
"""The most cores that an optimised layout may take by default, in percent of the fewest cores possible."""
FEWEST_PERCENT = 100
"""The smallest percentage that a user may choose: just the fewest cores."""
ASSUMED_RATE = 0.18
"""The share of neurons assumed to fire at each step if there is no data: the mean of Ti in benchmarks/layout.py."""

Share = Annotated[float, Within(0)]
LARGEST = 1e60
"""The largest energy, time or mean; a chip's constants reach 1e15."""
Amount = Annotated[float, Within(0, LARGEST)]
Between = Annotated[list[Amount], Length(2)]
"""The least and the most that a figure may be."""


class Constant(TypedDict):
    """A constant of a chip; ``Chip.from_json`` checks its value and range."""

    value: float | None
    range: Annotated[list[float], Length(2)] | None
    status: str
    source: str


class ChipFacts(TypedDict):
    """The chip that the program was placed on."""

    name: str
    constants: dict[str, Constant]


class Core(TypedDict):
    """A core, and its neurons: one range [first, past the last] each of channels, rows and columns."""

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
    """The cores, and the time and energy with their intervals, that a layout is predicted to take for one sample."""

    cores: Count
    chips: Count
    step_ns: Amount
    step_ns_between: Between
    energy_mj: Amount
    energy_mj_between: Between


class Layout(TypedDict):
    """How an optimised layout was chosen.

    ``chosen`` is that layout, and ``default`` the layout with the fewest cores, both predicted for the same activity.
    ``least`` is a lower bound over all layouts on at most ``cores_allowed`` cores: on the step in ns if the goal is
    time, on the energy in mJ if the goal is energy.
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
