"""Files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO


def is_stream(path: Path) -> bool:
    """Whether a path is a device or a pipe, such as ``/dev/stdout``, rather than a file that can be replaced."""
    return path.exists() and not path.is_file() and not path.is_dir()


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file, of bytes, that appears complete or not at all; a device or a pipe is written to as it is.

    Folders above it are made.

    Raises:
        OSError: It cannot be written.
    """
    if is_stream(path):
        # renaming would put a file in the place of /dev/null; and what is an archive wants to know where it is
        content = io.BytesIO()
        write(content)
        try:
            with path.open("wb") as file:
                file.write(content.getbuffer())
        except OSError as error:
            raise OSError(error.errno or 0, error.strerror or str(error), str(path)) from error
        return
    path = path.resolve()
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno or 0, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, likewise; what of a file's name was no text stays readable.

    Raises:
        OSError: It cannot be written.
    """
    data = text.encode("utf-8", "backslashreplace")
    write_atomically(path, lambda file: file.write(data))


def write_json(path: Path, content: object) -> None:
    """Write JSON for people to read as well, likewise.

    Raises:
        OSError: It cannot be written.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
