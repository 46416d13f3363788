"""Recurrent neurons whose weights have more bits than a synapse holds: each weight is stored as two synapses."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import numpy as np

from resformer.compiler.ir.arrays import Int8Array, require
from resformer.compiler.ir.ops.formats import Shapes, Whole, as_the_weights, integers
from resformer.compiler.ir.ops.neurons import RecurrentCubaLIF
from resformer.compiler.ir.ops.synapses import STACKED_MAX, WEIGHT_MAX, Conv2d
from resformer.compiler.ir.storage import mantissa_bits, split_mantissas
from resformer.compiler.target import LOIHI

SHIFT_MAX = LOIHI.stacked_bits_max - LOIHI.weight_bits_max
"""The largest number of bits by which the exponents of high synapses may exceed those of low synapses."""


@dataclass(frozen=True, eq=False)
class StackedRecurrentCubaLIF(RecurrentCubaLIF):
    """Recurrent neurons with two synapses for each weight: a weight's mantissa is ``weight * 2^shift + low``.

    ``weight`` and ``weight_exp`` are those of the high synapses. Both synapses of a weight have its sign.

    Attributes:
        low: Mantissas of the low synapses, in the shape of ``weight``.
        shift: How many bits the exponents of the low synapses are below ``weight_exp``.
    """

    low: Annotated[Int8Array, integers(np.int8, as_the_weights, -WEIGHT_MAX, WEIGHT_MAX)]
    shift: Annotated[int, Whole(0, SHIFT_MAX)]

    @classmethod
    def of(cls, neurons: RecurrentCubaLIF) -> StackedRecurrentCubaLIF:
        """Neurons with wide mantissas as neurons with two synapses for each weight."""
        high, low, shift = split_mantissas(neurons.weight)
        held = {field.name: getattr(neurons, field.name) for field in fields(RecurrentCubaLIF)}
        held |= {"weight": high, "weight_exp": (neurons.weight_exp + shift).astype(np.int8)}
        return cls(**held, low=low, shift=shift)

    def check_fields(self) -> None:
        """See ``Op``."""
        super().check_fields()
        require(self.weight.dtype == np.int8, f"weight is {self.weight.dtype}, not int8")
        require(self.low.shape == self.weight.shape, f"low has shape {self.low.shape}, weight {self.weight.shape}")
        require(
            int(self.weight_exp.min(initial=self.shift)) >= self.shift, f"weight_exp is below the shift {self.shift}"
        )
        largest = int(np.abs(self._mantissas).max(initial=0))
        require(largest <= STACKED_MAX, f"a weight is {largest}, beyond {STACKED_MAX}")

    @property
    def _mantissas(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        total: np.ndarray[Any, np.dtype[np.int32]] = (self.weight.astype(np.int32) << self.shift) + self.low
        return total

    def synapses(self) -> Conv2d:
        """The recurrent synapses as an operation of their own, with the weights that both parts sum to."""
        exponents = (self.weight_exp - self.shift).astype(np.int8)
        return replace(super().synapses(), weight=self._mantissas.astype(np.int16), weight_exp=exponents)

    def parts(self) -> tuple[Conv2d, ...]:
        """The high synapses and the low synapses."""
        whole = self.synapses()
        high = replace(whole, weight=self.weight, weight_exp=self.weight_exp)
        return high, replace(whole, weight=self.low)

    def connections(self, shapes: Shapes, index_bits: int) -> int | None:
        """See ``Op``; both synapses count."""
        around = Shapes((shapes.output,), shapes.output)
        return sum(part.connections(around, index_bits) or 0 for part in self.parts())

    def facts(self) -> dict[str, Any]:
        """See ``Op``."""
        whole = self.synapses()
        exponents = [int(whole.weight_exp.min()), int(whole.weight_exp.max())]
        facts = super().facts()
        facts["recurrent"] |= {"weight_bits": mantissa_bits(whole.weight), "weight_exp": exponents}
        return facts
