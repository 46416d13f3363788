"""Load the sides that a verification of a build compares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nir

from resformer.compiler import pipeline
from resformer.compiler.files.build import Build
from resformer.compiler.frontend.checkpoint import import_model
from resformer.compiler.frontend.net.importer import import_net
from resformer.compiler.frontend.nir.importer import import_nir
from resformer.compiler.frontend.nir.own import import_own, read_own
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.program import Scheduled
from resformer.errors import InputError
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.verify.checks import Sides
from resformer.runtime.verify.graphs import float_graphs, with_file_graph
from resformer.runtime.verify.nir_network import NirNetwork
from resformer.runtime.verify.result import CHECKPOINT, FLOAT_GRAPH, NET, NIR, ORIGINAL, QUANTIZED, SOURCES
from resformer.runtime.verify.torch_network import TorchNetwork, open_checkpoint, truncates_nothing
from resformer.runtime.verify.user_network import UserNetwork
from resformer.runtime.verify.zoo_sides import open_zoo_original, zoo_sides


def load_sides(build: Build, program: Scheduled, model: Path | None, user: UserNetwork | None = None) -> Sides:
    """Load all sides of a build that are available.

    Args:
        build: The build to verify.
        program: The build's program.
        model: The file that was compiled; None if it is not given.
        user: The user's own network, which takes the place of the network that the compiler reads in ``model``.

    Raises:
        ResformerError: A file cannot be read.
        InputError: ``model`` is another network than the one that was compiled.
    """
    if user is not None:
        # if no checkpoint was compiled, ``model`` holds the weights of the user's code, and is not what was compiled
        known = None if build.from_nir or build.from_module else model
        sides = load_sides(build, program, known)
        graphs = sides.graphs or with_file_graph({}, build, program)
        return replace(sides, graphs=graphs, original=user.tuned(fine_tuned=sides.fine_tuned))
    if build.from_nir:
        return _nir_sides(build, program, model)
    if build.family is not None:
        return zoo_sides(build, program, model)
    if build.from_module:
        if model is not None:
            open_original(build, program, model)
        return Sides(program, {}, None, None)
    size = program.input.shape[-1]
    quantized = open_checkpoint(build.quantized_path, timesteps=program.timesteps, image_size=size)
    _same_populations(quantized, program, str(build.quantized_path))
    meant_exact = build.report["is_dyadic"] or truncates_nothing(quantized, program.timesteps)
    if model is None:
        return Sides(program, {}, None, quantized, fine_tuned=build.report["fine_tuned"], meant_exact=meant_exact)
    original = open_original(build, program, model)
    assert isinstance(original, TorchNetwork)
    assert isinstance(original.model, SpikingResformer)
    graphs = float_graphs(import_model(original.model), pipeline.CHECKPOINT.float_passes)
    graphs = with_file_graph(graphs, build, program)
    return Sides(program, graphs, original, quantized, fine_tuned=original.fine_tuned, meant_exact=meant_exact)


def _nir_sides(build: Build, program: Scheduled, model: Path | None) -> Sides:
    """The sides of a network from a NIR file, or from a netx network."""
    if model is None:
        return Sides(program, {}, None, None)
    original = open_original(build, program, model)
    assert isinstance(original, NirNetwork)
    passes = () if build.from_net else pipeline.nir_route(model).float_passes
    graphs = with_file_graph(float_graphs(original.graph, passes), build, program)
    return Sides(program, graphs, original, None)


def open_original(build: Build, program: Scheduled, model: Path) -> TorchNetwork | NirNetwork:
    """The network that a build was compiled from, in real numbers.

    Args:
        build: A build of a checkpoint, a NIR file or a netx network.
        program: The build's program.
        model: The file that was compiled.

    Raises:
        ResformerError: The file cannot be read.
        InputError: The file is another network than the one that was compiled, or a module in memory was compiled.
    """
    if build.from_module:
        raise InputError(
            f"{model}: the build was compiled from a module in memory; verify it there, with Compiled.verify"
        )
    if build.family is not None:
        return open_zoo_original(build, program, model)
    if not build.from_nir:
        size, chosen = program.input.shape[-1], build.report["options"]
        checkpoint = open_checkpoint(model, timesteps=program.timesteps, image_size=size, chosen=chosen)
        _same_populations(checkpoint, program, str(model))
        return checkpoint
    steps = program.timesteps
    graph = import_net(model, timesteps=steps).graph if build.from_net else _nir_graph(build, model, steps)
    original = NirNetwork(graph)
    same = set(original.neurons) == set(program.spiking_names) and (graph.input.shape, graph.output.shape) == (
        program.input.shape,
        program.output.shape,
    )
    if not same:
        raise InputError(f"{model}: another network than the one that was compiled; give the file of the build")
    return original


def _nir_graph(build: Build, model: Path, timesteps: int) -> Graph[nir.NIRNode]:
    """The float graph of a NIR file, read with the time step, reset and limits that the build states."""
    known, own = build.network().metadata, read_own(model)
    dt = float(known["dt"])
    if own is not None:
        return import_own(model, own, dt=dt, timesteps=timesteps)
    return import_nir(
        model,
        dt=dt,
        timesteps=timesteps,
        reset=str(known["reset"]),
        spikes_per_step=int(known.get("spikes_per_step", 1)),
        min_v=None if "min_v" not in known else float(known["min_v"]),
    )


def _same_populations(network: TorchNetwork, program: Scheduled, source: str) -> None:
    assert isinstance(network.model, SpikingResformer)
    classes = network.model.architecture.num_classes, network.model.architecture.in_channels
    wanted = program.output.shape[0], program.input.shape[0]
    if set(network.neurons) != set(program.lif_names) or classes != wanted:
        raise InputError(f"{source}: another network than the one that was compiled; give the checkpoint of the build")


def absent_sides(build: Build) -> dict[str, str]:
    """For each check that may lack a side, by name: why it is not run if the side is absent."""
    if build.from_module:
        return dict.fromkeys((FLOAT_GRAPH, QUANTIZED, ORIGINAL), "needs the module that was compiled: Compiled.verify")
    source = SOURCES[NET if build.from_net else NIR if build.from_nir else CHECKPOINT]
    return {
        **dict.fromkeys((FLOAT_GRAPH, ORIGINAL), f"needs the {source}: give --model"),
        QUANTIZED: f"a {source} has no quantized checkpoint",
    }
