"""From real numbers to integers: the one pass that changes the level.

A plan (``quantize.plan``) says what the integers stand for; here weights, biases and thresholds are rounded to them, so
all sums are exact and the quantized network is still a network of the same kind with dyadic weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.ir import ops as integer
from resformer.compiler.ir.arrays import WeightArray, require
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.messages import sends_spikes
from resformer.compiler.ir.neurons import PROMPT
from resformer.compiler.ir.ops import LIF, CubaLIF, Op, Output
from resformer.compiler.ir.primitives import (
    NEURONS,
    Add,
    CeilMaxPool2d,
    DiscreteCubaLI,
    DiscreteCubaLIF,
    IntegerLIF,
    MaxPool2d,
    MultiSpikeIF,
    RecurrentCubaLIF,
    SampleDelay,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
    as_weighted,
    bias_of,
    collapse,
    pair,
)
from resformer.compiler.ir.program import Unscheduled
from resformer.compiler.ir.signal import SPIKE, Signal, SignalKind
from resformer.compiler.quantize.plan import LayerPlan, QuantizationPlan, uniform
from resformer.compiler.quantize.ties import settle_ties
from resformer.compiler.target import LOIHI
from resformer.errors import RangeError, UnsupportedError

Float64Array = npt.NDArray[np.float64]

MIN_DECAY = 0.5 / LOIHI.decay_unity
"""A share of a membrane potential that is lost in a step must be larger than this, or it rounds to none."""


@dataclass(frozen=True, eq=False)
class LayerIntegers:
    """The integers that the weights and biases of one layer were rounded to.

    Attributes:
        weight: Mantissas, (C_out, ...); int16 where they have more than 8 bits.
        bias: (C_out,), whole numbers in units of the layer's current; zeros where it has none.
    """

    weight: WeightArray
    bias: Float64Array

    def real_weight(self, layer: LayerPlan, unit_exp: int) -> Float64Array:
        """The real numbers that the mantissas stand for, with the layer's plan and ``weight_unit_exp``."""
        return self.weight * _units(layer, unit_exp, self.weight.ndim)


def quantize(
    graph: Graph[nir.NIRNode],
    plan: QuantizationPlan,
    rounded: Mapping[str, LayerIntegers] | None = None,
    *,
    ties: bool = True,
) -> Unscheduled:
    """Lower a folded float graph to integers.

    Args:
        graph: After all float passes.
        plan: The plan of this network.
        rounded: The integers of layers that were rounded by a better rule; all other layers are rounded to the nearest.
        ties: Whether neurons that fire at their threshold also do so in integers, where that is exact. False for a
            network that was fine-tuned to fire only above the threshold, and has a shift in its biases for that.

    Raises:
        UnsupportedError: A node has no exact integer form.
        RangeError: A bias leaves its format.
        FileFormatError: The plan belongs to another network.
    """
    plan.check_fits(graph)
    lowering = _Lowering(graph, plan, rounded or {})
    nodes = [each for node in graph if not _is_readout_scale(graph, node) for each in lowering.lower(node)]
    program = Unscheduled(tuple(nodes), graph.timesteps, graph.metadata)
    return settle_ties(program, _fire_at_threshold(graph)) if ties else program


def _fire_at_threshold(graph: Graph[nir.NIRNode]) -> frozenset[str]:
    """The populations that fire where a potential meets its threshold, as SpikingJelly's do and NIR's do not."""
    return frozenset(
        node.name for node in graph if isinstance(node.op, NEURONS) and node.op.metadata.get("fires_at") == ">="
    )


def round_layer(plan: QuantizationPlan, node: Node[nir.NIRNode]) -> LayerIntegers:
    """The integers nearest to a layer's weights and biases; ties go to the even, and weights too large are clipped."""
    layer, op = plan.layers[node.name], as_weighted(node.op)
    scaled = op.weight / _units(layer, plan.weight_unit_exp(node), op.weight.ndim)
    return LayerIntegers(
        np.clip(np.rint(scaled), -layer.mantissa_max, layer.mantissa_max).astype(layer.mantissa_dtype),
        np.rint(bias_of(op) * 2.0 ** plan.current_exp(node)),
    )


def _units(layer: LayerPlan, unit_exp: int, ndim: int) -> Float64Array:
    """The real number that a mantissa of one stands for, (C_out, 1, ...)."""
    units: Float64Array = 2.0 ** (np.reshape(layer.weight_exp, (-1, *(1,) * (ndim - 1))) - unit_exp)
    return units


def _is_readout_scale(graph: Graph[nir.NIRNode], node: Node[nir.NIRNode]) -> bool:
    """Whether a node only scales the logits; the output's divisor then stands for that scale."""
    return isinstance(node.op, nir.Scale) and graph.consumers[node.name] == (graph.output,)


class _Lowering:
    """The lowering of each node of one graph."""

    def __init__(self, graph: Graph[nir.NIRNode], plan: QuantizationPlan, rounded: Mapping[str, LayerIntegers]) -> None:
        self.graph = graph
        self.plan = plan
        self.rounded = rounded
        self.exps = plan.scale_exps

    def lower(self, node: Node[nir.NIRNode]) -> list[Node[Op]]:
        """The integer nodes of one float node: those that must come before it, then its own.

        Raises:
            UnsupportedError: The node has no integer form.
        """
        before: list[Node[Op]] = []
        inputs, name = node.inputs, node.name
        match node.op:
            case nir.Input():
                signal = Signal(
                    SignalKind.GRADED, self.exps[name], low=-self.plan.input_high, high=self.plan.input_high
                )
                op: Op = integer.Input(signal)
            case nir.Conv2d():
                op = self._conv(node, node.op)
            case nir.LIF() | nir.IF():
                op = self._lif(node)
            case DiscreteCubaLIF():
                op = self._cuba_lif(node, node.op)
            case DiscreteCubaLI():
                op = self._cuba_li(node, node.op)
            case MultiSpikeIF():
                op = self._multi_spike(node, node.op)
            case nir.Linear() | nir.Affine():
                op = self._dense(node)
            case Add():
                op = integer.Add(self._current(name))
            case MaxPool2d(kernel_size=kernel, stride=stride, padding=padding):
                signal = Signal(SignalKind.GRADED, self.exps[name], *self._known_bounds(name))
                op = integer.MaxPool2d(signal, pair(kernel), pair(stride), pair(padding))
                if isinstance(node.op, CeilMaxPool2d):
                    op = integer.CeilMaxPool2d(signal, op.kernel_size, op.stride, op.padding, pair(node.op.beyond))
            case SpikeMatMul(num_heads=heads, transpose=transpose):
                bias = np.zeros(self.graph[inputs[0]].shape[0], dtype=np.int32)
                op = integer.SpikeMatMul(self._current(name), heads, transpose, bias, LOIHI.a_max)
            case nir.SumPool2d(kernel_size=kernel, stride=stride, padding=padding):
                require(not np.any(padding), f"{name}: a sum over windows has no padding")
                op = integer.SumPool2d(self._current(name), pair(kernel), pair(stride))
                if self.exps[name] < self.exps[inputs[0]]:
                    before = [self._coarser(f"{name}.input", self.graph[inputs[0]], self.exps[name])]
                    inputs = (before[0].name,)
            case SpikeAttention(num_heads=heads, shift=shift):
                finer = self.exps[name] - shift
                op = integer.SpikeAttention(self._current(name), heads, weight_exp=finer, limit=LOIHI.a_max)
            case SpikeGate(kind=kind):
                op = integer.SpikeGate.of(kind, len(inputs))
            case SampleDelay(steps=steps):
                op = integer.SampleDelay(self._sent(inputs[0], self.exps[name]), steps=_rounded(steps, 1.0))
            case nir.Flatten():
                op = integer.Flatten(self._sent(inputs[0], self.exps[name]))
                if self.exps[name] < self.exps[inputs[0]]:
                    before = [self._coarser(f"{inputs[0]}.relay", self.graph[inputs[0]], self.exps[name])]
                    op, inputs = integer.Flatten(before[0].op.signal), (before[0].name,)
            case nir.Output():
                op, inputs = self._output(node)
            case other:
                raise UnsupportedError(
                    f"{name}: {type(other).__name__} has no integer form; the compiler lowers Conv2d, Linear, LIF, "
                    "Add, MaxPool2d, SumPool2d, Flatten, SpikeMatMul, SpikeGate and SpikeAttention"
                )
        return [*before, Node(name, op, inputs, node.shape)]

    def _coarser(self, name: str, source: Node[nir.NIRNode], exp: int) -> Node[Op]:
        """A relay that sends a current at a coarser scale."""
        op = integer.Relay(
            Signal(SignalKind.GRADED, exp),
            bias=np.zeros(source.shape[0], dtype=np.int32),
            limit=LOIHI.graded_max,
            shift=self.exps[source.name] - exp,
        )
        return Node(name, op, (source.name,), source.shape)

    def _known_bounds(self, name: str) -> tuple[int, int] | tuple[()]:
        """The bounds (0, 1) of a maximum of spikes that a gate or an attention reads, since these read only spikes."""
        read = any(isinstance(reader.op, SpikeGate | SpikeAttention) for reader in self.graph.consumers[name])
        return (0, 1) if read and sends_spikes(self.graph, name) else ()

    def _sent(self, name: str, exp: int) -> Signal:
        """The signal that a node sends, at scale 2^``exp``."""
        source = self.graph[name].op
        if isinstance(source, SampleDelay):
            return self._sent(self.graph[name].inputs[0], exp)
        graded = isinstance(source, nir.Input | MaxPool2d | DiscreteCubaLI | MultiSpikeIF)
        if isinstance(source, (SpikeGate, *NEURONS)) and not graded:
            return SPIKE
        return Signal(SignalKind.GRADED if graded else SignalKind.CURRENT, exp)

    def _current(self, name: str) -> Signal:
        return Signal(SignalKind.CURRENT, self.exps[name])

    def _conv(self, node: Node[nir.NIRNode], conv: nir.Conv2d) -> Op:
        integers = self._integers(node)
        return integer.Conv2d(
            self._current(node.name),
            weight=integers.weight,
            weight_exp=np.array(self.plan.layers[node.name].weight_exp, dtype=np.int8),
            bias=_checked_bias(node.name, integers.bias),
            stride=pair(conv.stride),
            padding=pair(conv.padding),
            dilation=pair(conv.dilation),
            groups=int(conv.groups),
        )

    def _dense(self, node: Node[nir.NIRNode]) -> Op:
        integers = self._integers(node)
        return integer.Dense(
            self._current(node.name),
            weight=integers.weight.astype(np.int8),
            weight_exp=self.plan.layers[node.name].weight_exp[0],
            # the output takes it as a real number, so that no format of Loihi limits it
            bias=_checked_bias(node.name, integers.bias, np.iinfo(np.int32).max),
        )

    def _integers(self, node: Node[nir.NIRNode]) -> LayerIntegers:
        return self.rounded[node.name] if node.name in self.rounded else round_layer(self.plan, node)

    def _lif(self, node: Node[nir.NIRNode]) -> Op:
        leaks = isinstance(node.op, nir.LIF)
        if uniform(node, "v_reset") != 0 or (leaks and uniform(node, "v_leak") != 0):
            raise UnsupportedError(f"{node.name}: v_leak and v_reset must be 0 for Loihi's LIF; retrain with zeros")
        dt = float(self.graph.metadata["dt"])
        decay = dt / uniform(node, "tau") if leaks else 0.0
        if not math.isclose(uniform(node, "r") * (decay if leaks else dt), 1.0, rel_tol=1e-12):
            raise AssertionError(f"{node.name}: fold_input_gain has not run, nor merge_synapses")
        # a tau of one step may have been held in 32 bits: a decay that rounds to 1 counts as 1
        if leaks and not MIN_DECAY < decay <= 1 + MIN_DECAY:
            raise UnsupportedError(
                f"{node.name}: tau is {1 / decay:.4g} steps; Loihi's decay of 12 bits holds 1 to below "
                f"{1 / MIN_DECAY:.0f} steps, so train the network to such a tau, or choose another time step (--dt)"
            )
        zero = np.zeros(1)
        return LIF(
            SPIKE,
            vth=round(uniform(node, "v_threshold") * 2.0 ** self.exps[node.inputs[0]]),
            du=LOIHI.du_no_memory,
            dv=min(round(decay * LOIHI.decay_unity), LOIHI.decay_unity - 1),
            bias_mant=zero.astype(np.int16),
            bias_exp=zero.astype(np.int8),
        )

    def _cuba_lif(self, node: Node[nir.NIRNode], neurons: DiscreteCubaLIF) -> Op:
        unit = 2.0 ** self.exps[node.inputs[0]]
        syn, mem = self._syn_decay(node), self._decay(node, "mem_decay")
        fine = unit * 2**LOIHI.a_shift
        op = CubaLIF(
            SPIKE,
            vth=_rounded(neurons.v_threshold, unit),
            v_drop=_rounded(neurons.v_drop, fine),
            du=(syn - 1).astype(np.int16),
            dv=mem.astype(np.int16),
            u_bias=np.zeros((1,) * len(node.shape), dtype=np.int32),
            v_bias=_rounded(neurons.v_bias, fine),
            soft_reset=neurons.soft_reset,
        )
        if neurons.metadata.get("reset") == PROMPT:
            if isinstance(neurons, RecurrentCubaLIF):
                raise UnsupportedError(
                    f"{node.name}: resets promptly, and has recurrent synapses, with which no such neurons are known; "
                    "train it to reset late, as snnTorch does by default"
                )
            return integer.PromptCubaLIF(**{field.name: getattr(op, field.name) for field in dataclasses.fields(op)})
        return self._recurrent(node, neurons, op) if isinstance(neurons, RecurrentCubaLIF) else op

    def _recurrent(self, node: Node[nir.NIRNode], neurons: RecurrentCubaLIF, op: CubaLIF) -> Op:
        integers = self._integers(node)
        bias = _checked_bias(node.name, integers.bias, LOIHI.a_max) << LOIHI.a_shift
        return integer.RecurrentCubaLIF(
            **{field.name: getattr(op, field.name) for field in dataclasses.fields(op) if field.name != "u_bias"},
            u_bias=bias.reshape(-1, 1, 1) if bias.any() else op.u_bias,
            weight=integers.weight,
            weight_exp=np.array(self.plan.layers[node.name].weight_exp, dtype=np.int8),
            padding=neurons.padding,
            groups=neurons.groups,
        )

    def _cuba_li(self, node: Node[nir.NIRNode], neurons: DiscreteCubaLI) -> Op:
        require((collapse(neurons.gain) == 1).all(), f"{node.name}: merge_synapses has not run")
        return integer.CubaLI(
            Signal(SignalKind.GRADED, self.exps[node.name]),
            du=(self._syn_decay(node) - 1).astype(np.int16),
            dv=self._decay(node, "mem_decay").astype(np.int16),
            u_bias=np.zeros((1,) * len(node.shape), dtype=np.int32),
        )

    def _multi_spike(self, node: Node[nir.NIRNode], neurons: MultiSpikeIF) -> Op:
        unit = 2.0 ** self.exps[node.inputs[0]]
        floor = np.maximum(collapse(neurons.v_floor), -LOIHI.v_max / (unit * 2**LOIHI.a_shift))
        vth = _rounded(neurons.v_threshold, unit)
        if (vth < 1).any():
            raise RangeError(
                f"{node.name}: its least threshold is {collapse(neurons.v_threshold).min():.4g}, less than a unit of "
                f"its current at scale 2^{self.exps[node.inputs[0]]}; normalise the layer before it"
            )
        op = integer.MultiSpikeIF(
            Signal(SignalKind.GRADED, 0),
            vth=vth,
            floor=_rounded(floor, unit * 2**LOIHI.a_shift),
            bias=np.zeros((1,) * len(node.shape), dtype=np.int32),
            max_spikes=neurons.max_spikes,
        )
        if not isinstance(neurons, IntegerLIF):
            return op
        if neurons.max_spikes > integer.MOST_SPIKES:
            raise RangeError(
                f"{node.name}: has {neurons.max_spikes} levels, the limit is {integer.MOST_SPIKES}, what eight bits of "
                "a graded spike hold; train it with fewer levels"
            )
        if 0 < neurons.mem_decay <= MIN_DECAY:
            raise UnsupportedError(
                f"{node.name}: keeps {1 - neurons.mem_decay:.6g} of its potential a step; Loihi's decays have 12 bits, "
                "so train it with a decay of all, or of less"
            )
        return integer.IntegerLIF(
            **{field.name: getattr(op, field.name) for field in dataclasses.fields(op)},
            dv=round(neurons.mem_decay * LOIHI.decay_unity),
            even=neurons.even,
        )

    def _syn_decay(self, node: Node[nir.NIRNode]) -> npt.NDArray[np.int32]:
        """The share of a current that is lost in a step, in 1/4096; it must not be zero."""
        decay = self._decay(node, "syn_decay")
        if not decay.all():
            raise UnsupportedError(
                f"{node.name}: its current loses nothing; Loihi's keeps at most {LOIHI.decay_unity - 1} parts in "
                f"{LOIHI.decay_unity} of it, so train with a finite tau_syn"
            )
        return decay

    def _decay(self, node: Node[nir.NIRNode], field: str) -> npt.NDArray[np.int32]:
        """The decay in ``field``: the share that is lost in a step, in 1/4096.

        Raises:
            UnsupportedError: A decay above zero would round to zero.
        """
        decay = collapse(getattr(node.op, field))
        slowest = float(decay[decay > 0].min(initial=1.0))
        if slowest <= MIN_DECAY:
            raise UnsupportedError(
                f"{node.name}: its {field} is {slowest:.4g} a step; Loihi's decays have 12 bits, which hold tau up to "
                f"below {1 / MIN_DECAY:.0f} steps, so train the network to such a tau, or choose another time step "
                "(--dt)"
            )
        return _rounded(decay, LOIHI.decay_unity)

    def _output(self, node: Node[nir.NIRNode]) -> tuple[Op, tuple[str, ...]]:
        (source,) = node.inputs
        divisor = 1
        if _is_readout_scale(self.graph, self.graph[source]):
            divisor = self._divisor(self.graph[source])
            (source,) = self.graph[source].inputs
        signal = Signal(SignalKind.CURRENT, self.exps[source])
        return Output(signal, divisor=divisor, bias=self._rest(source)), (source,)

    def _rest(self, name: str) -> Float64Array:
        """The real value of an integer of zero: for neurons that never fire, what their potential leaks to."""
        node = self.graph[name]
        while isinstance(node.op, nir.Flatten):
            node = self.graph[node.inputs[0]]
        size = math.prod(node.shape)
        return node.op.v_leak.reshape(size).copy() if isinstance(node.op, DiscreteCubaLI) else np.zeros(size)

    def _divisor(self, node: Node[nir.NIRNode]) -> int:
        """The whole number that a scale of the logits divides by.

        Raises:
            UnsupportedError: The scale divides by no single whole number.
        """
        assert isinstance(node.op, nir.Scale)
        scale = collapse(node.op.scale)
        divisor = round(1 / abs(scale.flat[0])) if scale.flat[0] else 1
        if (scale != 1.0 / max(divisor, 1)).any():
            raise UnsupportedError(
                f"{node.name}: multiplies the logits by {scale.min():.6g} to {scale.max():.6g}; only a division of all "
                "by one whole number, such as an average pool's area, is supported"
            )
        return divisor


def _checked_bias(name: str, bias: Float64Array, limit: int = LOIHI.graded_max) -> npt.NDArray[np.int32]:
    """Rounded biases as integers.

    Raises:
        RangeError: A bias leaves its format.
    """
    largest = float(np.abs(bias).max(initial=0.0))
    if largest > limit:
        raise RangeError(f"{name}: a bias becomes {largest:.0f}, the limit is {limit}; normalise the layer")
    return bias.astype(np.int32)


def _rounded(values: npt.NDArray[Any], unit: float) -> npt.NDArray[np.int32]:
    """Round parameters of neurons to integers, ties to even; axes along which all values are equal get length one."""
    rounded = np.ascontiguousarray(np.rint(collapse(values) * unit)).astype(np.int32)
    for axis in range(rounded.ndim):
        first = rounded.take([0], axis)
        rounded = first if (rounded == first).all() else rounded
    return np.ascontiguousarray(rounded)
