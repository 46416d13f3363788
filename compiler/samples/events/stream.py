"""Events in the form that the readers of all formats give: a bounded number at a time, in the file's order."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from resformer.errors import FileFormatError
from resformer.models.boundary import boundary

AT_ONCE = 2**17
"""The number of events that are read together."""
LARGEST_TIME = 2**61
"""The largest magnitude of a time, in microseconds: the time between two events then fits 64 bits."""
COPY_AGAIN = "copy or record it again"

Int64Array = npt.NDArray[np.int64]


class Events(NamedTuple):
    """Some events.

    Attributes:
        t: (n,), the time in microseconds, which falls only where the file is out of order.
        x, y: (n,), the pixel, counted from the left and from the top.
        on: (n,), whether the pixel grew brighter.
    """

    t: Int64Array
    x: Int64Array
    y: Int64Array
    on: npt.NDArray[np.bool_]


class EventFile(abc.ABC):
    """A recording.

    Args:
        path: The file.

    Attributes:
        path: The file.
        size: (width, height) of the sensor in pixels; None if the file does not state it.
        notes: What was chosen or assumed in reading the file, a sentence each.
        in_seconds: Whether its times are floating point, and so were read as seconds.
        polarities: The smallest and the largest polarity that was read so far, where the file has them as numbers.
    """

    named: str
    """What messages call its format."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size: tuple[int, int] | None = None
        self.notes: tuple[str, ...] = ()
        self.in_seconds = False
        self.polarities: tuple[float, float] | None = None
        with boundary(path, COPY_AGAIN, what=f"truncated or damaged, or no {self.named}"), path.open("rb") as file:
            self._read_header(file)

    @abc.abstractmethod
    def _read_header(self, file: BinaryIO) -> None:
        """Read the header at the beginning of the file, and set ``size`` and ``notes``."""

    @abc.abstractmethod
    def _read(self, file: BinaryIO) -> Iterator[Events]:
        """All events of the file, some at a time."""

    def blocks(self) -> Iterator[Events]:
        """All events of the file, some at a time; each call begins at the first event.

        Raises:
            FileFormatError: The file is damaged.
        """
        with (
            boundary(self.path, COPY_AGAIN, what=f"truncated or damaged, or no {self.named}"),
            self.path.open("rb") as file,
        ):
            for events in self._read(file):
                furthest = max(-int(events.t.min(initial=0)), int(events.t.max(initial=0)))
                if furthest > LARGEST_TIME:
                    raise FileFormatError(
                        f"a time of {furthest} microseconds, the limit is {LARGEST_TIME}; {COPY_AGAIN}"
                    )
                yield events


def fixed_size(file: BinaryIO, dtype: npt.DTypeLike, at_once: int = AT_ONCE) -> Iterator[npt.NDArray[Any]]:
    """The records of one size from a file's current position to its end, ``at_once`` at a time.

    Raises:
        FileFormatError: The file ends within a record.
    """
    kind = np.dtype(dtype)
    done = 0
    while content := file.read(at_once * kind.itemsize):
        whole, rest = divmod(len(content), kind.itemsize)
        if rest:
            raise FileFormatError(
                f"truncated: ends {rest} bytes into record {done + whole}, each of which has {kind.itemsize}; "
                f"{COPY_AGAIN}"
            )
        done += whole
        yield np.frombuffer(content, kind)


class Unwrapped:
    """Turns the values of a counter that wraps around to zero into values that do not wrap around.

    Args:
        period: The number of values of the counter.
    """

    def __init__(self, period: int) -> None:
        self._period = period
        self._last: int | None = None
        self._rounds = 0

    def __call__(self, values: Int64Array) -> Int64Array:
        """Unwrap the values that follow those of the last call, (n,).

        A fall by more than half of the period means that the counter wrapped around. A smaller fall means that the
        values are out of order, and stays.
        """
        if not len(values):
            return values
        before = np.concatenate([[values[0] if self._last is None else self._last], values[:-1]])
        rounds = self._rounds + np.cumsum(values - before < -(self._period // 2))
        self._last, self._rounds = int(values[-1]), int(rounds[-1])
        unwrapped: Int64Array = values + rounds * self._period
        return unwrapped


def held(values: npt.NDArray[Any], given: npt.NDArray[np.bool_], before: int) -> Int64Array:
    """For each place, the last value that was given there or earlier, (n,).

    Args:
        values: (n,), the values.
        given: (n,), whether the value at a place is given.
        before: The value for the places before the first given one.
    """
    last = np.maximum.accumulate(np.where(given, np.arange(len(values)), -1))
    found: Int64Array = np.where(last < 0, before, values.astype(np.int64)[last])
    return found
