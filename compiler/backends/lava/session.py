"""Runs a network of Lava processes from its first step to its last, and leaves nothing behind."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from lava.magma.core.process.message_interface_enum import ActorType
from lava.magma.core.process.process import AbstractProcess, ProcessServer
from lava.magma.core.process.variable import VarServer
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import RunConfig
from lava.magma.runtime.mgmt_token_enums import MGMT_RESPONSE, enum_equal
from lava.magma.runtime.runtime import Runtime, target_fn

from resformer.compiler.backends.base import StepProgress
from resformer.compiler.backends.lava.actors import Actors
from resformer.compiler.backends.lava.blas import one_thread_in_children
from resformer.compiler.backends.lava.build import CHANNEL_SIZE
from resformer.compiler.backends.lava.logs import unchanged_logging
from resformer.errors import BackendFailedError

POLL_SECONDS = 0.01
"""Seconds between two readings of the clock; the end of a process is noticed at once."""
FILES_PER_PROCESS = 4
"""Open files that each of Lava's processes takes in our process, with some to spare."""


def run_steps(
    root: AbstractProcess,
    steps: int,
    config: RunConfig,
    clock: npt.NDArray[np.int64],
    progress: StepProgress | None = None,
) -> None:
    """Compile the network that a process belongs to, run it for some steps, and end it.

    Args:
        root: Any process of the network. No process of the network may have run before.
        steps: The number of steps.
        config: Chooses the models to run.
        clock: (1,), shared: how many steps have passed.
        progress: Called with the steps that have passed and ``steps``.

    Raises:
        BackendFailedError: The system refused a process, or a process ended too early.
    """
    with open_session(root, config, clock) as session:
        session.run(steps, progress)


@contextmanager
def open_session(root: AbstractProcess, config: RunConfig, clock: npt.NDArray[np.int64]) -> Iterator[Session]:
    """Compile the network that a process belongs to and start it; when the ``with`` block ends, all processes end.

    Args:
        root: Any process of the network. No process of the network may have run before.
        config: Chooses the models to run.
        clock: (1,), shared: how many steps have passed.

    Raises:
        BackendFailedError: The system refused a process.
    """
    with unchanged_logging():
        executable = root.compile(config, {"pypy_channel_size": CHANNEL_SIZE})
    runtime = _SessionRuntime(executable, ActorType.MultiProcessing)
    try:
        runtime.initialize()
        yield Session(runtime, clock)
    finally:
        runtime.shut_down()


class Session:
    """A network whose processes have been started; each ``run`` goes on where the last one ended.

    Args:
        runtime: Lava's runtime, initialized.
        clock: (1,), shared: how many steps have passed.
    """

    def __init__(self, runtime: _SessionRuntime, clock: npt.NDArray[np.int64]) -> None:
        self._runtime, self._clock = runtime, clock

    def run(self, steps: int, progress: StepProgress | None = None) -> None:
        """Run the network for some steps.

        Args:
            steps: The number of steps.
            progress: Called with the clock's reading and ``steps``.

        Raises:
            BackendFailedError: A process ended too early.
        """
        self._runtime.start(RunSteps(steps, blocking=False))
        self._runtime.follow(steps, self._clock, progress)


@contextmanager
def forgotten_processes() -> Iterator[None]:
    """Let Lava forget the processes made inside, since otherwise it keeps every process, with all weights, for ever."""
    registries = (ProcessServer().processes, VarServer().vars)
    known = [len(registry) for registry in registries]
    try:
        yield
    finally:
        for registry, count in zip(registries, known, strict=True):
            del registry[count:]


class _SessionRuntime(Runtime):  # type: ignore[misc]
    """Lava's runtime over :class:`Actors`, which never waits for a process that has ended.

    Unlike Lava's own runtime, it does not wait until all processes are built: commands wait in their channels.
    """

    def _build_message_infrastructure(self) -> None:
        self._messaging_infrastructure = Actors()

    def _build_processes(self) -> None:
        for process, builder in self._executable.proc_builders.items():
            self._messaging_infrastructure.build_actor(target_fn, builder, process.name)

    def _build_runtime_services(self) -> None:
        for builder in self._executable.runtime_service_builders.values():
            self._messaging_infrastructure.build_actor(target_fn, builder, "Lava's runtime service")

    def initialize(self, node_cfg_idx: int = 0) -> None:
        """Start all processes.

        Raises:
            BackendFailedError: The system refused a process.
        """
        count = len(self._executable.proc_builders)
        try:
            with _open_files(FILES_PER_PROCESS * count), one_thread_in_children():
                super().initialize(node_cfg_idx)
        except OSError as error:
            raise BackendFailedError(
                f"the system refused one of Lava's {count} processes: {error}; "
                "free memory, or raise the limits on processes and open files (ulimit -u, ulimit -n)"
            ) from error

    def follow(self, steps: int, clock: npt.NDArray[np.int64], progress: StepProgress | None) -> None:
        """Wait for the last step, and report progress."""
        (service,) = self.service_to_runtime
        told = -1
        while not service.probe():
            self._messaging_infrastructure.wait(POLL_SECONDS)
            if progress is not None and clock[0] != told:
                told = int(clock[0])
                progress(told, steps)
        if not enum_equal(service.recv(), MGMT_RESPONSE.DONE):
            self._messaging_infrastructure.wait(None)
        if progress is not None and told != steps:
            progress(steps, steps)

    def shut_down(self) -> None:
        """End all processes; their results are already in shared memory."""
        # Otherwise Lava would ask each process to stop and wait for an answer, whenever it finds the runtime started.
        self._is_started = self._is_running = False
        if self._messaging_infrastructure is not None:
            self._messaging_infrastructure.stop()


@contextmanager
def _open_files(more: int) -> Iterator[None]:
    """Raise the soft limit on open files by ``more``, but not above the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        yield
        return
    wanted = soft + more if hard == resource.RLIM_INFINITY else min(soft + more, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
