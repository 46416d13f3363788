"""The integer level: what Loihi's number formats hold, and nothing else.

Every operation is a frozen value. Integers stand for real numbers through their signal's scale: an integer a of a
signal with ``scale_exp`` k is the real number a / 2^k. Weights are ``weight * 2**weight_exp``; a neuron's bias is
``bias_mant * 2**bias_exp`` in units of 1/64 of its synaptic input. What each operation computes is defined by
``resformer.compiler.ir.reference``; the rules of rounding, shifting and clipping by
``resformer.compiler.ir.fixedpoint``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.summary import Summary, counted
from resformer.compiler.target import LOIHI

Int8Array: TypeAlias = npt.NDArray[np.int8]
Int16Array: TypeAlias = npt.NDArray[np.int16]
WeightArray: TypeAlias = npt.NDArray[np.int8 | np.int16]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Float64Array: TypeAlias = npt.NDArray[np.float64]


class SignalKind(Enum):
    """What travels along an edge."""

    SPIKE = "spike"
    """0 or 1 each step: Loihi's binary spike."""
    GRADED = "graded"
    """An integer payload sent by a neuron of ours."""
    CURRENT = "current"
    """A sum of weighted inputs on its way to a neuron."""


@dataclass(frozen=True)
class Signal:
    """The type of an operation's output.

    Attributes:
        kind: Spike, graded spike or current.
        scale_exp: k; the integer a stands for the real number a / 2^k.
        low: The smallest integer that can occur, or None before range analysis.
        high: The largest, likewise.
    """

    kind: SignalKind
    scale_exp: int
    low: int | None = None
    high: int | None = None

    @property
    def bits(self) -> int | None:
        """Width in two's complement (1 for a spike), or None before range analysis."""
        if self.kind is SignalKind.SPIKE:
            return 1
        if self.low is None or self.high is None:
            return None
        return 1 + max((~self.low).bit_length() if self.low < 0 else 0, self.high.bit_length())


SPIKE = Signal(SignalKind.SPIKE, scale_exp=0, low=0, high=1)


@dataclass(frozen=True, eq=False)
class Op:
    """Base of the integer operations."""

    signal: Signal


@dataclass(frozen=True, eq=False)
class Input(Op):
    """Samples, encoded as integers; the same frame each step, or one frame a step."""


@dataclass(frozen=True, eq=False)
class Conv2d(Op):
    """Synapses shared over space; sends what it received one step ago.

    Attributes:
        weight: (C_out, C_in / groups, K_h, K_w); applied as a correlation, as in PyTorch. Mantissas of more than 8
            bits are int16, until ``stack_synapses`` has run.
        weight_exp: (C_out,), an exponent per output channel.
        bias: (C_out,), in units of the output's integers; zero once ``place_biases`` has run.
        stride: (rows, columns), as all that follow.
        padding: Zeros around the input.
        dilation: Distance between the kernel's taps.
        groups: Blocks of channels that do not mix.
    """

    weight: WeightArray
    weight_exp: Int8Array
    bias: Int32Array
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True, eq=False)
class Dense(Op):
    """All-to-all synapses; sends what it received one step ago.

    Attributes:
        weight: (F_out, F_in).
        weight_exp: One exponent for all, as Lava's Dense has.
        bias: (F_out,), as in :class:`Conv2d`.
    """

    weight: Int8Array
    weight_exp: int
    bias: Int32Array


@dataclass(frozen=True, eq=False)
class SumPool2d(Op):
    """Sums over windows, by synapses of weight one; sends what it received one step ago."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]


@dataclass(frozen=True, eq=False)
class MaxPool2d(Op):
    """Maxima over windows; padding never wins."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Add(Op):
    """The sum of its inputs; where currents meet at a neuron, it costs nothing."""


@dataclass(frozen=True, eq=False)
class Relay(Op):
    """A residual relay: neurons of ours that sum their inputs, add a bias, saturate and send the result on.

    Attributes:
        bias: (C,), in units of the sum's integers.
        limit: The result is clipped to [-limit, limit], and each clip is counted.
        shift: Before that, the sum is divided by 2^shift and rounded: the signal's scale is as much coarser.
    """

    bias: Int32Array
    limit: int
    shift: int = 0


@dataclass(frozen=True, eq=False)
class LIF(Op):
    """Leaky integrate-and-fire neurons with a hard reset to zero, as Lava's ``LIFReset``; reset every T steps.

    Attributes:
        vth: Threshold mantissa; a neuron fires where v > vth * 64.
        du: Decay of the current, in 1/4096 minus one.
        dv: Decay of the membrane potential, in 1/4096.
        bias_mant: (C,), or (1,) for all, mantissa of the bias.
        bias_exp: Likewise, its exponent.
    """

    vth: int
    du: int
    dv: int
    bias_mant: Int16Array
    bias_exp: Int8Array


@dataclass(frozen=True, eq=False)
class CubaLIF(Op):
    """Leaky integrate-and-fire neurons of ours, for what Lava's ``LIFReset`` is not; reset every T steps.

    Their current has a memory, they may reset by subtraction, and every parameter may vary from neuron to neuron: each
    array has as many axes as the population, and along each its size or one, which is for all. The current and the
    potential saturate at the target's ``v_max``, and each clip is counted.

    Attributes:
        vth: Threshold mantissas; a neuron fires where v > vth * 64.
        v_drop: What a spike takes from v, in 1/64 of the input, if ``soft_reset``; else zero.
        du: Decay of the current, in 1/4096 minus one: 4095 keeps nothing, as in :class:`LIF`.
        dv: Decay of the membrane potential, in 1/4096.
        u_bias: Added to the current each step, in 1/64 of the input: the biases of the synapses before it.
        v_bias: Added to the membrane potential each step, likewise: what it leaks to.
        soft_reset: A spike takes ``v_drop`` from v; else it sets v to zero.
    """

    vth: Int32Array
    v_drop: Int32Array
    du: Int16Array
    dv: Int16Array
    u_bias: Int32Array
    v_bias: Int32Array
    soft_reset: bool

    def parameters(self) -> fixedpoint.CubaParameters:
        """What ``fixedpoint.cuba_lif_step`` takes, to be broadcast against (..., *shape)."""
        wide = {name: getattr(self, name).astype(np.int64) for name in CUBA_ARRAYS}
        return fixedpoint.CubaParameters(**wide, soft_reset=self.soft_reset)


@dataclass(frozen=True, eq=False)
class RecurrentCubaLIF(CubaLIF):
    """The same neurons, (C, H, W), with synapses onto themselves: what they fired one step ago adds to their input.

    Before a sample's first step nothing fired. The synapses are a convolution of stride one that keeps the shape; of
    (F, 1, 1), a kernel of one connects all with all.

    Attributes:
        weight: (C, C / groups, K_h, K_w).
        weight_exp: (C,), an exponent per output channel.
        padding: Zeros around the spikes, (rows, columns).
        groups: Blocks of channels that do not mix.
    """

    weight: Int8Array
    weight_exp: Int8Array
    padding: tuple[int, int]
    groups: int

    def synapses(self) -> Conv2d:
        """The recurrent synapses as an operation of their own."""
        return Conv2d(
            Signal(SignalKind.CURRENT, scale_exp=0),
            weight=self.weight,
            weight_exp=self.weight_exp,
            bias=np.zeros(len(self.weight), dtype=np.int32),
            stride=(1, 1),
            padding=self.padding,
            dilation=(1, 1),
            groups=self.groups,
        )

    def without_synapses(self) -> CubaLIF:
        """The neurons as they are when nothing comes back to them."""
        return CubaLIF(**{field.name: getattr(self, field.name) for field in fields(CubaLIF)})


@dataclass(frozen=True, eq=False)
class CubaLI(Op):
    """Neurons of ours that integrate and do not fire: they send their membrane potential; reset every T steps.

    What they send is v itself, so the signal is finer than the input by its 6 bits. Arrays are as those of
    :class:`CubaLIF`.

    Attributes:
        du: Decay of the current, in 1/4096 minus one: 4095 keeps nothing.
        dv: Decay of the membrane potential, in 1/4096.
        u_bias: Added to the current each step, in 1/64 of the input.
    """

    du: Int16Array
    dv: Int16Array
    u_bias: Int32Array

    def parameters(self) -> fixedpoint.CubaLiParameters:
        """What ``fixedpoint.cuba_li_step`` takes, to be broadcast against (..., *shape)."""
        return fixedpoint.CubaLiParameters(*(each.astype(np.int64) for each in (self.du, self.dv, self.u_bias)))


@dataclass(frozen=True, eq=False)
class SpikeMatMul(Op):
    """One of DSSA's two products, a spike-gated sum; sends what it received one step ago.

    Inputs are y, a current of shape (C, h, w), and spikes. With d = C / heads and n = h * w, each head computes y^T x
    of shape (n, H * W) if ``transpose``, from spikes x of shape (C, H, W); else y s, reshaped to (C, H, W), from
    spikes s of shape (heads, n, H * W).

    Attributes:
        num_heads: Heads, each with its own block of channels.
        transpose: Which of the two products.
        bias: (C,), added to y before it is gated.
        limit: The result is clipped to [-limit, limit], and each clip is counted.
    """

    num_heads: int
    transpose: bool
    bias: Int32Array
    limit: int


@dataclass(frozen=True, eq=False)
class SampleDelay(Op):
    """Part of the network, unlike :class:`Delay`: what neurons send arrives some steps later within their sample.

    Zeros arrive before, and what would arrive after the sample's last step never does.

    Attributes:
        steps: How many; an array as those of :class:`CubaLIF`.
    """

    steps: Int32Array


@dataclass(frozen=True, eq=False)
class Delay(Op):
    """Of the schedule: sends what it received some steps ago; zeros before.

    Attributes:
        steps: How many, at least one.
    """

    steps: int


@dataclass(frozen=True, eq=False)
class Flatten(Op):
    """(C, H, W) to (C * H * W,), in that order."""


@dataclass(frozen=True, eq=False)
class Output(Op):
    """Logits of each step; the prediction is their mean over T.

    Attributes:
        divisor: The real logit is a / (2^k * divisor) + bias: a pool's area, which is not a power of two.
        bias: (classes,), real: what biases before the classifier add to each logit.
    """

    divisor: int
    bias: Float64Array


ProgramNode: TypeAlias = Node[Op]

HIGH_PART, LOW_PART = ".hi", ".lo"
"""What the names of the parts of stacked synapses end in."""
CUBA_ARRAYS = ("vth", "v_drop", "du", "dv", "u_bias", "v_bias")
"""The parameters of :class:`CubaLIF` that may vary from neuron to neuron."""
NEURONS = (LIF, CubaLIF)
"""What fires: a ``SpikeTrain`` is recorded of each."""
COUNTING = (*NEURONS, CubaLI, Relay, SpikeMatMul)
"""What counts how many values it clips."""
RECORDED = (*COUNTING, MaxPool2d)
"""What sends values that are recorded and compared."""


@dataclass(frozen=True, repr=False)
class Program(Graph[Op]):
    """A network of integers, with the schedule that lets samples stream through it.

    Attributes:
        offsets: For each node, the step at which the first sample's first output appears (0 for the input), or None
            before ``balance_delays``.
    """

    offsets: dict[str, int] | None = None

    def summary(self) -> Summary:
        """What every graph says, its populations and its schedule."""
        title, rows = super().summary()
        latency = "not scheduled" if self.offsets is None else f"{counted(self.latency, 'step')} of latency"
        return title, [*rows, ("populations", str(len(self.lif_names))), ("schedule", latency)]

    @property
    def latency(self) -> int:
        """Steps between a sample's first frame and its first logits.

        Raises:
            AssertionError: The program has no schedule yet.
        """
        assert self.offsets is not None, "balance_delays has not run"
        return self.offsets[self.output.name]

    @property
    def is_dyadic(self) -> bool:
        """Whether a float64 network of the quantized weights fires the same spikes (DESIGN, section 4).

        So it is where no membrane potential is ever truncated: each decay of a sample's steps takes some of its six
        fractional bits, or of those that its bias leaves free, and they must not run out. A decay of 1/2 takes one; an
        IF's takes none.
        """
        return all(_stays_whole(node.op, self.timesteps - 1) for node in self.nodes if isinstance(node.op, NEURONS))

    @property
    def lif_names(self) -> tuple[str, ...]:
        """The names of all populations that fire, in topological order."""
        return tuple(node.name for node in self.nodes if isinstance(node.op, NEURONS))


def is_stack(program: Program, name: str) -> bool:
    """Whether a node sums the two parts that ``stack_synapses`` made of it."""
    node = program[name]
    return isinstance(node.op, Add) and node.inputs == (f"{name}{HIGH_PART}", f"{name}{LOW_PART}")


def stacked_parts(program: Program) -> dict[str, str]:
    """Each part of stacked synapses, and the layer that it is of."""
    return {part: node.name for node in program if is_stack(program, node.name) for part in node.inputs}


def layer_names(program: Program) -> tuple[str, ...]:
    """The layers with weights, in topological order: of stacked synapses the sum, and not its parts."""
    parts = stacked_parts(program)
    layers = {node.name for node in program if isinstance(node.op, Conv2d | Dense)} - parts.keys() | {*parts.values()}
    return tuple(node.name for node in program if node.name in layers)


def layer_synapses(program: Program, name: str) -> tuple[Node[Op], ...]:
    """The node that holds a layer's weights; of stacked synapses both parts, the high one first."""
    return tuple(program[part] for part in program[name].inputs) if is_stack(program, name) else (program[name],)


def layer_weight(program: Program, name: str) -> Int32Array:
    """A layer's weights as integers, in units of its current: of stacked synapses what the two come to."""
    total: Int32Array = np.zeros((), dtype=np.int32)
    for node in layer_synapses(program, name):
        assert isinstance(node.op, Conv2d | Dense)
        total = total + fixedpoint.scale_weight(node.op.weight, node.op.weight_exp)
    return total


def real_weight(program: Program, name: str) -> Float64Array:
    """The real numbers that a layer's integers stand for, in the shape of its weight."""
    source = program[layer_synapses(program, name)[0].inputs[0]]
    exp = program[name].op.signal.scale_exp - source.op.signal.scale_exp
    return layer_weight(program, name).astype(np.float64) * 2.0**-exp


def _stays_whole(op: LIF | CubaLIF, decays: int) -> bool:
    """Whether so many decays, by a power of two or none, leave potentials of whole inputs and these biases untruncated.

    The current must have no memory, whose own decay would be truncated too.
    """
    added = (
        [fixedpoint.scale_bias(op.bias_mant, op.bias_exp)] if isinstance(op, LIF) else [op.u_bias, op.v_bias, op.v_drop]
    )
    taken = 0
    for dv in np.unique(op.dv).tolist():
        if dv & (dv - 1):
            return False
        taken = max(taken, decays * ((LOIHI.decay_unity // dv).bit_length() - 1) if dv else 0)
    forgets = bool((np.asarray(op.du) == LOIHI.du_no_memory).all())
    return forgets and taken <= LOIHI.a_shift and not any((each % 2**taken).any() for each in added)


def hop_steps(op: Op) -> int:
    """Steps by which an operation delays what it receives: one for synapses, none for neurons and sums."""
    if isinstance(op, Delay):
        return op.steps
    return int(isinstance(op, (Conv2d, Dense, SumPool2d, SpikeMatMul)))
