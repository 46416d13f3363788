"""Bytes that one process passes to another through a key-value store that all processes reach.

No call here blocks inside the store, so a process that waits still handles signals and hears of other processes'
deaths.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

PIECE_BYTES = 4 * 2**20
"""Bytes of a piece; PyTorch's store takes no more than 8 MiB at once."""
PIECES_AHEAD = 4
"""How many pieces may wait in the store for the receiver."""

Until = Callable[[Callable[[], bool]], None]
"""A function that waits until a condition is true."""


class Store(Protocol):
    """A key-value store that all processes share: the methods of PyTorch's ``Store`` that are used here."""

    def set(self, key: str, value: str | bytes, /) -> None:
        """Write a value."""

    def get(self, key: str, /) -> bytes:
        """Read a value; waits until the key exists."""

    def check(self, keys: list[str], /) -> bool:
        """Whether all of these keys exist."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a number and return the sum."""

    def delete_key(self, key: str, /) -> bool:
        """Delete a key."""


def send(store: Store, key: str, content: bytes, until: Until) -> None:
    """Pass bytes to the one process that receives them; the last pieces may still be in the store on return.

    Args:
        store: The store that sender and receiver share.
        key: The key of this transfer, which no other transfer uses.
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
        store: The store that sender and receiver share.
        key: The key of this transfer.
        until: Waits for the sender.
    """

    def take(name: str) -> bytes:
        until(lambda: store.check([name]))
        value = store.get(name)
        store.delete_key(name)
        return value

    pieces = int(take(f"{key}/pieces"))
    return b"".join(take(f"{key}/{index}") for index in range(pieces))
