"""A folder of images as samples, decoded a few at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph
from resformer.compiler.samples.arrays import PIXEL_MAX
from resformer.compiler.samples.classes import Indices, class_folders, listed, spread_over_each
from resformer.compiler.samples.image_files import SUFFIXES, find_images, opened_image, require_pixels
from resformer.errors import BackendMissingError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = {1: "L", 3: "RGB"}
"""Pillow's name for the mode of an image, by its number of channels."""
RESIZED, CROPPED = 256, 224
"""The evaluation transform of ImageNet: the shorter side is resized to 256 pixels, and the middle 224 are kept."""


@dataclass(frozen=True)
class ImageFolder:
    """Images that fit a network.

    Attributes:
        directory: The folder of the images.
        names: The images' paths below the folder, sorted, with "/" between folders.
        shape: (C, H, W) of the network's input.
        resize: Whether the images are resized and cropped; if not, they must have the size of the input.
    """

    directory: Path
    names: tuple[str, ...]
    shape: tuple[int, int, int]
    resize: bool

    def __len__(self) -> int:
        return len(self.names)

    def real(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float64]:
        """The pixels of images [start, stop) divided by 255, (N, C, H, W).

        Raises:
            FileFormatError: A file is damaged.
            InputError: An image has another size than the network's input, or more than 8 bits a pixel.
        """
        with ThreadPoolExecutor(os.cpu_count()) as executor:
            pixels = list(executor.map(self._pixels, self.names[start:stop]))
        return np.stack(pixels) / PIXEL_MAX

    def spread(self, count: int) -> ImageFolder:
        """At most ``count`` images, from all classes as equally as possible and evenly spaced within each class."""
        return self.chosen(spread_over_each(self.names, min(count, len(self))))

    def chosen(self, indices: Indices) -> ImageFolder:
        """The images of the given indices."""
        return replace(self, names=tuple(self.names[index] for index in indices))

    def folders(self) -> tuple[str, ...]:
        """The names of the subfolders, sorted: the classes, in the order of torchvision's ``ImageFolder``."""
        return tuple(sorted(path.name for path in self.directory.iterdir() if path.is_dir() and path.name[0] != "."))

    def labels(self, classes: int, names: Sequence[str] | None = None) -> npt.NDArray[np.int64] | None:
        """The class of each image, (N,); None if the folders do not tell it, and ``unlabelled`` then says why.

        Args:
            classes: The number of classes that the network tells apart.
            names: The names of the classes, class 0 first; a folder's class is the one of its name. None: a folder's
                class is its index among the sorted subfolders.
        """
        folders = class_folders(self.names)
        if folders is None or self.unlabelled(classes, names) is not None:
            return None
        index = {folder: label for label, folder in enumerate(self.folders() if names is None else names)}
        return np.array([index[folder] for folder in folders], dtype=np.int64)

    def unlabelled(self, classes: int, names: Sequence[str] | None = None) -> str | None:
        """Why the folders do not tell the images' classes; None if they do. The arguments are those of ``labels``."""
        found = class_folders(self.names)
        if found is None:
            return f"{self.directory}: not every image is in the folder of a class; give --labels"
        if names is None:
            count = len(self.folders())
            if count == classes:
                return None
            return (
                f"{self.directory}: has {count} folders, the network tells {classes} classes apart and the build does "
                "not name them; compile with --classes, or give --labels"
            )
        unknown = sorted(set(found) - set(names))
        if not unknown:
            return None
        return (
            f"{self.directory}: the build knows no class of the name {listed(unknown)}, only {listed(names)}; rename "
            "the folders, compile with --classes, or give --labels"
        )

    def check(self) -> None:
        """Check each file's header, so that errors are found before any work is done.

        Raises:
            FileFormatError: A file is not an image.
            InputError: An image does not fit.
        """
        with ThreadPoolExecutor(os.cpu_count()) as executor:
            for _ in executor.map(self._check, self.names):
                pass

    def _check(self, name: str) -> None:
        path = self.directory / name
        with opened_image(path) as image:
            self._require_fit(image, path)

    def _pixels(self, name: str) -> npt.NDArray[np.uint8]:
        """One image, (C, H, W)."""
        path = self.directory / name
        channels, height, width = self.shape
        with opened_image(path) as image:
            self._require_fit(image, path)
            converted = image.convert(MODES[channels])
        if self.resize:
            converted = resize_and_crop(converted, height)
        return np.asarray(converted).reshape(height, width, channels).transpose(2, 0, 1)

    def _require_fit(self, image: Image, path: Path) -> None:
        if image.mode[0] in "IF":
            raise InputError(
                f"{path}: {image.mode} pixels, more than 8 bits; convert it to 8 bits, or give an .npy file"
            )
        wanted = self.shape[:0:-1]
        if self.resize:
            require_pixels(path, *resized_size(image.size, self.shape[1]), what="resized, an image")
        elif image.size != wanted:
            raise InputError(
                f"{path}: {image.size[0]} x {image.size[1]} pixels, the network takes {wanted[0]} x {wanted[1]}; give "
                "--resize to resize and crop all images, or do so yourself"
            )


def open_image_folder(directory: Path, network: Graph[Any], *, resize: bool) -> ImageFolder:
    """Find the images in a folder and in the folders below it, each file once.

    Raises:
        BackendMissingError: Pillow is not installed.
        InputError: There are no images, the network takes no images, or ``resize`` is set and its input is not square.
    """
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise BackendMissingError(
            f"{directory}: reading image files needs Pillow; pip install 'resformer[images]'"
        ) from None
    channels, height, width = network.input.shape
    frames = network.metadata.get("input") == "frames"
    if channels not in MODES or frames:
        raise InputError(
            f"{directory}: image files have 1 or 3 channels and one frame, the network takes {channels} channels"
            f"{' of event frames' if frames else ''}; give an .npy file"
        )
    if resize and height != width:
        raise InputError(
            f"{directory}: --resize makes square images, the network takes {width} x {height}; leave it out, and bring "
            "the images to that size yourself"
        )
    found = find_images(directory)
    if not found:
        raise InputError(f"{directory}: holds no images ({', '.join(sorted(SUFFIXES))}); name a folder that does")
    names = tuple(path.as_posix() for path in found)
    return ImageFolder(directory, names, (channels, height, width), resize)


def resize_and_crop(image: Image, size: int) -> Image:
    """What torchvision's ``Resize(size * 256 / 224)`` and ``CenterCrop(size)`` make of an image, pixel for pixel."""
    from PIL.Image import Resampling

    resized = image.resize(resized_size(image.size, size), Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in resized.size)
    return resized.crop((left, top, left + size, top + size))


def resized_size(image_size: tuple[int, int], size: int) -> tuple[int, int]:
    """The width and the height that an image is resized to, so that its middle can be cropped to ``size`` pixels."""
    shorter = size * RESIZED // CROPPED
    width, height = image_size
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter
