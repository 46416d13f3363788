"""Which process does what; tests/cli/test_torchrun.py shows that several give the result of one."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Callable

import pytest
from torch import distributed

from resformer.errors import InputError
from resformer.runtime.cli.terminal import Parser, run_command
from resformer.runtime.run.processes import Processes, from_environment
from resformer.runtime.run.watch import Watch

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


def test_torchruns_variables_are_read() -> None:
    assert from_environment(TORCHRUN) == Processes(rank=3, count=4, local_rank=1)
    assert from_environment(TORCHRUN | {"LOCAL_WORLD_SIZE": "2"}) == Processes(3, 4, 1, local_count=2)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        assert from_environment({key: value for key, value in TORCHRUN.items() if key != name}) == Processes()
    assert from_environment(TORCHRUN | {"RANK": "first"}) == Processes()


@pytest.mark.parametrize(("samples", "count"), [(7, 3), (3, 3), (100, 7), (5, 1)])
def test_shares_are_contiguous_and_even(samples: int, count: int) -> None:
    shares = [Processes(rank, count).share(samples) for rank in range(count)]
    assert [index for start, stop in shares for index in range(start, stop)] == list(range(samples))
    sizes = [stop - start for start, stop in shares]
    assert max(sizes) - min(sizes) <= 1


def test_no_process_may_be_idle() -> None:
    with pytest.raises(InputError, match="2 samples for 3 processes; start at most 2"):
        Processes(0, 3).share(2)


def test_of_few_things_some_processes_have_none() -> None:
    parts = [Processes(rank, 3).part(2) for rank in range(3)]
    assert [index for start, stop in parts for index in range(start, stop)] == [0, 1]


def test_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resformer.runtime.run.processes.machine_cores", lambda: 7)
    assert Processes().cores == 7
    assert Processes(5, 8, 1, local_count=2).cores == 3
    assert Processes(5, 16, 1, local_count=16).cores == 1


def test_each_process_has_a_gpu_of_its_own() -> None:
    assert Processes(5, 8, 1).device("cuda") == "cuda:1"
    assert Processes(5, 8, 1).device("cuda:3") == "cuda:3"
    assert Processes(5, 8, 1).device("cpu") == "cpu"
    assert Processes().device("cuda") == "cuda"


def test_one_process_gathers_alone_and_speaks() -> None:
    assert Processes().gather("mine") == ["mine"]
    assert Processes().claim_failure()


def test_the_first_to_fail_speaks_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    store = distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    assert Processes(1, 3).claim_failure()
    assert not Processes(0, 3).claim_failure()
    assert not Processes(2, 3).claim_failure()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert Processes(2, 3).claim_failure()


def test_where_nobody_can_be_asked_each_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert Processes(1, 3).claim_failure()


def fails(_arguments: argparse.Namespace) -> int:
    raise InputError("found by one")


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> object:
    """The store that torchrun keeps; this process becomes one of two."""
    store = distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    for name, value in {**TORCHRUN, "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # so that the number of threads is left alone
    return store


@pytest.mark.parametrize("command", [fails, lambda _: 0], ids=["after a failure", "after success"])
@pytest.mark.usefixtures("agent")
def test_no_thread_is_left_in_the_store_as_python_ends_where_it_would_abort(
    command: Callable[[argparse.Namespace], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "_exit", lambda _: pytest.fail("Python does not end by itself"))
    run_command(Parser("prog"), [], command, Processes(0, 2))
    assert "resformer-watch" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.usefixtures("agent")
def test_a_process_whose_thread_does_not_come_back_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    stop = Watch.stop
    monkeypatch.setattr(Watch, "stop", lambda watch: stop(watch) and False)
    monkeypatch.setattr(os, "_exit", ended.append)
    run_command(Parser("prog"), [], fails, Processes(0, 2))
    assert ended == [1]


@pytest.mark.usefixtures("agent")
def test_a_failure_ends_the_others_silently(capsys: pytest.CaptureFixture[str]) -> None:
    assert Processes(0, 2).claim_failure()

    other = Processes(1, 2)

    def waits(_arguments: argparse.Namespace) -> int:
        other.gather_for_all("mine")
        return 0

    assert run_command(Parser("prog"), [], waits, other) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("agent")
def test_a_command_that_is_not_shared_leaves_sigterm_as_it_was() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run_command(Parser("prog"), [], lambda _: 0) == 0
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        signal.signal(signal.SIGTERM, before)
