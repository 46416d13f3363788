"""What samples say of a network's input, and what is assumed of the input if there are no samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph
from resformer.compiler.quantize.plan import QuantizationPlan
from resformer.compiler.quantize.ranges import (
    ESTIMATED_INPUT_RANGE,
    MEASURED_HEADROOM,
    estimated_ranges,
    measured_ranges,
    pixel_deviation,
)


@dataclass(frozen=True)
class InputData:
    """What samples say of the input.

    Attributes:
        largest: Their largest magnitude.
        whole: Whether all values are whole numbers, as counts are.
        source: What the samples are, in words.
    """

    largest: float
    whole: bool
    source: str


def input_data(samples: npt.NDArray[np.floating[Any]], source: str) -> InputData:
    """What samples say of the input.

    Args:
        samples: (N, C, H, W) or (N, T, C, H, W), as the network expects them.
        source: What the samples are, in words.
    """
    return InputData(float(np.abs(samples).max()), all(bool((part == np.rint(part)).all()) for part in samples), source)


def example_ranges(
    graph: Graph[nir.NIRNode], example: npt.NDArray[np.float64], input_range: float | None = None
) -> dict[str, float]:
    """The magnitude of each node: what a module's example reaches, with headroom, but no less than the estimate.

    An example shows how large the input is, and little else: it may be noise, or a single sample. So the input's own
    range is that of images whose pixels are of that magnitude.

    Args:
        graph: A float graph after all float passes.
        example: (N, C, H, W) or (N, T, C, H, W).
        input_range: The largest magnitude of the input, if it is known.
    """
    measured = measured_ranges(graph, example)
    largest = measured.pop(graph.input.name)
    if input_range is None:
        input_range = max(largest, ESTIMATED_INPUT_RANGE * pixel_deviation(largest))
    estimated = estimated_ranges(graph, input_range)
    return {name: max(each, MEASURED_HEADROOM * measured.get(name, 0.0)) for name, each in estimated.items()}


def describe_input(graph: Graph[nir.NIRNode], plan: QuantizationPlan, why: str) -> str:
    """The input's range and steps, and what they were chosen from, in a sentence.

    Args:
        graph: A float graph.
        plan: The plan that was chosen.
        why: What the plan was chosen from, in words.
    """
    exp = plan.scale_exps[graph.input.name]
    high = plan.input_high * 2.0**-exp
    kind = "frames of events" if graph.metadata.get("input") == "frames" else "real numbers"
    steps = "rounded to whole numbers" if exp == 0 else f"in steps of 2^-{exp}"
    return f"input: {kind} from {-high:g} to {high:g}, {steps}{why}"
