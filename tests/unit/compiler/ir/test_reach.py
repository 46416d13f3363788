"""Proofs about populations before anything runs, against what the populations do in a run."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import nir
import numpy as np
import pytest

from resformer.compiler.ir import ops, reference
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.reach import reach, reach_warnings
from resformer.compiler.ir.signal import SPIKE, Signal, SignalKind
from resformer.compiler.pipeline import CompileOptions, compile_nir
from support import nir_files
from support.programs import ProgramByHand

LARGEST = 8
"""The programs here take whole numbers of -8 to 8."""


def one_neuron(vth: int, timesteps: int, *, bias: int = 0, exp: int = 0, dv: int = 2048) -> Program:
    """A LIF behind a synapse of weight one."""
    program = ProgramByHand((1, 1, 1))
    program.conv("synapses", "input", [[[[1]]]])
    program.lif("lif", "synapses", vth, bias=bias, exp=exp, dv=dv)
    program.conv("out", "lif", [[[[1]]]])
    program.output("out")
    return program.finish(timesteps)


def silent(program: Program) -> list[str]:
    return [each.name for each in reach(program).silent]


@pytest.mark.parametrize(("vth", "timesteps", "never"), [(14, 3, True), (13, 3, False), (12, 2, True), (12, 3, False)])
def test_the_largest_potential_within_a_sample(vth: int, timesteps: int, never: bool) -> None:
    """8 in each step makes 8, 12 and 14 of a potential that halves; a spike needs more than the threshold."""
    assert silent(one_neuron(vth, timesteps)) == ["lif"] * never


def test_a_bias_counts() -> None:
    assert silent(one_neuron(14, 3, bias=-1)) == ["lif"]
    assert silent(one_neuron(14, 3, bias=1)) == []
    (found,) = reach(one_neuron(28, 3)).silent
    assert found.share == 0.5


@pytest.mark.parametrize(("vth", "always"), [(11, True), (12, False)])
def test_a_bias_that_fires_whatever_the_input(vth: int, always: bool) -> None:
    """The bias is 20, and the least input takes 8 from it."""
    program = one_neuron(vth, 3, bias=20, exp=6)
    assert reach(program).constant == ("lif",) * always
    assert len(reach_warnings(program)) == always


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_no_sample_says_otherwise(soft: bool, seed: int) -> None:
    """A neuron of random constants on three inputs fires for no sample, or always, exactly if that is proved."""
    rng, timesteps = np.random.default_rng(seed), 4
    weight = rng.integers(-20, 21, (1, 3)).astype(np.int8)
    vth = int(rng.integers(50, 900))

    def drawn(
        low: int, high: int, kind: type[np.signedinteger]
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.signedinteger]]:
        return rng.integers(low, high, (1,)).astype(kind)

    program = ProgramByHand((3,))
    program.dense("synapses", "input", weight)
    neurons = ops.CubaLIF(
        SPIKE,
        vth=np.array([vth], dtype=np.int32),
        v_drop=drawn(32 * vth, 64 * vth, np.int32) if soft else np.zeros(1, dtype=np.int32),
        du=drawn(0, 4096, np.int16),
        dv=drawn(0, 4097, np.int16),
        u_bias=drawn(-3000, 3000, np.int32) + int(rng.integers(2)) * 40000,
        v_bias=drawn(-3000, 3000, np.int32),
        soft_reset=soft,
    )
    program.add("lif", neurons, "synapses")
    program.dense("out", "lif", [[1]])
    program.output("out")
    found = program.finish(timesteps)
    corners = np.array(list(product((-LARGEST, LARGEST), repeat=3)), dtype=np.int64)
    # the same corner in every step: the sum of each step is the most, or the least, that there is
    frames = np.broadcast_to(corners[:, None], (len(corners), timesteps, 3))
    values = (frames @ weight.T.astype(np.int64)).swapaxes(0, 1)
    fired = neurons.evaluate(values).value
    assert silent(found) == ["lif"] * (not fired.any())
    assert reach(found).constant == ("lif",) * bool(fired.all())


def test_each_channel_by_itself() -> None:
    """The channel with the strong synapse has the high threshold: neither can fire."""
    program = ProgramByHand((1, 1, 1))
    program.conv("synapses", "input", [[[[1]]], [[[10]]]])
    vth = np.array([20, 200], dtype=np.int32).reshape(2, 1, 1)
    none, forgets = np.zeros((1, 1, 1), dtype=np.int32), np.full((1, 1, 1), 4095, dtype=np.int16)
    program.add("lif", ops.CubaLIF(SPIKE, vth, none, forgets, forgets, none, none, soft_reset=False), "synapses")
    program.conv("out", "lif", [[[[1]], [[1]]]])
    program.output("out")
    assert silent(program.finish()) == ["lif"]


def test_what_reads_the_silent_is_silent_and_said_apart() -> None:
    program = ProgramByHand((1, 1, 1))
    program.conv("synapses", "input", [[[[1]]]])
    program.lif("first", "synapses", 1000)
    program.conv("more", "first", [[[[100]]]])
    program.lif("second", "more", 50)
    program.conv("out", "second", [[[[1]]]])
    program.output("out")
    found = program.finish()
    assert [(each.name, each.starved) for each in reach(found).silent] == [("first", False), ("second", True)]
    first, second = reach_warnings(found)
    assert first == (
        "no population can ever fire: first: can never fire: the largest potential in 2 steps is 0.012 of the "
        "threshold, whatever the input; look at its weights, biases and threshold"
    )
    assert second == "second: can never fire, since what it would read cannot"


def test_neurons_that_send_counts_are_a_population_too() -> None:
    """They may fire beside a LIF that can never fire, so no warning says that no population can fire."""
    program = ProgramByHand((1, 1, 1))
    program.conv("synapses", "input", [[[[1]]]])
    program.lif("lif", "synapses", 1000)
    one, none = np.ones((1, 1, 1), dtype=np.int32), np.zeros((1, 1, 1), dtype=np.int32)
    counting = ops.MultiSpikeIF(Signal(SignalKind.GRADED, 0), vth=one, floor=none, bias=none, max_spikes=3)
    program.add("counts", counting, "synapses")
    program.conv("one", "lif", [[[[1]]]])
    program.conv("other", "counts", [[[[1]]]])
    program.add("both", ops.Add(Signal(SignalKind.CURRENT, 0)), "one", "other")
    program.output("both")
    (warning,) = reach_warnings(program.finish())
    assert warning.startswith("lif: can never fire: ")


def test_neurons_that_excite_themselves_cannot_begin() -> None:
    """Recurrent synapses bring nothing before a first spike."""
    program = ProgramByHand((1, 1, 1))
    program.conv("synapses", "input", [[[[1]]]])
    one, zero = np.ones((1, 1, 1), dtype=np.int32), np.zeros((1, 1, 1), dtype=np.int32)
    neurons = ops.RecurrentCubaLIF(
        SPIKE,
        vth=one * 17,
        v_drop=zero,
        du=(one * 4095).astype(np.int16),
        dv=(one * 2048).astype(np.int16),
        u_bias=zero,
        v_bias=zero,
        soft_reset=False,
        weight=np.full((1, 1, 1, 1), 100, dtype=np.int8),
        weight_exp=np.zeros(1, dtype=np.int8),
        padding=(0, 0),
        groups=1,
    )
    program.add("lif", neurons, "synapses")
    program.conv("out", "lif", [[[[1]]]])
    program.output("out")
    found = program.finish(timesteps=30)
    assert silent(found) == ["lif"]
    sample = np.full((1, 1, 1, 1), LARGEST)
    assert reference.run(found, sample, record=True).spikes["lif"].count == 0


def integrators(tmp_path: Path) -> Path:
    """Two layers of IF neurons, which fire only with a step of about 0.1 s."""
    rng = np.random.default_rng(0)
    neurons = [nir.IF(r=np.ones(size), v_threshold=np.ones(size), v_reset=np.zeros(size)) for size in (5, 4)]
    layers = [nir.Linear(rng.random((5, 6))), neurons[0], nir.Linear(rng.random((4, 5))), neurons[1]]
    return nir_files.write(tmp_path / "n.nir", nir_files.chain((6,), *layers))


def test_a_step_in_another_unit_names_dt(tmp_path: Path) -> None:
    path = integrators(tmp_path)
    assert compile_nir(path, CompileOptions(dt=0.1, timesteps=8)).warnings == ()
    (warning,) = compile_nir(path, CompileOptions(dt=1e-4, timesteps=8)).warnings
    assert warning.startswith("no population can ever fire: n1, n3: can never fire")
    assert "if --dt (0.0001) is in another unit than the file's, give another, of at least 0.0" in warning
    longer = float(warning.split()[-1])
    # the least step with which all can fire, as far as its two digits go
    assert reach(compile_nir(path, CompileOptions(dt=longer * 1.1, timesteps=8)).program).silent == ()
    assert reach(compile_nir(path, CompileOptions(dt=longer * 0.9, timesteps=8)).program).silent != ()


def test_no_step_is_named_where_none_helps(tmp_path: Path) -> None:
    """The input of these neurons never reaches their threshold, however long a step is."""
    layer = nir.Linear(np.eye(3))
    path = nir_files.write(
        tmp_path / "n.nir", nir_files.chain((3,), layer, nir_files.lif((3,), v_threshold=1e3, reset="hard"))
    )
    (warning,) = compile_nir(path, CompileOptions(dt=1e-5, timesteps=4)).warnings
    assert "n1: can never fire" in warning
    assert "--dt" not in warning


@pytest.mark.parametrize(("dt", "warned"), [(1e-4, False), (2.1e-7, False), (1.9e-7, True)])
def test_a_step_in_which_nothing_leaks(tmp_path: Path, dt: float, warned: bool) -> None:
    """The neurons forget within 0.2 ms, which is a thousand steps of 0.2 us."""
    layer = nir.Linear(np.eye(3) * 1e4)
    path = nir_files.write(tmp_path / "n.nir", nir_files.chain((3,), layer, nir_files.lif((3,), reset="hard")))
    found = compile_nir(path, CompileOptions(dt=dt, timesteps=4))
    assert bool(found.warnings) == warned
    if warned:
        assert "the shortest time constant is 1,053 steps, and a sample has 4" in found.warnings[0]
        assert "give another, such as 1e-05" in found.warnings[0]
    longer = CompileOptions(dt=dt, timesteps=200)
    assert not any("time constant" in each for each in compile_nir(path, longer).warnings)
