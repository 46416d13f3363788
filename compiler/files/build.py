"""Build folders: the files in one, reading them, and replacing a folder as a whole."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from resformer.compiler.chips.chip import Chip
from resformer.compiler.files.json_schema import check, read_json, shown
from resformer.compiler.files.placement import PlacementFile
from resformer.compiler.files.program import read_program
from resformer.compiler.files.report import FORMAT, FORMAT_VERSION, Report, check_report
from resformer.compiler.ir.program import Scheduled
from resformer.errors import FileFormatError

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
        """Whether it was compiled from a NIR file, and so has no quantized checkpoint."""
        return self.report["architecture"] is None and not self.from_module

    @property
    def from_module(self) -> bool:
        """Whether it was compiled from a module in memory, whose class alone can load the quantized checkpoint."""
        return "module" in self.report["source"]

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


def _recognized(directory: Path) -> object:
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


def check_replaceable(directory: Path) -> None:
    """Refuse to write where something other than a build stands, before any work is done.

    Raises:
        FileFormatError: The path is a file, or a folder that holds something but no build.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise FileFormatError(f"{directory}: is a file; name a folder for the build")
    if any(directory.iterdir()):
        try:
            _recognized(directory)
        except FileFormatError as error:
            raise FileFormatError(
                f"{directory}: exists and is no build of this resformer, so it is left alone; "
                "name another folder, or remove it"
            ) from error


@contextlib.contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """A new folder beside another, which takes its place at the end, or vanishes if anything fails."""
    directory = directory.resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    new, old = (directory.with_name(f".{directory.name}.{mark}.{state}") for state in ("new", "old"))
    try:
        new.mkdir()
        yield new
        if directory.exists():
            directory.rename(old)
        try:
            new.rename(directory)
        except BaseException:
            if old.exists() and not directory.exists():
                old.rename(directory)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_synced(write: Callable[[Path], None], path: Path, shown: Path) -> None:
    """Write one file, and see it onto the disk; errors name the file that was asked for, not the temporary one."""
    try:
        write(path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno or 0, error.strerror or str(error), str(shown)) from error
