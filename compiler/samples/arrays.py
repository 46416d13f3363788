"""Images and event frames as the user gives them: read safely and checked against a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph
from resformer.compiler.samples.numpy_files import open_array
from resformer.errors import InputError

PIXEL_MAX = 255
"""What uint8 images are divided by."""
CHECKED_AT_ONCE = 256
"""Samples looked at together in the search for values that are not finite."""


class Samples(Protocol):
    """Samples that fit a network, read and converted to real numbers a few at a time."""

    def __len__(self) -> int: ...

    def real(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float64]:
        """The values of some samples, (N, C, H, W) or (N, T, C, H, W); several threads may ask at once."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySamples:
    """Samples in an array.

    Attributes:
        raw: (N, C, H, W), one image for all T steps, or (N, T, C, H, W), one frame a step.
        counts: Whether integers are counts of events, rather than pixels of 8 bits.
    """

    raw: npt.NDArray[Any]
    counts: bool

    def __len__(self) -> int:
        return len(self.raw)

    def real(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float64]:
        """The values of some samples: pixels of 8 bits divided by 255, all else as it is."""
        values = self.raw[start:stop].astype(np.float64)
        return values / PIXEL_MAX if self.raw.dtype == np.uint8 and not self.counts else values


def read_array(path: Path, key: str = "images") -> npt.NDArray[Any]:
    """An array from a ``.npy`` file, or from a ``.npz`` that holds it alone or under a key; nothing is unpickled.

    It is mapped, not read: of a large one, memory holds what is in use.

    Raises:
        FileFormatError: The file is absent, damaged, of another format, or holds Python objects.
    """
    return open_array(path, key)


def check_samples(images: npt.NDArray[Any], network: Graph[Any], source: str) -> ArraySamples:
    """Samples that fit a network's input.

    Args:
        images: (N, C, H, W); (N, T, C, H, W); (N, H, W) where the network has one channel; without H where it has one
            row, and without H and W where it takes vectors. Floating point, or uint8
            for pixels from 0 to 255; for a network of event frames any integers, which are counts.
        network: At either level.
        source: What messages call the images.

    Raises:
        InputError: They do not fit: too many axes, another shape or type, none at all, or values that are not finite.
    """
    channels, height, width = network.input.shape
    steps = network.timesteps
    wanted = f"(N, {channels}, {height}, {width}) or (N, {steps}, {channels}, {height}, {width})"
    images = _with_axes(images, (channels, height, width))
    fits = images.ndim in (4, 5) and images.shape[-3:] == (channels, height, width)
    if not fits or (images.ndim == 5 and images.shape[1] != steps):
        raise InputError(
            f"{source}: the shape is {images.shape}, the network takes {wanted}: samples, channels, height, width; "
            f"{_remedy(images, (channels, height, width), steps)}"
        )
    if not len(images):
        raise InputError(f"{source}: there are no samples in shape {images.shape}; give at least one")
    counts = network.metadata.get("input") == "frames"
    kinds = "floating point or integer counts" if counts else "floating point, or uint8 for pixels from 0 to 255"
    if not (
        np.issubdtype(images.dtype, np.floating)
        or images.dtype == np.uint8
        or (counts and np.issubdtype(images.dtype, np.integer))
    ):
        raise InputError(f"{source}: the type is {images.dtype}, expected {kinds}; convert with astype")
    if np.issubdtype(images.dtype, np.floating):
        for start in range(0, len(images), CHECKED_AT_ONCE):
            finite = np.isfinite(images[start : start + CHECKED_AT_ONCE])
            if not finite.all():
                sample = start + int(np.argwhere(~finite)[0][0])
                raise InputError(f"{source}: sample {sample} holds a NaN or infinite value; remove or repair it")
    return ArraySamples(images, counts)


def _with_axes(images: npt.NDArray[Any], wanted: tuple[int, int, int]) -> npt.NDArray[Any]:
    """Samples with the axes of length one that their writer left out."""
    channels, height, width = wanted
    if images.shape[-3:] == wanted and images.ndim > 3:
        return images
    if (height, width) == (1, 1) and images.ndim in (2, 3) and images.shape[-1] == channels:
        return images[..., None, None]
    if height == 1 and images.ndim in (3, 4) and images.shape[-2:] == (channels, width):
        return images[..., None, :]
    return images[:, None] if images.ndim == 3 and channels == 1 else images


def check_labels(labels: npt.NDArray[Any], count: int, classes: int, source: str) -> npt.NDArray[np.int64]:
    """The true classes of samples.

    Args:
        labels: (N,), whole numbers.
        count: How many samples there are.
        classes: How many classes the network tells apart.
        source: What messages call the labels.

    Raises:
        InputError: There is not one class of the network for each sample.
    """
    if labels.shape != (count,):
        raise InputError(f"{source}: the shape is {labels.shape}, expected ({count},): one label for each sample")
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{source}: the type is {labels.dtype}, expected whole numbers; convert with astype")
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InputError(
            f"{source}: labels go from {labels.min()} to {labels.max()}, the network's classes from 0 to {classes - 1}"
        )
    return labels.astype(np.int64)


def _remedy(images: npt.NDArray[Any], wanted: tuple[int, int, int], steps: int) -> str:
    """What to do about images of a wrong shape."""
    if images.ndim in (4, 5) and images.shape[-1] == wanted[0] != images.shape[-3]:
        return "move the channels in front: numpy.moveaxis(x, -1, -3)"
    if images.ndim == 5 and images.shape[-3:] == wanted:
        return f"bin the events into {steps} frames, or compile with --timesteps {images.shape[1]}"
    if images.ndim in (4, 5) and images.shape[-3] == wanted[0] and images.shape[-2] == images.shape[-1]:
        return f"resize the images, or compile with --input-size {images.shape[-1]}"
    if images.ndim in (4, 5) and images.shape[-3] != wanted[0]:
        return f"convert the images to {wanted[0]} channel{'s' if wanted[0] > 1 else ''}"
    if images.ndim == 3 and images.shape == wanted:
        return "a single sample needs an axis in front: x[None]"
    return "bring the images to that shape"
