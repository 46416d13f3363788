"""What is done to samples before a network gets them; it is chosen at compile time and kept in the build."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph
from resformer.compiler.samples.arrays import CHECKED_AT_ONCE, ArraySamples, Samples
from resformer.errors import InputError

LARGEST = 1e18
"""The largest magnitude of a mean and of a deviation, and the inverse of the smallest deviation; ``report.json`` holds
no others."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to samples before a network gets them.

    Attributes:
        resize: Whether the images of a folder are resized and cropped; if not, they must have the size of the input.
        mean: What is subtracted from samples: one number, or one a channel. None: nothing.
        std: What the difference is divided by: one number, or one a channel. None: nothing.
    """

    resize: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def normalizes(self) -> bool:
        """Whether a mean or a deviation was chosen."""
        return self.mean is not None or self.std is not None

    def check(self, channels: int) -> None:
        """Check that samples can be normalized by the numbers.

        Raises:
            InputError: There is neither one number nor one a channel, or a number is out of its range.
        """
        for option, numbers in (("mean", self.mean), ("std", self.std)):
            if numbers is not None and len(numbers) not in (1, channels):
                raise InputError(
                    f"--{option}: {len(numbers)} numbers for {channels} channels; give one, or one a channel"
                )
            for number in numbers or ():
                if not (math.isfinite(number) and abs(number) <= LARGEST):
                    raise InputError(f"--{option}: {number:g} is outside -{LARGEST:g} to {LARGEST:g}; give another")
        for number in self.std or ():
            if number < 1 / LARGEST:
                raise InputError(f"--std: {number:g} is below {1 / LARGEST:g}, so nothing can be divided by it")

    def normalized(self, samples: Samples, channels: int) -> Samples:
        """Samples less the mean and divided by the deviation.

        Raises:
            InputError: ``check`` refuses the numbers.
        """
        self.check(channels)
        if not self.normalizes:
            return samples
        mean, std = (np.array(numbers).reshape(-1, 1, 1) for numbers in (self.mean or (0.0,), self.std or (1.0,)))
        return Normalized(samples, mean, std)

    def is_same(self, other: Preprocessing, channels: int, *, of_folder: bool) -> bool:
        """Whether another preprocessing gives the same values.

        Args:
            other: The other preprocessing.
            channels: The number of channels of the network's input.
            of_folder: Whether the samples are a folder of images; arrays are never resized.
        """
        mine, others = (
            np.array([np.broadcast_to(each.mean or (0.0,), channels), np.broadcast_to(each.std or (1.0,), channels)])
            for each in (self, other)
        )
        return np.array_equal(mine, others) and (not of_folder or self.resize == other.resize)

    def __str__(self) -> str:
        """The preprocessing in words, such as "resized, mean 0.5, std 0.25"."""
        said = ["resized"] if self.resize else []
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if numbers is not None:
                said.append(f"{name} {','.join(f'{number:g}' for number in numbers)}")
        return ", ".join(said) or "none"


NO_PREPROCESSING = Preprocessing()


@dataclass(frozen=True, eq=False)
class Normalized:
    """Samples less a mean, divided by a deviation: (x - mean) / std in float64, channel by channel.

    Attributes:
        samples: The samples before normalization.
        mean, std: (C, 1, 1), or (1, 1, 1) for all channels.
    """

    samples: Samples
    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.samples)

    def real(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float64]:
        """The values of samples [start, stop)."""
        values: npt.NDArray[np.float64] = (self.samples.real(start, stop) - self.mean) / self.std
        return values


def numbers(given: float | Iterable[float] | None) -> tuple[float, ...] | None:
    """A mean or a deviation as :class:`Preprocessing` holds it, from one number or several."""
    if given is None:
        return None
    return tuple(map(float, given)) if isinstance(given, Iterable) else (float(given),)


def is_normalized_already(samples: Samples, held: Preprocessing, network: Graph[Any]) -> bool:
    """Whether an array shows that it was normalized before, so that a build's own preprocessing is not for it.

    Pixels are never negative. So if a build subtracts a mean above zero from pixels, an array of floating-point images
    that holds a negative value has already had a mean subtracted. Vectors and event frames do not show this.

    Args:
        samples: The samples as they were given.
        held: What the build does to samples.
        network: The network that the samples fit.
    """
    if not isinstance(samples, ArraySamples) or held.mean is None or min(held.mean) <= 0:
        return False
    is_map = network.input.shape[1] > 1 and network.metadata.get("input") != "frames"
    if not is_map or not np.issubdtype(samples.raw.dtype, np.floating):
        return False
    return any(
        bool((samples.raw[start : start + CHECKED_AT_ONCE] < 0).any())
        for start in range(0, len(samples), CHECKED_AT_ONCE)
    )


def normalized_already(source: str, held: Preprocessing) -> str:
    """The note that samples are taken as normalized already, so that a build's preprocessing is not applied."""
    return (
        f"{source}: holds negative values, which pixels do not, so it is taken as normalized already and the build's "
        f"preprocessing ({held}) is not applied"
    )


def disagreement(held: Preprocessing, used: Preprocessing, channels: int, *, of_folder: bool) -> tuple[str, ...]:
    """The warning that samples are preprocessed in another way than the build says; empty if they are not.

    Args:
        held: What the build does to samples.
        used: What is done to these samples.
        channels: The number of channels of the network's input.
        of_folder: Whether the samples are a folder of images.
    """
    if held.is_same(used, channels, of_folder=of_folder):
        return ()
    if held == NO_PREPROCESSING:
        before, remedy = "without preprocessing", "compile with these options if the network was trained so"
    else:
        before, remedy = f"with preprocessing {held}", "leave the options out to use the build's"
    return (f"preprocessing: the build was compiled {before}, this run uses {used}; {remedy}",)


def as_json(held: Preprocessing) -> dict[str, bool | Sequence[float] | None]:
    """A preprocessing as ``report.json`` holds it."""
    return {
        "resize": held.resize,
        "mean": None if held.mean is None else list(held.mean),
        "std": None if held.std is None else list(held.std),
    }
