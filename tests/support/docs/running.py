"""Runs the blocks of pages as their readers would, each page in a folder of its own.

Our commands are run in forks of a process that has loaded the libraries, which saves the seconds that loading takes
each time. What a page shows below a command must be printed by it, line by line; ``…`` stands for anything.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import multiprocessing.connection
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

from support.docs.blocks import ROOT, WRITTEN, Block, blocks, name_of
from support.docs.inputs import BUILD, FOLDERS, prepare

SECONDS = 900
"""Seconds within which a command must end, also on a busy machine."""
WIDTH = "120"
"""Columns of the terminal that commands print to."""
OURS: Mapping[str, str] = MappingProxyType(
    {f"resformer-{name}": f"resformer.runtime.cli.{name}" for name in ("compile", "run", "verify", "report")}
)
"""The module of each of our commands."""
SHELL = re.compile(r"[|<>&;$`*]")
"""Characters that only a shell can interpret."""
FORKS = multiprocessing.get_context("fork")


class BlockFailedError(Exception):
    """A block did not do what its page says."""


@dataclass
class Tally:
    """What became of the blocks.

    Attributes:
        run: The number of blocks that ran.
        commands: The number of commands in those blocks.
        lines: The number of lines that pages show and commands printed.
        skipped: The place and the reason of each block that is marked as not run.
        failures: A message for each block that failed.
        seconds: Processor time of all blocks.
    """

    run: int = 0
    commands: int = 0
    lines: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        """Add another tally's counts."""
        self.run += other.run
        self.commands += other.commands
        self.lines += other.lines
        self.skipped += other.skipped
        self.failures += other.failures
        self.seconds += other.seconds


def same_line(shown: str, printed: str) -> bool:
    """Whether a line that a page shows equals a printed one, but for blanks and what ``…`` stands for."""
    pattern = r"\s+".join(".*".join(map(re.escape, word.split("…"))) for word in shown.split())
    return re.fullmatch(pattern, " ".join(printed.split())) is not None


def missing_line(shown: Sequence[str], printed: str) -> str | None:
    """The first line that a page shows and that was not printed, in this order."""
    lines = iter(printed.splitlines())
    for wanted in shown:
        if wanted.strip() in ("", "…"):
            continue
        if not any(same_line(wanted, line) for line in lines):
            return wanted
    return None


def run_pages(
    paths: Sequence[Path], build: Path, jobs: int, *, languages: frozenset[str], tell: Callable[[str], None]
) -> Tally:
    """Run the blocks of pages.

    Args:
        paths: The pages.
        build: A build of ``model.pt``.
        jobs: The number of pages that run at a time.
        languages: Languages of the blocks to run; all others are passed over.
        tell: Called with a line for each page that ran, and one for each failure.
    """
    tally = Tally()
    waiting = list(paths)
    running: list[tuple[Any, Connection, Path, float]] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            here, there = FORKS.Pipe()
            page = waiting.pop(0)
            process = FORKS.Process(target=_page_apart, args=(page, build, languages, there))
            process.start()
            there.close()
            running.append((process, here, page, time.monotonic()))
        ready = multiprocessing.connection.wait([each[1] for each in running])
        for each in [each for each in running if each[1] in ready]:
            process, connection, page, since = each
            try:
                result: Tally = connection.recv()
            except EOFError:
                result = Tally(failures=[f"{name_of(page)}: its process ended with {process.exitcode}"])
            process.join()
            tally.add(result)
            running.remove(each)
            if result.run or result.failures:
                ran = f"{result.run} blocks ran, {len(result.failures)} failed"
                tell(f"{name_of(page)}: {ran}, {time.monotonic() - since:.0f} s ({result.seconds:.0f} s of a core)")
                for failure in result.failures:
                    tell(f"FAILED {failure}")
    return tally


def _page_apart(page: Path, build: Path, languages: frozenset[str], results: Connection) -> None:
    tally = run_page(page, build, languages=languages)
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        tally.seconds += used.ru_utime + used.ru_stime
    results.send(tally)


def run_page(page: Path, build: Path, *, languages: frozenset[str]) -> Tally:
    """Run a page's blocks in order, in a folder of its own, up to the first that fails."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="docs-") as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        for name in FOLDERS:
            (folder / name).symlink_to(ROOT / name)
        python = stack.enter_context(_python(folder))
        for block in blocks(page):
            if block.reason is not None and block.language in languages:
                tally.skipped.append((block.where, block.reason))
            elif block.title is not None and block.language in WRITTEN:
                path = folder / block.title
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text, encoding="utf-8")
            elif block.runs and block.language in languages:
                try:
                    prepare(folder, block.text, build)
                    if block.language == "python":
                        python(block)
                    else:
                        _console(block, folder, tally)
                except BlockFailedError as error:
                    tally.failures.append(f"{block.where}: {error}")
                    return tally
                tally.run += 1
    return tally


def _console(block: Block, folder: Path, tally: Tally) -> None:
    *before, last = block.commands
    for command in (*before, last):
        printed, status = run_command(command.text, folder)
        wanted = block.status if command is last else 0
        if status != wanted:
            raise BlockFailedError(f"$ {command.text}\nended with {status}, not {wanted}, and said\n{printed}")
        missing = missing_line(command.shown, printed)
        if missing is not None:
            raise BlockFailedError(f"$ {command.text}\ndid not print\n{missing}\nbut\n{printed}")
        tally.commands += 1
        tally.lines += sum(line.strip() not in ("", "…") for line in command.shown)


def run_command(text: str, folder: Path) -> tuple[str, int]:
    """Run what a reader types; returns what it printed on both streams, and its status."""
    words = shlex.split(text, comments=True)
    if words[0] in OURS and not SHELL.search(text.partition(" #")[0]):
        return _in_fork(folder, lambda: _main_of(words))
    environment = os.environ | {
        "COLUMNS": WIDTH,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), os.environ.get("PYTHONPATH", ""))),
    }
    with tempfile.TemporaryFile("w+b") as printed:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        printed.seek(0)
        return printed.read().decode(), status


def _main_of(words: list[str]) -> int:
    import importlib

    sys.argv = words
    status: int = importlib.import_module(OURS[words[0]]).main(words[1:])
    return status


def _in_fork(folder: Path, work: Callable[[], int]) -> tuple[str, int]:
    """Do something in a process of its own; returns what it printed on both streams, and its status."""
    with tempfile.TemporaryFile("w+b") as printed:

        def apart() -> None:
            os.chdir(folder)
            os.environ["COLUMNS"] = WIDTH
            sys.path.insert(0, "")
            for stream in (1, 2):
                os.dup2(printed.fileno(), stream)
            sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), line_buffering=True)
            sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), line_buffering=True)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                sys.exit(work())
            except Exception:  # noqa: BLE001 (the process says what it was, and ends)
                traceback.print_exc()
                sys.exit(70)

        process = FORKS.Process(target=apart)
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.terminate()
            process.join()
        printed.seek(0)
        return printed.read().decode(), int(process.exitcode or 0)


@contextlib.contextmanager
def _python(folder: Path) -> Iterator[Callable[[Block], None]]:
    """A function that runs a page's Python blocks, all in one process, which starts with the first block."""
    here, there = FORKS.Pipe()
    process = FORKS.Process(target=_session, args=(folder, there))

    def run(block: Block) -> None:
        if process.pid is None:
            process.start()
            there.close()
        here.send(block)
        if not here.poll(SECONDS):
            raise BlockFailedError(f"did not end within {SECONDS} seconds")
        try:
            failure = here.recv()
        except EOFError:
            failure = f"the process ended with {process.exitcode}"
        if failure is not None:
            raise BlockFailedError(failure)

    try:
        yield run
    finally:
        here.close()
        if process.pid is not None:
            process.terminate()
            process.join()


def _session(folder: Path, blocks_in: Connection) -> None:
    os.chdir(folder)
    sys.path.insert(0, "")
    os.environ["COLUMNS"] = WIDTH
    names: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.suppress(EOFError):
        while True:
            block: Block = blocks_in.recv()
            # a traceback then names the line numbers of the page
            path = folder / f"{block.page.stem}-{block.line}.py"
            path.write_text("\n" * (block.line - 1) + block.text, encoding="utf-8")
            printed = io.StringIO()
            try:
                with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
            except BaseException:  # noqa: BLE001 (whatever a snippet raises is told)
                blocks_in.send(f"{block.text}\n{printed.getvalue()}\n{traceback.format_exc()}")
            else:
                blocks_in.send(None)


def make_build(folder: Path) -> Path:
    """Compile ``model.pt`` for sim; returns the build."""
    prepare(folder, "model.pt", folder)
    printed, status = run_command(f"resformer-compile model.pt --target sim -o {BUILD}", folder)
    if status:
        raise BlockFailedError(printed)
    return folder / BUILD
