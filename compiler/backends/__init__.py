"""The table of backends: what runs programs, each imported only when asked for."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from resformer.compiler.backends.base import StepProgress
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.trace import Trace
from resformer.errors import UnsupportedError

CPU = "cpu"


@dataclass(frozen=True)
class BackendEntry:
    """Where a backend is and what a caller must know before using it.

    Attributes:
        module: Imported when the backend is opened.
        class_name: The backend's class in it, made without arguments.
        streams: Whether samples stream through a network that is slow to start, so that one run of many pays.
        has_stock_models: Whether ``run`` takes ``stock_models``: the library's own process models only.
        has_devices: Whether the backend is made with a device, and ``run`` takes ``batch_size``: as many samples at a
            time as the device holds.
    """

    module: str
    class_name: str
    streams: bool = False
    has_stock_models: bool = False
    has_devices: bool = False


BACKENDS: Mapping[str, BackendEntry] = MappingProxyType(
    {
        "lava": BackendEntry(
            "resformer.compiler.backends.lava.backend", "LavaBackend", streams=True, has_stock_models=True
        ),
        "sim": BackendEntry("resformer.compiler.backends.sim.backend", "SimBackend", streams=True, has_devices=True),
        "onnx": BackendEntry("resformer.compiler.backends.onnx", "OnnxBackend", streams=True),
        "reference": BackendEntry("resformer.compiler.backends.reference", "ReferenceBackend"),
    }
)


class Runner(Protocol):
    """A backend's ``run``, its own options already chosen."""

    def __call__(
        self,
        program: Program,
        samples: npt.NDArray[np.int32],
        *,
        record: bool = False,
        progress: StepProgress | None = None,
    ) -> Trace:
        """Run samples through a scheduled program, as ``Backend.run`` does."""
        ...


def open_backend(name: str, *, stock_models: bool = False, device: str = CPU, batch_size: int | None = None) -> Runner:
    """Import a backend and return what runs programs on it.

    Args:
        name: A key of :data:`BACKENDS`.
        stock_models: Run the library's own process models only, rather than our faster ones with the same results.
        device: Where to run: "cpu", "cuda" or "cuda:N".
        batch_size: How many samples a device may hold at once; None: as many as are fast.

    Raises:
        UnsupportedError: There is no such backend, or it has no such models or devices.
        BackendMissingError: A package or a device that it needs is not there.
    """
    if name not in BACKENDS:
        raise UnsupportedError(f"backend {name!r} does not exist; choose {' or '.join(BACKENDS)}")
    entry = BACKENDS[name]
    if stock_models and not entry.has_stock_models:
        raise UnsupportedError(f"backend {name!r} has no stock models; leave --stock-models out")
    if device != CPU and not entry.has_devices:
        raise UnsupportedError(f"backend {name!r} runs on the CPU alone; leave --device out, or choose --backend sim")
    backend_class = getattr(importlib.import_module(entry.module), entry.class_name)
    run: Runner
    if entry.has_devices:
        run = functools.partial(backend_class(device).run, batch_size=batch_size)
    elif stock_models:
        run = functools.partial(backend_class().run, stock_models=True)
    else:
        run = backend_class().run
    return run
