"""resformer: a neuromorphic deployment compiler for spiking neural networks.

compiled = resformer.compile("model.pt", output="build")  # or a .nir file, or a module and an example
compiled = resformer.load("build", model="model.pt")
print(compiled.verify("images.npy", samples=4).equivalent)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from resformer._loading import end_at_interrupt as _end_at_interrupt

_end_at_interrupt()  # before anything that takes time

from resformer import errors  # noqa: E402
from resformer._version import __version__  # noqa: E402
from resformer.compiler.ir import ported as _ported  # noqa: E402, F401  (registers our nodes with NIR)
from resformer.errors import (  # noqa: E402
    BackendFailedError,
    BackendMissingError,
    CapacityError,
    FileFormatError,
    InputError,
    RangeError,
    ResformerError,
    ResformerWarning,
    UnsupportedError,
)

if TYPE_CHECKING:
    from resformer import quantize
    from resformer.compiler.pipeline import CompileOptions
    from resformer.runtime.compiled import Compiled, compile, load  # noqa: A004
    from resformer.runtime.run.recorded import load_spikes

__all__ = [
    "BackendFailedError",
    "BackendMissingError",
    "CapacityError",
    "CompileOptions",
    "Compiled",
    "FileFormatError",
    "InputError",
    "RangeError",
    "ResformerError",
    "ResformerWarning",
    "UnsupportedError",
    "__version__",
    "compile",
    "errors",
    "load",
    "load_spikes",
    "quantize",
]

_LATE = {
    "CompileOptions": "resformer.compiler.pipeline",
    "Compiled": "resformer.runtime.compiled",
    "compile": "resformer.runtime.compiled",
    "load": "resformer.runtime.compiled",
    "load_spikes": "resformer.runtime.run.recorded",
}
"""Where names live that are imported when they are first used: PyTorch takes seconds to load."""


def __getattr__(name: str) -> Any:
    """What is imported when it is first used."""
    if name == "quantize":
        return importlib.import_module("resformer.quantize")
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
