"""Runs each input in a process of its own, forked from one that has all modules, with limits of time and memory."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import math
import os
import resource
import select
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import resformer

HOME = Path(resformer.__file__).resolve().parents[2]


@dataclass(frozen=True)
class Limits:
    """What one input may use.

    Attributes:
        seconds: Processor time. The limit by the clock is ``PATIENCE`` times it, since other work may run meanwhile.
        memory: Bytes beyond those that the process had when it began.
        disk: Bytes of each file that it writes.
    """

    seconds: float = 20.0
    memory: int = 3 << 29
    disk: int = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """How one input ended.

    Attributes:
        statuses: Exit statuses of the commands that ran.
        failure: "", or what happened that must not happen, with our line of code where it happened.
        detail: The traceback, or what was printed.
        seconds: How long it took, by the clock.
        memory: The most bytes it had, beyond those at its beginning.
    """

    statuses: tuple[int, ...]
    failure: str
    detail: str
    seconds: float
    memory: int


class Wrong(Exception):  # noqa: N818
    """A command did what no command may do; the message says what."""


def run_apart(work: Callable[[], tuple[int, ...]], limits: Limits) -> Outcome:
    """Do work in a process of its own, and see how it ends.

    Args:
        work: Returns the statuses of the commands that it ran, or raises.
        limits: What it may use.
    """
    reading, writing = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _do(work, limits, writing)
    os.close(writing)
    told, in_time = _read(reading, PATIENCE * limits.seconds)
    os.close(reading)
    if not in_time:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    seconds = time.monotonic() - started
    # the child's first line: the bytes that it had when it began, which are its parent's
    began, _, rest = told.decode(errors="replace").partition("\n")
    memory = max(usage.ru_maxrss * 1024 - int(began), 0)
    statuses, failure, detail = _understood(rest, in_time, status)
    if not failure and memory > limits.memory:
        failure = f"took {memory >> 20:,} MiB"
    return Outcome(statuses, failure, detail, seconds, memory)


def run_command(main: Callable[[list[str]], int], *arguments: object) -> int:
    """Run a command as a shell would, and check its exit status and what it prints.

    Raises:
        Wrong: No command may end so or print this.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(each) for each in arguments])
    said = out.getvalue() + err.getvalue()
    if status not in (0, 1, 2):
        raise Wrong(f"exit status {status}")
    if "Traceback" in said:
        raise Wrong("prints a traceback")
    if "out of memory" in err.getvalue():
        raise Wrong("out of memory")
    if status and not said.strip():
        raise Wrong("fails without a word")
    if any(not (each.isprintable() or each in "\n\t") for each in said):
        raise Wrong("prints control characters")
    if status and max(map(len, err.getvalue().splitlines()), default=0) > LONGEST_LINE:
        raise Wrong("prints a line without end")
    return status


PATIENCE = 10
"""The limit of an input's time by the clock, in multiples of the limit of its processor time."""
LONGEST_LINE = 4_000
"""The most characters of a line that a failing command may print on standard error."""


def _do(work: Callable[[], tuple[int, ...]], limits: Limits, pipe: int) -> None:
    """What the forked process does; it never returns."""
    os.write(pipe, f"{_status('VmRSS')}\n".encode())
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.disk, limits.disk))
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + 4 * limits.memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    faulthandler.dump_traceback_later(0.9 * PATIENCE * limits.seconds, file=pipe)
    faulthandler.register(signal.SIGXCPU, file=pipe)
    processor = math.ceil(limits.seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (processor, processor + 2))
    # for output that bypasses Python's streams
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", category=RuntimeWarning, module="resformer")
            told = "done " + " ".join(map(str, work()))
    except Wrong as error:
        told = f"failed {error}\n"
    except BaseException as error:  # noqa: BLE001 - whatever it is
        with contextlib.suppress(BaseException):
            told = f"failed {type(error).__name__} at {_our_line(error)}\n{traceback.format_exc(limit=-12)}"
    faulthandler.cancel_dump_traceback_later()
    with contextlib.suppress(BaseException):
        os.write(pipe, told.encode(errors="replace")[:60_000])
    os._exit(0)


def _our_line(error: BaseException) -> str:
    """The innermost line of this project's own code that an error went through."""
    found = "?"
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename).resolve()
        if path.is_relative_to(HOME) and "tests" not in path.parts and ".venv" not in path.parts:
            found = f"{path.relative_to(HOME)}:{line}"
    return found


def _read(pipe: int, seconds: float) -> tuple[bytes, bool]:
    """All that the other end writes, and whether it closed in time."""
    told, ends = b"", time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        ready, _, _ = select.select([pipe], [], [], left)
        if ready:
            piece = os.read(pipe, 65536)
            if not piece:
                return told, True
            told += piece
    return told, False


def _understood(told: str, in_time: bool, status: int) -> tuple[tuple[int, ...], str, str]:
    if told.startswith("done"):
        return tuple(map(int, told.split()[1:])), "", ""
    if not in_time or "most recent call first" in told:
        places = [line.strip() for line in told.splitlines() if str(HOME) in line and "tests" not in line]
        return (), f"hangs at {places[0].split(HOME.name)[-1] if places else '?'}", told
    if told.startswith("failed"):
        first, _, rest = told.partition("\n")
        return (), first.removeprefix("failed "), rest
    return (), f"died: {os.waitstatus_to_exitcode(status)}", told


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder for one input, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as made:
        yield Path(made)
