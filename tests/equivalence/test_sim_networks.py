"""E2, whole networks: sim against the reference interpreter."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resformer.compiler.ir import reference
from resformer.models.spikingresformer import SpikingResformer
from support.networks import compiled, images, with_input_range
from support.program_builder import tiny_resformer
from support.sim_runs import assert_same_as, assert_sim_is_the_reference, sim_backend, threads


@pytest.mark.parametrize("timesteps", range(1, 9))
def test_saturating_networks(timesteps: int) -> None:
    """Static images at odd numbers of steps, event frames at even ones."""
    program, net = tiny_resformer(timesteps=timesteps)
    samples = net.samples(5, timesteps=None if timesteps % 2 else timesteps)
    expected = assert_sim_is_the_reference(program, samples)
    assert sum(expected.saturated.values()) > 100
    assert assert_sim_is_the_reference(with_input_range(program, samples), samples).logits.any()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stem": "conv3x3", "planes": (32, 48), "num_heads": (2, 3), "group_sizes": (32, 16)},
        {"stem": "conv3x3", "neuron": "PLIF", "timesteps": 6},
        {"planes": (64, 128), "num_heads": (1, 2), "ffn_ratios": (4, 4), "group_sizes": (64, 64), "timesteps": 5},
        {"timesteps": 8, "image_size": 32, "in_channels": 3},
    ],
    ids=lambda fields: "_".join(map(str, fields.values())) or "default",
)
def test_compiled_networks(make_model: Callable[..., SpikingResformer], tmp_path: Path, fields: dict[str, Any]) -> None:
    """Compiled networks of tau = 2 and of PLIF, for images and for frames."""
    program = compiled(make_model(**fields), tmp_path)
    steps = program.timesteps if program.metadata.get("input") == "frames" else None
    samples = images(program, 3, steps)
    expected = assert_sim_is_the_reference(program, samples)
    firing = [0 < train.count < train.size for train in expected.spikes.values()]
    assert sum(firing) > 0.8 * len(firing)


def test_batches_of_any_size(make_model: Callable[..., SpikingResformer], tmp_path: Path) -> None:
    """Each sample's logits are the same, whatever the number of threads, the batch size and the samples beside it."""
    program = compiled(make_model(), tmp_path)
    samples = images(program, 7)
    expected = reference.run(program, samples, record=True)
    for count in (1, 2, 3):
        with threads(count):
            backend = sim_backend()
            for batch_size in (None, 1, 2, 3, 100):
                for record in (True, False):
                    done: list[tuple[int, int]] = []
                    trace = backend.run(
                        program,
                        samples,
                        record=record,
                        batch_size=batch_size,
                        progress=lambda *each, done=done: done.append(each),
                    )
                    assert_same_as(trace, expected, record=record)
                    assert done == sorted(done)
                    assert done[-1] == (7, 7)
                    assert batch_size is None or len(done) >= -(-7 // batch_size)


def test_no_samples(make_model: Callable[..., SpikingResformer], tmp_path: Path) -> None:
    program = compiled(make_model(), tmp_path)
    trace = sim_backend().run(program, images(program, 0), record=True)
    assert trace.logits.shape == (4, 0, 5)
    assert all(train.shape[:2] == (4, 0) for train in trace.spikes.values())


def test_one_backend_runs_several_programs(make_model: Callable[..., SpikingResformer], tmp_path: Path) -> None:
    """It also runs frames after images: nothing of one run stays in the next."""
    programs = [compiled(make_model(seed=seed), tmp_path) for seed in (1, 2)]
    backend = sim_backend()
    for program in (*programs, *programs):
        for steps in (None, 4):
            samples = images(program, 2, steps)
            expected = reference.run(program, samples)
            assert_same_as(backend.run(program, samples), expected, record=False)
