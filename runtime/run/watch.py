"""A thread that watches the other processes of a command and tells which of them died, and how."""

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
"""A process on another machine that sends no beat for this long is taken for dead."""
START_SECONDS = 600.0
"""A process that has not begun after this time is taken for dead."""
GRACE_SECONDS = 15.0
"""How long this process may go on with its work after another one died, before it ends at once."""
LOST_SECONDS = 5.0
"""How long to look for a dead process once the store is gone: a process closes its connections before it ends."""
STOP_SECONDS = 10.0
"""How long to wait for the watching thread to end; it takes longer only if the store's machine does not answer."""
LEAVE_SECONDS = GRACE_SECONDS + 5.0
"""How long the process that keeps the store stays after a failure, so that the others can ask who reports it."""
EXIT_CODE_FIELD = 49
"""Index of the exit code among the fields of ``/proc/PID/stat`` that follow the process's name."""
FAILED = 1


@dataclass
class _Other:
    """Another process.

    Attributes:
        rank: Its rank.
        host: Its machine's name.
        pid: Its process number on that machine.
        descriptor: A pidfd, which becomes readable when the process ends; None if the system has no pidfds, or the
            process is on another machine or had ended already.
        here: Whether it is on this machine.
        beat: The last beat that it sent.
        heard: When that beat came, or when the process was first seen, in seconds of ``time.monotonic``.
    """

    rank: int
    host: str
    pid: int
    descriptor: int | None
    here: bool
    beat: bytes = b""
    heard: float = 0.0


class Watch(threading.Thread):
    """Watches the other processes until all of them have their results.

    Args:
        rank: This process's rank.
        count: How many processes there are.
        store: The store that all processes share, through a connection that only this class uses.
        attempt: Which start of all processes this is: ``torchrun`` may start them again.
        say: Called with the reason if this process must end in the midst of its work.
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
        # announced before anything else can happen to this process
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "place": self._place}
        self._store.set(self._key("process", self._rank), json.dumps(mine))
        self._meet()

    def finish(self) -> None:
        """Tell the others that this process has its results and no longer needs any of them."""
        if not self._leads:
            self._over.set()
        self._store.set(self._key("finished", self._rank), "1")

    def all_finished(self) -> bool:
        """Whether all processes have their results."""
        return all(self._finished(rank) for rank in range(self._count))

    def stop(self) -> bool:
        """Stop watching: deaths of other processes no longer matter to this one.

        Python aborts at exit if this thread is still inside the store.

        Returns:
            Whether this thread has ended.
        """
        self._over.set()
        if self.ident is not None:
            self.join(STOP_SECONDS)
        return not self.is_alive()

    def leave(self, *, last: bool) -> None:
        """Tell the others that this process no longer needs the store; call it only after :meth:`stop`.

        Args:
            last: Whether to wait until all others have left, finished or ended, for at most ``LEAVE_SECONDS``.
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
        """Which other process died, and how, as soon as that is known; None if no death is known after ``seconds``."""
        self._found.wait(seconds)
        if self.death is None and not self._over.is_set():
            late = self._absent()
            if late:
                return f"{self._named(late)} ended before it had begun"
        return self.death

    def run(self) -> None:
        """Watch the others; if one dies, interrupt the main thread, and end this process if that takes too long."""
        try:
            death = self._look()
        except RuntimeError as error:  # every error of a store is one
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
        """What to report when the store is gone: the first process held it, unless torchrun does."""
        until = time.monotonic() + LOST_SECONDS
        while not self._over.is_set() and time.monotonic() < until:
            died = sorted(self._ended(LOOK_SECONDS), key=lambda other: other.rank)
            if died:
                return f"{self._named([died[0].rank])} {_ending(died[0])}"
        return f"the process that keeps all together is gone ({brief(error)})"

    def _look(self) -> str | None:
        """What to report about the first process that died; None if watching ended without a death."""
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
        """Register the other processes as they start."""
        for rank in self._absent():
            key = self._key("process", rank)
            if not self._store.check([key]):
                continue
            said = json.loads(self._store.get(key))
            here = said["place"] == self._place
            descriptor = None
            if here and hasattr(os, "pidfd_open"):
                with contextlib.suppress(OSError):  # it has ended already, or the system has no pidfds
                    descriptor = os.pidfd_open(said["pid"])
            self._others[rank] = _Other(rank, said["host"], said["pid"], descriptor, here, heard=time.monotonic())

    def _listen(self, now: float) -> None:
        """Read the beats of the processes on other machines."""
        for other in self._others.values():
            key = self._key("beat", other.rank)
            if not other.here and self._store.check([key]):
                said = self._store.get(key)
                if said != other.beat:
                    other.beat, other.heard = said, now
                elif self._finished(other.rank):
                    self._gone.add(other.rank)

    def _ended(self, seconds: float) -> list[_Other]:
        """Processes on this machine that have newly ended; waits at most ``seconds`` for one to end."""
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
    """Whether this process is the first to fail, and so the one to say why; all others then see that one failed.

    Args:
        store: The store that all processes share.
        attempt: Which start of all processes this is.

    Returns:
        True also if the store cannot be reached: an error told twice is better than one not told at all.
    """
    try:
        return store.add(_failure(attempt), 1) == 1
    except RuntimeError:
        return True


def _failure(attempt: str) -> str:
    return f"resformer/failed/{attempt}"


def _place() -> str:
    """Where this process's pid is valid: the machine, since it last started, and the pid namespace (the container)."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _lives(pid: int) -> bool:
    """Whether a process still runs; a zombie, which has ended but whose parent has not waited for it, does not."""
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
    """The fields of ``/proc/PID/stat`` that follow the process's name."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _ending(other: _Other) -> str:
    """How a process ended, in words; Linux keeps that until the process's parent has waited for it."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        stat = _stat(other.pid)
        if stat[0] in "ZX":
            return how_ended(int(stat[EXIT_CODE_FIELD]))
    return "ended before its work was done"


def how_ended(status: int) -> str:
    """How a process ended, in words, from its status as ``os.wait`` returns it."""
    number = os.waitstatus_to_exitcode(status)
    if number >= 0:
        return f"ended with exit status {number} before its work was done"
    if -number == signal.SIGKILL:
        return "was killed by SIGKILL, as the system does where memory runs out; give a smaller --batch-size"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-number).name}"
    return f"was ended by signal {-number}"


def _interrupt() -> None:
    """Send SIGTERM to the main thread, which ends it, if a handler of that signal is set."""
    if callable(signal.getsignal(signal.SIGTERM)):
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
