"""Channels between Lava's processes without threads and without traces.

Lava serves each end of a channel by a Python thread, which wakes the one that works; here each end waits for its
semaphore itself. Lava's messages lie in ``/dev/shm``, kept by a manager process; these lie in anonymous memory.
"""

from __future__ import annotations

import errno
import mmap
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.compiler.channels.interfaces import Channel
from lava.magma.compiler.channels.pypychannel import CspRecvPort, CspSendPort, Proto

from resformer.compiler.ir.arrays import require
from resformer.errors import BackendFailedError

FORK = get_context("fork")
"""Lava's processes see what we made before they were forked."""


class SendPort(CspSendPort):  # type: ignore[misc]
    """The sending end: waits for a free slot, fills it, and says so."""

    _idx: int

    def start(self) -> None:
        """Find the slots."""
        self._array = _slots(self)

    def probe(self) -> bool:
        """Whether :meth:`send` would not wait."""
        return _is_up(self._ack)

    def send(self, data: npt.NDArray[Any]) -> None:
        """Send one message.

        Raises:
            InvariantError: It has another shape than the channel's.
        """
        require(
            data.shape == self._shape, f"{self._name}: a message of shape {data.shape} on a channel of {self._shape}"
        )
        self._ack.acquire()
        self._array[self._idx][...] = data
        self._idx = (self._idx + 1) % self._size
        self._req.release()

    def join(self) -> None:
        """Nothing waits beside us."""


class ReceivePort(CspRecvPort):  # type: ignore[misc]
    """The receiving end: waits for a filled slot, and says when it is free again."""

    _idx: int
    _lent = False

    def start(self) -> None:
        """Find the slots."""
        self._array = _slots(self)
        for slot in self._array:
            slot.flags.writeable = False

    def probe(self) -> bool:
        """Whether :meth:`recv` would not wait.

        While Lava's ``CspSelector`` waits, it has set an observer, which a thread would call. Each of our processes
        waits for one channel, that of its commands, so we wait for it here.
        """
        if self.observer is not None:
            self._req.acquire()
            self._req.release()
            return True
        return _is_up(self._req)

    def peek(self) -> npt.NDArray[Any]:
        """The next message, which stays."""
        self._give_back()
        self._req.acquire()
        self._req.release()
        message: npt.NDArray[Any] = self._array[self._idx].copy()
        return message

    def recv(self) -> npt.NDArray[Any]:
        """Receive one message."""
        message = self.borrow().copy()
        self._give_back()
        return message

    def borrow(self) -> npt.NDArray[Any]:
        """Receive one message where it lies: read-only, and only until the next is received."""
        self._give_back()
        self._req.acquire()
        self._lent = True
        message: npt.NDArray[Any] = self._array[self._idx]
        return message

    def _give_back(self) -> None:
        """Free the slot of the last message, if it is lent."""
        if self._lent:
            self._lent = False
            self._idx = (self._idx + 1) % self._size
            self._ack.release()

    def join(self) -> None:
        """Nothing waits beside us."""


def _slots(port: Any) -> list[npt.NDArray[Any]]:
    return [
        np.ndarray(port._shape, port._dtype, buffer=port._shm, offset=port._nbytes * index)
        for index in range(port._size)
    ]


def _is_up(semaphore: Any) -> bool:
    if not semaphore.acquire(block=False):
        return False
    semaphore.release()
    return True


def _semaphore(value: int) -> Any:
    """A semaphore, which the system keeps in shared memory that has a name, for the moment in which it is made.

    Raises:
        BackendFailedError: There is no such memory.
        OSError: There are too many open files.
    """
    try:
        return FORK.Semaphore(value)
    except (OSError, ImportError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        raise BackendFailedError(
            f"the system has no shared memory for a semaphore between Lava's processes ({error}); mount /dev/shm where "
            "it can be written to, or choose --backend sim"
        ) from error


class SharedChannel(Channel):  # type: ignore[misc]
    """A ring of slots in anonymous shared memory, and a semaphore for either end."""

    def __init__(
        self,
        infrastructure: object,  # noqa: ARG002 # As Lava calls it.
        src_name: str,
        dst_name: str,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        size: int,
        *watchdogs: object,  # noqa: ARG002
    ) -> None:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = mmap.mmap(-1, max(nbytes * size, 1))
        filled, free = _semaphore(0), _semaphore(size)
        ends = (memory, Proto(shape, dtype, nbytes), size, filled, free, None, None)
        self._src_port = SendPort(src_name, *ends)
        self._dst_port = ReceivePort(dst_name, *ends)

    @property
    def src_port(self) -> SendPort:
        """The sending end."""
        return self._src_port

    @property
    def dst_port(self) -> ReceivePort:
        """The receiving end."""
        return self._dst_port
