"""Which of the processes that ended is to blame."""

import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from resformer.compiler.backends.lava.actors import Actors
from resformer.errors import BackendFailedError


@pytest.fixture
def actors() -> Iterator[Actors]:
    made = Actors()
    yield made
    made.stop()


def start(actors: Actors, name: str, does: Callable[[], None]) -> None:
    actors.build_actor(lambda builder, exception_q: builder(), does, name)


def fail_late() -> None:
    time.sleep(0.3)
    raise ValueError("it was me")


def fail_at_length() -> None:
    raise ValueError("ü" * 3000)


def test_the_one_that_can_say_why_is_named(actors: Actors) -> None:
    """Lava's service may be seen to end before the process whose error it was told of."""
    start(actors, "service", lambda: None)
    start(actors, "model", fail_late)
    with pytest.raises(BackendFailedError, match=r"^model: ValueError: it was me;"):
        actors.wait(10)


def test_one_that_ends_without_a_word_is_named_at_last(actors: Actors) -> None:
    start(actors, "running", lambda: time.sleep(60))
    start(actors, "model", lambda: None)
    with pytest.raises(BackendFailedError, match=r"^model: it exited;"):
        actors.wait(10)


def test_an_endless_message_is_cut(actors: Actors) -> None:
    start(actors, "model", fail_at_length)
    with pytest.raises(BackendFailedError) as caught:
        actors.wait(10)
    assert len(str(caught.value)) < 1100


def test_it_waits_for_a_status_that_another_thread_has_taken(actors: Actors) -> None:
    """``multiprocessing.active_children()`` takes it so: between its two steps, the process seems to run."""
    start(actors, "model", lambda: None)
    (actor,) = actors.actors
    popen = actor._popen  # type: ignore[attr-defined] # multiprocessing's own
    os.waitpid(popen.pid, 0)
    assert actor.exitcode is None
    noting = threading.Timer(0.2, setattr, (popen, "returncode", 0))
    noting.start()
    actors.stop()
    noting.join()
