"""Single neurons on the page: for each population, a few whose membrane traces are worth a look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.files.build import NETWORK, Build
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.program import Program, Scheduled
from resformer.compiler.ir.trace import SpikeTrain
from resformer.compiler.samples.arrays import Samples
from resformer.runtime.membrane import (
    IntegerRecorder,
    IntegerTrace,
    NeuronIndex,
    RealTrace,
    Steps,
    as_original_takes,
    neuron_index,
    real_spikes,
    real_traces,
    unravelled,
)
from resformer.runtime.verify.graphs import file_graph

Int64Array = npt.NDArray[np.int64]

TRACE_STEPS = 24
"""About how many steps a trace shows, over consecutive samples."""
TRACE_SAMPLES = 6
"""The most samples that a trace shows."""

DIFFERS, BUSIEST, NEAREST, SILENT, CHOSEN = "differs", "busiest", "nearest", "silent", "chosen"
"""Why a neuron is shown: its spikes differ most from the original's; it fires most often; its potential comes nearest
to the threshold; it never fires, and comes nearest to the threshold of all such neurons; or the user named it."""


@dataclass(frozen=True)
class Traced:
    """Which neurons are traced, and which original they are compared with.

    Attributes:
        graph: The original as a float graph with the program's populations; None: the program alone is traced.
        rounded: Whether the original is given samples that are rounded as the program rounds them.
        wanted: Neurons that the user named: their flat indices, by population.
    """

    graph: Graph[nir.NIRNode] | None
    rounded: bool = False
    wanted: Mapping[str, Sequence[int]] | None = None


class Membranes:
    """Records membrane traces while the reference interpreter runs, as an observer of its first samples.

    Args:
        program: The program that runs.
        samples: The samples, of which the first are traced.
        traced: Which neurons are traced.
        most: How many samples the interpreter runs, at most; no more can be traced.
    """

    def __init__(self, program: Program, samples: Samples, traced: Traced, most: int) -> None:
        count = min(len(samples), most, TRACE_SAMPLES, max(1, TRACE_STEPS // program.timesteps))
        self._program = program
        self._traced = traced
        self._given = as_original_takes(samples.real(0, count), program, rounded=traced.rounded)
        self._why: dict[str, dict[int, list[str]]] = {}
        fired: Mapping[str, SpikeTrain] = {}
        if traced.graph is not None:
            fired = real_spikes(traced.graph, self._given, program.lif_names)
        choose = {name: partial(self._choose, name, fired.get(name)) for name in program.lif_names}
        self._recorder = IntegerRecorder(program, choose, samples=count)
        self._samples = count

    def __call__(self, name: str, value: Int64Array) -> None:
        """See ``reference.Observer``."""
        self._recorder(name, value)

    def _choose(self, name: str, original: SpikeTrain | None, steps: Steps) -> Sequence[int]:
        wanted = (self._traced.wanted or {}).get(name, ())
        expected = None if original is None else original.dense().reshape(steps.spikes.shape)
        self._why[name] = interesting(steps, expected, wanted)
        return tuple(self._why[name])

    def to_json(self) -> dict[str, Any]:
        """The traces that the page draws.

        Returns:
            ``samples``: how many samples each trace covers. ``original``: whether the original is traced too.
            ``layers``: for each population its neurons, each with its ``index``, ``why`` it is shown, and the traces
            ``integer`` and ``real``; their arrays hold the steps of one sample after those of another.
        """
        chosen, graph = self._recorder.chosen, self._traced.graph
        real = {} if graph is None else real_traces(graph, self._given, chosen)
        return {
            "samples": self._samples,
            "original": graph is not None,
            "layers": {name: self._population(name, real.get(name)) for name in self._program.lif_names},
        }

    def _population(self, name: str, real: Sequence[RealTrace] | None) -> list[dict[str, Any]]:
        recorder = self._recorder
        return [
            {
                "index": list(unravelled(self._program, name, index)),
                "why": self._why[name][index],
                "integer": as_json(recorder.traces[name][each]),
                "real": None if real is None else as_json(real[each]),
            }
            for each, index in enumerate(recorder.chosen[name])
        ]


def as_json(trace: IntegerTrace | RealTrace) -> dict[str, Any]:
    """A trace as JSON, its arrays flattened sample after sample."""
    arrays = {name: getattr(trace, name).reshape(-1).tolist() for name in ("current", "potential", "left", "spikes")}
    return {"threshold": trace.threshold, **arrays}


def interesting(
    steps: Steps, expected: npt.NDArray[np.bool_] | None, wanted: Sequence[int] = ()
) -> dict[int, list[str]]:
    """Neurons of a population that are worth a look: why each is shown, by its flat index.

    Args:
        steps: The steps of the population in the program.
        expected: The original's spikes, (T, N, neurons), if they are known.
        wanted: Neurons that are shown in any case, first.
    """
    found: dict[int, list[str]] = {index: [CHOSEN] for index in wanted}

    def add(score: npt.NDArray[Any], why: str, least: float) -> None:
        index = int(score.argmax())
        if score[index] > least:
            found.setdefault(index, []).append(why)

    fires = steps.spikes.sum(axis=(0, 1))
    away = np.abs(steps.potential - steps.threshold).min(axis=(0, 1)) / np.maximum(steps.threshold, 1)
    if expected is not None:
        add((expected != (steps.spikes > 0)).sum(axis=(0, 1)), DIFFERS, 0)
    add(fires, BUSIEST, 0)
    # only among neurons that are not shown yet; if all are shown, nothing exceeds -inf and none is added
    others = np.ones(len(fires), dtype=bool)
    others[list(found)] = False
    add(np.where(others, -away, -np.inf), NEAREST, -np.inf)
    others[list(found)] = False
    silent = others & (fires == 0)
    if expected is not None:
        silent &= ~expected.any(axis=(0, 1))
    add(np.where(silent, -away, -np.inf), SILENT, -np.inf)
    return found


def traced_of(build: Build, program: Scheduled, wanted: Sequence[tuple[str, NeuronIndex]] = ()) -> Traced:
    """What is traced in a build: neurons against its float graph, if it holds one.

    Args:
        build: The build.
        program: The build's program.
        wanted: Neurons that the user named: population and neuron of each.

    Raises:
        FileFormatError: The float graph is damaged, or another network's.
        InputError: There is no such population, or it has no such neuron.
    """
    named: dict[str, list[int]] = {}
    for name, neuron in wanted:
        named.setdefault(name, []).append(neuron_index(program, name, neuron))
    graph = file_graph(build, program) if (build.directory / NETWORK).is_file() else None
    return Traced(graph, build.report["fine_tuned"], named)
