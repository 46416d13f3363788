"""A run ends when it should: with its result, or within seconds with one error, and never with anything left behind."""

import resformer.compiler.backends.lava  # noqa: F401 # First: since Python 3.11, Lava cannot be imported without it.

# isort: split

import contextlib
import errno
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lava.magma.core.process.process import ProcessServer
from lava.magma.core.process.variable import VarServer
from threadpoolctl import threadpool_info

from resformer.compiler.backends.lava.actors import Actor
from resformer.compiler.backends.lava.backend import LavaBackend
from resformer.compiler.backends.lava.processes.relay import PyRelayModel
from resformer.compiler.ir.program import Program
from resformer.errors import BackendFailedError
from support.program_builder import ProgramBuilder, endless_run

TESTS = Path(__file__).parents[4]
SECONDS = 10.0
"""Seconds in which a run that cannot go on must have ended."""
LOOKS = 3
"""How often a file must be seen unmapped: files that are being made or removed are unmapped for a moment."""


@pytest.fixture(scope="module")
def network() -> tuple[Program, np.ndarray]:
    return endless_run()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    files, state = _abandoned_files(), _state()
    yield
    assert not multiprocessing.active_children()
    assert _abandoned_files() <= files
    assert _state() == state


def _abandoned_files() -> set[str]:
    """Shared memory that no process maps any more; other programs may make, use and remove theirs as we look."""
    files = {str(path) for path in Path("/dev/shm").glob("*")}
    for _ in range(LOOKS):
        files = _unmapped(files)
        if not files:
            break
        time.sleep(0.1)
    return {path for path in files if Path(path).exists()}


def _unmapped(files: set[str]) -> set[str]:
    """The files that no process maps now."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            text = maps.read_text()
            files -= {path for path in files if path in text}
    return files


def _state() -> tuple[object, ...]:
    """The state of this process that a run changes while it lasts."""
    return (
        logging.getLogger().handlers[:],
        _blas_threads(),
        signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        resource.getrlimit(resource.RLIMIT_NOFILE),
        len(ProcessServer().processes),
        len(VarServer().vars),
        len(list(Path("/proc/self/fd").iterdir())),
    )


def _blas_threads() -> list[int]:
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


def child(name: str) -> Any:
    return next(each for each in multiprocessing.active_children() if each.name == name)


@pytest.mark.parametrize("name", ["layers.0.0.conv", "input", "output", "Lava's runtime service"])
def test_a_killed_process_ends_the_run(network: tuple[Program, np.ndarray], name: str) -> None:
    killed: list[float] = []

    def kill(done: int, _total: int) -> None:
        if done >= 3:
            os.kill(child(name).pid, signal.SIGKILL)
            killed.append(time.monotonic())

    with pytest.raises(BackendFailedError, match=rf"^{name}: it was killed by SIGKILL \(.*memory"):
        LavaBackend().run(*network, progress=kill)
    assert time.monotonic() - killed[0] < SECONDS


def test_an_exception_in_a_model_is_one_line(
    network: tuple[Program, np.ndarray], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run_spk = PyRelayModel.run_spk

    def broken(self: Any) -> None:
        if self.time_step == 5:
            raise ValueError("no such value")
        run_spk(self)

    monkeypatch.setattr(PyRelayModel, "run_spk", broken)
    with pytest.raises(BackendFailedError, match=r"^layers\.0\.0\.relay: ValueError: no such value;"):
        LavaBackend().run(*network)
    assert capfd.readouterr() == ("", "")


def test_a_model_that_cannot_be_built(
    network: tuple[Program, np.ndarray], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Any, proc_params: Any) -> None:
        raise MemoryError("nine lives")

    monkeypatch.setattr(PyRelayModel, "__init__", broken)
    with pytest.raises(BackendFailedError, match=r"^layers\.0\.0\.relay: MemoryError: nine lives;"):
        LavaBackend().run(*network)
    assert capfd.readouterr() == ("", "")


def test_a_process_that_exits_by_itself(network: tuple[Program, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PyRelayModel, "run_spk", lambda self: os._exit(3))
    with pytest.raises(BackendFailedError, match=r"^layers\.0\.0\.relay: it exited with status 3;"):
        LavaBackend().run(*network)


def test_a_system_that_refuses_a_process(network: tuple[Program, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    start = Actor.start

    def limited(self: Actor) -> None:
        if len(multiprocessing.active_children()) == 3:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        start(self)

    monkeypatch.setattr(Actor, "start", limited)
    with pytest.raises(BackendFailedError, match=r"refused one of Lava's 5 processes: .*unavailable.*ulimit -u"):
        LavaBackend().run(*network)


def test_a_low_limit_on_open_files_is_raised_for_the_run() -> None:
    limits, used = resource.getrlimit(resource.RLIMIT_NOFILE), len(list(Path("/proc/self/fd").iterdir()))
    net = ProgramBuilder((2, 3, 3))
    for index in range(8):
        net.conv(f"conv{index}", "input", 2)
    net.plus("add", *(f"conv{index}" for index in range(8)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, limits[1]))
    try:
        LavaBackend().run(net.finish(), net.samples(1))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (used + 10, limits[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("error", [ZeroDivisionError, BrokenPipeError])
def test_an_exception_in_progress_is_the_callers(network: tuple[Program, np.ndarray], error: type[Exception]) -> None:
    def broken(_done: int, _total: int) -> None:
        raise error

    with pytest.raises(error):
        LavaBackend().run(*network, progress=broken)


SCRIPT = """
import multiprocessing, sys
{before}
import numpy as np
from support.program_builder import ProgramBuilder
from resformer.compiler.backends.lava.backend import LavaBackend

net = ProgramBuilder((2, 3, 3))
net.relay("relay", net.conv("conv", "input", 2), limit=1000)
program = net.finish()

def tell(done, total):
    if done >= 2 and multiprocessing.active_children():
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)

trace = LavaBackend().run(program, np.broadcast_to(net.samples(1), ({samples}, 2, 3, 3)), record=True, progress=tell)
"""


def start(samples: int, *options: str, before: str = "") -> subprocess.Popen[str]:
    """A program that runs a network, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *options, "-c", SCRIPT.format(samples=samples, before=before)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=TESTS,
        start_new_session=True,
    )


def end_of(pids: list[int]) -> bool:
    """Wait until no process has any of these ids."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a process that is killed")
@pytest.mark.parametrize(
    "end", [lambda pid: os.killpg(pid, signal.SIGINT), lambda pid: os.kill(pid, signal.SIGKILL)], ids=["^C", "SIGKILL"]
)
def test_a_program_that_is_ended_leaves_no_orphans(end: Callable[[int], None]) -> None:
    program = start(100_000)
    assert program.stdout is not None
    pids = [int(pid) for pid in program.stdout.readline().split()]
    assert len(pids) == 6
    end(program.pid)
    _, errors = program.communicate(timeout=SECONDS)
    assert end_of(pids)
    if program.returncode != -signal.SIGKILL:
        assert errors.count("Traceback") == 1
        assert errors.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("before", ["", "multiprocessing.set_start_method('spawn')"], ids=["default", "spawn"])
def test_a_program_that_ends_says_nothing(before: str) -> None:
    program = start(3, "-W", "error::ResourceWarning", "-W", "default::UserWarning", before=before)
    _, errors = program.communicate(timeout=60)
    assert (program.returncode, errors) == (0, "")
