"""resformer: a neuromorphic deployment compiler for SpikingResformer."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from resformer.compiler.ir import primitives as primitives  # registers our nodes with NIR

if TYPE_CHECKING:
    import torch

    from resformer.compiler.pipeline import CompileOptions
    from resformer.runtime.compiled import CompiledModule

__version__ = "0.1.0"


def compile(  # noqa: A001
    module: torch.nn.Module,
    example_input: torch.Tensor,
    target: str | Sequence[str] = "lava",
    *,
    output: str | Path | None = None,
    options: CompileOptions | None = None,
) -> CompiledModule:
    """Compile a SpikingJelly module in memory (``resformer.runtime.compiled.compile_module``)."""
    # PyTorch takes seconds to load
    from resformer.runtime.compiled import compile_module

    return compile_module(module, example_input, target=target, output=output, options=options)


def __getattr__(name: str) -> ModuleType:
    """``resformer.quantize``, which brings SpikingJelly in, where it is first used."""
    if name == "quantize":
        return importlib.import_module("resformer.quantize")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
