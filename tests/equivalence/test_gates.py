"""Gates of spikes: their definition against plain Python, and E2 of every backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resformer.compiler.backends import open_backend
from resformer.compiler.chips.chip import load_chip
from resformer.compiler.files.program import read_program, write_program
from resformer.compiler.ir import reference
from resformer.compiler.ir.ops import SpikeGate
from resformer.compiler.ir.program import Program
from resformer.compiler.placement.place import place
from resformer.errors import UnsupportedError
from support.compare import first_difference
from support.networks import with_input_range
from support.program_builder import ProgramBuilder
from support.sim_runs import assert_sim_is_the_reference
from support.traces import assert_same_trace


def gated(inputs: int = 2, *, seed: int = 0, timesteps: int = 4, vth: int | None = None) -> tuple[Program, np.ndarray]:
    """Populations that fire often, a gate of them, and synapses behind it."""
    net = ProgramBuilder((3, 5, 4), seed)
    names = [net.lif(f"lif{index}", net.conv(f"conv{index}", "input", 6)) for index in range(inputs)]
    op = SpikeGate.of("and", len(names))
    gate = net.add("gate", op if vth is None else replace(op, vth=vth), *names)
    net.conv("after", net.lif("last", net.conv("behind", gate, 5)), 4)
    return net.finish(timesteps=timesteps), net.samples(3, timesteps=timesteps)


def test_it_fires_where_all_inputs_do() -> None:
    program, samples = gated(3)
    trace = reference.run(program, samples, record=True)
    inputs = [trace.spikes[f"lif{index}"].dense() for index in range(3)]
    made = trace.spikes["gate"].dense()
    expected = [all(fired) for fired in zip(*(each.reshape(-1).tolist() for each in inputs), strict=True)]
    assert made.reshape(-1).tolist() == expected
    assert 0 < sum(expected) < len(expected)


@settings(max_examples=15)
@given(inputs=st.integers(2, 4), seed=st.integers(0, 2**16), timesteps=st.integers(1, 4))
def test_sim(inputs: int, seed: int, timesteps: int) -> None:
    assert_sim_is_the_reference(*gated(inputs, seed=seed, timesteps=timesteps))


@pytest.mark.parametrize("vth", [2, 2**15, 2**16, 2**40])
def test_thresholds_out_of_reach(vth: int) -> None:
    """Two spikes exceed none of these thresholds, however many bits a kernel compares."""
    program, samples = gated(vth=vth)
    trace = assert_sim_is_the_reference(program, samples)
    assert trace.spikes["gate"].count == 0


@pytest.mark.parametrize("backend", ["lava", "onnx"])
@pytest.mark.parametrize("vth", [2**16, 2**40])
def test_thresholds_out_of_reach_on_others(vth: int, backend: str) -> None:
    pytest.importorskip({"lava": "lava", "onnx": "onnxruntime"}[backend])
    program, samples = gated(vth=vth)
    program = with_input_range(program, samples)
    expected = reference.run(program, samples, record=True)
    assert_same_trace(open_backend(backend)(program, samples, record=True), expected)


@pytest.mark.parametrize("backend", ["lava", "onnx"])
def test_backends(backend: str) -> None:
    pytest.importorskip({"lava": "lava", "onnx": "onnxruntime"}[backend])
    program, samples = gated(3, timesteps=3)
    program = with_input_range(program, samples)
    expected = reference.run(program, samples, record=True)
    assert_same_trace(open_backend(backend)(program, samples, record=True), expected)


def test_files_and_cores(tmp_path: Path) -> None:
    program, _ = gated()
    write_program(program, tmp_path / "program")
    assert first_difference(read_program(tmp_path / "program"), program) is None
    (placed,) = (each for each in place(program, load_chip("loihi2")).layers if each.population.name == "gate")
    assert placed.population.kind == "gate"
    assert [edge.source for edge in placed.population.edges] == ["lif0", "lif1"]
    assert not placed.population.graded


def test_what_is_no_spike_is_refused() -> None:
    net = ProgramBuilder((3, 5, 4))
    net.add(
        "gate",
        SpikeGate.of("and", 2),
        net.lif("lif", net.conv("conv", "input", 3)),
        net.relay("graded", "input", limit=9),
    )
    with pytest.raises(AssertionError, match="gate: reads a graded, where it takes spikes"):
        net.finish()


def test_lava_connects_two_ports_once() -> None:
    pytest.importorskip("lava")
    net = ProgramBuilder((3, 5, 4))
    spikes = net.lif("lif", net.conv("conv", "input", 3))
    net.add("gate", SpikeGate.of("and", 2), spikes, spikes)
    program = net.finish(timesteps=1)
    with pytest.raises(UnsupportedError, match="gate: reads a population twice"):
        open_backend("lava")(program, net.samples(1))
