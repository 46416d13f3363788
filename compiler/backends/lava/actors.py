"""The operating system's processes behind Lava's: none outlives us, and each tells how it ended."""

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
"""Room for an exception's message."""
GRACE_SECONDS = 1.0
"""How long we look for the process that is to blame."""
LOOK_SECONDS = 1.0
"""Between two looks for a stopped process."""
ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a process of Lava's, and so the run."""
PR_SET_PDEATHSIG = 1
"""From Linux's ``sys/prctl.h``."""


class Actor(ForkProcess):
    """One process of Lava's: a ProcessModel or the service that steps them.

    Args:
        name: The node's, or what else it is.
        start_model: Lava's ``target_fn``: builds the model and runs it.
        builder: What makes the model.
    """

    def __init__(self, name: str, start_model: Callable[..., None], builder: object) -> None:
        super().__init__(name=name, daemon=True)
        self._start_model = start_model
        self._builder = builder
        self._parent = os.getpid()
        self._message = shared_array((MESSAGE_BYTES,), np.uint8)

    def run(self) -> None:
        """What the child does."""
        _die_with(self._parent)
        for number in ENDING:
            # the parent's handlers are the parent's; this process just ends
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        try:
            self._start_model(builder=self._builder, exception_q=self)
        except Exception as error:  # noqa: BLE001 # Whatever a model raises, the parent reports it in one line.
            text = f"{type(error).__name__}: {error}".encode()[:MESSAGE_BYTES]
            self._message[: len(text)] = np.frombuffer(text, np.uint8)
            sys.exit(1)

    def put(self, error: Exception | None) -> None:
        """Lava's report on how building the model went, as to a queue; an exception is raised as well."""

    @property
    def end(self) -> str | None:
        """How it ended in an error: an exception, a signal; None if it runs or ended as it should."""
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
        """The signal that stopped it; None while it runs, or where the system does not tell."""
        if self.pid is None or not hasattr(os, "waitid"):
            return None
        try:
            found = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None
        return None if found is None else found.si_status


class Actors(MessageInfrastructureInterface):  # type: ignore[misc]
    """All processes of one run, in the place of Lava's ``MultiProcessing``."""

    def __init__(self) -> None:
        self._actors: list[Actor] = []
        self._stopped: set[Actor] = set()
        self._looked = time.monotonic()
        self._ended = selectors.DefaultSelector()

    @property
    def actors(self) -> list[Actor]:
        """Those started so far."""
        return self._actors

    def start(self) -> None:
        """Lava starts its memory manager here; we have none."""

    def channel_class(self, channel_type: ChannelType) -> type[SharedChannel]:
        """The channel between two processes in Python; there are no others."""
        require(channel_type == ChannelType.PyPy, f"{channel_type} leaves the machine")
        return SharedChannel

    def build_actor(self, target_fn: Callable[..., None], builder: object, name: str = "") -> Actor:
        """Start a process.

        Raises:
            OSError: The system refuses another.
        """
        actor = Actor(name, target_fn, builder)
        # Lava's processes stop when we stop them: a Ctrl-C, which the terminal sends to all, is for us alone.
        with _blocked_signals(), warnings.catch_warnings():
            # Python 3.12 warns where we have threads; the child runs one thread, and Lava's models know none of ours.
            warnings.simplefilter("ignore", DeprecationWarning)
            actor.start()
            self._actors.append(actor)
            self._ended.register(actor.sentinel, selectors.EVENT_READ)
        return actor

    def wait(self, seconds: float | None) -> None:
        """Let time pass (None: for ever), up to the end of any process.

        Raises:
            BackendFailedError: One has ended, and should not have, or was stopped and stays so.
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
        """Refuse to wait for a process that is stopped, since all others wait for it.

        Raises:
            BackendFailedError: One was stopped at two looks in succession. After a Ctrl-Z, which stops us as well,
                one look may still find them stopped, since they go on a little later than we do.
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
        """The process that ended first; those that Lava stops because of it may be seen before it."""
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            for actor in self._actors:
                if actor.end is not None:
                    return actor
            time.sleep(0.01)
        return next(actor for actor in self._actors if not actor.is_alive())

    def stop(self) -> None:
        """Kill what is still there, and wait for the end of each; calling it again does nothing."""
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
    # Another thread, in multiprocessing.active_children() say, may have taken its status and not noted it yet.
    deadline = time.monotonic() + GRACE_SECONDS
    while actor.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.001)


def _die_with(parent: int) -> None:
    """Let the kernel kill us when our parent ends, whatever ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Hold signals to end back from this thread, and SIGINT for ever from processes that it starts here."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *ENDING})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
