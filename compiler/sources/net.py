"""netx networks of lava-dl as float graphs whose integers are already chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from resformer.compiler.frontend.net.importer import import_net, pixels_preprocessing
from resformer.compiler.quantize.exact import exact_plan
from resformer.compiler.samples.preprocessing import Preprocessing, numbers
from resformer.compiler.sources.nir import check_nothing_chosen, check_states_itself, graph_source
from resformer.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from resformer.compiler.sources.options import CompileOptions
    from resformer.compiler.sources.source import Imported


def from_netx(path: Path, options: CompileOptions) -> Imported:
    """Read a netx network of lava-dl, whose integers are taken as they are.

    Raises:
        InputError: An option would choose some of the integers, or is only for other files.
    """
    check_nothing_chosen(path, options)
    check_states_itself(path, options, "a netx network")
    if any(each is not None for each in (options.dt, options.reset, options.spikes_per_step, options.min_v)):
        raise InputError(
            f"{path}: --dt, --reset, --spikes-per-step and --min-v are for NIR files; a netx network says all of it"
        )
    within = options.quantization.input_range
    read = import_net(path, timesteps=options.timesteps, input_kind=options.input_kind, input_range=within)
    source = replace(graph_source(path, read.graph), plan=exact_plan(read.graph, read.input_high), notes=read.notes)
    if read.pixels is not None:
        mean, std = pixels_preprocessing(read.pixels, numbers(options.mean), numbers(options.std))
        source = replace(source, preprocessing=Preprocessing(options.resize, mean, std))
    return source, read.graph
