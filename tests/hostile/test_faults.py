"""Machines that fail: the command prints one line, ends with status 1 or 2, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import gc
import importlib
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

import resformer.compiler.backends.lava  # noqa: F401 # First: since Python 3.11, Lava cannot be imported without it.
from hostile.kill_rounds import Rounds
from resformer.compiler.backends.lava import channels
from resformer.compiler.backends.lava.backend import LavaBackend
from resformer.compiler.files.build import check_replaceable
from resformer.compiler.ir.program import Program
from resformer.compiler.save import build as save
from resformer.errors import BackendFailedError
from resformer.runtime.cli import entry, process
from resformer.runtime.cli.compile import main as compile_main
from resformer.runtime.cli.process import Ended, ended_by_signals
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.terminal import Parser, run_command
from support.builds import Tiny
from support.program_builder import endless_run

Capture = pytest.CaptureFixture[str]
NAMED_SECONDS = 5.0
"""Seconds within which a process that does not go on is named."""
MAIN = "import sys; from resformer.runtime.cli.{} import main; sys.exit(main())"


@pytest.fixture(scope="module")
def network() -> tuple[Program, np.ndarray]:
    return endless_run()


@pytest.mark.parametrize("name", ["layers.0.0.relay", "Lava's runtime service"])
@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGSTOP, "it was stopped by SIGSTOP, and its Lava process does not go on"),
        (signal.SIGTERM, "it was killed by SIGTERM; its Lava process ended before the run"),
    ],
)
def test_a_lava_process_that_does_not_go_on_is_named(
    network: tuple[Program, np.ndarray], name: str, number: signal.Signals, says: str
) -> None:
    hurt: list[float] = []

    def hurt_it(done: int, _total: int) -> None:
        if done >= 3 and not hurt:
            (child,) = (each for each in multiprocessing.active_children() if each.name == name)
            assert child.pid is not None
            os.kill(child.pid, number)
            hurt.append(time.monotonic())

    with pytest.raises(BackendFailedError, match=f"^{name}: {says}"):
        LavaBackend().run(*network, progress=hurt_it)
    assert time.monotonic() - hurt[0] < NAMED_SECONDS
    assert not multiprocessing.active_children()


def test_a_lava_process_that_was_stopped_for_a_moment_goes_on(network: tuple[Program, np.ndarray]) -> None:
    """Ctrl-Z stops all processes of a command so."""
    program, samples = network
    stopped: list[Any] = []

    def stop(done: int, _total: int) -> None:
        if done >= 3 and not stopped:
            stopped.extend(multiprocessing.active_children())
            for child in stopped:
                os.kill(child.pid, signal.SIGSTOP)
            time.sleep(1.5)
            for child in stopped:
                os.kill(child.pid, signal.SIGCONT)

    LavaBackend().run(program, samples[:20], progress=stop)
    assert len(stopped) > 3


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), PermissionError(13, "no"), ImportError("sem")])
def test_no_shared_memory_for_lava(
    network: tuple[Program, np.ndarray], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(_value: int) -> None:
        raise error

    monkeypatch.setattr(channels.FORK, "Semaphore", refuse)
    with pytest.raises(BackendFailedError, match=r"no shared memory for a semaphore.*mount /dev/shm.*--backend sim"):
        LavaBackend().run(*network)
    assert not multiprocessing.active_children()


def command(name: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command as a shell runs it."""
    environment = {**os.environ, **options.pop("environment", {})}
    return subprocess.run(
        [sys.executable, "-c", MAIN.format(name), *map(str, arguments)],
        check=False,
        text=True,
        timeout=120,
        env=environment,
        **{"stderr": subprocess.PIPE, **({} if "stdout" in options else {"stdout": subprocess.PIPE}), **options},
    )


def closed_output() -> None:
    os.close(1)


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))


@pytest.mark.parametrize(
    ("prepare", "backend", "says"),
    [
        (closed_output, "reference", "standard output: is closed"),
        (few_files, "lava", "raise the limits on processes and open files"),
        (small_files, "reference", "o.npz: File too large"),
    ],
)
def test_a_machine_that_refuses(
    tiny: Tiny, tmp_path: Path, prepare: Callable[[], None], backend: str, says: str
) -> None:
    output = tmp_path / "o.npz"
    arguments = (tiny.build, "--input", tiny.images, "--samples", "2", "--backend", backend, "-o", output)
    done = command("run", *arguments, preexec_fn=prepare)
    assert done.returncode == 1
    assert (done.stdout, done.stderr.count("\n")) == ("", 1), done.stderr
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_device(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    given = (tiny.build, "--input", tiny.images, "--backend", "reference")
    assert run_main([*map(str, given), "-o", "/dev/full"]) == 1
    assert capsys.readouterr() == ("", "resformer-run: error: /dev/full: No space left on device\n")
    with Path("/dev/full").open("w") as full:
        done = command("run", *given, "-o", tmp_path / "o.npz", stdout=full)
    assert (done.returncode, done.stderr) == (1, "resformer-run: error: standard output: No space left on device\n")


def test_a_reader_that_has_had_enough(tiny: Tiny) -> None:
    read, write = os.pipe()
    os.close(read)
    done = command("run", tiny.build, "--input", tiny.images, "--backend", "reference", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_pipe_for_a_result_that_nobody_reads(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    def fail(*_arguments: object) -> int:
        raise BrokenPipeError(32, "Broken pipe", "/x/pipe")

    assert run_command(Parser(prog="prog"), [], fail) == 1
    assert capsys.readouterr() == ("", "prog: error: /x/pipe: Broken pipe\n")


def test_names_that_a_terminal_cannot_show_and_warnings_that_are_errors(tiny: Tiny, tmp_path: Path) -> None:
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = {**locale, "PYTHONIOENCODING": "ascii:strict", "PYTHONWARNINGS": "error"}
    folder = tmp_path / "caf\u00e9 \u795e\u7d4c"
    folder.mkdir()
    model = folder / "r\u00e9seau.pt"
    model.write_bytes(tiny.model.read_bytes())
    build = folder / "b\u00e2ti"
    arguments = (model, "--target", "lava", "-o", build, *tiny.arguments)
    done = command("compile", *arguments, environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "network.nir" in done.stdout
    done = command("compile", model.with_name("ausgel\u00f6scht.pt"), *arguments[1:], environment=environment)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_a_folder_that_may_not_be_written_to_is_refused_before_the_work(
    tiny: Tiny, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # os.access is replaced, since no folder refuses root, and containers run as root
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    monkeypatch.setattr("resformer.runtime.compiled.compile_network", lambda *_: pytest.fail("work was begun"))
    build = tmp_path / "none" / "b"
    assert compile_main([str(tiny.model), "--target", "lava", "-o", str(build), *tiny.arguments]) == 1
    assert capsys.readouterr() == ("", f"resformer-compile: error: {tmp_path}: Permission denied\n")
    with pytest.raises(PermissionError):
        check_replaceable(tmp_path / "b")


@pytest.fixture
def heeds_hangups() -> Iterator[None]:
    """Let SIGHUP have its effect, also where nohup started these tests and it would be ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heeds_hangups")
@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated"), (signal.SIGHUP, "interrupted")]
)
def test_a_signal_to_end_leaves_nothing(
    tiny: Tiny, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, word: str
) -> None:
    def fail(_program: Any, path: Path) -> None:
        path.write_bytes(b"half of it")
        os.kill(os.getpid(), number)
        time.sleep(10)

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.setattr(save, "write_program", fail)
    status = compile_main([str(tiny.model), "--target", "lava", "-o", str(tmp_path / "b"), *tiny.arguments])
    assert status == 128 + number
    assert capsys.readouterr() == ("", f"resformer-compile: error: {word}\n")
    assert list(tmp_path.iterdir()) == []
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_signal_that_a_library_turns_into_something_else_still_ends() -> None:
    def swallowed() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except KeyboardInterrupt:
            raise ImportError("a library's own words") from None

    def ignored() -> None:
        with contextlib.suppress(ImportError):
            swallowed()

    for call in (swallowed, ignored):
        with pytest.raises(Ended, match="SIGTERM"), ended_by_signals():
            call()


@pytest.mark.parametrize("command", ["compile", "run", "verify", "report"])
def test_ctrl_c_before_a_command_looks_after_signals_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, command: str
) -> None:
    begin = getattr(entry, f"{command}_command")
    monkeypatch.setattr(sys, "argv", [f"resformer-{command}", "--version"])
    assert begin() == 0
    capsys.readouterr()

    def interrupted(_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry.importlib, "import_module", interrupted)
    assert begin() == 128 + signal.SIGINT
    assert capsys.readouterr() == ("", f"resformer-{command}: error: interrupted\n")


class HalfMade:
    """Like a process of Lava's that a signal interrupts in its constructor: its destructor needs what is still missing.

    Args:
        number: The signal that comes; None: no signal comes.
        itself: Whether it refers to itself, so that only the collector destroys it.
    """

    def __init__(self, number: int | None, *, itself: bool) -> None:
        self.itself = self if itself else None
        if number is not None:
            os.kill(os.getpid(), number)
            time.sleep(1)

    def __del__(self) -> None:
        self.stop()  # type: ignore[attr-defined]


@pytest.mark.parametrize("itself", [False, True])
def test_objects_that_a_signal_left_half_made_say_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, *, itself: bool
) -> None:
    heard: list[object] = []

    def hear(unraisable: Any) -> None:
        heard.append(unraisable.exc_type)

    def make(number: int | None) -> int:
        HalfMade(number, itself=itself)
        gc.collect()
        return 0

    monkeypatch.setattr(sys, "unraisablehook", hear)
    parser = Parser(prog="it")
    assert run_command(parser, [], lambda _: make(signal.SIGINT)) == 128 + signal.SIGINT
    assert capsys.readouterr() == ("", "it: error: interrupted\n")
    assert heard == []
    assert sys.unraisablehook is hear
    assert run_command(parser, [], lambda _: make(None)) == 0
    assert heard == [AttributeError]


def test_a_second_signal_does_not_disturb_the_tidying() -> None:
    tidied = []

    def end_twice() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            tidied.append(True)

    with pytest.raises(Ended), ended_by_signals():
        end_twice()
    assert tidied


def test_signals_that_are_to_be_ignored_are_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_waits_for_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A C++ library that calls Python while it is imported ends the process by SIGABRT if Python raises an error."""
    name = f"slow_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text("import signal\nsignal.raise_signal(signal.SIGTERM)\nwhole = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def import_and_work() -> None:
        importlib.import_module(name)
        time.sleep(5)
        pytest.fail("the signal was lost")

    with pytest.raises(Ended, match="SIGTERM"), ended_by_signals():
        import_and_work()
    assert sys.modules[name].whole
    # the signal is not lost either where nothing follows the import
    with pytest.raises(Ended, match="SIGTERM"), ended_by_signals():
        importlib.reload(sys.modules[name])
    assert signal.getsignal(signal.SIGTERM) is before
    time.sleep(0.1)


def test_an_import_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"endless_{os.getpid()}"
    text = "import signal, time\nsignal.raise_signal(signal.SIGTERM)\nwhile True:\n    time.sleep(0.01)\n"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(process, "IMPORT_SECONDS", 0.2)
    with pytest.raises(Ended, match="SIGTERM"), ended_by_signals():
        importlib.import_module(name)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a process that is killed")
@pytest.mark.parametrize(("name", "number"), [("run", signal.SIGKILL), ("compile", signal.SIGTERM)])
def test_a_killed_command_leaves_nothing(tiny: Tiny, tmp_path: Path, name: str, number: signal.Signals) -> None:
    """Runs one round of ``make kill-rounds``, and checks that it would find damage."""
    (tmp_path / "out").mkdir()
    (tiny.copied_build(tmp_path / "out") / "notes.txt").write_text("the user's")
    rounds = Rounds(tmp_path, tiny.model, tiny.images, tiny.arguments)
    rounds.round(name, number, 1.5, group=False)
    assert rounds.failures == []
    assert rounds.table.total() == 1
    (rounds.build / "report.json").write_text("damaged")
    assert [*rounds.damage()] != []
