"""Files and folders that appear complete or not at all, and the removal of what killed processes left behind."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import json
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

if sys.platform != "win32":  # there, work folders of killed processes stay
    import fcntl

OWNER = "resformer-at-work"
"""The file in each work folder that the folder's process keeps locked; the system unlocks it when the process ends."""
TEMPORARY = "resformer"
"""The fixed part of the names of temporary folders, after a dot and before random letters."""
RENAME_EXCHANGE = 2
"""Linux's flag of ``renameat2`` by which two paths take each other's place."""
AT_FDCWD = -100
"""Linux's descriptor of the current folder, for paths that name no other."""
TRIES = 100
"""Attempts to make a work folder: another process may take a new folder for abandoned and remove it."""
OWNED = b"A folder that resformer works in; it can be removed once that process has ended.\n"


def is_stream(path: Path) -> bool:
    """Whether a path is a device or a pipe, such as ``/dev/stdout``, rather than a file that can be replaced."""
    return path.exists() and not path.is_file() and not path.is_dir()


def resolved(path: Path) -> Path:
    """The absolute path without links; the file or folder at its end need not exist.

    Raises:
        OSError: Its links lead in circles, or it is no path.
    """
    try:
        os.stat(path)  # noqa: PTH116 # pathlib says nothing of circles from Python 3.13 on
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise
    except ValueError as error:  # it holds a NUL
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path)) from error
    return path.resolve()


def is_inside(path: Path, directory: Path) -> bool:
    """Whether a path is a directory or lies in it: by its name, by where its links lead, or as a hard link."""
    if not directory.is_dir():
        return False
    lexically = Path(os.path.abspath(path))  # noqa: PTH100 # resolve() would follow links
    for each in (lexically, *lexically.parents, *resolved(path).parents):
        if each.exists() and directory.samefile(each):
            return True
    if not path.is_file() or path.stat().st_nlink == 1:
        return False
    found = path.stat()
    return any(
        os.path.samestat(found, each.stat())
        for each in directory.rglob("*")
        if each.is_file() and not each.is_symlink()
    )


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file of bytes that appears complete or not at all; a device or a pipe is written to directly.

    Folders above it are made.

    Raises:
        OSError: It cannot be written.
    """
    if is_stream(path):
        # renaming would put a file in the place of /dev/null; and writers of archives ask a file for its position
        content = io.BytesIO()
        write(content)
        with named(path), path.open("wb") as file:
            file.write(content.getbuffer())
        return
    path = resolved(path)
    with named(path), work_folder(path) as folder:
        partial = folder / "content"
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, as :func:`write_atomically` does; bytes of a file's name that are no text are escaped.

    Raises:
        OSError: It cannot be written.
    """
    data = text.encode("utf-8", "backslashreplace")
    write_atomically(path, lambda file: file.write(data))


def write_json(path: Path, content: object) -> None:
    """Write JSON that people can read as well, as :func:`write_atomically` does.

    Raises:
        OSError: It cannot be written.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Let errors name the file that was asked for, not a temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno or 0, error.strerror or str(error), str(path)) from error


def _nothing(folder: Path) -> None:
    """Rescue nothing, since nothing of the user's is ever in the folder."""


@contextlib.contextmanager
def work_folder(path: Path, rescue: Callable[[Path], None] = _nothing) -> Iterator[Path]:
    """A hidden folder beside a path, for content that will take the path's place; it is removed at the end in any case.

    Folders above the path are made. Work folders for the same path that killed processes left behind are removed first.

    Args:
        path: The path, resolved.
        rescue: Called with a work folder before it is removed, to move out of it what must not be lost. If it raises
            ``OSError``, the folder stays.

    Raises:
        OSError: The folder cannot be made, or something could not be moved out of it.
    """
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        reap(path, rescue)
        folder, owner = _make(path)
    try:
        yield folder
    finally:
        try:
            _remove(folder, rescue)
        finally:
            os.close(owner)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder among the system's temporary files; those that killed processes left behind are removed first.

    Raises:
        OSError: It cannot be made.
    """
    with work_folder(Path(tempfile.gettempdir()).resolve() / TEMPORARY) as folder:
        yield folder


def exchange(path: Path, other: Path) -> bool:
    """Let two files or folders take each other's place, such that at no moment either place is empty.

    Returns:
        Whether they were exchanged: False where the system or file system cannot, or where one of them does not exist.
    """
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    # os.rename raises this event, so audit hooks that watch renaming learn of the exchange as well
    sys.audit("os.rename", path, other, -1, -1)
    done: int = rename(AT_FDCWD, os.fsencode(path), AT_FDCWD, os.fsencode(other), ctypes.c_uint(RENAME_EXCHANGE))
    return done == 0


def _make(path: Path) -> tuple[Path, int]:
    """Make a work folder for a path.

    Returns:
        The folder, and the descriptor of the locked file in it.

    Raises:
        OSError: It cannot be made.
    """
    for _ in range(TRIES):
        folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
        owner = -1
        try:
            folder.mkdir(0o700)
            # until it is locked and marked, another process may take it for abandoned
            owner = os.open(folder / OWNER, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            _lock(owner)
            os.write(owner, OWNED)
            if (folder / OWNER).exists():
                return folder, owner
            os.close(owner)
        except BaseException as error:
            if owner >= 0:
                os.close(owner)
            _remove(folder, _nothing)
            if not isinstance(error, FileNotFoundError):
                raise
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def reap(path: Path, rescue: Callable[[Path], None]) -> None:
    """Remove a path's work folders whose processes are dead; a folder that is not certainly one of them stays.

    Args:
        path: The path, as given to :func:`work_folder`.
        rescue: The callback, as given to :func:`work_folder`.

    Raises:
        OSError: The folder that the path is in cannot be read.
    """
    if sys.platform == "win32" or not path.parent.is_dir():
        return
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.new")
    with os.scandir(path.parent) as entries:
        found = [Path(entry.path) for entry in entries if pattern.fullmatch(entry.name) and not entry.is_symlink()]
    for folder in found:
        with contextlib.suppress(OSError):
            # an empty folder's process was killed while it made or removed the folder
            folder.rmdir()
        with contextlib.suppress(OSError):
            owner = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if _lock(owner, wait=False) and _is_ours(folder, os.read(owner, len(OWNED) + 1)):
                    _remove(folder, rescue)
            finally:
                os.close(owner)


def _is_ours(folder: Path, mark: bytes) -> bool:
    """Whether a folder belongs to this user and holds our mark, or nothing but the beginning of one.

    The owner is checked because, where everybody may write, a folder of that name may be somebody else's.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return False
    return mark == OWNED or (OWNED.startswith(mark) and [each.name for each in folder.iterdir()] == [OWNER])


def _lock(descriptor: int, *, wait: bool = True) -> bool:
    """Lock a file until its descriptor is closed, here and in processes forked from us.

    Returns:
        Whether it is locked: False where another process has locked it, or where the system has no such locks.
    """
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _remove(folder: Path, rescue: Callable[[Path], None]) -> None:
    """Remove a work folder, its mark last, once what must not be lost has been moved out of it."""
    if not folder.exists():
        return
    rescue(folder)
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != OWNER:
                entry.unlink()
        (folder / OWNER).unlink(missing_ok=True)
        folder.rmdir()
