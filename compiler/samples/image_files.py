"""Image files of strangers: finding them in a folder, and opening one without starting a program or waiting for ever.

Pillow knows dozens of formats; one of them starts Ghostscript. Only :data:`FORMATS` are tried, whatever a file's name.
The sizes of files and of images are bounded.
"""

from __future__ import annotations

import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING

from resformer.errors import FileFormatError, ResformerError
from resformer.models.limits import LARGE_PIXELS, LARGEST_IMAGE_FILE, MOST_PIXELS, allowed, raise_limits

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats of Pillow that are read."""
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""The suffixes of image files, which are compared in lower case; torchvision's list."""
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_opening = threading.Lock()
_decoding_large = threading.Lock()


def find_images(directory: Path, suffixes: frozenset[str] = SUFFIXES) -> list[Path]:
    """Find the image files in a folder and in the folders below it, by their suffixes.

    Names that begin with "." are skipped. Links are followed, but each file and each folder is found only once: by its
    own path if that is below the folder, and otherwise by the first link that leads to it.

    Args:
        directory: The folder.
        suffixes: The suffixes of the files to find, in lower case; other ones find files of another kind.

    Returns:
        The files' paths relative to the folder, sorted.

    Raises:
        OSError: A folder cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    found: list[Path] = []
    links: list[Path] = []
    waiting = [directory]
    while waiting or links:
        # links are followed last, so that a file that is also found without a link gets its own path
        path = waiting.pop() if waiting else links.pop(0)
        if _is_seen(path, seen):
            continue
        if not path.is_dir():
            found.append(path)
            continue
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
                is_image = Path(entry.name).suffix.lower() in suffixes
                if not entry.name.startswith(".") and (is_image or entry.is_dir()):
                    (links if entry.is_symlink() else waiting).append(Path(entry.path))
    return sorted((path.relative_to(directory) for path in found), key=lambda path: path.parts)


def _is_seen(path: Path, seen: set[tuple[int, int]]) -> bool:
    """Whether a file or folder was met before under any name; also records that it is met now."""
    found = path.stat()
    key = (found.st_dev, found.st_ino)
    if key in seen:
        return True
    seen.add(key)
    return False


@contextmanager
def opened_image(path: Path) -> Iterator[Image]:
    """Open an image with Pillow, without reading its pixels yet; errors in the ``with`` block name the file too.

    Raises:
        FileFormatError: The file is not a regular file, not an image of a format that is read, too large, or broken.
        OSError: The file cannot be read.
    """
    import PIL.Image

    descriptor = _open_regular(path)
    try:
        with os.fdopen(descriptor, "rb") as file, _opened(file) as image:
            require_pixels(path, *image.size)
            large = image.size[0] * image.size[1] > allowed(LARGE_PIXELS)
            with _decoding_large if large else nullcontext():
                yield image
    except ResformerError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise FileFormatError(
            f"{path}: a broken image (no image that Pillow knows as one of {', '.join(FORMATS)}); repair or remove it"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        # Pillow's readers raise errors of any type at a damaged file
        why = str(error) or type(error).__name__
        raise FileFormatError(f"{path}: a broken image ({why}); repair or remove it") from error


def require_pixels(path: Path, width: int, height: int, what: str = "an image") -> None:
    """Refuse an image that is too large.

    Args:
        path: The image's file.
        width: The width of the image in pixels.
        height: The height of the image in pixels.
        what: What the message calls the image.

    Raises:
        FileFormatError: The image has more pixels than ``limits.MOST_PIXELS``.
    """
    if width * height > allowed(MOST_PIXELS):
        raise FileFormatError(
            f"{path}: {what} of {width} x {height} pixels, the limit is {allowed(MOST_PIXELS):,}; shrink or remove it, "
            f"or {raise_limits(width * height, MOST_PIXELS)}"
        )


def _open_regular(path: Path) -> int:
    """Open a regular file, and return its descriptor; nothing else is opened, since a pipe may wait for ever.

    Raises:
        FileFormatError: The file is not a regular file, or too large.
        OSError: The file cannot be opened.
    """
    _require_regular(path, path.stat())
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        # another file may have taken the place of the one that was checked
        _require_regular(path, os.fstat(descriptor))
    except FileFormatError:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((kind for is_kind, kind in KINDS if is_kind(found.st_mode)), "no regular file")
        raise FileFormatError(f"{path}: {kind}, no image file; remove it")
    if found.st_size > allowed(LARGEST_IMAGE_FILE):
        raise FileFormatError(
            f"{path}: {found.st_size:,} bytes, the limit of an image file is {allowed(LARGEST_IMAGE_FILE):,}; "
            f"shrink or remove it, or {raise_limits(found.st_size, LARGEST_IMAGE_FILE)}"
        )


@contextmanager
def _opened(file: IO[bytes]) -> Iterator[Image]:
    """Open an image by its header; the caller has to check the number of its pixels."""
    import PIL.Image

    # filters of warnings and Pillow's own limit belong to the process, not to a thread; our own limit replaces Pillow's
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            image = PIL.Image.open(file, formats=FORMATS)
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = before
    with image:
        yield image
