"""The boundary at which a stranger's file is read: whatever goes wrong behind it is one error that names the file."""

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

# So many since the libraries behind a boundary are many, and none says what it raises: h5py, nir (which asserts, and
# looks up attributes and keys that a file names), NumPy (which parses headers as Python), zip archives and the ways to
# compress them. Whoever gives a damaged file is told which one and what to do, and finds what was raised as the cause.
# It is not Exception: a NameError or an ImportError is a mistake of ours whatever the file, and passes.
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
"""What libraries raise at a damaged file. RecursionError and NotImplementedError are RuntimeErrors, KeyError and
IndexError are LookupErrors, OverflowError is an ArithmeticError, and errors of Unicode are ValueErrors."""


@contextlib.contextmanager
def boundary(path: str | Path, remedy: str, *, what: str = "damaged") -> Iterator[None]:
    """Turn what a damaged file causes into an error that names it.

    Errors of ours other than those of a file's format say already what is wrong, and pass.

    Args:
        path: The file.
        remedy: What to do about it, for the end of the message.
        what: What it is then, in a word or two.

    Raises:
        FileFormatError: Reading failed.
        FileNotFoundError: There is no such file; it can have several meanings, which the reader knows.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except FileFormatError as error:
        named = f"{printable(str(path))}: "
        # a boundary further in has named it
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
    """Name the file in every error of ours that reading and recognising a checkpoint raises.

    Whatever else is raised there is taken for damage: PyTorch's kinds of errors are not a list that could be closed.

    Raises:
        FileFormatError: The checkpoint cannot be read or recognised.
        ResformerError: Of the kind that was raised.
    """
    try:
        yield
    except ResformerError as error:
        raise type(error)(f"{printable(str(path))}: {error}") from error
    except Exception as error:  # of PyTorch, on tensors that no check foresaw
        raise FileFormatError(
            f"{printable(str(path))}: damaged, or no PyTorch checkpoint ({brief(error)}); copy it again"
        ) from error


def require_regular(path: Path, *, largest: int | None = None, named: str = "a file") -> int:
    """Refuse what is no plain file, before it is opened: a pipe would be waited for without end.

    Args:
        path: The file.
        largest: The budget of its size, in bytes; None: it has none.
        named: What to name instead of a folder.

    Returns:
        Its size, in bytes.

    Raises:
        FileFormatError: It is a folder, a pipe, a socket or a device, or too large; the message does not name it.
        FileNotFoundError: There is none.
        OSError: It cannot be reached.
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
    """An error's kind and the beginning of its first line: PyTorch's errors go on for many."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {quote(first)}".removesuffix(": ")
