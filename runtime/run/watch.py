"""A thread that looks after the other processes of a command, and says which of them died, and how."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resformer.models.boundary import brief
from resformer.runtime.run.exchange import Store

LOOK_SECONDS = 0.2
LEAVE_LOOK_SECONDS = 0.02
BEAT_SECONDS = 5.0
SILENT_SECONDS = 300.0
"""A process on another machine that says nothing for so long is taken for dead."""
START_SECONDS = 600.0
"""And so is one that has not begun by then."""
GRACE_SECONDS = 15.0
"""After another's death, how long the work at hand may go on before this process ends in the midst of it."""
LOST_SECONDS = 5.0
"""Where the store is gone, how long its process may take to end: its connections are closed before that."""
STOP_SECONDS = 10.0
"""How long it may take to look no longer: more only where the store's machine does not answer."""
LEAVE_SECONDS = GRACE_SECONDS + 5.0
"""How long the process that keeps the store stays, after a failure, for the others to ask who says why."""
EXIT_CODE_FIELD = 49
"""Where ``/proc/PID/stat`` has the status that a process ended with, counted from behind its name."""
FAILED = 1


@dataclass
class _Other:
    """Another process.

    Attributes:
        rank: Its number.
        host: Its machine's name.
        pid: Its number there.
        descriptor: What becomes readable when it ends; None where the system has none, or it is elsewhere.
        here: Whether it is on this machine.
        beat: What it last said, and ``heard`` when.
    """

    rank: int
    host: str
    pid: int
    descriptor: int | None
    here: bool
    beat: bytes = b""
    heard: float = 0.0


class Watch(threading.Thread):
    """Looks after the others until all have what they came for.

    Args:
        rank: This process's.
        count: How many there are.
        store: What all of them read and write; used by nothing else here.
        attempt: Which start of all of them this is.
        say: Told why this process ends, if it must end in the midst of its work.
    """

    def __init__(
        self,
        rank: int,
        count: int,
        store: Store,
        attempt: str,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(name="resformer-watch", daemon=True)
        self.death: str | None = None
        self._rank, self._count, self._store, self._attempt = rank, count, store, attempt
        self._say = say
        self._over, self._found = threading.Event(), threading.Event()
        self._others: dict[int, _Other] = {}
        self._gone: set[int] = set()
        self._place = _place()
        # before anything else may happen to this process
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "place": self._place}
        self._store.set(self._key("process", self._rank), json.dumps(mine))
        self._meet()

    def finish(self) -> None:
        """Tell the others that this process has what it came for, and needs none of them any more."""
        if not self._leads:
            self._over.set()
        self._store.set(self._key("finished", self._rank), "1")

    def all_finished(self) -> bool:
        """Whether all processes have what they came for."""
        return all(self._finished(rank) for rank in range(self._count))

    def stop(self) -> bool:
        """Look no longer; who dies from now on is no concern of this process.

        Python aborts if it ends while this thread is inside the store.

        Returns:
            Whether this thread has ended.
        """
        self._over.set()
        if self.ident is not None:
            self.join(STOP_SECONDS)
        return not self.is_alive()

    def leave(self, *, last: bool) -> None:
        """Tell the others that this process asks nothing any more; only after :meth:`stop`.

        Args:
            last: Whether to wait until all others have done so, or have ended.
        """
        until = time.monotonic() + LEAVE_SECONDS
        with contextlib.suppress(RuntimeError):
            self._store.set(self._key("left", self._rank), "1")
            while last and time.monotonic() < until:
                self._meet()
                self._gone.update(other.rank for other in self._ended(0.0))
                there = [rank for rank in range(self._count) if rank not in self._gone]
                if all(self._store.check([self._key("left", rank)]) or self._finished(rank) for rank in there):
                    return
                time.sleep(LEAVE_LOOK_SECONDS)

    def death_within(self, seconds: float) -> str | None:
        """Which other process died, and how, as soon as it is known; None if none is known to have."""
        self._found.wait(seconds)
        if self.death is None and not self._over.is_set():
            late = self._absent()
            if late:
                return f"{self._named(late)} ended before it had begun"
        return self.death

    def run(self) -> None:
        """Look, until it is over or one of the others has died."""
        try:
            death = self._look()
        except RuntimeError as error:  # all errors of stores are
            death = self._lost(error)
        if death is None or self._over.is_set():
            return
        self.death = death
        self._found.set()
        _interrupt()
        if not self._over.wait(GRACE_SECONDS):
            if claim_failure(self._store, self._attempt):
                self._say(death)
            os._exit(FAILED)

    @property
    def _leads(self) -> bool:
        return self._rank == 0

    def _lost(self, error: Exception) -> str:
        """What is to be said where the store is gone: it was in the first process, unless torchrun keeps it."""
        until = time.monotonic() + LOST_SECONDS
        while not self._over.is_set() and time.monotonic() < until:
            died = sorted(self._ended(LOOK_SECONDS), key=lambda other: other.rank)
            if died:
                return f"{self._named([died[0].rank])} {_ending(died[0])}"
        return f"the process that keeps all together is gone ({brief(error)})"

    def _look(self) -> str | None:
        """What is to be said of the first that died; None if it is over."""
        started, beaten = time.monotonic(), 0.0
        while not self._over.is_set():
            now = time.monotonic()
            if now - beaten > BEAT_SECONDS:
                self._store.set(self._key("beat", self._rank), str(now))
                beaten = now
                self._listen(now)
            self._meet()
            for other in self._ended(LOOK_SECONDS):
                if not self._finished(other.rank):
                    return f"{self._named([other.rank])} {_ending(other)}"
                self._gone.add(other.rank)
                if other.descriptor is not None:
                    os.close(other.descriptor)
            if self._store.check([_failure(self._attempt)]):
                return "another process failed; see what it said"
            for other in self._others.values():
                if not other.here and other.rank not in self._gone and now - other.heard > SILENT_SECONDS:
                    return f"{self._named([other.rank])} has said nothing for {SILENT_SECONDS:.0f} s"
            if now - started > START_SECONDS and (late := self._absent()):
                return f"{self._named(late)} has not begun within {START_SECONDS:.0f} s"
        return None

    def _meet(self) -> None:
        """Learn who the others are, as they come up."""
        for rank in self._absent():
            key = self._key("process", rank)
            if not self._store.check([key]):
                continue
            said = json.loads(self._store.get(key))
            here = said["place"] == self._place
            descriptor = None
            if here and hasattr(os, "pidfd_open"):
                with contextlib.suppress(OSError):  # it has ended already, or the system knows no such thing
                    descriptor = os.pidfd_open(said["pid"])
            self._others[rank] = _Other(rank, said["host"], said["pid"], descriptor, here, heard=time.monotonic())

    def _listen(self, now: float) -> None:
        """Hear what those on other machines say."""
        for other in self._others.values():
            key = self._key("beat", other.rank)
            if not other.here and self._store.check([key]):
                said = self._store.get(key)
                if said != other.beat:
                    other.beat, other.heard = said, now
                elif self._finished(other.rank):
                    self._gone.add(other.rank)

    def _ended(self, seconds: float) -> list[_Other]:
        """Those on this machine that have ended since it was last asked; waits for one no longer than told."""
        near = [each for each in self._others.values() if each.here and each.rank not in self._gone]
        poll = select.poll() if hasattr(select, "poll") else None
        watched = [each for each in near if each.descriptor is not None]
        if poll is None or not watched:
            self._over.wait(seconds)
            ready = set()
        else:
            for each in watched:
                poll.register(each.descriptor or 0, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll(1000 * seconds)}
        return [each for each in near if each.descriptor in ready or (each.descriptor is None and not _lives(each.pid))]

    def _absent(self) -> list[int]:
        return [rank for rank in range(self._count) if rank != self._rank and rank not in self._others]

    def _named(self, ranks: list[int]) -> str:
        if len(ranks) > 1 or ranks[0] not in self._others:
            return f"rank {', '.join(map(str, ranks))} of {self._count}"
        other = self._others[ranks[0]]
        return f"rank {other.rank} of {self._count} (pid {other.pid} on {other.host})"

    def _finished(self, rank: int) -> bool:
        return self._store.check([self._key("finished", rank)])

    def _key(self, what: str, rank: int) -> str:
        return f"resformer/{what}/{self._attempt}/{rank}"


def claim_failure(store: Store, attempt: str) -> bool:
    """Whether this process is the first to fail, and so the one to say why; all others see that one has.

    Args:
        store: Of all processes.
        attempt: Which start of all of them this is.

    Returns:
        Whether it is; also where the store cannot be reached: better told twice than not at all.
    """
    try:
        return store.add(_failure(attempt), 1) == 1
    except RuntimeError:
        return True


def _failure(attempt: str) -> str:
    return f"resformer/failed/{attempt}"


def _place() -> str:
    """Where this process's number means what it means here: the machine, as it was last started, and the container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _lives(pid: int) -> bool:
    """Whether a process is there and works: one that has ended, but that nobody has asked after, does not."""
    with contextlib.suppress(OSError, IndexError):
        return _stat(pid)[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _stat(pid: int) -> list[str]:
    """What Linux tells of a process, from behind its name on."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _ending(other: _Other) -> str:
    """How a process ended, in words; Linux knows until whoever started it has asked."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        stat = _stat(other.pid)
        if stat[0] in "ZX":
            return how_ended(int(stat[EXIT_CODE_FIELD]))
    return "ended before its work was done"


def how_ended(status: int) -> str:
    """What a status says that a process ended with, as ``os.wait`` gives it."""
    number = os.waitstatus_to_exitcode(status)
    if number >= 0:
        return f"ended with exit status {number} before its work was done"
    if -number == signal.SIGKILL:
        return "was killed by SIGKILL, as the system does where memory runs out; give a smaller --batch-size"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-number).name}"
    return f"was ended by signal {-number}"


def _interrupt() -> None:
    """Let the main thread end, as SIGTERM lets it where somebody has said what that does."""
    if callable(signal.getsignal(signal.SIGTERM)):
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
