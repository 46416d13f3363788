"""A program that forks processes with their modules already imported; tests/support/together.py starts it.

Reads requests from standard input, each a line of JSON, and answers each with a line, until there are no more.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, TextIO

LOOK_SECONDS = 0.01


def answer(request: dict[str, Any], replies: TextIO) -> str | None:
    """Fork the processes, and wait until all have ended.

    Args:
        request: ``modules`` to import first, ``environments`` of the processes, their ``script`` and its ``arguments``,
            the ``seconds`` that they may take, and the ``folder`` for what each prints.
        replies: Receives the exit status of each process, and whether they took too long.

    Returns:
        In a forked process the script to run; else None.
    """
    for module in request["modules"]:
        importlib.import_module(module)
    gc.freeze()  # as processes end, Python looks at all objects again, and the system then copies all memory
    folder = Path(request["folder"])
    started = []
    for index, environment in enumerate(request["environments"]):
        pid = os.fork()
        if pid == 0:
            replies.close()
            for stream, path in ((0, Path(os.devnull)), (1, folder / f"{index}.out"), (2, folder / f"{index}.err")):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
                os.dup2(descriptor, stream)
                os.close(descriptor)
            os.environ.update(environment)
            sys.argv = ["-c", *request["arguments"]]
            return str(request["script"])
        started.append(pid)
    until = time.monotonic() + request["seconds"]
    try:
        for pid in started:  # an ended process remains until somebody asks for it, as torchrun does every 0.1 s
            while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None and time.monotonic() < until:
                time.sleep(LOOK_SECONDS)
    finally:
        late = time.monotonic() >= until
        for pid in started if late else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started]
    replies.write(json.dumps({"late": late, "ended": ended}) + "\n")
    replies.flush()
    return None


def serve() -> str | None:
    """Answer requests; in a forked process, the script to run."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    while line := sys.stdin.readline():
        script = answer(json.loads(line), replies)
        if script is not None:
            return script
    return None


if __name__ == "__main__":
    found = serve()
    if found is not None:  # run at the top level, so that Python ends as after any script
        exec(compile(found, "<together>", "exec"), {"__name__": "__main__"})
