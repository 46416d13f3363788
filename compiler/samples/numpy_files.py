"""The gate of NumPy's files, ``.npy`` and ``.npz``: type, shape and size are checked first; nothing is unpickled."""

from __future__ import annotations

import io
import math
import re
import shutil
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipInfo

import numpy as np
import numpy.typing as npt

from resformer.errors import FileFormatError
from resformer.models.archive import open_archive
from resformer.models.boundary import boundary, require_regular
from resformer.models.limits import LARGEST_UNPACKED, LONGEST_ARRAY_HEADER, MOST_AXES, quote, require_within

SAVE = "save it again with numpy.save or numpy.savez"
HOLDS_OBJECTS = "holds Python objects, and loading them could run code; save an array of numbers"
NPY_MAGIC, ZIP_MAGIC = b"\x93NUMPY", b"PK"
FIELDS = ("descr", "fortran_order", "shape")
FIELD = re.compile(
    r"\s*'(descr|fortran_order|shape)'\s*:\s*('[^'\\]*'|True|False|\((?:\s*\d{1,19}L?\s*,)*\s*(?:\d{1,19}L?)?\s*\))\s*,?"
)
"""One entry of a header; NumPy of Python 2 wrote an L behind whole numbers."""
RECORD = re.compile(r"\(\s*'([^'\\]*)'\s*,")
"""The beginning of one field in the type of records, with the field's name."""
RECORDS = re.compile(
    r"'descr'\s*:\s*\[((?:\s*\(\s*'[^'\\]{0,80}'\s*,\s*'[<>|=]?[a-zA-Z?]\d{0,6}'\s*\)\s*(?:,|(?=\])))+)\s*\]"
)
"""The type, in a header, of records whose fields have plain types. A comma must stand between two fields: without it,
the blanks there could match in many ways, and the search would try them all."""
RECORD_FIELD = re.compile(r"'([^'\\]*)'\s*,\s*'([^'\\]*)'")
TYPE = re.compile(r"[<>|=]?[a-zA-Z?]\d{0,6}")
"""A plain type, such as ``<f4``."""
SIZE = re.compile(r"\d+")

_COPIED_AT_ONCE = 2**20
_ZIP_LENGTHS_AT = 26
"""The offset, in a zip archive's local header, of the lengths of the name and of the extra field behind it."""
_ENCRYPTED = 1
_HEADER_LENGTHS = {1: "<H", 2: "<I", 3: "<I"}
"""The ``struct`` format of the length of the header, by the version of the file format."""


@dataclass(frozen=True)
class Header:
    """The header of an array's file.

    Attributes:
        dtype: The type of the values: numbers, booleans, texts, or records of these; never Python objects.
        shape: The shape of the array, as written.
        by_columns: Whether the first index varies fastest.
        size: The size of the header, in bytes.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    by_columns: bool
    size: int

    @property
    def content_size(self) -> int:
        """The size of the values, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def open_array(path: Path, key: str) -> npt.NDArray[Any]:
    """Map an array from a ``.npy`` file, or from a ``.npz`` that holds it alone or under a key.

    A compressed array is unpacked into a temporary file without a name, of bounded size, and mapped there.

    Raises:
        FileFormatError: The file is absent, damaged, of another format, too large when unpacked, or holds Python
            objects.
    """
    try:
        with boundary(path, "save it again", what="truncated or damaged"):
            require_regular(path, named="a .npy or .npz file")
            with path.open("rb") as file:
                magic = file.read(len(NPY_MAGIC))
                file.seek(0)
                if magic == NPY_MAGIC:
                    return _mapped(path, header := read_header(file), header.size)
                if magic.startswith(ZIP_MAGIC):
                    return _open_member(path, file, key)
            raise FileFormatError(
                f"not a NumPy file: it begins with {magic!r}; save the array with numpy.save or numpy.savez"
            )
    except FileNotFoundError:
        raise FileFormatError(f"{path}: no such file") from None


def member_names(path: Path) -> tuple[str, ...]:
    """The names of the arrays in a ``.npz``, as ``open_array`` takes them, in the file's order.

    Raises:
        FileFormatError: The file is absent, damaged or of another format.
    """
    try:
        with boundary(path, "save it again", what="truncated or damaged"):
            require_regular(path, named="an .npz file")
            with path.open("rb") as file:
                magic = file.read(len(NPY_MAGIC))
                if not magic.startswith(ZIP_MAGIC):
                    raise FileFormatError(f"no .npz file: it begins with {magic!r}; {SAVE}")
                file.seek(0)
                return tuple(name.removesuffix(".npy") for name in open_archive(file).namelist())
    except FileNotFoundError:
        raise FileFormatError(f"{path}: no such file") from None


def record_names(path: Path) -> tuple[str, ...]:
    """The names of the fields of a ``.npy`` of records; an empty tuple for any other array.

    Raises:
        FileFormatError: The file is absent or damaged.
    """
    try:
        with boundary(path, SAVE, what="truncated or damaged"):
            require_regular(path, named="a .npy or .npz file")
            with path.open("rb") as file:
                if file.read(len(NPY_MAGIC)) != NPY_MAGIC:
                    return ()
                file.seek(0)
                match = RECORDS.search(_header_text(file)[0])
                return () if match is None else tuple(name for name, _ in RECORD_FIELD.findall(match[1]))
    except FileNotFoundError:
        raise FileFormatError(f"{path}: no such file") from None


def open_records(path: Path) -> npt.NDArray[Any]:
    """Map an array of records of plain types from a ``.npy`` file.

    Raises:
        FileFormatError: The file holds no records, or Python objects.
        ValueError: The file ends too early.
    """
    with path.open("rb") as file:
        text, size = _header_text(file)
    match = RECORDS.search(text)
    if match is None:
        raise FileFormatError(f"holds no records; {SAVE}")
    # with a plain type in place of the records' type, this is the header of an array of numbers
    _, shape, by_columns = _parse(text[: match.start()] + "'descr': '|u1'" + text[match.end() :])
    dtype = np.dtype([(name, kind) for name, kind in RECORD_FIELD.findall(match[1])])
    if dtype.hasobject:
        raise FileFormatError(HOLDS_OBJECTS)
    return _mapped(path, Header(dtype, shape, by_columns, size), size)


def read_header(file: BinaryIO | IO[bytes]) -> Header:
    """Read only the header of an array's file.

    Raises:
        FileFormatError: The header is too long or invalid, or the array holds Python objects or records.
        ValueError: The file is not an array's, or ends too early.
    """
    text, length = _header_text(file)
    return Header(*_parse(text), length)


def _header_text(file: BinaryIO | IO[bytes]) -> tuple[str, int]:
    """The text of the header of an array's file, and the number of bytes before the values."""
    magic = file.read(len(NPY_MAGIC) + 2)
    if not magic.startswith(NPY_MAGIC) or len(magic) < len(NPY_MAGIC) + 2:
        raise ValueError("no array of NumPy")
    version = magic[len(NPY_MAGIC)]
    if version not in _HEADER_LENGTHS:
        raise ValueError(f"version {version} of NumPy's format")
    form = _HEADER_LENGTHS[version]
    length = struct.calcsize(form)
    (size,) = struct.unpack(form, file.read(length))
    if size > LONGEST_ARRAY_HEADER:
        raise FileFormatError(f"its header has {size} bytes, the limit is {LONGEST_ARRAY_HEADER}; {SAVE}")
    text = file.read(size)
    if len(text) < size:
        raise ValueError("its header ends too early")
    return text.decode("latin-1"), len(magic) + length + size


def _parse(text: str) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """The type, the shape and ``by_columns`` of a header, by patterns: a reader of Python literals has no limits."""
    inner = text.strip()
    if "Object" in inner or re.search(r"'descr'\s*:\s*'[<>|=]?O", inner):
        raise FileFormatError(HOLDS_OBJECTS)
    if re.search(r"'descr'\s*:\s*\[", inner):
        names = ", ".join(map(quote, RECORD.findall(inner)))
        raise FileFormatError(f"is a list of records ({names}), the network takes arrays; bin events into frames first")
    if not (inner.startswith("{") and inner.endswith("}")):
        raise FileFormatError(f"its header is {quote(inner)!r}, no description of an array; {SAVE}")
    inner = inner[1:-1].rstrip()
    found: dict[str, str] = {}
    position = 0
    while position < len(inner):
        match = FIELD.match(inner, position)
        if match is None or match[1] in found:
            raise FileFormatError(
                f"its header has {quote(inner[position:])!r}, where a plain type, an order and a shape are expected; "
                f"{SAVE}"
            )
        found[match[1]] = match[2]
        position = match.end()
    missing = [name for name in FIELDS if name not in found]
    if missing:
        raise FileFormatError(f"its header has no {missing[0]!r}; {SAVE}")
    descr = found["descr"].strip("'")
    if not TYPE.fullmatch(descr):
        raise FileFormatError(f"its type is {quote(descr)!r}, no plain type; {SAVE}")
    dtype = np.dtype(descr)
    if dtype.hasobject:
        raise FileFormatError(HOLDS_OBJECTS)
    if not dtype.itemsize:
        raise FileFormatError(f"its type is {quote(descr)!r}, whose values have no bytes; {SAVE}")
    shape = tuple(int(size) for size in SIZE.findall(found["shape"]))
    if len(shape) > MOST_AXES:
        raise FileFormatError(f"has {len(shape)} axes, the limit is {MOST_AXES}; {SAVE}")
    if found["fortran_order"] not in ("True", "False"):
        raise FileFormatError(f"its order is {quote(found['fortran_order'])}; {SAVE}")
    return dtype, shape, found["fortran_order"] == "True"


def _open_member(path: Path, file: BinaryIO, key: str) -> npt.NDArray[Any]:
    """Map an array of an archive: in place, or in an unnamed file that it is unpacked to if it is compressed."""
    archive = open_archive(file)
    members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    if key not in members and len(members) != 1:
        listed = ", ".join(map(quote, list(members)[:10])) or "nothing"
        raise FileFormatError(f"holds {listed}; name one array {key!r}, or save it alone")
    member = members[key] if key in members else next(iter(members.values()))
    shown = quote(member.filename)
    if member.flag_bits & _ENCRYPTED:
        raise FileFormatError(f"{shown} is encrypted; {SAVE}")
    if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise FileFormatError(f"{shown} is compressed by method {member.compress_type}, which is not NumPy's; {SAVE}")
    # all bytes are read and dropped, since zipfile compares a member's checksum only at the member's end
    with archive.open(member) as content:
        header = read_header(content)
        if member.file_size != header.size + header.content_size:
            raise BadZipFile(f"{shown} holds {member.file_size - header.size} bytes of {header.content_size}")
        if member.compress_type == ZIP_STORED:
            while content.read(_COPIED_AT_ONCE):
                pass
            return _mapped(path, header, header.size + _content_at(file, member))
        require_within(header.content_size, LARGEST_UNPACKED, shown + " has {} bytes when unpacked")
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(content, unpacked, _COPIED_AT_ONCE)
            unpacked.flush()
            return _mapped(unpacked, header, 0)


def _mapped(file: Path | IO[bytes], header: Header, offset: int) -> npt.NDArray[Any]:
    """Map an array that begins at an offset; an empty array, which cannot be mapped, is made in memory."""
    if not header.content_size:
        return np.empty(header.shape, header.dtype)
    size = file.stat().st_size if isinstance(file, Path) else file.seek(0, io.SEEK_END)
    if offset + header.content_size > size:
        raise ValueError(f"{header.content_size} bytes from {offset} on, but it ends at {size}")
    return np.memmap(file, header.dtype, "r", offset, header.shape, "F" if header.by_columns else "C")


def _content_at(file: BinaryIO, member: ZipInfo) -> int:
    """The offset in an archive at which a member's bytes begin."""
    file.seek(member.header_offset + _ZIP_LENGTHS_AT)
    name, extra = struct.unpack("<HH", file.read(4))
    return file.tell() + int(name) + int(extra)
