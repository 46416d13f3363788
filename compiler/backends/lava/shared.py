"""Arrays that Lava's processes and we both see: anonymous shared memory, made before they are forked.

Lava's own way out of a process, ``Var.get``, sends an array item by item, and its shared memory lies in ``/dev/shm``,
where a run that is killed leaves it behind and a container allows 64 MB. Anonymous memory goes with the last process.
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
    """An array of zeros that processes forked from now on share with us; pages cost memory once they are written.

    Raises:
        CapacityError: The system refuses so much.
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
    """What one node sends while the samples pass through it.

    Attributes:
        values: (T, N, ...), shared.
        offset: The step at which the first sample's first value appears.
    """

    values: npt.NDArray[Any]
    offset: int

    def slot(self, step: int) -> npt.NDArray[Any] | None:
        """Where the value of one step belongs; None before the first sample and after the last."""
        timesteps, samples = self.values.shape[:2]
        sample, t = divmod(step - self.offset, timesteps)
        return self.values[t, sample, ...] if 0 <= sample < samples else None


@dataclass(frozen=True, eq=False)
class Ring(Record):
    """What one node sends of the last samples of a stream that has no end; each takes the place of an older one."""

    def slot(self, step: int) -> npt.NDArray[Any] | None:
        """Where the value of one step belongs; None before the first sample."""
        timesteps, samples = self.values.shape[:2]
        sample, t = divmod(step - self.offset, timesteps)
        return self.values[t, sample % samples, ...] if sample >= 0 else None

    def part(self, first: int, stop: int) -> npt.NDArray[Any]:
        """A copy of the values of some samples, counted from the beginning of the stream."""
        return self.values[:, np.arange(first, stop) % self.values.shape[1]]


@dataclass(frozen=True, eq=False)
class Tally:
    """How many values one node clipped while the samples passed through it.

    Attributes:
        total: (1,), int64, shared.
        offset: The first step that counts.
        steps: How many steps count.
    """

    total: npt.NDArray[np.int64]
    offset: int
    steps: int

    def add(self, step: int, clipped: int) -> None:
        """Add one step's count."""
        if 0 <= step - self.offset < self.steps:
            self.total[0] += clipped


@dataclass(frozen=True, eq=False)
class StreamTally(Tally):
    """How many values one node clipped while a stream passed through it.

    Attributes:
        given: (1,), int64, shared: how many steps of samples have been given so far; what comes after them does not
            count.
    """

    given: npt.NDArray[np.int64]

    def add(self, step: int, clipped: int) -> None:
        """Add one step's count."""
        if 0 <= step - self.offset < int(self.given[0]):
            self.total[0] += clipped


UNCOUNTED = Tally(np.zeros(1, dtype=np.int64), offset=0, steps=0)
"""The tally of a node whose clipped values nobody asks for."""
