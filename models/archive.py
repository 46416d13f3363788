"""Zip archives from strangers: the directory's size and the members' number and names are checked first."""

import io
import struct
import zipfile
from typing import BinaryIO

from resformer.errors import FileFormatError
from resformer.models.limits import LARGEST_DIRECTORY, MOST_MEMBERS, quote, require_within


def open_archive(file: BinaryIO) -> zipfile.ZipFile:
    """Open an archive for reading.

    Args:
        file: An open file; it must stay open as long as the archive is used.

    Raises:
        FileFormatError: The directory is too large, or the archive has too many members or two members of one name.
        Exception: The archive is damaged; ``zipfile`` raises errors of many types.
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
"""An archive's end record: signature, …, offset of the directory, length of the comment after the record."""
END_64 = struct.Struct("<4sQ2H2L4Q")
"""The second end record of large archives (zip64), before the locator: signature, …, offset of the directory."""
LOCATOR = struct.Struct("<4sLQL")
"""The locator of the zip64 end record, between the two end records: signature, …, offset of the zip64 record, …"""


def require_one_reading(file: BinaryIO, archive: zipfile.ZipFile) -> None:
    """Refuse an archive in which PyTorch's reader may find other members than Python's reader.

    PyTorch's reader ignores upper and lower case in names, and looks for the directory at the offset that the end
    records state. Python's reader looks directly before the end records, whatever offset they state, and cuts names at
    a zero byte.

    Args:
        file: The archive's file.
        archive: The archive, as ``open_archive`` returns it.

    Raises:
        FileFormatError: The two readers may find different members.
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
    """A file that refuses a read of a size over ``LARGEST_DIRECTORY``: ``zipfile`` reads a directory in one call."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int | None = -1, /) -> bytes:
        """Read ``size`` bytes, or all that are left if it is negative or None."""
        size = -1 if size is None else size
        require_within(size, LARGEST_DIRECTORY, "its directory has {} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position, and return it."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The position, in bytes."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Whether positions can be set: yes."""
        return True

    def readable(self) -> bool:
        """Whether the file can be read: yes."""
        return True
