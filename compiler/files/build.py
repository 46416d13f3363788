"""Build folders: what ``resformer-compile`` leaves behind, whole or absent."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resformer.compiler.chips.chip import Chip
from resformer.compiler.files import report as build_report
from resformer.compiler.files.program import read_program, write_program
from resformer.compiler.ir.program import Program
from resformer.errors import FileFormatError

if TYPE_CHECKING:
    import nir
    import onnx

    from resformer.compiler.ir.graph import Graph
    from resformer.compiler.pipeline import Compilation, CompileOptions

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

TARGETS = ("lava", "sim", "onnx", "nir")
"""``lava``, ``sim``: all that running and verifying need, the same for both. ``onnx``: that and the ONNX models.
``nir``: the float graph and the quantized one, as NIR alone."""

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
    report: Mapping[str, Any]

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

    def program(self) -> Program:
        """Read the scheduled integer program.

        Raises:
            FileFormatError: The build has none, or it is damaged.
        """
        return read_program(self._existing(PROGRAM))

    def chip(self) -> Chip | None:
        """The chip that the program was placed on; None if it was not placed.

        Raises:
            FileFormatError: The file that tells is damaged.
        """
        path = self.directory / PLACEMENT
        try:
            return Chip.from_json(json.loads(path.read_text(encoding="utf-8"))["chip"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileFormatError(f"{path}: damaged ({error}); compile the model again") from error

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
            targets = ", ".join(map(str, self.report.get("targets", ())))
            raise FileFormatError(
                f"{self.directory}: holds no {name} (it was compiled for {targets}); compile with --target lava"
            )
        return path


def write_build(
    compilation: Compilation, directory: Path, targets: Sequence[str], options: CompileOptions
) -> tuple[Path, ...]:
    """Write a build folder; it appears complete or not at all, and replaces an older build in its place.

    Args:
        compilation: What was compiled.
        directory: The folder; folders above it are made.
        targets: Of :data:`TARGETS`.
        options: What the user chose.

    Returns:
        The files, as they are in the folder.

    Raises:
        FileFormatError: The path is taken by something that is no build.
        BackendMissingError: A target needs a package that is not installed.
        OSError: A file cannot be written.
    """
    check_replaceable(directory)
    writers: dict[str, Callable[[Path], None]] = {NETWORK: lambda path: _write_network(compilation, path)}
    if "nir" in targets:
        writers[QUANTIZED_NIR] = lambda path: _write_quantized_network(compilation, path)
    if set(targets) - {"nir"}:
        writers[PROGRAM] = lambda path: write_program(compilation.program, path)
        placement = compilation.placement
        if placement is not None:
            writers[PLACEMENT] = lambda path: _write_text(path, json.dumps(placement.to_json()) + "\n")
        if compilation.source.architecture is not None or compilation.source.module is not None:
            writers[QUANTIZED] = lambda path: _write_quantized(compilation, path)
    if "onnx" in targets:
        # the float model's neurons are SpikingJelly's, which fire at the threshold
        if compilation.source.architecture is not None:
            writers[FLOAT_ONNX] = lambda path: _write_float_onnx(compilation, path)
        writers[INTEGER_ONNX] = lambda path: _write_integer_onnx(compilation, path)
    report = build_report.describe(compilation, options, tuple(targets))
    writers[REPORT] = lambda path: _write_text(path, json.dumps(report, indent=2, allow_nan=False) + "\n")
    with _replacing(directory) as folder:
        for name, write in writers.items():
            _write(write, folder / name, directory / name)
    return tuple(directory / name for name in writers)


def read_build(directory: Path) -> Build:
    """Open a build folder.

    Raises:
        FileFormatError: It is no folder, no build of ours, one of another format version, or its report is damaged.
    """
    build = _recognized(directory)
    missing = build_report.missing_key(build.report)
    if missing is not None:
        raise FileFormatError(f"{directory / REPORT}: damaged ({missing!r} is missing); compile the model again")
    return build


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
        with _replacing(directory) as folder:
            for path in build.files:
                _write(partial(shutil.copyfile, path), folder / path.name, directory / path.name)
    return tuple(directory / path.name for path in build.files)


def _recognized(directory: Path) -> Build:
    """A build folder whose report may lack something: what may be replaced.

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
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileFormatError(
            f"{directory}: no build: it holds no {REPORT}; name a build that resformer-compile wrote"
        ) from None
    except ValueError as error:
        raise FileFormatError(f"{path}: damaged ({error}); compile the model again") from error
    if not isinstance(report, dict) or report.get("format") != build_report.FORMAT:
        raise FileFormatError(f"{path}: not the report of a build; name a build that resformer-compile wrote")
    if report.get("format_version") != build_report.FORMAT_VERSION:
        raise FileFormatError(
            f"{path}: format version {report.get('format_version')}, this resformer reads "
            f"{build_report.FORMAT_VERSION}; compile the model again"
        )
    return Build(directory, report)


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
def _replacing(directory: Path) -> Iterator[Path]:
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


def _write(write: Callable[[Path], None], path: Path, shown: Path) -> None:
    """Write one file, and see it onto the disk; errors name the file that was asked for, not the temporary one."""
    try:
        write(path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno or 0, error.strerror or str(error), str(shown)) from error


def _write_network(compilation: Compilation, path: Path) -> None:
    from resformer.compiler.files.nir import write_nir

    write_nir(compilation.network, path)


def _write_quantized_network(compilation: Compilation, path: Path) -> None:
    from resformer.compiler.export.nir import quantized_graph
    from resformer.compiler.files.nir import write_nir

    write_nir(quantized_graph(compilation.network, compilation.folded, compilation.quantized), path)


def _write_quantized(compilation: Compilation, path: Path) -> None:
    """Write the authors' format, with what their files leave out."""
    import torch

    from resformer.compiler.export.checkpoint import quantized_module_state, quantized_state

    source = compilation.source.module
    content = {
        "model": quantized_state(compilation.quantized)
        if source is None
        else quantized_module_state(
            compilation.quantized, compilation.folded, source.traced.graph, source.module.state_dict()
        ),
        "timesteps": compilation.program.timesteps,
        "image_size": compilation.source.image_size,
        "format": QUANTIZED_FORMAT,
        "format_version": build_report.FORMAT_VERSION,
    }
    # through memory: torch.save reports a full disk as an internal error
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getbuffer())


def _write_float_onnx(compilation: Compilation, path: Path) -> None:
    from resformer.compiler.export.onnx.float_model import export_float

    _write_onnx(export_float(compilation.folded), FLOAT_ONNX_FORMAT, path)


def _write_integer_onnx(compilation: Compilation, path: Path) -> None:
    from resformer.compiler.export.onnx.integer_model import export_integer

    _write_onnx(export_integer(compilation.program), INTEGER_ONNX_FORMAT, path)


def _write_onnx(model: onnx.ModelProto, kind: str, path: Path) -> None:
    for key, value in (("format", kind), ("format_version", str(build_report.FORMAT_VERSION))):
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
