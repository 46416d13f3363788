"""Local error: the error that each layer makes by itself when it is fed the original network's inputs.

A layer is a population and the synapses in front of it, its recurrent ones included. Recurrent synapses alone are a
further layer. A layer is fed the original's spikes; a recurrent population is also fed the spikes that it fired one
step ago in the original. On a residual stream, a layer is also fed the original's current as it was at the population
before. So the error of a layer is its own, whereas from end to end a flipped spike spreads to all later layers. The
last layers have no population: they make the logits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import TypeVar

import nir
import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.ir import float_interpreter, primitives
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.ops import (
    Add,
    Conv2d,
    Delay,
    Dense,
    Input,
    Output,
    RecurrentCubaLIF,
    Relay,
    SpikeGate,
    Spiking,
)
from resformer.compiler.ir.primitives import as_neurons, as_weighted, bias_of, collapse
from resformer.compiler.ir.program import Scheduled, is_stack, real_weight
from resformer.compiler.ir.signal import SignalKind
from resformer.compiler.target import LOIHI
from resformer.runtime.run.encode import real_logits

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

ZERO = Fraction(0)
SQUARED_BITS = 900
"""Squares of up to this many bits are summed as floats; the largest float has 1,024."""
SumT = TypeVar("SumT", int, "Fraction | float")


@dataclass(frozen=True)
class Layer:
    """A population, or a part of the readout, and the synapses in front of it.

    Attributes:
        synapses: The names of the synapses, in topological order; empty if the neurons read the input itself. A
            population's recurrent synapses have the population's name.
        population: The population's name; None if the layer is a part of the readout, or recurrent synapses alone.
        streams: The populations before it on the same residual stream, whose current is part of its own current.
        onto: If the layer is recurrent synapses alone, their population, which has another layer; otherwise None.
    """

    synapses: tuple[str, ...]
    population: str | None
    streams: tuple[str, ...]
    onto: str | None = None

    @property
    def name(self) -> str:
        """The synapses' names: where an error comes from."""
        return f"{self.onto}, recurrent" if self.onto else " + ".join(self.synapses) or str(self.population)


@dataclass
class LayerTally:
    """The counts of one layer; over samples, ``worst`` is a maximum, and everything else is added up.

    The sums are exact, so that they do not depend on which batch or process comes first.

    Attributes:
        values: The number of currents, or of logits, that were compared.
        squared_error: The sum of the squares of their errors against the original, in thresholds; of logits, as is.
        worst: The largest magnitude of these errors.
        squared_current: The sum of the squares of what the layer's synapses make in the original, in the same unit.
        compared: The number of spikes that were compared.
        mismatched: The number of spikes that differ from the original's when the layer is fed the original's inputs.
        fired, fired_original: The number of spikes when the layer is fed these inputs, and in the original.
        drifted: The number of the layer's spikes in the whole quantized network that differ from the original's.
        fired_quantized, both: The number of its spikes in that network, and of those that the original fired as well.
    """

    values: int = 0
    squared_error: Fraction | float = ZERO
    worst: float = 0.0
    squared_current: Fraction | float = ZERO
    compared: int = 0
    mismatched: int = 0
    fired: int = 0
    fired_original: int = 0
    drifted: int = 0
    fired_quantized: int = 0
    both: int = 0

    def add_errors(self, error: Float64Array, current: Float64Array) -> None:
        """Count the errors of what the layer makes, and what it makes in the original, both in the same unit."""
        self.values += error.size
        self.squared_error = _sum(self.squared_error, _exact(error))
        self.worst = max(self.worst, float(np.abs(error).max(initial=0.0)))
        self.squared_current = _sum(self.squared_current, _exact(current))

    def add_spikes(self, fired: BoolArray, original: BoolArray, quantized: BoolArray) -> None:
        """Count spikes: of the layer alone, of the original, and of the whole quantized network."""
        self.compared += original.size
        self.mismatched += int(np.count_nonzero(fired != original))
        self.fired += int(np.count_nonzero(fired))
        self.fired_original += int(np.count_nonzero(original))
        self.drifted += int(np.count_nonzero(quantized != original))
        self.fired_quantized += int(np.count_nonzero(quantized))
        self.both += int(np.count_nonzero(quantized & original))

    def merge(self, other: LayerTally) -> None:
        """Add the counts of other samples."""
        for each in fields(self):
            mine, others = getattr(self, each.name), getattr(other, each.name)
            setattr(self, each.name, max(mine, others) if each.name == "worst" else _sum(mine, others))


@dataclass(frozen=True)
class LocalError:
    """The local error of one layer.

    Attributes:
        layer: The layer.
        rank: 1 is the worst layer, the one with the largest ``relative``.
        relative: Root mean square of the error of what its synapses make, over that of what they make in the original.
        rms: Root mean square of the current's error, in thresholds; of logits, as is.
        worst: The largest magnitude of that error, in the same unit.
        tally: The counts that these figures come from.
    """

    layer: Layer
    rank: int
    relative: float
    rms: float
    worst: float
    tally: LayerTally

    @property
    def mismatch(self) -> float:
        """Share of its spikes that differ when it is fed the original's inputs."""
        return self.tally.mismatched / self.tally.compared

    @property
    def rate_original(self) -> float:
        """Firing rate in the original."""
        return self.tally.fired_original / self.tally.compared

    @property
    def rate_shift(self) -> float:
        """By how much its firing rate is above the original's when it is fed the original's inputs."""
        return (self.tally.fired - self.tally.fired_original) / self.tally.compared

    @property
    def drift(self) -> float:
        """Share of its spikes that differ in the whole quantized network."""
        return self.tally.drifted / self.tally.compared

    @property
    def f1(self) -> float:
        """F1 of its spikes in the whole quantized network; 1 if it fires neither there nor in the original."""
        either = self.tally.fired_quantized + self.tally.fired_original
        return 2 * self.tally.both / either if either else 1.0


def rank(tallies: Mapping[Layer, LayerTally]) -> tuple[LocalError, ...]:
    """The local errors of all layers, in topological order."""
    relative = {layer: _ratio(tally.squared_error, tally.squared_current) for layer, tally in tallies.items()}
    order = sorted(tallies, key=relative.__getitem__, reverse=True)
    return tuple(
        LocalError(
            layer,
            rank=1 + order.index(layer),
            relative=relative[layer],
            rms=_root(tally.squared_error, tally.values),
            worst=tally.worst,
            tally=tally,
        )
        for layer, tally in tallies.items()
    )


def _exact(values: Float64Array) -> Fraction | float:
    """The sum of the squares of a batch's values, as a fraction that adds up exactly; a float if it is not finite."""
    most = float(np.abs(values).max(initial=0.0))
    if not math.isfinite(most):
        return most * most
    # squares that are too large for a float are summed in a larger unit
    unit = math.frexp(most)[1] if most > 2.0 ** (SQUARED_BITS // 2) else 0
    return Fraction(float((np.ldexp(values, -unit) ** 2).sum())) * (1 << 2 * unit)


def _sum(one: SumT, other: SumT) -> SumT:
    """The sum of both; a float, which is infinite or NaN, is kept, since a fraction may be too large to add to it."""
    if isinstance(one, float) and isinstance(other, Fraction):
        return one
    return other if isinstance(one, Fraction) and isinstance(other, float) else one + other


def _root(total: Fraction | float, count: Fraction | float) -> float:
    """The square root of ``total / count``; it fits a float, even if the quotient itself does not."""
    if isinstance(total, float):  # infinite, or no number
        return math.sqrt(total / count if isinstance(count, float) else total)
    if isinstance(count, float):
        return math.sqrt(0.0 / count)
    quotient = Fraction(total, count)
    halved = max(quotient.numerator.bit_length() - quotient.denominator.bit_length() - SQUARED_BITS, 0) // 2
    return math.ldexp(math.sqrt(quotient / (1 << 2 * halved)), halved)


def _ratio(error: Fraction | float, current: Fraction | float) -> float:
    """Root of the ratio of two sums of squares; if there was no current at all, root of the error's sum itself."""
    return _root(error, current or 1)


def find_layers(program: Scheduled) -> tuple[Layer, ...]:
    """The layers of a program, in topological order.

    A classifier that reads currents is a layer of its own, and the synapses that make these currents are another one.
    """
    heads, order = _heads(program), {node.name: position for position, node in enumerate(program)}

    def layer(source: str, population: str | None) -> Layer:
        front = _front(program, source, {name: head for name, head in heads.items() if name != source})
        synapses, streams = (tuple(sorted(names, key=order.__getitem__)) for names in front)
        return Layer(synapses, population, streams)

    layers = []
    for name in program.lif_names:
        found = layer(_source(program, program[name].inputs[0]), name)
        if isinstance(program[name].op, RecurrentCubaLIF):
            layers.append(replace(found, synapses=(*found.synapses, name)))
            layers.append(Layer((name,), None, (), onto=name))
        else:
            layers.append(found)
    readout = layer(program.output.inputs[0], None)
    classifier = _classifier_of_currents(program)
    if classifier is not None:
        before = tuple(name for name in readout.synapses if name != classifier)
        # no synapses make what it reads if these are counts of spikes
        makers = [Layer(before, None, readout.streams)] if before else []
        return (*layers, *makers, Layer((classifier,), None, ()))
    return (*layers, readout) if readout.synapses else tuple(layers)


def _classifier_of_currents(program: Scheduled) -> str | None:
    """The linear layer in front of the output, if it reads currents or other values rather than spikes; else None."""
    last = program[program.output.inputs[0]]
    if not isinstance(last.op, Dense) or program[last.inputs[0]].op.signal.kind is SignalKind.SPIKE:
        return None
    return last.name


def _heads(program: Scheduled) -> dict[str, str]:
    """For each node that makes a current that neurons read, the first population that reads it."""
    heads: dict[str, str] = {}
    for name in program.lif_names:
        heads.setdefault(_source(program, program[name].inputs[0]), name)
    return heads


def _source(program: Scheduled, name: str) -> str:
    """The node that makes a current, found by going back through delays and relays."""
    while isinstance(program[name].op, (Delay, Relay)):
        (name,) = program[name].inputs
    return name


def _front(program: Scheduled, name: str, heads: Mapping[str, str]) -> tuple[set[str], set[str]]:
    """The synapses in front of a node, and the populations whose current is part of the node's value."""
    node = program[name]
    if isinstance(node.op, Spiking | SpikeGate | Input):
        return set(), set()
    if name in heads:
        return set(), {heads[name]}
    if is_stack(program, name):
        return {name}, _front(program, node.inputs[0], heads)[1]
    synapses: set[str] = {name} if isinstance(node.op, (Conv2d, Dense)) else set()
    streams: set[str] = set()
    # of a product's inputs only the first counts, the current that its spikes gate
    for source in node.inputs if isinstance(node.op, Add) else node.inputs[:1]:
        found = _front(program, source, heads)
        synapses |= found[0]
        streams |= found[1]
    return synapses, streams


class LocalComparison:
    """One batch of samples, layer by layer: ``keep`` observes the program, then ``compare`` runs the original.

    Args:
        program: The scheduled program.
        graph: The original after all float passes.

    Attributes:
        tallies: The counts of ``compare`` by layer, in topological order.
    """

    def __init__(self, program: Scheduled, graph: Graph[nir.NIRNode]) -> None:
        layers = find_layers(program)
        self._program = program
        self._graph = graph
        self._heads = _heads(program)
        self.tallies = {layer: LayerTally() for layer in layers}
        self._populations = {layer.population: layer for layer in layers if layer.population is not None}
        self._recurrent = {layer.onto: layer for layer in layers if layer.onto is not None}
        self._readout = [layer for layer in layers if layer.population is None and layer.onto is None]
        self._kept_synapses = {name: layer for layer in self._readout[:-1] for name in layer.synapses}
        self._features = self._graph[self._readout[-1].synapses[0]].inputs[0] if self._kept_synapses else None
        self._streams = {stream for layer in layers for stream in layer.streams}
        self._values: dict[str, npt.NDArray[np.int32]] = {}
        """The program's values that populations read, and those in front of its classifier, (T, N, ...), by node."""
        self._given: dict[str, Float64Array] = {}
        """The original's current of each population in ``_streams``, (T, N, ...)."""
        self._errors: dict[str, Float64Array] = {}
        """The error of the program's current, of the same populations, (T, N, ...)."""
        self._classified: Float64Array | None = None

    def keep(self, name: str, value: npt.NDArray[np.int64]) -> None:
        """Keep a node's value if ``compare`` needs it, from a run in which populations send the original's spikes."""
        readers = self._program.consumers[name]
        if name in self._kept_synapses or any(isinstance(reader.op, Spiking) for reader in readers):
            self._values[name] = value.astype(np.int32)

    def compare(
        self,
        samples: Float64Array,
        original: Mapping[str, BoolArray],
        quantized: Mapping[str, BoolArray],
        logits: npt.NDArray[np.int64],
    ) -> None:
        """Run the original, and compare each layer as soon as its values are there.

        Args:
            samples: (N, C, H, W) or (N, T, C, H, W), as the original is given them.
            original: The spikes of each population of the original network, (T, N, ...).
            quantized: The spikes of each population of the whole quantized network, (T, N, ...).
            logits: (T, N, classes), the integer logits of the run that ``keep`` observed.
        """

        def observe(name: str, value: torch.Tensor) -> None:
            given = value.numpy()
            if name in self._kept_synapses:
                self._compare_synapses(name, given)
            if name == self._features:
                self._classified = self._classify(given)
            for reader in self._graph.consumers[name]:
                if reader.name in self._populations:
                    self._compare_population(reader.name, given, original[reader.name], quantized[reader.name])

        expected = float_interpreter.run(self._graph, samples, observe=observe).numpy()
        if self._readout:
            made = real_logits(logits, self._program) if self._classified is None else self._classified
            self.tallies[self._readout[-1]].add_errors(made - expected, expected)

    def _compare_population(self, name: str, given: Float64Array, original: BoolArray, quantized: BoolArray) -> None:
        """Compare one population's current and spikes.

        Args:
            name: The population's name.
            given: Its current in the original, (T, N, ...), real.
            original: Its spikes in the original.
            quantized: Its spikes in the whole quantized network.
        """
        node, tally = self._program[name], self.tallies[self._populations[name]]
        neurons, source = node.op, self._program[node.inputs[0]]
        assert isinstance(neurons, Spiking)
        unit = 2.0**-source.op.signal.scale_exp
        arriving = self._values[source.name]
        if isinstance(neurons, RecurrentCubaLIF):  # on no residual stream: in NIR, populations share no current
            read = float_interpreter.step_ago(torch.from_numpy(original))
            original_neurons = self._graph[name].op
            assert isinstance(original_neurons, primitives.RecurrentCubaLIF)
            returning = float_interpreter.evaluate(original_neurons.synapses(), read.double()).numpy()
            fed_back = neurons.fed_back(original.astype(np.int64))
            self._compare_recurrent(name, returning, fed_back.astype(np.float64) * unit)
            given, arriving = given + returning, arriving + fed_back
            neurons = neurons.without_synapses()
        current = (arriving + neurons.meant_bias(given.ndim - 2) / (1 << LOIHI.a_shift)) * unit
        carried = self._carried(source.name, self._errors)
        if name in self._streams:
            self._given[name], self._errors[name] = given, current - given
        # in whole units, as the program's neurons take them; clipped, since a float may be too large for an integer
        alone = np.clip(arriving - np.rint(np.divide(carried, unit)), -LOIHI.a_max, LOIHI.a_max).astype(np.int64)
        fired = np.stack([step.spikes for step in neurons.steps(alone)])
        made = given - self._carried(source.name, self._given)
        threshold, original_threshold = _positive(self._program_threshold(name)), self._threshold(name)
        tally.add_errors((current - carried) / threshold - given / original_threshold, made / original_threshold)
        tally.add_spikes(fired, original, quantized)

    def _compare_recurrent(self, name: str, returning: Float64Array, fed_back: Float64Array) -> None:
        """Compare what recurrent synapses make of their population's spikes.

        Their biases are left out, since the layer of the population counts them.

        Args:
            name: The population.
            returning: What the synapses make in the original, (T, N, ...), real, with their bias.
            fed_back: What they make in the program, (T, N, ...), real, without a bias.
        """
        original = self._graph[name].op
        assert isinstance(original, primitives.RecurrentCubaLIF)
        made = returning - original.bias.reshape(-1, *(1,) * (returning.ndim - 3))
        error = fed_back / _positive(self._program_threshold(name)) - made / self._threshold(name)
        self.tallies[self._recurrent[name]].add_errors(error, made / self._threshold(name))

    def _program_threshold(self, name: str) -> Float64Array:
        """The program's thresholds, in the original's unit, to be broadcast against the population."""
        node = self._program[name]
        assert isinstance(node.op, Spiking)
        unit: float = 2.0 ** -self._program[node.inputs[0]].op.signal.scale_exp
        return node.op.meant_thresholds.astype(np.float64) * unit

    def _carried(self, name: str, values: Mapping[str, Float64Array]) -> Float64Array | float:
        """The part of a node's value that comes from populations before it on its stream.

        Args:
            name: The node.
            values: The current, or its error, of each of these populations.
        """
        node = self._program[name]
        if isinstance(node.op, (Delay, Relay)):
            return self._carried(node.inputs[0], values)
        total: Float64Array | float = 0.0
        for source in node.inputs if isinstance(node.op, Add) else ():
            made_by = _source(self._program, source)
            total = total + (values[self._heads[made_by]] if made_by in self._heads else self._carried(source, values))
        return total

    def _compare_synapses(self, name: str, given: Float64Array) -> None:
        """Compare what synapses in front of the classifier make, without biases: those go to the program's logits."""
        layer, node = self._kept_synapses[name], self._program[name]
        made = given - bias_of(as_weighted(self._graph[name].op)).reshape(-1, *(1,) * (given.ndim - 3))
        error = self._values[name] * 2.0**-node.op.signal.scale_exp - made
        # the unit is the largest threshold of the populations on its stream
        unit = max((float(self._threshold(stream).max()) for stream in layer.streams), default=1.0)
        self.tallies[layer].add_errors(error / unit, made / unit)

    def _threshold(self, population: str) -> Float64Array:
        """The original's thresholds, to be broadcast against the population."""
        return _positive(collapse(as_neurons(self._graph[population].op).v_threshold))

    def _classify(self, features: Float64Array) -> Float64Array:
        """The logits, (T, N, classes), that the program's weights and the original's bias make of its features.

        The program adds the classifier's bias to its logits, together with the biases of the layers before it.
        """
        output, (name,) = self._program.output.op, self._readout[-1].synapses
        assert isinstance(output, Output)
        logits: Float64Array = features @ real_weight(self._program, name).T / output.divisor
        return logits + bias_of(as_weighted(self._graph[name].op))


def _positive(threshold: npt.ArrayLike) -> Float64Array:
    """Thresholds as units to divide by: 1 where a threshold is not above zero."""
    return np.where(np.asarray(threshold) > 0, threshold, 1.0)
