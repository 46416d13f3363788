"""The four equivalences (E1 to E4) on one batch of samples: this module counts, and ``conclude`` judges."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeAlias

import nir
import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.ir import float_interpreter, reference
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.ops import IntegerLIF, MultiSpikeIF, RecurrentCubaLIF, SpikeMatMul, Spiking
from resformer.compiler.ir.ops.arithmetic import per_channel
from resformer.compiler.ir.primitives import columns_of, half_rows, rows_of
from resformer.compiler.ir.program import Scheduled, layer_names, real_weight
from resformer.compiler.ir.trace import Trace
from resformer.compiler.samples.arrays import Samples
from resformer.compiler.target import LOIHI
from resformer.errors import InputError
from resformer.runtime.run.encode import checksums, decode, encode, predict, real_logits
from resformer.runtime.run.trace import Comparison
from resformer.runtime.verify.local import Layer, LayerTally, LocalComparison
from resformer.runtime.verify.nir_network import NirNetwork
from resformer.runtime.verify.torch_network import ModuleNetwork, TorchNetwork

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
SpikeArray = npt.NDArray[Any]
"""Spikes (bool), or counts of spikes (integers)."""
IntArray = npt.NDArray[np.int64]

UNIT = 1 << LOIHI.a_shift
"""How many units of a bias make one unit of a current: biases count in 1/64 of it."""
CURRENT_TOLERANCE = UNIT // 4
"""How far a current in SpikingJelly may be from the program's, in 1/64 of its unit. Both are whole units apart from the
tie shift, which a product of attention adds up a few thousand times at most: 2^12 * 2^-30 * 2^13 = 1/32 unit."""


FOLDED_LOGIT_TOLERANCE = 1e-6
"""How far a float graph's logits may be from the original's, relative to the largest: folding changes last bits."""

Spread: TypeAlias = tuple[tuple[int, int], list[int], list[int]]
"""The size of an enlarged image, and which rows and which columns of it are the original image's."""


@dataclass(frozen=True)
class Sides:
    """The sides that are compared.

    Attributes:
        program: The scheduled integer program.
        graphs: The float graphs: after the import, after each float pass, and as the build's file holds it, if there is
            a build. Empty without the original.
        original: The checkpoint or module in SpikingJelly, or the NIR file as it was imported; None if not given.
        quantized: The quantized checkpoint or module in SpikingJelly; None if the source has none, as a NIR file.
        fine_tuned: Whether the original was fine-tuned for this program's integers, its rounded input included. It is
            then given the same input as the program.
        folded: The graph of ``graphs`` after all float passes, if each layer's own error is to be measured; otherwise
            None.
        inexact: Why E3 need not hold, beyond what ``Program.is_dyadic`` says; "" if it must hold.
        weight_factors: By layer, the factor between the program's weights and the quantized module's, to be broadcast
            against the weights: program * factor = module.
        kernels: By layer whose kernel the compiler padded with zeros, the rows and columns of the module's own kernel.
        spreads: By linear layer in front of which the module enlarges its image, what ``primitives.spread_of`` says.
        gains: By population, its gain in the compiled graph over its gain in the module (``module_sides.gains``).
        meant_exact: Whether the program, as it was compiled, truncates no potential. E3 is then demanded even if the
            program was changed since and truncates some.
    """

    program: Scheduled
    graphs: Mapping[str, Graph[nir.NIRNode]]
    original: TorchNetwork | NirNetwork | None
    quantized: TorchNetwork | None
    fine_tuned: bool = False
    folded: Graph[nir.NIRNode] | None = None
    inexact: str = ""
    weight_factors: Mapping[str, Float64Array] = field(default_factory=dict)
    kernels: Mapping[str, tuple[slice, slice]] = field(default_factory=dict)
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    gains: Mapping[str, float] = field(default_factory=dict)
    meant_exact: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether the program's arithmetic equals that of real numbers, or did when it was compiled."""
        return self.meant_exact or self.program.is_dyadic

    def copy(self) -> Sides:
        """Sides for another thread, with copies of the networks in SpikingJelly: only these keep a state."""
        original = None if self.original is None else self.original.copy()
        quantized = None if self.quantized is None else self.quantized.copy()
        return replace(self, original=original, quantized=quantized)


@dataclass
class LogitErrors:
    """How far a float graph's logits are from the original's.

    Attributes:
        largest: The largest magnitude of the original's logits, or one.
        error: The largest difference of a logit.
        summed: The same, if the original returns sums over T where the graph's logits are means; otherwise infinite.
        classes: How many samples have another class.
    """

    largest: float = 1.0
    error: float = 0.0
    summed: float = 0.0
    classes: int = 0

    def add(self, logits: Float64Array, expected: Float64Array) -> None:
        """Add logits of some samples: the graph's, (T, N, classes), and the original's, the same or (1, N, classes)."""
        once = len(expected) < len(logits)
        summed = float(logit_errors(logits * len(logits), expected).max()) if once else math.inf
        classes = int(np.count_nonzero(predict(logits) != predict(expected)))
        error = float(logit_errors(logits, expected).max())
        self.merge(LogitErrors(float(np.abs(expected).max()), error, summed, classes))

    def merge(self, other: LogitErrors) -> None:
        """Add the logits of other samples."""
        self.largest, self.error = max(self.largest, other.largest), max(self.error, other.error)
        self.summed, self.classes = max(self.summed, other.summed), self.classes + other.classes

    @property
    def agree(self) -> bool:
        """Whether the logits are the same, or sums over T of the same, but for rounding."""
        return min(self.error, self.summed) <= FOLDED_LOGIT_TOLERANCE * self.largest


class Tally:
    """The counts of comparing some samples.

    Attributes:
        float_graph: E1, by graph: the original's spikes against the graph's.
        float_logits: E1, by graph: how far its logits are from the original's.
        backend: E2: spikes, graded values and logits of the reference interpreter against the backend's.
        quantized: E3: spikes of ``quantized.pt`` against the backend's, in samples in which no value that spikes depend
            on was clipped.
        saturated: E3: the same spikes in the other samples.
        currents: E3: the input current of each neuron, in the samples of ``quantized``.
        quantized_logits_error: E3: the largest difference of a logit, in samples in which no value at all was clipped.
        original: E4: the original's spikes against the backend's.
        local: E4: the original's spikes against the program's, when each layer of it is fed the original's spikes.
        layers: E4: each layer's own error, if ``Sides.folded`` is given.
        both, only_original, only_quantized: E4: the number of spikes that fired on both sides, or on one side only.
        predictions_original, predictions_quantized: The predicted class of each sample.
        checksums: The checksum of each sample as the program is given it.
        saturation: How often a value was clipped, by node.
        ties: How often a potential met its threshold exactly and did not fire, by population.
        saturated_samples: The indices of samples in which a value that spikes depend on was clipped.
        clipped: The number of input values that were clipped to the input's range.
        largest: The largest magnitude of any input value.
        fired: How often each population of the backend fired.
    """

    def __init__(self, sides: Sides) -> None:
        program = sides.program
        spiking = program.spiking_names
        self.float_graph = {stage: Comparison(spiking) for stage in sides.graphs}
        self.float_logits = {stage: LogitErrors() for stage in sides.graphs}
        self.backend = Comparison(recorded_names(program))
        self.quantized, self.saturated, self.currents = (Comparison(spiking) for _ in range(3))
        self.quantized_logits_error = 0.0
        self.original, self.local = Comparison(spiking), Comparison(spiking)
        self.layers: dict[Layer, LayerTally] = {}
        self.both = self.only_original = self.only_quantized = 0
        self.predictions_original: list[int] = []
        self.predictions_quantized: list[int] = []
        self.checksums: list[int] = []
        self.saturation: Counter[str] = Counter()
        self.ties: Counter[str] = Counter()
        self.saturated_samples: list[int] = []
        self.clipped = 0
        self.largest = 0.0
        self.fired: Counter[str] = Counter(dict.fromkeys(spiking, 0))

    def merge(self, other: Tally) -> None:
        """Add the counts of the samples that follow these."""
        for stage, comparison in self.float_graph.items():
            comparison.merge(other.float_graph[stage])
            self.float_logits[stage].merge(other.float_logits[stage])
        for name in ("backend", "quantized", "saturated", "currents", "original", "local"):
            getattr(self, name).merge(getattr(other, name))
        self.quantized_logits_error = max(self.quantized_logits_error, other.quantized_logits_error)
        for name in ("both", "only_original", "only_quantized", "clipped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("predictions_original", "predictions_quantized", "checksums", "saturated_samples"):
            getattr(self, name).extend(getattr(other, name))
        self.largest = max(self.largest, other.largest)
        self.fired.update(other.fired)
        self.saturation.update(other.saturation)
        self.ties.update(other.ties)
        for layer, tally in other.layers.items():
            self.layers.setdefault(layer, LayerTally()).merge(tally)


@dataclass
class _Batch:
    """One batch and what is known about it so far; the original is given ``samples``, the program ``encoded``."""

    sides: Sides
    samples: Float64Array
    encoded: npt.NDArray[np.int32]
    indices: range
    tally: Tally
    original: dict[str, SpikeArray] = field(default_factory=dict)

    def sent(self, layer: str, values: torch.Tensor) -> Any:
        """A population's spikes in the program's shape, (T, N, ...): bool, or counts if a step may have several."""
        spikes = values.bool() if self.sides.program[layer].op.fires else values.to(torch.int16)
        return self.shaped(layer, spikes)

    def shaped(self, layer: str, values: torch.Tensor) -> Any:
        """A population's values in the program's shape, (T, N, ...)."""
        return values.reshape(*values.shape[:2], *self.sides.program[layer].shape).numpy()


def check_batch(sides: Sides, samples: Samples, start: int, stop: int, backend: Trace | None) -> Tally:
    """Compare all sides on some samples.

    Args:
        sides: The sides, which no other thread uses.
        samples: All samples.
        start: The index of the first sample to compare.
        stop: One past the index of the last sample to compare.
        backend: What the backend recorded for these samples; None if the reference interpreter is the backend.
    """
    program, tally = sides.program, Tally(sides)
    real = samples.real(start, stop)
    encoded = encode(real, program)
    tally.clipped, tally.largest = encoded.clipped, encoded.largest
    tally.checksums = checksums(encoded.values)
    given = decode(encoded.values, program) if sides.fine_tuned else real
    batch = _Batch(sides, given, encoded.values, range(start, stop), tally)
    if sides.original is not None:
        _compare_float_graphs(batch, sides.original)
    quantized = None if sides.quantized is None else _run_quantized(batch, sides.quantized)
    differ: dict[str, BoolArray] = {}
    observe = None if quantized is None else _current_observer(batch, quantized[2], differ)
    trace = reference.run(program, batch.encoded, record=True, observe=observe)
    tally.saturation.update({name: count for name, count in trace.saturated.items() if count})
    tally.ties.update(trace.ties)
    if backend is not None:
        _compare_backend(batch, trace, backend)
    trace = trace if backend is None else backend
    spikes = {name: _sent(trace, name) for name in program.spiking_names}
    tally.fired.update({name: int(np.count_nonzero(each)) for name, each in spikes.items()})
    if quantized is not None:
        _compare_quantized(batch, spikes, trace, quantized[0], quantized[1], differ)
    tally.predictions_quantized = predict(real_logits(trace.logits, program)).tolist()
    if sides.original is not None:
        _compare_original(batch, spikes)
    return tally


def _compare_float_graphs(batch: _Batch, original: TorchNetwork | NirNetwork) -> None:
    """E1: the original against each float graph; the original's spikes are kept for E4."""

    def keep(name: str, _currents: torch.Tensor, spikes: torch.Tensor) -> None:
        sent = batch.sent(name, spikes)
        _require_whole(name, sent, batch.shaped(name, spikes))
        batch.original[name] = sent

    logits = original.run(batch.samples, keep)
    tally = batch.tally
    tally.predictions_original = predict(logits).tolist()
    previous: tuple[str, Graph[nir.NIRNode]] | None = None
    for stage, graph in batch.sides.graphs.items():
        comparison = tally.float_graph[stage]
        # most passes find nothing to change in a network, and then the graph need not run again
        if previous is not None and graph.is_made_of(previous[1]):
            comparison.merge(tally.float_graph[previous[0]])
            tally.float_logits[stage].merge(tally.float_logits[previous[0]])
            continue
        previous = stage, graph

        def compare(name: str, value: torch.Tensor, comparison: Comparison = comparison) -> None:
            if name in batch.original:
                comparison.add(name, batch.sent(name, value) != batch.original[name], batch.indices)

        made = float_interpreter.run(graph, batch.samples, observe=compare).numpy()
        tally.float_logits[stage].add(made, logits)


def _require_whole(name: str, sent: SpikeArray, fired: SpikeArray) -> None:
    """Check that a population of the original sends what the program's can: spikes, or whole counts of spikes.

    Raises:
        InputError: It sends something else, such as spikes of 0.5.
    """
    others = fired[sent != fired]
    if others.size:
        wanted = "0 or 1" if sent.dtype == np.bool_ else "whole numbers"
        raise InputError(
            f"{name}: the original's neurons send {others[0]:g} where those of the build send {wanted}; give the "
            "network that was compiled"
        )


def logit_errors(logits: Float64Array, expected: Float64Array) -> Float64Array:
    """Absolute differences of logits, (T, N, classes), from the expected ones, or from their mean, (1, N, classes)."""
    errors: Float64Array = np.abs(
        (logits if len(logits) == len(expected) else logits.mean(0, keepdims=True)) - expected
    )
    return errors


def _run_quantized(
    batch: _Batch, quantized: TorchNetwork
) -> tuple[dict[str, BoolArray], Float64Array, dict[str, npt.NDArray[np.int32]]]:
    """Run the quantized network in SpikingJelly on the program's input.

    Returns:
        Its spikes by population, its logits, and its currents by population, in 1/64 of the program's unit.
    """
    program = batch.sides.program
    spikes: dict[str, BoolArray] = {}
    currents: dict[str, npt.NDArray[np.int32]] = {}
    levels = quantized.levels if isinstance(quantized, ModuleNetwork) else ()
    written = {each.name: each for each in levels if each is not None and each.threshold is not None}

    def keep(name: str, current: torch.Tensor, fired: torch.Tensor) -> None:
        spikes[name] = batch.sent(name, fired)
        op = program[name].op
        if name in written:  # ``current`` is the potential, in thresholds
            current = written[name].currents(current, fired)
        if isinstance(op, IntegerLIF):  # ``current`` is the potential that it clamps, in thresholds
            unit: Any = op.vth * UNIT
        else:
            unit = 2.0 ** program[program[name].inputs[0]].op.signal.scale_exp * UNIT / batch.sides.gains.get(name, 1.0)
        largest = np.iinfo(np.int32).max
        given = np.clip(batch.shaped(name, current) * unit, -largest, largest)
        if isinstance(op, RecurrentCubaLIF):  # the program's current lacks what its recurrent synapses bring
            given = given - op.fed_back(spikes[name].astype(np.int64)) * UNIT
        currents[name] = np.rint(given).astype(np.int32)

    logits = quantized.run(decode(batch.encoded, program), keep)
    return spikes, logits, currents


def _current_observer(
    batch: _Batch, expected: Mapping[str, npt.NDArray[np.int32]], differ: dict[str, BoolArray]
) -> reference.Observer:
    """An observer that notes in ``differ`` where a neuron of the program gets another current than in SpikingJelly."""
    program = batch.sides.program
    readers = {
        node.name: [reader for reader in program.consumers[node.name] if isinstance(reader.op, Spiking | IntegerLIF)]
        for node in program
    }

    def observe(name: str, value: IntArray) -> None:
        for reader in readers[name]:
            if isinstance(reader.op, IntegerLIF):
                most = reader.op.max_spikes * UNIT * reader.op.vth.astype(np.int64)
                charged = np.stack([each.charged for each in reader.op.steps(value)])
                differ[reader.name] = np.clip(charged, 0, most) != expected[reader.name]
                continue
            assert isinstance(reader.op, Spiking)
            given = value * UNIT + reader.op.meant_bias(value.ndim - 2)
            # where ties fire there is no tie shift, and a bias that is wrong by its surplus, 1/64 or more, must show
            tolerance = np.where(per_channel(reader.op.surplus, value.ndim - 2) > 0, 1, CURRENT_TOLERANCE)
            differ[reader.name] = np.abs(given - expected[reader.name]) >= tolerance

    return observe


def _compare_backend(batch: _Batch, expected: Trace, backend: Trace) -> None:
    """E2: the reference interpreter against the backend."""
    program, comparison = batch.sides.program, batch.tally.backend
    for name in recorded_names(program):
        if name in expected.spikes:
            differ = expected.spikes[name].dense() != backend.spikes[name].dense()
        elif name in expected.graded:
            differ = expected.graded[name] != backend.graded[name]
        else:
            differ = expected.logits != backend.logits
        comparison.add(name, differ, batch.indices)


def _compare_quantized(
    batch: _Batch,
    spikes: Mapping[str, SpikeArray],
    trace: Trace,
    expected: Mapping[str, BoolArray],
    expected_logits: Float64Array,
    currents_differ: Mapping[str, BoolArray],
) -> None:
    """E3: ``quantized.pt`` against the backend; samples in which something saturated are counted apart."""
    program, tally = batch.sides.program, batch.tally
    saturated, readout_saturated = _saturated(batch)
    exact = [position for position in range(len(batch.indices)) if position not in saturated]
    for name in program.spiking_names:
        differ = spikes[name] != expected[name]
        for comparison, values, positions in (
            (tally.quantized, differ, exact),
            (tally.saturated, differ, saturated),
            (tally.currents, currents_differ[name], exact),
        ):
            comparison.add(name, values[:, positions], [batch.indices[position] for position in positions])
    tally.saturated_samples = [batch.indices[position] for position in saturated]
    whole = [position for position in exact if position not in readout_saturated]
    error = logit_errors(real_logits(trace.logits, program), expected_logits)[:, whole]
    tally.quantized_logits_error = float(error.max(initial=0.0))


def _saturated(batch: _Batch) -> tuple[list[int], list[int]]:
    """The samples of a batch in which a value that spikes depend on was clipped, and those in which any value was."""
    if not batch.tally.saturation:
        return [], []
    program = batch.sides.program
    relevant = before_spikes(program)
    spiking, any_node = [], []
    for position in range(len(batch.indices)):
        counts = reference.run(program, batch.encoded[position : position + 1]).saturated
        if any(counts.values()):
            any_node.append(position)
        if any(counts.get(name) for name in relevant):
            spiking.append(position)
    return spiking, any_node


def _sent(trace: Trace, name: str) -> SpikeArray:
    """A population's spikes, or counts of spikes, (T, N, ...)."""
    return trace.spikes[name].dense() if name in trace.spikes else trace.graded[name]


def _compare_original(batch: _Batch, spikes: Mapping[str, SpikeArray]) -> None:
    """E4: the original against the backend from end to end, and against each layer alone, fed the original's spikes."""
    program, tally = batch.sides.program, batch.tally
    overrides = {name: spikes.astype(np.int64) for name, spikes in batch.original.items()}
    alone = None if batch.sides.folded is None else LocalComparison(program, batch.sides.folded)
    observe = None if alone is None else alone.keep
    local = reference.run(program, batch.encoded, record=True, overrides=overrides, observe=observe)
    if alone is not None:
        alone.compare(batch.samples, batch.original, spikes, local.logits)
        tally.layers = alone.tallies
    for name in program.spiking_names:
        original, quantized = batch.original[name], spikes[name]
        tally.original.add(name, original != quantized, batch.indices)
        tally.local.add(name, original != _sent(local, name), batch.indices)
        both = int(np.minimum(original, quantized).sum(dtype=np.int64))
        tally.both += both
        tally.only_original += int(original.sum(dtype=np.int64)) - both
        tally.only_quantized += int(quantized.sum(dtype=np.int64)) - both


def recorded_names(program: Scheduled) -> tuple[str, ...]:
    """The nodes whose values E2 compares: all that send spikes or graded values, and the output."""
    return (*(node.name for node in program if node.op.recorded), program.output.name)


def before_spikes(program: Scheduled) -> set[str]:
    """The nodes on whose values the spikes of any population depend, including the populations themselves."""
    found: set[str] = set()
    for node in reversed(program.nodes):
        if (
            node.op.fires
            or isinstance(node.op, MultiSpikeIF)
            or any(reader.name in found for reader in program.consumers[node.name])
        ):
            found.add(node.name)
    return found


def differing_weights(
    program: Scheduled,
    state: Mapping[str, torch.Tensor],
    factors: Mapping[str, Float64Array] = MappingProxyType({}),
    kernels: Mapping[str, tuple[slice, slice]] = MappingProxyType({}),
    spreads: Mapping[str, Spread] = MappingProxyType({}),
) -> dict[str, tuple[int, int]]:
    """For each layer, how many weights it has, and how many of them are not exactly the quantized checkpoint's.

    Synapses of weight one that the compiler put in are left out: the checkpoint has no such layer.
    """
    counts = {}
    for layer in layer_names(program):
        name, _, part = layer.rpartition(".")
        if part in ("y1", "y2") and f"{layer}.weight" not in state:
            weight = state[f"{name}.weight"].numpy()
            (product,) = _readers_of_y(program, layer)
            weight = weight[half_rows(len(weight), product.num_heads, part)]
        elif (found := rows_of(layer)) is not None and f"{found[0]}.weight" in state:
            weight = state[f"{found[0]}.weight"].numpy()[found[1]]
        elif (part_of := columns_of(layer)) is not None and f"{part_of[0]}.weight" in state:
            weight = state[f"{part_of[0]}.weight"].numpy()[:, part_of[1]]
        elif f"{layer}.weight" in state:
            weight = state[f"{layer}.weight"].numpy()
        else:
            continue
        if layer in spreads:
            size, rows, columns = spreads[layer]
            weight = weight.reshape(len(weight), -1, *size)[:, :, np.array(rows)[:, None], columns]
        real = real_weight(program, layer) * factors.get(layer, 1)
        if layer in kernels:
            real = real[(..., *kernels[layer])]
        differ = real != weight.reshape(real.shape)
        counts[layer] = (differ.size, int(np.count_nonzero(differ)))
    return counts


def _readers_of_y(program: Scheduled, name: str) -> Sequence[SpikeMatMul]:
    """The products of attention that read a convolution's output, directly or through delays and relays."""
    found: list[SpikeMatMul] = []
    for reader in program.consumers[name]:
        found += [reader.op] if isinstance(reader.op, SpikeMatMul) else _readers_of_y(program, reader.name)
    return found
