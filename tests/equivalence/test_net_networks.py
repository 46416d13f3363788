"""A netx network of every kind of layer: each backend gives the program's spikes, which the file's integers define."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resformer.compiler.files.build import Build, read_build
from resformer.compiler.ir import reference
from resformer.compiler.ir.ops import LIF, CubaLI, CubaLIF, RecurrentCubaLIF, SampleDelay
from resformer.compiler.pipeline import CompileOptions, compile_network
from resformer.compiler.samples.arrays import check_samples
from resformer.compiler.save.build import write_build
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH
from resformer.runtime.verify.verify import Comparing, verify
from support.net_files import conv, dense, even, flatten, neurons, pixels, write_net

KINDS = (LIF, CubaLIF, RecurrentCubaLIF, CubaLI, SampleDelay)
IMAGES = np.random.default_rng(7).integers(0, 30, (2, 2, 6, 6))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(8)
    maps = conv(even(rng, (4, 1, 3, 3)), (4, 2, 2), stride=[2, 2], groups=2, bias=rng.integers(-9, 9, 4))
    wide = even(rng, (6, 16), 60)
    wide[0, :2] = -256, 2  # -256 takes two synapses
    decays = neurons(
        iDecay=rng.integers(500, 4097, 6), vDecay=rng.integers(1, 2000, 6), vThMant=rng.integers(60, 99, 6)
    )
    back = {
        **dense(even(rng, (5, 6)), neuron=neurons(iDecay=2000, vDecay=100), bias=rng.integers(0, 9, 5)),
        "type": [b"dense_rec"],
        "weight_rec": even(rng, (5, 5)),
    }
    late = dense(even(rng, (4, 5)), delay=np.array([0.0, 1.0, 2.0, 5.0]), neuron=neurons(vDecay=0))
    last = dense(even(rng, (3, 4)), neuron=neurons(vDecay=500, iDecay=1000, vThMant=2**18 - 1))
    layers = pixels(2, 6, 6), maps, flatten(16), dense(wide, neuron=decays), back, late, last
    return write_net(tmp_path_factory.mktemp("net") / "x.net", *layers, steps=9)


@pytest.fixture(scope="module")
def build(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    options = CompileOptions()
    folder = tmp_path_factory.mktemp("build") / "b"
    write_build(compile_network(path, options), folder, ["lava"], options)
    return read_build(folder)


def test_it_has_all_that_netx_has(build: Build) -> None:
    program = build.program()
    assert {kind for kind in KINDS if any(type(node.op) is kind for node in program)} == set(KINDS)
    trains = reference.run(program, IMAGES, record=True).spikes
    assert len(trains) == 5
    for name, train in trains.items():
        assert 0 < train.count < train.size, name


@pytest.mark.parametrize("backend", ["lava", "sim", "onnx"])
def test_every_backend_gives_the_programs_spikes(build: Build, path: Path, backend: str) -> None:
    program = build.program()
    samples = check_samples(IMAGES.astype(np.float64), program, "x")
    result = verify(build, samples, program, Comparing(backend), model=path)
    assert result.equivalent
    assert result.source == "netx network"
    for name in (BACKEND, FLOAT_GRAPH):
        assert result.checks[name].compared > 0
        assert result.checks[name].mismatched == 0
