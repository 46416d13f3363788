"""Neurons with Loihi's arithmetic: those that fire, and those that only integrate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.arrays import Int8Array, Int16Array, Int32Array, Int64Array, Shape, WeightArray, require
from resformer.compiler.ir.interval import Interval
from resformer.compiler.ir.ops.arithmetic import per_channel
from resformer.compiler.ir.ops.base import Carried, Op, Outcome, one_input, weighted_input
from resformer.compiler.ir.ops.formats import (
    Flag,
    RowsAndColumns,
    Shapes,
    Whole,
    integers,
    per_channel_or_one,
    per_neuron,
)
from resformer.compiler.ir.ops.sums import known_bounds
from resformer.compiler.ir.ops.synapses import COUNT_MAX, EXPONENTS, WIDE_WEIGHTS, Conv2d, largest_row
from resformer.compiler.ir.signal import Signal, SignalKind
from resformer.compiler.ir.storage import mantissa_bits
from resformer.compiler.ir.window import Pair, Window
from resformer.compiler.target import LOIHI
from resformer.errors import RangeError

CURRENT_DECAYS = integers(np.int16, per_neuron, 0, LOIHI.decay_unity - 1)
POTENTIAL_DECAYS = integers(np.int16, per_neuron, 0, LOIHI.decay_unity)
STATES = integers(np.int32, per_neuron, -LOIHI.v_max, LOIHI.v_max)
THRESHOLD_UNIT = 1 << LOIHI.a_shift
"""The unit of threshold mantissas, in 1/64 of the input: the largest surplus, which lowers the threshold by one."""
OUT_OF_REACH = LOIHI.v_max + 1
"""A potential that no neuron has."""


@dataclass(frozen=True, eq=False)
class Spiking(Op, ABC):
    """Base of the neurons that fire.

    They fire above their threshold. A surplus makes them fire at it too: an amount too small to carry any other
    potential across, which is added to each step's input, or taken from the threshold (``docs/numerics.md``, Ties).

    Attributes:
        surplus: (C,), or (1,) for all, in 1/64 of the input. Below 64, it is a power of two that the bias holds in
            addition to what the network adds. 64, which all channels have or none, lowers the threshold by one. With 0,
            a potential that meets the threshold exactly does not fire, and is counted.
    """

    surplus: Annotated[Int8Array, integers(np.int8, per_channel_or_one, 0, THRESHOLD_UNIT)] = field(
        kw_only=True, default_factory=lambda: np.zeros(1, dtype=np.int8)
    )

    makes: ClassVar[SignalKind | None] = SignalKind.SPIKE
    fires: ClassVar[bool] = True
    clips: ClassVar[bool] = True
    recorded: ClassVar[bool] = True

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``."""
        return one_input(inputs)

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """See ``Op``."""
        return Interval.between(0, 1)

    def sums(self, inputs: Sequence[int], shapes: Shapes) -> int:  # noqa: ARG002
        """See ``Op``."""
        return 1

    @property
    @abstractmethod
    def thresholds(self) -> Int64Array:
        """Threshold mantissas, to be broadcast against the population: a neuron fires where v > threshold * 64."""

    @property
    @abstractmethod
    def decays(self) -> Int64Array:
        """Decays of the membrane potential, in 1/4096, to be broadcast against the population."""

    @abstractmethod
    def input_bias(self, axes: int) -> Int64Array:
        """What neurons add to their input each step, in 1/64 of the input, for a population of ``axes`` axes."""

    @property
    def lowers_threshold(self) -> bool:
        """Whether its thresholds are one lower than the network's, so that neurons fire at the network's thresholds."""
        return bool((self.surplus == THRESHOLD_UNIT).any())

    @property
    def meant_thresholds(self) -> Int64Array:
        """The network's thresholds: :attr:`thresholds`, plus one where the surplus has lowered them."""
        return self.thresholds + int(self.lowers_threshold)

    @property
    def added_surplus(self) -> Int64Array:
        """The part of its bias that is a surplus, (C,) or (1,)."""
        return np.where(self.surplus < THRESHOLD_UNIT, self.surplus, 0).astype(np.int64)

    def meant_bias(self, axes: int) -> Int64Array:
        """What the network adds to the input each step: :meth:`input_bias` without the surplus."""
        return self.input_bias(axes)

    def check_fields(self) -> None:
        """See ``Op``."""
        super().check_fields()
        lowered = self.surplus == THRESHOLD_UNIT
        require(bool(lowered.all()) or not lowered.any(), "a surplus lowers the threshold of some channels alone")
        require(not (self.surplus & (self.surplus - 1)).any(), "a surplus is no power of two")

    @property
    def counts_ties(self) -> bool:
        """See ``Op``."""
        return not self.surplus.all()

    def tie_potentials(self, axes: int) -> Int64Array:
        """The potentials at which neurons tie and do not fire, for a population of ``axes`` axes.

        ``OUT_OF_REACH`` stands for neurons that fire at ties.
        """
        fires = per_channel(self.surplus, axes) > 0
        ties: Int64Array = np.where(fires, OUT_OF_REACH, self.thresholds << LOIHI.a_shift)
        return ties

    @abstractmethod
    def steps(self, a: Int64Array) -> Iterator[fixedpoint.LifStep]:
        """The steps of neurons that begin at rest and are given ``a``, (T, N, ...)."""

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        return self.evaluate_with_ties(*inputs)[0]

    def evaluate_with_ties(self, *inputs: Int64Array) -> tuple[Outcome, int]:
        """See ``Op``."""
        (a,) = inputs
        spikes = np.empty(a.shape, dtype=np.int64)
        tie = self.tie_potentials(a.ndim - 2) if self.counts_ties else None
        clipped = ties = 0
        for step, state in enumerate(self.steps(a)):
            spikes[step] = state.spikes
            clipped += state.clipped
            ties += 0 if tie is None else int(np.count_nonzero(state.charged == tie))
        return Outcome(spikes, clipped), ties

    @abstractmethod
    def settling_surplus(self, bias: Int64Array, timesteps: int, *, lower: bool) -> Int8Array:
        """The surplus that makes it fire at its threshold and changes nothing else, (C,); 0 where there is none.

        Args:
            bias: The bias of its synapses, which its input gets each step, (C,), in units of the input.
            timesteps: T, the number of steps of a sample, which begins at rest.
            lower: Whether the threshold may be lowered, which it is for all channels or none.
        """

    @abstractmethod
    def with_surplus(self, surplus: Int8Array) -> Spiking:
        """These neurons, which have no surplus and whose biases are not placed yet, with a surplus."""

    @abstractmethod
    def stays_whole(self, decays: int) -> bool:
        """Whether no potential is truncated in ``decays`` decays, given whole inputs and the neurons' biases."""


@dataclass(frozen=True, eq=False)
class LIF(Spiking):
    """Leaky integrate-and-fire neurons with a hard reset to zero, like Lava's ``LIFReset``; reset every T steps.

    Attributes:
        vth: Threshold mantissa; a neuron fires where v > vth * 64.
        du: Decay of the current, in 1/4096 minus one.
        dv: Decay of the membrane potential, in 1/4096.
        bias_mant: Mantissa of the bias, (C,), or (1,) for all.
        bias_exp: Exponent of the bias, (C,), or (1,) for all.
    """

    vth: Annotated[int, Whole(0, LOIHI.vth_mantissa_max)]
    du: Annotated[int, Whole(0, LOIHI.decay_unity - 1)]
    dv: Annotated[int, Whole(0, LOIHI.decay_unity)]
    bias_mant: Annotated[
        Int16Array, integers(np.int16, per_channel_or_one, -LOIHI.bias_mantissa_max, LOIHI.bias_mantissa_max)
    ]
    bias_exp: Annotated[Int8Array, integers(np.int8, per_channel_or_one, 0, LOIHI.bias_exp_max)]

    @property
    def bias(self) -> Int64Array:
        """The bias, (C,) or (1,), in units of 1/64 of the synaptic input."""
        return fixedpoint.scale_bias(self.bias_mant, self.bias_exp)

    @property
    def thresholds(self) -> Int64Array:
        """See ``Spiking``."""
        return np.asarray(self.vth, dtype=np.int64)

    @property
    def decays(self) -> Int64Array:
        """See ``Spiking``."""
        return np.asarray(self.dv, dtype=np.int64)

    def input_bias(self, axes: int) -> Int64Array:
        """See ``Spiking``."""
        return per_channel(self.bias, axes)

    def meant_bias(self, axes: int) -> Int64Array:
        """See ``Spiking``."""
        return per_channel(self.bias - self.added_surplus, axes)

    def check_fields(self) -> None:
        """See ``Op``."""
        super().check_fields()
        require(self.bias_mant.shape == self.bias_exp.shape, "bias_mant and bias_exp differ in shape")

    def check_signals(self, inputs: Sequence[Signal]) -> None:
        """See ``Op``."""
        (current,) = inputs
        weighted_input(current, LOIHI.a_max)

    def input_limit(self) -> int | None:
        """See ``Op``."""
        return LOIHI.a_max

    def check_states(self, inputs: Sequence[Interval], timesteps: int) -> None:
        """See ``Op``; a current wraps above ``a_max``, and one with a memory adds up the inputs of several steps."""
        limit, given = LOIHI.a_max << LOIHI.a_shift, inputs[0].magnitude << LOIHI.a_shift
        reach = 0
        for _ in range(timesteps):
            before, reach = reach, reach * (LOIHI.decay_unity - 1 - self.du) // LOIHI.decay_unity + given
            require(
                reach <= limit, f"its current may reach {reach >> LOIHI.a_shift} or more, and wraps above {LOIHI.a_max}"
            )
            if reach == before:
                return  # it has stopped growing

    def may_clip(self, inputs: Sequence[Signal], timesteps: int) -> bool:
        """See ``Op``; a neuron clipped from above fires either way, so only the most negative potential matters."""
        low, _ = known_bounds(inputs[0])
        given, bias = low << LOIHI.a_shift, int(self.bias.min())
        u = v = np.zeros((), dtype=np.int64)
        for _ in range(timesteps):
            before = u, v
            u = fixedpoint.decay(u, self.du + 1) + given
            free = fixedpoint.decay(v, self.dv) + u + bias
            if free < -LOIHI.v_max:
                return True
            v = np.minimum(free, 0)  # a spike resets the potential, and leaves the current as it is
            if (u, v) == before:
                return False  # all later steps are the same
        return False

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:  # noqa: ARG002
        """See ``Op``."""
        bias = inputs[0]
        mantissa, exponent = _bias_format(bias, self.added_surplus)
        return Carried(
            replace(self, bias_mant=mantissa.astype(np.int16), bias_exp=exponent.astype(np.int8)), np.zeros_like(bias)
        )

    def takes_bias(self, bias: Int64Array) -> bool:
        """See ``Op``."""
        mantissa, _ = _bias_format(bias, self.added_surplus)
        return int(np.abs(mantissa).max(initial=0)) <= LOIHI.bias_mantissa_max

    def settling_surplus(self, bias: Int64Array, timesteps: int, *, lower: bool) -> Int8Array:
        """See ``Spiking``; the least surplus that leaves room for the bias in the mantissa, or a lowered threshold."""
        chosen = np.zeros(len(bias), dtype=np.int8)
        if timesteps > 1 and self.du != LOIHI.du_no_memory:
            return chosen
        grains = _grains(self.dv, LOIHI.a_shift, timesteps)
        if lower and self.vth > 0 and _by_threshold(grains):
            return np.full(len(bias), THRESHOLD_UNIT, dtype=np.int8)
        for exponent in range(LOIHI.a_shift):
            surplus = 1 << exponent
            mantissa, _ = _bias_format(bias, np.array([surplus]))
            fits = np.abs(mantissa) <= LOIHI.bias_mantissa_max
            if _by_bias(surplus, self.dv, grains):
                chosen[fits & (chosen == 0)] = surplus
        return chosen

    def with_surplus(self, surplus: Int8Array) -> LIF:
        """See ``Spiking``."""
        made = replace(self, surplus=surplus, vth=self.vth - int((surplus == THRESHOLD_UNIT).any()))
        mantissa, exponent = _bias_format(np.zeros(len(surplus), dtype=np.int64), made.added_surplus)
        return replace(made, bias_mant=mantissa.astype(np.int16), bias_exp=exponent.astype(np.int8))

    def steps(self, a: Int64Array) -> Iterator[fixedpoint.LifStep]:
        """See ``Spiking``."""
        bias = self.input_bias(a.ndim - 2)
        step = partial(fixedpoint.lif_step, bias=bias, vth=self.vth, du=self.du, dv=self.dv)
        u = v = np.zeros(a.shape[1:], dtype=np.int64)
        for now in a:
            state = step(u, v, now)
            u, v = state.u, state.v
            yield state

    def stays_whole(self, decays: int) -> bool:
        """See ``Spiking``."""
        return _stays_whole(self.du, self.dv, [self.bias - self.added_surplus], decays)

    def facts(self) -> dict[str, Any]:
        """See ``Op``."""
        bias = self.bias
        own = {"vth": self.vth, "du": self.du, "dv": self.dv, "bias": [int(bias.min()), int(bias.max())]}
        return own | spans(self, ("surplus",))


@dataclass(frozen=True, eq=False)
class CubaLIF(Spiking):
    """Leaky integrate-and-fire neurons of ours, for what Lava's ``LIFReset`` cannot do; reset every T steps.

    Their current has a memory, they may reset by subtraction, and every parameter may vary from neuron to neuron: each
    array has the population's number of axes, and each axis has the population's size, or one for all. The current and
    the potential saturate at the target's ``v_max``, and each clip is counted.

    Attributes:
        vth: Threshold mantissas; a neuron fires where v > vth * 64.
        v_drop: What a spike takes from v, in 1/64 of the input, if ``soft_reset``; otherwise zero.
        du: Decay of the current, in 1/4096 minus one: 4095 keeps nothing, as in :class:`LIF`.
        dv: Decay of the membrane potential, in 1/4096.
        u_bias: Added to the current each step, in 1/64 of the input: the biases of the synapses before it.
        v_bias: Added to the membrane potential each step, in 1/64 of the input; it decides what the potential leaks to.
        soft_reset: Whether a spike takes ``v_drop`` from v; otherwise it sets v to zero.
    """

    vth: Annotated[Int32Array, integers(np.int32, per_neuron, 0, LOIHI.vth_mantissa_max)]
    v_drop: Annotated[Int32Array, integers(np.int32, per_neuron, 0, LOIHI.v_max)]
    du: Annotated[Int16Array, CURRENT_DECAYS]
    dv: Annotated[Int16Array, POTENTIAL_DECAYS]
    u_bias: Annotated[Int32Array, STATES]
    v_bias: Annotated[Int32Array, STATES]
    soft_reset: Annotated[bool, Flag()]

    def parameters(self) -> fixedpoint.CubaParameters:
        """The parameters for ``fixedpoint.cuba_lif_step``, to be broadcast against (..., *shape)."""
        own = {name: getattr(self, name).astype(np.int64) for name in PER_NEURON}
        return fixedpoint.CubaParameters(**own, soft_reset=self.soft_reset)

    @property
    def thresholds(self) -> Int64Array:
        """See ``Spiking``."""
        return self.vth.astype(np.int64)

    @property
    def decays(self) -> Int64Array:
        """See ``Spiking``."""
        return self.dv.astype(np.int64)

    def input_bias(self, axes: int) -> Int64Array:  # noqa: ARG002 # it has the population's axes
        """See ``Spiking``."""
        return self.u_bias.astype(np.int64)

    @property
    def meant_v_bias(self) -> Int64Array:
        """What the network adds to the potential each step: ``v_bias`` without the surplus."""
        return self.v_bias - per_channel(self.added_surplus, self.v_bias.ndim)

    def check_fields(self) -> None:
        """See ``Op``."""
        super().check_fields()
        require(self.soft_reset or not self.v_drop.any(), "v_drop is not zero, but the reset is hard")

    def check_signals(self, inputs: Sequence[Signal]) -> None:
        """See ``Op``."""
        (current,) = inputs
        weighted_input(current, LOIHI.accumulator_max)

    def may_clip(self, inputs: Sequence[Signal], timesteps: int) -> bool:
        """See ``Op``; it tries the largest and the smallest input in every step."""
        own, threshold = self.parameters(), self.vth.astype(np.int64) << LOIHI.a_shift
        low, high = self._given(*known_bounds(inputs[0]))
        u_low = u_high = v_low = v_high = np.zeros(self.vth.ndim * (1,), dtype=np.int64)
        for _ in range(timesteps):
            u_low, u_high = (
                fixedpoint.decay(u, own.du + 1) + (a << LOIHI.a_shift) + own.u_bias
                for u, a in ((u_low, low), (u_high, high))
            )
            v_low, v_high = (
                fixedpoint.decay(v, own.dv) + u + own.v_bias for v, u in ((v_low, u_low), (v_high, u_high))
            )
            highest = max(int(u_high.max()), int(v_high.max()) if self.soft_reset else 0)
            if max(highest, -int(u_low.min()), -int(v_low.min())) > LOIHI.v_max:
                return True
            # a hard reset leaves zero; a soft one leaves from the threshold to the highest potential, less the drop
            v_low = np.minimum(v_low, np.minimum(threshold - own.v_drop, 0))
            unfired = threshold + own.v_drop if own.prompt else threshold
            v_high = np.minimum(v_high, np.maximum(unfired, v_high - own.v_drop))
        return False

    def _given(self, low: int, high: int) -> tuple[int, int]:
        """Bounds on all input of a neuron, recurrent input included, given the bounds on the input from its source."""
        return low, high

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:
        """See ``Op``."""
        return Carried(replace(self, u_bias=gathered(self.u_bias, inputs[0], shapes)), np.zeros_like(inputs[0]))

    def steps(self, a: Int64Array) -> Iterator[fixedpoint.LifStep]:
        """See ``Spiking``."""
        own = self.parameters()
        u = v = np.zeros(a.shape[1:], dtype=np.int64)
        fired = np.zeros(a.shape[1:], dtype=np.bool_)
        for now in a:
            state = fixedpoint.cuba_lif_step(u, v, self._arriving(now, fired), own)
            u, v, fired = state.u, state.v, state.spikes
            yield state

    def _arriving(self, now: Int64Array, fired: np.ndarray[Any, np.dtype[np.bool_]]) -> Int64Array:  # noqa: ARG002
        """All input of a step, (N, ...), given the input from the source and what the neurons fired one step ago."""
        return now

    def stays_whole(self, decays: int) -> bool:
        """See ``Spiking``."""
        return _stays_whole(self.du, self.dv, [self.u_bias, self.meant_v_bias, self.v_drop], decays)

    def settling_surplus(self, bias: Int64Array, timesteps: int, *, lower: bool) -> Int8Array:
        """See ``Spiking``; one unit of the bias, unless that is at its limit, or a lowered threshold."""
        if timesteps > 1 and (self.du != LOIHI.du_no_memory).any():
            return np.zeros(len(bias), dtype=np.int8)
        whole = min(_trailing_zeros(each) for each in (bias << LOIHI.a_shift, self.u_bias, self.v_bias, self.v_drop))
        decays = [int(each) for each in np.unique(self.dv)]
        grains = [_grains(each, min(whole, LOIHI.a_shift), timesteps) for each in decays]
        if lower and (self.vth > 0).all() and all(map(_by_threshold, grains)):
            return np.full(len(bias), THRESHOLD_UNIT, dtype=np.int8)
        settles = all(_by_bias(1, dv, each) for dv, each in zip(decays, grains, strict=True))
        has_room = int(self.v_bias.max()) < LOIHI.v_max
        return np.full(len(bias), settles and has_room, dtype=np.int8)

    def with_surplus(self, surplus: Int8Array) -> CubaLIF:
        """See ``Spiking``."""
        made = replace(self, surplus=surplus, vth=self.vth - np.int32((surplus == THRESHOLD_UNIT).any()))
        added = per_channel(made.added_surplus, self.v_bias.ndim)
        return replace(made, v_bias=(self.v_bias + added).astype(np.int32)) if added.any() else made

    def facts(self) -> dict[str, Any]:
        """See ``Op``."""
        return spans(self, (*PER_NEURON, "surplus")) | {"reset": "soft" if self.soft_reset else "hard"}


PER_NEURON = ("vth", "v_drop", "du", "dv", "u_bias", "v_bias")
"""The parameters of :class:`CubaLIF` that may vary from neuron to neuron."""


@dataclass(frozen=True, eq=False)
class RecurrentCubaLIF(CubaLIF):
    """``CubaLIF`` neurons, (C, H, W), with synapses onto themselves: what they fired one step ago adds to their input.

    Before a sample's first step nothing fired. The synapses are a convolution of stride one that keeps the shape. In a
    population of shape (F, 1, 1), a kernel of one position connects all neurons with all.

    Attributes:
        weight: (C, C / groups, K_h, K_w). Mantissas of more than 8 bits are int16, until ``stack_synapses`` has run.
        weight_exp: (C,), an exponent per output channel.
        padding: Zeros around the spikes, (rows, columns).
        groups: Blocks of channels that do not mix.
    """

    weight: Annotated[WeightArray, WIDE_WEIGHTS]
    weight_exp: Annotated[Int8Array, EXPONENTS]
    padding: Annotated[Pair, RowsAndColumns()]
    groups: Annotated[int, Whole(1, COUNT_MAX)]

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

    def parts(self) -> tuple[Conv2d, ...]:
        """The synapses that store the weights: one for each weight, or several whose currents are summed."""
        return (self.synapses(),)

    def without_synapses(self) -> CubaLIF:
        """The same neurons without recurrent synapses."""
        return CubaLIF(**{field.name: getattr(self, field.name) for field in fields(CubaLIF)})

    def windows(self) -> tuple[Window, ...]:
        """See ``Op``."""
        return (self.synapses().window,)

    def terms(self, shapes: Shapes) -> int:
        """See ``Op``."""
        return 1 + self.synapses().terms(shapes)

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``."""
        shape = one_input(inputs)
        made = self.synapses().output_shape([shape])
        require(made == shape, f"its recurrent synapses make shape {made} of spikes of shape {shape}")
        return shape

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:
        """See ``Op``."""
        reach = largest_row(self.synapses().whole_weight)
        if reach > LOIHI.accumulator_max:
            raise RangeError(sums_too_large("its recurrent sums", reach, LOIHI.accumulator_max))
        return super().interval(inputs, shapes)

    def _given(self, low: int, high: int) -> tuple[int, int]:
        weight = self.synapses().whole_weight.reshape(len(self.weight), -1)
        least = int(np.minimum(weight, 0).sum(axis=1).min())
        return low + least, high + int(np.maximum(weight, 0).sum(axis=1).max())

    def fed_back(self, spikes: Int64Array) -> Int64Array:
        """What its synapses add to each step's input if its neurons fire ``spikes``, both (T, N, ...)."""
        read = np.concatenate([np.zeros_like(spikes[:1]), spikes[:-1]])
        return self.synapses().evaluate(read).value

    def evaluate_beside(self, sent: Int64Array, *inputs: Int64Array) -> Outcome:
        """See ``Op``; its recurrent synapses read ``sent`` too."""
        (a,) = inputs
        return self.without_synapses().evaluate(a + self.fed_back(sent))

    def _arriving(self, now: Int64Array, fired: np.ndarray[Any, np.dtype[np.bool_]]) -> Int64Array:
        arriving: Int64Array = now + self.synapses().evaluate(fired[None].astype(np.int64)).value[0]
        return arriving

    def connections(self, shapes: Shapes, index_bits: int) -> int | None:
        """See ``Op``."""
        return self.synapses().connections(Shapes((shapes.output,), shapes.output), index_bits)

    def facts(self) -> dict[str, Any]:
        """See ``Op``."""
        recurrent = {
            "weight_bits": mantissa_bits(self.weight),
            "weight_exp": [int(self.weight_exp.min()), int(self.weight_exp.max())],
            "kernel": list(self.weight.shape[2:]),
        }
        return super().facts() | {"recurrent": recurrent}


@dataclass(frozen=True, eq=False)
class CubaLI(Op):
    """Neurons of ours that integrate and do not fire: they send their membrane potential; reset every T steps.

    They send v itself, so the scale of their signal is 6 bits finer than that of their input. Arrays have shapes as in
    :class:`CubaLIF`.

    Attributes:
        du: Decay of the current, in 1/4096 minus one: 4095 keeps nothing.
        dv: Decay of the membrane potential, in 1/4096.
        u_bias: Added to the current each step, in 1/64 of the input.
    """

    du: Annotated[Int16Array, CURRENT_DECAYS]
    dv: Annotated[Int16Array, POTENTIAL_DECAYS]
    u_bias: Annotated[Int32Array, STATES]

    makes: ClassVar[SignalKind | None] = SignalKind.GRADED
    clips: ClassVar[bool] = True
    recorded: ClassVar[bool] = True
    holds_bounds: ClassVar[bool] = True

    def parameters(self) -> fixedpoint.CubaLiParameters:
        """The parameters for ``fixedpoint.cuba_li_step``, to be broadcast against (..., *shape)."""
        return fixedpoint.CubaLiParameters(*(each.astype(np.int64) for each in (self.du, self.dv, self.u_bias)))

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See ``Op``."""
        return one_input(inputs)

    def check_signals(self, inputs: Sequence[Signal]) -> None:
        """See ``Op``."""
        (current,) = inputs
        scale = self.signal.scale_exp
        require(scale == current.scale_exp + LOIHI.a_shift, f"scale 2^{scale} is not its input's and 6 bits more")
        weighted_input(current, LOIHI.accumulator_max)

    def interval(self, inputs: Sequence[Interval], shapes: Shapes) -> Interval:  # noqa: ARG002
        """See ``Op``."""
        return Interval.between(-LOIHI.v_max, LOIHI.v_max)

    def sums(self, inputs: Sequence[int], shapes: Shapes) -> int:  # noqa: ARG002
        """See ``Op``."""
        return LOIHI.v_max

    def may_clip(self, inputs: Sequence[Signal], timesteps: int) -> bool:
        """See ``Op``; the largest input in every step gives the largest state, and the smallest input the smallest."""
        own = self.parameters()
        for bound in known_bounds(inputs[0]):
            u = v = np.zeros((), dtype=np.int64)
            for _ in range(timesteps):
                u, v, clipped = fixedpoint.cuba_li_step(u, v, np.asarray(bound), own)
                if clipped:
                    return True
        return False

    def carry_bias(self, inputs: Sequence[Int64Array], shapes: Shapes) -> Carried:
        """See ``Op``."""
        return Carried(replace(self, u_bias=gathered(self.u_bias, inputs[0], shapes)), np.zeros_like(inputs[0]))

    def evaluate(self, *inputs: Int64Array) -> Outcome:
        """See ``Op``."""
        (a,) = inputs
        own = self.parameters()
        u = v = np.zeros(a.shape[1:], dtype=np.int64)
        potentials = np.empty_like(a)
        clipped = 0
        for step, now in enumerate(a):
            u, v, lost = fixedpoint.cuba_li_step(u, v, now, own)
            potentials[step] = v
            clipped += lost
        return Outcome(potentials, clipped)

    def facts(self) -> dict[str, Any]:
        """See ``Op``."""
        return spans(self, ("du", "dv", "u_bias"))


def sums_too_large(what: str, reach: int, limit: int) -> str:
    """The error message for sums that may leave their accumulator."""
    return (
        f"{what} may reach {reach}, the limit of its accumulator is {limit}; lower --input-scale-exp or normalise the "
        "layer"
    )


def gathered(u_bias: Int32Array, bias: Int64Array, shapes: Shapes) -> Int32Array:
    """``u_bias`` plus the bias of the input, which is given for each channel, (C,), in units of the input.

    Raises:
        RangeError: The sum exceeds what the current can hold.
    """
    if not bias.any():
        return u_bias
    total: Int64Array = u_bias + (bias << LOIHI.a_shift).reshape(-1, *(1,) * (len(shapes.output) - 1))
    largest = int(np.abs(total).max())
    if largest > LOIHI.v_max:
        raise RangeError(
            f"the bias of its current becomes {largest >> LOIHI.a_shift}, the limit is "
            f"{LOIHI.v_max >> LOIHI.a_shift}; normalise the layer before it"
        )
    return total.astype(np.int32)


def _bias_format(bias: Int64Array, surplus: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Mantissas and exponents of a LIF's bias, given it in units of its input, (C,), and the surplus, (C,) or (1,).

    Without a surplus, the mantissa counts units of the input, each of which is 64 of the bias. With a surplus, it
    counts multiples of the surplus, and the surplus is added.
    """
    surplus = np.broadcast_to(surplus, bias.shape)
    exponent = np.where(surplus > 0, np.log2(np.maximum(surplus, 1)), LOIHI.a_shift).astype(np.int64)
    mantissa: Int64Array = ((bias << LOIHI.a_shift) + surplus) >> exponent
    return mantissa, exponent


def _trailing_zeros(values: Int64Array | Int32Array) -> int:
    """The largest k with which 2^k divides all of some whole numbers; 64 if all are zero."""
    met = int(np.bitwise_or.reduce(np.abs(values.astype(np.int64)), axis=None))
    return (met & -met).bit_length() - 1 if met else 64


def _grains(dv: int, whole: int, timesteps: int) -> list[int]:
    """The grain of potentials at each step: without a surplus all are multiples of it; 0 once one may be truncated.

    Args:
        dv: The decay of the potential, in 1/4096.
        whole: What a step adds is a multiple of two to this power.
        timesteps: T, the number of steps.
    """
    grains = [1 << whole]
    lost = LOIHI.decay_unity // dv if dv and not dv & (dv - 1) else None if dv else 1
    while len(grains) < timesteps and lost is not None and not grains[-1] % lost:
        grains.append(grains[-1] // lost)
    return grains + [0] * (timesteps - len(grains))


def _by_threshold(grains: Sequence[int]) -> bool:
    """Whether all potentials are multiples of 64, so that v > (vth - 1) * 64 means v >= vth * 64."""
    return all(grain and not grain % THRESHOLD_UNIT for grain in grains)


def _by_bias(surplus: int, dv: int, grains: Sequence[int]) -> bool:
    """Whether a surplus that is added each step, and decays with the potential, never exceeds the potential's grain.

    Let V be the potential without the surplus, and s the surplus that has gathered, 1 <= s <= g. V and the threshold
    are multiples of the grain g. So V >= 64 vth makes V + s > 64 vth, and V < 64 vth means V <= 64 vth - g, which makes
    V + s <= 64 vth. V decays to a whole number, so V + s decays to that number plus the decayed s, rounded up or down
    as the sign of the potential has it; here s is rounded up, the worse case.
    """
    gathered = 0
    for grain in grains:
        gathered = -(-gathered * (LOIHI.decay_unity - dv) // LOIHI.decay_unity) + surplus
        if gathered > grain:
            return False
    return True


def _stays_whole(
    du: Int16Array | int, dv: Int16Array | int, added: Sequence[Int64Array | Int32Array], decays: int
) -> bool:
    """Whether no potential is truncated in ``decays`` decays, given whole inputs and what else each step adds.

    The decay must be a power of two or zero. The current must have no memory, because its decay would be truncated too.
    """
    taken = 0
    for each in np.unique(dv).tolist():
        if each & (each - 1):
            return False
        taken = max(taken, decays * ((LOIHI.decay_unity // each).bit_length() - 1) if each else 0)
    forgets = bool((np.asarray(du) == LOIHI.du_no_memory).all())
    return forgets and taken <= LOIHI.a_shift and not any((each % 2**taken).any() for each in added)


def spans(op: Op, names: Sequence[str]) -> dict[str, Any]:
    """The smallest and the largest value of each parameter, by name."""
    values = {name: getattr(op, name) for name in names}
    return {name: [int(each.min()), int(each.max())] for name, each in values.items()}
