"""A module in memory as a float graph."""

from __future__ import annotations

from resformer.compiler.sources.options import CompileOptions
from resformer.compiler.sources.source import Imported, ModuleInput, ModuleSource, Source
from resformer.errors import InputError


def from_module(given: ModuleInput, options: CompileOptions) -> Imported:
    """Trace a module's code into a float graph.

    Raises:
        InputError: An option that is only for files was given.
    """
    # torch.export takes a while to load
    from resformer.compiler.frontend.module.importer import as_samples, import_module, in_float64

    if options.dt is not None or options.image_size is not None:
        raise InputError(
            "dt and image_size are for files; a module's example says the size, and its steps have no unit"
        )
    of_nir = ("reset", "spikes_per_step", "min_v")
    if given_of_nir := [name for name in of_nir if getattr(options, name) is not None]:
        raise InputError(f"{', '.join(given_of_nir)}: for NIR files; a module's neurons are as its own code has them")
    if options.for_checkpoints:
        raise InputError(f"{', '.join(options.for_checkpoints)}: for checkpoints; a module's own code says all of it")
    module = given.module
    twin = in_float64(module)
    kind_of_input = options.input_kind or "static"
    traced = import_module(twin, given.example, timesteps=options.timesteps, input_kind=kind_of_input)
    doubts: list[str] = []
    if str(given.example.dtype) == "torch.uint8":
        doubts.append(
            f"example_input: its values, up to {int(given.example.max())}, are the module's input as they are, but its "
            "type is uint8, which run and verify divide by 255; give floating point there"
        )
    if traced.alone:
        doubts.append(
            f"{next(iter(traced.alone))}: the module's code merges T and samples before these neurons, so that it is "
            "right of one sample at a time: so the program runs them, and so verify runs the module"
        )
    kind = type(twin)
    parameters = sum(each.numel() for each in module.parameters())
    samples = as_samples(given.example, traced.axes, traced.sample_axes)
    named = ModuleSource(f"{kind.__module__}.{kind.__qualname__}", twin, traced, samples)
    return Source(None, None, traced.graph.input.shape[-1], parameters, named, warnings=tuple(doubts)), traced.graph
