"""Samples in files, read once the network is known that they must fit, and what is done to them on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph
from resformer.compiler.samples.arrays import Samples, check_samples, read_array
from resformer.compiler.samples.images import open_image_folder
from resformer.errors import InputError

FOLDER_MAX = 256
"""Images of a folder that calibration reads: more change little, and all of ImageNet would take days."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to samples before a network is given them.

    Attributes:
        resize: Whether the images of a folder are resized and cropped, rather than just as large as the input.
        mean: Subtracted, one number, or one a channel; None: nothing.
        std: What the difference is divided by, likewise.
    """

    resize: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def normalized(self, samples: Samples, channels: int) -> Samples:
        """Samples less the mean and divided by the deviation.

        Raises:
            InputError: There is not one number a channel.
        """
        if self.mean is None and self.std is None:
            return samples
        for option, numbers in (("mean", self.mean), ("std", self.std)):
            if numbers is not None and len(numbers) not in (1, channels):
                raise InputError(
                    f"--{option}: {len(numbers)} numbers for {channels} channels; give one, or one a channel"
                )
        mean, std = (np.array(numbers).reshape(-1, 1, 1) for numbers in (self.mean or (0.0,), self.std or (1.0,)))
        return Normalized(samples, mean, std)


@dataclass(frozen=True, eq=False)
class Normalized:
    """Samples less a mean, divided by a deviation: (x - mean) / std in float64, channel by channel.

    Attributes:
        samples: Not normalized yet.
        mean, std: (C, 1, 1), or (1, 1, 1) for all channels.
    """

    samples: Samples
    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.samples)

    def real(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float64]:
        """The values of some samples."""
        values: npt.NDArray[np.float64] = (self.samples.real(start, stop) - self.mean) / self.std
        return values


@dataclass(frozen=True)
class SampleFiles:
    """Samples to calibrate on, not read yet.

    Attributes:
        path: A folder of images, of which :data:`FOLDER_MAX` are taken, evenly chosen; or an ``.npy`` or ``.npz`` file.
        preprocessing: What is done to them.
    """

    path: Path
    preprocessing: Preprocessing = Preprocessing()

    def open(self, network: Graph[Any]) -> Samples:
        """The samples, if they fit a network's input.

        Raises:
            ResformerError: They do not, or a file is damaged.
        """
        samples: Samples
        if self.path.is_dir():
            folder = open_image_folder(self.path, network, resize=self.preprocessing.resize).spread(FOLDER_MAX)
            folder.check()
            samples = folder
        else:
            samples = check_samples(read_array(self.path), network, str(self.path))
        return self.preprocessing.normalized(samples, network.input.shape[0])
