"""From real numbers to integers: the one pass that changes the level.

Each current domain (what one convolution makes, or several that meet in a sum) gets a scale S = 2^k; the integer a
stands for a / S. A weight is m * 2^e / S with an m of ``weight_bits`` bits and 0 <= e, so all sums are exact and the
quantized network is still a network of the same kind with dyadic weights. docs/numerics.md derives each rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.ir import program as integer
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.primitives import NEURONS, Add, MaxPool2d, SpikeMatMul, collapse
from resformer.compiler.ir.program import LIF, SPIKE, Op, Output, Program, Signal, SignalKind
from resformer.compiler.target import LOIHI
from resformer.errors import RangeError, UnsupportedError

Float64Array = npt.NDArray[np.float64]

MIN_WEIGHT_BITS = 2
SCALE_EXP_MAX = 13
"""Finest scale: 2^13 still leaves currents of 16 thresholds, twice what was seen on trained residual streams."""
SMALLEST_MAGNITUDE = 2.0**-SCALE_EXP_MAX
"""What is smaller bounds no scale."""
SCALE_EXP_ENOUGH = 10
"""A scale that biases and thresholds never need finer: 2^-10 of a current."""
FINE_CHANNELS = 0.9
"""Share of a layer's channels, those without weights aside, whose weights a scale should resolve to the last bit of
their mantissas."""
READOUT_SCALE_EXP_MAX = 12
"""Finest scale of the classifier's weights: no spike depends on them."""
PIXEL_SCALE_EXP_MAX = 6
"""Finest k of an image: steps of 1/64, about those of an 8-bit pixel after ImageNet's normalisation (1/57)."""
MIN_DECAY = 0.5 / LOIHI.decay_unity
"""Smallest share of a membrane potential lost in a step that does not round to none."""
COUNT_SCALE_EXP = 0
"""k of event frames, which are counts."""
COUNT_MAX = 255
"""Largest count of events that a frame's pixel can carry."""
ROUNDED_SUM_GROWTH = 2
"""Factor by which rounding can raise the sum of weights' magnitudes: half a step becomes at most one."""
MEASURED_HEADROOM = 1.5
"""Factor by which a current may exceed what calibration saw before it saturates."""


@dataclass(frozen=True)
class QuantizationConfig:
    """How to quantize.

    Attributes:
        weight_bits: Width of a weight's mantissa, sign included: 2 to 8.
        per_channel: An exponent for each output channel, rather than one for each layer.
        input_scale_exp: k of the input; None: what loses least, or 0 for event frames, which are counts.
    """

    weight_bits: int = LOIHI.weight_bits_max
    per_channel: bool = True
    input_scale_exp: int | None = None

    def __post_init__(self) -> None:
        if not MIN_WEIGHT_BITS <= self.weight_bits <= LOIHI.weight_bits_max:
            raise RangeError(
                f"weight bits: {self.weight_bits} is outside {MIN_WEIGHT_BITS} to {LOIHI.weight_bits_max}, "
                "what a Loihi synapse stores; choose a width in that range"
            )
        if self.input_scale_exp is not None and not 0 <= self.input_scale_exp <= SCALE_EXP_MAX:
            raise RangeError(
                f"input scale: 2^{self.input_scale_exp} is outside 2^0 to 2^{SCALE_EXP_MAX}; choose an exponent in "
                "that range"
            )


def quantize(
    graph: Graph[nir.NIRNode], ranges: Mapping[str, float], config: QuantizationConfig, *, measured: bool
) -> Program:
    """Lower a folded float graph to integers.

    Args:
        graph: After all float passes.
        ranges: The magnitude of each node's output (``passes.ranges``).
        config: Widths and granularity.
        measured: Whether the ranges come from data and want headroom, or are bounds already.

    Raises:
        UnsupportedError: A node has no exact integer form.
        RangeError: No scale fits a domain's currents, weights and thresholds.
    """
    headroom = MEASURED_HEADROOM if measured else 1.0
    reach = {name: headroom * each for name, each in ranges.items()}
    lowering = _Lowering(graph, reach, config)
    nodes = [each for node in graph if not _is_readout_scale(graph, node) for each in lowering.lower(node)]
    return Program(tuple(nodes), graph.timesteps, graph.metadata)


def _is_readout_scale(graph: Graph[nir.NIRNode], node: Node[nir.NIRNode]) -> bool:
    """Whether a node only scales the logits; the output's divisor holds that."""
    return isinstance(node.op, nir.Scale) and graph.consumers[node.name] == (graph.output,)


class _Lowering:
    """The choices for one graph, and the lowering of each node with them."""

    def __init__(self, graph: Graph[nir.NIRNode], reach: Mapping[str, float], config: QuantizationConfig) -> None:
        self.graph = graph
        self.reach = reach
        self.config = config
        self.mantissa_max = 2 ** (config.weight_bits - 1) - 1
        self.counts_events = graph.metadata.get("input") == "frames"
        default_exp = COUNT_SCALE_EXP if self.counts_events else PIXEL_SCALE_EXP_MAX
        self.input_exp = default_exp if config.input_scale_exp is None else config.input_scale_exp
        self.input_high = self._input_high()
        self.exps = self._choose_scales()
        if config.input_scale_exp is None and not self.counts_events:
            self.input_exp = self._balanced_input_exp()
            self.input_high = self._input_high()
            self.exps = self._choose_scales()

    def _balanced_input_exp(self) -> int:
        """The k of an image at which rounding pixels costs as much as rounding the weights that they meet.

        A weight's step is 2^k over its current's scale, so finer pixels mean coarser weights: with steps p and q, the
        variance of a current's error is (p^2 * sum of w^2 + q^2 * taps) / 12 for pixels of unit variance.
        """
        exps = [PIXEL_SCALE_EXP_MAX]
        for reader in self.graph.consumers[self.graph.input.name]:
            if isinstance(reader.op, nir.Conv2d):
                power = max(float((reader.op.weight**2).mean()), SMALLEST_MAGNITUDE)
                exps.append(round((self.exps[reader.name] + math.log2(power) / 2) / 2))
        return max(min(exps), 0)

    def _input_high(self) -> int:
        """The largest integer of the input: a power of two.

        Raises:
            RangeError: It exceeds a graded value.
        """
        reach = COUNT_MAX if self.counts_events else self.reach[self.graph.input.name]
        high: int = 2 ** math.ceil(math.log2(max(reach * 2.0**self.input_exp, 1.0)))
        if high > LOIHI.graded_max:
            raise RangeError(
                f"{self.graph.input.name}: values up to {reach:.4g} become {high} at scale 2^{self.input_exp}, the "
                f"limit of a 24-bit value is {LOIHI.graded_max}; lower --input-scale-exp or normalise the samples"
            )
        return high

    def lower(self, node: Node[nir.NIRNode]) -> list[Node[Op]]:
        """One node's integer form, after what it needs before it.

        Raises:
            UnsupportedError: It has none.
        """
        before: list[Node[Op]] = []
        inputs, name = node.inputs, node.name
        match node.op:
            case nir.Input():
                signal = Signal(SignalKind.GRADED, self.exps[name], low=-self.input_high, high=self.input_high)
                op: Op = integer.Input(signal)
            case nir.Conv2d():
                op = self._conv(node)
            case nir.LIF() | nir.IF():
                op = self._lif(node)
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
            case nir.SumPool2d(kernel_size=kernel, stride=stride):
                op = integer.SumPool2d(self._current(name), _pair(kernel), _pair(stride))
            case nir.Flatten():
                fires = isinstance(self.graph[inputs[0]].op, NEURONS)
                op = integer.Flatten(SPIKE if fires else self._current(name))
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

    def _current(self, name: str) -> Signal:
        return Signal(SignalKind.CURRENT, self.exps[name])

    def _conv(self, node: Node[nir.NIRNode]) -> Op:
        conv, exp = node.op, self.exps[node.name]
        weight, weight_exp = self.round_weight(
            node.name, conv.weight * 2.0 ** (exp - self.exps[node.inputs[0]]), per_channel=self.config.per_channel
        )
        return integer.Conv2d(
            self._current(node.name),
            weight=weight,
            weight_exp=weight_exp,
            bias=_round_bias(node.name, conv.bias * 2.0**exp),
            stride=_pair(conv.stride),
            padding=_pair(conv.padding),
            dilation=_pair(conv.dilation),
            groups=int(conv.groups),
        )

    def _dense(self, node: Node[nir.NIRNode]) -> Op:
        linear, exp = node.op, self.exps[node.name]
        weight, weight_exp = self.round_weight(
            node.name, linear.weight * 2.0 ** (exp - self.exps[node.inputs[0]]), per_channel=False
        )
        bias = linear.bias if isinstance(linear, nir.Affine) else np.zeros(len(weight))
        return integer.Dense(
            self._current(node.name),
            weight=weight,
            weight_exp=int(weight_exp[0]),
            bias=_round_bias(node.name, bias * 2.0**exp),
        )

    def _lif(self, node: Node[nir.NIRNode]) -> Op:
        leaks = isinstance(node.op, nir.LIF)
        if _uniform(node, "v_reset") != 0 or (leaks and _uniform(node, "v_leak") != 0):
            raise UnsupportedError(f"{node.name}: v_leak and v_reset must be 0 for Loihi's LIF; retrain with zeros")
        dt = float(self.graph.metadata["dt"])
        decay = dt / _uniform(node, "tau") if leaks else 0.0
        if not math.isclose(_uniform(node, "r") * (decay if leaks else dt), 1.0, rel_tol=1e-12):
            raise AssertionError(f"{node.name}: fold_input_gain has not run, nor merge_synapses")
        if leaks and not MIN_DECAY < decay <= 1:
            raise UnsupportedError(
                f"{node.name}: tau is {1 / decay:.4g} steps; Loihi's decay of 12 bits holds 1 to below "
                f"{1 / MIN_DECAY:.0f} steps, so train the network to such a tau, or choose another time step"
            )
        zero = np.zeros(1)
        return LIF(
            SPIKE,
            vth=round(_uniform(node, "v_threshold") * 2.0 ** self.exps[node.inputs[0]]),
            du=LOIHI.du_no_memory,
            dv=min(round(decay * LOIHI.decay_unity), LOIHI.decay_unity - 1),
            bias_mant=zero.astype(np.int16),
            bias_exp=zero.astype(np.int8),
        )

    def _output(self, node: Node[nir.NIRNode]) -> tuple[Op, tuple[str, ...]]:
        (source,) = node.inputs
        divisor = 1
        if _is_readout_scale(self.graph, self.graph[source]):
            divisor = self._divisor(self.graph[source])
            (source,) = self.graph[source].inputs
        signal = Signal(SignalKind.CURRENT, self.exps[source])
        return Output(signal, divisor=divisor, bias=np.zeros(node.shape[0])), (source,)

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

    def round_weight(
        self, name: str, weight: Float64Array, *, per_channel: bool
    ) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
        """Mantissas and exponents of weights given in units of the finest step, (C_out, ...) and (C_out,).

        An exponent is the least that lets the largest weight of its channel (or layer) fit; ties round to even.
        """
        largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        if not per_channel:
            largest = np.full_like(largest, largest.max())
        exponent = np.maximum(np.ceil(np.log2(np.maximum(largest, 1.0) / (self.mantissa_max + 0.5))), 0)
        if exponent.max(initial=0) > LOIHI.weight_exp_max:
            raise RangeError(
                f"{name}: a weight needs exponent {exponent.max():.0f}, Loihi's limit is {LOIHI.weight_exp_max}; "
                "normalise the layer or use more weight bits"
            )
        unit = 2.0 ** exponent.reshape(-1, *(1,) * (weight.ndim - 1))
        mantissa = np.clip(np.rint(weight / unit), -self.mantissa_max, self.mantissa_max)
        return mantissa.astype(np.int8), exponent.astype(np.int8)

    def _choose_scales(self) -> dict[str, int]:
        """k of each node's output: within a domain, as fine as its weights ask for and all of its nodes allow."""
        domains = _domains(self.graph)
        wanted = dict.fromkeys(domains.values(), SCALE_EXP_ENOUGH)
        limits: dict[str, list[tuple[int, str]]] = {domain: [] for domain in domains.values()}
        for node in self.graph:
            if node.name in domains:
                domain = domains[node.name]
                wanted[domain] = max(wanted[domain], self._resolving_exp(node))
                limits[domain] += self._limits(node)
        exps: dict[str, int] = {}
        for node in self.graph:
            match node.op:
                case nir.Input():
                    exps[node.name] = self.input_exp
                case nir.LIF() | nir.IF():
                    exps[node.name] = 0
                case nir.Linear() | nir.Affine():
                    exps[node.name] = exps[node.inputs[0]] + self._readout_exp(node)
                case nir.Flatten():
                    source_exp = exps[node.inputs[0]]
                    exps[node.name] = source_exp - self._readout_shift(node, source_exp)
                case _ if node.name in domains:
                    exp, reason = min(limits[domains[node.name]])
                    exps[node.name] = min(exp, wanted[domains[node.name]])
                    if exps[node.name] < max(exps[name] for name in node.inputs):
                        raise RangeError(
                            f"{node.name}: no scale fits its currents: {reason}, which leaves 2^{exps[node.name]}; "
                            "normalise the layer, lower --input-scale-exp or give calibration images"
                        )
                case _:
                    exps[node.name] = exps[node.inputs[0]]
        return exps

    def _limits(self, node: Node[nir.NIRNode]) -> list[tuple[int, str]]:
        """What bounds the scale of one node's output: the largest k, and why."""
        reach = max(self.reach[node.name], SMALLEST_MAGNITUDE)
        limits = [
            (SCALE_EXP_MAX, "no scale is finer"),
            (_floor_log2(LOIHI.a_max / reach), f"{node.name} reaches {reach:.4g}"),
        ]
        if isinstance(node.op, nir.Conv2d):
            weight = np.abs(node.op.weight)
            steepest = max(float(weight.max(initial=0.0)), SMALLEST_MAGNITUDE)
            exp = _floor_log2(self.mantissa_max * 2**LOIHI.weight_exp_max / steepest) + self._source_exp(node)
            limits.append((exp, f"{node.name} has a weight of {steepest:.4g}"))
            row = max(float(weight.reshape(len(weight), -1).sum(axis=1).max()), SMALLEST_MAGNITUDE)
            worst = row * self._source_reach(node)
            exp = _floor_log2(LOIHI.accumulator_max / ROUNDED_SUM_GROWTH / worst)
            limits.append((exp, f"{node.name} may sum up to {worst:.4g}"))
        for reader in self.graph.consumers[node.name]:
            if isinstance(reader.op, NEURONS):
                threshold = _uniform(reader, "v_threshold")
                limits.append(
                    (_floor_log2(LOIHI.vth_mantissa_max / threshold), f"{reader.name} fires at {threshold:.4g}")
                )
        return limits

    def _source_exp(self, node: Node[nir.NIRNode]) -> int:
        """k of what a convolution reads: pixels have one, spikes are 0 or 1.

        Raises:
            UnsupportedError: It reads neither.
        """
        source = self.graph[node.inputs[0]]
        if not isinstance(source.op, (nir.Input, *NEURONS)):
            raise UnsupportedError(
                f"{node.name}: reads {source.name} ({type(source.op).__name__}), a current; a convolution must read "
                "the input or spikes, so put neurons between them"
            )
        return self.input_exp if isinstance(source.op, nir.Input) else 0

    def _source_reach(self, node: Node[nir.NIRNode]) -> float:
        """The largest magnitude of what a convolution reads."""
        if isinstance(self.graph[node.inputs[0]].op, nir.Input):
            return self.input_high * 2.0**-self.input_exp
        return 1.0

    def _resolving_exp(self, node: Node[nir.NIRNode]) -> int:
        """The k at which most channels' weights fill their mantissas with an exponent of zero; more gains nothing."""
        if not isinstance(node.op, nir.Conv2d):
            return 0
        weight = np.abs(node.op.weight)
        largest = np.sort(weight.reshape(len(weight), -1).max(axis=1))[::-1]
        largest = largest[largest > 0]
        if not len(largest):
            return 0
        finest = max(float(largest[math.ceil(FINE_CHANNELS * len(largest)) - 1]), SMALLEST_MAGNITUDE)
        return self._source_exp(node) + math.ceil(math.log2(self.mantissa_max / finest))

    def _readout_exp(self, node: Node[nir.NIRNode]) -> int:
        """k of a readout's weights: no spike depends on it, so they fill their mantissas."""
        steepest = max(float(np.abs(node.op.weight).max(initial=0.0)), SMALLEST_MAGNITUDE)
        return min(max(_floor_log2(self.mantissa_max / steepest), 0), READOUT_SCALE_EXP_MAX)

    def _readout_shift(self, node: Node[nir.NIRNode], exp: int) -> int:
        """By how many bits what a readout reads must be coarser than 2^exp, for its sums to stay in 32 bits.

        Pooled currents have more bits than a readout's weights can spare: without the shift, the weights of a network
        of full size would be left with one bit or none.
        """
        shift = 0
        for reader in self.graph.consumers[node.name]:
            if isinstance(reader.op, (nir.Linear, nir.Affine)):
                row = float(np.abs(reader.op.weight).sum(axis=1).max(initial=0.0))
                largest = self.reach[node.name] * 2.0**exp * row * 2.0 ** self._readout_exp(reader)
                shift = max(shift, -_floor_log2(LOIHI.dense_sum_max / max(largest, 1.0)))
        return shift


def _domains(graph: Graph[nir.NIRNode]) -> dict[str, str]:
    """For each node whose output is a current of neurons, one node that stands for all that share its scale."""
    parents: dict[str, str] = {}

    def find(name: str) -> str:
        while parents[name] != name:
            name = parents[name]
        return name

    for node in graph:
        match node.op:
            case nir.Conv2d():
                parents[node.name] = node.name
            case Add() | SpikeMatMul() | MaxPool2d():
                parents[node.name] = node.name
                for source in node.inputs if isinstance(node.op, Add) else node.inputs[:1]:
                    if source not in parents:
                        raise UnsupportedError(
                            f"{node.name}: reads {source}, which is no current; only what convolutions make can be "
                            "summed, pooled or gated"
                        )
                    parents[find(source)] = node.name
            case _:
                pass
    return {name: find(name) for name in parents}


def _uniform(node: Node[nir.NIRNode], parameter: str) -> float:
    """The one value of a population's parameter.

    Raises:
        UnsupportedError: It varies between neurons.
    """
    values = collapse(getattr(node.op, parameter))
    if np.ptp(values):
        raise UnsupportedError(
            f"{node.name}: {parameter} varies from {values.min():.4g} to {values.max():.4g} within the population; "
            "Loihi's LIF has one value for all its neurons"
        )
    return float(values.flat[0])


def _round_bias(name: str, bias: Float64Array) -> npt.NDArray[np.int32]:
    rounded = np.rint(bias)
    largest = float(np.abs(rounded).max(initial=0.0))
    if largest > LOIHI.graded_max:
        raise RangeError(
            f"{name}: a bias becomes {largest:.0f}, the limit of a 24-bit value is {LOIHI.graded_max}; "
            "normalise the layer"
        )
    return rounded.astype(np.int32)


def _floor_log2(x: float) -> int:
    return math.floor(math.log2(x))


def _pair(value: npt.ArrayLike) -> tuple[int, int]:
    """NIR's int, pair or array as (rows, columns)."""
    rows, columns = np.broadcast_to(np.asarray(value, dtype=np.int64), 2).tolist()
    return rows, columns
