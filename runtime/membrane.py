"""Membrane traces: current, potential and spikes of single neurons at each step, in integers and in real numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import nir
import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.ir import float_interpreter, neurons, reference
from resformer.compiler.ir.arrays import InvariantError, require
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.ops import LIF, CubaLIF, MultiSpikeIF, PromptCubaLIF, Spiking
from resformer.compiler.ir.primitives import (
    DiscreteCubaLIF,
    Neurons,
    RecurrentCubaLIF,
    as_neurons,
    collapse,
)
from resformer.compiler.ir.primitives import MultiSpikeIF as FloatMultiSpikeIF
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.summary import Summarized, Summary, counted
from resformer.compiler.ir.trace import CountTrain, SpikeTrain
from resformer.compiler.target import LOIHI
from resformer.errors import InputError
from resformer.runtime.run.encode import decode, encode

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
NeuronIndex: TypeAlias = "int | np.integer[Any] | Sequence[int]"
"""Which neuron of a population: (channel, row, column), or its index in the flattened population."""


@dataclass(frozen=True, eq=False)
class IntegerTrace:
    """What Loihi's registers hold, as the reference interpreter defines them: potentials in 1/64 of the input's unit.

    Attributes:
        current: (N, T), what each step adds to the decayed potential: the current register and the bias.
        potential: (N, T), before the neuron fires or not.
        left: (N, T), what is left of the potential after the neuron fired or not.
        spikes: (N, T), 0 or 1; counts if the neuron may fire several spikes a step.
        threshold: vth * 64. The neuron fires above it; a neuron that may fire several spikes a step fires at it, and
            one that rounds its count from half of it on.
    """

    current: Int64Array
    potential: Int64Array
    left: Int64Array
    spikes: Int64Array
    threshold: int


@dataclass(frozen=True, eq=False)
class RealTrace:
    """The trace of the original's neuron, in float64, as the float interpreter computes it; ``v_reset`` counts as 0.

    Attributes:
        current: (N, T), what each step adds to the decayed potential.
        potential: (N, T), before the neuron fires or not.
        left: (N, T), what is left of the potential after the neuron fired or not.
        spikes: (N, T), 0 or 1; counts if the neuron may fire several spikes a step.
        threshold: The neuron fires at it or above it, as the network defines; one that rounds its count fires from half
            of it on.
    """

    current: Float64Array
    potential: Float64Array
    left: Float64Array
    spikes: Int64Array
    threshold: float


@dataclass(frozen=True, eq=False, repr=False)
class Membrane(Summarized):
    """One neuron over the steps of some samples, in the quantized network and in the original.

    Each sample begins at rest. To compare the two, divide each by its threshold: ``in_thresholds`` does.

    Attributes:
        name: The name of its population.
        neuron: Its index in the population, (C, H, W).
        integer: The trace in the program's integers.
        real: The trace in the original's real numbers; None if there is no float graph.
    """

    name: str
    neuron: tuple[int, ...]
    integer: IntegerTrace
    real: RealTrace | None

    def in_thresholds(self) -> tuple[Float64Array, Float64Array | None]:
        """The potentials before firing, (N, T), of the program and of the original, where 1 is the threshold.

        For a SpikingJelly network whose ``v_threshold`` is 1 and whose ``v_reset`` is 0, the original's potentials are
        SpikingJelly's own numbers.
        """
        program = self.integer.potential / (self.integer.threshold or 1)
        real = None if self.real is None else self.real.potential / (self.real.threshold or 1.0)
        return program, real

    def summary(self) -> Summary:
        """Which neuron it is, how often it fires on either side, and by how much the two sides differ."""
        samples, steps = self.integer.potential.shape
        program, original = self.in_thresholds()
        rows = [
            ("neuron", ", ".join(map(str, self.neuron))),
            ("steps", f"{counted(samples, 'sample')}, {counted(steps, 'step')} each"),
            ("spikes", f"{int(self.integer.spikes.sum())} of the program"),
            ("potential", f"{program.min():.4g} to {program.max():.4g} thresholds"),
        ]
        if self.real is not None and original is not None:
            differ = int(np.count_nonzero(self.integer.spikes != self.real.spikes))
            rows[2] = ("spikes", f"{rows[2][1]}, {int(self.real.spikes.sum())} of the original; {differ} steps differ")
            rows.append(("apart", f"{np.abs(program - original).max():.3g} thresholds at most"))
        return f"Membrane trace of {self.name}", rows


def trace(
    program: Program,
    graph: Graph[nir.NIRNode] | None,
    samples: Float64Array,
    name: str,
    neuron: NeuronIndex,
    *,
    rounded: bool = False,
) -> Membrane:
    """The membrane trace of one neuron.

    Args:
        program: The integer network.
        graph: Its float graph; None: the original is not traced.
        samples: Real, (N, C, H, W), the same frame for all T steps, or (N, T, C, H, W).
        name: A population that fires.
        neuron: Which of its neurons.
        rounded: Whether the original is given samples rounded as the program's are, because it was fine-tuned so.

    Raises:
        InputError: There is no such population, or no such neuron in it.
    """
    index = neuron_index(program, name, neuron)
    wanted = {name: (index,)}
    inside = IntegerRecorder(program, {name: lambda _steps: (index,)})
    reference.run(program, encode(samples, program).values, observe=inside)
    beside: Mapping[str, Sequence[RealTrace]] = {}
    if graph is not None:
        beside = real_traces(graph, as_original_takes(samples, program, rounded=rounded), wanted)
    real = beside[name][0] if name in beside else None
    return Membrane(name, unravelled(program, name, index), inside.traces[name][0], real)


def neuron_index(program: Program, name: str, neuron: NeuronIndex) -> int:
    """A neuron's index in its flattened population.

    Raises:
        InputError: There is no such population, or no such neuron in it.
    """
    if name not in program.spiking_names:
        near = ", ".join(program.spiking_names[:4])
        more = f" and {len(program.spiking_names) - 4} more" if len(program.spiking_names) > 4 else ""
        raise InputError(f"{name}: no population that fires has this name; there are {near}{more}")
    shape = program[name].shape
    size = math.prod(shape)
    if isinstance(neuron, int | np.integer):
        if not 0 <= neuron < size:
            raise InputError(f"{name}: has {size} neurons, 0 to {size - 1}; there is no neuron {neuron}")
        return int(neuron)
    index = tuple(int(each) for each in neuron)
    if len(index) != len(shape) or not all(0 <= each < edge for each, edge in zip(index, shape, strict=True)):
        given, wanted = (", ".join(map(str, each)) for each in (index, shape))
        raise InputError(f"{name}: its shape is ({wanted}); there is no neuron ({given})")
    return int(np.ravel_multi_index(index, shape))


def unravelled(program: Program, name: str, index: int) -> tuple[int, ...]:
    """A neuron's index, (C, H, W), given its index in the flattened population."""
    return tuple(int(each) for each in np.unravel_index(index, program[name].shape))


def as_original_takes(samples: Float64Array, program: Program, *, rounded: bool) -> Float64Array:
    """Samples as the original is given them: rounded as the program's are if ``rounded``, otherwise unchanged."""
    return decode(encode(samples, program).values, program) if rounded else samples


class Steps(NamedTuple):
    """All steps of a population; each array but ``threshold`` is (T, N, neurons).

    Attributes:
        current: What each step adds to the decayed potential.
        potential: The potential before firing.
        left: The potential after firing.
        spikes: Which neurons fire, or how often.
        threshold: (neurons,), vth * 64.
    """

    current: Int64Array
    potential: Int64Array
    left: Int64Array
    spikes: Int64Array
    threshold: Int64Array

    def at(self, index: int) -> IntegerTrace:
        """The trace of one neuron."""
        current, potential, left, spikes = (np.ascontiguousarray(each[:, :, index].T) for each in self[:4])
        return IntegerTrace(current, potential, left, spikes, int(self.threshold[index]))


Choose: TypeAlias = Callable[[Steps], Sequence[int]]
"""Which neurons of a population to keep, given all its steps."""


class IntegerRecorder:
    """An observer of the reference interpreter that keeps the traces of some neurons.

    Args:
        program: The program that runs.
        choose: For each wanted population, the function that chooses its neurons.
        samples: How many samples are recorded, from the first on; None: all.

    Attributes:
        chosen: The chosen neurons of each population, as indices in the flattened population.
        traces: The traces of these neurons, in the same order.
    """

    def __init__(self, program: Program, choose: Mapping[str, Choose], samples: int | None = None) -> None:
        self.chosen: dict[str, tuple[int, ...]] = {}
        self.traces: dict[str, tuple[IntegerTrace, ...]] = {}
        self._program = program
        self._choose = choose
        self._samples = samples
        self._left = {name: program[name].inputs[0] for name in choose}
        self._currents: dict[str, Int64Array] = {}

    def __call__(self, name: str, value: Int64Array) -> None:
        """See ``reference.Observer``."""
        value = value[:, : self._samples]
        if name in self._left:
            source = self._left.pop(name)
            steps = _integer_steps(self._program, name, self._currents[source], value)
            self.chosen[name] = tuple(self._choose[name](steps))
            self.traces[name] = tuple(steps.at(index) for index in self.chosen[name])
            if source not in self._left.values():
                del self._currents[source]
        if name in self._left.values():
            self._currents[name] = value


def _integer_steps(program: Program, name: str, a: Int64Array, spikes: Int64Array) -> Steps:
    """All steps of a population, computed from its input ``a``; its spikes must be ``spikes``."""
    op = program[name].op
    require(isinstance(op, Spiking | MultiSpikeIF), f"{name}: has no potential")
    axes = a.ndim - 2
    rows: list[tuple[Int64Array, Int64Array, Int64Array, Int64Array]] = []
    if isinstance(op, MultiSpikeIF):
        thresholds = op.vth.astype(np.int64)
        rows.extend(
            ((now << LOIHI.a_shift) + op.bias, made.charged, made.v, made.counts)
            for now, made in zip(a, op.steps(a), strict=True)
        )
    elif isinstance(op, Spiking):
        thresholds, added = op.thresholds, _added_beside_current(op, axes)
        dropped: Any = 0
        for each in op.steps(a):
            rows.append((each.u + added, each.charged - dropped, each.v, each.spikes.astype(np.int64)))
            if isinstance(
                op, PromptCubaLIF
            ):  # it loses its drop before it is compared, and only gets it back if silent
                dropped = op.v_drop * (each.v > op.thresholds << LOIHI.a_shift)
    current, potential, left, fired = (np.stack(each).reshape(*a.shape[:2], -1) for each in zip(*rows, strict=True))
    require(bool((fired == spikes.reshape(fired.shape)).all()), f"{name}: the potentials are not those that fired")
    shape = program[name].shape
    registers = np.broadcast_to(thresholds << LOIHI.a_shift, shape).reshape(-1)
    return Steps(current, potential, left, fired, registers)


def _added_beside_current(op: Spiking, axes: int) -> Int64Array:
    """What a step adds to the potential in addition to the current register, to be broadcast against (N, ...)."""
    if isinstance(op, LIF):
        return op.input_bias(axes)
    if isinstance(op, CubaLIF):
        return op.v_bias.astype(np.int64)
    raise InvariantError(f"no trace of a {type(op).__name__} is defined")


def real_traces(
    graph: Graph[nir.NIRNode], samples: Float64Array, wanted: Mapping[str, Sequence[int]]
) -> dict[str, tuple[RealTrace, ...]]:
    """The traces of some neurons in a float graph.

    Args:
        graph: A graph that has the program's populations.
        samples: Samples as the graph takes them.
        wanted: For each wanted population, its neurons, as indices in the flattened population.
    """
    dt = float(graph.metadata["dt"])
    found: dict[str, tuple[RealTrace, ...]] = {}
    for node, inputs, value in float_interpreter.trace(graph, samples):
        if node.name in wanted:
            found[node.name] = _real(as_neurons(node.op), inputs[0], value, dt, wanted[node.name])
    return found


def real_spikes(graph: Graph[nir.NIRNode], samples: Float64Array, names: Sequence[str]) -> dict[str, SpikeTrain]:
    """What some populations of a float graph fire, (T, N, ...)."""
    found: dict[str, SpikeTrain] = {}
    for node, _, value in float_interpreter.trace(graph, samples):
        if node.name in names:
            train = CountTrain if isinstance(node.op, FloatMultiSpikeIF) else SpikeTrain
            found[node.name] = train.pack(value.numpy())
    return found


def _real(
    op: Neurons, current: torch.Tensor, spikes: torch.Tensor, dt: float, wanted: Sequence[int]
) -> tuple[RealTrace, ...]:
    """The traces of some neurons, given the input and the spikes of their population, (T, N, ...)."""
    shape = tuple(current.shape[2:])
    charged = np.stack([v.numpy() for v, _ in float_interpreter.charge(op, current, dt)])
    charged = charged.reshape(*charged.shape[:2], -1)
    given = current.numpy()
    if isinstance(op, RecurrentCubaLIF):
        fed_back = float_interpreter.evaluate(op.synapses(), float_interpreter.step_ago(spikes))
        given = given + fed_back.numpy()
    given, fired = (each.reshape(charged.shape) for each in (given, spikes.numpy()))
    facts = _facts(op, dt)
    traces = []
    for index in wanted:
        one = {name: float(np.broadcast_to(value, shape).reshape(-1)[index]) for name, value in facts.items()}
        potential = charged[:, :, index] - one["rest"]
        values = _added(given[:, :, index], one), potential, _left(op, potential, fired[:, :, index], one)
        current_, potential_, left = (np.ascontiguousarray(each.T) for each in values)
        traces.append(RealTrace(current_, potential_, left, fired[:, :, index].T.astype(np.int64), one["threshold"]))
    return tuple(traces)


def _facts(op: Neurons, dt: float) -> dict[str, Float64Array]:
    """The parameters of neurons that a trace needs, each to be broadcast against the population.

    ``syn``: each step the current keeps 1 - ``syn`` of itself, before the input is added. ``gain``: the potential gains
    ``gain`` times the current. ``bias``: what a step adds to the potential in addition. ``rest``: the potential that a
    trace counts as 0, from which ``threshold`` counts too. ``drop``: what a spike takes from the potential, if it does
    not set it to zero. ``floor``, of neurons that may fire several spikes a step: the least potential after a step.
    """
    none = np.zeros(())
    if isinstance(op, FloatMultiSpikeIF):
        height = collapse(op.v_threshold)
        facts = {"syn": none + 1, "gain": none + 1, "bias": none, "rest": none, "drop": height, "threshold": height}
        return facts | {"floor": collapse(op.v_floor)}
    if isinstance(op, DiscreteCubaLIF):
        named = {"syn": op.syn_decay, "bias": op.v_bias, "drop": op.v_drop, "threshold": op.v_threshold}
        return {"gain": none + 1, "rest": none, **{key: collapse(value) for key, value in named.items()}}
    step, rest = neurons.decays(op, dt), collapse(op.v_reset)
    height = collapse(op.v_threshold) - rest
    leak = step.mem * (step.rest - rest)
    return {"syn": step.syn, "gain": step.gain, "bias": leak, "rest": rest, "drop": height, "threshold": height}


def _added(given: Float64Array, neuron: Mapping[str, float]) -> Float64Array:
    """What each step adds to the decayed potential of one neuron, given its input, (T, N)."""
    current, rows = np.zeros_like(given[0]), []
    for now in given:
        current = current * (1 - neuron["syn"]) + now
        rows.append(current * neuron["gain"] + neuron["bias"])
    return np.stack(rows)


def _left(op: Neurons, potential: Float64Array, fired: Float64Array, neuron: Mapping[str, float]) -> Float64Array:
    """What is left of one neuron's potential after it fired or not, (T, N), counted from ``v_reset``."""
    drop = neuron["drop"]
    if isinstance(op, FloatMultiSpikeIF):
        return np.maximum(potential - fired * drop, neuron["floor"])
    mode = op.metadata.get("reset", neurons.HARD)
    if isinstance(op, DiscreteCubaLIF) and mode != neurons.PROMPT:
        mode = neurons.SOFT if op.soft_reset else neurons.HARD
    if mode == neurons.HARD:
        return np.where(fired > 0, 0.0, potential)
    if mode == neurons.LATE:
        return potential  # the next step takes the drop
    if mode == neurons.SOFT:
        return potential - fired * drop
    # prompt: where the step began across the threshold, ``potential`` has lost the drop already
    crosses = np.greater if op.metadata.get("fires_at") == ">" else np.greater_equal
    left, rows = np.zeros_like(potential[0]), []
    for now, spikes in zip(potential, fired, strict=True):
        left = now - drop * (spikes - crosses(left, neuron["threshold"]))
        rows.append(left)
    return np.stack(rows)
