"""Events as frames of counts, and a recording as samples of T frames.

A frame counts the events of each pixel: channel 0 counts how often it grew darker and channel 1 how often it grew
brighter, as in SpikingJelly. For a network of one channel, that channel counts both.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph
from resformer.compiler.samples.events.stream import EventFile, Events, Int64Array
from resformer.errors import InputError, SampleWarning
from resformer.models.limits import FRAMES_AN_EVENT, LARGEST_UNPACKED, MOST_FRAMES, quote, require_within

Split: TypeAlias = Literal["time", "number"]

CHANNELS = (1, 2)
"""The numbers of channels that a network of events may have: one for both polarities, or one for each polarity."""


@dataclass(frozen=True)
class Binning:
    """How a recording becomes frames.

    At most one of ``bin_us`` and ``bin_events`` is given. If neither is given, the whole recording is one sample.

    Attributes:
        split: If the whole recording is one sample: whether its T frames are equally long ("time") or hold equally many
            events ("number"), as with SpikingJelly's ``split_by``.
        bin_us: The length of a frame in microseconds.
        bin_events: The number of events of a frame.
        sensor: (width, height) in pixels; None: as the file states it.
        pool: The edge of the squares of pixels that count as one pixel.
        keep_middle: Whether a sensor larger than the network's input is cut to its middle, and a smaller one surrounded
            by pixels without events.
    """

    split: Split = "time"
    bin_us: int | None = None
    bin_events: int | None = None
    sensor: tuple[int, int] | None = None
    pool: int = 1
    keep_middle: bool = False

    def __post_init__(self) -> None:
        """Raises InputError if a value is not allowed."""
        if self.split not in ("time", "number"):
            raise InputError(f"split-by: {quote(self.split)} is neither time nor number; choose one")
        if self.bin_us is not None and self.bin_events is not None:
            raise InputError("bin-ms and bin-events: a frame holds a time or a number of events; leave one out")
        for name, value in (("bin-ms", self.bin_us), ("bin-events", self.bin_events), ("pool", self.pool)):
            if value is not None and value < 1:
                raise InputError(f"{name}: {value} is less than one; give more")
        if self.sensor is not None and min(self.sensor) < 1:
            raise InputError(f"sensor-size: {self.sensor} are no pixels; give a width and a height")

    @property
    def is_whole(self) -> bool:
        """Whether a whole recording is one sample."""
        return self.bin_us is None and self.bin_events is None


WHOLE = Binning()


@dataclass(frozen=True)
class _Places:
    """Maps the pixels of a sensor to the values of a frame.

    Attributes:
        sensor: (width, height) in pixels.
        shape: (C, H, W) of a frame.
        pool: The edge of the squares of pixels that count as one pixel.
        left, top: What is added to a pooled column and a pooled row to get those of the frame.
    """

    sensor: tuple[int, int]
    shape: tuple[int, int, int]
    pool: int
    left: int
    top: int

    def __call__(self, events: Events, first: int, source: object) -> tuple[npt.NDArray[np.bool_], Int64Array]:
        """Whether each event lies in the frame, (n,), and for those that do, the flat index of the value to count up.

        Raises:
            InputError: An event lies outside the sensor.
        """
        width, height = self.sensor
        outside = (events.x < 0) | (events.x >= width) | (events.y < 0) | (events.y >= height)
        if outside.any():
            index = int(np.argmax(outside))
            raise InputError(
                f"{source}: event {first + index} is at ({events.x[index]}, {events.y[index]}), outside a sensor of "
                f"{width}x{height} pixels; give --sensor-size WIDTHxHEIGHT"
            )
        channels, rows, columns = self.shape
        x, y = events.x // self.pool + self.left, events.y // self.pool + self.top
        inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
        channel = events.on[inside].astype(np.int64) if channels > 1 else 0
        place: Int64Array = (channel * rows + y[inside]) * columns + x[inside]
        return inside, place


def check_fit(file: EventFile, binning: Binning, network: Graph[Any]) -> None:
    """Check that a recording's sensor fits a network, before an event is read.

    Raises:
        InputError: The sensor does not fit; the message says which option helps.
    """
    _places(file, binning, network)


def _places(file: EventFile, binning: Binning, network: Graph[Any]) -> _Places:
    """How the pixels of a recording's sensor map to the frames of a network.

    Raises:
        InputError: The sensor does not fit; the message says which option helps.
    """
    channels, rows, columns = network.input.shape
    if channels not in CHANNELS:
        raise InputError(
            f"{file.path}: events have two polarities, the network takes {channels} channels; name a network of one or "
            "two, or bin the events yourself and give an .npy file of frames"
        )
    sensor = binning.sensor or file.size
    if sensor is None:
        raise InputError(f"{file.path}: does not say how large its sensor is; give --sensor-size WIDTHxHEIGHT")
    width, height = (-(-side // binning.pool) for side in sensor)
    if (height, width) != (rows, columns) and not binning.keep_middle:
        pools = [-(-side // wanted) for side, wanted in zip(sensor, (columns, rows), strict=True)]
        exact = pools[0] == pools[1] > 1 and all(
            -(-side // pools[0]) == wanted for side, wanted in zip(sensor, (columns, rows), strict=True)
        )
        advice = f"give --pool {pools[0]}, or" if exact else "give"
        pooled = f", pooled by {binning.pool} to {width}x{height}" if binning.pool > 1 else ""
        raise InputError(
            f"{file.path}: the sensor has {sensor[0]}x{sensor[1]} pixels{pooled}, the network takes {columns}x{rows}; "
            f"{advice} --keep-middle, to cut what is too large to its middle and to surround what is too small"
            + ("" if exact else "; --pool K counts K x K pixels as one")
        )
    return _Places(sensor, (channels, rows, columns), binning.pool, (columns - width) // 2, (rows - height) // 2)


class _InOrder:
    """Makes times never fall: a time that is earlier than the latest one before it is replaced by that one."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.late = 0
        self._last = 0

    def __call__(self, t: Int64Array) -> Int64Array:
        if self.first is None:
            self.first = self._last = int(t[0])
        latest = np.maximum.accumulate(np.concatenate([[self._last], t]))[1:]
        self.late += int(np.count_nonzero(t < latest))
        self._last = int(latest[-1])
        rising: Int64Array = latest
        return rising


class _Frames:
    """Assigns events to frames, which are counted from the first frame of the recording.

    Args:
        file: The recording.
        binning: How the recording becomes frames.
        timesteps: T, the number of frames of one sample.
    """

    def __init__(self, file: EventFile, binning: Binning, timesteps: int) -> None:
        self._file, self._binning, self._timesteps = file, binning, timesteps
        self.order = _InOrder()
        self.seen = 0
        self._us = binning.bin_us
        self._number = binning.bin_events
        self._last: int | None = None
        if binning.is_whole:
            self._look_at_all()

    def _look_at_all(self) -> None:
        """Find out how long a recording is, or how many events it holds, so that it can be divided into T frames."""
        order, count, last = _InOrder(), 0, 0
        for block in self._file.blocks():
            if len(block.t):
                count, last = count + len(block.t), int(order(block.t)[-1])
        self._last = self._timesteps - 1
        if self._binning.split == "time":
            self._us = max((last - (order.first or 0)) // self._timesteps, 1)
        else:
            self._number = max(count // self._timesteps, 1)

    def __call__(self, t: Int64Array) -> Int64Array:
        """The frames of the events that follow those of the last call, (n,), from their times."""
        rising = self.order(t)
        if self._us is not None:
            frames = (rising - (self.order.first or 0)) // self._us
        else:
            assert self._number is not None
            frames = (self.seen + np.arange(len(t))) // self._number
        self.seen += len(t)
        if self._last is not None:
            return np.minimum(frames, self._last)
        most = MOST_FRAMES + FRAMES_AN_EVENT * self.seen
        unit = " (its times are floating point, read as seconds; give whole microseconds if they are not)"
        told = f"{self._file.path}: makes {{}} frames of {self.seen} events{unit if self._file.in_seconds else ''}"
        require_within(int(frames[-1]) + 1, most, told)
        return frames

    def warnings(self) -> tuple[str, ...]:
        """What is doubtful about the times, a sentence each."""
        if not self.order.late:
            return ()
        told = f"{self.order.late:,} of {self.seen:,} events are earlier than what stands before them"
        return (f"{self._file.path}: {told}, and are taken as if they were not",)


@dataclass(frozen=True, eq=False)
class EventSamples:
    """A recording as samples, which can be read in any order; each event takes four bytes of a temporary file.

    Attributes:
        places: (events,), the flat index in its frame of the value that counts each event, in the order of frames.
        begins: (frames + 1,), the index of the first event of each frame, and at the end the number of events.
        timesteps: T.
        shape: (C, H, W) of a frame.
        notes: What a user should know of how the recording was read, a sentence each.
        warnings: What is doubtful about the recording, a sentence each.
    """

    places: npt.NDArray[np.uint32]
    begins: Int64Array
    timesteps: int
    shape: tuple[int, int, int]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        """The number of frames, without the empty ones that fill up the last sample."""
        return len(self.begins) - 1

    def __len__(self) -> int:
        return -(-self.frames // self.timesteps)

    def first(self, count: int) -> EventSamples:
        """Only the first ``count`` samples."""
        return dataclasses.replace(self, begins=self.begins[: count * self.timesteps + 1])

    def real(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float64]:
        """The counts of samples [start, stop), (N, T, C, H, W)."""
        start, stop, _ = slice(start, stop).indices(len(self))
        first, last = (min(each * self.timesteps, self.frames) for each in (start, max(start, stop)))
        counts = np.diff(self.begins[first : last + 1])
        values = math.prod(self.shape)
        places = np.repeat(np.arange(len(counts)), counts) * values
        places += self.places[self.begins[first] : self.begins[last]]
        shape = (max(stop - start, 0), self.timesteps, *self.shape)
        return np.bincount(places, minlength=math.prod(shape)).astype(np.float64).reshape(shape)


def bin_events(file: EventFile, binning: Binning, network: Graph[Any]) -> EventSamples:
    """Read a whole recording into samples for a network.

    Args:
        file: The recording.
        binning: How the recording becomes frames.
        network: The network, as a float graph or as an integer program.

    Raises:
        InputError: The recording does not fit, or holds no events.
        FileFormatError: The recording is damaged, or makes more frames than are allowed.
    """
    places = _places(file, binning, network)
    frames = _Frames(file, binning, network.timesteps)
    found: list[Int64Array] = []
    kept: list[Int64Array] = []
    with tempfile.TemporaryFile() as unpacked:
        size = 0
        for block in file.blocks():
            if not len(block.t):
                continue
            first = frames.seen
            numbers = frames(block.t)
            inside, values = places(block, first, file.path)
            size += 4 * len(values)
            require_within(size, LARGEST_UNPACKED, f"{file.path}: its events take {{}} bytes")
            unpacked.write(values.astype(np.uint32).tobytes())
            counted = np.unique(numbers[inside], return_counts=True)
            found.append(counted[0])
            kept.append(counted[1])
            last = int(numbers[-1])
        if not frames.seen:
            raise InputError(f"{file.path}: holds no events; record it again")
        unpacked.flush()
        events = np.memmap(unpacked, np.uint32, "r") if size else np.zeros(0, np.uint32)
    count = network.timesteps if binning.is_whole else last + 1
    per_frame = np.zeros(count, dtype=np.int64)
    np.add.at(per_frame, np.concatenate(found), np.concatenate(kept))
    return EventSamples(
        events,
        np.concatenate([[0], np.cumsum(per_frame)]),
        network.timesteps,
        places.shape,
        (*file.notes, *_lost(file, frames.seen, size // 4), *_filled(file, count, network.timesteps)),
        (*frames.warnings(), *_one_polarity(file, places.shape[0])),
    )


def _one_polarity(file: EventFile, channels: int) -> tuple[str, ...]:
    """The doubt that a file has two polarities, as 1 and 2, which are read as the same one."""
    least, most = file.polarities or (0, 0)
    if channels == 1 or least == most or (least > 0) != (most > 0):
        return ()
    told = f"{file.path}: its polarities go from {least:g} to {most:g}, and a polarity above 0 is brighter, any other "
    return (f"{told}darker, so all are {'brighter' if least > 0 else 'darker'}; give 0 for darker and 1 for brighter",)


def _lost(file: EventFile, seen: int, kept: int) -> tuple[str, ...]:
    if kept == seen:
        return ()
    return (f"{file.path}: {seen - kept:,} of {seen:,} events lie outside the middle that the network is given",)


def _filled(file: EventFile, frames: int, timesteps: int) -> tuple[str, ...]:
    missing = -frames % timesteps
    if not missing:
        return ()
    return (
        f"{file.path}: makes {frames:,} frames; the last sample's other {missing} are empty, for {timesteps} a sample",
    )


def stream_frames(
    file: EventFile, binning: Binning, network: Graph[Any], at_once: int
) -> Iterator[npt.NDArray[np.int64]]:
    """A recording as frames, (n, C, H, W), some at a time; memory does not depend on the recording's length.

    Args:
        file: The recording.
        binning: How the recording becomes frames.
        network: The network, as a float graph or as an integer program.
        at_once: The most frames that are yielded together.

    Raises:
        InputError: The recording does not fit.
        FileFormatError: The recording is damaged, or makes more frames than are allowed.

    Warns:
        SampleWarning: At the end, that all polarities were read as one.
    """
    places = _places(file, binning, network)
    frames = _Frames(file, binning, network.timesteps)
    values = math.prod(places.shape)
    present = np.zeros((at_once, values), dtype=np.int64)
    begin = end = 0
    for block in file.blocks():
        if not len(block.t):
            continue
        first = frames.seen
        numbers = frames(block.t)
        inside, where = places(block, first, file.path)
        end, numbers = int(numbers[-1]) + 1, numbers[inside]
        while True:
            now = int(np.searchsorted(numbers, begin + at_once))
            np.add.at(present.reshape(-1), (numbers[:now] - begin) * values + where[:now], 1)
            numbers, where = numbers[now:], where[now:]
            if end <= begin + at_once:
                break
            yield present.reshape(at_once, *places.shape).copy()
            present[:] = 0
            begin += at_once
    if binning.is_whole and end:
        end = network.timesteps
    while begin < end:
        yield present[: end - begin].reshape(-1, *places.shape).copy()
        present[:] = 0
        begin += at_once
    for doubt in _one_polarity(file, places.shape[0]):
        warnings.warn(doubt, SampleWarning, stacklevel=2)
