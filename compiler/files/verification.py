"""The file that ``resformer-verify --json`` writes: its type, also the schema of its writer and its reader."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypedDict

from resformer.compiler.files.json_schema import Count, Length, Positive, Within, check
from resformer.compiler.files.report import SamplePreprocessing
from resformer.errors import FileFormatError

FORMAT = "resformer-verification"
FORMAT_VERSION = 2
"""Version 1, which is still read, had no labels, predictions of the original, checksums of samples or intervals."""

Share = Annotated[float, Within(0, 1)]
"""A share, from 0 to 1."""
FLOAT_MAX = sys.float_info.max
Measure = Annotated[float, Within(0, FLOAT_MAX)]
"""An error or a tolerance."""
ShareBetween = Annotated[list[Share], Length(2)]
"""The least and the most that a share may be."""
Number = Annotated[float, Within(-FLOAT_MAX, FLOAT_MAX)]
"""Any finite number."""


class Tally(TypedDict):
    """How many elements were compared, and how many of them differ."""

    compared: Count
    mismatched: Count


class Stage(Tally):
    """The comparison of a float graph with the original."""

    logits_max_difference: Measure


class Saturated(Tally):
    """The samples in which a value saturated, by index, and the elements that were compared in them."""

    samples: list[Count]


class Side(TypedDict):
    """One side of a divergence; a value that the side does not show is None."""

    name: str
    v_in_thresholds: Number | None
    v_integer: int | None


class Divergence(TypedDict):
    """The first place where the sides of a check differ."""

    layer: str
    step: Count
    sample: Count
    neuron: list[Count]
    sides: list[Side]


class CheckFacts(TypedDict, total=False):
    """Fields that only some checks have."""

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
    """The result of one check of equivalence."""

    compared: Count
    mismatched: Count
    demanded: bool
    passed: bool
    note: str
    first_divergence: Divergence | None


class Checks(TypedDict):
    """The checks E1 to E4; None for a check that was not run."""

    float_graph_vs_torch: Check | None
    backend_vs_program: Check | None
    backend_vs_quantized_torch: Check | None
    quantized_vs_original: Check | None


class LayerFacts(TypedDict, total=False):
    """Fields that a population has if the original was compared."""

    local: Tally


class Layer(LayerFacts):
    """One population: its counts summed over the checks that can prove equivalence, and check by check."""

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
    """The error of the current that a layer's synapses make."""

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
    """The limits that the user set on accuracy."""

    min_agreement: Share | None
    max_accuracy_drop: Share | None


class FirstVerificationFile(TypedDict):
    """The whole file in version 1."""

    format: Literal["resformer-verification"]
    format_version: Annotated[int, Within(1, FORMAT_VERSION)]
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


class VerificationFile(FirstVerificationFile):
    """The whole file.

    Four lists hold one value a sample: ``predictions`` the class that the quantized network says,
    ``predictions_original`` the class that the original says, ``labels`` the true class, and ``input_crc32`` a checksum
    of the integers that the program is given. Intervals have a confidence of 95 %.
    """

    predictions_original: list[Count] | None
    labels: list[Count] | None
    input_crc32: list[Annotated[int, Within(0, 2**32 - 1)]]
    accuracy_intervals: dict[str, ShareBetween]
    accuracy_drop_interval: Annotated[list[Annotated[float, Within(-1, 1)]], Length(2)] | None


SCHEMAS: Mapping[int, Any] = MappingProxyType({1: FirstVerificationFile, FORMAT_VERSION: VerificationFile})
"""The schema of each version that is read; the last version is the one that is written."""
OF_EACH_SAMPLE = ("predictions", "predictions_original", "labels", "input_crc32")
"""The fields that, if present, are lists of one number a sample."""


def check_verification(content: Mapping[str, Any]) -> None:
    """Check a verification against the schema of its version.

    Args:
        content: The verification, as ``json`` reads it or will write it; its ``format_version`` is one of ``SCHEMAS``.

    Raises:
        FileFormatError: It does not match the schema; the message names the place.
    """
    check(content, SCHEMAS[content["format_version"]])
    samples = content["samples"]
    for name in OF_EACH_SAMPLE:
        values = content.get(name)
        if values is not None and len(values) != samples:
            raise FileFormatError(f"'{name}' has {len(values)} items, not {samples}, one a sample")
    if content.get("accuracy_intervals", content["accuracy"]).keys() != content["accuracy"].keys():
        raise FileFormatError("'accuracy_intervals' has other networks than 'accuracy'")
