"""Bytes that one process passes to another through the store that all of them reach.

No call here waits inside the store, so that whoever waits hears signals, and of other processes' deaths.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

PIECE_BYTES = 4 * 2**20
"""PyTorch's store takes no more than 8 MiB at once."""
PIECES_AHEAD = 4
"""How many pieces may lie in the store until the receiver takes them."""

Until = Callable[[Callable[[], bool]], None]
"""Waits until something is so."""


class Store(Protocol):
    """What all processes read and write: PyTorch's ``Store``, of which this is used."""

    def set(self, key: str, value: str | bytes, /) -> None:
        """Write."""

    def get(self, key: str, /) -> bytes:
        """Read; waits until it is there."""

    def check(self, keys: list[str], /) -> bool:
        """Whether all of them are there."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a number, and tell what it then is."""

    def delete_key(self, key: str, /) -> bool:
        """Forget."""


def send(store: Store, key: str, content: bytes, until: Until) -> None:
    """Pass bytes to the one process that receives them; the last pieces may still lie in the store afterwards.

    Args:
        store: Reached by both.
        key: Of this passing, and of no other.
        content: The bytes.
        until: Waits for the receiver.
    """

    def taken(index: int) -> bool:
        return not store.check([f"{key}/{index}"])

    pieces = -(-len(content) // PIECE_BYTES)
    store.set(f"{key}/pieces", str(pieces))
    for index in range(pieces):
        if index >= PIECES_AHEAD:
            until(partial(taken, index - PIECES_AHEAD))
        store.set(f"{key}/{index}", content[index * PIECE_BYTES : (index + 1) * PIECE_BYTES])


def receive(store: Store, key: str, until: Until) -> bytes:
    """The bytes that another process sends, taken from the store.

    Args:
        store: Reached by both.
        key: Of this passing.
        until: Waits for the sender.
    """

    def take(name: str) -> bytes:
        until(lambda: store.check([name]))
        value = store.get(name)
        store.delete_key(name)
        return value

    pieces = int(take(f"{key}/pieces"))
    return b"".join(take(f"{key}/{index}") for index in range(pieces))
