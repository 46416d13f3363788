"""Zip archives of strangers: the directory is bounded before it is read, and members before they are unpacked."""

import io
import struct
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


END = struct.Struct("<4s4H2LH")
"""An archive's last record: signature, … where its directory begins, the length of a comment behind it."""
END_64 = struct.Struct("<4sQ2H2L4Q")
"""The one of large archives, which lies before: signature, … where the directory begins."""
LOCATOR = struct.Struct("<4sLQL")
"""What lies between them: signature, …, where that one is, …"""


def require_one_reading(file: BinaryIO, archive: zipfile.ZipFile) -> None:
    """Refuse an archive in which another reader than Python's may find other members, or others of the same names.

    PyTorch's takes no notice of upper and lower case, nor of what lies before an archive, and goes where the last
    records say; Python goes where they are, and ends names at a zero.

    Args:
        file: The archive's.
        archive: As ``open_archive`` returns it.

    Raises:
        FileFormatError: It may.
    """
    names: set[str] = set()
    for info in archive.infolist():
        if info.filename != info.orig_filename or info.filename.lower() in names:
            raise FileFormatError(f"its member {quote(info.orig_filename)} may be taken for another; save it again")
        names.add(info.filename.lower())
    place = file.seek(-END.size, io.SEEK_END)
    signature, *_, begins, comment = END.unpack(file.read(END.size))
    one = signature == b"PK\5\6" and not comment
    before = place - LOCATOR.size - END_64.size
    if before >= 0:
        file.seek(before)
        signature, *_, begins_64 = END_64.unpack(file.read(END_64.size))
        locator, _, at, _ = LOCATOR.unpack(file.read(LOCATOR.size))
        if locator == b"PK\6\7":
            one = one and at == before
            begins = begins_64 if signature == b"PK\6\6" else begins
    if not one or begins != archive.start_dir:
        raise FileFormatError("its directory is not where the archive's end says; save it again")


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
