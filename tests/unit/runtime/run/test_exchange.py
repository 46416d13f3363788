"""Bytes that go from one process to another through a store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from torch import distributed

from resformer.runtime.run.exchange import PIECE_BYTES, PIECES_AHEAD, receive, send


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, (PIECES_AHEAD + 1) * PIECE_BYTES + 3])
def test_any_bytes_arrive_and_leave_nothing_in_the_store(size: int) -> None:
    content = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    near = distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    far = distributed.TCPStore("localhost", near.port, is_master=False, wait_for_workers=False)
    before = near.num_keys()
    sender = threading.Thread(target=send, args=(far, "key", content, until))
    sender.start()
    received = receive(near, "key", until)
    sender.join()
    assert received == content
    assert near.num_keys() == before


class Shelf(dict[str, bytes]):
    """A store that counts the pieces in it."""

    most = 0

    def set(self, key: str, value: str | bytes) -> None:
        self[key] = value.encode() if isinstance(value, str) else value
        self.most = max(self.most, sum(not name.endswith("pieces") for name in self))

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)

    def delete_key(self, key: str) -> bool:
        return self.pop(key, None) is not None


def test_few_pieces_wait_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resformer.runtime.run.exchange.PIECE_BYTES", 1)
    store = Shelf()
    sender = threading.Thread(target=send, args=(store, "key", b"abcdefghijklmnopqrstuvwxyz", until))
    sender.start()
    until(lambda: store.most == PIECES_AHEAD)
    assert receive(store, "key", until) == b"abcdefghijklmnopqrstuvwxyz"
    sender.join()
    assert store.most == PIECES_AHEAD
