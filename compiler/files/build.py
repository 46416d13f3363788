"""Build folders: the files in one, reading them, and replacing a folder as a whole."""

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
"""All that a build may hold."""
OLDER = "older"
"""In a work folder: the build that is being replaced; before it is, the one that takes its place."""

QUANTIZED_FORMAT = "resformer-quantized"
FLOAT_ONNX_FORMAT = "resformer-onnx"
INTEGER_ONNX_FORMAT = "resformer-onnx-integer"


@dataclass(frozen=True)
class Build:
    """A build folder.

    Attributes:
        directory: Where it is.
        report: What ``report.json`` says.
    """

    directory: Path
    report: Report

    @property
    def from_nir(self) -> bool:
        """Whether it was compiled from a NIR file or a netx network, and so has no quantized checkpoint."""
        return self.report["architecture"] is None and not self.from_module

    @property
    def from_net(self) -> bool:
        """Whether it was compiled from a netx network, whose integers are its own."""
        return self.from_nir and str(self.report["source"].get("file", "")).endswith(NET_SUFFIX)

    @property
    def from_module(self) -> bool:
        """Whether it was compiled from a module in memory, whose class alone can load the quantized checkpoint."""
        return "module" in self.report["source"]

    @property
    def family(self) -> str | None:
        """Of which of the zoo's families the checkpoint was that it was compiled from; None of all else."""
        net: Any = self.report["architecture"]
        return None if net is None else net.get("family")

    @property
    def files(self) -> tuple[Path, ...]:
        """What it holds."""
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
            FileFormatError: The build has none, or it is damaged.
        """
        path = self._existing(PROGRAM)
        program = read_program(path)
        if not isinstance(program, Scheduled):
            raise FileFormatError(f"{path}: has no schedule, so it is no build's program; compile the model again")
        unbounded = next((node.name for node in program if node.op.signal.bounds is None), None)
        if unbounded is not None:
            # number types are chosen by bounds, which reading a program compares with what its weights allow
            raise FileFormatError(f"{path}: {unbounded} states no bounds; compile the model again")
        return program

    def chip(self) -> Chip | None:
        """The chip that the program was placed on; None if it was not placed.

        Raises:
            FileFormatError: The file that tells is damaged.
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
            FileFormatError: The file that tells is damaged.
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
            FileFormatError: It is absent or damaged.
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
        FileFormatError: It is no folder, no build of ours, one of another format version, or its report is damaged.
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
        The files, as they are in that folder.

    Raises:
        FileFormatError: The path is taken by something that is no build.
        OSError: A file cannot be read or written.
    """
    check_replaceable(directory)
    if not (directory.exists() and directory.samefile(build.directory)):
        with replacing(directory) as folder:
            for path in build.files:
                write_synced(partial(shutil.copyfile, path), folder / path.name, directory / path.name)
    return tuple(directory / path.name for path in build.files)


def _recognized(directory: Path) -> Mapping[str, object]:
    """The report of a build folder, which may lack something: the folder may be replaced.

    Raises:
        FileFormatError: It is no folder, no build of ours, or one of another format version.
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
    """Refuse to write where something other than a build stands, before any work is done.

    What a killed process left of an earlier try is put in order first. Files in a build that have other names than
    :data:`FILES` are the user's, and stay; those of these names go, so they must be as they were written.

    Args:
        directory: Where a build is to be written.
        inputs: What is read on the way, which must not be in the folder.

    Raises:
        FileFormatError: The path is a file, a folder that holds something but no build, or one whose files were
            changed.
        InputError: An input is in the folder, or it is the current one.
        OSError: It cannot be written to.
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
    """See that something can be made in a folder.

    Raises:
        OSError: It cannot.
    """
    number = errno.ENOTDIR if not folder.is_dir() else 0 if os.access(folder, os.W_OK | os.X_OK) else errno.EACCES
    if number:
        raise OSError(number, os.strerror(number), str(folder))


def _require_ours(directory: Path, report: Mapping[str, object]) -> None:
    """See that what a new build would remove of an older one is as it was written.

    Raises:
        FileFormatError: A file is not.
    """
    recorded = report.get("files")
    for name in FILES:
        path = directory / name
        if not os.path.lexists(path):
            continue
        ours = stat.S_ISREG(path.lstat().st_mode)
        # a damaged report, or one of an earlier version, does not tell
        if ours and name != REPORT and isinstance(recorded, dict):
            ours = recorded.get(name) == sha256(path)
        if not ours:
            raise FileFormatError(
                f"{path}: is not as resformer wrote it, so it is left alone; move it elsewhere, or name another folder"
            )


@contextlib.contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """A new folder beside another, which takes its place at the end, or vanishes if anything fails.

    Where the system can, the two take each other's place in one step, so that there is a whole build at every moment.
    What the other one holds besides a build's files moves into the new one.

    Raises:
        FileFormatError: The other one is no build, or was changed.
        OSError: Something cannot be written or moved.
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
                # whichever of the two is there when we are killed, it has this name, by which it is put in order
                new.rename(work / OLDER)
                if exchange(work / OLDER, directory):
                    return
                (work / OLDER).rename(new)
                directory.rename(work / OLDER)
            new.rename(directory)


def _settle(directory: Path, work: Path) -> None:
    """Bring back an older build that nothing has replaced; of one that was replaced, the files that are not a build's.

    A newer one that did not come to take the older one's place has none of these, and goes.

    Args:
        directory: The build's folder.
        work: Where the older one is, if anywhere.

    Raises:
        OSError: A file cannot be moved: all that remains is still in the work folder.
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
    """Write one file, and see it onto the disk; errors name the file that was asked for, not the temporary one."""
    with named(shown):
        write(path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
