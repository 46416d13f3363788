"""What a run of a program leaves behind: logits, every spike, graded values, and counts of saturation and of ties."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.arrays import require


@dataclass(frozen=True, eq=False)
class SpikeTrain:
    """The spikes of one population, eight to a byte.

    Attributes:
        shape: (T, N, ...): steps, samples, and the population's own shape.
        packed: ``numpy.packbits`` of the flattened spikes.
    """

    shape: tuple[int, ...]
    packed: npt.NDArray[np.uint8]

    @classmethod
    def pack(cls, spikes: npt.NDArray[np.generic]) -> SpikeTrain:
        """Pack dense spikes, (T, N, ...), of any type: what is not zero is a spike."""
        return cls(spikes.shape, np.packbits(spikes.astype(bool, copy=False).reshape(-1)))

    @property
    def size(self) -> int:
        """How many chances to fire there were."""
        return math.prod(self.shape)

    @property
    def count(self) -> int:
        """How many spikes there are."""
        return int(np.bitwise_count(self.packed).sum()) if hasattr(np, "bitwise_count") else int(self.dense().sum())

    def dense(self) -> npt.NDArray[np.bool_]:
        """The spikes, (T, N, ...), bool."""
        flat = np.unpackbits(self.packed, count=self.size)
        return flat.reshape(self.shape).astype(bool)

    def mismatches(self, other: SpikeTrain) -> int:
        """How many of the two trains' elements differ.

        Raises:
            InvariantError: The trains have different shapes.
        """
        require(self.shape == other.shape, f"{self.shape} against {other.shape}")
        return SpikeTrain(self.shape, self.packed ^ other.packed).count


@dataclass(frozen=True, eq=False)
class Trace:
    """The record of one run.

    Attributes:
        logits: (T, N, classes), the output's integers, int64.
        spikes: Of each LIF population, under its node's name; empty where nothing was recorded.
        graded: Of each relay, product and max-pool, (T, N, ...), int32; empty where nothing was recorded.
        saturated: How often a value was clipped, by node.
        ties: How often a potential met its threshold exactly and did not fire, by population; those that fire at ties
            are not there, nor is any where the backend does not count.
    """

    logits: npt.NDArray[np.int64]
    spikes: Mapping[str, SpikeTrain] = field(default_factory=dict)
    graded: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    saturated: Mapping[str, int] = field(default_factory=dict)
    ties: Mapping[str, int] = field(default_factory=dict)
