"""Memory that outlives no process, and where in it each step belongs."""

import os

import numpy as np
import pytest

from resformer.compiler.backends.lava.shared import UNCOUNTED, Record, Tally, shared_array
from resformer.errors import CapacityError


def test_a_child_writes_what_its_parent_reads() -> None:
    array = shared_array((2, 3), np.int32)
    assert (array.shape, array.dtype, array.any()) == ((2, 3), np.int32, False)
    child = os.fork()
    if not child:
        array[1, 2] = 7
        os._exit(0)
    os.waitpid(child, 0)
    assert array[1, 2] == 7


def test_nothing_may_be_shared() -> None:
    assert shared_array((0, 5), np.int64).shape == (0, 5)


@pytest.mark.parametrize("bits", [46, 70])
def test_too_much_is_refused_in_one_line(bits: int) -> None:
    with pytest.raises(CapacityError, match=rf"^the system refused {4 * 2**bits} bytes .*run fewer samples"):
        shared_array((2**bits,), np.int32)


def test_a_record_begins_at_its_offset_and_ends_with_the_last_sample() -> None:
    record = Record(np.zeros((2, 3, 4)), offset=5)
    for step in range(20):
        slot = record.slot(step)
        if slot is not None:
            slot[...] = step
    assert record.values[..., 0].tolist() == [[5, 7, 9], [6, 8, 10]]
    assert [record.slot(step) is None for step in (4, 5, 10, 11)] == [True, False, False, True]


def test_a_tally_counts_the_same_steps() -> None:
    tally = Tally(np.zeros(1, dtype=np.int64), offset=5, steps=6)
    for step in range(20):
        tally.add(step, 10**step)
    assert tally.total[0] == 11111100000


def test_what_nobody_asks_for_is_not_counted() -> None:
    for step in range(-1, 3):
        UNCOUNTED.add(step, 7)
    assert UNCOUNTED.total[0] == 0
