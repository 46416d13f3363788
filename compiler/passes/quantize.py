"""From real numbers to integers: the one pass that changes the level.

A plan (``passes.scales``) says what the integers stand for; here weights, biases and thresholds are rounded to them, so
all sums are exact and the quantized network is still a network of the same kind with dyadic weights.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.ir import program as integer
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.primitives import (
    NEURONS,
    Add,
    DiscreteCubaLI,
    DiscreteCubaLIF,
    MaxPool2d,
    RecurrentCubaLIF,
    SampleDelay,
    SpikeMatMul,
    collapse,
)
from resformer.compiler.ir.program import LIF, SPIKE, CubaLIF, Op, Output, Program, Signal, SignalKind
from resformer.compiler.passes.scales import QuantizationPlan, uniform
from resformer.compiler.target import LOIHI
from resformer.errors import RangeError, UnsupportedError

Float64Array = npt.NDArray[np.float64]

MIN_DECAY = 0.5 / LOIHI.decay_unity
"""Smallest share of a membrane potential lost in a step that does not round to none."""


def quantize(graph: Graph[nir.NIRNode], plan: QuantizationPlan) -> Program:
    """Lower a folded float graph to integers.

    Args:
        graph: After all float passes.
        plan: Of this network.

    Raises:
        UnsupportedError: A node has no exact integer form.
        RangeError: A bias leaves its format.
        FileFormatError: The plan is another network's.
    """
    plan.check_fits(graph)
    lowering = _Lowering(graph, plan)
    nodes = [each for node in graph if not _is_readout_scale(graph, node) for each in lowering.lower(node)]
    return Program(tuple(nodes), graph.timesteps, graph.metadata)


def round_weight(plan: QuantizationPlan, node: Node[nir.NIRNode]) -> npt.NDArray[np.int8]:
    """The mantissas nearest to a layer's weights, (C_out, ...); ties go to the even, misfits are clipped."""
    layer = plan.layers[node.name]
    weight = node.op.weight * 2.0 ** plan.weight_unit_exp(node)
    unit = 2.0 ** np.reshape(layer.weight_exp, (-1, *(1,) * (weight.ndim - 1)))
    mantissa: npt.NDArray[np.int8] = np.clip(np.rint(weight / unit), -layer.mantissa_max, layer.mantissa_max).astype(
        np.int8
    )
    return mantissa


def _is_readout_scale(graph: Graph[nir.NIRNode], node: Node[nir.NIRNode]) -> bool:
    """Whether a node only scales the logits; the output's divisor holds that."""
    return isinstance(node.op, nir.Scale) and graph.consumers[node.name] == (graph.output,)


class _Lowering:
    """The lowering of each node of one graph."""

    def __init__(self, graph: Graph[nir.NIRNode], plan: QuantizationPlan) -> None:
        self.graph = graph
        self.plan = plan
        self.exps = plan.scale_exps

    def lower(self, node: Node[nir.NIRNode]) -> list[Node[Op]]:
        """One node's integer form, after what it needs before it.

        Raises:
            UnsupportedError: It has none.
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
                op = self._conv(node)
            case nir.LIF() | nir.IF():
                op = self._lif(node)
            case DiscreteCubaLIF():
                op = self._cuba_lif(node)
            case DiscreteCubaLI():
                op = self._cuba_li(node)
            case nir.Linear() | nir.Affine():
                op = self._dense(node)
            case Add():
                op = integer.Add(self._current(name))
            case MaxPool2d(kernel_size=kernel, stride=stride, padding=padding):
                signal = Signal(SignalKind.GRADED, self.exps[name])
                op = integer.MaxPool2d(signal, _pair(kernel), _pair(stride), _pair(padding))
            case SpikeMatMul(num_heads=heads, transpose=transpose):
                bias = np.zeros(self.graph[inputs[0]].shape[0], dtype=np.int32)
                op = integer.SpikeMatMul(self._current(name), heads, transpose, bias, LOIHI.a_max)
            case nir.SumPool2d(kernel_size=kernel, stride=stride, padding=padding):
                assert not np.any(padding), f"{name}: a sum over windows has no padding"
                op = integer.SumPool2d(self._current(name), _pair(kernel), _pair(stride))
            case SampleDelay(steps=steps):
                op = integer.SampleDelay(self._sent(inputs[0], self.exps[name]), steps=_rounded(steps, 1.0))
            case nir.Flatten():
                op = integer.Flatten(self._sent(inputs[0], self.exps[name]))
                if self.exps[name] < self.exps[inputs[0]]:
                    before = [self._coarser(self.graph[inputs[0]], self.exps[name])]
                    op, inputs = integer.Flatten(before[0].op.signal), (before[0].name,)
            case nir.Output():
                op, inputs = self._output(node)
            case other:
                raise UnsupportedError(
                    f"{name}: {type(other).__name__} has no integer form; the compiler lowers Conv2d, Linear, LIF, "
                    "Add, MaxPool2d, SumPool2d, Flatten and SpikeMatMul"
                )
        return [*before, Node(name, op, inputs, node.shape)]

    def _coarser(self, source: Node[nir.NIRNode], exp: int) -> Node[Op]:
        """A relay that sends a current at a coarser scale."""
        op = integer.Relay(
            Signal(SignalKind.GRADED, exp),
            bias=np.zeros(source.shape[0], dtype=np.int32),
            limit=LOIHI.graded_max,
            shift=self.exps[source.name] - exp,
        )
        return Node(f"{source.name}.relay", op, (source.name,), source.shape)

    def _sent(self, name: str, exp: int) -> Signal:
        """What a node sends, at a scale."""
        source = self.graph[name].op
        if isinstance(source, SampleDelay):
            return self._sent(self.graph[name].inputs[0], exp)
        if isinstance(source, NEURONS):
            return SPIKE
        graded = isinstance(source, nir.Input | MaxPool2d | DiscreteCubaLI)
        return Signal(SignalKind.GRADED if graded else SignalKind.CURRENT, exp)

    def _current(self, name: str) -> Signal:
        return Signal(SignalKind.CURRENT, self.exps[name])

    def _conv(self, node: Node[nir.NIRNode]) -> Op:
        conv, exp = node.op, self.exps[node.name]
        return integer.Conv2d(
            self._current(node.name),
            weight=round_weight(self.plan, node),
            weight_exp=np.array(self.plan.layers[node.name].weight_exp, dtype=np.int8),
            bias=_round_bias(node.name, conv.bias * 2.0**exp),
            stride=_pair(conv.stride),
            padding=_pair(conv.padding),
            dilation=_pair(conv.dilation),
            groups=int(conv.groups),
        )

    def _dense(self, node: Node[nir.NIRNode]) -> Op:
        linear, exp = node.op, self.exps[node.name]
        bias = linear.bias if isinstance(linear, nir.Affine) else np.zeros(len(linear.weight))
        return integer.Dense(
            self._current(node.name),
            weight=round_weight(self.plan, node),
            weight_exp=self.plan.layers[node.name].weight_exp[0],
            bias=_round_bias(node.name, bias * 2.0**exp),
        )

    def _lif(self, node: Node[nir.NIRNode]) -> Op:
        leaks = isinstance(node.op, nir.LIF)
        if uniform(node, "v_reset") != 0 or (leaks and uniform(node, "v_leak") != 0):
            raise UnsupportedError(f"{node.name}: v_leak and v_reset must be 0 for Loihi's LIF; retrain with zeros")
        dt = float(self.graph.metadata["dt"])
        decay = dt / uniform(node, "tau") if leaks else 0.0
        if not math.isclose(uniform(node, "r") * (decay if leaks else dt), 1.0, rel_tol=1e-12):
            raise AssertionError(f"{node.name}: fold_input_gain has not run, nor merge_synapses")
        if leaks and not MIN_DECAY < decay <= 1:
            raise UnsupportedError(
                f"{node.name}: tau is {1 / decay:.4g} steps; Loihi's decay of 12 bits holds 1 to below "
                f"{1 / MIN_DECAY:.0f} steps, so train the network to such a tau, or choose another time step"
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

    def _cuba_lif(self, node: Node[nir.NIRNode]) -> Op:
        neurons, unit = node.op, 2.0 ** self.exps[node.inputs[0]]
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
        return self._recurrent(node, op, unit) if isinstance(neurons, RecurrentCubaLIF) else op

    def _recurrent(self, node: Node[nir.NIRNode], op: CubaLIF, unit: float) -> Op:
        neurons = node.op
        bias = _round_bias(node.name, neurons.bias * unit, LOIHI.a_max) << LOIHI.a_shift
        return integer.RecurrentCubaLIF(
            **{field.name: getattr(op, field.name) for field in dataclasses.fields(op) if field.name != "u_bias"},
            u_bias=bias.reshape(-1, 1, 1) if bias.any() else op.u_bias,
            weight=round_weight(self.plan, node),
            weight_exp=np.array(self.plan.layers[node.name].weight_exp, dtype=np.int8),
            padding=neurons.padding,
            groups=neurons.groups,
        )

    def _cuba_li(self, node: Node[nir.NIRNode]) -> Op:
        assert (collapse(node.op.gain) == 1).all(), f"{node.name}: merge_synapses has not run"
        return integer.CubaLI(
            Signal(SignalKind.GRADED, self.exps[node.name]),
            du=(self._syn_decay(node) - 1).astype(np.int16),
            dv=self._decay(node, "mem_decay").astype(np.int16),
            u_bias=np.zeros((1,) * len(node.shape), dtype=np.int32),
        )

    def _syn_decay(self, node: Node[nir.NIRNode]) -> npt.NDArray[np.int32]:
        """A current's, of which some must be lost."""
        decay = self._decay(node, "syn_decay")
        if not decay.all():
            raise UnsupportedError(
                f"{node.name}: its current loses nothing; Loihi's keeps at most {LOIHI.decay_unity - 1} parts in "
                f"{LOIHI.decay_unity} of it, so train with a finite tau_syn"
            )
        return decay

    def _decay(self, node: Node[nir.NIRNode], field: str) -> npt.NDArray[np.int32]:
        """A share that is lost in a step, in 1/4096.

        Raises:
            UnsupportedError: It would round to none.
        """
        decay = collapse(getattr(node.op, field))
        slowest = float(decay[decay > 0].min(initial=1.0))
        if slowest <= MIN_DECAY:
            raise UnsupportedError(
                f"{node.name}: its {field} is {slowest:.4g} a step; Loihi's decays have 12 bits, which hold tau up to "
                f"below {1 / MIN_DECAY:.0f} steps, so train the network to such a tau, or choose another time step"
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
        """What a value is where its integer is zero: of neurons that do not fire, what their potential leaks to."""
        node = self.graph[name]
        while isinstance(node.op, nir.Flatten):
            node = self.graph[node.inputs[0]]
        size = math.prod(node.shape)
        return node.op.v_leak.reshape(size).copy() if isinstance(node.op, DiscreteCubaLI) else np.zeros(size)

    def _divisor(self, node: Node[nir.NIRNode]) -> int:
        """The whole number that a scale of the logits divides by.

        Raises:
            UnsupportedError: It divides by none.
        """
        scale = collapse(node.op.scale)
        divisor = round(1 / abs(scale.flat[0])) if scale.flat[0] else 1
        if (scale != 1.0 / max(divisor, 1)).any():
            raise UnsupportedError(
                f"{node.name}: multiplies the logits by {scale.min():.6g} to {scale.max():.6g}; only a division of all "
                "by one whole number, such as an average pool's area, is supported"
            )
        return divisor


def _round_bias(name: str, bias: Float64Array, limit: int = LOIHI.graded_max) -> npt.NDArray[np.int32]:
    rounded = np.rint(bias)
    largest = float(np.abs(rounded).max(initial=0.0))
    if largest > limit:
        raise RangeError(f"{name}: a bias becomes {largest:.0f}, the limit is {limit}; normalise the layer")
    return rounded.astype(np.int32)


def _rounded(values: npt.NDArray[Any], unit: float) -> npt.NDArray[np.int32]:
    """Parameters of neurons in integers, ties to even; axes along which all repeats have length one."""
    return np.ascontiguousarray(np.rint(collapse(values) * unit)).astype(np.int32)


def _pair(value: npt.ArrayLike) -> tuple[int, int]:
    """NIR's int, pair or array as (rows, columns)."""
    rows, columns = np.broadcast_to(np.asarray(value, dtype=np.int64), 2).tolist()
    return rows, columns
