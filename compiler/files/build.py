"""Build folders: which files they hold, how they are read, and how a folder is replaced as a whole."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from resformer.compiler.atomic import exchange, is_inside, named, reap, resolved, work_folder
from resformer.compiler.chips.chip import Chip
from resformer.compiler.files.digest import sha256
from resformer.compiler.files.json_schema import check, read_json, shown
from resformer.compiler.files.placement import PlacementFile
from resformer.compiler.files.program import read_program
from resformer.compiler.files.report import FORMAT, FORMAT_VERSION, NET_SUFFIX, Report, check_report
from resformer.compiler.ir.program import Scheduled
from resformer.errors import FileFormatError, InputError

if TYPE_CHECKING:
    import nir

    from resformer.compiler.ir.graph import Graph

NETWORK = "network.nir"
QUANTIZED_NIR = "quantized.nir"
PROGRAM = "program.safetensors"
QUANTIZED = "quantized.pt"
REPORT = "report.json"
PLACEMENT = "placement.json"
FLOAT_ONNX = "network.onnx"
INTEGER_ONNX = "program.onnx"
FILES = (NETWORK, QUANTIZED_NIR, PROGRAM, PLACEMENT, QUANTIZED, FLOAT_ONNX, INTEGER_ONNX, REPORT)
"""The files that a build may consist of; any other file in its folder is the user's."""
OLDER = "older"
"""The name, in a work folder, of the build that is being replaced; just before the exchange, of the new build."""

QUANTIZED_FORMAT = "resformer-quantized"
FLOAT_ONNX_FORMAT = "resformer-onnx"
INTEGER_ONNX_FORMAT = "resformer-onnx-integer"


@dataclass(frozen=True)
class Build:
    """A build folder.

    Attributes:
        directory: The folder.
        report: The content of ``report.json``.
    """

    directory: Path
    report: Report

    @property
    def from_nir(self) -> bool:
        """Whether the build was compiled from a NIR file or a netx network, and so has no quantized checkpoint."""
        return self.report["architecture"] is None and not self.from_module

    @property
    def from_net(self) -> bool:
        """Whether the build was compiled from a netx network, whose integers were taken as they are."""
        return self.from_nir and str(self.report["source"].get("file", "")).endswith(NET_SUFFIX)

    @property
    def from_module(self) -> bool:
        """Whether the build was compiled from a module in memory; only its class can load the quantized checkpoint."""
        return "module" in self.report["source"]

    @property
    def family(self) -> str | None:
        """The zoo family of the checkpoint that the build was compiled from; None for any other source."""
        net: Any = self.report["architecture"]
        return None if net is None else net.get("family")

    @property
    def files(self) -> tuple[Path, ...]:
        """The paths of the build's files that exist."""
        return tuple(self.directory / name for name in FILES if (self.directory / name).is_file())

    @property
    def quantized_path(self) -> Path:
        """The quantized network as a checkpoint."""
        return self._existing(QUANTIZED)

    @property
    def network_path(self) -> Path:
        """The folded float graph as a NIR file."""
        return self._existing(NETWORK)

    def program(self) -> Scheduled:
        """Read the scheduled integer program.

        Raises:
            FileFormatError: The build has no program, or the program is damaged.
        """
        path = self._existing(PROGRAM)
        program = read_program(path)
        if not isinstance(program, Scheduled):
            raise FileFormatError(f"{path}: has no schedule, so it is no build's program; compile the model again")
        unbounded = next((node.name for node in program if node.op.signal.bounds is None), None)
        if unbounded is not None:
            # number types are chosen by these bounds; read_program has compared them with what the weights allow
            raise FileFormatError(f"{path}: {unbounded} states no bounds; compile the model again")
        return program

    def chip(self) -> Chip | None:
        """The chip that the program was placed on; None if it was not placed.

        Raises:
            FileFormatError: ``placement.json`` is damaged.
        """
        path = self.directory / PLACEMENT
        placement = self.placement()
        if placement is None:
            return None
        try:
            return Chip.from_json(placement["chip"])
        except FileFormatError as error:
            raise _damaged(path, error) from error

    def placement(self) -> PlacementFile | None:
        """Which core holds which neurons; None if the program was not placed.

        Raises:
            FileFormatError: ``placement.json`` is damaged.
        """
        path = self.directory / PLACEMENT
        try:
            content = read_json(path)
            check(content, PlacementFile)
        except FileNotFoundError:
            return None
        except (ValueError, FileFormatError) as error:
            raise _damaged(path, error) from error
        return cast(PlacementFile, content)

    def network(self) -> Graph[nir.NIRNode]:
        """Read the folded float graph.

        Raises:
            FileFormatError: ``network.nir`` is absent or damaged.
        """
        from resformer.compiler.files.nir import read_nir

        return read_nir(self.network_path)

    def _existing(self, name: str) -> Path:
        path = self.directory / name
        if not path.is_file():
            targets = ", ".join(self.report["targets"])
            raise FileFormatError(
                f"{self.directory}: holds no {name} (it was compiled for {targets}); compile with --target lava"
            )
        return path


def read_build(directory: Path) -> Build:
    """Open a build folder.

    Raises:
        FileFormatError: The path is not a folder, the folder is not a build of resformer, or the report has another
            format version or is damaged.
    """
    content = _recognized(directory)
    try:
        return Build(directory, check_report(content))
    except FileFormatError as error:
        raise _damaged(directory / REPORT, error) from error


def _damaged(path: Path, error: Exception) -> FileFormatError:
    return FileFormatError(f"{path}: damaged ({error}); compile the model again")


def copy_build(build: Build, directory: Path) -> tuple[Path, ...]:
    """Copy a build's files to another folder, which appears complete or not at all and may replace an older build.

    Returns:
        The paths of the files in the other folder.

    Raises:
        FileFormatError: The path is taken by something that is not a build.
        OSError: A file cannot be read or written.
    """
    check_replaceable(directory)
    if not (directory.exists() and directory.samefile(build.directory)):
        with replacing(directory) as folder:
            for path in build.files:
                write_synced(partial(shutil.copyfile, path), folder / path.name, directory / path.name)
    return tuple(directory / path.name for path in build.files)


def _recognized(directory: Path) -> Mapping[str, object]:
    """The report of a build folder; only its format and its format version are checked.

    Raises:
        FileFormatError: The path is not a folder, the folder is not a build of resformer, or the report has another
            format version or is no JSON.
    """
    if not directory.is_dir():
        raise FileFormatError(
            f"{directory}: {'not a folder' if directory.exists() else 'no such folder'}; "
            "name a build that resformer-compile wrote"
        )
    path = directory / REPORT
    try:
        report = read_json(path)
    except FileNotFoundError:
        raise FileFormatError(
            f"{directory}: no build: it holds no {REPORT}; name a build that resformer-compile wrote"
        ) from None
    except ValueError as error:
        raise _damaged(path, error) from error
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise FileFormatError(f"{path}: not the report of a build; name a build that resformer-compile wrote")
    if report.get("format_version") != FORMAT_VERSION:
        raise FileFormatError(
            f"{path}: format version {shown(report.get('format_version'))}, this resformer reads "
            f"{FORMAT_VERSION}; compile the model again"
        )
    return report


def check_replaceable(directory: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse to write a build, before any work is done, to a path that holds anything but an older build.

    What a killed process left behind is cleaned up first. In an older build, files with names outside :data:`FILES` are
    the user's and stay. Files with names in :data:`FILES` are removed, so they must be unchanged since they were
    written.

    Args:
        directory: Where a build is to be written.
        inputs: Files that are read for the build; none of them may be in the folder.

    Raises:
        FileFormatError: The path is a file, a folder that is neither empty nor a build, or a build whose files were
            changed.
        InputError: An input is in the folder, or the folder is the current one.
        OSError: The folder cannot be written to.
    """
    place = resolved(directory)
    reap(place, partial(_settle, place))
    for path in inputs:
        if is_inside(path, directory):
            raise InputError(f"{path}: is in {directory}, which the build replaces; name another folder for the build")
    if directory.exists() and not directory.is_dir():
        raise FileFormatError(f"{directory}: is a file; name a folder for the build")
    if directory.exists() and directory.samefile(os.curdir):
        raise InputError(
            f"{directory}: is the current folder, which a build replaces; change to another, or name a folder in it"
        )
    for above in place.parents:
        if above.exists():
            _require_writable(above)
            break
    if not directory.exists() or not any(directory.iterdir()):
        return
    try:
        report = _recognized(directory)
    except FileFormatError as error:
        raise FileFormatError(
            f"{directory}: exists and is no build of this resformer, so it is left alone; "
            "name another folder, or remove it"
        ) from error
    _require_ours(directory, report)


def _require_writable(folder: Path) -> None:
    """Check that files can be created in a folder.

    Raises:
        OSError: They cannot be created there.
    """
    number = errno.ENOTDIR if not folder.is_dir() else 0 if os.access(folder, os.W_OK | os.X_OK) else errno.EACCES
    if number:
        raise OSError(number, os.strerror(number), str(folder))


def _require_ours(directory: Path, report: Mapping[str, object]) -> None:
    """Check that the files of an older build that a new build would remove are unchanged since they were written.

    Raises:
        FileFormatError: A file was changed, or is not a regular file.
    """
    recorded = report.get("files")
    for name in FILES:
        path = directory / name
        if not os.path.lexists(path):
            continue
        ours = stat.S_ISREG(path.lstat().st_mode)
        # a damaged report, or one of an earlier version, may hold no hashes
        if ours and name != REPORT and isinstance(recorded, dict):
            ours = recorded.get(name) == sha256(path)
        if not ours:
            raise FileFormatError(
                f"{path}: is not as resformer wrote it, so it is left alone; move it elsewhere, or name another folder"
            )


@contextlib.contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """A new folder, to be filled, that takes the place of ``directory`` at the end, or vanishes if anything fails.

    Where the system can do so, the two folders are exchanged in one step, so that a whole build is there at every
    moment. Files in the old folder that are not a build's move into the new one.

    Raises:
        FileFormatError: The old folder is not a build, or was changed.
        OSError: A file cannot be written or moved.
    """
    directory = resolved(directory)
    with work_folder(directory, partial(_settle, directory)) as work:
        new = work / f"{directory.name}.new"
        new.mkdir()
        yield new
        check_replaceable(directory)
        with named(directory):
            if directory.exists():
                shutil.copymode(directory, new)
                # if the process is killed, the build left in the work folder has this name, by which _settle finds it
                new.rename(work / OLDER)
                if exchange(work / OLDER, directory):
                    return
                (work / OLDER).rename(new)
                directory.rename(work / OLDER)
            new.rename(directory)


def _settle(directory: Path, work: Path) -> None:
    """Restore an older build if nothing has replaced it; otherwise restore only its files that are not a build's.

    A newer build that never took the older one's place holds no such files, and is removed.

    Args:
        directory: The build's folder.
        work: The work folder, which may hold the older build under the name :data:`OLDER`.

    Raises:
        OSError: A file cannot be moved; it is still in the work folder.
    """
    older = work / OLDER
    if not older.exists():
        return
    if not directory.exists():
        older.rename(directory)
        return
    for path in older.iterdir():
        if path.name in FILES:
            path.unlink()
        elif os.path.lexists(directory / path.name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(directory / path.name))
        else:
            path.rename(directory / path.name)
    older.rmdir()


def write_synced(write: Callable[[Path], None], path: Path, shown: Path) -> None:
    """Write one file to ``path`` and flush it to the disk; errors name ``shown``, the path that was asked for."""
    with named(shown):
        write(path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
