"""The images of CIFAR-10: how they are read, once and as bytes, and how a batch of them is varied.

A folder holds ``train`` and ``test``, each of which is a folder with one of JPEG or PNG files for each class, or a
``.tar.xz`` of such a folder. A network's input is pixel / 255, nothing else.
"""

import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from resformer.errors import FileFormatError, InputError

IMAGE_SIZE = 32
SUFFIXES = (".jpg", ".jpeg", ".png")
MARGIN = 4
"""Pixels by which a crop may lie beside the image."""
COLOUR, HOLE = 0.4, 16
"""Of the strongest augmentation: by how much brightness, contrast and saturation change, and the edge of the square
that is made grey."""


class Images(NamedTuple):
    """A split of the data.

    Attributes:
        pixels: (N, 3, 32, 32), bytes; the classes' images lie one after the other.
        labels: (N,), the index of each one's class.
        classes: their names, sorted.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]


def read(folder: Path, split: str) -> Images:
    """Read ``train`` or ``test`` of a folder.

    Raises:
        InputError: where neither a folder nor a ``.tar.xz`` of it is there, or an image is of another size.
        FileFormatError: where a file is no image.
    """
    directory, archive = folder / split, folder / f"{split}.tar.xz"
    if directory.is_dir():
        files = _files(directory)
    elif archive.is_file():
        files = _members(archive)
    else:
        raise InputError(f"{folder}: has neither {split}/ nor {split}.tar.xz; give the folder that holds CIFAR-10")
    found = sorted(files)
    classes = tuple(sorted({name.parent.name for name, _ in found}))
    if not classes:
        raise InputError(f"{folder}: {split} holds no image; expected {split}/CLASS/NAME.jpg")
    with ThreadPoolExecutor() as executor:
        pixels = np.stack(list(executor.map(_decoded, found)))
    labels = torch.tensor([classes.index(name.parent.name) for name, _ in found])
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels, classes)


def _files(directory: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Paths below a folder, and what they hold."""
    for path in directory.glob("*/*"):
        if path.suffix.lower() in SUFFIXES:
            yield PurePosixPath(path.relative_to(directory).as_posix()), path.read_bytes()


def _members(archive: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Paths in an archive, and what they hold."""
    with tarfile.open(archive) as stored:
        for member in stored:
            path, content = PurePosixPath(member.name), stored.extractfile(member)
            if content is not None and path.suffix.lower() in SUFFIXES:
                yield path, content.read()


def _decoded(file: tuple[PurePosixPath, bytes]) -> npt.NDArray[np.uint8]:
    """The pixels of one image, (32, 32, 3)."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}; pip install 'resformer[images]' installs it") from None

    name, content = file
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except OSError as error:
        raise FileFormatError(f"{name}: is no image: {error}") from error
    if pixels.shape != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise InputError(f"{name}: has {pixels.shape[1]}x{pixels.shape[0]} pixels; CIFAR-10's have 32x32")
    return pixels


def on(data: Images, device: torch.device) -> Images:
    """The same images on a device."""
    return Images(data.pixels.to(device), data.labels.to(device), data.classes)


def as_input(pixels: torch.Tensor, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return bytes (N, 3, 32, 32) as a network's input, in [0, 1]."""
    return pixels.to(dtype) / 255


def augment(pixels: torch.Tensor, *, strength: float) -> torch.Tensor:
    """Shift each image by up to 4 pixels and mirror every second, change its colours and cover a square of it.

    Args:
        pixels: (N, 3, 32, 32), bytes.
        strength: of colours and square, 0 to 1; shifts and mirrors are always there.

    Returns:
        (N, 3, 32, 32) in [0, 1].
    """
    count, device = len(pixels), pixels.device
    padded = torch.nn.functional.pad(pixels, (MARGIN,) * 4)
    edge = torch.arange(IMAGE_SIZE, device=device)
    across = torch.where(torch.rand(count, 1, device=device) < 0.5, edge, edge.flip(0))
    down, right = torch.randint(2 * MARGIN + 1, (2, count, 1), device=device)
    which = torch.arange(count, device=device)[:, None, None]
    moved = padded[which, :, (edge + down)[:, :, None], (across + right)[:, None, :]]  # channels come last
    images = as_input(moved.permute(0, 3, 1, 2))
    if strength == 0:
        return images

    def factor() -> torch.Tensor:
        return 1 + COLOUR * strength * (2 * torch.rand(count, 1, 1, 1, device=device) - 1)

    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * factor()
    mean = images.mean((1, 2, 3), keepdim=True)
    images = ((mean + (images - mean) * factor()) * factor()).clamp(0, 1)
    if (hole := round(HOLE * strength)) > 0:
        top, left = torch.randint(1 - hole, IMAGE_SIZE, (2, count, 1), device=device)
        rows = (edge >= top) & (edge < top + hole)
        columns = (edge >= left) & (edge < left + hole)
        images = torch.where(rows[:, None, :, None] & columns[:, None, None, :], 0.5, images)
    return images
