"""A folder of images as samples, decoded a few at a time."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph
from resformer.compiler.samples.arrays import PIXEL_MAX
from resformer.compiler.samples.classes import Indices, class_folders, first_of_each, listed, spread_over_each
from resformer.errors import BackendMissingError, FileFormatError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Of files that are images, in any case; torchvision's list."""
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

    def first(self, count: int) -> ImageFolder:
        """``count`` images, as many of each class as can be, the first of each; or all if there are fewer."""
        return self.chosen(first_of_each(self.names, min(count, len(self))))

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
        with _opened(path) as image:
            self._require_fit(image, path)

    def _pixels(self, name: str) -> npt.NDArray[np.uint8]:
        """One image, (C, H, W)."""
        path = self.directory / name
        channels, height, width = self.shape
        with _opened(path) as image:
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
        if not self.resize and image.size != wanted:
            raise InputError(
                f"{path}: {image.size[0]} x {image.size[1]} pixels, the network takes {wanted[0]} x {wanted[1]}; give "
                "--resize to resize and crop all images, or do so yourself"
            )


def open_image_folder(directory: Path, network: Graph[Any], *, resize: bool) -> ImageFolder:
    """Find a folder's images, in it and in folders below it.

    Raises:
        BackendMissingError: Pillow is not installed.
        InputError: There are none, or the network takes no images.
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
    found = []
    for folder, folders, files in os.walk(directory, followlinks=True):
        folders[:] = (name for name in folders if name[0] != ".")
        paths = (Path(folder, name) for name in files if name[0] != ".")
        found += [path.relative_to(directory) for path in paths if path.suffix.lower() in SUFFIXES]
    if not found:
        raise InputError(f"{directory}: holds no images ({', '.join(sorted(SUFFIXES))}); name a folder that does")
    names = tuple(path.as_posix() for path in sorted(found, key=lambda path: path.parts))
    return ImageFolder(directory, names, (channels, height, width), resize)


def resize_and_crop(image: Image, size: int) -> Image:
    """What torchvision's ``Resize(size * 256 / 224)`` and ``CenterCrop(size)`` make of an image, pixel for pixel."""
    from PIL.Image import Resampling

    shorter = size * RESIZED // CROPPED
    width, height = image.size
    if width <= height:
        resized = image.resize((shorter, int(shorter * height / width)), Resampling.BILINEAR)
    else:
        resized = image.resize((int(shorter * width / height), shorter), Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in resized.size)
    return resized.crop((left, top, left + size, top + size))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image]:
    """A Pillow image, whose pixels are not read yet; what goes wrong with it then, too, names the file."""
    import PIL.Image

    try:
        with PIL.Image.open(path) as image:
            yield image
    except (PIL.Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        why = "no image that Pillow knows" if isinstance(error, PIL.UnidentifiedImageError) else str(error)
        raise FileFormatError(f"{path}: a broken image ({why}); repair or remove it") from error
