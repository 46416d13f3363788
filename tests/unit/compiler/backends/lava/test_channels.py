"""A channel is a queue of messages, of a fixed length, between two ends."""

from threading import Thread
from typing import Any

import resformer.compiler.backends.lava  # noqa: F401 # First: since Python 3.11, Lava cannot be imported without it.

# isort: split

import numpy as np
import pytest
from lava.magma.core.model.py.ports import IdentityTransformer
from numpy.testing import assert_array_equal

from resformer.compiler.backends.lava.channels import ReceivePort, SendPort, SharedChannel
from resformer.compiler.backends.lava.processes.ports import BorrowingInPort


def channel(size: int) -> tuple[SendPort, ReceivePort]:
    made = SharedChannel(None, "source", "target", (2, 3), np.int32, size, None, None, None, None)
    made.src_port.start()
    made.dst_port.start()
    return made.src_port, made.dst_port


def test_messages_arrive_in_their_order() -> None:
    source, target = channel(2)
    for value in range(5):
        source.send(np.full((2, 3), value))
        assert_array_equal(target.peek(), np.full((2, 3), value))
        assert_array_equal(target.recv(), np.full((2, 3), value))


def test_a_full_channel_takes_no_message_and_an_empty_one_gives_none() -> None:
    source, target = channel(2)
    assert not target.probe()
    for value in range(2):
        assert source.probe()
        source.send(np.full((2, 3), value))
    assert not source.probe()
    assert target.recv()[0, 0] == 0
    assert source.probe()
    assert target.recv()[0, 0] == 1
    assert not target.probe()


def test_a_received_message_is_the_receivers() -> None:
    source, target = channel(1)
    source.send(np.ones((2, 3)))
    message = target.recv()
    source.send(np.zeros((2, 3)))
    assert message.all()


def test_a_message_of_another_shape_is_refused() -> None:
    source, _ = channel(1)
    with pytest.raises(AssertionError, match=r"source: a message of shape \(3, 2\) on a channel of \(2, 3\)"):
        source.send(np.ones((3, 2)))


def test_a_borrowed_message_takes_its_place_until_the_next_is_received() -> None:
    source, target = channel(1)
    source.send(np.ones((2, 3)))
    message = target.borrow()
    assert message.all()
    assert not message.flags.writeable
    assert not source.probe()
    assert not target.probe()
    thread = Thread(target=lambda: source.send(np.full((2, 3), 2)), daemon=True)
    thread.start()
    assert_array_equal(target.recv(), np.full((2, 3), 2))
    thread.join()
    assert source.probe()


def port(channels: list[Any], dtype: type = np.int32) -> tuple[list[SendPort], BorrowingInPort]:
    ends = [each.dst_port for each in channels]
    made = BorrowingInPort(ends, None, (2, 3), dtype, IdentityTransformer())
    for each in channels:
        each.src_port.start()
        each.dst_port.start()
    return [each.src_port for each in channels], made


def made_channel(dtype: type = np.int32) -> SharedChannel:
    return SharedChannel(None, "source", "target", (2, 3), dtype, 2, None, None, None, None)


def test_a_port_hands_on_what_one_sender_sent() -> None:
    (source,), target = port([made_channel(np.bool_)])
    source.send(np.ones((2, 3)))
    message = target.recv()
    assert message.dtype == np.bool_
    assert message.all()
    assert not message.flags.writeable


@pytest.mark.parametrize(("dtype", "expected"), [(np.int32, np.int32), (np.int64, np.int64)])
def test_a_port_sums_what_several_sent(dtype: type, expected: type) -> None:
    sources, target = port([made_channel(np.bool_), made_channel(np.bool_), made_channel()], dtype)
    for value in (1, 2):
        for source in sources:
            source.send(np.full((2, 3), value))
        message = target.recv()
        assert message.dtype == expected
        assert_array_equal(message, np.full((2, 3), 2 + value))


def test_a_port_over_lavas_channels_is_lavas() -> None:
    class Other:
        def recv(self) -> np.ndarray:
            return np.full((2, 3), 4, dtype=np.int8)

    target = BorrowingInPort([Other(), Other()], None, (2, 3), np.int32, IdentityTransformer())
    assert_array_equal(target.recv(), np.full((2, 3), 8))
    unconnected = BorrowingInPort([], None, (2, 3), np.int32, IdentityTransformer())
    assert_array_equal(unconnected.recv(), np.zeros((2, 3)))
