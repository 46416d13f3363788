"""E2 of neurons whose current has a memory: every backend against the reference interpreter, parameters at random."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resformer.compiler.backends.lava.backend import LavaBackend
from resformer.compiler.files.program import read_program, write_program
from resformer.compiler.ir import reference
from resformer.compiler.ir.ops import SampleDelay
from resformer.compiler.ir.program import Program, may_clip
from resformer.compiler.ir.signal import SPIKE
from resformer.compiler.target import LOIHI
from support.clocked import run_clocked
from support.compare import first_difference
from support.networks import with_input_range
from support.program_builder import ProgramBuilder
from support.sim_runs import assert_sim_is_the_reference
from support.traces import assert_same_trace

SEEDS = st.integers(0, 2**16)
SPREADS = st.tuples(st.booleans(), st.booleans(), st.booleans())
Spiking = {
    "seed": SEEDS,
    "spread": SPREADS,
    "vth": st.sampled_from([0, 30, 400, LOIHI.vth_mantissa_max]),
    "du": st.sampled_from([0, 1, 1000, 4094, 4095]),
    "dv": st.sampled_from([0, 1, 500, 2048, 4095, 4096]),
    "bias": st.sampled_from([0, 3000, LOIHI.v_max]),
    "soft": st.booleans(),
    "scale": st.sampled_from([40, 2**13, LOIHI.accumulator_max]),
    "timesteps": st.integers(1, 6),
    "recurrent": st.none()
    | st.fixed_dictionaries(
        {
            "kernel": st.sampled_from([(1, 1), (3, 1), (3, 3)]),
            "groups": st.sampled_from([1, 2, 4]),
            "weight_bits": st.sampled_from([8, 9, 12, 15]),
        }
    ),
}


def neurons_alone(seed, spread, vth, du, dv, bias, soft, scale, timesteps, recurrent) -> tuple[Program, np.ndarray]:
    """Neurons that read the input itself; it holds ties and the most extreme values."""
    net = ProgramBuilder((4, 3, 5), seed)
    options = {"vth": vth, "du": du, "dv": dv, "bias": bias, "soft_reset": soft, "spread": spread}
    net.cuba_lif("cuba", "input", **options, **(recurrent or {}))
    samples = net.samples(2, timesteps=timesteps, largest=scale)
    samples[..., 0] = np.clip(vth, 0, scale)
    samples[..., 1] = -scale
    return with_input_range(net.finish(timesteps=timesteps), samples), samples


def prompt_neurons(seed, dv, timesteps, frames) -> tuple[Program, np.ndarray]:
    """Neurons given up to three thresholds a step, ties among them, so that some stay above the threshold."""
    net = ProgramBuilder((4, 3, 5), seed)
    net.cuba_lif("cuba", "input", vth=400, du=4095, dv=dv, bias=0, soft_reset=True, prompt=True)
    samples = net.samples(2, timesteps=timesteps if frames else None, largest=1200)
    samples[..., 0], samples[..., 1] = 400, 800
    return with_input_range(net.finish(timesteps=timesteps), samples), samples


Prompt = {
    "seed": SEEDS,
    "dv": st.sampled_from([0, 500, 2048]),
    "timesteps": st.integers(2, 6),
    "frames": st.booleans(),
}


@settings(max_examples=15)
@given(**Prompt)
def test_neurons_that_reset_promptly(**case) -> None:
    pytest.importorskip("onnxruntime")
    from resformer.compiler.backends.onnx import OnnxBackend

    program, samples = prompt_neurons(**case)
    assert_sim_is_the_reference(program, samples)
    assert_same_trace(OnnxBackend().run(program, samples, record=True), reference.run(program, samples, record=True))


def test_neurons_that_reset_promptly_are_no_others() -> None:
    """In plain integers: a neuron above its threshold before a step fires only above twice the threshold."""
    program, samples = prompt_neurons(seed=3, dv=500, timesteps=6, frames=True)
    found = reference.run(program, samples, record=True).spikes["cuba"].dense()
    op = program["cuba"].op
    u = v = np.zeros(samples[:, 0].shape, np.int64)
    differ = 0
    for step, spikes in enumerate(found):
        above = v > 64 * op.vth
        u = np.trunc(u * (4095 - op.du) / 4096).astype(np.int64) + 64 * samples[:, step]
        charged = np.trunc(v * (4096 - op.dv) / 4096).astype(np.int64) + u
        fired = charged - above * op.v_drop > 64 * op.vth
        np.testing.assert_array_equal(spikes, fired)
        differ += int((fired != (charged > 64 * op.vth)).sum())
        v = charged - fired * op.v_drop
    assert differ, "as a soft reset has it"
    assert_same_trace(LavaBackend().run(program, samples, record=True), reference.run(program, samples, record=True))


@settings(max_examples=40)
@given(**Spiking)
def test_neurons_in_sim(**case) -> None:
    assert_sim_is_the_reference(*neurons_alone(**case))


@settings(max_examples=40)
@given(**Spiking)
def test_neurons_in_onnx_runtime(**case) -> None:
    pytest.importorskip("onnxruntime")
    from resformer.compiler.backends.onnx import OnnxBackend

    program, samples = neurons_alone(**case)
    expected = reference.run(program, samples, record=True)
    trace = OnnxBackend().run(program, samples, record=True)
    assert trace.saturated == expected.saturated
    assert_same_trace(trace, expected)


def integrators(seed, du, dv, bias, scale, timesteps, frames) -> tuple[Program, np.ndarray]:
    """Neurons that do not fire, as the last layer; even with one static frame they change from step to step."""
    net = ProgramBuilder((4, 3, 5), seed)
    net.cuba_li("cuba", "input", du=du, dv=dv, bias=bias)
    samples = net.samples(2, timesteps=timesteps if frames else None, largest=scale)
    samples[..., 1] = -scale
    return with_input_range(net.finish(timesteps=timesteps), samples), samples


INTEGRATORS = {key: Spiking[key] for key in ("seed", "du", "dv", "bias", "scale", "timesteps")} | {
    "frames": st.booleans()
}


@settings(max_examples=20)
@given(**INTEGRATORS)
def test_integrators_in_sim(**case) -> None:
    assert_sim_is_the_reference(*integrators(**case))


@settings(max_examples=20)
@given(**INTEGRATORS)
def test_integrators_in_onnx_runtime(**case) -> None:
    pytest.importorskip("onnxruntime")
    from resformer.compiler.backends.onnx import OnnxBackend

    program, samples = integrators(**case)
    expected = reference.run(program, samples, record=True)
    trace = OnnxBackend().run(program, samples, record=True)
    assert trace.saturated == expected.saturated
    assert_same_trace(trace, expected)


@pytest.mark.parametrize("scale", [40, LOIHI.accumulator_max])
def test_integrators_in_lava(scale: int) -> None:
    case = {"seed": 2, "du": 1000, "dv": 300, "bias": 3000, "timesteps": 4, "frames": True}
    program, samples = integrators(**case, scale=scale)
    expected = reference.run(program, samples, record=True)
    assert bool(expected.saturated["cuba"]) == (scale > 40)
    assert_same_trace(run_clocked(program, samples), expected)
    trace = LavaBackend().run(program, samples, record=True)
    assert trace.saturated == expected.saturated
    assert_same_trace(trace, expected)


def delays(seed, most, of_spikes, frames, spread, timesteps) -> tuple[Program, np.ndarray]:
    """Delays of pixels or spikes by 0 to ``most`` steps, maybe more than a sample has, and synapses behind them."""
    net = ProgramBuilder((4, 3, 5), seed)
    source = net.lif("lif", "input", vth=10) if of_spikes else "input"
    held = tuple(size if varies else 1 for size, varies in zip((4, 3, 5), spread, strict=True))
    signal = net.nodes[source].op.signal
    wait = net.add("wait", SampleDelay(signal, net.rng.integers(0, most + 1, held).astype(np.int32)), source)
    net.plus("add", net.conv("conv", wait, 3), net.conv("other", source, 3))
    samples = net.samples(3, timesteps=timesteps if frames else None, largest=60)
    return with_input_range(net.finish(timesteps=timesteps), samples), samples


DELAYS = {
    "seed": SEEDS,
    "most": st.integers(0, 9),
    "of_spikes": st.booleans(),
    "frames": st.booleans(),
    "spread": SPREADS,
    "timesteps": st.integers(1, 6),
}


@settings(max_examples=20)
@given(**DELAYS)
def test_delays_in_sim(**case) -> None:
    program, samples = delays(**case)
    assert_same_trace(run_clocked(program, samples), assert_sim_is_the_reference(program, samples))


@settings(max_examples=20)
@given(**DELAYS)
def test_delays_in_onnx_runtime(**case) -> None:
    pytest.importorskip("onnxruntime")
    from resformer.compiler.backends.onnx import OnnxBackend

    program, samples = delays(**case)
    assert_same_trace(OnnxBackend().run(program, samples, record=True), reference.run(program, samples, record=True))


@pytest.mark.parametrize("of_spikes", [True, False])
def test_delays_in_lava(of_spikes: bool) -> None:
    """Three samples run back to back, so that a delayed value of one could reach the next."""
    case = {"seed": 4, "most": 4, "frames": True, "spread": (True, True, False), "timesteps": 4}
    program, samples = delays(**case, of_spikes=of_spikes)
    assert_same_trace(LavaBackend().run(program, samples, record=True), reference.run(program, samples, record=True))


@settings(max_examples=100)
@given(**Spiking)
def test_what_cannot_saturate_does_not(**case) -> None:
    program, samples = neurons_alone(**case)
    saturates = reference.run(program, samples).saturated["cuba"]
    assert may_clip(program, "cuba") or not saturates


@settings(max_examples=100)
@given(**INTEGRATORS)
def test_which_integrators_saturate_is_known(**case) -> None:
    """Given extreme inputs at all steps, integrators saturate if and only if the bounds say that they may."""
    program, samples = integrators(**case)
    bounds = program.input.op.signal
    extremes = np.stack([np.full_like(samples[0], bounds.low), np.full_like(samples[0], bounds.high)])
    assert may_clip(program, "cuba") == bool(reference.run(program, extremes).saturated["cuba"])


def test_neurons_that_leak_enough_cannot_saturate() -> None:
    """An input of a at each step gathers to 2 a in u and 4 a in v, in 64ths."""
    for largest, soft, expected in ((2**15 - 1, True, False), (2**15 + 1, True, True), (2**16, False, True)):
        net = ProgramBuilder((1, 1, 1))
        neurons = net.cuba_lif("cuba", "input", vth=2**17 - 1, du=0, dv=0, bias=0, soft_reset=soft)
        half = {"du": np.full((1, 1, 1), 2047, np.int16), "dv": np.full((1, 1, 1), 2048, np.int16)}
        fixed = {"vth": np.full((1, 1, 1), 2**17 - 1, np.int32), "v_drop": np.full((1, 1, 1), soft, np.int32)}
        net.nodes[neurons] = replace(net.nodes[neurons], op=replace(net.nodes[neurons].op, **half, **fixed))
        samples = np.full((1, 1, 1, 1), largest if soft else -largest, np.int32)
        program = with_input_range(net.finish(timesteps=60), samples)
        assert may_clip(program, "cuba") == expected
        assert bool(reference.run(program, samples).saturated["cuba"]) == expected


def network(*, soft: bool) -> tuple[Program, np.ndarray]:
    """Neurons of each kind behind one another, beside a path that must wait, and between layers of different shapes."""
    net = ProgramBuilder((2, 4, 5), seed=3)
    current = net.conv("conv", "input", 3, (2, 3))
    first = net.cuba_lif("first", current, vth=700, soft_reset=soft, kernel=(3, 1))
    second = net.conv("second", first, 3, (3, 3), padding=(1, 1))
    again = net.cuba_lif("again", net.plus("add", second, net.conv("short", first, 3)), spread=(True, False, False))
    last = net.cuba_lif("last", net.dense("dense", net.flatten("flatten", again), 6), du=4095, soft_reset=not soft)
    net.cuba_li("readout", net.dense("to_readout", last, 4))
    return net.finish(timesteps=5), net.samples(3, timesteps=5)


@pytest.mark.parametrize("soft", [True, False])
def test_networks_in_lava(soft: bool) -> None:
    program, samples = network(soft=soft)
    expected = reference.run(program, samples, record=True)
    for name in program.lif_names:
        assert 0.02 < expected.spikes[name].dense().mean() < 0.98, f"{name} shows nothing"
    assert_same_trace(run_clocked(program, samples), expected)
    assert_same_trace(LavaBackend().run(program, samples, record=True), expected)


def test_lava_counts_what_it_clips() -> None:
    case = {"seed": 1, "spread": (True, True, True), "vth": 400, "du": 0, "dv": 0, "bias": 3000, "timesteps": 3}
    recurrent = {"kernel": (3, 3), "groups": 2}
    program, samples = neurons_alone(**case, soft=True, scale=LOIHI.accumulator_max, recurrent=recurrent)
    expected = reference.run(program, samples, record=True)
    assert expected.saturated["cuba"]
    trace = LavaBackend().run(program, samples, record=True)
    assert trace.saturated == expected.saturated
    assert_same_trace(trace, expected)


def test_files_hold_them(tmp_path: Path) -> None:
    program, _ = network(soft=True)
    write_program(program, tmp_path / "program")
    assert first_difference(read_program(tmp_path / "program"), program) is None
    assert program["first"].op.signal == SPIKE


@pytest.mark.parametrize("backend", ["lava", "clocked"])
def test_spikes_do_not_come_back_in_the_next_sample(backend: str) -> None:
    """All fire at the last step of each sample; such a spike alone would make them fire at the next one's start."""
    net = ProgramBuilder((2, 1, 1))
    neurons = net.cuba_lif("cuba", "input", vth=100, du=4095, dv=0, bias=0, kernel=(1, 1), spread=(False,) * 3)
    op = net.nodes[neurons].op
    net.nodes[neurons] = replace(net.nodes[neurons], op=replace(op, weight=np.full((2, 2, 1, 1), 127, np.int8)))
    samples = np.zeros((3, 3, 2, 1, 1), np.int32)
    samples[:, 2] = 1000
    program = with_input_range(net.finish(timesteps=3), samples)
    expected = reference.run(program, samples, record=True)
    assert expected.spikes["cuba"].dense()[:, :, 0, 0, 0].T.tolist() == [[False, False, True]] * 3
    found = run_clocked(program, samples) if backend == "clocked" else LavaBackend().run(program, samples, record=True)
    assert_same_trace(found, expected)
