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
"""By the end of a file's name."""
ARRAYS = (".npy", ".npz")
"""What may as well be an array of samples."""


def is_event_file(path: Path) -> bool:
    """Whether a file is a recording: by its name, and of NumPy's files by what they hold.

    A damaged file of NumPy's is none; whoever reads it as samples is told what is wrong.
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
        FileFormatError: It is absent, damaged, or of another format than its name says.
        BackendMissingError: A package that reads it is not installed.
        UnsupportedError: It is of a version that cannot be read.
    """
    try:
        with boundary(path, COPY_AGAIN):
            require_regular(path)
    except FileNotFoundError:
        raise FileFormatError(f"{path}: no such file") from None
    return FORMATS[path.suffix.lower()](path)
