"""A SpikingResformer's checkpoint as a float graph."""

from __future__ import annotations

from pathlib import Path

from resformer.compiler.frontend.checkpoint import import_model
from resformer.compiler.quantize.choose import QuantizationConfig
from resformer.compiler.quantize.plan import QuantizationPlan
from resformer.compiler.sources.options import FLAGS, LAYOUT, NIR_SUFFIX, CompileOptions
from resformer.compiler.sources.source import Imported, Source
from resformer.errors import FileFormatError, InputError
from resformer.models.checkpoint import Checkpoint, build_model, check_rates, load_checkpoint, settings
from resformer.models.spikingresformer import patch_counts


def from_checkpoint(path: Path, options: CompileOptions) -> Imported:
    """Read a checkpoint into a float graph; the memory of its tensors and its network is freed on return."""
    if options.architecture:
        raise InputError(
            f"{path}: {FLAGS['architecture']}: for other families; what no tensor of a SpikingResformer tells has "
            f"options of its own: {', '.join(FLAGS[name] for name in LAYOUT)}"
        )
    checkpoint = load_checkpoint(path, weights_key=options.weights_key)
    check_rates(checkpoint.state)
    model = build_model(checkpoint, timesteps=options.timesteps, image_size=options.image_size, **options.layout)
    graph, plan = import_model(model, input_kind=options.input_kind), _brought_plan(checkpoint, options)
    source = Source(
        path,
        model.architecture,
        model.image_size,
        parameters=sum(each.numel() for each in model.parameters()),
        plan=plan,
        notes=checkpoint.notes,
        assumptions=model.assumptions,
        settings=settings(model),
        patches=patch_counts(model.architecture, model.image_size, model.feature_rounding),
    )
    return source, graph


def check_for_checkpoints(path: Path, options: CompileOptions) -> None:
    """Refuse options that mean nothing for a checkpoint.

    Raises:
        InputError: Such an option was given.
    """
    if options.dt is not None or options.reset is not None:
        raise InputError(f"{path}: --dt and --reset are for NIR files; name one that ends in {NIR_SUFFIX}")
    if options.spikes_per_step is not None or options.min_v is not None:
        raise InputError(f"{path}: --spikes-per-step and --min-v are for NIR files; name one that ends in {NIR_SUFFIX}")


def _brought_plan(checkpoint: Checkpoint, options: CompileOptions) -> QuantizationPlan | None:
    """The quantization plan by which a checkpoint was fine-tuned; None if it was not fine-tuned.

    Raises:
        FileFormatError: The plan is damaged.
        InputError: An option asks for another plan, or for another network than the one that was fine-tuned.
    """
    if checkpoint.quantization is None:
        return None
    try:
        plan = QuantizationPlan.from_text(checkpoint.quantization)
    except FileFormatError as error:
        raise FileFormatError(f"{checkpoint.path}: {error}") from error
    choices = options.calibration, options.synapse_budget
    if options.quantization != QuantizationConfig() or any(each is not None for each in choices):
        raise InputError(
            f"{checkpoint.path}: was fine-tuned for the weights' widths and scales that it holds; leave out "
            "--weight-bits, --calibration and all else that chooses them"
        )
    if options.image_size not in (None, checkpoint.image_size):
        raise InputError(
            f"{checkpoint.path}: was fine-tuned for images of {checkpoint.image_size}x{checkpoint.image_size}; leave "
            "out --input-size"
        )
    stem = checkpoint.architecture.stem_layout
    tuned = {
        "neuron": checkpoint.architecture.neuron,
        "stem_stride": stem.stride,
        "stem_pool": stem.pool,
        "feature_rounding": checkpoint.feature_rounding,
    }
    others = [FLAGS[name] for name, value in options.layout.items() if value != tuned[name]]
    if options.input_kind not in (None, "frames" if tuned["neuron"] == "PLIF" else "static"):
        others.append("--input-kind")
    if others:
        raise InputError(
            f"{checkpoint.path}: was fine-tuned as another network than {', '.join(others)} says; leave that out"
        )
    return plan
