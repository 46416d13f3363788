"""A stream equals the whole, bit for bit, however it is cut, in memory that does not depend on its length."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

import resformer
from resformer.compiler.backends.lava.backend import LavaBackend
from resformer.compiler.ir import reference
from resformer.compiler.ir.trace import Trace
from resformer.compiler.samples.events.frames import Binning
from resformer.errors import InputError, SampleWarning
from resformer.runtime.run.stream import windows
from support.builds import Tiny, write_tiny
from support.event_files import some_events, write_npz
from support.nir_files import chain, lif, write
from support.program_builder import ProgramBuilder, tiny_resformer

STEPS, T = 20_000, 4


@pytest.fixture(scope="module")
def events(make_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A network of event frames of 8 x 8 pixels, 4 a sample."""
    return write_tiny(make_model(neuron="PLIF", stem="conv3x3", timesteps=T), tmp_path_factory.mktemp("stream"))


def frames_of(steps: int, chunk: int = 37) -> Iterator[np.ndarray[Any, Any]]:
    """Random frames, made as they are asked for, in chunks of odd lengths."""
    rng, made = np.random.default_rng(5), 0
    while made < steps:
        count = min(chunk, steps - made)
        yield rng.poisson(0.4, (count, 2, 8, 8)).astype(np.uint8)
        made, chunk = made + count, chunk % 61 + 7


def test_20000_steps_in_chunks_are_the_whole_in_memory_of_2000(tmp_path: Path) -> None:
    rng, neurons = np.random.default_rng(0), np.ones(5)
    lif = nir.LIF(2 * neurons, neurons, 0 * neurons, neurons, v_reset=0 * neurons)
    nir.write(tmp_path / "x.nir", nir.NIRGraph.from_list(nir.Linear(rng.normal(size=(5, 128))), lif))
    options = resformer.CompileOptions(dt=1.0, timesteps=T, input_kind="frames")
    compiled = resformer.compile(tmp_path / "x.nir", target="sim", options=options)
    whole = np.concatenate(list(frames_of(STEPS)))
    expected = compiled.run(whole.reshape(-1, T, 128), backend="sim")
    seen, peaks = 0, []
    for steps in (2_000, STEPS):
        tracemalloc.start()
        for part in compiled.stream((each.reshape(-1, 128) for each in frames_of(steps)), backend="sim"):
            if steps == STEPS:
                stop = seen + len(part.predictions)
                np.testing.assert_array_equal(part.logits_int, expected.logits_int[seen:stop])
                np.testing.assert_array_equal(part.logits, expected.logits[seen:stop])
                np.testing.assert_array_equal(part.predictions, expected.predictions[seen:stop])
                seen = stop
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert seen == STEPS // T == len(expected.predictions)
    assert 0.1 < expected.logits_int.mean() < 0.9, "the spikes of its last population"
    assert peaks[1] < 1.2 * peaks[0] + 2**18, "memory grows with the recording"


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_stream_through_lava_is_the_whole(at_once: int) -> None:
    pytest.importorskip("lava")
    program, net = tiny_resformer(timesteps=5)
    assert program.latency % 5, "the first samples would leave as a batch ends"
    samples = net.samples(11, timesteps=5)
    expected = reference.run(program, samples, record=True)
    cuts = [samples[start : start + at_once] for start in range(0, 11, at_once)]
    # a batch may be smaller than the others, or empty
    parts = list(LavaBackend.stream(program, [*cuts[:1], samples[:0], *cuts[1:]], at_once=at_once, record=True))
    assert len(parts) > 1
    np.testing.assert_array_equal(joined(parts, "logits"), expected.logits)
    for name, train in expected.spikes.items():
        found = np.concatenate([part.spikes[name].dense() for part in parts], axis=1)
        np.testing.assert_array_equal(found, train.dense(), err_msg=name)
    for name, values in expected.graded.items():
        np.testing.assert_array_equal(np.concatenate([part.graded[name] for part in parts], axis=1), values)
    for name in parts[0].saturated:
        assert sum(part.saturated[name] for part in parts) == expected.saturated[name], name
    assert sum(expected.saturated[name] for name in parts[0].saturated) > 0


def joined(parts: list[Trace], name: str) -> np.ndarray[Any, Any]:
    return np.concatenate([getattr(part, name) for part in parts], axis=1)


def test_a_long_stream_through_lava_stays_in_its_rings() -> None:
    pytest.importorskip("lava")
    net = ProgramBuilder((2, 4, 4))
    x = net.lif("lif", net.conv("conv", "input", 3))
    net.dense("classifier", net.flatten("flatten", x), 5)
    program = net.finish(timesteps=T)
    samples = net.samples(500, timesteps=T)
    expected = reference.run(program, samples).logits
    batches = (samples[start : start + 20] for start in range(0, 500, 20))
    parts = list(LavaBackend.stream(program, batches, at_once=20))
    assert max(part.logits.shape[1] for part in parts) <= 21
    np.testing.assert_array_equal(joined(parts, "logits"), expected)
    assert expected.any()


def test_lava_and_sim_stream_the_same(events: Tiny) -> None:
    pytest.importorskip("lava")
    compiled = resformer.load(events.build)
    found: dict[str, list[Any]] = {}
    for backend in ("lava", "sim", "reference"):
        parts = list(compiled.stream(frames_of(38, 5), backend=backend, batch_size=2, record=True))
        found[backend] = [np.concatenate([part.logits_int for part in parts])]
        for name in parts[0].spikes:
            found[backend].append(np.concatenate([part.spikes[name].by_sample() for part in parts]))
    for backend in ("lava", "sim"):
        assert len(found[backend]) == len(found["reference"]) > 10
        for one, other in zip(found[backend], found["reference"], strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(found["sim"][0]) == 10, "38 steps are 9 samples and a half"


@pytest.mark.parametrize("cut", [1, 3, 8, 50])
def test_windows_do_not_depend_on_how_chunks_are_cut(cut: int) -> None:
    program = ProgramBuilder((2, 3, 3))
    program.conv("conv", "input", 1)
    scheduled = program.finish(timesteps=4)
    frames = np.arange(30 * 18).reshape(30, 2, 3, 3)
    found = list(windows(scheduled, (frames[start : start + cut] for start in range(0, 30, cut)), 3))
    assert [len(each) for each in found] == [3, 3, 2]
    together = np.concatenate(found).reshape(-1, 2, 3, 3)
    np.testing.assert_array_equal(together[:30], frames)
    assert not together[30:].any()
    with_empty_chunks = list(windows(scheduled, [frames[:0], frames, frames[:0]], 3))
    np.testing.assert_array_equal(np.concatenate(with_empty_chunks).reshape(-1, 2, 3, 3), together)


def test_a_giver_of_chunks_may_fill_one_array_again_and_again() -> None:
    program = ProgramBuilder((2, 3, 3))
    program.conv("conv", "input", 1)
    frames = np.arange(24 * 18).reshape(24, 2, 3, 3)

    def filled_again() -> Iterator[np.ndarray[Any, Any]]:
        array = np.empty_like(frames[:3])
        for start in range(0, 24, 3):
            array[:] = frames[start : start + 3]
            yield array

    found = np.concatenate(list(windows(program.finish(timesteps=4), filled_again(), 3)))
    np.testing.assert_array_equal(found.reshape(frames.shape), frames)


def test_chunks_that_do_not_fit_are_refused(events: Tiny) -> None:
    compiled = resformer.load(events.build)
    for chunks, says in (
        ([np.zeros((4, 2, 8, 8)), np.zeros((4, 2, 8, 8), np.uint8)], "chunk 1: the type is uint8"),
        ([np.zeros((4, 1, 2, 8, 8))], "chunk 0: the shape is"),
        ([np.full((4, 2, 8, 8), np.nan)], "NaN"),
        ([], "holds no frames"),
        ([np.zeros((0, 2, 8, 8))], "holds no frames"),
    ):
        with pytest.raises(InputError, match=says):
            list(compiled.stream(chunks, backend="sim"))
    with pytest.raises(InputError, match="of recordings of event cameras"):
        compiled.stream([], binning=Binning())


@pytest.fixture
def pixels(tmp_path: Path) -> resformer.Compiled:
    """A network of values, 5 a step, in samples of T steps."""
    content = chain((5,), nir.Linear(np.random.default_rng(0).normal(size=(3, 5))), lif((3,)))
    options = resformer.CompileOptions(dt=1e-4, timesteps=T)
    return resformer.compile(write(tmp_path / "x.nir", content), target="sim", options=options)


def test_spikes_as_integers_may_be_silent_for_a_while(pixels: resformer.Compiled) -> None:
    spikes = (np.random.default_rng(1).random((8, T, 5, 1, 1)) < 0.5).astype(np.int64)
    spikes[2:4] = 0
    expected = pixels.run(spikes)
    parts = list(pixels.stream([spikes.reshape(-1, 5, 1, 1)], batch_size=1))
    np.testing.assert_array_equal(np.concatenate([part.logits_int for part in parts]), expected.logits_int)
    spikes[6, 1, 0] = 2
    with pytest.raises(InputError, match="the type is int64, expected floating point"):
        list(pixels.stream([spikes.reshape(-1, 5, 1, 1)], batch_size=1))


def test_what_rounding_costs_is_told_once(tmp_path: Path) -> None:
    content = chain((5,), nir.Linear(np.eye(3, 5)), lif((3,)))
    options = resformer.CompileOptions(dt=1e-4, timesteps=T, input_kind="frames")
    compiled = resformer.compile(write(tmp_path / "x.nir", content), target="sim", options=options)
    frames = np.random.default_rng(1).random((8 * T, 5, 1, 1))
    frames[:T] = 0  # nothing is lost of the first part
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert len(list(compiled.stream([frames], batch_size=1))) == 8
    assert [str(each.message)[:37] for each in seen if each.category is SampleWarning] == [
        "recording: the build rounds its input"
    ]


def test_a_file_streams_as_it_runs(events: Tiny, tmp_path: Path) -> None:
    compiled, binning = resformer.load(events.build), Binning(bin_us=500, sensor=(8, 8))
    write_npz(tmp_path / "x.npz", some_events(5000, (8, 8)))
    expected = compiled.run(compiled.read(tmp_path / "x.npz", binning=binning), backend="sim")
    parts = list(compiled.stream(tmp_path / "x.npz", binning=binning, backend="sim", batch_size=7))
    assert len(parts) == -(-len(expected.predictions) // 7) > 5
    np.testing.assert_array_equal(np.concatenate([part.logits_int for part in parts]), expected.logits_int)
    np.save(tmp_path / "frames.npy", np.concatenate(list(frames_of(40))))
    (part,) = compiled.stream(tmp_path / "frames.npy", backend="sim")
    assert len(part.predictions) == 10
