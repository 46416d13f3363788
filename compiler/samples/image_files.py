"""Image files of strangers: which ones a folder has, and opening one so that nothing is started, hung or filled.

Pillow knows dozens of formats; one of them starts Ghostscript. Only :data:`FORMATS` are tried, whatever a file's name.
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
"""Of Pillow's, those that are read."""
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Of files that are images, in any case; torchvision's list."""
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
    """The files in a folder, and in folders below it, that are images by their names, which do not begin with ".".

    Links are followed, and each file and each folder is found once, whatever leads to it: where it really is, or else
    by the first name.

    Args:
        directory: The folder.
        suffixes: What images' names end in, in lower case; of files of another kind, theirs.

    Returns:
        Their paths below the folder, sorted.

    Raises:
        OSError: A folder cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    found: list[Path] = []
    links: list[Path] = []
    waiting = [directory]
    while waiting or links:
        # what a link leads to comes last, so that what can be met without it has its own name
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
    """Whether a file or folder was met before, by any name; from now on it was."""
    found = path.stat()
    key = (found.st_dev, found.st_ino)
    if key in seen:
        return True
    seen.add(key)
    return False


@contextmanager
def opened_image(path: Path) -> Iterator[Image]:
    """A Pillow image, whose pixels are not read yet; what goes wrong with it then, too, names the file.

    Raises:
        FileFormatError: It is no regular file, no image of a format that is read, too large, or broken.
        OSError: It cannot be read.
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
        # whatever Pillow's readers trip over in a stranger's file
        why = str(error) or type(error).__name__
        raise FileFormatError(f"{path}: a broken image ({why}); repair or remove it") from error


def require_pixels(path: Path, width: int, height: int, what: str = "an image") -> None:
    """Refuse an image that is too large.

    Args:
        path: Its file.
        width: In pixels.
        height: In pixels.
        what: What is so large.

    Raises:
        FileFormatError: It has more than ``limits.MOST_PIXELS``.
    """
    if width * height > allowed(MOST_PIXELS):
        raise FileFormatError(
            f"{path}: {what} of {width} x {height} pixels, the limit is {allowed(MOST_PIXELS):,}; shrink or remove it, "
            f"or {raise_limits(width * height, MOST_PIXELS)}"
        )


def _open_regular(path: Path) -> int:
    """A descriptor of a regular file; nothing else is opened, since a pipe may wait for ever.

    Raises:
        FileFormatError: It is something else, or too large.
        OSError: It cannot be opened.
    """
    _require_regular(path, path.stat())
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        # another file may have taken its place
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
    """An image, if Pillow finds its header harmless; how many pixels it has is for the caller to judge."""
    import PIL.Image

    # warnings are the process's, not the thread's, and so is Pillow's own limit, which knows nothing of ours
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            image = PIL.Image.open(file, formats=FORMATS)
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = before
    with image:
        yield image
