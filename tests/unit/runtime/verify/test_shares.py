"""What each process of a verification compares: the same batches, however many processes there are."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from resformer.compiler.ir.program import Scheduled
from resformer.runtime.run.processes import Processes
from resformer.runtime.verify import verify
from resformer.runtime.verify.local import Layer, LayerTally, rank
from resformer.runtime.verify.verify import Share, shares
from support.builds import Tiny, program_of

LAYER = Layer(("synapses",), "neurons", ())


@pytest.fixture(scope="module")
def program(tiny: Tiny) -> Any:
    return program_of(tiny.build)


@pytest.mark.parametrize(("samples", "at_once", "cores"), [(6, 6, 2), (100, 7, 4), (33, 100, 64), (5, 1, 3)])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_processes_share_the_batches_of_one(
    program: Scheduled, monkeypatch: pytest.MonkeyPatch, samples: int, at_once: int, cores: int, count: int
) -> None:
    monkeypatch.setattr(verify, "machine_cores", lambda: cores)

    def batches(found: list[Share]) -> list[tuple[tuple[int, int], int]]:
        return [(each, share.threads) for share in found for each in share.ranges]

    whole = batches(shares(program, samples, at_once, Processes()))
    assert [index for (start, stop), _ in whole for index in range(start, stop)] == list(range(samples))
    parts = [shares(program, samples, at_once, Processes(rank, count)) for rank in range(count)]
    assert list(itertools.chain.from_iterable(map(batches, parts))) == whole
    assert all(share.stop - share.start <= at_once for part in parts for share in part)


def test_few_large_batches_have_several_threads_each(program: Scheduled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "machine_cores", lambda: 8)
    assert shares(program, 2, 2, Processes()) == [Share(((0, 1), (1, 2)), 4)]
    assert shares(program, 2, 2, Processes(1, 2)) == [Share(((1, 2),), 4)]


def test_sums_of_errors_do_not_depend_on_their_order() -> None:
    errors = [np.array([value]) for value in (1.0, 3e-9, 1e8, 7e-5, 1e-12)]
    sums = set()
    for order in itertools.permutations(errors):
        tally = LayerTally()
        for error in order:
            one = LayerTally()
            one.add_errors(error, 3 * error)
            tally.merge(one)
        sums.add((float(tally.squared_error), float(tally.squared_current)))
    assert len(sums) == 1
    assert sums.pop() == pytest.approx((1e16, 9e16))


def test_an_error_that_is_infinite_stays_so() -> None:
    tally = LayerTally()
    tally.add_errors(np.array([np.inf]), np.array([1.0]))
    tally.add_errors(np.array([1e200]), np.array([1.0]))
    assert tally.squared_error == np.inf
    (found,) = rank({LAYER: tally})
    assert found.rms == found.relative == np.inf


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e153, 1e154, 3e200, 1e307])
def test_errors_whose_squares_no_float_holds_have_a_mean_nevertheless(size: float) -> None:
    """Floats end at 1.8e308, which is the square of 1.3e154; the mean is right in whatever batches errors come."""
    tally, apart = LayerTally(), LayerTally()
    errors = size * np.array([3.0, -4.0, 0.0, 5.0])
    tally.add_errors(errors, 2 * errors)
    for error in errors:
        one = LayerTally()
        one.add_errors(np.array([error]), np.array([2 * error]))
        apart.merge(one)
    for each in (tally, apart):
        (found,) = rank({LAYER: each})
        if size > 1e-150:
            assert found.rms / size == pytest.approx(np.sqrt(50 / 4))
            assert found.relative == pytest.approx(0.5)
        assert found.worst == 5 * size
