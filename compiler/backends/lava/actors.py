"""The operating system's processes that run Lava's: none outlives our process, and each reports how it ended."""

from __future__ import annotations

import ctypes
import math
import os
import selectors
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkProcess

import numpy as np
from lava.magma.compiler.channels.interfaces import ChannelType
from lava.magma.runtime.message_infrastructure.message_infrastructure_interface import MessageInfrastructureInterface

from resformer.compiler.backends.lava.channels import SharedChannel
from resformer.compiler.backends.lava.shared import shared_array
from resformer.compiler.ir.arrays import require
from resformer.errors import BackendFailedError

MESSAGE_BYTES = 2000
"""Bytes of shared memory that an actor has for an exception's message."""
GRACE_SECONDS = 1.0
"""How long we search for the process that failed first, or wait for the status of one that was killed."""
LOOK_SECONDS = 1.0
"""Seconds between two searches for a stopped process."""
ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end one of Lava's processes, and with it the run."""
PR_SET_PDEATHSIG = 1
"""An option of ``prctl``, from Linux's ``sys/prctl.h``: the signal that a process gets when its parent ends."""


class Actor(ForkProcess):
    """A process of the operating system that runs one ProcessModel, or the service that steps all ProcessModels.

    Args:
        name: The name of the Lava process, or of the service.
        start_model: Lava's ``target_fn``, which builds the model and runs it.
        builder: Lava's builder of the model.
    """

    def __init__(self, name: str, start_model: Callable[..., None], builder: object) -> None:
        super().__init__(name=name, daemon=True)
        self._start_model = start_model
        self._builder = builder
        self._parent = os.getpid()
        self._message = shared_array((MESSAGE_BYTES,), np.uint8)

    def run(self) -> None:
        """Run the model; the child process calls this."""
        _die_with(self._parent)
        for number in ENDING:
            # a signal simply ends this process: the handlers that it inherited are meant for the parent
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        try:
            self._start_model(builder=self._builder, exception_q=self)
        except Exception as error:  # noqa: BLE001 # Whatever a model raises, the parent reports it in one line.
            text = f"{type(error).__name__}: {error}".encode()[:MESSAGE_BYTES]
            self._message[: len(text)] = np.frombuffer(text, np.uint8)
            sys.exit(1)

    def put(self, error: Exception | None) -> None:
        """Ignore Lava's report on building the model, which it puts into a queue: Lava raises the exception as well."""

    @property
    def end(self) -> str | None:
        """The error that ended the process: an exception, a status or a signal; None if it runs or ended well."""
        message = bytes(self._message).rstrip(b"\0").decode(errors="replace")
        if message:
            return message
        if self.exitcode is None or self.exitcode == 0:
            return None
        if self.exitcode > 0:
            return f"it exited with status {self.exitcode}"
        number = -self.exitcode
        reason = " (as the kernel does where memory runs out)" if number == signal.SIGKILL else ""
        return f"it was killed by {signal.Signals(number).name}{reason}"

    @property
    def stopped_by(self) -> int | None:
        """The signal that stopped the process; None if it is not stopped, or where the system cannot tell."""
        if self.pid is None or not hasattr(os, "waitid"):
            return None
        try:
            found = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None
        return None if found is None else found.si_status


class Actors(MessageInfrastructureInterface):  # type: ignore[misc]
    """All processes of one run; it takes the place of Lava's ``MultiProcessing``."""

    def __init__(self) -> None:
        self._actors: list[Actor] = []
        self._stopped: set[Actor] = set()
        self._looked = time.monotonic()
        self._ended = selectors.DefaultSelector()

    @property
    def actors(self) -> list[Actor]:
        """The processes started so far."""
        return self._actors

    def start(self) -> None:
        """Do nothing: Lava starts its memory manager here, and we have none."""

    def channel_class(self, channel_type: ChannelType) -> type[SharedChannel]:
        """The class of the channels between two processes in Python, the only kind that we have."""
        require(channel_type == ChannelType.PyPy, f"{channel_type} leaves the machine")
        return SharedChannel

    def build_actor(self, target_fn: Callable[..., None], builder: object, name: str = "") -> Actor:
        """Start a process.

        Raises:
            OSError: The system refuses another process.
        """
        actor = Actor(name, target_fn, builder)
        # Lava's processes end when we end them. The terminal sends a Ctrl-C to all of them, but only we act on it.
        with _blocked_signals(), warnings.catch_warnings():
            # Python 3.12 warns of a fork while we have threads; the child runs one thread, and Lava's models use none
            # of our threads.
            warnings.simplefilter("ignore", DeprecationWarning)
            actor.start()
            self._actors.append(actor)
            self._ended.register(actor.sentinel, selectors.EVENT_READ)
        return actor

    def wait(self, seconds: float | None) -> None:
        """Wait for ``seconds`` (None: for ever), and raise an error as soon as a process ends.

        Raises:
            BackendFailedError: A process ended before the run did, or it was stopped and stays stopped.
        """
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        while True:
            if self._ended.select(max(0.0, min(deadline - time.monotonic(), LOOK_SECONDS))):
                actor = self._culprit()
                raise BackendFailedError(
                    f"{actor.name}: {actor.end or 'it exited'}; its Lava process ended before the run"
                )
            self._look_for_stopped()
            if time.monotonic() >= deadline:
                return

    def _look_for_stopped(self) -> None:
        """Raise an error where a process is stopped, since all other processes wait for it.

        Raises:
            BackendFailedError: A process was found stopped by two searches in succession. One search is not enough:
                a Ctrl-Z stops us as well, and the others may go on a little later than we do.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        stopped = {actor: number for actor in self._actors if (number := actor.stopped_by) is not None}
        for actor, number in stopped.items():
            if actor in self._stopped:
                raise BackendFailedError(
                    f"{actor.name}: it was stopped by {signal.Signals(number).name}, and its Lava process does not go "
                    "on; run again, and let all processes run"
                )
        self._stopped = set(stopped)

    def _culprit(self) -> Actor:
        """The process that failed; it may become visible later than the processes that Lava stops because of it."""
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            for actor in self._actors:
                if actor.end is not None:
                    return actor
            time.sleep(0.01)
        return next(actor for actor in self._actors if not actor.is_alive())

    def stop(self) -> None:
        """Kill all processes and wait for the end of each; calling this method again does nothing."""
        with _blocked_signals():
            for actor in self._actors:
                actor.kill()
            for actor in self._actors:
                _join(actor)
                actor.close()
            self._actors.clear()
            self._ended.close()


def _join(actor: Actor) -> None:
    """Wait for a process that was killed to be gone."""
    actor.join()
    # Another thread, for example in multiprocessing.active_children(), may have read the status and not stored it yet.
    deadline = time.monotonic() + GRACE_SECONDS
    while actor.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.001)


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, for whatever reason."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block SIGINT and the signals of ``ENDING`` in this thread; processes started inside keep SIGINT blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *ENDING})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
