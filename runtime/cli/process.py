"""The process that a command runs in: signals that end it, its standard streams, and warnings of libraries."""

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
"""After a signal to end: while what is to be tidied is tidied, further ones are not heard."""
IMPORT_SECONDS, LATER_SECONDS = 5.0, 0.02
"""How long a signal waits for an import to end, and between one look and the next."""
OUTPUT = "standard output"
_ENDING = threading.Event()
"""Set while a command tidies up that a signal asked to end."""


class Ended(KeyboardInterrupt):
    """A signal asked the process to end; wherever it is, it tidies up as after Ctrl-C.

    Args:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


class _Handler:
    """Raises :class:`Ended` in the main thread; while it imports a library, when that is done.

    Libraries in C++ call Python as they are imported, and some end the process by SIGABRT where that raises.

    Attributes:
        last: The signal that was raised last, or that still waits.
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
        """Let nothing come later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a call of Python's import machinery is under way."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP raise :class:`Ended` inside, where nobody has said what they do.

    One of several processes hears no SIGTERM any more behind it: it says first why it ends.

    Raises:
        Ended: One came. Whatever else it was turned into on the way, by a library that it found at work, is this.
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
    """Look after the other processes no longer than inside, and then heed SIGTERM as before."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        processes.stop()
        if main and before is not None:  # also where each does it alone: ended_by_signals cannot know
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def whole_process() -> Iterator[frozenset[str]]:
    """Let a command work in whatever process it finds itself in, and leave that as it was.

    What a stream's encoding lacks is printed as escapes. What is written to a closed stream is lost. Where all warnings
    are to be errors, as with ``PYTHONWARNINGS=error``, those of the libraries that we use still are none. Objects that
    a signal to end left half made, such as Lava's processes, say nothing when they are destroyed.

    Yields:
        The names of the standard streams that are closed.
    """
    escaped: list[tuple[io.TextIOWrapper, str]] = []
    closed = frozenset(name for name in ("stdout", "stderr") if getattr(sys, name) is None)
    with contextlib.ExitStack() as stack:
        for name in sorted(closed, reverse=True):
            # so that no file that is opened later gets the descriptor of a standard stream
            setattr(sys, name, stack.enter_context(Path(os.devnull).open("w", encoding="utf-8")))
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                escaped.append((stream, stream.errors))
                stream.reconfigure(errors="backslashreplace")
        stack.enter_context(warnings.catch_warnings())
        # of broken images, for which one line is enough
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
    """Leave out what destructors complain of once a signal to end was raised."""
    hear = sys.unraisablehook
    _ENDING.clear()
    sys.unraisablehook = lambda unraisable: None if _ENDING.is_set() else hear(unraisable)
    try:
        yield
    finally:
        if _ENDING.is_set():
            gc.collect()  # those that refer to each other, while nothing is heard
            _ENDING.clear()
        sys.unraisablehook = hear


@contextlib.contextmanager
def named_output() -> Iterator[None]:
    """Let errors in writing to standard output say so; a pipe that nobody reads any more stays ``BrokenPipeError``."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno or 0, error.strerror or str(error), OUTPUT) from error


def drop_output() -> None:
    """Forget what could not be written to standard output, so that Python does not try again at its end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
