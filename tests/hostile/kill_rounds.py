"""Kills commands at random moments, and checks that they leave nothing behind: ``make kill-rounds N=50``.

Each round starts compile, run or verify (the latter two in Lava) and ends it by SIGKILL, SIGTERM or SIGINT. Afterwards
none of its processes may live, no shared memory and no temporary file may be left, the build must be whole, and a file
of the user's in it must be there. The next command with the same output removes what SIGKILL left beside that output.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from resformer.compiler.files.build import read_build
from resformer.compiler.files.digest import sha256

MNIST = Path(__file__).parents[2] / "examples" / "mnist"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PROGRESS = re.compile(r"\[\d+:\d\d\] ")
"""The beginning of a progress line, which a command may print if two seconds pass before the signal."""
GONE_SECONDS = 5.0
"""Seconds in which the processes of a killed command must be gone."""
START = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "


@dataclass
class Rounds:
    """A folder in which commands are killed.

    Attributes:
        folder: Where the build and all outputs are.
        model: The checkpoint that is compiled.
        images: The samples that are run.
        options: Further arguments of compiling.
        failures: A sentence for each thing that was wrong.
        table: How often each signal had each outcome.
    """

    folder: Path
    model: Path
    images: Path
    options: tuple[str, ...] = ()
    failures: list[str] = field(default_factory=list)
    table: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    @property
    def build(self) -> Path:
        """The build that is compiled again and again."""
        return self.folder / "out" / "build"

    def commands(self) -> dict[str, list[str]]:
        """The arguments of each command."""
        out, given = self.folder / "out", ["--input", str(self.images), "--samples", "2", "--backend", "lava"]
        return {
            "compile": [str(self.model), "--target", "lava", "-o", str(self.build), *self.options],
            "run": [str(self.build), *given, "-o", str(out / "run.npz")],
            "verify": [str(self.build), *given, "--json", str(out / "verify.json"), "--report", str(out / "page.html")],
        }

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a command in a session of its own."""
        code = f"{START}from resformer.runtime.cli import entry; sys.exit(entry.{command}_command())"
        (self.folder / "tmp").mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-c", code, *self.commands()[command]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(self.folder / "tmp")},
        )

    def whole(self, command: str) -> float:
        """Run a command to its end; returns how long it took, in seconds."""
        started = time.monotonic()
        process = self.start(command)
        _, errors = process.communicate()
        if process.returncode != 0:
            self.failures.append(f"{command}, not killed: status {process.returncode}: {errors[-300:]}")
        return time.monotonic() - started

    def round(self, command: str, number: signal.Signals, delay: float, *, group: bool) -> None:
        """Start a command, end it after some seconds, and check what is left.

        Args:
            command: A key of ``commands``.
            number: The signal that ends it.
            delay: Seconds from the start to the signal.
            group: Whether all processes of the command get the signal, as from a terminal, or only the first.
        """
        memory = shared_memory()
        process = self.start(command)
        time.sleep(delay)
        (os.killpg if group else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=60)
        status = process.returncode
        outcome = "done before" if status == 0 else "ended" if status in (128 + number, -number) else f"status {status}"
        self.table[command, number.name, outcome] += 1
        where = f"{command}, {number.name} after {delay:.2f} s{' to all' if group else ''}"
        wrong = []
        if status not in (0, 128 + number, -number):
            wrong.append(f"status {status}")
        if sum(PROGRESS.match(line) is None for line in errors.splitlines()) > 1:
            wrong.append(f"said {errors[-600:]}")
        if (living := still_living(process.pid)) != []:
            wrong.append(f"left processes {living}")
        if (left := shared_memory() - memory) != set():
            wrong.append(f"left shared memory {left}")
        if (files := list((self.folder / "tmp").iterdir())) != []:
            wrong.append(f"left temporary files {files}")
        if number != signal.SIGKILL and status != -number and self.hidden():
            wrong.append(f"left {self.hidden()}")
        wrong += self.damage()
        self.failures += [f"{where}: {each}" for each in wrong]

    def hidden(self) -> list[str]:
        """Work folders beside the outputs."""
        return [path.name for path in (self.folder / "out").iterdir() if path.name.endswith(".new")]

    def damage(self) -> Iterator[str]:
        """What is wrong with the build."""
        try:
            report = read_build(self.build).report
        except Exception as error:  # noqa: BLE001 # whatever it is, it goes into the table
            yield f"the build cannot be read: {error}"
            return
        for name, digest in report["files"].items():
            if sha256(self.build / name) != digest:
                yield f"{name} is half"
        if (self.build / "notes.txt").read_text() != "the user's":
            yield "the user's file is lost"


def shared_memory() -> set[str]:
    """The names of shared memory that outlives processes."""
    return {path.name for path in Path("/dev/shm").glob("*")}


def still_living(session: int) -> list[int]:
    """The processes of a session that still live after ``GONE_SECONDS``."""
    deadline = time.monotonic() + GONE_SECONDS
    while found := list(_living(session)):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return found


def _living(session: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            yield int(path.parent.name)


def kill_rounds(rounds: Rounds, count: int, seed: int) -> None:
    """Kill commands ``count`` times; what was wrong is added to ``rounds.failures``."""
    generator = random.Random(seed)
    (rounds.folder / "out").mkdir(parents=True, exist_ok=True)
    rounds.whole("compile")
    (rounds.build / "notes.txt").write_text("the user's")
    seconds = {command: rounds.whole(command) for command in rounds.commands()}
    names = list(seconds)
    for index in range(count):
        command, number = names[index % 3], SIGNALS[index // 3 % 3]
        delay = generator.uniform(0.3, max(1.1 * seconds[command], 0.4))
        rounds.round(command, number, delay, group=generator.random() < 0.5)
    for command in names:
        rounds.whole(command)
    if rounds.hidden():
        rounds.failures.append(f"the last commands left {rounds.hidden()}")
    rounds.failures += [f"at the end: {each}" for each in rounds.damage()]


def main(argv: Sequence[str] | None = None) -> int:
    """Kill commands, and print what happened; returns 1 if anything was wrong, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        rounds = Rounds(Path(folder), MNIST / "spikingresformer_mnist.pt", MNIST / "test_images.npy")
        kill_rounds(rounds, arguments.rounds, arguments.seed)
    for (command, name, outcome), count in sorted(rounds.table.items()):
        print(f"{command:8} {name:8} {outcome:12} {count:4}")
    for failure in rounds.failures:
        print(f"WRONG: {failure}")
    print(f"{arguments.rounds} rounds, seed {arguments.seed}: {len(rounds.failures)} failures")
    return 1 if rounds.failures else 0


if __name__ == "__main__":
    sys.exit(main())
