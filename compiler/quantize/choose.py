"""The choice of a plan: for each current the finest scale that fits, for each weight the least exponent."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.messages import message_names, names_before_neurons
from resformer.compiler.ir.ops.counts import attention_sizes
from resformer.compiler.ir.primitives import (
    NEURONS,
    Add,
    DiscreteCubaLI,
    DiscreteCubaLIF,
    MaxPool2d,
    MultiSpikeIF,
    RecurrentCubaLIF,
    SampleDelay,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
    as_weighted,
    collapse,
)
from resformer.compiler.ir.storage import OUTLIER_BITS, mantissa_max
from resformer.compiler.quantize.clip import fitting_exponents, kept_magnitudes
from resformer.compiler.quantize.input_range import InputData
from resformer.compiler.quantize.plan import (
    CONVOLUTIONAL,
    MIN_WEIGHT_BITS,
    READOUT_SCALE_EXP_MAX,
    SCALE_EXP_MAX,
    WEIGHTED,
    LayerPlan,
    QuantizationPlan,
    bits_max,
    floor_log2,
    uniform,
    weight_exp_max,
    weight_unit_exp,
)
from resformer.compiler.quantize.ranges import MEASURED_HEADROOM, pixel_deviation, require_graded
from resformer.compiler.target import LOIHI
from resformer.errors import InputError, RangeError, UnsupportedError

Float64Array = npt.NDArray[np.float64]

SMALLEST_MAGNITUDE = 2.0**-SCALE_EXP_MAX
"""Smaller magnitudes do not limit a scale."""
SCALE_EXP_ENOUGH = 10
"""Exponent of a scale that is fine enough for all biases and thresholds: steps of 2^-10 of a current."""
FINE_CHANNELS = 0.9
"""Share of a layer's channels whose weights a scale should resolve to the last bit of their mantissas; channels without
weights do not count."""
PIXEL_SCALE_EXP_MAX = 6
"""Finest k of an image: steps of 1/64, about those of an 8-bit pixel after ImageNet's normalisation (1/57)."""
COUNT_SCALE_EXP = 0
"""k of event frames, which are counts."""
COUNT_MAX = 255
"""Each pixel of a frame can hold at least this count of events."""
ROUNDED_SUM_GROWTH = 2
"""Factor by which rounding can raise the sum of weights' magnitudes: half a step becomes at most one."""
CALIBRATED_PIXEL_BITS = 1
"""Bits by which the scale of an image is finer if the weights that read it are calibrated."""
EXACT_POOL_BITS = 2
"""Bits by which currents may be coarser so that a pool's sum of them, which neurons read, need not be rounded."""


@dataclass(frozen=True)
class QuantizationConfig:
    """How to quantize.

    Attributes:
        weight_bits: Width of a weight's mantissa, sign included: 2 to 15. Above 8 bits, a weight takes two synapses (at
            9 bits, only few weights do). Only convolutions and recurrent layers can have two; a linear readout then has
            8 bits. None if it was not chosen: see ``default_bits``.
        layer_bits: Widths of the layers that have a width of their own, by name.
        per_channel: An exponent for each output channel, rather than one for each layer.
        clip_weights: Let a channel's range of weights end below its largest, where that loses less.
        input_scale_exp: k of the input; None for the one that loses least, or for 0 if the input is event frames of
            whole numbers, which are counts.
        input_range: The largest magnitude of the input; None for the measured one, or without data for a default.
    """

    weight_bits: int | None = None
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    per_channel: bool = True
    clip_weights: bool = True
    input_scale_exp: int | None = None
    input_range: float | None = None

    def bits(self, name: str) -> int:
        """The width of one layer's weights."""
        return self.layer_bits.get(name, self.default_bits)

    @property
    def default_bits(self) -> int:
        """The width of layers without a width of their own: the chosen one, or else that of a Loihi synapse."""
        return LOIHI.weight_bits_max if self.weight_bits is None else self.weight_bits

    def __post_init__(self) -> None:
        for bits in (self.default_bits, *self.layer_bits.values()):
            if type(bits) is not int:  # a bool or a numpy integer would only fail later, in a file
                raise RangeError(
                    f"weight bits: {bits!r} is a {type(bits).__name__}; choose an int from {MIN_WEIGHT_BITS} to "
                    f"{LOIHI.stacked_bits_max}"
                )
            if not MIN_WEIGHT_BITS <= bits <= LOIHI.stacked_bits_max:
                raise RangeError(
                    f"weight bits: {bits} is outside {MIN_WEIGHT_BITS} to {LOIHI.stacked_bits_max}, "
                    "what one or two Loihi synapses store; choose a width in that range"
                )
        if self.input_scale_exp is not None and not 0 <= self.input_scale_exp <= SCALE_EXP_MAX:
            raise RangeError(
                f"input scale: 2^{self.input_scale_exp} is outside 2^0 to 2^{SCALE_EXP_MAX}; choose an exponent in "
                "that range"
            )
        if self.input_range is not None and not 0 < self.input_range < math.inf:
            raise RangeError(f"input range: {self.input_range} is no magnitude above 0; give the largest of the input")


def choose_plan(
    graph: Graph[nir.NIRNode],
    ranges: Mapping[str, float],
    config: QuantizationConfig,
    *,
    measured: bool,
    seen: InputData | None = None,
) -> QuantizationPlan:
    """Choose scales, widths and exponents for a folded float graph.

    Args:
        graph: A float graph after all float passes.
        ranges: The magnitude of each node's output (``quantize.ranges``).
        config: Widths and granularity.
        measured: Whether the ranges come from data and need headroom; otherwise they are bounds already.
        seen: What samples say of the input; None without samples, when event frames are taken for whole numbers.

    Raises:
        UnsupportedError: A node has no exact integer form.
        RangeError: No scale fits a domain's currents, weights and thresholds, or a layer cannot have its width.
        InputError: A width is given for a layer that the network does not have, or all samples are zero.
    """
    _check_widths(graph, config.layer_bits)
    if measured and not ranges[graph.input.name]:
        raise InputError(
            "calibration: all values of all samples are 0, which shows nothing of the network's currents; give samples "
            "such as the network will get"
        )
    headroom = MEASURED_HEADROOM if measured else 1.0
    reach = {name: headroom * each for name, each in ranges.items()}
    return _Choice(graph, reach, config, finer_pixels=CALIBRATED_PIXEL_BITS if measured else 0, seen=seen).plan()


def _check_widths(graph: Graph[nir.NIRNode], layer_bits: Mapping[str, int]) -> None:
    """Check that the widths of single layers are for layers that can have them.

    Raises:
        InputError: There is no layer of that name.
        RangeError: A layer cannot have its width.
    """
    layers = {node.name: node for node in graph if isinstance(node.op, WEIGHTED)}
    unknown = [name for name in layer_bits if name not in layers]
    if unknown:
        raise InputError(
            f"layer bits: {', '.join(unknown)}: no layer with weights has that name; there are {', '.join(layers)}"
        )
    for name, bits in layer_bits.items():
        if bits > bits_max(layers[name]):
            raise RangeError(
                f"{name}: {bits} bits, the limit is {bits_max(layers[name])}, for only convolutions are stored as two "
                "synapses; choose fewer bits for it"
            )


class _Choice:
    """The choices for one graph."""

    def __init__(
        self,
        graph: Graph[nir.NIRNode],
        reach: Mapping[str, float],
        config: QuantizationConfig,
        *,
        finer_pixels: int,
        seen: InputData | None,
    ) -> None:
        self.graph = graph
        self.finer_pixels = finer_pixels
        self.messages = message_names(graph)
        self.reach = reach
        self.config = config
        # frames that were resized hold fractions, which are rounded like pixels
        self.counts_events = graph.metadata.get("input") == "frames" and (seen is None or seen.whole)
        largest = config.input_range or (0.0 if seen is None else seen.largest)
        # the bits by which pixels are smaller than those of images; negative if they are larger
        self.shrinkage = -floor_log2(pixel_deviation(largest))
        finest = min(max(PIXEL_SCALE_EXP_MAX + self.shrinkage, 0), SCALE_EXP_MAX)
        default_exp = COUNT_SCALE_EXP if self.counts_events else finest
        self.input_exp = default_exp if config.input_scale_exp is None else config.input_scale_exp
        self.input_high = self._input_high()
        self.kept = {node.name: self._kept_magnitudes(node) for node in graph if isinstance(node.op, WEIGHTED)}
        if config.input_scale_exp is None and not self.counts_events:
            self.exps = self._finest_scales()
            self.input_exp = self._balanced_input_exp()
            self.input_high = self._input_high()
        self.exps = self._choose_scales()

    def _finest_scales(self) -> dict[str, int]:
        """The scales for the finest steps of pixels that allow any; large weights of few bits need coarser steps.

        Raises:
            RangeError: No steps allow scales; the message is the one for the finest steps.
        """
        try:
            return self._choose_scales()
        except RangeError:
            for exp in range(self.input_exp - 1, -1, -1):
                self.input_exp = exp
                self.input_high = self._input_high()
                with contextlib.suppress(RangeError):
                    return self._choose_scales()
            raise

    def plan(self) -> QuantizationPlan:
        """The plan that holds the choices."""
        layers = {node.name: self._layer(node) for node in self.graph if isinstance(node.op, WEIGHTED)}
        return QuantizationPlan(self.input_high, self.exps, layers)

    def _bits(self, node: Node[nir.NIRNode]) -> int:
        return min(self.config.bits(node.name), bits_max(node))

    def _mantissa_max(self, node: Node[nir.NIRNode]) -> int:
        return mantissa_max(self._bits(node))

    def _largest_weight(self, node: Node[nir.NIRNode]) -> int:
        """The largest weight that a layer can hold, in units of its finest step."""
        largest: int = self._mantissa_max(node) * 2 ** weight_exp_max(self._bits(node))
        return largest

    def _layer(self, node: Node[nir.NIRNode]) -> LayerPlan:
        kept = self.kept[node.name] * 2.0 ** weight_unit_exp(self.exps, node)
        bits = self._bits(node)
        exponent = fitting_exponents(node.name, kept, bits)
        return LayerPlan(bits, exponent if isinstance(node.op, CONVOLUTIONAL) else exponent[:1])

    def _kept_magnitudes(self, node: Node[nir.NIRNode]) -> Float64Array:
        """The magnitude that each channel's mantissas are to hold, (C_out,); equal if channels share an exponent."""
        weight = as_weighted(node.op).weight
        weight = weight.reshape(len(weight), -1)
        if isinstance(node.op, CONVOLUTIONAL) and self.config.per_channel:
            return self._kept(weight, self._bits(node))
        return np.repeat(self._kept(weight.reshape(1, -1), self._bits(node)), len(weight))

    def _kept(self, rows: Float64Array, bits: int) -> Float64Array:
        if self.config.clip_weights:
            return kept_magnitudes(rows, bits)
        largest: Float64Array = np.abs(rows).max(axis=1, initial=0.0)
        return largest

    def _balanced_input_exp(self) -> int:
        """The k of an image at which rounding pixels costs as much as rounding the weights that they meet.

        A weight's step is 2^k over its current's scale, so finer pixels mean coarser weights: with steps p and q, the
        variance of a current's error is (p^2 * sum of w^2 + q^2 * taps) / 12 for pixels of unit variance. Calibration
        halves the cost of rounding weights, since neighbouring pixels are alike. Pixels that are smaller by some bits
        get steps that are finer by half of these bits; the weights give way by the other half.
        """
        exps = [self.input_exp]
        for reader in self.graph.consumers[self.graph.input.name]:
            if isinstance(reader.op, nir.Conv2d):
                power = max(float((reader.op.weight**2).mean()), SMALLEST_MAGNITUDE)
                balanced = (self.exps[reader.name] + math.log2(power) / 2 + self.shrinkage) / 2
                exps.append(round(balanced) + self.finer_pixels)
        return max(min(exps), 0)

    def _input_high(self) -> int:
        """The largest integer of the input: a power of two.

        Raises:
            RangeError: It is too large for a graded spike.
        """
        reach = self.reach[self.graph.input.name]
        if self.config.input_range is not None:
            reach = self.config.input_range
        elif self.counts_events:
            reach = max(COUNT_MAX, reach)
        require_graded(self.graph.input.name, reach)
        high: int = 2 ** math.ceil(math.log2(max(reach * 2.0**self.input_exp, 1.0)))
        if high > LOIHI.graded_max:
            raise RangeError(
                f"{self.graph.input.name}: values up to {reach:.4g} become {high} at scale 2^{self.input_exp}, the "
                f"limit of a 24-bit value is {LOIHI.graded_max}; lower --input-scale-exp or normalise the samples"
            )
        return high

    def _choose_scales(self) -> dict[str, int]:
        """k of each node's output: within a domain, as fine as its weights ask for and all of its nodes allow."""
        domains = _domains(self.graph, self.messages)
        wanted = dict.fromkeys(domains.values(), SCALE_EXP_ENOUGH)
        limits: dict[str, list[tuple[int, str]]] = {domain: [] for domain in domains.values()}
        for node in self.graph:
            if node.name in domains:
                domain = domains[node.name]
                recurrent = [each for each in self.graph.consumers[node.name] if isinstance(each.op, RecurrentCubaLIF)]
                wanted[domain] = max(wanted[domain], *(self._resolving_exp(each) for each in (node, *recurrent)))
                limits[domain] += self._limits(node)
        self._spare_pools(domains, wanted, limits)
        exps: dict[str, int] = {}
        for node in self.graph:
            match node.op:
                case nir.Input():
                    exps[node.name] = self.input_exp
                case nir.LIF() | nir.IF() | DiscreteCubaLIF() | MultiSpikeIF() | SpikeGate():
                    exps[node.name] = 0
                case DiscreteCubaLI():
                    exps[node.name] = exps[node.inputs[0]] + LOIHI.a_shift
                case nir.Linear() | nir.Affine():
                    exps[node.name] = exps[node.inputs[0]] + self._readout_exp(node)
                case nir.Flatten():
                    source_exp = exps[node.inputs[0]]
                    exps[node.name] = source_exp - self._readout_shift(node, source_exp)
                case nir.SumPool2d() if node.name in domains:
                    # a relay before it may send on a coarser value, whose sum the thresholds can hold
                    exps[node.name] = min(exps[node.inputs[0]], min(limits[node.name])[0])
                case _ if node.name in domains:
                    exp, reason = min(limits[domains[node.name]])
                    exps[node.name] = min(exp, wanted[domains[node.name]])
                    counts = [node.op.shift] if isinstance(node.op, SpikeAttention) else []
                    if exps[node.name] < max([*(exps[name] for name in node.inputs), *counts]):
                        raise RangeError(
                            f"{node.name}: no scale fits its currents: {reason}, which leaves 2^{exps[node.name]}; "
                            "normalise the layer, lower --input-scale-exp or give calibration images; of a NIR file, "
                            "see that --dt is in its unit of time"
                        )
                case _:
                    exps[node.name], *others = dict.fromkeys(exps[name] for name in node.inputs)
                    if others:
                        raise UnsupportedError(
                            f"{node.name}: adds pixels and spikes, which count in different units; put a convolution "
                            "behind the input"
                        )
        return exps

    def _spare_pools(
        self, domains: Mapping[str, str], wanted: Mapping[str, int], limits: Mapping[str, list[tuple[int, str]]]
    ) -> None:
        """Limit the scale of currents so that a pool sums them unrounded, where that costs them a few bits at most."""
        for node in self.graph:
            if not isinstance(node.op, nir.SumPool2d) or node.name not in domains:
                continue
            domain, (most, reason) = domains[node.inputs[0]], min(limits[domains[node.name]])
            chosen = min(min(limits[domain])[0], wanted[domain])
            least = max(self._least_exp(self.graph[name]) for name, each in domains.items() if each == domain)
            if max(chosen - EXACT_POOL_BITS, least) <= most < chosen:
                limits[domain].append((most, reason))

    def _least_exp(self, node: Node[nir.NIRNode]) -> int:
        """The coarsest k that a current may have, so that whole weights and counts stay whole numbers in it."""
        if isinstance(node.op, SpikeAttention):
            return node.op.shift
        return self._source_exp(node) if isinstance(node.op, nir.Conv2d) else 0

    def _limits(self, node: Node[nir.NIRNode]) -> list[tuple[int, str]]:
        """The limits on the scale of one node's output, each as the largest k and the reason."""
        reach = max(self.reach[node.name], SMALLEST_MAGNITUDE)
        limits = [
            (SCALE_EXP_MAX, "no scale is finer"),
            (floor_log2(LOIHI.a_max / reach), f"{node.name} reaches {reach:.4g}"),
        ]
        if isinstance(node.op, SpikeAttention):
            # its largest count is known without samples; counts that are too large for any scale saturate
            sizes = attention_sizes([self.graph[name].shape for name in node.inputs], node.op.num_heads)
            q, k, v = (int(self._message_reach(self.graph[name])) for name in node.inputs)
            first, most = sizes.first_product(q, k, v), sizes.most * q * k * v
            if first > LOIHI.graded_max:
                raise RangeError(
                    f"{node.name}: its first product may count to {first}, the limit of a 24-bit value is "
                    f"{LOIHI.graded_max}; train it with fewer levels, or with more heads"
                )
            finest = max(floor_log2(LOIHI.a_max / most), 0) + node.op.shift
            limits[1] = (finest, f"{node.name} may count to {most:.0f}")
        if isinstance(node.op, nir.Conv2d):
            weight = np.abs(node.op.weight)
            steepest = max(float(self.kept[node.name].max(initial=0.0)), SMALLEST_MAGNITUDE)
            exp = floor_log2(self._largest_weight(node) / steepest) + self._source_exp(node)
            limits.append((exp, f"{node.name} has a weight of {steepest:.4g}"))
            row = max(float(weight.reshape(len(weight), -1).sum(axis=1).max()), SMALLEST_MAGNITUDE)
            worst = row * self._source_reach(node)
            exp = floor_log2(LOIHI.accumulator_max / ROUNDED_SUM_GROWTH / worst)
            limits.append((exp, f"{node.name} may sum up to {worst:.4g}"))
        for reader in self.graph.consumers[node.name]:
            if isinstance(reader.op, DiscreteCubaLI):
                gathered = reach * _gathered(reader.op, self.graph.timesteps)
                limits.append((floor_log2(LOIHI.a_max / gathered), f"{reader.name} may reach {gathered:.4g}"))
            elif isinstance(reader.op, DiscreteCubaLIF):
                limits += self._cuba_limits(reader, reach)
            elif isinstance(reader.op, MultiSpikeIF):
                highest = float(collapse(reader.op.v_threshold).max())
                limits.append((floor_log2(LOIHI.vth_mantissa_max / highest), f"{reader.name} fires at {highest:.4g}"))
            elif isinstance(reader.op, NEURONS):
                threshold = uniform(reader, "v_threshold")
                limits.append(
                    (floor_log2(LOIHI.vth_mantissa_max / threshold), f"{reader.name} fires at {threshold:.4g}")
                )
        return limits

    def _cuba_limits(self, node: Node[nir.NIRNode], reach: float) -> list[tuple[int, str]]:
        """The limits from neurons whose current has a memory: it adds up over a sample and must not saturate."""
        neurons, potential_max = node.op, LOIHI.v_max / 2**LOIHI.a_shift
        assert isinstance(neurons, DiscreteCubaLIF)
        slowest = 1 - float(collapse(neurons.syn_decay).min())
        limits = []
        if isinstance(neurons, RecurrentCubaLIF):
            weight = np.abs(neurons.weight)
            steepest, row = float(weight.max(initial=0.0)), float(weight.reshape(len(weight), -1).sum(axis=1).max())
            reach += row
            limits = [
                (LOIHI.accumulator_max / ROUNDED_SUM_GROWTH, row, f"{node.name} may feed back {row:.4g}"),
                (
                    self._largest_weight(node),
                    steepest,
                    f"{node.name} has a recurrent weight of {steepest:.4g}",
                ),
            ]
        gathered = reach * sum(slowest**step for step in range(self.graph.timesteps))
        threshold, drop, bias = (
            float(np.abs(collapse(getattr(neurons, key))).max()) for key in ("v_threshold", "v_drop", "v_bias")
        )
        limits += [
            (LOIHI.a_max, gathered, f"the current of {node.name} may reach {gathered:.4g}"),
            (LOIHI.vth_mantissa_max, threshold, f"{node.name} fires at {threshold:.4g}"),
            (potential_max, drop, f"a spike takes {drop:.4g} from {node.name}"),
            (potential_max, bias, f"{node.name} leaks by {bias:.4g}"),
        ]
        return [(floor_log2(limit / max(each, SMALLEST_MAGNITUDE)), reason) for limit, each, reason in limits]

    def _source_exp(self, node: Node[nir.NIRNode]) -> int:
        """k of what a convolution reads: that of pixels, or 0 for spikes and their counts, which are whole numbers.

        Raises:
            UnsupportedError: The convolution reads a current.
        """
        source = self.graph[node.inputs[0]]
        if source.name not in self.messages:
            raise UnsupportedError(
                f"{node.name}: reads {source.name} ({type(source.op).__name__}), a current; a convolution must read "
                "the input or spikes, so put neurons between them"
            )
        while source.inputs and not isinstance(source.op, (SpikeGate, *NEURONS)):
            source = self.graph[source.inputs[0]]
        return self.input_exp if isinstance(source.op, nir.Input) else 0

    def _source_reach(self, node: Node[nir.NIRNode]) -> float:
        """The largest magnitude of what a convolution reads."""
        return self._message_reach(self.graph[node.inputs[0]])

    def _message_reach(self, node: Node[nir.NIRNode]) -> float:
        """The largest magnitude of a message."""
        match node.op:
            case nir.Input():
                return self.input_high * 2.0**-self.input_exp
            case Add() | MaxPool2d() | nir.SumPool2d() | nir.Flatten() | SampleDelay():
                area = math.prod(node.op.kernel_size) if isinstance(node.op, nir.SumPool2d) else 1
                return area * sum(self._message_reach(self.graph[name]) for name in node.inputs)
            case MultiSpikeIF(max_spikes=most):
                return float(most)
            case _:
                return 1.0

    def _resolving_exp(self, node: Node[nir.NIRNode]) -> int:
        """The k at which most channels' weights fill their mantissas with exponent zero; a finer k gains nothing.

        It is no less than the k of what the layer reads, which no current may be coarser than.
        """
        if not isinstance(node.op, CONVOLUTIONAL):
            return 0
        source_exp = self._source_exp(node) if isinstance(node.op, nir.Conv2d) else 0
        largest = np.sort(self.kept[node.name])[::-1]
        largest = largest[largest > 0]
        if not len(largest):
            return source_exp
        finest = max(float(largest[math.ceil(FINE_CHANNELS * len(largest)) - 1]), SMALLEST_MAGNITUDE)
        bits = self._bits(node)
        # a ninth bit is for channels whose exponents can go down; a finer k would make all currents larger, and that
        # costs relays
        bits = LOIHI.weight_bits_max if bits == OUTLIER_BITS else bits
        return source_exp + max(math.ceil(math.log2(mantissa_max(bits) / finest)), 0)

    def _readout_exp(self, node: Node[nir.NIRNode]) -> int:
        """k of a readout's weights: no spike depends on it, so they fill their mantissas."""
        steepest = max(float(self.kept[node.name].max(initial=0.0)), SMALLEST_MAGNITUDE)
        return min(max(floor_log2(self._mantissa_max(node) / steepest), 0), READOUT_SCALE_EXP_MAX)

    def _readout_shift(self, node: Node[nir.NIRNode], exp: int) -> int:
        """The bits by which a readout's input must be coarser than 2^``exp``, so that its sums stay in 32 bits.

        Pooled currents have more bits than a readout's weights can spare: without the shift, the weights of a network
        of full size would be left with one bit or none.
        """
        shift = 0
        for reader in self.graph.consumers[node.name]:
            if isinstance(reader.op, (nir.Linear, nir.Affine)):
                row = float(np.abs(reader.op.weight).sum(axis=1).max(initial=0.0))
                largest = self.reach[node.name] * 2.0**exp * row * 2.0 ** self._readout_exp(reader)
                shift = max(shift, -floor_log2(LOIHI.dense_sum_max / max(largest, 1.0)))
        return shift


def _gathered(op: DiscreteCubaLI, timesteps: int) -> float:
    """The largest value of the potential and the current, for an input of one at each step of a sample."""
    u = v = np.zeros(())
    largest = 1.0
    for _ in range(timesteps):
        u = u * (1 - collapse(op.syn_decay)) + 1
        v = v * (1 - collapse(op.mem_decay)) + u
        largest = max(largest, float(u.max()), float(v.max()))
    return largest


def _domains(graph: Graph[nir.NIRNode], messages: Collection[str]) -> dict[str, str]:
    """For each node whose output is a current of neurons, the name that stands for all nodes that share its scale."""
    parents: dict[str, str] = {}
    before = names_before_neurons(graph)

    def find(name: str) -> str:
        while parents[name] != name:
            name = parents[name]
        return name

    for node in graph:
        match node.op:
            case nir.Conv2d() | SpikeAttention():
                parents[node.name] = node.name
            case nir.SumPool2d() if node.name in before and node.name not in messages:
                _require_current(node, node.inputs[0], parents)
                parents[node.name] = node.name
            case Add() | SpikeMatMul() | MaxPool2d() if node.name not in messages:
                parents[node.name] = node.name
                for source in node.inputs if isinstance(node.op, Add) else node.inputs[:1]:
                    _require_current(node, source, parents)
                    parents[find(source)] = node.name
            case _ if isinstance(node.op, NEURONS) and node.inputs[0] in messages:
                _require_current(node, node.inputs[0], parents)
            case _:
                pass
    return {name: find(name) for name in parents}


def _require_current(node: Node[nir.NIRNode], source: str, currents: Collection[str]) -> None:
    if source not in currents:
        raise UnsupportedError(
            f"{node.name}: reads {source}, which is no current; only what convolutions make can be added to currents, "
            "gated, or given to neurons"
        )
