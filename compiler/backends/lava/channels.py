"""Channels between Lava's processes that need no threads and leave nothing behind.

Lava serves each end of a channel by a Python thread, which wakes the thread that works; here each end waits for its
semaphore itself. Lava keeps messages in ``/dev/shm``, managed by another process; here they lie in anonymous memory.
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
"""The multiprocessing context: Lava's processes are forked, so they see what we made before."""


class SendPort(CspSendPort):  # type: ignore[misc]
    """The sending end of a channel: it waits for a free slot, fills it, and signals that it is filled."""

    _idx: int

    def start(self) -> None:
        """Map the channel's slots into this process."""
        self._array = _slots(self)

    def probe(self) -> bool:
        """Whether :meth:`send` would not wait."""
        return _is_up(self._ack)

    def send(self, data: npt.NDArray[Any]) -> None:
        """Send one message.

        Raises:
            InvariantError: The message has another shape than the channel.
        """
        require(
            data.shape == self._shape, f"{self._name}: a message of shape {data.shape} on a channel of {self._shape}"
        )
        self._ack.acquire()
        self._array[self._idx][...] = data
        self._idx = (self._idx + 1) % self._size
        self._req.release()

    def join(self) -> None:
        """Do nothing: there is no thread to wait for."""


class ReceivePort(CspRecvPort):  # type: ignore[misc]
    """The receiving end of a channel: it waits for a filled slot, and signals when the slot is free again."""

    _idx: int
    _lent = False

    def start(self) -> None:
        """Map the channel's slots into this process."""
        self._array = _slots(self)
        for slot in self._array:
            slot.flags.writeable = False

    def probe(self) -> bool:
        """Whether :meth:`recv` would not wait.

        While Lava's ``CspSelector`` waits, it has set an observer, which a thread would call in stock Lava. Each of our
        processes waits for one channel only, the channel of its commands, so this method waits for the message itself.
        """
        if self.observer is not None:
            self._req.acquire()
            self._req.release()
            return True
        return _is_up(self._req)

    def peek(self) -> npt.NDArray[Any]:
        """A copy of the next message, which stays in the channel."""
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
        """Receive one message without a copy: read-only, and valid only until the next message is received."""
        self._give_back()
        self._req.acquire()
        self._lent = True
        message: npt.NDArray[Any] = self._array[self._idx]
        return message

    def _give_back(self) -> None:
        """Free the slot of the message that was borrowed last, if it is not yet free."""
        if self._lent:
            self._lent = False
            self._idx = (self._idx + 1) % self._size
            self._ack.release()

    def join(self) -> None:
        """Do nothing: there is no thread to wait for."""


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
    """A semaphore; while it is being made, the system needs shared memory that has a name.

    Raises:
        BackendFailedError: The system has no such shared memory.
        OSError: Too many files are open.
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
    """A ring of slots in anonymous shared memory, with two semaphores: one counts filled slots, one free slots."""

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
