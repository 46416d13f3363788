"""Which float type holds a sum of integers, and how many threads compute it."""

import multiprocessing

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from resformer.compiler.backends.lava import blas
from resformer.compiler.backends.lava.blas import exact_float, limit_to_one_thread, one_thread_in_children


@pytest.mark.parametrize(
    ("bound", "dtype"), [(0, np.float32), (2**24 - 1, np.float32), (2**24, np.float64), (2**53 - 1, np.float64)]
)
def test_the_narrowest_exact_type(bound: int, dtype: type) -> None:
    assert exact_float(bound) is dtype


def test_sums_that_no_type_holds_are_our_mistake() -> None:
    with pytest.raises(AssertionError, match=str(2**53)):
        exact_float(2**53)


def threads() -> list[int]:
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


def child_threads(limit: bool) -> list[int]:
    """How many threads a child uses, once it has asked for one."""

    def report() -> None:
        if limit:
            limit_to_one_thread()
        sender.send(threads())

    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=report)
    child.start()
    child.join()
    return receiver.recv()


def test_children_use_one_thread() -> None:
    with threadpool_limits(limits=2, user_api="blas"):
        before = threads()
        assert set(before) == {2}
        assert set(child_threads(limit=False)) == {2}
        assert set(child_threads(limit=True)) == {1}
        with one_thread_in_children():
            assert set(child_threads(limit=False)) == {1}
            assert set(child_threads(limit=True)) == {1}
        assert threads() == before


def test_children_need_not_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    with one_thread_in_children():
        monkeypatch.setattr(blas, "threadpool_limits", lambda **limits: asked.append(limits))
        limit_to_one_thread()
        assert not asked
    limit_to_one_thread()
    assert asked == [{"limits": 1, "user_api": "blas"}]
