"""Images and event frames as the user gives them: read safely and checked against a network."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph
from resformer.compiler.samples.numpy_files import open_array
from resformer.errors import InputError, SampleWarning
from resformer.models.boundary import brief

PIXEL_MAX = 255
"""The number that uint8 pixels are divided by."""
CHECKED_AT_ONCE = 256
"""The number of samples whose values are checked together."""
LARGEST_VALUE = 1e100
"""The largest magnitude of a sample's values: no measurement comes near it, and its square is still a number."""


class Samples(Protocol):
    """Samples that fit a network, read and converted to real numbers a few at a time."""

    def __len__(self) -> int: ...

    def real(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float64]:
        """The values of samples [start, stop), (N, C, H, W) or (N, T, C, H, W); several threads may call at once."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySamples:
    """Samples in an array.

    Attributes:
        raw: (N, C, H, W), one image for all T steps, or (N, T, C, H, W), one frame a step.
        counts: Whether values of the type uint8 are counts of events, not pixels.
        may_be_spikes: Whether all values are uint8 pixels of 0 or 1, so that a warning says that they may be spikes.
    """

    raw: npt.NDArray[Any]
    counts: bool
    may_be_spikes: bool = False

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def is_whole(self) -> bool:
        """Whether the array's type alone shows that all real values are whole numbers."""
        return not np.issubdtype(self.raw.dtype, np.floating) and (self.counts or self.raw.dtype != np.uint8)

    def real(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float64]:
        """The values of samples [start, stop): uint8 pixels divided by 255, values of other types unchanged."""
        values = self.raw[start:stop].astype(np.float64)
        return values / PIXEL_MAX if self.raw.dtype == np.uint8 and not self.counts else values


def read_array(path: Path, key: str = "images") -> npt.NDArray[Any]:
    """An array from a ``.npy`` file, or from a ``.npz`` that holds it alone or under a key; nothing is unpickled.

    The array is memory-mapped: only the parts that are in use take memory.

    Raises:
        FileFormatError: The file is absent, damaged, of another format, or holds Python objects.
    """
    return open_array(path, key)


def as_array(values: Any, source: str) -> npt.NDArray[Any]:
    """Convert values to an array; a tensor may be on any device and of any type.

    Args:
        values: An array, numbers in lists, or a tensor.
        source: What messages call the values.

    Raises:
        InputError: The tensor cannot be converted.
    """
    if not hasattr(values, "detach"):
        return np.asarray(values)
    tensor = values.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy has no such type
        tensor = tensor.float()
    try:
        array: npt.NDArray[Any] = np.asarray(tensor.numpy())
    except (TypeError, RuntimeError) as error:
        raise InputError(f"{source}: a tensor that is no array ({brief(error)}); give a dense one") from error
    return array


def check_samples(images: npt.NDArray[Any], network: Graph[Any], source: str) -> ArraySamples:
    """Check that samples fit a network's input, and warn if they may be meant in another way than they are read.

    Args:
        images: (N, C, H, W) or (N, T, C, H, W). C may be left out in (N, H, W) if the network has one channel, H if it
            has one row, and both H and W if it takes vectors. (T, N, C, W), the form in which modules take rows, is
            accepted if the images fit in no other way. The type is floating point; bool for spikes; uint8 for pixels
            from 0 to 255; or another integer type for values of only 0 and 1, which are spikes. For a network of event
            frames, all integers are counts.
        network: The network, as a float graph or as an integer program.
        source: What messages call the images.

    Raises:
        InputError: The samples do not fit: there are none, they have another shape or type, or a value is not finite
            or too large.
    """
    channels, height, width = network.input.shape
    steps = network.timesteps
    if images.dtype.names is not None:
        raise InputError(
            f"{source}: is a list of records ({', '.join(images.dtype.names)}), the network takes arrays; bin the "
            f"events into {steps} frames, (N, {steps}, {channels}, {height}, {width})"
        )
    wanted = f"(N, {channels}, {height}, {width}) or (N, {steps}, {channels}, {height}, {width})"
    given, images = images, _with_axes(images, (channels, height, width))
    if height == 1 and given.ndim == 4 and images.ndim == 5 and images.shape[1] != steps == images.shape[0]:
        images = images.swapaxes(0, 1)
    fits = images.ndim in (4, 5) and images.shape[-3:] == (channels, height, width)
    if not fits or (images.ndim == 5 and images.shape[1] != steps):
        raise InputError(
            f"{source}: the shape is {images.shape}, the network takes {wanted}: samples, channels, height, width; "
            f"{_remedy(images, (channels, height, width), steps)}"
        )
    if not len(images):
        raise InputError(f"{source}: there are no samples in shape {images.shape}; give at least one")
    counts = network.metadata.get("input") == "frames"
    _require_numbers(images, source, counts=counts)
    _require_finite(given, source)
    may_be_spikes = images.dtype == np.uint8 and not counts and _are_spikes(images) and bool(images.any())
    if may_be_spikes:
        warnings.warn(
            f"{source}: no value is above 1, and values of the type uint8 are read as pixels, divided by 255. If these "
            "are spikes or counts of events, compile with --input-kind frames, or give them as bool or floating point",
            SampleWarning,
            stacklevel=2,
        )
    if counts and images.ndim == 4 and len(images) == steps > 1:
        warnings.warn(
            f"{source}: shape {given.shape} is read as {steps} samples of a frame each, which is repeated for all "
            f"{steps} steps. If it is one sample of {steps} frames, give it an axis in front: x[None]",
            SampleWarning,
            stacklevel=2,
        )
    return ArraySamples(images, counts, may_be_spikes)


def as_part(frames: npt.NDArray[Any], network: Graph[Any]) -> npt.NDArray[Any]:
    """A part of a recording, in a type in which ``check_samples`` reads it as it would read the whole recording.

    ``check_samples`` takes integers of only 0 and 1 as spikes, but refuses them if all are zero. A part may be silent
    where the whole is not, so spikes become bool here.
    """
    counts = network.metadata.get("input") == "frames"
    wide = np.issubdtype(frames.dtype, np.integer) and frames.dtype != np.uint8
    return frames.astype(np.bool_) if wide and not counts and _are_spikes(frames) else frames


def _require_numbers(images: npt.NDArray[Any], source: str, *, counts: bool) -> None:
    """Check that the type of samples has one clear meaning for a network.

    Raises:
        InputError: It has none, or several.
    """
    kind = images.dtype
    if np.issubdtype(kind, np.floating) or kind in (np.uint8, np.bool_):
        return
    if not np.issubdtype(kind, np.integer):
        kinds = "floating point, bool, or integer counts" if counts else "floating point, bool, or uint8 for pixels"
        raise InputError(f"{source}: the type is {kind}, expected {kinds}; convert with astype")
    # integers that are all zero are more likely truncated fractions than spikes
    if not counts and not (_are_spikes(images) and images.any()):
        raise InputError(
            f"{source}: the type is {kind}, expected floating point, bool for spikes, or uint8 for pixels from 0 to "
            "255; convert with astype, or compile with --input-kind frames if these are counts of events"
        )


def _are_spikes(images: npt.NDArray[Any]) -> bool:
    """Whether all integers are 0 or 1; if not, the first part usually shows it and the rest is not read."""
    parts = (images[start : start + CHECKED_AT_ONCE] for start in range(0, len(images), CHECKED_AT_ONCE))
    return all(part.min() >= 0 and part.max() <= 1 for part in parts)


def _require_finite(images: npt.NDArray[Any], source: str) -> None:
    """Check that samples hold no NaN, no infinity, and no value so large that squaring or scaling it overflows.

    Raises:
        InputError: A sample holds such a value.
    """
    if not np.issubdtype(images.dtype, np.floating):
        return
    for start in range(0, len(images), CHECKED_AT_ONCE):
        part = images[start : start + CHECKED_AT_ONCE]
        with np.errstate(over="ignore"):  # values of wider types are checked as the float64 that they become
            finite = np.isfinite(part if part.itemsize <= np.float64().itemsize else part.astype(np.float64))
        if not finite.all():
            sample, *place = (int(each) for each in np.argwhere(~finite)[0])
            raise InputError(
                f"{source}: sample {start + sample} holds a NaN or infinite value, at index "
                f"{(start + sample, *place)}; remove or repair it"
            )
        if part.itemsize < np.float64().itemsize:
            continue  # narrower types hold no value as large as LARGEST_VALUE
        if (large := np.abs(part) > LARGEST_VALUE).any():
            sample, *place = (int(each) for each in np.argwhere(large)[0])
            raise InputError(
                f"{source}: sample {start + sample} holds {float(part[(sample, *place)]):.4g}, at index "
                f"{(start + sample, *place)}; the limit is {LARGEST_VALUE:g}, so remove or repair it"
            )


def _with_axes(images: npt.NDArray[Any], wanted: tuple[int, int, int]) -> npt.NDArray[Any]:
    """Samples, with the axes of length one inserted that their writer left out; ``wanted`` is (C, H, W)."""
    channels, height, width = wanted
    if images.shape[-3:] == wanted and images.ndim > 3:
        return images
    if (height, width) == (1, 1) and images.ndim in (2, 3) and images.shape[-1] == channels:
        return images[..., None, None]
    if height == 1 and images.ndim in (3, 4) and images.shape[-2:] == (channels, width):
        return images[..., None, :]
    return images[:, None] if images.ndim == 3 and channels == 1 else images


def check_labels(labels: npt.NDArray[Any], count: int, classes: int, source: str) -> npt.NDArray[np.int64]:
    """Check the true classes of samples, and return them as int64.

    Args:
        labels: (N,), whole numbers.
        count: The number of samples.
        classes: The number of classes that the network tells apart.
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
    """Advice on what to do about images of a wrong shape."""
    if images.ndim in (4, 5) and images.shape[-1] == wanted[0] != images.shape[-3]:
        return "move the channels in front: numpy.moveaxis(x, -1, -3)"
    if images.ndim == 5 and images.shape[-3:] == wanted and images.shape[0] == steps:
        return "if the steps are in front, swap them with the samples: numpy.swapaxes(x, 0, 1)"
    if images.ndim == 5 and images.shape[-3:] == wanted:
        return f"bin the events into {steps} frames, or compile with --timesteps {images.shape[1]}"
    if images.ndim in (4, 5) and images.shape[-3] == wanted[0] and images.shape[-2] == images.shape[-1]:
        return f"resize the images, or compile with --input-size {images.shape[-1]}"
    if images.ndim == 4 and images.shape[1:] == (steps, *wanted[1:]) and wanted[0] == 1:
        return (
            f"if those are {steps} steps, the channel axis is missing: x[:, :, None]; if they are channels, convert "
            "the images to 1 channel"
        )
    if images.ndim in (4, 5) and images.shape[-3] != wanted[0]:
        return f"convert the images to {wanted[0]} channel{'s' if wanted[0] > 1 else ''}"
    if images.ndim == 3 and images.shape == wanted:
        return "a single sample needs an axis in front: x[None]"
    return "bring the images to that shape"
