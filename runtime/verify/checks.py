"""The four equivalences (E1 to E4) on one batch of samples: everything is counted, nothing judged."""

from __future__ import annotations

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
from resformer.runtime.run.encode import checksums, decode, encode, predict, real_logits
from resformer.runtime.run.trace import Comparison
from resformer.runtime.verify.local import Layer, LayerTally, LocalComparison
from resformer.runtime.verify.nir_network import NirNetwork
from resformer.runtime.verify.torch_network import TorchNetwork

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
SpikeArray = npt.NDArray[Any]
"""Spikes (bool), or counts of them."""
IntArray = npt.NDArray[np.int64]

UNIT = 1 << LOIHI.a_shift
"""Biases count in 1/64 of a current's unit."""
CURRENT_TOLERANCE = UNIT // 4
"""How far a current in SpikingJelly may be from the program's, in 1/64 of its unit. Both are whole units but for the
shift of ties, which a product of attention adds up at most some thousand times: 2^12 * 2^-30 * 2^13 = 1/32 unit."""


Spread: TypeAlias = tuple[tuple[int, int], list[int], list[int]]
"""The size of an enlarged image, and which of its rows and columns are the image's own."""


@dataclass(frozen=True)
class Sides:
    """The sides that are compared.

    Attributes:
        program: The scheduled integers.
        graphs: The float graph after the import, after each float pass, and as the build's file holds it; empty
            without the original.
        original: The checkpoint or module in SpikingJelly, or the NIR file as it was imported; None if not given.
        quantized: The quantized checkpoint in SpikingJelly; None where the source is a NIR file.
        fine_tuned: Whether the original was fine-tuned for this program's integers, its input's included, so that it is
            given what the program is.
        folded: The one of ``graphs`` after all float passes, if each layer's own error is to be measured; else None.
        inexact: Why E3 need not hold, beyond what ``Program.is_dyadic`` says; "" if it must.
        weight_factors: Of each layer of the program whose weights the quantized module holds times something: what.
        kernels: Of each whose kernel has zeros around the module's own: which rows and columns of it are those.
        spreads: Of each linear layer before which the module enlarges its image: by what ``primitives.spread_of`` says.
        gains: Of each population that reads what the module's code scales, and has the factor for its own gain: that
            factor.
        meant_exact: Whether no potential of the program is truncated as it was compiled, whatever has become of it: a
            program that was changed must not be free of E3.
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
        """Whether its arithmetic is that of real numbers, or should be."""
        return self.meant_exact or self.program.is_dyadic

    def copy(self) -> Sides:
        """One for another thread: only the networks in SpikingJelly keep a state."""
        original = None if self.original is None else self.original.copy()
        quantized = None if self.quantized is None else self.quantized.copy()
        return replace(self, original=original, quantized=quantized)


class Tally:
    """What comparing some samples counted.

    Attributes:
        float_graph: E1, by graph: the checkpoint's spikes against the graph's.
        float_logits_error: E1, by graph: the largest difference of a logit.
        backend: E2: spikes, graded values and logits of the reference interpreter against the backend's.
        quantized: E3: spikes of ``quantized.pt`` against the backend's, in samples in which nothing saturated.
        saturated: E3: the same in the other samples.
        currents: E3: what each neuron was given, in samples in which nothing saturated.
        quantized_logits_error: E3: the largest difference of a logit, where nothing saturated, the readout included.
        original: E4: the checkpoint's spikes against the backend's.
        local: E4: the same, each layer of the program fed the checkpoint's spikes.
        layers: E4: each layer's own error, if the sides say to measure it.
        both, only_original, only_quantized: E4: spikes that fired on both sides, or on one alone.
        predictions_original, predictions_quantized: By sample.
        checksums: Of each sample as the program is given it.
        saturation: How often a value was clipped, by node.
        ties: How often a potential met its threshold exactly and did not fire, by population.
        saturated_samples: Those in which a value was clipped that spikes depend on.
        clipped: How many values of the input its range could not hold.
        largest: The largest magnitude of any.
        fired: How often each population of the backend fired.
    """

    def __init__(self, sides: Sides) -> None:
        program = sides.program
        spiking = program.spiking_names
        self.float_graph = {stage: Comparison(spiking) for stage in sides.graphs}
        self.float_logits_error = dict.fromkeys(sides.graphs, 0.0)
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
        """Add what the samples that follow these counted."""
        for stage, comparison in self.float_graph.items():
            comparison.merge(other.float_graph[stage])
            self.float_logits_error[stage] = max(self.float_logits_error[stage], other.float_logits_error[stage])
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
    """One batch and what is known about it so far; ``samples`` are what the original is given."""

    sides: Sides
    samples: Float64Array
    encoded: npt.NDArray[np.int32]
    indices: range
    tally: Tally
    original: dict[str, SpikeArray] = field(default_factory=dict)

    def sent(self, layer: str, values: torch.Tensor) -> Any:
        """A population's spikes as the program shapes them, (T, N, ...): bool, or counts where a step has several."""
        spikes = values.bool() if self.sides.program[layer].op.fires else values.to(torch.int16)
        return self.shaped(layer, spikes)

    def shaped(self, layer: str, values: torch.Tensor) -> Any:
        """A population's values as the program shapes them, (T, N, ...)."""
        return values.reshape(*values.shape[:2], *self.sides.program[layer].shape).numpy()


def check_batch(sides: Sides, samples: Samples, start: int, stop: int, backend: Trace | None) -> Tally:
    """Compare all sides on some samples.

    Args:
        sides: Used by no other thread.
        samples: All of them.
        start: The first to compare.
        stop: One past the last.
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
    """E1, keeping the checkpoint's spikes for E4."""

    def keep(name: str, _currents: torch.Tensor, spikes: torch.Tensor) -> None:
        batch.original[name] = batch.sent(name, spikes)

    logits = original.run(batch.samples, keep)
    tally = batch.tally
    tally.predictions_original = predict(logits).tolist()
    previous: tuple[str, Graph[nir.NIRNode]] | None = None
    for stage, graph in batch.sides.graphs.items():
        comparison = tally.float_graph[stage]
        # most passes find nothing to change in a network, and the same operations on the same values give the same
        if previous is not None and graph.is_made_of(previous[1]):
            comparison.merge(tally.float_graph[previous[0]])
            tally.float_logits_error[stage] = tally.float_logits_error[previous[0]]
            continue
        previous = stage, graph

        def compare(name: str, value: torch.Tensor, comparison: Comparison = comparison) -> None:
            if name in batch.original:
                comparison.add(name, batch.sent(name, value) != batch.original[name], batch.indices)

        error = logit_errors(float_interpreter.run(graph, batch.samples, observe=compare).numpy(), logits)
        tally.float_logits_error[stage] = float(error.max())


def logit_errors(logits: Float64Array, expected: Float64Array) -> Float64Array:
    """Differences of logits of each step, (T, N, classes); a module may give their mean over time, (1, N, classes)."""
    errors: Float64Array = np.abs(
        (logits if len(logits) == len(expected) else logits.mean(0, keepdims=True)) - expected
    )
    return errors


def _run_quantized(
    batch: _Batch, quantized: TorchNetwork
) -> tuple[dict[str, BoolArray], Float64Array, dict[str, npt.NDArray[np.int32]]]:
    """The quantized network in SpikingJelly, fed what the program is: spikes, logits, and currents in 1/64 units."""
    program = batch.sides.program
    spikes: dict[str, BoolArray] = {}
    currents: dict[str, npt.NDArray[np.int32]] = {}

    def keep(name: str, current: torch.Tensor, fired: torch.Tensor) -> None:
        spikes[name] = batch.sent(name, fired)
        op = program[name].op
        if isinstance(op, IntegerLIF):  # told what it clamps, in thresholds
            unit: Any = op.vth * UNIT
        else:
            unit = 2.0 ** program[program[name].inputs[0]].op.signal.scale_exp * UNIT / batch.sides.gains.get(name, 1.0)
        largest = np.iinfo(np.int32).max
        given = np.clip(batch.shaped(name, current) * unit, -largest, largest)
        if isinstance(op, RecurrentCubaLIF):  # whose synapses onto itself are the neurons' own
            given = given - op.fed_back(spikes[name].astype(np.int64)) * UNIT
        currents[name] = np.rint(given).astype(np.int32)

    logits = quantized.run(decode(batch.encoded, program), keep)
    return spikes, logits, currents


def _current_observer(
    batch: _Batch, expected: Mapping[str, npt.NDArray[np.int32]], differ: dict[str, BoolArray]
) -> reference.Observer:
    """Notes where a neuron of the program is given another current than in SpikingJelly."""
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
            # no shift is taken where ties fire, and a bias that holds a surplus too may be wrong by a 64th
            tolerance = np.where(per_channel(reader.op.surplus, value.ndim - 2) > 0, 1, CURRENT_TOLERANCE)
            differ[reader.name] = np.abs(given - expected[reader.name]) >= tolerance

    return observe


def _compare_backend(batch: _Batch, expected: Trace, backend: Trace) -> None:
    """E2."""
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
    """E3: where nothing saturated, and elsewhere."""
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
    """The samples of a batch in which a value was clipped that spikes depend on, and those in which any was."""
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
    """A population's spikes, (T, N, ...), or counts of them."""
    return trace.spikes[name].dense() if name in trace.spikes else trace.graded[name]


def _compare_original(batch: _Batch, spikes: Mapping[str, SpikeArray]) -> None:
    """E4: from end to end, and each layer alone, fed the checkpoint's spikes."""
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
    """The nodes whose values E2 compares: all that neurons send, and the logits."""
    return (*(node.name for node in program if node.op.recorded), program.output.name)


def before_spikes(program: Scheduled) -> set[str]:
    """The nodes on whose values the spikes of some population depend, the populations included."""
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
    """Of each layer, how many weights it has and how many are not the quantized checkpoint's, exactly.

    Synapses of weight one, which the compiler put in, are no layer of the checkpoint.
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
    """The products that read a convolution's output, seen through delays and relays."""
    found: list[SpikeMatMul] = []
    for reader in program.consumers[name]:
        found += [reader.op] if isinstance(reader.op, SpikeMatMul) else _readers_of_y(program, reader.name)
    return found
