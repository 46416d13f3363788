"""The table of backends, which run programs; a backend is imported only when it is opened."""

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
    """Where a backend's class is, and what a caller must know before using it.

    Attributes:
        module: The module that holds the class; it is imported when the backend is opened.
        class_name: The backend's class in that module; it is made with a device if ``has_devices``, otherwise without
            arguments.
        streams: Whether one run takes many samples in bounded memory; it should get many, as a run is slow to start.
        has_stock_models: Whether ``run`` takes ``stock_models``, which uses only the library's own process models.
        has_devices: Whether the class is made with a device, and ``run`` takes ``batch_size``, the number of samples
            that the device holds at once.
        has_self_check: Whether ``run`` takes ``self_check``, which checks every product of a run.
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
    """A backend's ``run`` with that backend's own options already chosen."""

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
    """A backend with its options; it is a :class:`Runner`.

    Attributes:
        backend: The backend that runs programs.
        options: Keyword arguments that are passed to each run.
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
        """Run batches of samples one after another; the memory that this takes does not depend on their number.

        Args:
            program: The scheduled program.
            batches: Arrays of samples, each as ``run`` takes them.
            at_once: The most samples that a batch may have.
            record: As in ``run``.

        Yields:
            Traces of the samples, in order; a trace may cover other samples than one batch does.
        """
        if hasattr(self.backend, "stream"):
            yield from self.backend.stream(program, batches, at_once=at_once, record=record, **self.options)
            return
        for batch in batches:
            yield self(program, batch, record=record)

    @property
    def notes(self) -> tuple[str, ...]:
        """The kernels that this machine could not use for the last program, and their replacements: a sentence each."""
        return tuple(getattr(self.backend, "notes", ()))


def open_backend(
    name: str,
    *,
    stock_models: bool = False,
    device: str = CPU,
    batch_size: int | None = None,
    self_check: bool = False,
) -> OpenBackend:
    """Import a backend and return it with its options, ready to run programs.

    Args:
        name: A key of :data:`BACKENDS`.
        stock_models: Use only the library's own process models, not our faster ones, which give the same results.
        device: The device to run on: "cpu", "cuda" or "cuda:N".
        batch_size: How many samples the device may hold at once; None: the backend chooses a fast number.
        self_check: Check every product of every run, which is slower.

    Raises:
        UnsupportedError: There is no backend of this name, or it has no stock models, devices or self-check.
        BackendMissingError: A package or a device that the backend needs is missing.
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
