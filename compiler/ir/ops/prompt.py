"""Neurons that reset by subtraction as snnTorch does without delay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.arrays import require
from resformer.compiler.ir.ops.neurons import CubaLIF


@dataclass(frozen=True, eq=False)
class PromptCubaLIF(CubaLIF):
    """Neurons that reset by subtraction; one that is above its threshold before a step fires only above two.

    So do snnTorch's with ``reset_mechanism="subtract", reset_delay=False``, which take the threshold away before they
    compare, where the potential that a step begins with exceeds it, and give it back where no spike follows.
    """

    @property
    def counts_ties(self) -> bool:
        """See ``Op``; snnTorch itself does not fire at either threshold, so none of its spikes is lost."""
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
