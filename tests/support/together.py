"""Starts several processes as ``torchrun`` does, but without it, so that each process's own end is seen.

They are forked from one that has already imported their modules: importing PyTorch takes longer than all else here.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import launcher as launcher_program

PATIENCE = 240
"""Seconds until a process counts as waiting for ever, also on a busy machine."""
PORTS = (10000, 32000)
NEEDED = ("torch.distributed", "resformer.runtime.cli.terminal", "resformer.runtime.run.processes")

COMMANDS = """
import importlib, json, os, sys
commands = json.loads(sys.argv[1])
for port, (command, arguments) in zip(os.environ["PORTS"].split(","), commands):
    os.environ["MASTER_PORT"] = port
    status = importlib.import_module("resformer.runtime.cli." + command).main(arguments)
    if status:
        sys.exit(status)
"""


@dataclass(frozen=True)
class Ended:
    """How one process ended.

    Attributes:
        status: Its exit status; negative if a signal ended it.
        out: What it printed.
        err: What it said on the error stream.
    """

    status: int
    out: str
    err: str


def _free_port() -> int:
    """A free port, lower than those that the system gives to connections, so that it gives this one to nobody."""
    while True:
        port = random.randrange(*PORTS)
        with contextlib.suppress(OSError), socket.create_server(("localhost", port)):
            return port


@pytest.fixture(scope="module")
def launcher() -> Iterator[subprocess.Popen[str]]:
    """The process that forks others, for :func:`together`; it ends with the tests of a file."""
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    # the commands set these before anything is imported
    environment |= {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    program = [sys.executable, launcher_program.__file__]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process


def commands_together(
    launcher: subprocess.Popen[str],
    commands: Sequence[tuple[str, Sequence[str]]],
    count: int = 2,
    before: str = "import os\n",
) -> list[Ended]:
    """Run commands one after the other, each in all processes together, up to the first that fails.

    Args:
        launcher: The fixture.
        commands: The name of each command's module in ``resformer.runtime.cli``, and its arguments.
        count: How many processes.
        before: Python that each process runs first.
    """
    given = json.dumps([(command, list(map(str, arguments))) for command, arguments in commands])
    modules = [f"resformer.runtime.cli.{command}" for command, _ in commands]
    return together(launcher, before + COMMANDS, count, arguments=[given], ports=len(commands), modules=modules)


def alone(
    launcher: subprocess.Popen[str], script: str, *, arguments: Sequence[str] = (), modules: Sequence[str] = ()
) -> Ended:
    """Run a script in one process, as ``together`` does, but as no part of a group."""
    (ended,) = _ask(launcher, script, [{}], arguments, modules)
    return ended


def together(
    launcher: subprocess.Popen[str],
    script: str,
    count: int = 2,
    *,
    arguments: Sequence[str] = (),
    ports: int = 1,
    modules: Sequence[str] = (),
) -> list[Ended]:
    """Run a script in several processes that are told of each other.

    Args:
        launcher: The fixture.
        script: Python.
        count: How many processes.
        arguments: The arguments of the script.
        ports: How often the processes come together; ``PORTS`` holds a port for each time.
        modules: What to import first, once for all processes.
    """
    free = [str(_free_port()) for _ in range(ports)]
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": free[0], "PORTS": ",".join(free)}
    common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    environments = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return _ask(launcher, script, environments, arguments, [*NEEDED, *modules])


def _ask(
    launcher: subprocess.Popen[str],
    script: str,
    environments: Sequence[dict[str, str]],
    arguments: Sequence[str],
    modules: Sequence[str],
) -> list[Ended]:
    """Let the launcher fork a process for each environment, and see how they ended."""
    request = {
        "modules": list(modules),
        "environments": list(environments),
        "script": script,
        "arguments": list(arguments),
        "seconds": PATIENCE,
    }
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        launcher.stdin.write(json.dumps({**request, "folder": folder}) + "\n")
        launcher.stdin.flush()
        answer = json.loads(launcher.stdout.readline())
        said = [
            [Path(folder, f"{rank}.{name}").read_text(encoding="utf-8") for name in ("out", "err")]
            for rank in range(len(environments))
        ]
    assert not answer["late"], f"the processes wait for ever: {said}"
    return [Ended(status, *texts) for status, texts in zip(answer["ended"], said, strict=True)]
