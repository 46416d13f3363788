"""What the points of a sweep are compared with, and the page that each has of its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir import float_interpreter
from resformer.compiler.progress import Progress
from resformer.errors import ResformerError
from resformer.runtime.cli.compile_options import NO_CHIP, compile_options
from resformer.runtime.cli.event_options import event_binning
from resformer.runtime.compiled import Compiled, compile  # noqa: A004
from resformer.runtime.cost import cost as costs
from resformer.runtime.cost.cost import Cost
from resformer.runtime.given import Given
from resformer.runtime.membrane import as_original_takes
from resformer.runtime.page.content import SAMPLES
from resformer.runtime.page.write import write_page
from resformer.runtime.run.encode import predict
from resformer.runtime.run.processes import Processes

Int64Array = npt.NDArray[np.int64]

BATCH = 8
"""Samples that the float network is given together."""


@dataclass(frozen=True, eq=False)
class Original:
    """The network that all points of a sweep come from: in floating point, with no option of the sweep chosen.

    Attributes:
        predictions: (N,), the class of each sample; None if they cannot be known.
        absent: Why they cannot.
    """

    predictions: Int64Array | None
    absent: str | None = None


@dataclass(frozen=True, eq=False)
class Classes:
    """What a point found in the samples.

    Attributes:
        predictions: (N,), the class of each.
        labels: (N,), the true ones, if they are known.
    """

    predictions: Int64Array
    labels: Int64Array | None


def original_share(arguments: argparse.Namespace, update: Progress, processes: Processes) -> Original:
    """What the original says of this process's share of the samples.

    Args:
        arguments: Of ``resformer-compile``, with samples; what the sweep varies is as it would be without it.
        update: Told how far it is.
        processes: Those that share the sweep.
    """
    try:
        return Original(_predictions(arguments, update, processes))
    except (ResformerError, MemoryError) as error:
        reason = str(error) if isinstance(error, ResformerError) else "out of memory"
        absent = f"no agreement: the network without the options of the sweep cannot run ({' '.join(reason.split())})"
        return Original(None, absent)


def joined(shares: Sequence[Original]) -> Original:
    """The shares of all processes as one; absent if one is."""
    absent = next((each.absent for each in shares if each.predictions is None), None)
    found = [each.predictions for each in shares if each.predictions is not None]
    return Original(None, absent) if absent is not None or not found else Original(np.concatenate(found))


def _predictions(arguments: argparse.Namespace, update: Progress, processes: Processes) -> Int64Array:
    """The original's classes of this process's share of the samples."""
    # nothing of quantization changes the float network
    plain = argparse.Namespace(**vars(arguments))
    plain.calibration = plain.synapse_budget = plain.optimize_cores = plain.seed = None
    plain.precision, plain.layer_bits, plain.chip, plain.optimize = "fixed", [], NO_CHIP, "cores"
    compiled = compile(arguments.model, options=compile_options(plain))
    samples = compiled.read(arguments.input, samples=arguments.samples, binning=event_binning(arguments)).samples
    first, last = processes.part(len(samples))
    found = [np.empty(0, dtype=np.int64)]
    for start in range(first, last, BATCH):
        update("running the original", start - first, last - first)
        real = samples.real(start, min(start + BATCH, last))
        given = as_original_takes(real, compiled.program, rounded=compiled.origin.fine_tuned)
        found.append(predict(float_interpreter.run(compiled.graph, given).numpy()))
    return np.concatenate(found)


def write_point_page(compiled: Compiled, given: Given | None, cost: Cost | None, title: str, path: Path) -> None:
    """Write a point's own page: of its first samples, and of what all of them cost.

    Raises:
        ResformerError: No page is drawn of such a network, or it cannot be run.
        OSError: It cannot be written.
    """
    shown = compiled.shown(
        None if given is None else given.first(SAMPLES),
        cost=None if cost is None or compiled.options.chip is None else costs.to_json(cost),
    )
    write_page((replace(shown, name=title),), path)
