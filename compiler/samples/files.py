"""Samples to calibrate on, which are read once the network that they must fit is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from resformer.compiler.ir.graph import Graph
from resformer.compiler.samples.arrays import Samples, check_samples, read_array
from resformer.compiler.samples.classes import class_folders, listed
from resformer.compiler.samples.events.folder import open_folder
from resformer.compiler.samples.events.formats import is_event_file, open_events
from resformer.compiler.samples.events.frames import WHOLE, Binning, bin_events
from resformer.compiler.samples.images import ImageFolder
from resformer.compiler.samples.preprocessing import Preprocessing, is_normalized_already, normalized_already

FOLDER_MAX = 256
"""The most images of a folder that calibration reads: more change little, and all of ImageNet would take days."""


@dataclass(frozen=True)
class SampleFiles:
    """Samples to calibrate on, not read yet.

    Attributes:
        path: A folder of images or of recordings of an event camera, of which at most :data:`FOLDER_MAX` are taken,
            evenly spaced within each class; or an ``.npy`` or ``.npz`` file; or one recording.
        binning: How a recording becomes frames.
    """

    path: Path
    binning: Binning = WHOLE

    def open(self, network: Graph[Any], preprocessing: Preprocessing, *, name_classes: bool) -> CalibrationSamples:
        """Open the samples, and check that they fit a network's input.

        Args:
            network: The network that is calibrated.
            preprocessing: What the network's build does to samples.
            name_classes: Whether the folder's subfolders are to name the classes.

        Raises:
            ResformerError: The samples do not fit, or a file is damaged.
        """
        if is_event_file(self.path):
            events = bin_events(open_events(self.path), self.binning, network)
            samples = preprocessing.normalized(events, network.input.shape[0])
            return CalibrationSamples(samples, notes=(*events.warnings, *events.notes))
        if not self.path.is_dir():
            return open_array(read_array(self.path), network, preprocessing, str(self.path))
        binning = None if self.binning == WHOLE else self.binning
        folder = open_folder(self.path, network, resize=preprocessing.resize, binning=binning)
        names, notes = _class_names(folder, network.output.shape[0]) if name_classes else (None, ())
        folder = folder.spread(FOLDER_MAX)
        folder.check()
        return CalibrationSamples(preprocessing.normalized(folder, network.input.shape[0]), names, notes)


@dataclass(frozen=True, eq=False)
class CalibrationSamples:
    """Samples to calibrate on, and what is known of them.

    Attributes:
        samples: The samples as the network takes them, normalized.
        classes: The names of the classes, if the subfolders of a folder tell them.
        notes: What a user should know of the samples, a sentence each.
    """

    samples: Samples
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def open_array(
    images: npt.NDArray[Any], network: Graph[Any], preprocessing: Preprocessing, source: str
) -> CalibrationSamples:
    """Check an array, and return it as samples to calibrate on.

    Args:
        images: The array, as ``check_samples`` takes it.
        network: The network that is calibrated.
        preprocessing: What the network's build does to samples.
        source: What messages call the array.

    Raises:
        InputError: The array does not fit the network.
    """
    samples = check_samples(images, network, source)
    if is_normalized_already(samples, preprocessing, network):
        return CalibrationSamples(samples, notes=(normalized_already(source, preprocessing),))
    return CalibrationSamples(preprocessing.normalized(samples, network.input.shape[0]))


def _class_names(folder: ImageFolder, count: int) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The names of classes that a folder's subfolders tell, and a sentence about them; nothing if it has none."""
    if class_folders(folder.names) is None:
        return None, ()
    found = folder.folders()
    if len(found) != count or not all(name.isprintable() for name in found):
        note = (
            f"classes: have no names: {folder.directory} has {len(found)} folders ({listed(found)}), the network tells "
            f"{count} classes apart; --classes names them"
        )
        return None, (note,)
    note = (
        f"classes: named after the folders of {folder.directory} in sorted order, as torchvision numbers them: "
        f"{listed(found)}; --classes names others"
    )
    return found, (note,)
