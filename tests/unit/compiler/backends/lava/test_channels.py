"""A channel is a queue of messages, of a fixed length, between two ends."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from resformer.compiler.backends.lava.channels import ReceivePort, SendPort, SharedChannel


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
