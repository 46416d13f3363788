"""The sides of a build that was compiled from a checkpoint of the zoo."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from resformer.compiler.files.build import Build
from resformer.compiler.frontend.module.importer import Traced
from resformer.compiler.ir.primitives import InputKind
from resformer.compiler.ir.program import Scheduled, layer_names
from resformer.compiler.pipeline import ZOO
from resformer.compiler.sources.zoo import trace
from resformer.errors import InputError, UnsupportedError
from resformer.models.zoo.checkpoint import ZooCheckpoint, build_zoo_model, load_zoo_checkpoint
from resformer.models.zoo.parts import Classifier
from resformer.runtime.verify.checks import Sides
from resformer.runtime.verify.graphs import float_graphs, populations, with_file_graph
from resformer.runtime.verify.module_sides import gains, traced_network, with_module_facts
from resformer.runtime.verify.torch_network import ModuleNetwork, truncates_nothing


def zoo_sides(build: Build, program: Scheduled, model: Path | None) -> Sides:
    """The sides of a build.

    Args:
        build: A build of a checkpoint of the zoo.
        program: The build's program.
        model: The checkpoint that was compiled; None if it is not given.

    Raises:
        ResformerError: A file cannot be read.
        InputError: A file is another network than the one that was compiled.
    """
    # the quantized network is always there; the original differs from it in its weights alone
    module = _module(load_zoo_checkpoint(build.quantized_path), build, program)
    traced, original = None, None
    if model is not None:
        original, traced = _opened(build, program, model)
    if traced is None:
        traced = _traced(module, program, build.quantized_path)
    quantized = _network(module, traced, program, build.quantized_path)
    stages = float_graphs(traced.graph, ZOO.float_passes)
    *_, folded = stages.values()
    if any(name not in folded for name in layer_names(program)):
        raise _another(model or build.quantized_path)
    graphs = {} if model is None else with_file_graph(stages, build, program)
    exact = build.report["is_dyadic"] or truncates_nothing(quantized, program.timesteps)
    sides = Sides(program, graphs, original, quantized, meant_exact=exact)
    return replace(
        with_module_facts(sides, traced.graph, folded, program), gains=gains(traced.graph, folded, quantized)
    )


def open_zoo_original(build: Build, program: Scheduled, model: Path) -> ModuleNetwork:
    """The network that a build was compiled from, in real numbers.

    Raises:
        ResformerError: The file cannot be read.
        InputError: The file is another network than the one that was compiled.
    """
    return _opened(build, program, model)[0]


def _opened(build: Build, program: Scheduled, model: Path) -> tuple[ModuleNetwork, Traced]:
    """The network of the file that was compiled, and the result of tracing it."""
    net: Any = build.report["architecture"]
    checkpoint = load_zoo_checkpoint(model, weights_key=build.report["options"]["weights_key"])
    known = checkpoint.recognition
    if known.family != build.family:
        raise _another(model)
    try:
        known = known.told({name: net["fields"].get(name) for name in known.untold})
    except UnsupportedError as error:
        raise _another(model) from error
    module = _module(replace(checkpoint, recognition=known), build, program)
    traced = _traced(module, program, model)
    return _network(module, traced, program, model), traced


def _module(checkpoint: ZooCheckpoint, build: Build, program: Scheduled) -> Classifier:
    """A checkpoint's network, for the program's number of steps.

    Raises:
        InputError: Its architecture is not the one that was compiled, or its input or output is not the program's.
    """
    known, compiled = checkpoint.recognition, build.report["architecture"]
    net = known.architecture
    fields = {name: list(each) if isinstance(each, tuple) else each for name, each in asdict(net).items()}
    same = (net.in_channels, net.num_classes) == (program.input.shape[0], program.output.shape[0])
    if not same or {"family": known.family, "fields": fields} != compiled:
        raise _another(checkpoint.path)
    return build_zoo_model(checkpoint, timesteps=program.timesteps)


def _traced(module: Classifier, program: Scheduled, path: Path) -> Traced:
    """The result of tracing a network.

    Raises:
        InputError: The network cannot be traced, so it is not the one that was compiled.
    """
    kind: InputKind = "frames" if program.metadata.get("input") == "frames" else "static"
    try:
        return trace(module, program.input.shape, timesteps=program.timesteps, input_kind=kind)
    except UnsupportedError as error:
        raise InputError(f"{_another(path)} ({error})") from error


def _network(module: Classifier, traced: Traced, program: Scheduled, path: Path) -> ModuleNetwork:
    """A network whose populations can be observed.

    Raises:
        InputError: The populations are not the program's.
    """
    network = traced_network(module, traced, program, source="checkpoint")
    names = set(program.spiking_names)
    if populations(traced.graph) != names or not names >= set(network.neurons) >= set(program.lif_names):
        raise _another(path)
    if any(traced.graph[name].shape != program[name].shape for name in names):
        raise _another(path)
    return network


def _another(path: Path) -> InputError:
    return InputError(f"{path}: another network than the one that was compiled; give the checkpoint of the build")
