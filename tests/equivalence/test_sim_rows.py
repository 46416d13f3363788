"""E2 of threads that share a sample by the rows of loops: however rows are cut, the result is that of one thread."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from resformer.compiler.backends.sim import SimBackend, backend, cpu_kernels
from resformer.compiler.backends.sim.team import ALONE, Team
from resformer.compiler.ir import reference
from resformer.models.spikingresformer import SpikingResformer
from support.networks import compiled, images
from support.sim_runs import assert_same_as, threads, what_events_lack


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 100])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_parts_are_all_rows_in_order(pool: ThreadPoolExecutor, count: int, rows: int) -> None:
    parts = Team(count, pool).share(rows, lambda first, last: [*range(first, last)])
    assert [*itertools.chain(*parts)] == [*range(rows)]
    assert len(parts) == max(min(count, rows), 1)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_each_part_has_a_thread_and_the_first_is_the_callers(pool: ThreadPoolExecutor) -> None:
    barrier = threading.Barrier(3, timeout=30)  # broken unless three threads meet there

    def part(first: int, last: int) -> int:
        barrier.wait()
        return threading.get_ident()

    found = Team(3, pool).share(3, part)
    assert found[0] == threading.get_ident()
    assert len(set(found)) == 3
    assert ALONE.share(3, lambda first, last: (first, last)) == [(0, 3)]


def test_a_parts_error_is_the_callers_when_all_have_ended(pool: ThreadPoolExecutor) -> None:
    ended = []

    def part(first: int, last: int) -> None:
        ended.append(first)
        if first == wrong:
            raise ValueError(first)

    for wrong in (0, 2):
        ended.clear()
        with pytest.raises(ValueError, match=str(wrong)):
            Team(2, pool).share(4, part)
        assert sorted(ended) == [0, 2]


@pytest.mark.parametrize("by_events", [True, False])
def test_samples_shared_by_rows_are_the_references(
    by_events: bool, make_model: Callable[..., SpikingResformer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three threads share all loops, however small the loops are."""
    if by_events and (lacking := what_events_lack()):
        pytest.skip(lacking)
    pytest.importorskip("numba")
    from resformer.compiler.backends.sim import guarded_events, guarded_loops, guarded_strips

    monkeypatch.setattr(cpu_kernels, "events_pay", lambda: by_events)
    monkeypatch.setattr(backend, "shares_rows", lambda: True)
    for name in ("SHARED_NEURONS", "EVENT_OUTPUTS_MIN", "EVENT_DEPTH_MIN"):
        monkeypatch.setattr(cpu_kernels, name, 0)
    monkeypatch.setattr(guarded_events, "SHARED_PRODUCTS", 0)
    shared: set[tuple[str, int]] = set()
    for module, name in ((guarded_loops, "neurons"), (guarded_strips, "attend"), (guarded_events.events, "convolve")):
        _note_threads(monkeypatch, module, name, shared)
    program = compiled(make_model(), tmp_path)
    samples = images(program, 2)
    expected = reference.run(program, samples, record=True)
    with threads(3):
        for record in (True, False):
            for self_check in (False, True):
                shared.clear()
                trace = SimBackend().run(program, samples[:1], record=record, batch_size=1, self_check=self_check)
                alone = reference.run(program, samples[:1], record=record)
                assert_same_as(trace, alone, record=record)
                assert trace.ties == alone.ties
        used = {name: len({thread for each, thread in shared if each == name}) for name, _ in shared}
        assert used["neurons"] > 1
        assert by_events == (used.get("convolve", 0) > 1)
        assert_same_as(SimBackend().run(program, samples, record=True, batch_size=2), expected, record=True)


def _note_threads(monkeypatch: pytest.MonkeyPatch, module: object, name: str, shared: set[tuple[str, int]]) -> None:
    right = getattr(module, name)

    def noting(*arguments: object) -> object:
        shared.add((name, threading.get_ident()))
        return right(*arguments)

    monkeypatch.setattr(module, name, noting)


def test_rows_that_there_are_not_are_refused() -> None:
    pytest.importorskip("numba")
    from resformer.compiler.backends.sim import guarded_loops
    from resformer.compiler.ir.arrays import InvariantError

    y, bias, spikes = np.zeros((2, 6, 8), np.float32), np.zeros(8, np.float32), np.zeros((2, 6, 8), np.uint8)
    one = np.float32(1)
    fire = bias, one, one, -one
    for first, last in ((0, 7), (-1, 6)):
        with pytest.raises(InvariantError):
            guarded_loops.neurons(y, 0, None, 0, None, one, None, 0, fire, None, spikes, 0, 8, 2, first, last)
