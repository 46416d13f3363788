"""Several processes, started by ``torchrun``, that share the work of one command."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

from resformer.errors import InputError, ProcessDiedError
from resformer.models.boundary import brief
from resformer.runtime.run.exchange import Store, receive, send
from resformer.runtime.run.watch import Watch, claim_failure

T = TypeVar("T")

STORE_TIMEOUT = timedelta(seconds=60)
"""How long a process waits for the store to come up, where the first process rather than ``torchrun`` keeps it."""
CLAIM_TIMEOUT = timedelta(seconds=10)
CAUSE_SECONDS = 2.0
"""How long a process that a signal ended waits to hear which other process died."""
BROKEN_SECONDS = 15.0
"""How long a process that lost the store waits to hear which other process died: one must have."""
POLL_SECONDS = 0.05
FIRST_POLL_SECONDS = 0.001


@dataclass
class Processes:
    """This process among those of a command.

    Attributes:
        rank: This process's rank; rank 0 gathers the results, and it alone prints.
        count: How many processes there are.
        local_rank: This process's rank among those on the same machine.
        local_count: How many processes there are on the same machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    _watch: Watch | None = field(default=None, init=False, repr=False, compare=False)
    _store: Store | None = field(default=None, init=False, repr=False, compare=False)
    _failed: bool = field(default=False, init=False, repr=False, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this process gathers, prints and writes."""
        return self.rank == 0

    def share(self, samples: int) -> tuple[int, int]:
        """The first index and the past-the-last index of this process's samples.

        Raises:
            InputError: Some process would have no samples.
        """
        if samples < self.count:
            raise InputError(f"{samples} samples for {self.count} processes; start at most {samples}")
        return self.part(samples)

    def part(self, items: int) -> tuple[int, int]:
        """As :meth:`share`, for any items; if there are fewer items than processes, some processes get none."""
        return items * self.rank // self.count, items * (self.rank + 1) // self.count

    def device(self, asked: str) -> str:
        """The device of this process: if several processes ask for "cuda", each gets a GPU of its own."""
        return f"cuda:{self.local_rank}" if asked == "cuda" and self.count > 1 else asked

    @property
    def cores(self) -> int:
        """This process's share of the machine's cores."""
        return max(1, machine_cores() // self.local_count)

    def start(self, say: Callable[[str], None]) -> None:
        """Watch the other processes from now on, and take this process's share of the cores.

        Args:
            say: Called with the reason if this process has to end at once.

        Raises:
            ProcessDiedError: The process that keeps the store cannot be reached.
        """
        if self.count == 1:
            return
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # we report a broken connection ourselves, in one line
        try:
            self._store = _connect(hosts=self._hosts, timeout=STORE_TIMEOUT)
            # a connection of its own: a call that waits in one blocks all other calls on it
            watched = _connect(hosts=False, timeout=STORE_TIMEOUT)
            self._watch = Watch(self.rank, self.count, watched, _attempt(), say)
        except (KeyError, ValueError, RuntimeError) as error:
            raise ProcessDiedError(
                f"rank {self.rank} of {self.count}: cannot reach the process that keeps all together, which "
                f"MASTER_ADDR and MASTER_PORT name ({brief(error)}); start all of them with torchrun"
            ) from error
        # torchrun sets 1 where the user has set nothing
        if os.environ.get("OMP_NUM_THREADS", "1") == "1":
            import torch

            torch.set_num_threads(self.cores)
        self._watch.start()

    def stop(self) -> bool:
        """Stop watching the other processes; returns whether the watching thread has ended."""
        return self._watch is None or self._watch.stop()

    def leave(self, status: int) -> None:
        """Part from the other processes; the last call of this process that concerns them.

        After a failure, the process that keeps the store stays until all others know of it. If the watching thread
        still waits for a machine that does not answer, this process ends by ``os._exit``, since Python would abort.

        Args:
            status: This process's exit status.
        """
        stopped = self.stop()
        if stopped and self._failed and self._watch is not None:
            with contextlib.suppress(KeyboardInterrupt):
                self._watch.leave(last=self._hosts)
        if not stopped:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os._exit(status)

    def cause(self, error: BaseException) -> BaseException:
        """The real reason why this process ends: the death of another process if there was one, else ``error``.

        Args:
            error: What ended this process: a signal, or a broken connection.
        """
        if self._watch is None or isinstance(error, ProcessDiedError):
            return error
        found = self._watch.death_within(CAUSE_SECONDS)
        return error if found is None else ProcessDiedError(found)

    def gather(self, part: T) -> list[T] | None:
        """The parts of all processes, in the order of their ranks; None in a process that does not lead.

        It is the last step that the processes share: afterwards each one ends on its own.

        Args:
            part: This process's part.

        Raises:
            ProcessDiedError: Another process died.
        """
        return self._together(part, for_all=False)

    def gather_for_all(self, part: T) -> list[T]:
        """As :meth:`gather`, but every process gets all parts, which should be small.

        Raises:
            ProcessDiedError: Another process died.
        """
        return cast("list[T]", self._together(part, for_all=True))

    def _together(self, part: T, *, for_all: bool) -> list[T] | None:
        """Exchange parts with all processes; signals and deaths of others are heard while this process waits."""
        if self.count == 1:
            return [part]
        try:
            store = self._store = self._store or _connect(hosts=self._hosts, timeout=STORE_TIMEOUT)
            parts = self._exchange(store, part, for_all=for_all)
            if self._watch is not None:
                self._watch.finish()
                if self.leads:  # the others need the store, which may be in this process
                    self._until(self._watch.all_finished)
        except RuntimeError as error:  # every error of a store is one
            found = None if self._watch is None else self._watch.death_within(BROKEN_SECONDS)
            raise ProcessDiedError(
                found or f"rank {self.rank} of {self.count}: lost another process ({brief(error)}); see what it said"
            ) from error
        self.stop()
        return parts

    def _exchange(self, store: Store, part: T, *, for_all: bool) -> list[T] | None:
        keys = [f"resformer/part/{_attempt()}/{rank}" for rank in range(self.count)]
        if not self.leads:
            send(store, keys[self.rank], pickle.dumps(part), self._until)
            return _unpacked(receive(store, f"{keys[self.rank]}/all", self._until)) if for_all else None
        parts = [part, *(_unpacked(receive(store, key, self._until)) for key in keys[1:])]
        if for_all:
            content = pickle.dumps(parts)
            for key in keys[1:]:
                send(store, f"{key}/all", content, self._until)
        return parts

    def _until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition is true.

        Raises:
            ProcessDiedError: Another process died first.
        """
        pause = FIRST_POLL_SECONDS
        while not condition():
            if self._watch is not None and (found := self._watch.death) is not None:
                raise ProcessDiedError(found)
            time.sleep(pause)
            pause = min(2 * pause, POLL_SECONDS)

    @property
    def _hosts(self) -> bool:
        """Whether this process, rather than ``torchrun`` itself, keeps the store."""
        return self.leads and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"

    def claim_failure(self) -> bool:
        """Whether this process is the first to fail, and so the one to say why.

        Only the first one prints its error; the others end silently.
        """
        if self.count == 1:
            return True
        self._failed = True
        self.stop()  # failures of other processes no longer matter
        try:
            store = self._store or _connect(hosts=False, timeout=CLAIM_TIMEOUT)
        except (KeyError, ValueError, RuntimeError):
            return True  # no store to ask: an error told twice is better than one not told
        return claim_failure(store, _attempt())


def machine_cores() -> int:
    """How many cores this process may use if it has the machine to itself."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def from_environment(environment: Mapping[str, str] | None = None) -> Processes:
    """The processes that ``torchrun``, or a launcher that sets the same variables, started; else this process alone."""
    environment = os.environ if environment is None else environment
    wanted = [environment.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if "MASTER_ADDR" not in environment or not all(value.isdecimal() for value in wanted):
        return Processes()
    rank, count, local_rank = map(int, wanted)
    local = environment.get("LOCAL_WORLD_SIZE", "")
    return Processes(rank, count, local_rank, max(1, int(local)) if local.isdecimal() else 1)


def _connect(*, hosts: bool, timeout: timedelta) -> Store:
    from torch import distributed

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        host, port, is_master=hosts, timeout=timeout, wait_for_workers=False
    )
    return cast("Store", store)  # set() also takes bytes, which its stubs do not say


def _unpacked(content: bytes) -> Any:
    return pickle.loads(content)  # noqa: S301 # from another process of the same command


def _attempt() -> str:
    """The number of this attempt: ``torchrun`` may start all processes again."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
