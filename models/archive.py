"""Zip archives of strangers: the directory is bounded before it is read, and members before they are unpacked."""

import io
import zipfile
from typing import BinaryIO

from resformer.errors import FileFormatError
from resformer.models.limits import LARGEST_DIRECTORY, MOST_MEMBERS, quote, require_within


def open_archive(file: BinaryIO) -> zipfile.ZipFile:
    """Open an archive for reading.

    Args:
        file: Open; it must stay so as long as the archive is used.

    Raises:
        FileFormatError: It has too many members, or two of one name.
        Exception: It is damaged.
    """
    archive = zipfile.ZipFile(_Bounded(file))
    require_within(len(archive.infolist()), MOST_MEMBERS, "has {} members")
    names: set[str] = set()
    for name in archive.namelist():
        if name in names:
            raise FileFormatError(f"its member {quote(name)} is there twice; save it again")
        names.add(name)
    return archive


class _Bounded(io.BufferedIOBase):
    """A file of which nothing larger than a directory is read at once, as Python reads that whole."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int | None = -1, /) -> bytes:
        """Some bytes."""
        size = -1 if size is None else size
        require_within(size, LARGEST_DIRECTORY, "its directory has {} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Where it stands."""
        return self._file.tell()

    def seekable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is."""
        return True
