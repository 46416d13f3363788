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
"""What Pillow calls images of so many channels."""
RESIZED, CROPPED = 256, 224
"""The evaluation transform of ImageNet: the shorter side to 256 pixels, of which the middle 224 are kept."""


@dataclass(frozen=True)
class ImageFolder:
    """Images that fit a network.

    Attributes:
        directory: Where they are.
        names: Their paths below it, sorted, with "/" between folders.
        shape: (C, H, W), the network's input.
        resize: Whether they are resized and cropped, rather than just as large.
    """

    directory: Path
    names: tuple[str, ...]
    shape: tuple[int, int, int]
    resize: bool

    def __len__(self) -> int:
        return len(self.names)

    def real(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float64]:
        """The pixels of some images divided by 255, (N, C, H, W).

        Raises:
            FileFormatError: A file is damaged.
            InputError: An image has another size than the network's input, or more than 8 bits a pixel.
        """
        with ThreadPoolExecutor(os.cpu_count()) as executor:
            pixels = list(executor.map(self._pixels, self.names[start:stop]))
        return np.stack(pixels) / PIXEL_MAX

    def spread(self, count: int) -> ImageFolder:
        """``count`` images, as many of each class as can be, evenly chosen of each; or all if there are fewer."""
        return self.chosen(spread_over_each(self.names, min(count, len(self))))

    def chosen(self, indices: Indices) -> ImageFolder:
        """Some of the images."""
        return replace(self, names=tuple(self.names[index] for index in indices))

    def folders(self) -> tuple[str, ...]:
        """The folders in this one, sorted: those of classes, as torchvision's ``ImageFolder`` numbers them."""
        return tuple(sorted(path.name for path in self.directory.iterdir() if path.is_dir() and path.name[0] != "."))

    def labels(self, classes: int, names: Sequence[str] | None = None) -> npt.NDArray[np.int64] | None:
        """The class of each image, (N,); None where ``unlabelled`` says why.

        Args:
            classes: How many classes the network tells apart.
            names: Theirs, class 0 first: a folder's class is that of its name. None: the folder's index among the
                sorted ones.
        """
        folders = class_folders(self.names)
        if folders is None or self.unlabelled(classes, names) is not None:
            return None
        index = {folder: label for label, folder in enumerate(self.folders() if names is None else names)}
        return np.array([index[folder] for folder in folders], dtype=np.int64)

    def unlabelled(self, classes: int, names: Sequence[str] | None = None) -> str | None:
        """Why the folders do not tell the images' classes; None if they do."""
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
        """Look at each file's header, so that what is wrong there is known before any work is done.

        Raises:
            FileFormatError: A file is no image.
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
    """Find a folder's images, in it and in folders below it, each file once.

    Raises:
        BackendMissingError: Pillow is not installed.
        InputError: There are none, or the network takes no images, or none as ``resize`` makes them: square.
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
    """How wide and high an image is once its shorter side is what is cropped to a size."""
    shorter = size * RESIZED // CROPPED
    width, height = image_size
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter
