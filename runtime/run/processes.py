"""Several processes that share the work of one command, as ``torchrun`` starts them."""

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
"""How long the first process may take to come up where it, rather than ``torchrun``, keeps the others together."""
CLAIM_TIMEOUT = timedelta(seconds=10)
CAUSE_SECONDS = 2.0
"""How long a process that was ended from outside waits to hear which other died."""
BROKEN_SECONDS = 15.0
"""And so one that has lost the others: somebody must have died."""
POLL_SECONDS = 0.05
FIRST_POLL_SECONDS = 0.001


@dataclass
class Processes:
    """This process among those of a command.

    Attributes:
        rank: This one's number; the first gathers the results and is the only one to speak.
        count: How many there are.
        local_rank: This one's number among those on the same machine.
        local_count: How many there are on the same machine.
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
        """The first and the past-the-last of this process's samples.

        Raises:
            InputError: Some process would have none.
        """
        if samples < self.count:
            raise InputError(f"{samples} samples for {self.count} processes; start at most {samples}")
        return self.part(samples)

    def part(self, items: int) -> tuple[int, int]:
        """As :meth:`share`, of anything; where there are fewer than processes, some have none."""
        return items * self.rank // self.count, items * (self.rank + 1) // self.count

    def device(self, asked: str) -> str:
        """The device of this process: of several that ask for "cuda", each gets a GPU of its own."""
        return f"cuda:{self.local_rank}" if asked == "cuda" and self.count > 1 else asked

    @property
    def cores(self) -> int:
        """This process's share of the machine's cores."""
        return max(1, machine_cores() // self.local_count)

    def start(self, say: Callable[[str], None]) -> None:
        """Look after the other processes from now on, and take this one's share of the cores.

        Args:
            say: Told why this process ends, should it have to end at once.

        Raises:
            ProcessDiedError: Whoever keeps the processes together cannot be reached.
        """
        if self.count == 1:
            return
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of a connection that breaks we tell in one line
        try:
            self._store = _connect(hosts=self._hosts, timeout=STORE_TIMEOUT)
            # of its own: what waits in one keeps everything else in it waiting
            watched = _connect(hosts=False, timeout=STORE_TIMEOUT)
            self._watch = Watch(self.rank, self.count, watched, _attempt(), say)
        except (KeyError, ValueError, RuntimeError) as error:
            raise ProcessDiedError(
                f"rank {self.rank} of {self.count}: cannot reach the process that keeps all together, which "
                f"MASTER_ADDR and MASTER_PORT name ({brief(error)}); start all of them with torchrun"
            ) from error
        # torchrun says 1 where nobody has said anything
        if os.environ.get("OMP_NUM_THREADS", "1") == "1":
            import torch

            torch.set_num_threads(self.cores)
        self._watch.start()

    def stop(self) -> bool:
        """Look after the others no longer; tells whether whoever looked has ended."""
        return self._watch is None or self._watch.stop()

    def leave(self, status: int) -> None:
        """Let the others go, as the last that this process does with them.

        After a failure, the process that keeps the others together stays until all know of it. Python is not left to
        end by itself where it would abort: in the midst of asking a machine that does not answer.

        Args:
            status: Of this process.
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
        """Why this process really ends, if it was told to because another one died; else the error as it is.

        Args:
            error: What ended this one: a signal, or a broken connection.
        """
        if self._watch is None or isinstance(error, ProcessDiedError):
            return error
        found = self._watch.death_within(CAUSE_SECONDS)
        return error if found is None else ProcessDiedError(found)

    def gather(self, part: T) -> list[T] | None:
        """What all processes have made, in the order of their ranks; None where this one does not lead.

        It is the last that they do together: from then on each ends on its own.

        Raises:
            ProcessDiedError: One of the others died.
        """
        return self._together(part, for_all=False)

    def gather_for_all(self, part: T) -> list[T]:
        """As :meth:`gather`, but every process is given it: for what is small.

        Raises:
            ProcessDiedError: One of the others died.
        """
        return cast("list[T]", self._together(part, for_all=True))

    def _together(self, part: T, *, for_all: bool) -> list[T] | None:
        """Exchange something with all processes; signals, and deaths of others, are heard meanwhile."""
        if self.count == 1:
            return [part]
        try:
            store = self._store = self._store or _connect(hosts=self._hosts, timeout=STORE_TIMEOUT)
            parts = self._exchange(store, part, for_all=for_all)
            if self._watch is not None:
                self._watch.finish()
                if self.leads:  # they need the store, which may be in this process
                    self._until(self._watch.all_finished)
        except RuntimeError as error:  # all errors of stores are
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
        """Wait until something is so.

        Raises:
            ProcessDiedError: One of the others died first.
        """
        pause = FIRST_POLL_SECONDS
        while not condition():
            if self._watch is not None and (found := self._watch.death) is not None:
                raise ProcessDiedError(found)
            time.sleep(pause)
            pause = min(2 * pause, POLL_SECONDS)

    @property
    def _hosts(self) -> bool:
        """Whether this process, rather than ``torchrun`` itself, keeps the processes together."""
        return self.leads and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"

    def claim_failure(self) -> bool:
        """Whether this process is the first to fail, and so the one to say why.

        The first fails for all: the others end without a word.
        """
        if self.count == 1:
            return True
        self._failed = True
        self.stop()  # others' failures are no news any more
        try:
            store = self._store or _connect(hosts=False, timeout=CLAIM_TIMEOUT)
        except (KeyError, ValueError, RuntimeError):
            return True  # nobody to ask: better told twice than not at all
        return claim_failure(store, _attempt())


def machine_cores() -> int:
    """The cores that a process may use which has the machine to itself."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def from_environment(environment: Mapping[str, str] | None = None) -> Processes:
    """The processes that ``torchrun``, or whatever sets the same variables, has started; else this one alone."""
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
    return cast("Store", store)  # its values may be bytes, whatever its stubs say


def _unpacked(content: bytes) -> Any:
    return pickle.loads(content)  # noqa: S301 # from another process of the same command


def _attempt() -> str:
    """Which attempt of ``torchrun``'s this is: it may start all processes again."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
