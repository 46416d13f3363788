"""Where two sides first differ: the place, and each side's membrane potential there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import nir
import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.ir import fixedpoint, float_interpreter, reference
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.ops import MultiSpikeIF, Spiking
from resformer.compiler.ir.program import Scheduled
from resformer.compiler.samples.arrays import Samples
from resformer.compiler.target import LOIHI
from resformer.runtime.run.encode import decode, encode
from resformer.runtime.run.trace import ElementPosition
from resformer.runtime.verify.nir_network import NirNetwork, potentials
from resformer.runtime.verify.torch_network import TorchNetwork

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """One side of a divergence.

    Attributes:
        name: The name of the side.
        potential: The neuron's membrane potential before it fires or not, in units of its threshold; None if the side
            does not show its potentials.
        integer: The same potential as the program's integer; None on a side that computes in real numbers.
    """

    name: str
    potential: float | None
    integer: int | None = None

    def __str__(self) -> str:
        if self.potential is None:
            return f"{self.name}: v is not shown"
        integer = "" if self.integer is None else f" (integer {self.integer})"
        return f"{self.name}: v = {self.potential!r} thresholds{integer}"


@dataclass(frozen=True)
class Divergence:
    """The first place where two sides differ.

    Attributes:
        layer: The name of the population, or of the node whose graded value differs.
        step: The step of the sample, from 0.
        sample: The index of the sample.
        neuron: The index of the neuron in the population.
        sides: The two sides.
    """

    layer: str
    step: int
    sample: int
    neuron: tuple[int, ...]
    sides: tuple[Side, Side]

    def __str__(self) -> str:
        neuron = ", ".join(map(str, self.neuron))
        where = f"{self.layer}, step {self.step}, sample {self.sample}, neuron ({neuron})"
        return f"{where}: {self.sides[0]}; {self.sides[1]}"


def float_divergence(
    place: ElementPosition,
    layer: str,
    original: TorchNetwork | NirNetwork,
    stage: str,
    graph: Graph[nir.NIRNode],
    program: Scheduled,
    samples: Samples,
) -> Divergence:
    """Where a float graph first differs from the original (E1)."""
    sample = samples.real(place.sample, place.sample + 1)
    if isinstance(original, TorchNetwork) and original.fine_tuned:
        sample = decode(encode(sample, program).values, program)
    index = int(np.ravel_multi_index(place.neuron, program[layer].shape))
    given = _currents(original, layer, sample)
    caught: dict[str, torch.Tensor] = {}
    float_interpreter.run(graph, sample, observe=caught.__setitem__)
    seen = caught[graph[layer].inputs[0]]
    return _at(
        place,
        layer,
        Side(original.source, float(original.potentials(layer, index, given)[place.step])),
        Side(f"float graph, {stage}", float(potentials(graph, layer, index, seen)[place.step])),
    )


def backend_divergence(
    place: ElementPosition, layer: str, program: Scheduled, backend: str, samples: Samples
) -> Divergence:
    """Where a backend first differs from the reference interpreter (E2); the inputs up to there were still equal."""
    side = Side("program", None)
    if isinstance(program[layer].op, Spiking | MultiSpikeIF):
        sample = encode(samples.real(place.sample, place.sample + 1), program).values
        side = _program_side(place, layer, program, sample)
    return _at(place, layer, side, Side(backend, None))


def quantized_divergence(
    place: ElementPosition, layer: str, program: Scheduled, quantized: TorchNetwork, samples: Samples
) -> Divergence:
    """Where the program first differs from ``quantized.pt`` (E3)."""
    sample = encode(samples.real(place.sample, place.sample + 1), program).values
    index = int(np.ravel_multi_index(place.neuron, program[layer].shape))
    given = _currents(quantized, layer, decode(sample, program))
    return _at(
        place,
        layer,
        Side("quantized.pt", float(quantized.potentials(layer, index, given)[place.step])),
        _program_side(place, layer, program, sample),
    )


def _at(place: ElementPosition, layer: str, left: Side, right: Side) -> Divergence:
    return Divergence(layer, place.step, place.sample, place.neuron, (left, right))


def _currents(network: TorchNetwork | NirNetwork, layer: str, sample: Float64Array) -> Float64Array:
    """The input currents of a population for one sample, (T, 1, ...)."""
    caught: list[Float64Array] = []

    def observe(name: str, currents: torch.Tensor, _spikes: torch.Tensor) -> None:
        if name == layer:
            caught.append(currents.numpy().copy())

    network.run(sample, observe)
    return caught[0]


def _program_side(place: ElementPosition, layer: str, program: Scheduled, sample: npt.NDArray[np.int32]) -> Side:
    """The program's side: the membrane potential of its neuron."""
    neurons = program[layer].op
    assert isinstance(neurons, Spiking | MultiSpikeIF)
    caught: dict[str, npt.NDArray[np.int64]] = {}
    reference.run(program, sample, observe=caught.__setitem__)
    steps: Iterator[fixedpoint.LifStep | fixedpoint.MultiSpikeStep] = neurons.steps(caught[program[layer].inputs[0]])
    state = next(itertools.islice(steps, place.step, None))
    potential = int(state.charged[(0, *place.neuron)])
    heights = neurons.vth if isinstance(neurons, MultiSpikeIF) else neurons.thresholds
    threshold = int(np.broadcast_to(heights, program[layer].shape)[place.neuron])
    # a threshold of zero cannot be a unit, so the potential is left as it is
    return Side("program", potential / ((threshold << LOIHI.a_shift) or 1), potential)
