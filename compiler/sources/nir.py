"""NIR files, written by any framework or by resformer, as float graphs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nir

from resformer.compiler.frontend.nir.doubts import doubts_of
from resformer.compiler.frontend.nir.importer import import_nir
from resformer.compiler.frontend.nir.own import import_own, read_own
from resformer.compiler.ir.graph import NETX, Graph
from resformer.compiler.ir.neurons import HARD
from resformer.compiler.ir.primitives import NEURONS
from resformer.compiler.quantize.choose import QuantizationConfig
from resformer.compiler.quantize.exact import exact_plan
from resformer.compiler.quantize.plan import QuantizationPlan
from resformer.compiler.sources.options import FLAGS, CompileOptions
from resformer.compiler.sources.source import Imported, Source
from resformer.errors import FileFormatError, InputError, UnsupportedError


def from_nir(path: Path, options: CompileOptions) -> Imported:
    """Read a NIR file of any framework into a float graph.

    Raises:
        InputError: An option that is only for checkpoints was given.
        UnsupportedError: The network has no spiking neurons.
    """
    check_states_itself(path, options, "a NIR file")
    graph = import_nir(
        path,
        dt=options.dt,
        timesteps=options.timesteps,
        input_kind=options.input_kind or "static",
        reset=HARD if options.reset is None else options.reset,
        spikes_per_step=options.spikes_per_step or 1,
        min_v=options.min_v,
    )
    doubts = doubts_of(path)
    warnings = (doubts.resets if options.reset is None else "", doubts.endless)
    note = doubts.counts if options.reset is None and options.spikes_per_step is None else ""
    source = graph_source(path, graph)
    return replace(source, warnings=tuple(filter(None, warnings)), notes=(note,) if note else ()), graph


def from_own_nir(path: Path, options: CompileOptions) -> Imported:
    """Read a NIR file that resformer wrote, back into the float graph that it was written from.

    Raises:
        InputError: An option is only for checkpoints, would choose a netx network's integers, or says another dt.
        UnsupportedError: The network has no spiking neurons.
    """
    check_states_itself(path, options, "a NIR file")
    graph = read_own(path)
    if graph is None:
        raise FileFormatError(f"{path}: was not written by resformer; compile it as any NIR file")
    graph = import_own(path, graph, dt=options.dt, timesteps=options.timesteps, input_kind=options.input_kind)
    return replace(graph_source(path, graph), plan=_netx_plan(path, graph, options)), graph


def _netx_plan(path: Path, graph: Graph[nir.NIRNode], options: CompileOptions) -> QuantizationPlan | None:
    """The quantization plan of a ``network.nir`` that was compiled from a netx network; None of any other file.

    Raises:
        FileFormatError: The file was changed since it was written.
        InputError: An option would choose the network's integers.
    """
    if graph.metadata.get("source") != NETX:
        return None
    check_nothing_chosen(path, options)
    high = graph.metadata.get("input_high")
    try:
        return exact_plan(graph, high if isinstance(high, int) else 0)
    except AssertionError as error:
        raise FileFormatError(f"{path}: {error}; compile the .net again") from error


def check_nothing_chosen(path: Path, options: CompileOptions) -> None:
    """Refuse options that would choose the integers of a network that has its own.

    Raises:
        InputError: Such an option was given.
    """
    chosen = replace(options.quantization, input_range=None) != QuantizationConfig()
    if chosen or options.calibration is not None or options.synapse_budget is not None:
        raise InputError(
            f"{path}: is a netx network, whose integers are taken as they are; leave out --weight-bits, --calibration "
            "and all else that chooses them"
        )


def check_states_itself(path: Path, options: CompileOptions, kind: str) -> None:
    """Refuse options that are only for checkpoints, since the file itself says what they would say.

    Args:
        path: The file.
        options: What the user chose.
        kind: What the error calls the kind of file, such as "a NIR file".

    Raises:
        InputError: Such an option was given.
    """
    if options.for_checkpoints:
        names = ", ".join(FLAGS[name] for name in options.for_checkpoints)
        raise InputError(
            f"{path}: {names} {'is' if len(options.for_checkpoints) == 1 else 'are'} for checkpoints; {kind} "
            "states the shape of its input and what its nodes are"
        )


def graph_source(path: Path, graph: Graph[nir.NIRNode]) -> Source:
    """A graph from a file as the source of a compilation, if it has spiking neurons."""
    if not any(isinstance(node.op, NEURONS) for node in graph):
        raise UnsupportedError(
            f"{path}: its output depends on no spiking neurons; put LIF, IF or CubaLIF neurons between its layers, for "
            "spikes are what is compiled and compared"
        )
    weights = [getattr(node.op, name) for node in graph for name in ("weight", "bias") if hasattr(node.op, name)]
    return Source(path, None, graph.input.shape[-1], sum(each.size for each in weights))
