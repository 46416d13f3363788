"""Events as all formats give them: a bounded number at a time, in the file's order."""

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
"""Events, or words of which each holds at most twelve, that are read together."""
LARGEST_TIME = 2**61
"""Microseconds, before or after zero: the time between two events then fits 64 bits."""
COPY_AGAIN = "copy or record it again"

Int64Array = npt.NDArray[np.int64]


class Events(NamedTuple):
    """Some events.

    Attributes:
        t: (n,), microseconds, never falling but where a file is out of order.
        x, y: (n,), pixels from the left and from the top.
        on: (n,), whether it grew brighter.
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
        size: (width, height) of the sensor, as the file states it; None where it does not.
        notes: What was chosen in reading it, a sentence each.
    """

    named: str
    """What messages call its format."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size: tuple[int, int] | None = None
        self.notes: tuple[str, ...] = ()
        with boundary(path, COPY_AGAIN, what=f"truncated or damaged, or no {self.named}"), path.open("rb") as file:
            self._read_header(file)

    @abc.abstractmethod
    def _read_header(self, file: BinaryIO) -> None:
        """Find out what the beginning of the file says."""

    @abc.abstractmethod
    def _read(self, file: BinaryIO) -> Iterator[Events]:
        """All events."""

    def blocks(self) -> Iterator[Events]:
        """All events, some at a time; each call begins anew.

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
    """Records of one size from where a file stands to its end.

    Raises:
        FileFormatError: It ends within a record.
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
    """A counter that begins again at zero when it is full, as one that does not.

    Args:
        period: How many values it has.
    """

    def __init__(self, period: int) -> None:
        self._period = period
        self._last: int | None = None
        self._rounds = 0

    def __call__(self, values: Int64Array) -> Int64Array:
        """The values that follow those of the last call.

        A fall by more than half of the period is the beginning of a round; a smaller one is disorder.
        """
        if not len(values):
            return values
        before = np.concatenate([[values[0] if self._last is None else self._last], values[:-1]])
        rounds = self._rounds + np.cumsum(values - before < -(self._period // 2))
        self._last, self._rounds = int(values[-1]), int(rounds[-1])
        unwrapped: Int64Array = values + rounds * self._period
        return unwrapped


def held(values: npt.NDArray[Any], given: npt.NDArray[np.bool_], before: int) -> Int64Array:
    """At each place the last value that was given there or earlier.

    Args:
        values: (n,).
        given: (n,), where a value counts.
        before: What counts ahead of the first.
    """
    last = np.maximum.accumulate(np.where(given, np.arange(len(values)), -1))
    found: Int64Array = np.where(last < 0, before, values.astype(np.int64)[last])
    return found
