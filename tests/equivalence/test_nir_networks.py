"""Networks from NIR files: their frameworks' spikes, ours in float64, and those of every backend."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import nir
import numpy as np
import pytest

from resformer.compiler.chips.chip import load_chip
from resformer.compiler.files.build import read_build
from resformer.compiler.frontend.nir.importer import import_nir
from resformer.compiler.ir import float_interpreter, reference
from resformer.compiler.ir.primitives import NEURONS, RecurrentCubaLIF
from resformer.compiler.ir.verify import verify_graph
from resformer.compiler.passes.float.merge_synapses import merge_synapses
from resformer.compiler.pipeline import CompileOptions, compile_nir
from resformer.compiler.placement.place import place
from resformer.compiler.quantize.choose import QuantizationConfig
from resformer.compiler.quantize.lower import round_layer
from resformer.compiler.samples.arrays import check_samples
from resformer.compiler.save.build import write_build
from resformer.runtime.run.encode import encode, real_logits
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, ORIGINAL
from resformer.runtime.verify.verify import Comparing, verify
from support.nir_files import (
    FRAMEWORKS,
    Written,
    chain,
    conv2d,
    cuba_lif,
    flatten,
    graph,
    import_framework,
    lif,
    pool,
    read_written,
    write,
    written,
)

EXAMPLES = Path(__file__).parents[2] / "examples" / "nir"
EXPORTERS = {
    "norse": "norse.torch.utils.export_nir",
    "sinabs": "sinabs.nir",
    "snntorch": "snntorch.export_nir",
    "snntorch_recurrent": "snntorch.export_nir",
    "spikingjelly": "spikingjelly.activation_based.nir_exchange",
}


@pytest.fixture(params=FRAMEWORKS)
def network(request: pytest.FixtureRequest, tmp_path: Path) -> Written:
    return written(request.param, tmp_path)


def float_spikes(network: Written) -> np.ndarray:
    imported = import_nir(network.path, dt=network.dt, timesteps=network.timesteps)
    return float_interpreter.run(imported, check_samples(network.samples, imported, "x").real()).numpy()


def test_the_file_gives_its_frameworks_spikes(network: Written) -> None:
    assert network.spikes.any()
    assert not network.spikes.all()
    np.testing.assert_array_equal(float_spikes(network), network.spikes)


@pytest.mark.parametrize("backend", ["lava", "sim", "onnx"])
def test_every_backend_gives_the_programs_spikes(network: Written, tmp_path: Path, backend: str) -> None:
    # the input is spikes
    options = CompileOptions(timesteps=network.timesteps, dt=network.dt, input_kind="frames")
    write_build(compile_nir(network.path, options), tmp_path / "b", ["lava"], options)
    build = read_build(tmp_path / "b")
    program = build.program()
    samples = check_samples(network.samples, program, "x")
    result = verify(build, samples, program, Comparing(backend), model=network.path)
    assert result.equivalent
    assert set(result.checks) == {FLOAT_GRAPH, BACKEND, ORIGINAL}
    assert result.checks[BACKEND].compared == sum(result.layers.values()) > 0
    assert result.checks[FLOAT_GRAPH].compared == 3 * result.checks[BACKEND].compared
    assert result.checks[ORIGINAL].extra["f1"] > 0.9


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_script_writes_what_is_committed(framework: str, tmp_path: Path) -> None:
    import_framework(framework, EXPORTERS[framework])
    subprocess.run([sys.executable, str(EXAMPLES / f"{framework}_network.py"), str(tmp_path)], check=True)
    fresh = read_written(tmp_path / "network.nir", tmp_path / "spikes.npz")
    np.testing.assert_array_equal(float_spikes(fresh), fresh.spikes)


Normal: TypeAlias = Callable[..., np.ndarray]
"""Makes weights of a shape."""


def residual(normal: Normal) -> nir.NIRGraph:
    nodes = {
        "a": conv2d(normal(3, 2, 3, 3), normal(3), padding=1),
        "s": lif((3, 6, 6)),
        "b": conv2d(normal(3, 3, 3, 3), padding=1),
        "t": lif((3, 6, 6), v_threshold=0.8),
        "c": conv2d(normal(4, 3, 3, 3), normal(4), stride=2),
        "u": lif((4, 2, 2)),
    }
    edges = [("input", "a"), ("a", "s"), ("s", "b"), ("b", "t"), ("s", "c"), ("t", "c"), ("c", "u"), ("u", "output")]
    return graph((2, 6, 6), nodes, edges)


def nested(normal: Normal) -> nir.NIRGraph:
    inner = graph((5,), {"lin": nir.Affine(normal(4, 5), normal(4)), "lif": lif((4,), v_threshold=0.4)}, [])
    inner.edges = [("input", "lin"), ("lin", "lif"), ("lif", "output")]
    nodes = {"block": inner, "fc": nir.Linear(normal(3, 4)), "out": lif((3,), v_threshold=0.2)}
    return graph((5,), nodes, [("input", "block"), ("block", "fc"), ("fc", "out"), ("out", "output")])


def recurrent(
    normal: Normal, shape: tuple[int, ...], feedback: nir.NIRNode, neurons: nir.NIRNode, first: nir.NIRNode
) -> nir.NIRGraph:
    """A population that reads itself in a graph of its own, as snnTorch writes one, and a readout."""
    inner = graph(shape, {"lif": neurons, "w_rec": feedback}, [])
    inner.edges = [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")]
    size = int(np.prod(shape))
    nodes = {"in": first, "layer": inner, "flat": flatten(shape), "out": nir.Affine(normal(3, size), normal(3))}
    edges = list(itertools.pairwise(["input", "in", "layer", "flat", "out", "output"]))
    sizes = {"in": first.weight.shape[1]} if first.weight.ndim == 2 else {}
    return graph((sizes["in"],) if sizes else (2, 4, 4)[: first.weight.ndim - 1], nodes, edges)


def recurrent_flat(normal: Normal) -> nir.NIRGraph:
    nodes = {
        "in": nir.Linear(normal(5, 6)),
        "back": nir.Linear(normal(5, 5)),
        "s": nir.IF(r=np.full(5, 1e4), v_threshold=1 + normal(5) ** 2, metadata={"reset": "soft"}),
        "out": nir.Linear(normal(3, 5)),
        "t": cuba_lif((3,), v_threshold=0.3),
    }
    edges = [*itertools.pairwise(["input", "in", "s", "back", "s", "out", "t", "output"])]
    return graph((6,), nodes, edges)


def integrators(kind: str, size: int) -> nir.NIRNode:
    """Neurons that do not fire, with parameters of their own."""
    spread = np.linspace(1, 2, size)
    if kind == "I":
        return nir.I(r=3e3 * spread)
    if kind == "LI":
        return nir.LI(tau=5e-4 * spread, r=2 * spread, v_leak=0.3 * spread)
    taus = {"tau_syn": 3e-4 * spread, "tau_mem": 5e-4 * spread}
    return nir.CubaLI(**taus, r=2 * spread, v_leak=-0.2 * spread, w_in=3.0)


READOUTS = {
    f"readout by {kind}": lambda normal, kind=kind: chain(
        (7,), nir.Affine(normal(6, 7), normal(6)), lif((6,)), nir.Affine(normal(3, 6), normal(3)), integrators(kind, 3)
    )
    for kind in ("I", "LI", "CubaLI")
}

NETWORKS = {
    **READOUTS,
    "delays": lambda normal: chain(
        (2, 4, 4),
        nir.Delay(delay=np.broadcast_to([[[0.0]], [[2e-4]]], (2, 4, 4)).copy()),
        conv2d(normal(3, 2, 3, 3), normal(3), padding=1),
        lif((3, 4, 4)),
        nir.Delay(delay=1e-4 * (np.arange(48) % 5).reshape(3, 4, 4)),
        flatten((3, 4, 4)),
        nir.Linear(normal(4, 48)),
        cuba_lif((4,), v_threshold=0.5),
        nir.Delay(delay=1e-4 * np.arange(4)),
    ),
    "recurrent": recurrent_flat,
    "recurrent, nested": lambda normal: recurrent(
        normal,
        (8,),
        nir.Affine(normal(8, 8), 0.3 * normal(8)),
        cuba_lif((8,), tau_syn=5e-4, w_in=2.0, tau_mem=[2e-4, 3e-4, 4e-4, 5e-4] * 2),
        nir.Affine(normal(8, 6), normal(8)),
    ),
    "recurrent convolution": lambda normal: recurrent(
        normal,
        (4, 4, 4),
        conv2d(normal(4, 2, 3, 3), 0.2 * normal(4), padding=1, groups=2),
        lif((4, 4, 4), reset="late", v_leak=0.1),
        conv2d(normal(4, 2, 3, 3), padding=1),
    ),
    "recurrent convolution of rows": lambda normal: recurrent(
        normal,
        (4, 4),
        nir.Conv1d(4, normal(4, 4, 3), stride=1, padding=2, dilation=2, groups=1, bias=np.zeros(4)),
        lif((4, 4), v_threshold=0.7),
        nir.Conv1d(4, normal(4, 2, 3), stride=1, padding=1, dilation=1, groups=1, bias=normal(4)),
    ),
    "readout": lambda normal: chain(
        (7,), nir.Affine(normal(6, 7), normal(6)), lif((6,)), nir.Affine(normal(3, 6), normal(3))
    ),
    "scale": lambda normal: chain((7,), nir.Linear(normal(6, 7)), nir.Scale(1 + normal(6) ** 2), lif((6,))),
    "conv1d": lambda normal: chain(
        (2, 9),
        nir.Conv1d(input_shape=9, weight=normal(4, 2, 3), stride=2, padding=1, dilation=1, groups=1, bias=normal(4)),
        lif((4, 5)),
        flatten((4, 5)),
        nir.Linear(normal(3, 20)),
        lif((3,)),
    ),
    "pool of currents": lambda normal: chain(
        (2, 8, 8), conv2d(normal(4, 2, 3, 3), normal(4), padding=1), pool(nir.AvgPool2d, 2), lif((4, 4, 4))
    ),
    "pool of spikes, padded behind": lambda normal: chain(
        (2, 8, 8),
        conv2d(normal(4, 2, 3, 3), normal(4), padding=1),
        lif((4, 8, 8)),
        pool(nir.SumPool2d, 2),
        conv2d(normal(4, 2, 3, 3), normal(4), padding=1, groups=2),
        lif((4, 4, 4)),
        pool(nir.AvgPool2d, 3, stride=1, padding=1),
        flatten((4, 4, 4)),
        nir.Linear(normal(5, 64)),
        lif((5,)),
    ),
    "dilated": lambda normal: chain((2, 8, 8), conv2d(normal(3, 2, 3, 3), dilation=2, padding=2), lif((3, 8, 8))),
    "conv readout": lambda normal: chain(
        (2, 4, 4), conv2d(normal(3, 2, 3, 3)), lif((3, 2, 2)), conv2d(normal(2, 3, 1, 1))
    ),
    "input to neurons": lambda normal: chain((4,), lif((4,), v_threshold=0.4), nir.Linear(normal(3, 4)), lif((3,))),
    "neurons to neurons": lambda normal: chain((4,), nir.Linear(normal(3, 4)), lif((3,)), lif((3,))),
    "per channel": lambda normal: chain(
        (2, 5, 5),
        conv2d(normal(3, 2, 3, 3)),
        lif((3, 3, 3), v_threshold=np.array([0.5, 1.0, 1.5])[:, None, None], r=np.array([1.0, 2, 3])[:, None, None]),
    ),
    "leak and reset": lambda normal: chain((6,), nir.Linear(normal(5, 6)), lif((5,), v_leak=0.3, v_reset=-0.25)),
    "never leaks": lambda normal: chain(
        (6,), nir.Linear(normal(5, 6)), nir.IF(r=np.full(5, 1e4), v_threshold=np.linspace(0.5, 1.5, 5))
    ),
    "some never leak": lambda normal: chain(
        (6,),
        nir.Linear(normal(5, 6)),
        lif((5,), tau=[np.inf, 2e-4, np.inf, 4e-4, 2e-4], r=[np.inf, 2.0, 1e4, 4.0, 2.0]),
        nir.Linear(normal(4, 5)),
        cuba_lif((4,), tau_mem=[np.inf, 2e-4, np.inf, np.inf], r=[np.inf, 2.0, 1e4, np.inf], reset="soft"),
        nir.Linear(normal(3, 4)),
        nir.LI(tau=np.array([np.inf, 2e-4, np.inf]), r=np.array([np.inf, 1.0, 1e4]), v_leak=np.full(3, 0.2)),
    ),
    "threshold": lambda normal: chain((6,), nir.Affine(normal(5, 6), normal(5)), nir.Threshold(np.full(5, 0.3))),
    "current": lambda normal: chain(
        (6,), nir.Affine(normal(5, 6), normal(5)), cuba_lif((5,), tau_syn=[2e-4, 3e-4, 5e-4, 9e-4, 1e-4], v_leak=0.2)
    ),
    "current of channels": lambda normal: chain(
        (2, 5, 5),
        conv2d(normal(3, 2, 3, 3), normal(3)),
        cuba_lif((3, 3, 3), w_in=1 + normal(3, 1, 1) ** 2, v_reset=-0.5, v_threshold=0.2 + normal(3, 3, 3) ** 2),
        flatten((3, 3, 3)),
        nir.Linear(normal(4, 27)),
        cuba_lif((4,), tau_mem=1e-3, v_threshold=0.2),
    ),
    "soft resets": lambda normal: chain(
        (6,),
        nir.Linear(1.5 * normal(5, 6)),
        lif((5,), reset="soft"),
        nir.Linear(2 * normal(4, 5)),
        nir.IF(r=np.full(4, 1e4), v_threshold=np.full(4, 0.7), metadata={"reset": "subtract"}),
        nir.Linear(2 * normal(3, 4)),
        cuba_lif((3,), reset="late"),
    ),
    "prompt resets": lambda normal: chain(
        (6,),
        nir.Linear(3 * normal(5, 6)),
        lif((5,), reset="prompt", tau=4e-4, r=4.0),
        nir.Linear(4 * normal(4, 5)),
        nir.IF(r=np.full(4, 1e4), v_threshold=np.full(4, 0.7), metadata={"reset": "prompt"}),
        nir.Linear(4 * normal(3, 4)),
        cuba_lif((3,), reset="prompt"),
    ),
    "tau of each neuron": lambda normal: chain(
        (6,), nir.Linear(normal(3, 6)), lif((3,), tau=[2e-4, 3e-4, 1e-3], v_threshold=0.3)
    ),
    "threshold of each neuron": lambda normal: chain(
        (2, 3, 3), conv2d(normal(2, 2, 1, 1)), lif((2, 3, 3), v_threshold=0.3 + normal(2, 3, 3) ** 2, v_leak=0.1)
    ),
    "residual": residual,
    "nested": nested,
}


@pytest.fixture(params=NETWORKS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    rng = np.random.default_rng(5)
    return write(tmp_path / "network.nir", NETWORKS[request.param](lambda *shape: rng.normal(scale=0.5, size=shape)))


def test_merging_keeps_every_spike(made: Path) -> None:
    imported = import_nir(made, dt=1e-4, timesteps=12)
    verify_graph(imported)
    merged = merge_synapses(imported)
    verify_graph(merged)
    samples = (np.random.default_rng(1).random((8, 12, *imported.input.shape)) < 0.5).astype(np.float64)
    before: dict[str, np.ndarray] = {}
    fires = {node.name for node in imported if isinstance(node.op, NEURONS)}

    def keep(name: str, value: object) -> None:
        if name in fires:
            before[name] = np.asarray(value).reshape(12, 8, -1)

    def compare(name: str, value: object) -> None:
        if name in fires:
            np.testing.assert_array_equal(np.asarray(value).reshape(12, 8, -1), before.pop(name), err_msg=name)

    expected = float_interpreter.run(imported, samples, observe=keep).numpy()
    assert all(0 < value.mean() < 1 for value in before.values()), "a population that never changes shows nothing"
    found = float_interpreter.run(merged, samples, observe=compare).numpy()
    assert not before, "a population was not compared"
    # sums in another order differ in their last bits
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["sim", "onnx"])
def test_backends_agree_on_every_kind_of_node(made: Path, backend: str) -> None:
    from resformer.compiler.backends import open_backend

    program = compile_nir(made, CompileOptions(timesteps=12, dt=1e-4)).program
    samples = (np.random.default_rng(1).random((4, 12, *program.input.shape)) < 0.5).astype(np.float64)
    encoded = encode(samples, program).values
    expected = reference.run(program, encoded, record=True)
    found = open_backend(backend, stock_models=False)(program, encoded, record=True, progress=None)
    np.testing.assert_array_equal(found.logits, expected.logits)
    for name in program.lif_names:
        np.testing.assert_array_equal(found.spikes[name].dense(), expected.spikes[name].dense(), err_msg=name)
    assert any(expected.spikes[name].dense().any() for name in program.lif_names)


VERIFIED = (
    "current of channels",
    "soft resets",
    "prompt resets",
    "recurrent, nested",
    "recurrent convolution",
    "readout by CubaLI",
    "delays",
)


@pytest.mark.parametrize("name", VERIFIED)
def test_our_neurons_verify_in_lava(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    path = write(tmp_path / "network.nir", NETWORKS[name](lambda *shape: rng.normal(scale=0.5, size=shape)))
    options = CompileOptions(timesteps=12, dt=1e-4)
    write_build(compile_nir(path, options), tmp_path / "b", ["lava"], options)
    build = read_build(tmp_path / "b")
    program = build.program()
    frames = (np.random.default_rng(1).random((3, 12, *program.input.shape)) < 0.5).astype(np.float64)
    samples = check_samples(frames, program, "x")
    result = verify(build, samples, program, Comparing("lava"), model=path)
    assert result.equivalent
    assert result.checks[FLOAT_GRAPH].mismatched == 0
    assert result.checks[BACKEND].mismatched == 0
    assert result.checks[BACKEND].extra["graded"]["mismatched"] == 0
    assert result.checks[ORIGINAL].extra["f1"] > 0.9
    assert place(program, load_chip("loihi2")).violations == ()


def test_synapses_of_one_value_verify(tmp_path: Path) -> None:
    """A build's file holds such parameters as one number."""
    rng = np.random.default_rng(5)
    layers = nir.Affine(np.full((5, 6), 0.3), np.full(5, 0.2)), lif((5,)), nir.Affine(np.full((3, 5), 0.4), np.zeros(3))
    content = chain((6,), *layers, lif((3,)))
    path = write(tmp_path / "network.nir", content)
    options = CompileOptions(timesteps=12, dt=1e-4)
    write_build(compile_nir(path, options), tmp_path / "b", ["sim"], options)
    build = read_build(tmp_path / "b")
    program = build.program()
    samples = check_samples((rng.random((3, 12, 6)) < 0.5).astype(np.float64), program, "x")
    result = verify(build, samples, program, Comparing("sim"), model=path)
    assert result.equivalent
    assert result.checks[FLOAT_GRAPH].mismatched == 0


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("recurrent convolution", "lava"),
        ("recurrent convolution of rows", "sim"),
        ("recurrent convolution of rows", "onnx"),
    ],
)
def test_calibrated_recurrent_networks_verify(name: str, backend: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    path = write(tmp_path / "network.nir", NETWORKS[name](lambda *shape: rng.normal(scale=0.5, size=shape)))
    shape = import_nir(path, dt=1e-4, timesteps=12).input.shape
    frames = (np.random.default_rng(1).random((16, 12, *shape)) < 0.5).astype(np.float64)
    options = CompileOptions(timesteps=12, dt=1e-4, quantization=QuantizationConfig(4), calibration=frames)
    compilation = compile_nir(path, options)
    (neurons,) = (node for node in compilation.folded if isinstance(node.op, RecurrentCubaLIF))
    changed = compilation.program[neurons.name].op.weight != round_layer(compilation.plan, neurons).weight
    assert changed.any(), "recurrent weights went to their nearest"
    write_build(compilation, tmp_path / "b", ["lava"], options)
    build = read_build(tmp_path / "b")
    program = build.program()
    result = verify(build, check_samples(frames[:3], program, "x"), program, Comparing(backend), model=path)
    assert result.equivalent
    assert result.checks[FLOAT_GRAPH].mismatched == 0
    assert result.checks[BACKEND].mismatched == 0
    assert result.checks[BACKEND].compared > 0


@pytest.mark.parametrize("name", READOUTS)
def test_potentials_of_the_readout_are_those_of_the_float_network(name: str, tmp_path: Path) -> None:
    """Only decays of 12 bits and weights of 8 change them a little; resting potentials, scales and gains are kept."""
    rng = np.random.default_rng(5)
    path = write(tmp_path / "network.nir", NETWORKS[name](lambda *shape: rng.normal(scale=0.5, size=shape)))
    imported = import_nir(path, dt=1e-4, timesteps=12, input_kind="frames")
    program = compile_nir(path, CompileOptions(timesteps=12, dt=1e-4, input_kind="frames")).program
    samples = (np.random.default_rng(1).random((4, 12, *program.input.shape)) < 0.5).astype(np.float64)
    expected = float_interpreter.run(imported, samples).numpy()
    found = real_logits(reference.run(program, encode(samples, program).values).logits, program)
    spread = expected.std()
    assert spread > 0.1
    assert np.abs(found - expected).max() < 0.05 * spread


@pytest.mark.parametrize("delay", [True, False])
def test_snntorchs_subtractions(delay: bool, tmp_path: Path) -> None:
    """Inputs of up to four thresholds: the two resets differ where a potential stays above its threshold."""
    torch = pytest.importorskip("torch")
    snntorch = import_framework("snntorch", "snntorch")
    currents = 4 * torch.rand(12, 3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    cell = snntorch.Leaky(beta=0.75, reset_mechanism="subtract", reset_delay=delay)
    potential, expected = cell.init_leaky(), []
    for now in currents:
        spikes, potential = cell(now, potential)
        expected.append(spikes.numpy())
    path = write(tmp_path / "network.nir", chain((5,), lif((5,), tau=4e-4, r=4.0)))
    imported = import_nir(path, dt=1e-4, timesteps=12, reset="late" if delay else "prompt")
    samples = currents.numpy().swapaxes(0, 1).reshape(3, 12, *imported.input.shape)
    np.testing.assert_array_equal(float_interpreter.run(imported, samples).numpy(), np.stack(expected))
    soft = float_interpreter.run(import_nir(path, dt=1e-4, timesteps=12, reset="soft"), samples).numpy()
    assert (soft != np.stack(expected)).any()
