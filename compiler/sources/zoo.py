"""A checkpoint of a zoo family as a float graph: its network is built and then traced, as a module in memory is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resformer.compiler.frontend.nir.own import ZOO
from resformer.compiler.ir.primitives import InputKind
from resformer.compiler.sources.options import FLAGS, CompileOptions
from resformer.compiler.sources.source import Imported, ModuleSource, Source
from resformer.errors import InputError, UnsupportedError
from resformer.models.limits import LARGEST_RUN, require_within
from resformer.models.zoo.checkpoint import ZooCheckpoint, build_zoo_model, load_zoo_checkpoint, record
from resformer.models.zoo.recognise import EVENT_CHANNELS, FAMILIES, Recognition, setting

if TYPE_CHECKING:
    from resformer.compiler.frontend.module.importer import Traced
    from resformer.models.zoo.parts import Classifier

ALONE = (
    "samples: each is computed for itself, as a QKFormer's own code, which takes T and the batch for one axis, does at "
    "batch 1"
)


def from_zoo(path: Path, options: CompileOptions) -> Imported:
    """Read a checkpoint into a float graph.

    Raises:
        InputError: An option that is only for sources of other kinds was given.
        ResformerError: The checkpoint cannot be read, an option does not fit its tensors, or the network has no
            lowering.
    """
    checkpoint = load_zoo_checkpoint(path, weights_key=options.weights_key)
    known = checkpoint.recognition
    if options.layout:
        raise InputError(
            f"{path}: {', '.join(FLAGS[name] for name in options.layout)}: for SpikingResformers, and this is a "
            f"{FAMILIES[known.family].title}; what no tensor of it tells, {', '.join(known.untold)}, is said with "
            f"{FLAGS['architecture']}"
        )
    sizes = {"timesteps": options.timesteps, "image_size": options.image_size}
    known = known.told({name: value for name, value in sizes.items() if value is not None})
    checkpoint = replace(checkpoint, recognition=told(known, options.architecture, path))
    return source_of(checkpoint, input_kind=options.input_kind)


def told(known: Recognition, said: Mapping[str, object], path: Path) -> Recognition:
    """Add what the user says of a network to what is known of it; text is parsed as the type of the setting.

    Raises:
        InputError: A name is not that of a setting that the tensors leave open.
        UnsupportedError: A value is of another type, out of bounds, or does not fit the tensors.
    """
    foreign = [name for name in said if name not in known.untold]
    if foreign:
        raise InputError(
            f"{path}: {FLAGS['architecture']} {foreign[0]}: what no tensor of a {FAMILIES[known.family].title} tells "
            f"is {', '.join(known.untold)}; T and the size have options of their own"
        )
    kinds = {name: type(value) for name, value in known.settings.items()}
    values = {name: setting(value, kinds[name]) if isinstance(value, str) else value for name, value in said.items()}
    try:
        return known.told(values)
    except UnsupportedError as error:
        raise UnsupportedError(f"{path}: {FLAGS['architecture']}: {error}") from error


def source_of(checkpoint: ZooCheckpoint, *, input_kind: InputKind | None = None) -> Imported:
    """Build a checkpoint's network and trace it.

    Args:
        checkpoint: The checkpoint, whose recognition says all that no tensor tells.
        input_kind: Whether samples are real numbers or frames of events; None: frames if the input has two channels.

    Raises:
        UnsupportedError: The network has no lowering.
    """
    known = checkpoint.recognition
    model = build_zoo_model(checkpoint)
    kind = input_kind or ("frames" if known.architecture.in_channels == EVENT_CHANNELS else "static")
    size = known.image_size
    traced = trace(model, (known.architecture.in_channels, size, size), timesteps=known.timesteps, input_kind=kind)
    source = Source(
        checkpoint.path,
        None,
        size,
        parameters=sum(each.numel() for each in model.parameters()),
        module=ModuleSource(FAMILIES[known.family].title, model, traced),
        recognition=known,
        notes=(*checkpoint.notes, *((ALONE,) if known.family == "qkformer" else ())),
        assumptions=known.assumptions,
        settings=record(known),
    )
    return source, traced.graph


def trace(model: Classifier, shape: tuple[int, ...], *, timesteps: int, input_kind: InputKind) -> Traced:
    """The float graph of one of the zoo's networks, in float64 and eval mode.

    Args:
        model: The network.
        shape: (C, H, W) of the input.
        timesteps: T.
        input_kind: Whether the network takes images, which it repeats itself for all steps, or frames of events.

    Raises:
        UnsupportedError: The network has no lowering.
        FileFormatError: The batch that the network is traced with takes more than ``LARGEST_RUN`` bytes.
    """
    # torch.export takes a while to load
    from resformer.compiler.frontend.module.importer import import_as
    from resformer.compiler.frontend.module.tracing import TRACED_BATCH
    from resformer.compiler.frontend.module.values import Axes

    axes = Axes.STATIC if input_kind == "static" else Axes.TIMED
    # None: the model's own T, since it repeats static samples itself
    steps = None if axes is Axes.STATIC else timesteps
    # a file states T and the size in a few bytes, and tracing makes a batch of that size
    traced_bytes = 8 * TRACED_BATCH * (steps or 1) * math.prod(shape)
    require_within(traced_bytes, LARGEST_RUN, "what it is traced with, for its input's size and steps, has {} bytes")
    traced = import_as(model, axes, shape, timesteps=steps, input_kind=input_kind)
    metadata: dict[str, Any] = {**traced.graph.metadata, "source": ZOO}
    return replace(traced, graph=replace(traced.graph, metadata=metadata))
