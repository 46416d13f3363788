"""The comparison of recordings with our spikes, on a checkout made here from numbers restated here."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from support.net_files import dense, lava_spikes, neurons, pixels, write_net

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def silicon() -> ModuleType:
    """The benchmark's module, which is part of no package."""
    spec = importlib.util.spec_from_file_location("silicon_spikes", BENCHMARKS / "silicon_spikes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


WEIGHT = np.array([[-6, 12, 8], [14, 4, 6]])
GIVEN, BIAS, STEPS, INTERVAL = np.array([9, 30, 14]), np.array([8, 6]), 13, 5


def states(currents: np.ndarray, first: int, bias: np.ndarray) -> np.ndarray:
    """(STEPS, F), spikes of neurons that are reset at ``first`` and every INTERVAL steps from there."""
    bounds = [0, *range(first or INTERVAL, STEPS, INTERVAL), STEPS]
    parts = [
        lava_spikes(currents[start:stop], i_decay=4096, v_decay=1024, vth=25, bias=bias)
        for start, stop in itertools.pairwise(bounds)
    ]
    return np.concatenate(parts)


def test_layers_run_on_from_sample_to_sample(silicon: ModuleType, tmp_path: Path) -> None:
    own = neurons(vDecay=1024, vThMant=25)
    path = write_net(tmp_path / "x.net", pixels(3, **own), dense(WEIGHT, neuron=own, bias=BIAS), steps=INTERVAL)
    program = silicon.compile_network(path).program
    ours = silicon.run_on(program, GIVEN.reshape(3, 1, 1), INTERVAL, STEPS)
    first = states(np.tile(GIVEN, (STEPS, 1)), 0, np.zeros(3, dtype=np.int64))
    currents = np.concatenate([np.zeros((1, 2), dtype=np.int64), first[:-1] @ WEIGHT.T])
    second = states(currents, 1, BIAS)
    assert first.any()
    assert (second != states(currents, 0, BIAS)).any()  # resets at the layer's own steps make a difference
    np.testing.assert_array_equal(ours["layer.0.neuron"].spikes.reshape(STEPS, 3), first)
    np.testing.assert_array_equal(ours["layer.1.neuron"].spikes.reshape(STEPS, 2), second)
    np.testing.assert_array_equal(ours["layer.1.neuron"].u.reshape(STEPS, 2), 64 * currents)
    # the potential of a neuron that fired is silicon's mark for it
    v = ours["layer.1.neuron"].v.reshape(STEPS, 2)
    assert (v[second > 0] == 128).all()


def test_recordings_are_turned_to_channels_first(silicon: ModuleType, tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # width, height, channels, steps
    np.save(tmp_path / "x.npy", array)
    made = silicon.recorded(tmp_path / "x.npy")
    assert made.shape == (5, 4, 3, 2)
    assert made[4, 3, 2, 1] == array[1, 2, 3, 4]
    (tmp_path / "y.npy").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert silicon.recorded(tmp_path / "y.npy") is None
    assert silicon.recorded(tmp_path / "z.npy") is None


def test_every_differing_value_is_counted(silicon: ModuleType) -> None:
    mine = np.zeros((4, 2), dtype=np.int64)
    theirs = mine.copy()
    theirs[1, 0] = theirs[3, 1] = 1
    row = silicon._row("conv-0", "spikes", mine, theirs)
    assert (row.steps, row.compared, row.differing) == (4, 8, 2)
    absent = silicon._row("conv-0", "u", mine, None)
    assert (absent.compared, absent.note) == (None, "not in this checkout")
    *_, total = silicon.table([row, absent])
    assert total[3:5] == ("8", "2")


def test_the_nir_papers_neuron(silicon: ModuleType, tmp_path: Path) -> None:
    given = np.zeros(60, dtype=np.int64)
    given[[3, 5, 6, 8, 9, 11, 20, 21, 22, 30, 31]] = 1
    late = np.concatenate([[0], given[:-1]])[:, None]
    fired = lava_spikes(10 * late, i_decay=4096, v_decay=163, vth=25)[:, 0]
    assert 0 < fired.sum() < 11
    path = tmp_path / "lif.net"
    silicon.write_neuron(path)
    program = silicon.compile_network(path, silicon.CompileOptions(timesteps=60)).program
    states = silicon._states(silicon.populations(program)[0], 10 * late.reshape(-1, 1, 1, 1), 0, None)
    np.testing.assert_array_equal(states.spikes.reshape(-1), fired)


def test_a_checkout_without_recordings_is_said(silicon: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / silicon.RECORDED
    folder.mkdir(parents=True)
    for name in ("image", "input", "conv-0"):
        (folder / f"{name}.npy").write_text("version https://git-lfs.github.com/spec/v1\n")
    (row,) = silicon.compare_pilotnet(tmp_path)
    assert (row.compared, row.note) == (None, "not in this checkout")
