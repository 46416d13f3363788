"""Batches of inference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from resformer.compiler.backends import open_backend
from resformer.compiler.ir.program import may_clip
from resformer.compiler.ir.trace import CountTrain
from resformer.compiler.placement.activity import activity, measure
from resformer.compiler.samples.arrays import check_samples
from resformer.runtime.run import infer as run
from resformer.runtime.run.infer import (
    Record,
    batch_size,
    batches,
    infer,
    infer_part,
    predictions_in_words,
    samples_at_once,
    saturated_in_words,
)
from support.builds import Tiny, program_of
from support.program_builder import ProgramBuilder


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


def test_a_record_takes_four_bytes_a_graded_value_and_a_bit_a_spike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relays, max-pools and products send graded values; currents between them are not kept."""
    net = ProgramBuilder((1, 8, 8))
    value = net.max_pool("pool", net.conv("stem", "input", 4), (2, 2), (2, 2), (0, 0))
    value = net.relay("relay", net.plus("sum", net.attention("dssa", value, heads=2, patch=2), value), limit=1000)
    net.lif("lif", value)
    program = net.finish(timesteps=3)
    pool = relay = mixed = 4 * 4 * 4
    scores = 2 * 4 * 16  # two heads, four patches, sixteen positions
    spikes = 3 * 64 + scores  # activation_in, activation_out and lif; activation_attn
    pixels = 3 * 64 * (3 * 8 + 4)
    record = 3 * (4 * (pool + relay + scores + mixed) + spikes // 8)
    for size, expected in ((2 * (pixels + record), 2), (2 * (pixels + record) - 1, 1)):
        monkeypatch.setattr(run, "STREAM_BYTES", size)
        assert samples_at_once(program, "lava", record=True) == expected
    for size, expected in ((5 * pixels, 5), (5 * pixels - 1, 4)):
        monkeypatch.setattr(run, "STREAM_BYTES", size)
        assert samples_at_once(program, "lava", record=False) == expected


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


@pytest.mark.parametrize("size", [1, 4, 6])
def test_a_cost_is_counted_batch_by_batch_without_keeping_spikes(tiny: Tiny, size: int) -> None:
    program = program_of(tiny.build)
    samples = check_samples(np.load(tiny.images), program, "images")
    whole = infer(program, samples, "reference", record=True)
    wanted = measure(program, whole.spikes)
    for kept in (0, 5):
        found = infer(program, samples, "reference", record=Record(kept, counts=True), batch_size=size)
        assert found.events is not None
        seen = activity(program, found.events)
        assert seen.samples == wanted.samples == 6
        for name in ("spikes", "sops", "not_zero"):
            mine, theirs = getattr(seen, name), getattr(wanted, name)
            assert list(mine) == list(theirs)
            for key in mine:
                np.testing.assert_array_equal(mine[key], theirs[key], err_msg=f"{name} of {key}")
        assert found.to_know == whole.to_know
        assert {train.shape[1] for train in found.spikes.values()} == ({kept} if kept else set())
        for name, train in found.spikes.items():
            np.testing.assert_array_equal(train.dense(), whole.spikes[name].dense()[:, :kept])


def test_fired_and_could_have_add_up_over_batches(tiny: Tiny) -> None:
    program = program_of(tiny.build)
    samples = check_samples(np.load(tiny.images), program, "images")
    runner = open_backend("reference")
    whole, parts = (
        infer_part(program, samples, runner, bounds=(0, 6), batch_size=size, record=Record(0)) for size in (6, 4)
    )
    assert (
        parts.chances
        == whole.chances
        == {name: program.timesteps * 6 * math.prod(program[name].shape) for name in program.spiking_names}
    )
    assert parts.fired == whole.fired


def test_the_first_counts_of_a_train_alone() -> None:
    counts = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(CountTrain.pack(counts).first(3).values(), counts[:, :3])
    assert CountTrain.pack(counts).first(0).values().shape == (2, 0, 3)


def test_what_clipped_most_is_named_first(tiny: Tiny) -> None:
    program = program_of(tiny.build)
    names = [f"node{index}" for index in range(20)]
    told = saturated_in_words(program, {name: 1 + index for index, name in enumerate(names)}, (), "lava")
    assert told.startswith("node19 20, node18 19, ")
    assert told.endswith("node10 11 and 10 more")
    assert saturated_in_words(program, {}, (), "lava") == "0"


def test_of_populations_whose_clipping_nobody_counted_the_number_is_told(tiny: Tiny) -> None:
    program = program_of(tiny.build)
    may = [name for name in program.lif_names if may_clip(program, name)]
    told = saturated_in_words(program, {}, program.lif_names, "lava")
    assert told == (f"0; lava does not count clipped potentials ({len(may)} populations)" if may else "0")
    assert may


def test_classes_that_are_not_shown_are_counted() -> None:
    histogram = np.arange(20, 0, -1) * (np.arange(20) != 1)
    assert predictions_in_words(histogram, None).startswith("class 0: 20, class 2: 18, ")
    assert predictions_in_words(histogram, None).endswith("class 10: 10 and 9 more")
    assert predictions_in_words(np.array([0, 3, 5000]), ("cat", "dog", "cow")) == "cow: 5,000, dog: 3"
