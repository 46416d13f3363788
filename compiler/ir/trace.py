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
    """The spikes of one population, with eight spikes in a byte.

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
        """The number of elements, spikes or not: one for each step, sample and neuron."""
        return math.prod(self.shape)

    @property
    def count(self) -> int:
        """How many spikes there are."""
        return int(np.bitwise_count(self.packed).sum()) if hasattr(np, "bitwise_count") else int(self.dense().sum())

    def first(self, samples: int) -> SpikeTrain:
        """The train of the first ``samples`` samples."""
        if not samples:
            return SpikeTrain((self.shape[0], 0, *self.shape[2:]), np.empty(0, dtype=np.uint8))
        return SpikeTrain.pack(self.dense()[:, :samples])

    def dense(self) -> npt.NDArray[np.bool_]:
        """The spikes, (T, N, ...), bool."""
        flat = np.unpackbits(self.packed, count=self.size)
        return flat.reshape(self.shape).astype(bool)

    def by_sample(self) -> npt.NDArray[np.generic]:
        """The spikes in the order of samples and logits, (N, T, ...): bool, or uint8 of counts."""
        return self.dense().swapaxes(0, 1)

    def mismatches(self, other: SpikeTrain) -> int:
        """How many of the two trains' elements differ.

        Raises:
            InvariantError: The trains have different shapes.
        """
        require(self.shape == other.shape, f"{self.shape} against {other.shape}")
        return SpikeTrain(self.shape, self.packed ^ other.packed).count


@dataclass(frozen=True, eq=False)
class CountTrain(SpikeTrain):
    """The counts of a population that may fire several spikes a step, one byte each; ``dense`` tells where it fires.

    Attributes:
        packed: The flattened counts.
    """

    @classmethod
    def pack(cls, spikes: npt.NDArray[np.generic]) -> CountTrain:
        """Pack dense counts, (T, N, ...), none of which is larger than a byte."""
        return cls(spikes.shape, spikes.astype(np.uint8).reshape(-1))

    @property
    def count(self) -> int:
        """How many messages there are: one for each count that is not zero."""
        return int(np.count_nonzero(self.packed))

    def values(self) -> npt.NDArray[np.uint8]:
        """The counts, (T, N, ...)."""
        return self.packed.reshape(self.shape)

    def by_sample(self) -> npt.NDArray[np.generic]:
        """See ``SpikeTrain``."""
        return self.values().swapaxes(0, 1)

    def first(self, samples: int) -> CountTrain:
        """See ``SpikeTrain``."""
        return CountTrain.pack(self.values()[:, :samples])

    def dense(self) -> npt.NDArray[np.bool_]:
        """Where a count is not zero, (T, N, ...)."""
        fired: npt.NDArray[np.bool_] = self.values() != 0
        return fired

    def mismatches(self, other: SpikeTrain) -> int:
        """See ``SpikeTrain``; two counts that differ are one mismatch."""
        require(self.shape == other.shape, f"{self.shape} against {other.shape}")
        require(isinstance(other, CountTrain), "counts against spikes")
        return int(np.count_nonzero(self.packed != other.packed))


@dataclass(frozen=True, eq=False)
class Trace:
    """The record of one run.

    Attributes:
        logits: (T, N, classes), the output's integers, int64.
        spikes: The spikes of each population of single spikes and of each gate, by node name; empty where nothing was
            recorded.
        graded: The other values that are recorded (``Op.recorded``), by node name, (T, N, ...), int32: those of relays,
            products, max-pools, and neurons that send counts or potentials. Empty where nothing was recorded.
        saturated: How often a value was clipped, by node.
        ties: How often a potential met its threshold exactly and did not fire, by population. Populations that fire at
            ties are left out; it is empty where the backend does not count ties.
    """

    logits: npt.NDArray[np.int64]
    spikes: Mapping[str, SpikeTrain] = field(default_factory=dict)
    graded: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    saturated: Mapping[str, int] = field(default_factory=dict)
    ties: Mapping[str, int] = field(default_factory=dict)
