"""Recurrent weights of more than eight bits: two synapses each, on every backend, and what they gain."""

from __future__ import annotations

from pathlib import Path

import nir
import numpy as np
import pytest

from resformer.compiler.files.build import Build, read_build
from resformer.compiler.ir.ops import RecurrentCubaLIF, StackedRecurrentCubaLIF
from resformer.compiler.ir.ops.formats import Shapes
from resformer.compiler.ir.primitives import NEURONS, InputKind
from resformer.compiler.pipeline import CompileOptions, compile_nir
from resformer.compiler.quantize.choose import QuantizationConfig
from resformer.compiler.samples.arrays import check_samples
from resformer.compiler.save.build import write_build
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH
from resformer.runtime.verify.verify import Comparing, verify
from support.nir_files import cuba_lif, graph, write

SIZE, STEPS = 12, 10
BITS = (8, 12)


def uneven(path: Path, seed: int = 2) -> Path:
    """A recurrent network as braille reading has it: the largest recurrent weight is 100 times the median."""
    rng = np.random.default_rng(seed)
    weight = rng.choice([-1.0, 1.0], (SIZE, SIZE)) * rng.uniform(0.05, 0.15, (SIZE, SIZE))
    weight *= 0.1 / np.median(np.abs(weight))
    weight[np.arange(SIZE), rng.permutation(SIZE)] = rng.choice([-1, 1], SIZE) * np.linspace(5, 10.5, SIZE)
    assert np.abs(weight).max() > 99 * np.median(np.abs(weight))
    nodes = {
        "in": nir.Affine(rng.normal(size=(SIZE, 6)), 0.2 * rng.normal(size=SIZE)),
        "s": cuba_lif((SIZE,), tau_syn=3e-4, tau_mem=4e-4, w_in=3.0, r=4.0),
        "back": nir.Linear(weight),
        "out": nir.Linear(rng.normal(size=(3, SIZE))),
        "t": cuba_lif((3,)),
    }
    edges = [("input", "in"), ("in", "s"), ("s", "back"), ("back", "s"), ("s", "out"), ("out", "t"), ("t", "output")]
    return write(path, graph((6,), nodes, edges))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uneven(tmp_path_factory.mktemp("nir") / "network.nir")


@pytest.fixture(scope="module")
def builds(path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Build]:
    made = {}
    for bits in BITS:
        options = CompileOptions(
            timesteps=STEPS, dt=1e-4, input_kind="frames", quantization=QuantizationConfig(weight_bits=bits)
        )
        folder = tmp_path_factory.mktemp("build") / str(bits)
        write_build(compile_nir(path, options), folder, ["lava"], options)
        made[bits] = read_build(folder)
    return made


SAMPLES = (np.random.default_rng(1).random((6, STEPS, 6)) < 0.5).astype(np.float64)


def test_more_bits_make_the_local_error_a_tenth(path: Path, builds: dict[int, Build]) -> None:
    errors = {}
    for bits, build in builds.items():
        program = build.program()
        samples = check_samples(SAMPLES, program, "x")
        result = verify(build, samples, program, Comparing("sim"), model=path, local=True)
        (layer,) = (each for each in result.local if each.layer.population == "s")
        assert layer.tally.fired_original
        errors[bits] = layer.rms
    assert errors[12] < errors[8] / 10


@pytest.mark.parametrize("kind", ["frames", "static"])
@pytest.mark.parametrize("seed", [0, 4])
def test_the_recurrent_synapses_alone_gain_a_tenth(tmp_path: Path, seed: int, kind: InputKind) -> None:
    """This holds for any input, also for pixels, whose rounding makes most of the whole layer's error."""
    path, errors = uneven(tmp_path / "network.nir", seed), {}
    samples = SAMPLES if kind == "frames" else np.random.default_rng(1).random((6, 6))
    for bits in BITS:
        options = CompileOptions(
            timesteps=STEPS, dt=1e-4, input_kind=kind, quantization=QuantizationConfig(weight_bits=bits)
        )
        write_build(compile_nir(path, options), tmp_path / str(bits), ["sim"], options)
        build = read_build(tmp_path / str(bits))
        program = build.program()
        result = verify(
            build, check_samples(samples, program, "x"), program, Comparing("reference"), model=path, local=True
        )
        (alone,) = (each for each in result.local if each.layer.onto == "s")
        (whole,) = (each for each in result.local if each.layer.population == "s")
        assert (alone.layer.name, whole.layer.name) == ("s, recurrent", "in + s")
        # the recurrent synapses are compared at as many values as the whole layer
        assert alone.tally.squared_current > 0
        assert alone.tally.values == whole.tally.values
        errors[bits] = alone
    assert 0 < errors[12].rms < errors[8].rms / 10
    assert errors[12].relative < errors[8].relative / 10


@pytest.mark.parametrize("backend", ["sim", "lava", "onnx"])
def test_backends_give_the_programs_spikes(path: Path, builds: dict[int, Build], backend: str) -> None:
    program = builds[12].program()
    samples = check_samples(SAMPLES, program, "x")
    result = verify(builds[12], samples, program, Comparing(backend), model=path)
    assert result.equivalent
    for check in (FLOAT_GRAPH, BACKEND):
        assert result.checks[check].mismatched == 0 < result.checks[check].compared


def test_each_weight_is_two_synapses(builds: dict[int, Build]) -> None:
    narrow, wide = (builds[bits].program()["s"] for bits in BITS)
    assert type(narrow.op) is RecurrentCubaLIF
    assert isinstance(wide.op, StackedRecurrentCubaLIF)
    whole, (high, low) = wide.op.synapses(), wide.op.parts()
    np.testing.assert_array_equal(whole.whole_weight, high.whole_weight + low.whole_weight)
    around = Shapes((wide.shape,), wide.shape)
    assert wide.op.connections(around, 10) > narrow.op.connections(around, 10) == SIZE * SIZE
    (facts,) = (node for node in builds[12].report["nodes"] if node["name"] == "s")
    assert facts["recurrent"]["weight_bits"] == 12
    assert facts["synapses"] == wide.op.connections(around, 10)
    assert {node.name for node in builds[12].network() if isinstance(node.op, NEURONS)} == {"s", "t"}
