"""Runs some of the hostile inputs of ``make fuzz``, and checks that the fuzzer finds what it looks for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from resformer.errors import ResformerError
from support.fuzz.forks import Limits, run_apart, run_command

FUZZ = Path(__file__).with_name("fuzz.py")
INPUTS = 120


@pytest.mark.slow
def test_a_share_of_the_hostile_inputs() -> None:
    command = [sys.executable, str(FUZZ), "--inputs", str(INPUTS), "--seed", "12", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{INPUTS} inputs" in done.stdout


def sleep() -> tuple[int, ...]:
    while True:
        time.sleep(1)


def spin() -> tuple[int, ...]:
    while True:
        pass


def fill_memory() -> tuple[int, ...]:
    return (len(bytes(range(256)) * (1 << 20)),)


def die() -> tuple[int, ...]:
    os.kill(os.getpid(), 9)
    return ()


def a_command(status: int, says: str) -> Callable[[], tuple[int, ...]]:
    def main(_arguments: list[str]) -> int:
        print(says)  # noqa: T201
        return status

    return lambda: (run_command(main),)


def raises() -> tuple[int, ...]:
    raise ResformerError("x")


@pytest.mark.parametrize(
    ("work", "failure"),
    [
        (sleep, "hangs at"),
        (spin, "hangs at"),
        (fill_memory, "took 2"),
        (die, "died: -9"),
        (raises, "ResformerError at"),
        (a_command(3, "x"), "exit status 3"),
        (a_command(1, ""), "fails without a word"),
        (a_command(1, "\x1b[1m"), "prints control characters"),
        (a_command(1, "Traceback (most recent call last)"), "prints a traceback"),
        (a_command(1, "error: no such file"), ""),
        (a_command(0, ""), ""),
    ],
)
def test_what_must_not_be_is_found(work: Callable[[], tuple[int, ...]], failure: str) -> None:
    # a sleeping process is given up after ten times the limit, and this test waits for that
    outcome = run_apart(work, Limits(seconds=0.2 if work is sleep else 1.0, memory=1 << 27))
    assert outcome.failure.startswith(failure)
    assert bool(outcome.failure) == bool(failure)
