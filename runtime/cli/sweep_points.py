"""The original network that the points of a sweep are compared with, and the page of each point."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir import float_interpreter
from resformer.compiler.progress import Progress
from resformer.compiler.samples.events.frames import Binning
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
"""How many samples the float network runs at once."""


@dataclass(frozen=True, eq=False)
class Original:
    """What the original network finds, which all points share: in floating point, without the options of the sweep.

    Attributes:
        predictions: (N,), the class of each sample; None if the network cannot run.
        absent: Why there are no predictions; None if there are.
        cut: See ``cut_every``.
    """

    predictions: Int64Array | None
    absent: str | None = None
    cut: int | None = None


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes that a point found.

    Attributes:
        predictions: (N,), the class of each sample.
        labels: (N,), the true classes, if they are known.
        cut: See ``cut_every``.
    """

    predictions: Int64Array
    labels: Int64Array | None
    cut: int | None = None


def cut_every(binning: Binning | None, timesteps: int) -> int | None:
    """Every how many frames a recording was cut into samples; None if T does not decide where samples begin.

    Args:
        binning: How the recording became frames; None if it is none, or a whole recording is one sample.
        timesteps: T of the network.
    """
    return None if binning is None or binning.is_whole else timesteps


def original_share(arguments: argparse.Namespace, update: Progress, processes: Processes) -> Original:
    """What the original network finds for this process's share of the samples.

    Args:
        arguments: Those of ``resformer-compile``, with samples; swept options have their values without the sweep.
        update: Called with the progress.
        processes: The processes that share the sweep.
    """
    try:
        return _original(arguments, update, processes)
    except (ResformerError, MemoryError) as error:
        reason = str(error) if isinstance(error, ResformerError) else "out of memory"
        absent = f"no agreement: the network without the options of the sweep cannot run ({' '.join(reason.split())})"
        return Original(None, absent)


def joined(shares: Sequence[Original]) -> Original:
    """The shares of all processes as one, without predictions if any share has none."""
    absent = next((each.absent for each in shares if each.predictions is None), None)
    found = [each.predictions for each in shares if each.predictions is not None]
    if absent is not None or not found:
        return Original(None, absent)
    return Original(np.concatenate(found), cut=shares[0].cut)


def _original(arguments: argparse.Namespace, update: Progress, processes: Processes) -> Original:
    """What the original finds for this process's share of the samples."""
    # options of quantization and placement do not change the float network
    plain = argparse.Namespace(**vars(arguments))
    plain.calibration = plain.synapse_budget = plain.optimize_cores = plain.seed = None
    plain.precision, plain.layer_bits, plain.chip, plain.optimize = "fixed", [], NO_CHIP, "cores"
    compiled = compile(arguments.model, options=compile_options(plain))
    binning = event_binning(arguments)
    samples = compiled.read(arguments.input, samples=arguments.samples, binning=binning).samples
    first, last = processes.part(len(samples))
    found = [np.empty(0, dtype=np.int64)]
    for start in range(first, last, BATCH):
        update("running the original", start - first, last - first)
        real = samples.real(start, min(start + BATCH, last))
        given = as_original_takes(real, compiled.program, rounded=compiled.origin.fine_tuned)
        found.append(predict(float_interpreter.run(compiled.graph, given).numpy()))
    return Original(np.concatenate(found), cut=cut_every(binning, compiled.program.timesteps))


def write_point_page(compiled: Compiled, given: Given | None, cost: Cost | None, title: str, path: Path) -> None:
    """Write a point's own page, with a run of the first samples and the cost of all samples.

    Raises:
        ResformerError: No page can be drawn of such a network, or the network cannot run.
        OSError: The page cannot be written.
    """
    shown = compiled.shown(
        None if given is None else given.first(SAMPLES),
        cost=None if cost is None or compiled.options.chip is None else costs.to_json(cost),
    )
    write_page((replace(shown, name=title),), path)
