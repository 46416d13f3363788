"""How a command's processes watch each other, and the message when one of them dies."""

from __future__ import annotations

import ast
import subprocess

import pytest

from resformer.runtime.run.watch import how_ended
from support.together import launcher, together

__all__ = ["launcher"]

SCRIPT = """
import os, sys, time
from resformer.errors import InputError
from resformer.runtime.cli.terminal import Parser, run_command
from resformer.runtime.run.processes import from_environment

processes = from_environment()
dies, end, before = {dies}, {end!r}, {before!r}

def fail():
    raise InputError("found by one")

def command(_arguments):
    if processes.rank == dies:
        exec(end)
    exec(before)
    parts = processes.gather_for_all((processes.rank, processes.cores))
    print(parts)
    return 0

sys.exit(run_command(Parser(prog="prog"), [], command, processes))
"""

MEET = """
while not processes._watch._others: time.sleep(0.01)
processes._store.set(f"met {processes.rank}", "")
"""
MET = (
    MEET
    + """
while not processes._store.check([f"met {rank}" for rank in range(processes.count)]): time.sleep(0.01)
"""
)
"""Waits until each process knows of the others; a process that dies before that cannot be named."""


def run(
    launcher: subprocess.Popen[str], dies: int, end: str, before: str = "", count: int = 2
) -> list[tuple[int, str, str]]:
    ended = together(launcher, SCRIPT.format(dies=dies, end=end, before=before), count)
    return [(each.status, each.out, each.err) for each in ended]


def test_all_are_given_what_each_has(launcher: subprocess.Popen[str]) -> None:
    found = run(launcher, 2, "")
    assert [status for status, _, _ in found] == [0, 0]
    assert found[0][1] == found[1][1]
    assert [rank for rank, _ in ast.literal_eval(found[0][1])] == [0, 1]
    assert found[0][2] == found[1][2] == ""


@pytest.mark.parametrize(
    ("dies", "end", "before", "how"),
    [
        (1, "os.kill(os.getpid(), 9)", "", "was killed by SIGKILL, as the system does where memory runs out"),
        (0, MET + "os.kill(os.getpid(), 9)", MEET, "was killed by SIGKILL, as the system does where memory runs out"),
        (1, MET + "os._exit(3)", MEET + "time.sleep(500)", "ended with exit status 3 before its work was done"),
    ],
    ids=["while the others wait", "the first", "while the others work"],
)
def test_one_that_dies_is_named_and_the_others_end(
    launcher: subprocess.Popen[str], dies: int, end: str, before: str, how: str
) -> None:
    found = run(launcher, dies, end, before)
    status, out, err = found[1 - dies]
    assert (status, out) == (1, "")
    assert err.startswith(f"prog: error: rank {dies} of 2 (pid ")
    assert how in err
    assert err.count("\n") == 1


def test_one_of_several_speaks_for_all(launcher: subprocess.Popen[str]) -> None:
    killed = run(launcher, 2, "os.kill(os.getpid(), 9)", count=3)
    assert [status for status, _, _ in killed] == [1, 1, -9]
    assert "".join(err for _, _, err in killed).count("rank 2 of 3") == 1
    failed = run(launcher, 1, "fail()")
    assert [status for status, _, _ in failed] == [1, 1]
    assert "".join(err for _, _, err in failed) == "prog: error: found by one\n"


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "ended with exit status 0 before its work was done"),
        (2 << 8, "ended with exit status 2 before its work was done"),
        (11, "was ended by SIGSEGV"),
        (9, "was killed by SIGKILL, as the system does where memory runs out; give a smaller --batch-size"),
        (60, "was ended by signal 60"),
    ],
)
def test_how_a_process_ended_in_words(status: int, text: str) -> None:
    assert how_ended(status) == text
