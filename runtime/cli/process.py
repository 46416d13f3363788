"""The process that a command runs in: signals that end it, its standard streams, and libraries' warnings."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from resformer.runtime.run.processes import Processes, from_environment

AGAIN_SECONDS = 2.0
"""How long further signals are ignored after a signal that ends the command, while the command tidies up."""
IMPORT_SECONDS, LATER_SECONDS = 5.0, 0.02
"""How long a signal waits for an import to end, and how long it waits between two looks."""
OUTPUT = "standard output"
_ENDING = threading.Event()
"""Set while a command tidies up because a signal ended it."""


class Ended(KeyboardInterrupt):
    """A signal asked the process to end; the process tidies up as after Ctrl-C.

    Args:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


class _Handler:
    """A signal handler that raises :class:`Ended` in the main thread; during an import, it waits for the import to end.

    Libraries in C++ call Python while they are imported, and some abort the process (SIGABRT) if that call raises. The
    wait is at most ``IMPORT_SECONDS``.

    Attributes:
        last: The number of the last signal that was raised or still waits; None if there was none.
    """

    def __init__(self) -> None:
        self.last: int | None = None
        self._since = -AGAIN_SECONDS
        self._asked: float | None = None
        self._timer: threading.Timer | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._since < AGAIN_SECONDS:
            return
        self.last = number
        self._asked = now if self._asked is None else self._asked
        if now - self._asked < IMPORT_SECONDS and _is_importing(frame):
            self._timer = threading.Timer(LATER_SECONDS, signal.raise_signal, (number,))
            self._timer.daemon = True
            self._timer.start()
            return
        self._since, self._asked = now, None
        _ENDING.set()
        raise Ended(number)

    def stop(self) -> None:
        """Cancel a signal that still waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a frame, or one that called it, belongs to Python's import machinery."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Make SIGINT, SIGTERM and SIGHUP raise :class:`Ended` inside, where their default handlers are still set.

    If several processes share the work, SIGTERM is ignored afterwards, so that this process can say why it ends.

    Raises:
        Ended: A signal came. If a library turned it into another exception, ``Ended`` replaces that exception.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = _Handler()
    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            before[number] = signal.signal(number, handler)
    try:
        yield
        if handler.last is not None:
            raise Ended(handler.last)
    except Exception as error:
        if handler.last is None:
            raise
        raise Ended(handler.last) from error
    finally:
        try:
            handler.stop()
        finally:
            deaf = from_environment().count > 1
            for number, old in before.items():
                signal.signal(number, signal.SIG_IGN if deaf and number == signal.SIGTERM else old)


@contextlib.contextmanager
def together(processes: Processes) -> Iterator[None]:
    """Stop watching the other processes at the end, and restore the handler of SIGTERM."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        processes.stop()
        if main and before is not None:  # also if each process works alone, which ended_by_signals cannot know
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def whole_process() -> Iterator[frozenset[str]]:
    """Let a command work in any process, and restore the process's streams and warnings at the end.

    Characters that a stream's encoding lacks are printed as escapes. What is written to a closed stream is lost. If all
    warnings are errors, as with ``PYTHONWARNINGS=error``, those of the libraries that we use are ignored instead.
    Objects that a signal left half made, such as Lava's processes, print nothing when they are destroyed.

    Yields:
        The names of the standard streams that are closed.
    """
    escaped: list[tuple[io.TextIOWrapper, str]] = []
    closed = frozenset(name for name in ("stdout", "stderr") if getattr(sys, name) is None)
    with contextlib.ExitStack() as stack:
        for name in sorted(closed, reverse=True):
            # so that no file opened later gets the descriptor of a standard stream
            setattr(sys, name, stack.enter_context(Path(os.devnull).open("w", encoding="utf-8")))
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                escaped.append((stream, stream.errors))
                stream.reconfigure(errors="backslashreplace")
        stack.enter_context(warnings.catch_warnings())
        # Pillow warns about broken images, which we report in one line
        warnings.filterwarnings("ignore", module=r"PIL\.")
        stack.enter_context(_half_made_unheard())
        if any(option.partition(":")[0] == "error" for option in sys.warnoptions):
            for action, message, category, module, line in list(warnings.filters):
                if action == "error" and module is None and message is None and not line:
                    warnings.simplefilter("ignore", category)
        try:
            yield closed
        finally:
            for stream, errors in escaped:
                with contextlib.suppress(OSError, ValueError):
                    stream.reconfigure(errors=errors)
            for name in closed:
                setattr(sys, name, None)


@contextlib.contextmanager
def _half_made_unheard() -> Iterator[None]:
    """Suppress errors in destructors (``sys.unraisablehook``) once a signal has ended the command."""
    hear = sys.unraisablehook
    _ENDING.clear()
    sys.unraisablehook = lambda unraisable: None if _ENDING.is_set() else hear(unraisable)
    try:
        yield
    finally:
        if _ENDING.is_set():
            gc.collect()  # destroy objects in reference cycles while errors are still suppressed
            _ENDING.clear()
        sys.unraisablehook = hear


@contextlib.contextmanager
def named_output() -> Iterator[None]:
    """Name standard output in errors of writing to it; a closed pipe stays ``BrokenPipeError``."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno or 0, error.strerror or str(error), OUTPUT) from error


def drop_output() -> None:
    """Discard what could not be written to standard output, so that Python does not try again when it exits."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
