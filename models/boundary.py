"""The boundary at which a stranger's file is read: whatever goes wrong inside becomes one error that names the file."""

import contextlib
import lzma
import pickle
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from resformer.errors import FileFormatError, ResformerError
from resformer.models.limits import printable, quote, require_within

# The list is long because many libraries read files, and none documents what it raises: h5py, nir (which asserts, and
# looks up attributes and keys that a file names), NumPy (which parses headers as Python), and the readers of zip
# archives and of compressed data. The user is told which file is damaged and what to do; the original error is the
# cause of the new one. Exception itself is not listed: a NameError or an ImportError is a mistake in our code, whatever
# the file, and passes unchanged.
DAMAGE: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    pickle.PickleError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""Errors that libraries raise for a damaged file. RecursionError and NotImplementedError are RuntimeErrors, KeyError
and IndexError are LookupErrors, OverflowError is an ArithmeticError, and errors of Unicode are ValueErrors."""


@contextlib.contextmanager
def boundary(path: str | Path, remedy: str, *, what: str = "damaged") -> Iterator[None]:
    """Turn the errors that a damaged file causes into one error that names the file.

    Our own errors other than ``FileFormatError`` already say what is wrong, and pass unchanged.

    Args:
        path: The file.
        remedy: What the user can do about it, for the end of the message.
        what: What the message calls a file that cannot be read, in a few words.

    Raises:
        FileFormatError: Reading failed.
        FileNotFoundError: The file does not exist. The error passes unchanged, since the caller knows what it means.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except FileFormatError as error:
        named = f"{printable(str(path))}: "
        # an inner boundary has already named the file
        if str(error).startswith(named):
            raise
        raise FileFormatError(f"{named}{error}") from error
    except MemoryError as error:
        raise FileFormatError(
            f"{printable(str(path))}: what it holds does not fit in memory ({brief(error)})"
        ) from error
    except DAMAGE as error:
        raise FileFormatError(f"{printable(str(path))}: {what} ({brief(error)}); {remedy}") from error


@contextlib.contextmanager
def checkpoint_boundary(path: Path) -> Iterator[None]:
    """Name the file in every error that reading and recognising a checkpoint raises.

    Our own errors keep their type. Every other error is taken as damage, because there is no complete list of the types
    that PyTorch raises.

    Raises:
        FileFormatError: The checkpoint cannot be read or recognised.
        ResformerError: Another of our errors, of the type that was raised inside.
    """
    try:
        yield
    except ResformerError as error:
        raise type(error)(f"{printable(str(path))}: {error}") from error
    except Exception as error:  # from PyTorch, for tensors that no check foresaw
        raise FileFormatError(
            f"{printable(str(path))}: damaged, or no PyTorch checkpoint ({brief(error)}); copy it again"
        ) from error


def require_regular(path: Path, *, largest: int | None = None, named: str = "a file") -> int:
    """Refuse a path that is not a regular file, before it is opened: opening a pipe could wait forever.

    Args:
        path: The file.
        largest: The budget for its size, in bytes, from ``limits``; None: any size is accepted.
        named: What the message for a folder tells the user to name instead.

    Returns:
        The file's size, in bytes.

    Raises:
        FileFormatError: The path is a folder, a pipe, a socket or a device, or the file is too large; the message does
            not name the path.
        FileNotFoundError: The file does not exist.
        OSError: The file cannot be reached.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise FileFormatError(f"is a directory; name {named}")
    if not stat.S_ISREG(status.st_mode):
        raise FileFormatError("is no regular file but a pipe, socket or device; copy it to a file first")
    if largest is not None:
        require_within(status.st_size, largest, "has {} bytes")
    return status.st_size


def brief(error: BaseException) -> str:
    """An error's type and the beginning of its first line; PyTorch's messages have many lines."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {quote(first)}".removesuffix(": ")
