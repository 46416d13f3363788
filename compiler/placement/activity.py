"""What a network did: spikes and synaptic operations, layer by layer and step by step.

Synaptic operations (SOPs) are counted as the authors' ``SOPMonitor`` does (SpikingResformer, ``utils/utils.py``): for
every convolution and linear layer but the stem's and the classifier, the sum of the layer's output on its spikes with
all weights one and no bias, so that a synapse that falls into the padding is not counted; for DSSA's products, the sum
with the operand that is no spike replaced by ones. A layer that reads graded values (counts of spikes from residual
sums, maxima from pools, levels) does one operation for each value that is not zero: a graded spike is one event.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from resformer.compiler.files.placement import ASSUMED_RATE
from resformer.compiler.ir.arrays import InvariantError
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import (
    Conv2d,
    Dense,
    Input,
    MaxPool2d,
    MultiSpikeIF,
    Op,
    Output,
    RecurrentCubaLIF,
    Relay,
    SampleDelay,
    Shapes,
    SpikeGate,
    SumPool2d,
)
from resformer.compiler.ir.program import Program, layer_names, layer_synapses, shapes_around, stacked_parts
from resformer.compiler.ir.trace import CountTrain, SpikeTrain, Trace

Int64Array = npt.NDArray[np.int64]

ASSUMED_SAMPLES = 1000
"""The number of samples over which an assumed activity is spread, since counts of spikes are whole numbers."""


@dataclass(frozen=True, eq=False)
class Activity:
    """The spikes and synaptic operations of all samples together.

    Attributes:
        samples: The number of samples.
        timesteps: T.
        spikes: For each population, (T, rows, columns), summed over samples and channels; for neurons that may fire
            several spikes a step, how often they send a count.
        sops: Synaptic operations of each layer, (T,), counted as the authors do: one for each weight, even where the
            weight is stacked and a chip does two. A recurrent layer has the name of its population.
        not_zero: For each layer of weights in ``sops``, (T,): the operations of weights that are not zero, with both
            parts of stacked weights counted.
    """

    samples: int
    timesteps: int
    spikes: Mapping[str, Int64Array]
    sops: Mapping[str, Int64Array]
    not_zero: Mapping[str, Int64Array] = field(default_factory=dict)

    @property
    def sops_per_sample(self) -> float:
        """Synaptic operations of one sample, on average."""
        return sum(int(each.sum()) for each in self.sops.values()) / self.samples


@dataclass(frozen=True, eq=False)
class Events:
    """The events of some samples, from which their activity is counted; those of a whole data set can be added up.

    Attributes:
        samples: The number of samples.
        fired: For each population and gate, (T, channels, rows, columns), summed over samples.
        passed: For each other node that synapses read and that spikes alone decide, (T, channels, rows, columns),
            summed over samples.
    """

    samples: int
    fired: Mapping[str, Int64Array]
    passed: Mapping[str, Int64Array]

    def __add__(self, other: Events) -> Events:
        """The events of both groups of samples together."""
        return Events(self.samples + other.samples, _added(self.fired, other.fired), _added(self.passed, other.passed))


def _added(some: Mapping[str, Int64Array], others: Mapping[str, Int64Array]) -> dict[str, Int64Array]:
    return {name: each + others[name] for name, each in some.items()}


def sent_spikes(program: Program, trace: Trace) -> dict[str, SpikeTrain]:
    """What the populations sent, in topological order: spikes, or counts of them; empty if nothing was recorded."""
    trains = dict(trace.spikes) | {
        name: CountTrain.pack(trace.graded[name])
        for name in program.spiking_names
        if isinstance(program[name].op, MultiSpikeIF) and name in trace.graded
    }
    return {name: trains[name] for name in program.spiking_names if name in trains}


def measure(program: Program, spikes: Mapping[str, SpikeTrain]) -> Activity:
    """Count the activity of a recorded run.

    Args:
        program: The program that ran.
        spikes: The spikes of every population, (T, N, ...), or their counts where neurons may fire several a step.
    """
    return activity(program, events(program, spikes))


def events(program: Program, spikes: Mapping[str, SpikeTrain]) -> Events:
    """The events of a recorded run, or of some samples of it.

    Args:
        program: The program that ran.
        spikes: The spikes of every population, (T, N, ...), or their counts where neurons may fire several a step.
    """
    fired = {name: _by_channel(train.dense()) for name, train in spikes.items()}
    for node in program:
        if isinstance(node.op, SpikeGate) and node.name not in fired:
            fired[node.name] = _by_channel(_required_message(program, node, spikes))
    passed: dict[str, Int64Array] = {}
    for _, synapse, indices in _counted(program):
        for source in (_source(program, synapse, index) for index in indices):
            if source.name not in fired and source.name not in passed:
                message = _message(program, source, spikes)
                if message is not None:
                    passed[source.name] = _by_channel(message)
    return Events(next(iter(spikes.values())).shape[1], fired, passed)


def activity(program: Program, seen: Events) -> Activity:
    """The activity of all samples whose events were added up.

    Args:
        program: The program that ran.
        seen: The events of all samples.
    """
    sent = {**seen.fired, **seen.passed}
    maps = {name: each.sum(axis=1) for name, each in seen.fired.items()}
    sops: dict[str, Int64Array] = {}
    not_zero: dict[str, Int64Array] = {}
    for node, synapse, indices in _counted(program):
        around = shapes_around(program, synapse)
        for index in indices:
            # (T, channels, rows, columns); None where the source does not send events
            read = sent.get(_source(program, synapse, index).name)
            if read is not None:
                counted = synapse.op.operations_of(index, read.sum(axis=1), around)
                sops[node.name] = sops.get(node.name, np.int64(0)) + counted
                if isinstance(synapse.op, Conv2d | Dense):
                    weights = [each.op for each in layer_synapses(program, node.name)]
                    not_zero[node.name] = _not_zero(weights, read, around)
        if isinstance(node.op, RecurrentCubaLIF):
            # recurrent synapses read spikes one step later, so those of the last step are never read
            own = Shapes((node.shape,), node.shape)
            returning = node.op.synapses().operations(maps[node.name][:-1], own)
            sops[node.name] = np.append(np.int64(0), returning)
            returned = _not_zero(node.op.parts(), sent[node.name][:-1], own)
            not_zero[node.name] = np.append(np.int64(0), returned)
    return Activity(seen.samples, program.timesteps, maps, sops, not_zero)


def _counted(program: Program) -> Iterator[tuple[Node[Op], Node[Op], tuple[int, ...]]]:
    """Each node, its layer's synapses, and the indices of their inputs whose operations are counted."""
    parts = stacked_parts(program)
    for node in program:
        synapse = layer_synapses(program, node.name)[0]
        is_counted = node.name not in parts and synapse.op.counts_operations and not _is_classifier(program, synapse)
        yield node, synapse, synapse.op.counted_inputs if is_counted else ()


def assumed(program: Program, rate: float = ASSUMED_RATE) -> Activity:
    """An activity in which all neurons that send spikes fire at the same rate, at each position and step."""
    spikes = {}
    for node in program:
        if node.name in program.spiking_names or isinstance(node.op, SpikeGate):
            channels, rows, columns = (*node.shape, 1, 1)[:3]
            sent = round(rate * channels * ASSUMED_SAMPLES)
            spikes[node.name] = np.full((program.timesteps, rows, columns), sent, dtype=np.int64)
    return Activity(ASSUMED_SAMPLES, program.timesteps, spikes, {})


def stem_macs(program: Program) -> int:
    """Multiplications of the convolution that reads the input, padding included, for one image or T event frames."""
    layers = [layer_synapses(program, name)[0] for name in layer_names(program)]
    stems = [node for node in layers if isinstance(node.op, Conv2d) and _reads_pixels(program, node)]
    frames = program.timesteps if program.metadata.get("input") == "frames" else 1
    return frames * sum(
        math.prod(node.shape) * math.prod(node.op.weight.shape[1:]) for node in stems if isinstance(node.op, Conv2d)
    )


def _message(program: Program, node: Node[Op], spikes: Mapping[str, SpikeTrain]) -> Int64Array | None:
    """The message of a node that spikes alone decide, (T, N, ...); None if anything else decides it."""
    if node.name in spikes:
        return spikes[node.name].dense().astype(np.int64)
    if not node.op.events_pass and not isinstance(node.op, SpikeGate):
        return None
    inputs = [_message(program, program[name], spikes) for name in node.inputs]
    known = [each for each in inputs if each is not None]
    if len(known) < len(inputs):
        return None
    value, _ = node.op.evaluate(*known)
    return value.reshape(*value.shape[:2], *node.shape)


def _required_message(program: Program, node: Node[Op], spikes: Mapping[str, SpikeTrain]) -> Int64Array:
    """The message of a node that spikes must decide, such as a gate, whose spikes a run need not record."""
    message = _message(program, node, spikes)
    if message is None:
        raise InvariantError(f"{node.name}: reads what no spikes decide")
    return message


def _source(program: Program, node: Node[Op], index: int = -1) -> Node[Op]:
    # a product's spikes are its second operand
    source = program[node.inputs[index]]
    while source.op.is_view:
        source = program[source.inputs[0]]
    return source


def _reads_pixels(program: Program, node: Node[Op]) -> bool:
    """Whether a node reads the input, as it is or through pools, and relays and delays around them."""
    source = _source(program, node)
    while isinstance(source.op, SampleDelay | SumPool2d | MaxPool2d | Relay):
        source = _source(program, source)
    return isinstance(source.op, Input)


def _is_classifier(program: Program, node: Node[Op]) -> bool:
    return isinstance(node.op, Dense) and any(isinstance(each.op, Output) for each in program.consumers[node.name])


def _not_zero(synapses: Sequence[Op], events: Int64Array, shapes: Shapes) -> Int64Array:
    """The operations of weights that are not zero, summed over all parts of a layer's synapses, (T,)."""
    total = np.zeros(len(events), dtype=np.int64)
    for op in synapses:
        assert isinstance(op, Conv2d | Dense)
        total += op.operations_not_zero(events, shapes)
    return total


def _by_channel(message: npt.NDArray[np.bool_] | Int64Array) -> Int64Array:
    """The number of events of a message, (T, N, ...), in all samples together, (T, channels, rows, columns)."""
    counts: Int64Array = np.count_nonzero(message, axis=1).astype(np.int64)
    return counts.reshape(len(counts), *(*counts.shape[1:], 1, 1)[:3])
