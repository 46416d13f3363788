"""Neurons that fire several spikes a step: Sinabs' IAF in numpy, then every backend against the definition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resformer
from resformer.compiler.backends.lava.backend import LavaBackend
from resformer.compiler.files.build import read_build
from resformer.compiler.files.program import read_program, write_program
from resformer.compiler.frontend.nir.importer import import_nir
from resformer.compiler.ir import float_interpreter, reference
from resformer.compiler.ir.ops import MultiSpikeIF
from resformer.compiler.ir.program import Program, may_clip
from resformer.compiler.pipeline import CompileOptions, compile_network
from resformer.compiler.samples.arrays import check_samples
from resformer.compiler.save.build import write_build
from resformer.errors import FileFormatError, InputError, ResformerWarning, UnsupportedError
from resformer.runtime.cli.compile_options import main
from resformer.runtime.cli.run import main as run_main
from resformer.runtime.cli.verify import main as verify_main
from resformer.runtime.run.to_know import NO_SPIKES_OUT, NONE_FIRED
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, ORIGINAL
from resformer.runtime.verify.verify import Comparing, verify
from support.compare import first_difference
from support.networks import with_input_range
from support.nir_files import chain, conv2d, flatten, graph, write
from support.program_builder import ProgramBuilder
from support.sim_runs import assert_sim_is_the_reference
from support.traces import assert_same_trace

STEPS = 6


def iaf(current: np.ndarray, threshold: float, *, most: int | None = None, min_v: float | None = None) -> np.ndarray:
    """Sinabs' IAF with its defaults, MultiSpike and MembraneSubtract, on (N, T, ...): ``sinabs/activation``.

    MultiSpike is ``(v > 0) * div(v, threshold, rounding_mode="trunc")``, MaxSpike that with a limit.
    """
    v, sent = np.zeros_like(current[:, 0]), np.empty_like(current)
    for step in range(current.shape[1]):
        v = v + current[:, step]
        if min_v is not None:
            v = np.maximum(v - min_v, 0) + min_v
        spikes = (v > 0) * np.trunc(v / threshold)
        spikes = spikes if most is None else np.minimum(spikes, most)
        v = v - spikes * threshold
        sent[:, step] = spikes
    return sent


@pytest.mark.parametrize(("most", "min_v"), [(None, None), (None, -1.0), (2, -0.5), (2, None)])
def test_the_float_graph_is_sinabs(tmp_path: Path, most: int | None, min_v: float | None) -> None:
    rng = np.random.default_rng(4)
    path = write(tmp_path / "n.nir", chain((5,), nir.IF(r=np.ones(5), v_threshold=np.full(5, 0.75))))
    imported = import_nir(path, dt=1, timesteps=STEPS, spikes_per_step=255 if most is None else most, min_v=min_v)
    # quarters: sums are exact, and ties many
    samples = rng.integers(-6, 16, (8, STEPS, 5)) / 4
    expected = iaf(samples, 0.75, most=most, min_v=min_v)
    found = float_interpreter.run(imported, samples.reshape(8, STEPS, *imported.input.shape)).numpy()
    np.testing.assert_array_equal(found.swapaxes(0, 1), expected)
    assert expected.max() >= (2 if most else 3)
    assert (expected != iaf(samples, 0.75, most=1)).any()


def alone(seed: int, vth: int, floor: int, most: int, timesteps: int, frames: bool) -> tuple[Program, np.ndarray]:
    net = ProgramBuilder((4, 3, 5), seed)
    net.multi_spike("counts", "input", vth=vth, floor=floor, most=most)
    samples = net.samples(2, timesteps=timesteps if frames else None, largest=3 * vth)
    samples[..., 0], samples[..., 1] = vth, -2 * vth
    return with_input_range(net.finish(timesteps=timesteps), samples), samples


CASES = {
    "seed": st.integers(0, 2**16),
    "vth": st.sampled_from([1, 30, 400, 40000]),
    "floor": st.sampled_from([0, -900, -(2**23) + 1000]),
    "most": st.sampled_from([1, 2, 255]),
    "timesteps": st.integers(1, 6),
    "frames": st.booleans(),
}


@settings(max_examples=25)
@given(**CASES)
def test_backends(**case) -> None:
    pytest.importorskip("onnxruntime")
    from resformer.compiler.backends.onnx import OnnxBackend

    program, samples = alone(**case)
    expected = reference.run(program, samples, record=True)
    assert_sim_is_the_reference(program, samples)
    found = OnnxBackend().run(program, samples, record=True)
    assert_same_trace(found, expected)
    assert found.saturated == expected.saturated
    assert may_clip(program, "counts") or not expected.saturated["counts"]


def test_counts_are_those_of_plain_integers() -> None:
    program, samples = alone(seed=2, vth=30, floor=-900, most=2, timesteps=5, frames=True)
    op = program["counts"].op
    assert isinstance(op, MultiSpikeIF)
    found = reference.run(program, samples, record=True).graded["counts"]
    v, threshold = np.zeros(samples[:, 0].shape, np.int64), 64 * op.vth.astype(np.int64)
    for step in range(5):
        v = v + 64 * samples[:, step].astype(np.int64) + op.bias
        counts = np.zeros_like(v)
        for _ in range(2):
            fires = v >= threshold
            v, counts = v - fires * threshold, counts + fires
        v = np.maximum(v, op.floor)
        np.testing.assert_array_equal(found[step], counts)
    assert set(np.unique(found)) == {0, 1, 2}
    assert_same_trace(LavaBackend().run(program, samples, record=True), reference.run(program, samples, record=True))


def network(folder: Path, **metadata: object) -> Path:
    rng = np.random.default_rng(5)
    each = {"metadata": metadata} if metadata else {}
    nodes = (
        conv2d(rng.normal(size=(4, 2, 3, 3)), rng.normal(size=4), padding=1),
        nir.IF(r=np.ones((4, 4, 4)), v_threshold=np.full((4, 4, 4), 0.8), **each),
        nir.AvgPool2d(kernel_size=np.array([2, 2]), stride=np.array([2, 2]), padding=np.array([0, 0])),
        flatten((4, 2, 2)),
        nir.Linear(rng.normal(size=(6, 16))),
        nir.IF(r=np.full(6, 2.0), v_threshold=np.linspace(0.5, 1.5, 6), **each),
        nir.Linear(rng.normal(size=(3, 6))),
    )
    return write(folder / "network.nir", chain((2, 4, 4), *nodes))


OPTIONS = CompileOptions(timesteps=STEPS, dt=1.0, input_kind="frames", spikes_per_step=7, min_v=-1.0)
SAMPLES = np.random.default_rng(1).integers(0, 3, (3, STEPS, 2, 4, 4)).astype(np.float64)


@pytest.mark.parametrize("backend", ["sim", "lava", "onnx"])
def test_networks_verify(backend: str, tmp_path: Path) -> None:
    path = network(tmp_path)
    write_build(compile_network(path, OPTIONS), tmp_path / "b", ["lava"], OPTIONS)
    build = read_build(tmp_path / "b")
    program = build.program()
    result = verify(build, check_samples(SAMPLES, program, "x"), program, Comparing(backend), model=path)
    assert result.equivalent
    for check in (FLOAT_GRAPH, BACKEND):
        assert result.checks[check].mismatched == 0
        assert set(result.checks[check].layers) == {"n1", "n5"}
    assert result.checks[ORIGINAL].extra["f1"] > 0.9
    counts = reference.run(program, check_samples(SAMPLES, program, "x").real().astype(np.int32), record=True).graded
    assert all(counts[name].max() > 1 for name in ("n1", "n5"))


def test_its_silence_is_told(tmp_path: Path) -> None:
    """A record shows it, and without a record logits that are all zero do."""
    nodes = (nir.Linear(-np.ones((3, 6))), nir.IF(np.ones(3), np.ones(3)), nir.Linear(np.ones((2, 3))))
    path = write(tmp_path / "n.nir", chain((6,), *nodes))
    compiled = resformer.compile(path, target="sim", options=OPTIONS)
    with pytest.warns(ResformerWarning, match=NO_SPIKES_OUT):
        result = compiled.run(np.ones((2, STEPS, 6)))
    assert result.to_know == (NO_SPIKES_OUT,)
    with pytest.warns(ResformerWarning, match=NONE_FIRED):
        compiled.run(np.ones((2, STEPS, 6)), record=True)
    assert ("program", "6 nodes, 3 neurons in 1 population") in compiled.summary()[1]


def test_a_difference_in_a_count_is_seen(tmp_path: Path) -> None:
    """Two spikes instead of one are as wrong as one spike instead of none."""
    # in a single step the same neurons fire, and only how often they fire differs
    options = replace(OPTIONS, timesteps=1)
    path = network(tmp_path)
    write_build(compile_network(path, options), tmp_path / "b", ["sim"], options)
    other = network(tmp_path, spikes_per_step=2)
    build = read_build(tmp_path / "b")
    program = build.program()
    samples = check_samples(SAMPLES[:, :1], program, "x")
    result = verify(build, samples, program, Comparing("sim"), model=other)
    assert not result.equivalent
    (_, mismatched) = result.checks[FLOAT_GRAPH].layers["n1"]
    assert mismatched > 0


def test_metadata_say_it_too_and_files_hold_it(tmp_path: Path) -> None:
    said = compile_network(network(tmp_path, spikes_per_step=7, min_v=-1.0), CompileOptions(**TIME)).program
    given = compile_network(network(tmp_path), OPTIONS).program
    same = [said[name].op for name in ("n1", "n5")], [given[name].op for name in ("n1", "n5")]
    assert [op.facts() for op in same[0]] == [op.facts() for op in same[1]]
    write_program(given, tmp_path / "program")
    assert first_difference(read_program(tmp_path / "program"), given) is None
    multi = compile_network(network(tmp_path, spikes_per_step="multi"), CompileOptions(**TIME)).program["n1"].op
    assert (multi.max_spikes, int(multi.floor.max())) == (255, -(2**23) + 1)


TIME = {"timesteps": STEPS, "dt": 1.0, "input_kind": "frames"}


def test_its_own_file_compiles_again(tmp_path: Path) -> None:
    write_build(compile_network(network(tmp_path), OPTIONS), tmp_path / "b", ["sim"], OPTIONS)
    again = compile_network(tmp_path / "b" / "network.nir").program
    assert first_difference(again, read_build(tmp_path / "b").program()) is None


@pytest.mark.parametrize(
    ("metadata", "options", "words"),
    [
        ({"reset": "soft"}, {"spikes_per_step": 5}, "--spikes-per-step has no effect"),
        ({"spikes_per_step": 2}, {"spikes_per_step": 5}, "--spikes-per-step has no effect"),
        ({}, {"min_v": -1.0}, "--min-v has no effect"),
        ({"spikes_per_step": 2, "min_v": -2.0}, {"min_v": -1.0}, "--min-v has no effect"),
        ({}, {"spikes_per_step": 5, "min_v": 5.0}, "--min-v is 5; give a number no larger than 0"),
        ({}, {"spikes_per_step": 5, "min_v": np.nan}, "--min-v is nan"),
        ({}, {"spikes_per_step": 0}, "--spikes-per-step is 0; give a whole number of 1 to 255"),
        ({}, {"spikes_per_step": 256}, "--spikes-per-step is 256"),
        ({}, {"spikes_per_step": 5, "min_v": -1.0}, None),
        ({"spikes_per_step": 2}, {"min_v": -1.0}, None),
        ({}, {"spikes_per_step": 1}, None),
    ],
)
def test_options_have_an_effect_or_are_refused(
    tmp_path: Path, metadata: dict[str, Any], options: dict[str, Any], words: str | None
) -> None:
    layers = (nir.Linear(np.eye(3)), nir.IF(np.ones(3), np.ones(3), metadata=metadata))
    path = write(tmp_path / "n.nir", chain((3,), *layers))
    if words is None:
        assert compile_network(path, CompileOptions(**TIME, **options)).program.spiking_names == ("n1",)
    else:
        with pytest.raises(InputError, match=words):
            compile_network(path, CompileOptions(**TIME, **options))


def test_what_it_cannot_be_is_refused(tmp_path: Path) -> None:
    cases = (
        (nir.IF(r=-np.ones(3), v_threshold=np.ones(3)), UnsupportedError, "adds -1, and v_threshold is 1"),
        (nir.IF(r=np.ones(3), v_threshold=np.ones(3), v_reset=np.ones(3) / 2), UnsupportedError, "v_reset must be 0"),
        (nir.IF(np.ones(3), np.ones(3), metadata={"spikes_per_step": 999}), FileFormatError, "999 spikes_per_step"),
        (
            nir.IF(np.ones(3), np.ones(3), metadata={"spikes_per_step": 2, "min_v": 1.0}),
            FileFormatError,
            r"min_v is 1\.0",
        ),
    )
    for neurons, kind, words in cases:
        path = write(tmp_path / "n.nir", chain((3,), neurons))
        with pytest.raises(kind, match=words):
            import_nir(path, dt=1, timesteps=2, spikes_per_step=3)
    nodes = {"s": cases[0][0].__class__(np.ones(3), np.ones(3)), "back": nir.Linear(np.eye(3))}
    ring = graph((3,), nodes, [("input", "s"), ("s", "back"), ("back", "s"), ("s", "output")])
    with pytest.raises(UnsupportedError, match="has synapses onto itself"):
        import_nir(write(tmp_path / "r.nir", ring), dt=1, timesteps=2, spikes_per_step=3)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, build = network(tmp_path), tmp_path / "b"
    command = [str(path), "--target", "sim", "--dt", "1", "--timesteps", str(STEPS), "--input-kind", "frames"]
    assert main([*command, "-o", str(build)]) == 0
    assert "Sinabs' IAF fires several spikes a step" in " ".join(capsys.readouterr().out.split())
    assert main([*command, "--spikes-per-step", "multi", "--min-v", "-1", "-o", str(build)]) == 0
    assert "Sinabs" not in capsys.readouterr().out
    np.save(tmp_path / "x.npy", SAMPLES)
    given = ["--input", str(tmp_path / "x.npy"), "--backend", "sim"]
    assert run_main([str(build), *given, "-o", str(tmp_path / "o.npz")]) == 0
    assert verify_main([str(build), *given, "--model", str(path)]) == 0
    capsys.readouterr()
    recorded = tmp_path / "recorded.npz"
    assert run_main([str(build), *given, "--cost", "--record-spikes", "-o", str(recorded)]) == 0
    assert "Synaptic operations" in capsys.readouterr().out
    program = read_build(build).program()
    expected = reference.run(program, check_samples(SAMPLES, program, "x").real().astype(np.int32), record=True).graded
    with np.load(recorded) as arrays:
        for name in ("n1", "n5"):
            np.testing.assert_array_equal(arrays[f"counts/{name}"], expected[name])
    assert run_main([str(build), *given, "--report", str(tmp_path / "page.html")]) == 1
    assert "no page is drawn yet; leave out --report" in capsys.readouterr().err
    assert verify_main([str(build), *given, "--model", str(path), "--local"]) == 1
    assert "leave out --local" in capsys.readouterr().err
