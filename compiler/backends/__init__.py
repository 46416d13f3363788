"""The table of backends: what runs programs, each imported only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from resformer.compiler.backends.base import StepProgress
from resformer.compiler.ir.program import Scheduled
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
        has_self_check: Whether ``run`` takes ``self_check``: every product of a run is checked.
    """

    module: str
    class_name: str
    streams: bool = False
    has_stock_models: bool = False
    has_devices: bool = False
    has_self_check: bool = False


BACKENDS: Mapping[str, BackendEntry] = MappingProxyType(
    {
        "lava": BackendEntry(
            "resformer.compiler.backends.lava.backend", "LavaBackend", streams=True, has_stock_models=True
        ),
        "sim": BackendEntry(
            "resformer.compiler.backends.sim.backend",
            "SimBackend",
            streams=True,
            has_devices=True,
            has_self_check=True,
        ),
        "onnx": BackendEntry("resformer.compiler.backends.onnx", "OnnxBackend", streams=True),
        "reference": BackendEntry("resformer.compiler.backends.reference", "ReferenceBackend"),
    }
)


class Runner(Protocol):
    """A backend's ``run``, its own options already chosen."""

    def __call__(
        self,
        program: Scheduled,
        samples: npt.NDArray[np.int32],
        *,
        record: bool = False,
        progress: StepProgress | None = None,
    ) -> Trace:
        """Run samples through a scheduled program, as ``Backend.run`` does."""
        ...


@dataclass(frozen=True)
class OpenBackend:
    """A backend with its options: a :class:`Runner`.

    Attributes:
        backend: What runs.
        options: Keywords that each run gets.
    """

    backend: Any
    options: Mapping[str, object] = field(default_factory=dict)

    def __call__(
        self,
        program: Scheduled,
        samples: npt.NDArray[np.int32],
        *,
        record: bool = False,
        progress: StepProgress | None = None,
    ) -> Trace:
        """Run samples through a scheduled program, as ``Backend.run`` does."""
        said: dict[str, object] = {"record": record} if progress is None else {"record": record, "progress": progress}
        trace: Trace = self.backend.run(program, samples, **said, **self.options)
        return trace

    def stream(
        self, program: Scheduled, batches: Iterable[npt.NDArray[np.int32]], *, at_once: int, record: bool = False
    ) -> Iterator[Trace]:
        """Run batches of samples that follow one another; memory does not depend on how many there are.

        Args:
            program: Scheduled.
            batches: As ``run`` takes samples.
            at_once: The most samples that a batch may have.
            record: As ``run`` takes it.

        Yields:
            What the samples left, in their order, though not batch by batch.
        """
        if hasattr(self.backend, "stream"):
            yield from self.backend.stream(program, batches, at_once=at_once, record=record, **self.options)
            return
        for batch in batches:
            yield self(program, batch, record=record)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the runs so far found of this machine, a sentence each: kernels that it computes wrongly."""
        return tuple(getattr(self.backend, "notes", ()))


def open_backend(
    name: str,
    *,
    stock_models: bool = False,
    device: str = CPU,
    batch_size: int | None = None,
    self_check: bool = False,
) -> OpenBackend:
    """Import a backend and return what runs programs on it.

    Args:
        name: A key of :data:`BACKENDS`.
        stock_models: Run the library's own process models only, rather than our faster ones with the same results.
        device: Where to run: "cpu", "cuda" or "cuda:N".
        batch_size: How many samples a device may hold at once; None: as many as are fast.
        self_check: Check every product of every run; slower.

    Raises:
        UnsupportedError: There is no such backend, or it has no such models, devices or checks.
        BackendMissingError: A package or a device that it needs is not there.
    """
    if name not in BACKENDS:
        raise UnsupportedError(f"backend {name!r} does not exist; choose {' or '.join(BACKENDS)}")
    entry = BACKENDS[name]
    if stock_models and not entry.has_stock_models:
        raise UnsupportedError(f"backend {name!r} has no stock models; leave --stock-models out")
    if device != CPU and not entry.has_devices:
        raise UnsupportedError(f"backend {name!r} runs on the CPU alone; leave --device out, or choose --backend sim")
    if self_check and not entry.has_self_check:
        raise UnsupportedError(f"backend {name!r} cannot check itself; leave --self-check out, or choose --backend sim")
    backend_class = getattr(importlib.import_module(entry.module), entry.class_name)
    options: dict[str, object] = {}
    if entry.has_devices:
        options["batch_size"] = batch_size
    if stock_models:
        options["stock_models"] = True
    if self_check:
        options["self_check"] = True
    return OpenBackend(backend_class(device) if entry.has_devices else backend_class(), options)
