"""Verification: is what the backend runs still the network that was trained? (DESIGN, the four equivalences)"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler import pipeline
from resformer.compiler.backends import CPU, Runner, open_backend
from resformer.compiler.export.checkpoint import TIE_SHIFT
from resformer.compiler.files.build import PROGRAM, Build
from resformer.compiler.files.digest import sha256
from resformer.compiler.frontend.checkpoint import import_model
from resformer.compiler.frontend.nir.importer import import_nir
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.ops import Dense, Output, Relay, SumPool2d
from resformer.compiler.ir.primitives import NEURONS
from resformer.compiler.ir.program import Scheduled, layer_names, real_weight
from resformer.compiler.ir.reference import BoundsError
from resformer.compiler.ir.summary import Summarized, Summary, counted
from resformer.compiler.ir.trace import Trace
from resformer.compiler.pipeline import FloatPass
from resformer.compiler.progress import Progress, no_progress
from resformer.compiler.samples.arrays import Samples
from resformer.errors import FileFormatError, InputError
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.run.encode import encode
from resformer.runtime.run.infer import batch_size, batches, notes_of, require_room_for_batch, samples_at_once
from resformer.runtime.run.trace import Comparison, require_complete, split
from resformer.runtime.verify.checks import Sides, Tally, check_batch, differing_weights, recorded_names
from resformer.runtime.verify.diverge import Divergence, backend_divergence, float_divergence, quantized_divergence
from resformer.runtime.verify.local import LocalError, rank
from resformer.runtime.verify.nir_network import NirNetwork
from resformer.runtime.verify.torch_network import TorchNetwork, open_checkpoint

FLOAT_GRAPH = "float_graph_vs_torch"
BACKEND = "backend_vs_program"
QUANTIZED = "backend_vs_quantized_torch"
ORIGINAL = "quantized_vs_original"
CHECKS = (FLOAT_GRAPH, BACKEND, QUANTIZED, ORIGINAL)

THE_REFERENCE = "reference"
"""The backend that is the definition, so that comparing it with itself says nothing."""

A_FILE = "file"
"""How the name of a float graph begins that was read from a build."""

Counts: TypeAlias = Mapping[str, tuple[int, int]]
"""By layer: how many elements were compared, and how many of them differ."""


CHECKPOINT, NIR = "checkpoint", "nir"
SOURCES = MappingProxyType({CHECKPOINT: "checkpoint", NIR: "NIR file", "module": "module"})
"""What was compiled, in words, by what the program's metadata say of its source."""


@dataclass(frozen=True)
class Check:
    """The result of one equivalence.

    Attributes:
        layers: Spikes compared and mismatched, by population.
        demanded: Whether ``equivalent`` depends on it.
        passed: Whether nothing differs.
        note: What was compared beyond or short of all spikes, in words.
        divergence: Where the sides first differ, if that is known.
        extra: Further numbers, as JSON can hold them.
    """

    layers: Counts
    demanded: bool
    passed: bool
    note: str = ""
    divergence: Divergence | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def compared(self) -> int:
        """How many spikes were compared."""
        return sum(compared for compared, _ in self.layers.values())

    @property
    def mismatched(self) -> int:
        """How many of them differ."""
        return sum(mismatched for _, mismatched in self.layers.values())


@dataclass(frozen=True, repr=False)
class Verification(Summarized):
    """All results.

    Attributes:
        backend: Its name.
        samples: How many.
        timesteps: T.
        checks: By name; only those that ran.
        not_run: The others, and why.
        layers: The populations in topological order, with how many chances to fire each had.
        saturation: How often a value was clipped, by node.
        clipped: How many values of the input its range could not hold.
        model_is_source: Whether the given checkpoint is, bit for bit, the one that was compiled; None if not given.
        accuracy: Of "original" and "quantized", as far as labels and checkpoint were given.
        local: Each layer's own error, in topological order; empty if it was not asked for.
        source: What was compiled, in words: a checkpoint, a NIR file or a module.
        notes: What the backend found of this machine, a sentence each: kernels that it computes wrongly.
    """

    backend: str
    samples: int
    timesteps: int
    checks: Mapping[str, Check]
    not_run: Mapping[str, str]
    layers: Mapping[str, int]
    saturation: Mapping[str, int]
    clipped: int
    model_is_source: bool | None
    accuracy: Mapping[str, float]
    local: Sequence[LocalError] = ()
    source: str = SOURCES[CHECKPOINT]
    notes: tuple[str, ...] = ()

    def summary(self) -> Summary:
        """The verdict and each check; ``resformer.runtime.verify.report`` has every layer."""
        verdict = "EQUIVALENT" if self.equivalent else "NOT EQUIVALENT"
        ran = {
            name: f"{check.mismatched:,} of {check.compared:,} spikes differ ({check.note})"
            for name, check in self.checks.items()
        }
        not_run = {name: f"not run: {why}" for name, why in self.not_run.items()}
        return f"{verdict}: {counted(self.samples, 'sample')} in {self.backend}", [
            *((name, (ran | not_run)[name]) for name in CHECKS if name in ran or name in not_run),
            *((f"accuracy, {name}", f"{value:.2%}") for name, value in self.accuracy.items()),
            *([("input values clipped", f"{self.clipped:,}")] if self.clipped else []),
            *(("note", note) for note in self.notes),
        ]

    @property
    def equivalent(self) -> bool:
        """Whether every demanded check passed, and there was one."""
        demanded = [check for check in self.checks.values() if check.demanded]
        return bool(demanded) and all(check.passed for check in demanded)


def verify(
    build: Build,
    samples: Samples,
    program: Scheduled,
    *,
    backend: str,
    model: Path | None = None,
    labels: npt.NDArray[np.int64] | None = None,
    stock_models: bool = False,
    device: str = CPU,
    batch_size: int | None = None,
    self_check: bool = False,
    local: bool = False,
    update: Progress = no_progress,
) -> Verification:
    """Compare the checkpoint, the float graphs, the program, the backend and the quantized checkpoint on samples.

    Args:
        build: What to verify.
        samples: Checked against the program.
        program: The build's.
        backend: A key of ``BACKENDS``.
        model: The checkpoint that was compiled; without it, what needs it is not run.
        labels: (N,), for accuracies.
        stock_models: As in ``open_backend``.
        device: As in ``open_backend``.
        batch_size: How many samples the backend is given together; None: what fits in memory.
        self_check: As in ``open_backend``.
        local: Whether to measure each layer's own error, for which the checkpoint must be given.
        update: Told how far it is.

    Raises:
        ResformerError: A file is damaged, the checkpoint is another network, or the backend failed.
    """
    update("reading", 0, 0)
    sides = _sides(build, program, model)
    if local:
        assert model is not None, "local errors are against the original"
        last = (pipeline.NIR.float_passes if build.from_nir else pipeline.CHECKPOINT.float_passes)[-1]
        sides = replace(sides, folded=sides.graphs[last.__name__])
    try:
        return verify_sides(
            sides,
            samples,
            backend=backend,
            not_run=_absent(build),
            is_source=None if model is None else _sha256(model) == build.report["source"]["sha256"],
            labels=labels,
            stock_models=stock_models,
            device=device,
            batch_size=batch_size,
            self_check=self_check,
            update=update,
        )
    except BoundsError as error:
        raise FileFormatError(
            f"{build.directory / PROGRAM}: {error}, so what it holds was changed since it was written; compile the "
            "model again"
        ) from error


def _absent(build: Build) -> dict[str, str]:
    """Why each side that may be absent is."""
    if build.from_module:
        return dict.fromkeys((FLOAT_GRAPH, QUANTIZED, ORIGINAL), "needs the module that was compiled: Compiled.verify")
    return {
        **dict.fromkeys(
            (FLOAT_GRAPH, ORIGINAL), f"needs the {SOURCES[NIR if build.from_nir else CHECKPOINT]}: give --model"
        ),
        QUANTIZED: "a network from a NIR file has no quantized checkpoint",
    }


def verify_sides(
    sides: Sides,
    samples: Samples,
    *,
    backend: str,
    not_run: Mapping[str, str] = MappingProxyType({}),
    is_source: bool | None = None,
    labels: npt.NDArray[np.int64] | None = None,
    stock_models: bool = False,
    device: str = CPU,
    batch_size: int | None = None,
    self_check: bool = False,
    update: Progress = no_progress,
) -> Verification:
    """Compare the sides of a network on samples, as ``verify`` does those of a build.

    Args:
        sides: Of one network.
        samples: Checked against its program.
        backend: A key of ``BACKENDS``.
        not_run: Why a check is not run, if its side is absent.
        is_source: Whether the original is what was compiled; None if it is absent.
        labels: (N,), for accuracies.
        stock_models: As in ``open_backend``.
        device: As in ``open_backend``.
        batch_size: How many samples the backend is given together; None: what fits in memory.
        self_check: As in ``open_backend``.
        update: Told how far it is.

    Raises:
        ResformerError: The backend failed.
    """
    program = sides.program
    runner = None
    if backend != THE_REFERENCE:
        runner = open_backend(
            backend, stock_models=stock_models, device=device, batch_size=batch_size, self_check=self_check
        )
    at_once = len(samples) if runner is None else batch_size or samples_at_once(program, backend, record=True)
    require_room_for_batch(program, backend, 1 if runner is None else min(at_once, len(samples)))
    tally = _compare(sides, samples, runner, backend, at_once, update)
    update("concluding", 0, 0)
    expected = {name: program.timesteps * len(samples) * math.prod(program[name].shape) for name in program.lif_names}
    checks: dict[str, Check] = {}
    absent = dict(not_run)
    if sides.original is not None:
        checks[FLOAT_GRAPH] = _float_graph(sides, sides.original, tally, samples, expected)
    if runner is None:
        absent[BACKEND] = "the reference interpreter is the program's definition: give another --backend"
    else:
        checks[BACKEND] = _backend(program, tally, backend, samples, expected)
    if sides.quantized is not None:
        checks[QUANTIZED] = _quantized(sides, sides.quantized, tally, samples, expected)
    if sides.original is not None:
        checks[ORIGINAL] = _original(sides, tally, expected)
    return Verification(
        backend=backend,
        samples=len(samples),
        timesteps=program.timesteps,
        checks={name: checks[name] for name in CHECKS if name in checks},
        not_run={name: absent[name] for name in CHECKS if name not in checks},
        layers=expected,
        saturation=dict(tally.saturation),
        clipped=tally.clipped,
        model_is_source=is_source,
        accuracy=_accuracy(tally, labels),
        local=rank(tally.layers),
        source=SOURCES[str(program.metadata.get("source", CHECKPOINT))],
        notes=() if runner is None else notes_of(runner),
    )


def _sha256(model: Path) -> str | None:
    """A checkpoint's hash, or None if it cannot be read: loading it will say why."""
    try:
        return sha256(model)
    except OSError:
        return None


def _sides(build: Build, program: Scheduled, model: Path | None) -> Sides:
    """Load all sides.

    Raises:
        InputError: The checkpoint is another network than the one that was compiled.
    """
    if build.from_nir:
        return _nir_sides(build, program, model)
    if build.from_module:
        if model is not None:
            open_original(build, program, model)
        return Sides(program, {}, None, None)
    size = program.input.shape[-1]
    quantized = open_checkpoint(build.quantized_path, timesteps=program.timesteps, image_size=size)
    _same_populations(quantized, program, str(build.quantized_path))
    if model is None:
        return Sides(program, {}, None, quantized)
    original = open_original(build, program, model)
    assert isinstance(original, TorchNetwork)
    assert isinstance(original.model, SpikingResformer)
    graphs = _build_graphs(import_model(original.model), pipeline.CHECKPOINT.float_passes, build, program)
    return Sides(program, graphs, original, quantized, fine_tuned=original.fine_tuned)


def _nir_sides(build: Build, program: Scheduled, model: Path | None) -> Sides:
    """The sides of a network from a NIR file."""
    if model is None:
        return Sides(program, {}, None, None)
    original = open_original(build, program, model)
    assert isinstance(original, NirNetwork)
    return Sides(program, _build_graphs(original.graph, pipeline.NIR.float_passes, build, program), original, None)


def open_original(build: Build, program: Scheduled, model: Path) -> TorchNetwork | NirNetwork:
    """What a build was compiled from, in real numbers.

    Args:
        build: Of a checkpoint or a NIR file.
        program: The build's.
        model: The file.

    Raises:
        ResformerError: It cannot be read.
        InputError: It is another network than the one that was compiled, or that was a module in memory.
    """
    if build.from_module:
        raise InputError(
            f"{model}: the build was compiled from a module in memory; verify it there, with Compiled.verify"
        )
    if not build.from_nir:
        size = program.input.shape[-1]
        chosen = build.report["options"]
        checkpoint = open_checkpoint(model, timesteps=program.timesteps, image_size=size, chosen=chosen)
        _same_populations(checkpoint, program, str(model))
        return checkpoint
    known = build.network().metadata
    graph = import_nir(model, dt=float(known["dt"]), timesteps=program.timesteps, reset=str(known["reset"]))
    original = NirNetwork(graph)
    same = set(original.neurons) == set(program.lif_names) and (graph.input.shape, graph.output.shape) == (
        program.input.shape,
        program.output.shape,
    )
    if not same:
        raise InputError(f"{model}: another network than the one that was compiled; give the file of the build")
    return original


def _same_populations(network: TorchNetwork, program: Scheduled, source: str) -> None:
    assert isinstance(network.model, SpikingResformer)
    classes = network.model.architecture.num_classes, network.model.architecture.in_channels
    wanted = program.output.shape[0], program.input.shape[0]
    if set(network.neurons) != set(program.lif_names) or classes != wanted:
        raise InputError(f"{source}: another network than the one that was compiled; give the checkpoint of the build")


def _build_graphs(
    graph: Graph[nir.NIRNode], passes: Sequence[FloatPass], build: Build, program: Scheduled
) -> dict[str, Graph[nir.NIRNode]]:
    """The float graph as imported, after each float pass, and as the build's file holds it."""
    graphs = float_graphs(graph, passes) | {f"{A_FILE} {build.network_path.name}": build.network()}
    for stage, each in graphs.items():
        names = {node.name for node in each if isinstance(node.op, NEURONS)}
        assert names == set(program.lif_names), f"{stage}: its populations are not the program's"
    return graphs


def float_graphs(graph: Graph[nir.NIRNode], passes: Sequence[FloatPass]) -> dict[str, Graph[nir.NIRNode]]:
    """The float graph as imported, and after each float pass."""
    graphs = {"import": graph}
    for float_pass in passes:
        graph = float_pass(graph)
        graphs[float_pass.__name__] = graph
    return graphs


def _compare(
    sides: Sides, samples: Samples, runner: Runner | None, backend: str, at_once: int, update: Progress
) -> Tally:
    """All samples through all sides, in bounded memory."""
    program, total = sides.program, Tally(sides)
    for start, stop in batches(len(samples), at_once):
        trace = None
        if runner is not None:
            # before any thread of ours starts: a backend may fork
            encoded = encode(samples.real(start, stop), program).values
            trace = runner(
                program,
                encoded,
                record=True,
                progress=lambda done, steps, start=start, stop=stop: update(  # type: ignore[misc]
                    f"running in {backend}", start + (stop - start) * done / max(steps, 1), len(samples)
                ),
            )
            assert set(recorded_names(program)) <= {*trace.spikes, *trace.graded, program.output.name}, (
                f"{backend} did not record all that is compared"
            )
        for tally in _in_parallel(sides, samples, start, stop, trace):
            total.merge(tally)
            update("comparing", len(total.predictions_quantized), len(samples))
    return total


def _in_parallel(sides: Sides, samples: Samples, first: int, last: int, trace: Trace | None) -> Iterator[Tally]:
    """The tallies of all batches in order, each batch on one thread of few, each thread with a network of its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # small batches rather than several threads in one: what is not parallel in a batch then runs beside another's
    size = min(batch_size(sides.program), math.ceil((last - first) / cores))
    ranges = list(batches(last - first, size))
    traces = [None] * len(ranges) if trace is None else split(trace, ranges)
    workers = min(cores, len(ranges))
    idle = deque([sides, *(sides.copy() for _ in range(workers - 1))])

    def check(bounds: tuple[int, int], part: Trace | None) -> Tally:
        mine = idle.pop()
        try:
            return check_batch(mine, samples, first + bounds[0], first + bounds[1], part)
        finally:
            idle.append(mine)

    with _threads(max(1, cores // workers)):
        executor = ThreadPoolExecutor(workers)
        try:
            yield from executor.map(check, ranges, traces)
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads for each of our threads: more than cores would wait for each other, a hundred times slower."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


def _float_graph(
    sides: Sides,
    original: TorchNetwork | NirNetwork,
    tally: Tally,
    samples: Samples,
    expected: Mapping[str, int],
) -> Check:
    """E1, over all graphs."""
    assert tally.float_graph.keys() == sides.graphs.keys()
    divergence = None
    for stage, comparison in tally.float_graph.items():
        require_complete(f"{FLOAT_GRAPH}, {stage}", comparison.compared, expected)
        if comparison.first is not None and divergence is None:
            layer = comparison.layers[comparison.first.layer]
            divergence = float_divergence(
                comparison.first, layer, original, stage, sides.graphs[stage], sides.program, samples
            )
    return Check(
        layers=_sum([_counts(comparison) for comparison in tally.float_graph.values()]),
        demanded=True,
        passed=not any(comparison.wrong for comparison in tally.float_graph.values()),
        note=_stages(sides),
        divergence=divergence,
        extra={
            "graphs": {
                stage: {
                    "compared": comparison.total,
                    "mismatched": comparison.wrong,
                    "logits_max_difference": tally.float_logits_error[stage],
                }
                for stage, comparison in tally.float_graph.items()
            }
        },
    )


def _stages(sides: Sides) -> str:
    """Which float graphs were compared, in words."""
    files = sum(stage.startswith(A_FILE) for stage in sides.graphs)
    passes = f"the import, after each of {len(sides.graphs) - 1 - files} passes"
    return f"{passes}, and the build's file" if files else passes


def _backend(program: Scheduled, tally: Tally, backend: str, samples: Samples, expected: Mapping[str, int]) -> Check:
    """E2."""
    comparison, steps = tally.backend, program.timesteps * len(samples)
    names = recorded_names(program)
    require_complete(BACKEND, comparison.compared, {name: steps * math.prod(program[name].shape) for name in names})
    counts = _counts(comparison)
    graded = [name for name in names if name not in expected and name != program.output.name]
    divergence = None
    if comparison.first is not None:
        layer = comparison.layers[comparison.first.layer]
        divergence = backend_divergence(comparison.first, layer, program, backend, samples)
    return Check(
        layers={name: counts[name] for name in expected},
        demanded=True,
        passed=comparison.wrong == 0,
        note="spikes, graded values and logits",
        divergence=divergence,
        extra={
            "graded": _total([counts[name] for name in graded]),
            "graded_layers": {
                name: dict(zip(("compared", "mismatched"), counts[name], strict=True)) for name in graded
            },
            "logits": _total([counts[program.output.name]]),
        },
    )


def _quantized(
    sides: Sides, quantized: TorchNetwork, tally: Tally, samples: Samples, expected: Mapping[str, int]
) -> Check:
    """E3: demanded where the arithmetic is exact and nothing saturated."""
    program, saturated = sides.program, tally.saturated_samples
    exact, whole = _counts(tally.quantized), _sum([_counts(tally.quantized), _counts(tally.saturated)])
    require_complete(QUANTIZED, {name: compared for name, (compared, _) in whole.items()}, expected)
    require_complete(QUANTIZED, tally.currents.compared, tally.quantized.compared) if tally.quantized.total else None
    weights = differing_weights(program, quantized.model.state_dict(), sides.pool_areas)
    wrong_weights = sum(wrong for _, wrong in weights.values())
    tolerance = logit_tolerance(program)
    logits_agree = tally.quantized_logits_error <= tolerance
    exact_here = program.is_dyadic and not sides.inexact and tally.quantized.total > 0
    if wrong_weights:
        note = f"weights differ in {', '.join(name for name, (_, wrong) in weights.items() if wrong)}"
    elif not program.is_dyadic:
        note = "not demanded: a decay is rounded to 12 bits, or T is above 7"
    elif sides.inexact:
        note = f"not demanded: {sides.inexact}"
    elif not tally.quantized.total:
        note = "not demanded: a value saturated in every sample; give calibration images to resformer-compile"
    elif saturated:
        note = f"demanded of the {len(samples) - len(saturated)} samples in which nothing saturated"
    else:
        note = "spikes, input currents, weights and logits"
    comparison = next((each for each in (tally.quantized, tally.currents, tally.saturated) if each.first), None)
    divergence = None
    if comparison is not None and comparison.first is not None:
        layer = comparison.layers[comparison.first.layer]
        divergence = quantized_divergence(comparison.first, layer, program, quantized, samples)
    return Check(
        layers=exact if exact_here else whole,
        demanded=exact_here or wrong_weights > 0,
        passed=not (tally.quantized.wrong or tally.currents.wrong or wrong_weights) and logits_agree,
        note=note,
        divergence=divergence,
        extra={
            "currents": {"compared": tally.currents.total, "mismatched": tally.currents.wrong},
            "weights": _total(weights.values()),
            "logits_max_difference": tally.quantized_logits_error,
            "logits_tolerance": tolerance,
            "saturated": {
                "samples": saturated,
                "compared": tally.saturated.total,
                "mismatched": tally.saturated.wrong,
            },
        },
    )


def _original(sides: Sides, tally: Tally, expected: Mapping[str, int]) -> Check:
    """E4: measured; demanded only of a checkpoint that was fine-tuned for these integers, as far as E3 is."""
    require_complete(ORIGINAL, tally.original.compared, expected)
    require_complete(ORIGINAL, tally.local.compared, expected)
    original, quantized = tally.predictions_original, tally.predictions_quantized
    spikes = 2 * tally.both + tally.only_original + tally.only_quantized
    demanded = sides.fine_tuned and sides.program.is_dyadic and not tally.saturated_samples
    note = "given samples rounded as the program's are, as it was fine-tuned" if sides.fine_tuned else "measured"
    return Check(
        layers=_counts(tally.original),
        demanded=demanded,
        passed=tally.original.wrong == 0,
        note=note,
        extra={
            "f1": 2 * tally.both / spikes if spikes else 1.0,
            "top1_agreement": float(np.mean(np.equal(original, quantized))),
            "local": {"compared": tally.local.total, "mismatched": tally.local.wrong},
            "local_layers": {
                name: {"compared": compared, "mismatched": mismatched}
                for name, (compared, mismatched) in _counts(tally.local).items()
            },
        },
    )


def logit_tolerance(program: Scheduled) -> float:
    """How far a logit of ``quantized.pt`` may be from the program's.

    Every bias there is less by the shift of ties, and a residual stream adds up at most as many biases as there are
    layers; a relay that shifts rounds by half its unit, which the pool behind it adds up and the output divides.
    The classifier weighs their sum. The factor of two covers float64's own rounding.
    """
    output = program.output.op
    assert isinstance(output, Output)
    layers = len(layer_names(program))
    rounding, area = 0.0, 1
    for node in reversed(program.nodes):
        match node.op:
            case SumPool2d(kernel_size=kernel):
                area *= math.prod(kernel)
            case Relay(shift=shift) if shift:
                rounding += 0.5 * 2.0**-node.op.signal.scale_exp * area / output.divisor
            case _:
                pass
    rows = [
        float(np.abs(real_weight(program, node.name)).sum(axis=1).max())
        for node in program
        if isinstance(node.op, Dense)
    ]
    return 2 * (TIE_SHIFT * layers + rounding) * math.prod(rows)


def _accuracy(tally: Tally, labels: npt.NDArray[np.int64] | None) -> dict[str, float]:
    if labels is None:
        return {}
    found = {"original": tally.predictions_original, "quantized": tally.predictions_quantized}
    return {name: float(np.mean(np.equal(each, labels))) for name, each in found.items() if each}


def _counts(comparison: Comparison) -> dict[str, tuple[int, int]]:
    return {name: (comparison.compared[name], comparison.mismatched[name]) for name in comparison.layers}


def _sum(counts: Sequence[Counts]) -> dict[str, tuple[int, int]]:
    """Counts of the same layers, added."""
    return {name: (sum(each[name][0] for each in counts), sum(each[name][1] for each in counts)) for name in counts[0]}


def _total(counts: Any) -> dict[str, int]:
    pairs = list(counts)
    return {"compared": sum(each for each, _ in pairs), "mismatched": sum(each for _, each in pairs)}
