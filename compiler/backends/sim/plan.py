"""From a program to a plan: which operations run together, in what layout, and over which blocks of channels.

Values are matrices (T, N * positions, channels), channels last, so that a position's channels are neighbours in memory
and a 1x1 convolution is a matrix product. T is 1 where all steps are alike (the stem of a static image). A sum, a relay
and neurons become one :class:`NeuronStep`, one pass over memory. Steps that need only their own share of the channels
of the steps before form a :class:`Segment`, which runs block by block. A value that only the segment uses then never
leaves the cache, and several threads can share one sample by running different blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from resformer.compiler.ir.bounds import magnitudes
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.interval import EXACT_IN_FLOAT32, Magnitude
from resformer.compiler.ir.ops import (
    LIF,
    Add,
    Conv2d,
    CubaLI,
    CubaLIF,
    Delay,
    Dense,
    Flatten,
    Input,
    MaxPool2d,
    MultiSpikeIF,
    Op,
    Output,
    RecurrentCubaLIF,
    Relay,
    SampleDelay,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
    Spiking,
    SumPool2d,
)
from resformer.compiler.ir.program import Program
from resformer.errors import UnsupportedError

BLOCK_BYTES = 1 << 22
"""The most bytes for a block's largest value; with the values beside it, a core's share of a cache of 32 MiB."""
BLOCK_CHANNELS_MIN = 32
"""Narrower blocks waste the width of the matrix kernels."""
BLOCK_CHANNELS_UNIT = 16
"""Blocks are a multiple of one vector register wide, where channels allow it."""


class Layout(Enum):
    """How a node's shape lies in a matrix of positions and channels."""

    MAP = "map"
    """(C, H, W): positions H * W, channels C."""
    ATTENTION = "attention"
    """(heads, n, H * W): positions H * W, channels heads * n, heads first."""


@dataclass(frozen=True)
class Value:
    """What the plan knows about one node's output.

    Attributes:
        shape: The node's shape in the program, without time and batch.
        layout: How the value lies in memory.
        static: Whether all steps are alike, so that a single step is kept.
        magnitude: Bounds on the value's integers.
        is_spikes: Whether the value is kept as bytes of 0 and 1.
    """

    shape: tuple[int, ...]
    layout: Layout
    static: bool
    magnitude: Magnitude
    is_spikes: bool = False

    @property
    def positions(self) -> int:
        """The number of positions."""
        return self.shape[2] if self.layout is Layout.ATTENTION else math.prod(self.shape[1:])

    @property
    def channels(self) -> int:
        """The number of channels of a position."""
        return self.shape[0] * self.shape[1] if self.layout is Layout.ATTENTION else self.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W); (1, positions) where the shape has no H and W."""
        return (self.shape[1], self.shape[2]) if len(self.shape) == 3 else (1, self.positions)

    @property
    def is_wide(self) -> bool:
        """Whether the value needs float64 rather than float32."""
        return self.magnitude.value >= EXACT_IN_FLOAT32

    @property
    def sums_are_wide(self) -> bool:
        """Whether the partial sums that make the value need float64."""
        return self.magnitude.sums >= EXACT_IN_FLOAT32


@dataclass(frozen=True, eq=False)
class OpStep:
    """One operation by itself: a convolution, product, pool, dense layer or flattening."""

    name: str
    op: Op
    inputs: tuple[str, ...]

    @property
    def writes(self) -> tuple[str, ...]:
        """The names of the values that it makes."""
        return (self.name,)


@dataclass(frozen=True, eq=False)
class RelayoutStep:
    """A value in another layout, under another name."""

    name: str
    inputs: tuple[str]

    @property
    def writes(self) -> tuple[str, ...]:
        """The names of the values that it makes."""
        return (self.name,)


@dataclass(frozen=True, eq=False)
class NeuronStep:
    """A sum, a relay's bias and saturation, and neurons, in one pass; the relay and the neurons are optional.

    Attributes:
        inputs: The names of the values that are summed.
        relay: Name and operation of the relay, or None.
        stream: The name under which the neurons' input is kept, or None if nothing else reads it.
        lif: Name and operation of the neurons, or None.
        reach: A bound on the magnitude of what the neurons read.
    """

    inputs: tuple[str, ...]
    relay: tuple[str, Relay] | None
    stream: str | None
    lif: tuple[str, LIF | CubaLIF] | None
    reach: int

    @property
    def writes(self) -> tuple[str, ...]:
        """The names of the values that it makes."""
        return tuple(name for name in (self.stream, self.lif[0] if self.lif else None) if name is not None)


@dataclass(frozen=True, eq=False)
class AttentionStep:
    """Both products of DSSA and the neurons after each, so that the attention map is never whole in memory.

    Attributes:
        inputs: The names of y1, x and y2.
        products: Name and operation of each product.
        lifs: Name and operation of the neurons after each product.
    """

    inputs: tuple[str, str, str]
    products: tuple[tuple[str, SpikeMatMul], tuple[str, SpikeMatMul]]
    lifs: tuple[tuple[str, LIF], tuple[str, LIF]]

    @property
    def parts(self) -> tuple[Step, ...]:
        """The products and neurons as separate steps."""
        (first, second), (scores, sums) = self.lifs, self.products
        y1, x, y2 = self.inputs
        return (
            OpStep(scores[0], scores[1], (y1, x)),
            NeuronStep((scores[0],), None, None, first, scores[1].limit),
            OpStep(sums[0], sums[1], (y2, first[0])),
            NeuronStep((sums[0],), None, None, second, sums[1].limit),
        )

    @property
    def writes(self) -> tuple[str, ...]:
        """The names of the values that it makes."""
        return (self.lifs[1][0],)


@dataclass(frozen=True, eq=False)
class LayerStep:
    """Synapses and the sum, relay and neurons that read them, in one kernel, so that their sums need not be stored.

    Attributes:
        synapses: A convolution or dense layer.
        neurons: The step that reads the synapses' sums, or None: the synapses run by themselves.
        keeps_sums: Whether another step reads the synapses' sums, too.
    """

    synapses: OpStep
    neurons: NeuronStep | None
    keeps_sums: bool

    @property
    def name(self) -> str:
        """The synapses' name."""
        return self.synapses.name

    @property
    def other(self) -> str | None:
        """The name of the value that is added to the synapses' sums, or None."""
        if self.neurons is None:
            return None
        return next((name for name in self.neurons.inputs if name != self.name), None)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the values that it reads."""
        return self.synapses.inputs if self.other is None else (*self.synapses.inputs, self.other)

    @property
    def writes(self) -> tuple[str, ...]:
        """The names of the values that it makes."""
        sums = (self.name,) if self.keeps_sums else ()
        return sums if self.neurons is None else (*sums, *self.neurons.writes)


Step: TypeAlias = OpStep | RelayoutStep | NeuronStep | AttentionStep | LayerStep


@dataclass(frozen=True)
class Segment:
    """Steps that run together, once for each of a number of equal blocks of channels.

    Attributes:
        steps: The steps, in order.
        blocks: The number of blocks.
        exports: The values of this segment that later segments read, or that are the output. Its other values exist
            only within a block.
        last_reads: The values from before this segment that nothing reads after it.
    """

    steps: tuple[Step, ...]
    blocks: int
    exports: frozenset[str]
    last_reads: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """How a program runs.

    Attributes:
        segments: The segments, in order.
        values: What the plan knows about each value, by name.
        timesteps: T.
        samples: The number of samples that run at once.
        output: The name of the logits.
        input: The name of the input.
        counted: The names of the nodes that can saturate; their clips are counted.
    """

    segments: tuple[Segment, ...]
    values: Mapping[str, Value]
    timesteps: int
    samples: int
    output: str
    input: str
    counted: tuple[str, ...] = field(default=())


def build_plan(
    program: Program,
    *,
    samples: int,
    static_input: bool,
    keep_graded: bool,
    workers: int | None,
    can_attend: Callable[[AttentionStep, Mapping[str, Value]], bool] | None = None,
    can_join: Callable[[LayerStep, Mapping[str, Value]], bool] | None = None,
) -> Plan:
    """Plan a program.

    Args:
        program: The integer network.
        samples: The number of samples that run at once.
        static_input: Whether each sample is the same frame at all steps.
        keep_graded: Whether every graded value must exist, to be recorded.
        workers: The number of threads that share a sample; None: a device that takes all channels at once.
        can_attend: Tells whether the kernels compute an :class:`AttentionStep` exactly; None: no attention is fused.
        can_join: Tells whether the kernels compute a :class:`LayerStep` exactly; None: no layers are joined.

    Raises:
        UnsupportedError: An operation has no kernel; the message names its node.
    """
    planner = _Planner(program, static_input=static_input, keep_graded=keep_graded)
    steps = planner.steps()
    if can_attend is not None and not keep_graded:
        steps = _fuse_attention(steps, planner.values, can_attend)
    if can_join is not None:
        steps = _join_layers(steps, planner.values, can_join, planner.resolve(program.output.name))
    groups = list(_group(steps))
    read_last = {name: index for index, group in enumerate(groups) for step in group for name in step.inputs}
    output = planner.resolve(program.output.name)
    segments = []
    for index, group in enumerate(groups):
        written = [name for step in group for name in step.writes]
        exports = frozenset(name for name in written if read_last.get(name, -1) > index or name == output)
        blocks = 1 if workers is None else _choose_blocks(group, planner.values, program.timesteps, samples, workers)
        dead = tuple(name for name, last in read_last.items() if last == index and name != output)
        segments.append(Segment(tuple(group), blocks, exports, tuple(name for name in dead if name not in written)))
    counted = tuple(node.name for node in program if node.op.clips)
    return Plan(tuple(segments), planner.values, program.timesteps, samples, output, program.input.name, counted)


class _Planner:
    """Turns nodes into steps, in order."""

    def __init__(self, program: Program, *, static_input: bool, keep_graded: bool) -> None:
        self._program = program
        self._keep_graded = keep_graded
        self._magnitudes = magnitudes(program)
        self._aliases: dict[str, str] = {}
        self._fused: set[str] = set()
        self.values: dict[str, Value] = {
            program.input.name: Value(
                _three_axes(program.input.shape), Layout.MAP, static_input, self._magnitudes[program.input.name]
            )
        }
        self._steps: list[Step] = []

    def resolve(self, name: str) -> str:
        """The name under which a node's value is kept; a delay has no value of its own, but that of its input."""
        return self._aliases.get(name, name)

    def steps(self) -> list[Step]:
        for node in self._program:
            match node.op:
                case _ if node.name in self._fused or isinstance(node.op, Input):
                    pass
                case Delay() | Output():
                    self._aliases[node.name] = self.resolve(node.inputs[0])
                case Add() | Relay() | LIF() | CubaLIF():
                    self._neurons(node)
                case SpikeMatMul(transpose=transpose):
                    y, gate = node.inputs
                    gate_layout = Layout.MAP if transpose else Layout.ATTENTION
                    self._single(node, (self._in(Layout.MAP, y), self._in(gate_layout, gate)))
                case SpikeGate() | SpikeAttention():
                    self._single(node, tuple(self._in(Layout.MAP, name) for name in node.inputs))
                case CubaLI() | MultiSpikeIF() | SampleDelay():
                    # even if their input is the same at all steps, their output is not
                    self._single(node, (self._in(Layout.MAP, node.inputs[0]),), static=False)
                case Conv2d() | Dense() | SumPool2d() | MaxPool2d() | Flatten():
                    self._single(node, (self._in(Layout.MAP, node.inputs[0]),))
                case _:
                    raise no_kernel(node.name, node.op)
        return self._steps

    def _single(self, node: Node[Op], inputs: tuple[str, ...], *, static: bool = True) -> None:
        layout = Layout.MAP
        if isinstance(node.op, SpikeMatMul) and node.op.transpose:
            layout = Layout.ATTENTION
        passes = isinstance(node.op, Flatten | SampleDelay) and self.values[inputs[0]].is_spikes
        self.values[node.name] = Value(
            _three_axes(node.shape),
            layout,
            static and all(self.values[name].static for name in inputs),
            self._magnitudes[node.name],
            is_spikes=passes or isinstance(node.op, SpikeGate),
        )
        self._steps.append(OpStep(node.name, node.op, inputs))

    def _in(self, layout: Layout, name: str) -> str:
        """The name of a value in the layout that its reader needs; adds a step that changes the layout if need be."""
        name = self.resolve(name)
        value = self.values[name]
        if value.layout is layout:
            return name
        other = f"{name}@{layout.value}"
        if other not in self.values:
            self.values[other] = Value(value.shape, layout, value.static, value.magnitude, value.is_spikes)
            self._steps.append(RelayoutStep(other, (name,)))
        return other

    def _neurons(self, first: Node[Op]) -> None:
        """Add one step for a sum, the relay that is the only reader of this sum, and neurons that read the result."""
        node = first
        if isinstance(node.op, Add):
            readers = self._readers(node)
            if len(readers) == 1 and isinstance(readers[0].op, Relay):
                node = readers[0]
        layouts = {self.values[self.resolve(name)].layout for name in first.inputs}
        layout = layouts.pop() if len(layouts) == 1 else Layout.MAP
        inputs = tuple(self._in(layout, name) for name in first.inputs)
        static = all(self.values[name].static for name in inputs)

        relay = (node.name, node.op) if isinstance(node.op, Relay) else None
        lif = node if isinstance(node.op, Spiking) else self._lif_to_fuse(node, static)
        stream = None
        if lif is not node:
            graded = self._keep_graded and relay is not None
            if graded or [reader for reader in self._readers(node) if reader is not lif]:
                stream = node.name
                self.values[stream] = Value(_three_axes(node.shape), layout, static, self._magnitudes[node.name])
        if lif is not None:
            self.values[lif.name] = Value(_three_axes(lif.shape), layout, False, Magnitude(1, 1), is_spikes=True)
        fused = None
        if lif is not None:
            if not isinstance(lif.op, LIF | CubaLIF):
                raise no_kernel(lif.name, lif.op)
            fused = (lif.name, lif.op)
        self._fused |= {first.name, node.name} | ({lif.name} if lif else set())
        reach = self._magnitudes[lif.inputs[0] if lif else node.name].value
        self._steps.append(NeuronStep(inputs, relay, stream, fused, reach))

    def _lif_to_fuse(self, node: Node[Op], static: bool) -> Node[Op] | None:
        """The neurons to run in the same pass; None if all steps are alike: the node runs once, neurons T times."""
        if static:
            return None
        return next((reader for reader in self._readers(node) if isinstance(reader.op, Spiking)), None)

    def _readers(self, node: Node[Op]) -> list[Node[Op]]:
        """The nodes that read a node, directly or through delays."""
        found: list[Node[Op]] = []
        for reader in self._program.consumers[node.name]:
            found += self._readers(reader) if isinstance(reader.op, Delay) else [reader]
        return found


def no_kernel(name: str, op: Op) -> UnsupportedError:
    """The error for an operation that sim does not know."""
    return UnsupportedError(f"{name}: sim has no kernel for a {type(op).__name__}; use --backend reference")


def _three_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if len(shape) == 3 else (*shape, *(1,) * (3 - len(shape)))


def _fuse_attention(
    steps: list[Step],
    values: Mapping[str, Value],
    can_attend: Callable[[AttentionStep, Mapping[str, Value]], bool],
) -> list[Step]:
    """Replace product, neurons, product, neurons by one step, where nothing else reads the values in between."""
    producers = {name: step for step in steps for name in step.writes}
    readers: dict[str, list[Step]] = {}
    for step in steps:
        for name in dict.fromkeys(step.inputs):
            readers.setdefault(name, []).append(step)

    def sole_neurons(product: OpStep) -> tuple[NeuronStep, tuple[str, LIF]] | None:
        match readers.get(product.name):
            case [NeuronStep(inputs=(_,), relay=None, stream=None, lif=(name, LIF() as lif)) as neurons]:
                return neurons, (name, lif)
        return None

    fused: dict[int, AttentionStep] = {}
    dropped: set[int] = set()
    for second in steps:
        if not (isinstance(second, OpStep) and isinstance(second.op, SpikeMatMul) and not second.op.transpose):
            continue
        y2, gate = second.inputs
        neurons, out = producers.get(gate), sole_neurons(second)
        if out is None or not isinstance(neurons, NeuronStep) or readers[gate] != [second]:
            continue
        first = producers.get(neurons.inputs[0])
        if not (isinstance(first, OpStep) and isinstance(first.op, SpikeMatMul) and first.op.transpose):
            continue
        attention = sole_neurons(first)
        if attention is None or attention[0] is not neurons or first.op.num_heads != second.op.num_heads:
            continue
        y1, x = first.inputs
        step = AttentionStep(
            (y1, x, y2),
            ((first.name, first.op), (second.name, second.op)),
            (attention[1], out[1]),
        )
        if can_attend(step, values):
            fused[id(out[0])] = step
            dropped |= {id(first), id(neurons), id(second)}
    return [fused.get(id(step), step) for step in steps if id(step) not in dropped]


def _join_layers(
    steps: list[Step],
    values: Mapping[str, Value],
    can_join: Callable[[LayerStep, Mapping[str, Value]], bool],
    output: str,
) -> list[Step]:
    """Put synapses and the sum, relay and neurons that read them into one step; other synapses become one alone."""
    made_at = {name: index for index, step in enumerate(steps) for name in step.writes}
    readers: dict[str, list[int]] = {}
    for index, step in enumerate(steps):
        for name in dict.fromkeys(step.inputs):
            readers.setdefault(name, []).append(index)
    joined: dict[int, Step] = {}
    dropped: set[int] = set()
    for index, neurons in enumerate(steps):
        if not isinstance(neurons, NeuronStep) or len(neurons.inputs) > 2:
            continue
        # join with the step that makes the latest input: the other input exists by then
        last = max((made_at.get(name, -1) for name in neurons.inputs), default=-1)
        synapses = steps[last] if last >= 0 else None
        if not (isinstance(synapses, OpStep) and isinstance(synapses.op, Conv2d | Dense)):
            continue
        if len(set(neurons.inputs)) < len(neurons.inputs):
            continue
        layer = LayerStep(synapses, neurons, synapses.name == output or readers[synapses.name] != [index])
        if last not in joined and can_join(layer, values):
            joined[last] = layer
            dropped.add(index)
    for index, step in enumerate(steps):
        if index not in joined and isinstance(step, OpStep) and isinstance(step.op, Conv2d | Dense):
            alone = LayerStep(step, None, keeps_sums=True)
            if can_join(alone, values):
                joined[index] = alone
    return [joined.get(index, step) for index, step in enumerate(steps) if index not in dropped]


def _group(steps: list[Step]) -> Iterator[list[Step]]:
    """Group steps into segments: cut where a step needs all channels of a value that its segment writes."""
    group: list[Step] = []
    written: set[str] = set()
    for step in steps:
        waits = _reads_all_channels(step) and not written.isdisjoint(step.inputs)
        if group and (waits or _mixes_channels(step) or _mixes_channels(group[-1])):
            yield group
            group, written = [], set()
        group.append(step)
        written.update(step.writes)
    if group:
        yield group


def _mixes_channels(step: Step) -> bool:
    """Whether a step cannot be cut into blocks of channels at all."""
    match step:
        case RelayoutStep() | OpStep(op=Dense() | Flatten()) | NeuronStep(lif=(_, RecurrentCubaLIF())):
            return True
    return False


def _reads_all_channels(step: Step) -> bool:
    grouped = isinstance(step, OpStep) and isinstance(step.op, Conv2d) and step.op.groups > 1
    return isinstance(step, LayerStep) or (isinstance(step, OpStep) and isinstance(step.op, Conv2d) and not grouped)


def _choose_blocks(steps: list[Step], values: Mapping[str, Value], timesteps: int, samples: int, workers: int) -> int:
    """The fewest blocks that fit the cache and occupy all workers, or the most that the channels allow."""
    if _mixes_channels(steps[0]):
        return 1
    most = math.gcd(*(_divisor(step, values) for step in steps))
    written = [values[name] for step in steps for name in step.writes]
    narrowest = min((value.channels for value in written if value.layout is Layout.MAP), default=most)
    size = 4 * samples * max(value.positions * value.channels * (1 if value.static else timesteps) for value in written)
    chosen = 1
    for blocks in range(1, most + 1):
        width = narrowest // blocks
        if most % blocks or width < BLOCK_CHANNELS_MIN or width % BLOCK_CHANNELS_UNIT:
            continue
        chosen = blocks
        if blocks >= workers and size / blocks <= BLOCK_BYTES:
            break
    return chosen


def _divisor(step: Step, values: Mapping[str, Value]) -> int:
    """A number that the number of blocks must divide, for one step."""
    match step:
        case AttentionStep(products=((_, product), _)):
            return product.num_heads
        case OpStep(op=SpikeMatMul(num_heads=heads) | SpikeAttention(num_heads=heads)):
            return heads
        case OpStep(op=SpikeGate(), inputs=inputs):
            return math.gcd(*(values[name].channels for name in inputs))
        case OpStep(op=Conv2d(groups=groups)) if groups > 1:
            return groups
        case NeuronStep(inputs=(source, *_)) if values[source].layout is Layout.ATTENTION:
            return values[source].shape[0]
    return values[step.writes[0]].channels
