"""Which files are recordings of event cameras, and what reads each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from resformer.compiler.samples.events.aedat4 import Aedat4File
from resformer.compiler.samples.events.arrays import Hdf5File, NumpyFile, find_fields
from resformer.compiler.samples.events.nmnist import BinFile
from resformer.compiler.samples.events.prophesee import DatFile, RawFile
from resformer.compiler.samples.events.stream import COPY_AGAIN, EventFile
from resformer.compiler.samples.numpy_files import member_names, record_names
from resformer.errors import FileFormatError
from resformer.models.boundary import boundary, require_regular

FORMATS: Mapping[str, type[EventFile]] = {
    ".aedat4": Aedat4File,
    ".raw": RawFile,
    ".dat": DatFile,
    ".bin": BinFile,
    ".h5": Hdf5File,
    ".hdf5": Hdf5File,
    ".npy": NumpyFile,
    ".npz": NumpyFile,
}
"""The reader of each format, by the suffix of a file's name."""
ARRAYS = (".npy", ".npz")
"""The suffixes of files that may hold an array of samples in place of events."""


def is_event_file(path: Path) -> bool:
    """Whether a file is a recording: by its suffix, and for NumPy's files by their content.

    A damaged NumPy file is not taken for a recording; reading it as samples then says what is wrong.
    """
    suffix = path.suffix.lower()
    if suffix not in ARRAYS:
        return suffix in FORMATS and not path.is_dir()
    try:
        names = record_names(path) if suffix == ".npy" else member_names(path)
    except FileFormatError:
        return False
    return find_fields(names) is not None


def open_events(path: Path) -> EventFile:
    """Open a recording.

    Raises:
        FileFormatError: The file is absent, damaged, or of another format than its name says.
        BackendMissingError: A package that is needed to read the file is not installed.
        UnsupportedError: The file is of a version of its format that cannot be read.
    """
    try:
        with boundary(path, COPY_AGAIN):
            require_regular(path)
    except FileNotFoundError:
        raise FileFormatError(f"{path}: no such file") from None
    return FORMATS[path.suffix.lower()](path)
