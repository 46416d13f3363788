"""Batches of inference."""

from __future__ import annotations

import numpy as np
import pytest

from resformer.compiler.samples.arrays import check_samples
from resformer.runtime.run import infer as run
from resformer.runtime.run.infer import batch_size, batches, infer, samples_at_once
from support.builds import Tiny, program_of


@pytest.mark.parametrize(("count", "size"), [(1, 1), (7, 3), (6, 3), (2, 100)])
def test_batches_cover_all_samples_once(count: int, size: int) -> None:
    found = list(batches(count, size))
    assert [index for start, stop in found for index in range(start, stop)] == list(range(count))
    assert max(stop - start for start, stop in found) <= size


def test_batches_shrink_with_memory(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of(tiny.build)
    assert batch_size(program) == run.BATCH_MAX
    monkeypatch.setattr(run, "BATCH_BYTES", 1)
    assert batch_size(program) == 1


def test_streams_are_cut_where_their_record_fills_memory(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of(tiny.build)
    assert samples_at_once(program, "reference", record=True) == batch_size(program)
    assert samples_at_once(program, "lava", record=False) > samples_at_once(program, "lava", record=True) > 1000
    # 4 steps of 2 x 16 x 16 values
    monkeypatch.setattr(run, "STREAM_BYTES", 3 * 4 * 2 * 16 * 16 * run.ENCODING_BYTES)
    assert samples_at_once(program, "lava", record=False) == 3
    assert samples_at_once(program, "lava", record=True) == 2


def test_results_do_not_depend_on_the_batch(tiny: Tiny) -> None:
    program = program_of(tiny.build)
    samples = check_samples(np.load(tiny.images), program, "images")
    reports: list[float] = []
    whole, single = (
        infer(
            program,
            samples,
            "reference",
            record=True,
            batch_size=size,
            progress=lambda done, total: reports.append(done / total),
        )
        for size in (6, 1)
    )
    np.testing.assert_array_equal(whole.logits_int, single.logits_int)
    np.testing.assert_array_equal(whole.predictions, single.predictions)
    for name in program.lif_names:
        np.testing.assert_array_equal(whole.spikes[name].dense(), single.spikes[name].dense())
    assert reports == [1.0, *((1 + index) / 6 for index in range(6))]
    assert whole.uncounted == ()
