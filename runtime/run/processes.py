"""Several processes that share the work of one command, as ``torchrun`` starts them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from resformer.errors import InputError, ProcessDiedError
from resformer.models.boundary import brief
from resformer.runtime.run.watch import Watch

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long one process waits for the others' results, as long as none of them dies."""
STORE_TIMEOUT = timedelta(seconds=60)
"""How long the first process may take to come up where it, rather than ``torchrun``, keeps the others together."""
CLAIM_TIMEOUT = timedelta(seconds=10)
CAUSE_SECONDS = 2.0
"""How long a process that was ended from outside waits to hear which other died."""
POLL_SECONDS = 0.05


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
    _store: Any = field(default=None, init=False, repr=False, compare=False)
    _exchanging: threading.Thread | None = field(default=None, init=False, repr=False, compare=False)
    _failures: Any = field(default=None, init=False, repr=False, compare=False)

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
            self._store = _connect(hosts=self.leads and not _agent_hosts(), timeout=STORE_TIMEOUT)
            # each of its own: what waits in one keeps everything else in it waiting
            watched, self._failures = (_connect(hosts=False, timeout=STORE_TIMEOUT) for _ in range(2))
            self._watch = Watch(self.rank, self.count, watched, _attempt(), say, self.claim_failure)
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

    def stop(self) -> None:
        """Look after the others no longer."""
        if self._watch is not None:
            self._watch.stop()

    def leave(self, status: int) -> None:
        """End at once, after a failure, if this is one of several processes.

        What still waits for the others can be told nothing, in a thread of ours or of the library's, and may abort as
        Python ends.

        Args:
            status: Of this process.
        """
        if self._watch is not None:
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
        if self.count == 1:
            return [part]

        def exchange(distributed: Any) -> list[T] | None:
            parts: list[T | None] | None = [None] * self.count if self.leads else None
            distributed.gather_object(part, parts)
            return None if parts is None else [each for each in parts if each is not None]

        return self._together(exchange)

    def gather_for_all(self, part: T) -> list[T]:
        """As :meth:`gather`, but every process is given it: for what is small.

        Raises:
            ProcessDiedError: One of the others died.
        """
        if self.count == 1:
            return [part]

        def exchange(distributed: Any) -> list[T]:
            parts: list[Any] = [None] * self.count
            distributed.all_gather_object(parts, part)
            return parts

        return self._together(exchange)

    def _together(self, exchange: Callable[[Any], T]) -> T:
        """Exchange something with all processes, in a thread: signals, and deaths of others, are heard meanwhile."""
        outcome: list[T] = []
        failures: list[BaseException] = []

        def work() -> None:
            try:
                outcome.append(self._exchange(exchange))
            except BaseException as error:  # noqa: BLE001 # raised again where it is waited for
                failures.append(error)

        self._exchanging = thread = threading.Thread(target=work, name="resformer-gather", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            if self._watch is not None and (found := self._watch.death) is not None:
                raise ProcessDiedError(found)
        if not failures:
            self.stop()
            return outcome[0]
        (error,) = failures
        if not isinstance(error, RuntimeError):
            raise error
        found = None if self._watch is None else self._watch.death_within(CAUSE_SECONDS)
        raise ProcessDiedError(
            found or f"rank {self.rank} of {self.count}: lost another process ({brief(error)}); see what it said"
        ) from error

    def _exchange(self, exchange: Callable[[Any], T]) -> T:
        from torch import distributed

        store = self._store or _connect(hosts=self.leads and not _agent_hosts(), timeout=STORE_TIMEOUT)
        attempt = _attempt()
        distributed.init_process_group(
            "gloo",
            store=distributed.PrefixStore(  # type: ignore[attr-defined]
                f"resformer/gloo/{attempt}", store
            ),
            rank=self.rank,
            world_size=self.count,
            timeout=PATIENCE,
        )
        try:
            result = exchange(distributed)
        finally:
            distributed.destroy_process_group()
        if self._watch is not None:
            self._watch.finish()
            while self.leads and not self._watch.all_finished():  # they need the store, which may be in this process
                time.sleep(POLL_SECONDS)
        return result

    def claim_failure(self) -> bool:
        """Whether this process is the first to fail, and so the one to say why.

        The first fails for all: the others end without a word.
        """
        if self.count == 1:
            return True
        try:
            store = self._failures or _connect(hosts=False, timeout=CLAIM_TIMEOUT)
            return int(store.add(f"resformer/failed/{_attempt()}", 1)) == 1
        except (KeyError, ValueError, RuntimeError):
            return True  # nobody to ask: better told twice than not at all


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


def _connect(*, hosts: bool, timeout: timedelta) -> Any:
    from torch import distributed

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return distributed.TCPStore(  # type: ignore[attr-defined]
        host, port, is_master=hosts, timeout=timeout, wait_for_workers=False
    )


def _agent_hosts() -> bool:
    """Whether ``torchrun`` itself, rather than the first process, keeps the processes together."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _attempt() -> str:
    """Which attempt of ``torchrun``'s this is: it may start all processes again."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
