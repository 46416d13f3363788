"""Writing build folders, the output of ``resformer-compile``; each is complete or absent."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resformer.compiler.files.build import (
    FLOAT_ONNX,
    FLOAT_ONNX_FORMAT,
    INTEGER_ONNX,
    INTEGER_ONNX_FORMAT,
    NETWORK,
    PLACEMENT,
    PROGRAM,
    QUANTIZED,
    QUANTIZED_FORMAT,
    QUANTIZED_NIR,
    REPORT,
    check_replaceable,
    replacing,
    write_synced,
)
from resformer.compiler.files.digest import sha256
from resformer.compiler.files.program import write_program
from resformer.compiler.files.report import FORMAT_VERSION
from resformer.compiler.save.report import describe

if TYPE_CHECKING:
    import onnx

    from resformer.compiler.pipeline import Compilation, CompileOptions


def write_build(
    compilation: Compilation, directory: Path, targets: Sequence[str], options: CompileOptions
) -> tuple[Path, ...]:
    """Write a build folder; it appears complete or not at all, and replaces an older build in its place.

    Args:
        compilation: The result of compiling.
        directory: The folder; folders above it are made.
        targets: Some of ``resformer.compiler.files.report.TARGETS``.
        options: The user's choices.

    Returns:
        The paths of the files in the folder.

    Raises:
        FileFormatError: The path is taken by something that is no build, or by one that was changed.
        InputError: The file that was compiled lies in the folder.
        BackendMissingError: A target needs a package that is not installed.
        OSError: A file cannot be written.
    """
    check_replaceable(directory, filter(None, (compilation.source.path,)))
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
    report = describe(compilation, options, tuple(targets))
    writers[REPORT] = lambda path: _write_text(path, json.dumps(report, indent=2, allow_nan=False) + "\n")
    with replacing(directory) as folder:
        for name, write in writers.items():
            write_synced(write, folder / name, directory / name)
            if name != REPORT:
                report["files"][name] = sha256(folder / name)
    return tuple(directory / name for name in writers)


def _write_network(compilation: Compilation, path: Path) -> None:
    from resformer.compiler.files.nir import write_nir

    write_nir(compilation.network, path)


def _write_quantized_network(compilation: Compilation, path: Path) -> None:
    from resformer.compiler.export.nir import quantized_graph
    from resformer.compiler.files.nir import write_nir

    write_nir(quantized_graph(compilation.network, compilation.folded, compilation.quantized), path)


def _write_quantized(compilation: Compilation, path: Path) -> None:
    """Write a checkpoint in the authors' format, with what their own files leave out."""
    import torch

    from resformer.compiler.export.checkpoint import quantized_module_state, quantized_state
    from resformer.models.checkpoint import SETTINGS

    net, source = compilation.source.architecture, compilation.source.module
    content = {
        "model": quantized_state(
            compilation.quantized, neuron=None if net is None else net.neuron, patches=compilation.source.patches
        )
        if source is None
        else quantized_module_state(
            compilation.quantized, compilation.folded, source.traced.graph, source.module.state_dict()
        ),
        "timesteps": compilation.program.timesteps,
        "image_size": compilation.source.image_size,
        **({SETTINGS: dict(compilation.source.settings)} if compilation.source.settings else {}),
        "format": QUANTIZED_FORMAT,
        "format_version": FORMAT_VERSION,
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
    for key, value in (("format", kind), ("format_version", str(FORMAT_VERSION))):
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
