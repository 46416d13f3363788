"""``placement.json``: its type, which is also the schema that its reader checks it against."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from resformer.compiler.files.json_schema import Bounds, Count, Length, Positive, Within

FORMAT = "resformer-placement"
FORMAT_VERSION = 2
"""1 had no ranges, and fewer constants of chips."""

Share = Annotated[float, Within(0)]


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
    layers: list[Layer]
