"""NIR files, written by any framework or by resformer, as float graphs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nir

from resformer.compiler.frontend.nir.doubts import doubts_of
from resformer.compiler.frontend.nir.importer import LARGEST_VALUE, import_nir
from resformer.compiler.frontend.nir.own import import_own, read_own
from resformer.compiler.ir.graph import NETX, Graph
from resformer.compiler.ir.neurons import HARD
from resformer.compiler.ir.ops.multi_spike import MOST_SPIKES
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
        InputError: An option is only for checkpoints, is out of its range, or has no effect on this network.
        UnsupportedError: The network has no spiking neurons.
    """
    check_states_itself(path, options, "a NIR file")
    _check_ranges(path, options)
    graph = import_nir(
        path,
        dt=options.dt,
        timesteps=options.timesteps,
        input_kind=options.input_kind,
        reset=HARD if options.reset is None else options.reset,
        spikes_per_step=1 if options.spikes_per_step is None else options.spikes_per_step,
        min_v=options.min_v,
    )
    _check_effects(path, options, graph)
    doubts = doubts_of(path)
    warnings = (doubts.resets if options.reset is None else "", doubts.endless)
    notes = (
        doubts.counts if options.reset is None and options.spikes_per_step is None else "",
        f"{path}: samples are frames of counts, as its metadata say; --input-kind static if they are real numbers"
        if options.input_kind is None and graph.metadata["input"] == "frames"
        else "",
    )
    source = graph_source(path, graph)
    return replace(source, warnings=tuple(filter(None, warnings)), notes=tuple(filter(None, notes))), graph


def _check_ranges(path: Path, options: CompileOptions) -> None:
    """Check the numbers that are for IF neurons, before the file is read.

    Raises:
        InputError: A number is out of its range.
    """
    most, least = options.spikes_per_step, options.min_v
    if most is not None and not (isinstance(most, int) and 1 <= most <= MOST_SPIKES):
        raise InputError(f"{path}: --spikes-per-step is {most!r}; give a whole number of 1 to {MOST_SPIKES}")
    if least is not None and not -LARGEST_VALUE <= least <= 0:
        raise InputError(f"{path}: --min-v is {least:g}; give a number no larger than 0")


def _check_effects(path: Path, options: CompileOptions, graph: Graph[nir.NIRNode]) -> None:
    """Refuse options for IF neurons that decided about none.

    Raises:
        InputError: Such an option was given.
    """
    if options.spikes_per_step not in (None, 1) and "spikes_per_step" not in graph.metadata:
        raise InputError(
            f"{path}: --spikes-per-step has no effect, because it holds for IF neurons whose metadata say neither "
            "reset nor spikes_per_step, and the network has none; leave it out"
        )
    if options.min_v is not None and "min_v" not in graph.metadata:
        raise InputError(
            f"{path}: --min-v has no effect, because it holds for IF neurons that may fire several spikes a step and "
            "whose metadata say no min_v, and the network has none; leave it out, or give --spikes-per-step too"
        )


def from_own_nir(path: Path, options: CompileOptions) -> Imported:
    """Read a NIR file that resformer wrote, back into the float graph that it was written from.

    Raises:
        InputError: An option is only for checkpoints or for other tools' files, would choose a netx network's integers,
            or says another dt.
        UnsupportedError: The network has no spiking neurons.
    """
    check_states_itself(path, options, "a NIR file")
    if any(each is not None for each in (options.reset, options.spikes_per_step, options.min_v)):
        raise InputError(
            f"{path}: --reset, --spikes-per-step and --min-v are for NIR files of other tools; resformer wrote this "
            "one, and it says all of it"
        )
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
