"""Neurons of levels: I-LIF, which sends the whole number of thresholds that is nearest to its potential."""

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

    They differ from ``MultiSpikeIF`` in two ways. Before a step adds its input, v decays to v (4096 - ``dv``) / 4096,
    rounded toward zero. The count s is v / (64 vth) rounded to the nearest whole number, so that the first spike is at
    half of vth.

    Attributes:
        dv: Decay of v, in 1/4096; 4096 is no memory.
        even: Whether a v half way between two counts is rounded to the even one; otherwise to the larger.
    """

    dv: Annotated[int, Whole(0, LOIHI.decay_unity)]
    even: Annotated[bool, Flag()]

    def parameters(self) -> fixedpoint.MultiSpikeParameters:
        """See ``MultiSpikeIF``."""
        rounding = Rounding.EVEN if self.even else Rounding.UP
        return super().parameters()._replace(dv=self.dv, rounding=rounding)

    def stays_whole(self, halvings: int) -> bool:
        """Whether no potential is truncated in ``halvings`` decays, so that float64 holds what it stands for.

        A decay that leaves k / 2^n of the potential, with k odd, takes n of its six fractional bits.
        """
        kept = LOIHI.decay_unity - self.dv
        if not halvings or not kept:
            return True
        shift = LOIHI.decay_unity.bit_length() - (kept & -kept).bit_length()
        return shift * halvings <= LOIHI.a_shift

    def facts(self) -> dict[str, Any]:
        """See ``Op``."""
        return super().facts() | {"dv": self.dv, "rounds_half": "to even" if self.even else "up"}
