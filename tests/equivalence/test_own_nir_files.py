"""``network.nir`` of a build compiles again: to the integers of the first build, whatever the network came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron

from resformer.compiler.files.build import read_build
from resformer.compiler.ir.program import Program
from resformer.compiler.pipeline import (
    NIR,
    OWN,
    OWN_MODULE,
    CompileOptions,
    ModuleInput,
    compile_network,
    compile_nir,
    nir_route,
)
from resformer.compiler.quantize.choose import QuantizationConfig
from resformer.compiler.samples.arrays import check_samples
from resformer.compiler.save.build import write_build
from resformer.errors import FileFormatError, InputError
from resformer.models.checkpoint import save_checkpoint
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH
from resformer.runtime.verify.verify import Comparing, verify
from support.compare import first_difference
from support.modules import SEWResNet, SpikingVGG, calibrated, lif
from support.nir_files import chain, cuba_lif, graph, write
from support.nir_files import lif as nir_lif

Make = Callable[[Path, CompileOptions], Path]
"""Writes a build into a folder, and returns its ``network.nir``."""

WIDE = CompileOptions(quantization=QuantizationConfig(weight_bits=10))


@pytest.fixture(params=["checkpoint", "module", "residual module", "soft module", "file", "recurrent file"])
def make(request: pytest.FixtureRequest, make_model: Callable[..., SpikingResformer]) -> Make:
    """A function that writes a build of a network, for each source of networks."""
    kind = request.param

    def of_checkpoint(folder: Path, options: CompileOptions) -> Path:
        save_checkpoint(make_model(timesteps=3), folder / "model.pt")
        write_build(compile_network(folder / "model.pt", options), folder / "b", ["sim", "nir"], options)
        return folder / "b" / "network.nir"

    def of_module(folder: Path, options: CompileOptions) -> Path:
        generator = torch.Generator().manual_seed(4)
        if kind == "residual module":
            module, example = SEWResNet((4, 6), (1, 1), lif), torch.rand(3, 2, 3, 12, 12, generator=generator)
        else:
            neurons = (lambda: neuron.LIFNode(v_reset=None)) if kind == "soft module" else lif
            module, example = SpikingVGG((4, "M", 6, "A"), neurons), torch.rand(2, 3, 8, 8, generator=generator)
        compilation = compile_network(ModuleInput(calibrated(module, example), example), options)
        write_build(compilation, folder / "b", ["sim", "nir"], options)
        return folder / "b" / "network.nir"

    def of_file(folder: Path, options: CompileOptions) -> Path:
        rng = np.random.default_rng(3)
        nodes = [nir.Affine(rng.normal(size=(6, 5)), rng.normal(size=6)), nir_lif((6,), reset="late")]
        content = chain(
            (5,), *nodes, nir.Delay(1e-4 * np.arange(6)), nir.Linear(rng.normal(size=(4, 6))), cuba_lif((4,))
        )
        if kind == "recurrent file":
            layers = {"in": nodes[0], "s": cuba_lif((6,)), "back": nir.Linear(rng.normal(size=(6, 6)))}
            ways = [("input", "in"), ("in", "s"), ("s", "back"), ("back", "s"), ("s", "out"), ("out", "li")]
            layers |= {
                "out": nir.Linear(rng.normal(size=(4, 6))),
                "li": nir.LI(*np.full((3, 4), [[3e-4], [2.0], [0.1]])),
            }
            content = graph((5,), layers, [*ways, ("li", "output")])
        own = replace(options, dt=1e-4, timesteps=5, input_kind="frames")
        write_build(compile_nir(write(folder / "n.nir", content), own), folder / "b", ["sim", "nir"], own)
        return folder / "b" / "network.nir"

    return of_file if "file" in kind else of_module if "module" in kind else of_checkpoint


def integers(program: Program) -> Program:
    """A program without the metadata that state where it came from."""
    return replace(program, metadata={key: program.metadata[key] for key in ("dt", "input")})


@pytest.mark.parametrize("options", [CompileOptions(), WIDE], ids=["8 bits", "10 bits"])
def test_the_integers_are_those_of_the_first_build(make: Make, tmp_path: Path, options: CompileOptions) -> None:
    first = make(tmp_path, options)
    program = read_build(first.parent).program()
    again = compile_network(first, options)
    assert first_difference(integers(again.program), integers(program)) is None
    # the second build's file compiles to the same program again
    write_build(again, tmp_path / "again", ["sim"], options)
    third = compile_network(tmp_path / "again" / "network.nir", options)
    assert first_difference(third.program, again.program) is None
    assert nir_route(tmp_path / "again" / "network.nir") is OWN


def test_the_kind_of_input_is_the_files_unless_it_is_chosen(tmp_path: Path) -> None:
    layers = chain((5,), nir.Linear(np.eye(4, 5)), nir_lif((4,)))
    frames = CompileOptions(dt=1e-4, timesteps=2, input_kind="frames")
    write_build(compile_nir(write(tmp_path / "n.nir", layers), frames), tmp_path / "b", ["sim"], frames)
    path = tmp_path / "b" / "network.nir"
    for chosen, kind in ((None, "frames"), ("frames", "frames"), ("static", "static")):
        assert compile_network(path, CompileOptions(input_kind=chosen)).program.metadata["input"] == kind


def test_an_edited_file_keeps_its_kind_of_input(tmp_path: Path) -> None:
    """Counts would otherwise be read as pixels, and divided by 255."""
    frames = CompileOptions(dt=1e-4, timesteps=2, input_kind="frames")
    layers = chain((5,), nir.Linear(np.eye(4, 5)), nir_lif((4,)))
    write_build(compile_nir(write(tmp_path / "n.nir", layers), frames), tmp_path / "b", ["sim"], frames)
    ours = nir.read(tmp_path / "b" / "network.nir")
    (last,) = (source for source, target in ours.edges if target == "output")
    nodes = {**ours.nodes, "fc": nir.Linear(np.eye(2, 4)), "lif": nir_lif((2,))}
    nodes["output"] = nir.Output({"output": np.array([2])})
    edges = [edge for edge in ours.edges if edge[1] != "output"] + [(last, "fc"), ("fc", "lif"), ("lif", "output")]
    path = write(tmp_path / "edited.nir", nir.NIRGraph(nodes, edges, metadata=ours.metadata, type_check=False))
    assert nir_route(path) is NIR
    for chosen, kind in ((None, "frames"), ("frames", "frames"), ("static", "static")):
        compilation = compile_network(path, CompileOptions(input_kind=chosen))
        assert compilation.program.metadata["input"] == kind
        told = [each for each in compilation.source.notes if "samples are frames of counts" in each]
        assert len(told) == (chosen is None)


@pytest.mark.parametrize("option", [{"reset": "soft"}, {"spikes_per_step": 1}, {"min_v": -1.0}])
def test_options_for_other_tools_files_are_refused(tmp_path: Path, option: dict[str, Any]) -> None:
    time = CompileOptions(dt=1e-4, timesteps=2)
    layers = chain((5,), nir.Linear(np.eye(4, 5)), nir_lif((4,)))
    write_build(compile_nir(write(tmp_path / "n.nir", layers), time), tmp_path / "b", ["sim"], time)
    with pytest.raises(InputError, match="--min-v are for NIR files of other tools"):
        compile_network(tmp_path / "b" / "network.nir", CompileOptions(**option))


def test_a_quantized_network_is_quantized_to_itself(make: Make, tmp_path: Path) -> None:
    """Its weights are whole multiples of a step already, and it states the scale of its input."""
    first = make(tmp_path, CompileOptions())
    again = compile_network(first.with_name("quantized.nir")).program
    assert first_difference(integers(again), integers(read_build(first.parent).program())) is None


def test_ties_of_a_quantized_network_that_are_damaged_are_named(tmp_path: Path) -> None:
    example = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    module = ModuleInput(calibrated(SpikingVGG((4, "M", 6), lif), example), example)
    write_build(compile_network(module), tmp_path / "b", ["sim", "nir"], CompileOptions())
    path = tmp_path / "b" / "quantized.nir"
    with h5py.File(path, "r+") as file:
        ties = file["node/nodes/features.2/metadata/ties"]
        assert ties["fires_at"][()] == b">="
        del ties["raised"]
        ties["raised"] = np.zeros(7)
    with pytest.raises(FileFormatError, match=r"features\.2: its metadata on ties are damaged"):
        compile_network(path)


def test_a_build_of_it_verifies(make: Make, tmp_path: Path) -> None:
    path = make(tmp_path, CompileOptions())
    write_build(compile_network(path), tmp_path / "again", ["sim"], CompileOptions())
    build = read_build(tmp_path / "again")
    program = build.program()
    samples = np.random.default_rng(2).integers(0, 2, (2, program.timesteps, *program.input.shape)).astype(np.float64)
    result = verify(build, check_samples(samples, program, "x"), program, Comparing("sim"), model=path, local=True)
    assert result.equivalent
    for check in (FLOAT_GRAPH, BACKEND):
        assert result.checks[check].mismatched == 0 < result.checks[check].compared
    assert result.local


def test_time_may_be_chosen_and_steps_may_not(make: Make, tmp_path: Path) -> None:
    path = make(tmp_path, CompileOptions())
    assert compile_network(path, CompileOptions(timesteps=2, dt=1e-4)).program.timesteps == 2
    with pytest.raises(InputError, match=r"wrote this network for steps of 0\.0001; leave out --dt"):
        compile_network(path, CompileOptions(dt=1e-3))
    with pytest.raises(InputError, match="timesteps is 0"):
        compile_network(path, CompileOptions(timesteps=0))


@pytest.fixture
def module_file(tmp_path: Path) -> Path:
    example = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    module = ModuleInput(calibrated(SpikingVGG((4, "M", 6), lif), example), example)
    write_build(compile_network(module), tmp_path / "b", ["sim"], CompileOptions())
    return tmp_path / "b" / "network.nir"


def test_what_was_changed_since_is_no_longer_ours(module_file: Path) -> None:
    assert nir_route(module_file) is OWN_MODULE
    with h5py.File(module_file, "r+") as file:
        name = next(key for key, node in file["node/nodes"].items() if node["type"][()] == b"LIF")
        del file[f"node/nodes/{name}/metadata/resformer"]
    with pytest.raises(FileFormatError, match=f"{name}: no ordered inputs"):
        compile_network(module_file)
