"""Neurons of levels: I-LIF's, which send the whole number that is nearest to their potential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.fixedpoint import Rounding
from resformer.compiler.ir.ops.formats import Flag, Whole
from resformer.compiler.ir.ops.multi_spike import MultiSpikeIF
from resformer.compiler.target import LOIHI


@dataclass(frozen=True, eq=False)
class IntegerLIF(MultiSpikeIF):
    """Neurons that send the count nearest to their potential, and may leak: I-LIF of SpikeYOLO and SDT v3.

    As ``MultiSpikeIF``, but for two things. A step leaves v (4096 - ``dv``) / 4096 of v, rounded toward zero, before it
    adds. The count s is v / (64 vth) rounded to the nearest whole number, so that the first spike is at half of vth.

    Attributes:
        dv: Decay of v, in 1/4096; 4096 is no memory.
        even: Whether a v half way between two counts is the even one; else it is the larger.
    """

    dv: Annotated[int, Whole(0, LOIHI.decay_unity)]
    even: Annotated[bool, Flag()]

    def parameters(self) -> fixedpoint.MultiSpikeParameters:
        """See ``MultiSpikeIF``."""
        rounding = Rounding.EVEN if self.even else Rounding.UP
        return super().parameters()._replace(dv=self.dv, rounding=rounding)

    def stays_whole(self, halvings: int) -> bool:
        """Whether no potential is truncated, so that float64 holds what it stands for, after as many decays.

        A decay by a power of two takes that many of the six fractional bits.
        """
        kept = LOIHI.decay_unity - self.dv
        if not halvings or not kept:
            return True
        shift = LOIHI.decay_unity.bit_length() - (kept & -kept).bit_length()
        return shift * halvings <= LOIHI.a_shift

    def facts(self) -> dict[str, Any]:
        """See ``Op``."""
        return super().facts() | {"dv": self.dv, "rounds_half": "to even" if self.even else "up"}
