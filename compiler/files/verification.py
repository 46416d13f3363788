"""What ``resformer-verify --json`` writes: its type, which is also the schema of its writer and its reader."""

from __future__ import annotations

import sys
from typing import Annotated, Literal, TypedDict

from resformer.compiler.files.json_schema import Count, Length, Positive, Within
from resformer.compiler.files.report import SamplePreprocessing

FORMAT = "resformer-verification"
FORMAT_VERSION = 1

Share = Annotated[float, Within(0, 1)]
"""From nothing to all."""
FLOAT_MAX = sys.float_info.max
Measure = Annotated[float, Within(0, FLOAT_MAX)]
"""An error, a tolerance."""
Number = Annotated[float, Within(-FLOAT_MAX, FLOAT_MAX)]
"""Whatever is finite."""


class Tally(TypedDict):
    """How many elements were compared, and how many of them differ."""

    compared: Count
    mismatched: Count


class Stage(Tally):
    """A float graph against the original."""

    logits_max_difference: Measure


class Saturated(Tally):
    """The samples in which something saturated."""

    samples: list[Count]


class Side(TypedDict):
    """One side of a divergence; None for what it does not show."""

    name: str
    v_in_thresholds: Number | None
    v_integer: int | None


class Divergence(TypedDict):
    """Where the sides first differ."""

    layer: str
    step: Count
    sample: Count
    neuron: list[Count]
    sides: list[Side]


class CheckFacts(TypedDict, total=False):
    """What only some checks have."""

    graphs: dict[str, Stage]
    graded: Tally
    graded_layers: dict[str, Tally]
    logits: Tally
    currents: Tally
    weights: Tally
    logits_max_difference: Measure
    logits_tolerance: Measure
    saturated: Saturated
    f1: Share
    top1_agreement: Share
    local: Tally
    local_layers: dict[str, Tally]


class Check(CheckFacts):
    """One equivalence."""

    compared: Count
    mismatched: Count
    demanded: bool
    passed: bool
    note: str
    first_divergence: Divergence | None


class Checks(TypedDict):
    """E1 to E4; None for what was not run."""

    float_graph_vs_torch: Check | None
    backend_vs_program: Check | None
    backend_vs_quantized_torch: Check | None
    quantized_vs_original: Check | None


class LayerFacts(TypedDict, total=False):
    """What a population has where the original was compared."""

    local: Tally


class Layer(LayerFacts):
    """One population, in sum and check by check."""

    name: str
    compared: Count
    mismatched: Count
    fired: Count
    checks: dict[str, Tally]


class EndToEnd(TypedDict):
    """A layer's spikes in the whole network."""

    mismatched: Count
    mismatched_share: Share
    f1: Share


class LocalSpikes(TypedDict):
    """A layer's spikes where it is fed the original's inputs."""

    compared: Count
    mismatched: Count
    mismatched_share: Share
    rate_original: Share
    rate_shift: Annotated[float, Within(-1, 1)]
    end_to_end: EndToEnd


class Current(TypedDict):
    """The error of what a layer's synapses make."""

    compared: Count
    relative_error: Measure
    rms_error: Measure
    worst_error: Measure


class Local(TypedDict):
    """One layer's own error."""

    name: str
    population: str | None
    rank: Positive
    current: Current
    spikes: LocalSpikes | None


class Limits(TypedDict):
    """What was demanded of accuracy."""

    min_agreement: Share | None
    max_accuracy_drop: Share | None


class VerificationFile(TypedDict):
    """The whole file."""

    format: Literal["resformer-verification"]
    format_version: Annotated[int, Within(FORMAT_VERSION, FORMAT_VERSION)]
    version: str
    backend: str
    samples: Positive
    timesteps: Positive
    equivalent: bool
    passed: bool
    verdict: Annotated[list[str], Length(3)]
    to_know: list[str]
    shortfalls: list[str]
    checks: Checks
    not_run: dict[str, str]
    layers: list[Layer]
    saturation: dict[str, Count]
    ties: dict[str, Count]
    input_values_clipped: Count
    input_largest: Measure
    input_range: Annotated[list[float], Length(2)]
    never_fired: list[str]
    always_fired: list[str]
    any_fired: bool
    notes: list[str]
    assumptions: list[str]
    model_is_source: bool | None
    accuracy: dict[str, Share]
    accuracy_absent: str | None
    classes: list[str] | None
    preprocessing: SamplePreprocessing
    predictions: list[Count]
    warnings: list[str]
    labelled: Count
    accuracy_drop: Annotated[float, Within(-1, 1)] | None
    agreement: Share | None
    limits: Limits
    local: list[Local] | None
