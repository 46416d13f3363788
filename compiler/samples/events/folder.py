"""A folder of recordings, each of which is a sample: N-MNIST, DVS-Gesture cut into gestures, CIFAR10-DVS."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph
from resformer.compiler.samples.events.formats import FORMATS, is_event_file, open_events
from resformer.compiler.samples.events.frames import CHANNELS, WHOLE, Binning, bin_events, check_fit
from resformer.compiler.samples.image_files import find_images
from resformer.compiler.samples.images import ImageFolder, open_image_folder
from resformer.errors import InputError


@dataclass(frozen=True)
class EventFolder(ImageFolder):
    """Recordings that fit a network, each one sample of T frames; folders are classes, as in a folder of images.

    Attributes:
        network: The network that the recordings are for.
        binning: How each recording becomes T frames.
    """

    network: Graph[Any]
    binning: Binning

    def real(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float64]:
        """The counts of recordings [start, stop), (N, T, C, H, W).

        Raises:
            FileFormatError: A file is damaged.
            InputError: A recording does not fit.
        """
        with ThreadPoolExecutor(os.cpu_count()) as executor:
            return np.concatenate(list(executor.map(self._sample, self.names[start:stop])))

    def _sample(self, name: str) -> npt.NDArray[np.float64]:
        return bin_events(open_events(self.directory / name), self.binning, self.network).real()

    def _check(self, name: str) -> None:
        check_fit(open_events(self.directory / name), self.binning, self.network)


def open_folder(
    directory: Path, network: Graph[Any], *, resize: bool, binning: Binning | None
) -> ImageFolder | EventFolder:
    """Open a folder of recordings, if the network can take events and the folder holds some; otherwise, of images.

    Args:
        directory: The folder.
        network: The network that the images or the recordings are for.
        resize: Whether images are resized and cropped, as ``open_image_folder`` takes it.
        binning: How recordings become frames; None: the default, and a network of one channel takes no recordings.

    Raises:
        BackendMissingError: Pillow, which images need, is not installed.
        InputError: The folder holds neither, the network takes no such images, or the binning is for one long
            recording.
    """
    takes_events = network.input.shape[0] in CHANNELS
    names = _recordings(directory) if takes_events and not (network.input.shape[0] == 1 and binning is None) else ()
    if not names:
        if binning is not None:
            raise InputError(f"{directory}: holds no recordings of event cameras; leave out how they are binned")
        return open_image_folder(directory, network, resize=resize)
    if binning is not None and not binning.is_whole:
        raise InputError(
            f"{directory}: each recording of a folder is one sample; give --split-by in place of --bin-ms and "
            "--bin-events, or name one recording"
        )
    shape = (network.input.shape[0], network.input.shape[1], network.input.shape[2])
    return EventFolder(directory, names, shape, False, network, binning or WHOLE)


def _recordings(directory: Path) -> tuple[str, ...]:
    """The recordings in a folder and below it, as ``find_images`` finds images."""
    found = find_images(directory, frozenset(FORMATS))
    return tuple(path.as_posix() for path in found if is_event_file(directory / path))
