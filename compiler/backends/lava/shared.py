"""Arrays that both Lava's processes and ours see: anonymous shared memory, made before Lava's processes are forked.

Lava's own way to read a process, ``Var.get``, sends an array item by item. Lava's shared memory lies in ``/dev/shm``,
where a run that is killed leaves it behind, and where a container allows 64 MB. Anonymous memory is freed when the last
process that shares it ends.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resformer.errors import CapacityError


def shared_array(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array of zeros that processes forked later share with us; a page takes memory only once it is written.

    Raises:
        CapacityError: The system refuses this much memory.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        memory = mmap.mmap(-1, max(size, 1))
    except (OSError, OverflowError) as error:
        raise CapacityError(
            f"the system refused {size} bytes of shared memory for a record of shape {shape}: {error}; "
            "run fewer samples at a time"
        ) from error
    return np.ndarray(shape, dtype, buffer=memory)


@dataclass(frozen=True, eq=False)
class Record:
    """The values that one node sends while the samples pass through it.

    Attributes:
        values: (T, N, ...), shared memory.
        offset: The step at which the first sample's first value appears, counted from 0.
    """

    values: npt.NDArray[Any]
    offset: int

    def slot(self, step: int) -> npt.NDArray[Any] | None:
        """The part of ``values`` where one step's value belongs; None before the first sample and after the last."""
        timesteps, samples = self.values.shape[:2]
        sample, t = divmod(step - self.offset, timesteps)
        return self.values[t, sample, ...] if 0 <= sample < samples else None


@dataclass(frozen=True, eq=False)
class Ring(Record):
    """The values that one node sends for the last samples of an endless stream; a new sample replaces the oldest."""

    def slot(self, step: int) -> npt.NDArray[Any] | None:
        """The part of ``values`` where one step's value belongs; None before the first sample."""
        timesteps, samples = self.values.shape[:2]
        sample, t = divmod(step - self.offset, timesteps)
        return self.values[t, sample % samples, ...] if sample >= 0 else None

    def part(self, first: int, stop: int) -> npt.NDArray[Any]:
        """A copy of the values of samples ``first`` to ``stop`` - 1, counted from the beginning of the stream."""
        return self.values[:, np.arange(first, stop) % self.values.shape[1]]


@dataclass(frozen=True, eq=False)
class Tally:
    """How many values one node clipped while the samples passed through it.

    Attributes:
        total: (1,), int64, shared: the count.
        offset: The first step whose clips are counted, from 0.
        steps: How many steps are counted.
    """

    total: npt.NDArray[np.int64]
    offset: int
    steps: int

    def add(self, step: int, clipped: int) -> None:
        """Add the number of values clipped at one step."""
        if 0 <= step - self.offset < self.steps:
            self.total[0] += clipped


@dataclass(frozen=True, eq=False)
class StreamTally(Tally):
    """How many values one node clipped while a stream passed through it.

    Attributes:
        given: (1,), int64, shared: how many steps of samples have entered the stream so far; clips at later steps are
            not counted.
    """

    given: npt.NDArray[np.int64]

    def add(self, step: int, clipped: int) -> None:
        """Add the number of values clipped at one step."""
        if 0 <= step - self.offset < int(self.given[0]):
            self.total[0] += clipped


UNCOUNTED = Tally(np.zeros(1, dtype=np.int64), offset=0, steps=0)
"""A tally that counts nothing, for nodes whose clipped values are not needed."""
