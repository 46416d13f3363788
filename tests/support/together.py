"""Several processes, as ``torchrun`` starts them, but without it: each process's own end is seen."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

PATIENCE = 120
"""Seconds; on a busy machine, to import what the commands need takes long."""

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
        status: Its exit status, negative a signal's.
        out: What it printed.
        err: What it said on the error stream.
    """

    status: int
    out: str
    err: str


def commands_together(
    commands: Sequence[tuple[str, Sequence[str]]], count: int = 2, before: str = "import os\n"
) -> list[Ended]:
    """Run commands one after the other, each shared by all processes; ends with the first that fails.

    Args:
        commands: Modules of ``resformer.runtime.cli``, and their arguments.
        count: How many processes.
        before: Python that each process runs first.
    """
    given = json.dumps([(command, list(map(str, arguments))) for command, arguments in commands])
    return together(before + COMMANDS, count, arguments=[given], ports=len(commands))


def together(script: str, count: int = 2, *, arguments: Sequence[str] = (), ports: int = 1) -> list[Ended]:
    """Run a script in several processes that are told of each other.

    Args:
        script: Python.
        count: How many processes.
        arguments: Its arguments.
        ports: How often the processes come together; ``PORTS`` holds a port for each time.
    """
    sockets = [socket.create_server(("localhost", 0)) for _ in range(ports)]
    free = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    common = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    common |= {"MASTER_ADDR": "localhost", "MASTER_PORT": free[0], "PORTS": ",".join(free), "OMP_NUM_THREADS": "1"}
    common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    # which the commands set before anything is imported
    common["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]
    try:
        until = time.monotonic() + PATIENCE
        for process in started:  # how it ended is known until somebody asks, as torchrun does every 0.1 s
            while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                assert time.monotonic() < until, "the processes wait for ever"
                time.sleep(0.02)
        said = [process.communicate(timeout=PATIENCE) for process in started]
    finally:
        for process in started:
            process.kill()
    return [Ended(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]
