"""Neurons that reset by subtraction without delay, as snnTorch does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.arrays import require
from resformer.compiler.ir.ops.neurons import CubaLIF


@dataclass(frozen=True, eq=False)
class PromptCubaLIF(CubaLIF):
    """Neurons that reset by subtraction; if v exceeds the threshold before a step, they fire only above two thresholds.

    These are snnTorch's neurons with ``reset_mechanism="subtract", reset_delay=False``. If the potential exceeds the
    threshold before a step, snnTorch subtracts the threshold before it compares, and adds it back if no spike follows.
    """

    @property
    def counts_ties(self) -> bool:
        """See ``Op``; snnTorch itself does not fire exactly at one or two thresholds, so none of its spikes is lost."""
        return False

    def parameters(self) -> fixedpoint.CubaParameters:
        """See ``CubaLIF``."""
        return super().parameters()._replace(prompt=True)

    def check_fields(self) -> None:
        """See ``Op``."""
        super().check_fields()
        require(self.soft_reset, "resets to zero, where it must subtract")

    def facts(self) -> dict[str, Any]:
        """See ``Op``."""
        return super().facts() | {"reset": "prompt"}
