"""The whole compiler, read top to bottom: network, float graph, float passes, integers, schedule, build."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.chips.chip import DEFAULT, Chip, load_chip
from resformer.compiler.frontend.checkpoint import import_model
from resformer.compiler.frontend.nir.doubts import doubts_of
from resformer.compiler.frontend.nir.importer import import_nir
from resformer.compiler.frontend.nir.own import import_own, is_modules, read_own
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.neurons import HARD
from resformer.compiler.ir.primitives import NEURONS, InputKind
from resformer.compiler.ir.program import Program, Scheduled, Unscheduled
from resformer.compiler.ir.reach import reach_warnings, time_warnings
from resformer.compiler.ir.verify import verify_graph, verify_program
from resformer.compiler.passes.float.convolve_linear import convolve_linear
from resformer.compiler.passes.float.fold_attention_scale import fold_attention_scale
from resformer.compiler.passes.float.fold_average_pool import fold_average_pool
from resformer.compiler.passes.float.fold_batchnorm import fold_batchnorm
from resformer.compiler.passes.float.fold_input_gain import fold_input_gain
from resformer.compiler.passes.float.fold_level_norms import fold_level_norms
from resformer.compiler.passes.float.merge_chains import merge_chains
from resformer.compiler.passes.float.merge_synapses import merge_synapses
from resformer.compiler.passes.float.split_attention_projection import split_attention_projection
from resformer.compiler.passes.float.sum_pools import sum_pools
from resformer.compiler.passes.float.weigh_factors import weigh_factors
from resformer.compiler.passes.float.weigh_spikes import weigh_spikes
from resformer.compiler.passes.integer.balance_delays import balance_delays
from resformer.compiler.passes.integer.bound_ranges import bound_ranges
from resformer.compiler.passes.integer.place_biases import place_biases
from resformer.compiler.passes.integer.stack_synapses import stack_synapses
from resformer.compiler.placement.place import Placement, place
from resformer.compiler.progress import Progress
from resformer.compiler.quantize.calibrate import Calibrated, calibrate, moments
from resformer.compiler.quantize.choose import QuantizationConfig, choose_plan
from resformer.compiler.quantize.input_range import InputData, describe_input, example_ranges, input_data
from resformer.compiler.quantize.lower import quantize
from resformer.compiler.quantize.plan import SCALE_EXP_MAX, QuantizationPlan
from resformer.compiler.quantize.precision import WIDEST, choose_widths, sensitivities
from resformer.compiler.quantize.ranges import estimated_ranges, measured_ranges
from resformer.compiler.samples.arrays import ArraySamples, as_array
from resformer.compiler.samples.classes import check_classes
from resformer.compiler.samples.files import CalibrationSamples, SampleFiles, open_array
from resformer.compiler.samples.preprocessing import NO_PREPROCESSING, Preprocessing, numbers
from resformer.compiler.samples.rounding import rounding_cost, rounding_warning
from resformer.errors import FileFormatError, InputError, ResformerError, UnsupportedError
from resformer.models.checkpoint import Checkpoint, build_model, check_rates, load_checkpoint, settings
from resformer.models.layers import NeuronKind
from resformer.models.limits import LONGEST_SAMPLE
from resformer.models.spikingresformer import Architecture, Rounding, patch_counts

if TYPE_CHECKING:
    import torch
    from torch import nn

    from resformer.compiler.frontend.module.importer import Traced

Observer: TypeAlias = Callable[[str, "Graph[Any]"], None]
"""Told each pass's name and result, the import's included."""
GraphT = TypeVar("GraphT", bound="Graph[Any]")
MadeT = TypeVar("MadeT", bound="Graph[Any]")
InputT = TypeVar("InputT")

FloatPass: TypeAlias = Callable[[Graph[nir.NIRNode]], Graph[nir.NIRNode]]

INTEGER_PASSES: tuple[Callable[[Unscheduled], Unscheduled], ...] = (stack_synapses, place_biases, bound_ranges)
"""What is done to the integers of every network; then ``balance_delays`` schedules them."""

NIR_SUFFIX = ".nir"
"""How the name of a file ends that is read as a NIR file; all others are read as checkpoints."""

FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "image_size": "--input-size",
        "weights_key": "--weights-key",
        "neuron": "--neuron",
        "stem_stride": "--stem-stride",
        "stem_pool": "--stem-pool",
        "feature_rounding": "--feature-rounding",
    }
)
"""The options that mean something for a checkpoint alone, as the command names them."""


@dataclass(frozen=True)
class CompileOptions:
    """What a user chooses about a compilation.

    Attributes:
        timesteps: T; None for what the checkpoint says or its kind of network is trained with, or a NIR file says.
        image_size: Edge of the square input; likewise. A NIR file states its own.
        quantization: Widths and granularity.
        synapse_budget: Of the memory that 8 bits everywhere take, the weights' share: each layer then gets a
            width, up to that of ``quantization``, by what it is measured to lose on ``calibration``. None: one for all.
        calibration: Samples to measure ranges on, as ``check_samples`` takes them or in files; None to estimate the
            ranges.
        chip: Where to place the program; None to leave that out.
        dt: Seconds a step of a network in a NIR file; None for what the file says.
        input_kind: Whether samples are real numbers ("static") or frames of events ("frames"); None: as a checkpoint
            was trained, frames of those with PLIF neurons, and real numbers of all else.
        reset: How its neurons reset where the file does not say, one of ``ir.neurons.RESETS``; None: as NIR defines it.
        spikes_per_step: How many spikes a step an IF of such a network may fire whose metadata do not say; None: one.
        min_v: The floor under the potential of those that may fire several; None: none.
        weights_key: Under which key of a checkpoint the weights are; None: the first of the usual ones.
        neuron: Which neuron a checkpoint's populations are; None: as ``build_model`` reads it, and so are the rest.
        stem_stride: Stride of the stem's convolution.
        stem_pool: Whether a max-pool follows it.
        feature_rounding: How DSSA's patches are counted where sizes are odd.
        mean: What is subtracted from samples, one number, or one a channel; None: nothing. The build holds this and
            the next three, and whatever runs it heeds them; calibration does too.
        std: What the difference is divided by, likewise.
        resize: Whether images of a folder are resized and cropped to the input.
        classes: The names of the classes, class 0 first; None: those of the calibration folder's own folders, if it has
            one a class, else none.
    """

    timesteps: int | None = None
    image_size: int | None = None
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    synapse_budget: float | None = None
    calibration: npt.NDArray[Any] | SampleFiles | None = None
    chip: Chip | None = None
    dt: float | None = None
    input_kind: InputKind | None = None
    reset: str | None = None
    spikes_per_step: int | None = None
    min_v: float | None = None
    weights_key: str | None = None
    neuron: NeuronKind | None = None
    stem_stride: int | None = None
    stem_pool: bool | None = None
    feature_rounding: Rounding | None = None
    mean: float | Iterable[float] | None = None
    std: float | Iterable[float] | None = None
    resize: bool = False
    classes: Sequence[str] | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to samples: ``resize``, ``mean`` and ``std``."""
        return Preprocessing(self.resize, numbers(self.mean), numbers(self.std))

    @property
    def resolved_quantization(self) -> QuantizationConfig:
        """``quantization``; with a budget and no width chosen, the width that a budget may go up to."""
        chosen = self.quantization
        if self.synapse_budget is None or chosen.weight_bits is not None:
            return chosen
        return replace(chosen, weight_bits=WIDEST)

    @property
    def layout(self) -> dict[str, Any]:
        """What was chosen of that which no tensor of a checkpoint tells, beside T and the image size."""
        chosen = {name: getattr(self, name) for name in ("neuron", "stem_stride", "stem_pool", "feature_rounding")}
        return {name: value for name, value in chosen.items() if value is not None}

    @property
    def for_checkpoints(self) -> tuple[str, ...]:
        """The options that were given and mean something for a checkpoint alone."""
        given = {"image_size": self.image_size, "weights_key": self.weights_key, **self.layout}
        return tuple(name for name, value in given.items() if value is not None)


@dataclass(frozen=True, eq=False)
class ModuleInput:
    """A module in memory that is to be compiled.

    Attributes:
        module: As ``resformer.compiler.frontend.module.importer`` takes it. It forgets its potentials and is otherwise
            left alone.
        example: Samples as its ``forward`` takes them; the input's range is read off it.
    """

    module: nn.Module
    example: torch.Tensor


@dataclass(frozen=True, eq=False)
class ModuleSource:
    """A module in memory that was compiled.

    Attributes:
        name: Its class.
        module: A copy of it, in float64.
        traced: The graph before all passes, and how the module takes samples.
        example: The example, (N, C, H, W) or (N, T, C, H, W), which says how large the input is.
    """

    name: str
    module: nn.Module
    traced: Traced
    example: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Source:
    """What was compiled.

    Attributes:
        path: The checkpoint, or the NIR file; None of a module in memory.
        architecture: What a checkpoint's shapes tell; None of all else.
        image_size: Edge of the input, in pixels.
        parameters: How many numbers were trained.
        module: The module in memory, if it was one.
        plan: By which a checkpoint was fine-tuned, and is quantized; None of others.
        warnings: What the user should know of it, a line each.
        notes: What was chosen or ignored in reading it, a sentence each.
        assumptions: What neither the file nor the user said of a checkpoint's network, a sentence each.
        settings: What no tensor of a checkpoint tells, as ``resformer.models.checkpoint.settings`` has it.
        patches: L of each stage, by which a checkpoint's network scales its attention.
    """

    path: Path | None
    architecture: Architecture | None
    image_size: int
    parameters: int
    module: ModuleSource | None = None
    plan: QuantizationPlan | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    patches: tuple[int, ...] = ()


Imported: TypeAlias = tuple[Source, Graph[nir.NIRNode]]
"""What was compiled, and its float graph before all passes."""


@dataclass(frozen=True)
class Compilation:
    """All that compiling yields.

    Attributes:
        source: What was compiled.
        folded: The float graph after all float passes.
        quantized: The integers, each synapse with its own bias: what ``quantized.pt`` is written from.
        program: The integers, scheduled: what runs.
        ranges: The magnitudes that scales were chosen from, by node; empty where the checkpoint brought a plan.
        plan: The scales, widths and exponents.
        placement: The program on neurocores, which it may exceed (``Placement.require``); None if no chip was named.
        calibration_samples: How many samples ranges were measured on; None if they were estimated.
        preprocessing: What whoever runs the program does to samples first.
        classes: The names of the classes, class 0 first, if they are known.
        sample_notes: What a reader should know of the calibration samples, a sentence each.
        warnings: What the user should know of the source, or of what was proved of the program, a line each.
    """

    source: Source
    folded: Graph[nir.NIRNode]
    quantized: Unscheduled
    program: Scheduled
    ranges: Mapping[str, float]
    plan: QuantizationPlan
    placement: Placement | None = None
    calibration_samples: int | None = None
    preprocessing: Preprocessing = NO_PREPROCESSING
    classes: tuple[str, ...] | None = None
    sample_notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def network(self) -> Graph[nir.NIRNode]:
        """The float graph that goes to others: of a module its own layers, batch normalisations folded."""
        module = self.source.module
        return (
            self.folded
            if module is None
            else merge_chains(fold_batchnorm(weigh_factors(fold_level_norms(module.traced.graph))))
        )


def _import_nir(path: Path, options: CompileOptions) -> Imported:
    """Read a NIR file of any framework into a float graph.

    Raises:
        InputError: An option is for checkpoints.
        UnsupportedError: Nothing in it fires.
    """
    _check_for_nir(path, options)
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
    source = _nir_source(path, graph)
    return replace(source, warnings=tuple(filter(None, warnings)), notes=(note,) if note else ()), graph


def _import_own(path: Path, options: CompileOptions) -> Imported:
    """Read a NIR file that resformer wrote into the float graph that it was.

    Raises:
        InputError: An option is for checkpoints, or for other NIR files.
        UnsupportedError: Nothing in it fires.
    """
    _check_for_nir(path, options)
    graph = read_own(path)
    if graph is None:
        raise FileFormatError(f"{path}: was not written by resformer; compile it as any NIR file")
    graph = import_own(path, graph, dt=options.dt, timesteps=options.timesteps, input_kind=options.input_kind)
    return _nir_source(path, graph), graph


def _check_for_nir(path: Path, options: CompileOptions) -> None:
    if options.for_checkpoints:
        names = ", ".join(FLAGS[name] for name in options.for_checkpoints)
        raise InputError(
            f"{path}: {names} {'is' if len(options.for_checkpoints) == 1 else 'are'} for checkpoints; a NIR file "
            "states the shape of its input and what its nodes are"
        )


def _nir_source(path: Path, graph: Graph[nir.NIRNode]) -> Source:
    """What was compiled, if anything in it fires."""
    if not any(isinstance(node.op, NEURONS) for node in graph):
        raise UnsupportedError(
            f"{path}: its output depends on no spiking neurons; put LIF, IF or CubaLIF neurons between its layers, for "
            "spikes are what is compiled and compared"
        )
    weights = [getattr(node.op, name) for node in graph for name in ("weight", "bias") if hasattr(node.op, name)]
    return Source(path, None, graph.input.shape[-1], sum(each.size for each in weights))


def _import_checkpoint(path: Path, options: CompileOptions) -> Imported:
    """Read a checkpoint into a float graph; its tensors and its network go when this returns, and their memory too."""
    if options.dt is not None or options.reset is not None:
        raise InputError(f"{path}: --dt and --reset are for NIR files; name one that ends in {NIR_SUFFIX}")
    if options.spikes_per_step is not None or options.min_v is not None:
        raise InputError(f"{path}: --spikes-per-step and --min-v are for NIR files; name one that ends in {NIR_SUFFIX}")
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


def _brought_plan(checkpoint: Checkpoint, options: CompileOptions) -> QuantizationPlan | None:
    """The plan by which a checkpoint was fine-tuned, if it was.

    Raises:
        FileFormatError: It is damaged.
        InputError: An option asks for another.
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


def _import_module(given: ModuleInput, options: CompileOptions) -> Imported:
    """Run a module's code into a float graph.

    Raises:
        InputError: An option is for files.
    """
    # torch.export takes a while to load
    from resformer.compiler.frontend.module.importer import as_samples, import_module, in_float64

    if options.dt is not None or options.image_size is not None:
        raise InputError(
            "dt and image_size are for files; a module's example says the size, and its steps have no unit"
        )
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
    kind = type(module)
    parameters = sum(each.numel() for each in module.parameters())
    named = ModuleSource(f"{kind.__module__}.{kind.__qualname__}", twin, traced, as_samples(given.example, traced.axes))
    return Source(None, None, traced.graph.input.shape[-1], parameters, named, warnings=tuple(doubts)), traced.graph


@dataclass(frozen=True)
class Route(Generic[InputT]):
    """What is particular to networks of one kind; all that follows is the same for every network.

    Attributes:
        name: What they are, in words.
        importer: Makes a float graph of one.
        float_passes: What is done to that graph before it is quantized, in this order.
    """

    name: str
    importer: Callable[[InputT, CompileOptions], Imported]
    float_passes: tuple[FloatPass, ...]

    @property
    def pass_names(self) -> tuple[str, ...]:
        """The steps of compiling, as an observer is told them."""
        floats, integers = ([each.__name__ for each in passes] for passes in (self.float_passes, INTEGER_PASSES))
        return ("import", *floats, "quantize", *integers, balance_delays.__name__)


CHECKPOINT: Route[Path] = Route(
    "checkpoint",
    _import_checkpoint,
    (
        fold_batchnorm,
        split_attention_projection,
        fold_attention_scale,
        fold_input_gain,
        fold_average_pool,
    ),
)
"""A SpikingResformer's checkpoint (``resformer.models.checkpoint``)."""
NIR: Route[Path] = Route("NIR file", _import_nir, (merge_synapses,))
"""A NIR file of any framework, of the nodes that ``resformer.compiler.frontend.nir.importer`` imports."""
OWN: Route[Path] = Route("NIR file", _import_own, ())
"""A ``network.nir`` of ours whose float passes have run: a checkpoint's or a NIR file's."""
MODULE: Route[ModuleInput] = Route(
    "module",
    _import_module,
    (
        fold_level_norms,
        weigh_factors,
        fold_batchnorm,
        merge_chains,
        convolve_linear,
        split_attention_projection,
        fold_attention_scale,
        fold_input_gain,
        sum_pools,
        weigh_spikes,
        fold_average_pool,
    ),
)
"""A SpikingJelly module in memory."""
OWN_MODULE: Route[Path] = Route("NIR file", _import_own, MODULE.float_passes)
"""A ``network.nir`` of ours that holds a module's own layers."""


def nir_route(path: Path) -> Route[Path]:
    """The route of a NIR file, by who wrote it.

    Raises:
        FileFormatError: It cannot be read, or holds nodes of ours that were changed.
    """
    own = read_own(path)
    if own is None:
        return NIR
    return OWN_MODULE if is_modules(own) else OWN


def route_of(source: Path | ModuleInput) -> Route[Any]:
    """The route of a network: that of a file is told by the end of its name."""
    if isinstance(source, ModuleInput):
        return MODULE
    return nir_route(source) if source.suffix == NIR_SUFFIX else CHECKPOINT


def compile_network(
    source: Path | ModuleInput,
    options: CompileOptions | None = None,
    observe: Observer | None = None,
    progress: Progress | None = None,
) -> Compilation:
    """Compile a network to a scheduled integer program, by the route of its kind.

    Args:
        source: A checkpoint, a NIR file, or a module in memory.
        options: Choices; the defaults where None.
        observe: Told each pass's name and result.
        progress: Told of each layer that is calibrated.

    Raises:
        ResformerError: The network or a choice cannot be compiled; the message says what to do.
    """
    return _compile(route_of(source), source, options or CompileOptions(), observe, progress)


def compile_checkpoint(
    path: Path, options: CompileOptions | None = None, observe: Observer | None = None, progress: Progress | None = None
) -> Compilation:
    """Compile a checkpoint, whatever its name; see :func:`compile_network`."""
    return _compile(CHECKPOINT, path, options or CompileOptions(), observe, progress)


def compile_nir(
    path: Path, options: CompileOptions | None = None, observe: Observer | None = None, progress: Progress | None = None
) -> Compilation:
    """Compile a NIR file, whatever its name; see :func:`compile_network`."""
    return _compile(nir_route(path), path, options or CompileOptions(), observe, progress)


def _compile(
    route: Route[InputT],
    given: InputT,
    options: CompileOptions,
    observe: Observer | None,
    progress: Progress | None,
) -> Compilation:
    """The compiler, from top to bottom."""
    step = _Step(observe)
    source, graph = route.importer(given, options)
    if graph.timesteps > LONGEST_SAMPLE:
        raise InputError(f"timesteps: {graph.timesteps} a sample, the limit is {LONGEST_SAMPLE}; choose fewer")
    step.done("import", graph)
    of_time = time_warnings(graph)
    for float_pass in route.float_passes:
        graph = step.run(float_pass, graph)

    options.preprocessing.check(graph.input.shape[0])
    classes = None
    if options.classes is not None:
        classes = check_classes(options.classes, graph.output.shape[0], "--classes")
    opened = _calibration_samples(graph, options)
    samples = None
    if opened is not None:
        samples, classes = opened.samples.real(), classes or opened.classes
    if source.plan is not None:
        ranges: Mapping[str, float] = {}
        calibrated = Calibrated(_checked(source.plan, graph, source.path), {})
    else:
        ranges, seen, calibrated = _calibrate(graph, source, samples, options, progress)
        source = _with_input_notices(source, graph, calibrated.plan, seen, samples, options)
    quantized = step.done("quantize", quantize(graph, calibrated.plan, calibrated.rounded, ties=source.plan is None))
    integers = quantized
    for integer_pass in INTEGER_PASSES:
        integers = step.run(integer_pass, integers)
    program = step.run(balance_delays, integers)
    placement = None if options.chip is None else place(program, options.chip)
    return Compilation(
        source,
        graph,
        quantized,
        program,
        ranges,
        calibrated.plan,
        placement,
        calibration_samples=None if samples is None else len(samples),
        preprocessing=options.preprocessing,
        classes=classes,
        sample_notes=() if opened is None else opened.notes,
        warnings=(*source.warnings, *of_time, *reach_warnings(program)),
    )


def _calibration_samples(graph: Graph[nir.NIRNode], options: CompileOptions) -> CalibrationSamples | None:
    """The samples to calibrate on, checked; None where there are none."""
    given = options.calibration
    if given is None:
        return None
    if isinstance(given, SampleFiles):
        return given.open(graph, options.preprocessing, name_classes=options.classes is None)
    return open_array(as_array(given, "calibration"), graph, options.preprocessing, "calibration")


def _calibrate(
    graph: Graph[nir.NIRNode],
    source: Source,
    samples: npt.NDArray[np.float64] | None,
    options: CompileOptions,
    progress: Progress | None,
) -> tuple[Mapping[str, float], InputData | None, Calibrated]:
    """What quantizing rests on.

    Returns:
        The magnitudes of currents, what is known of the input, and the plan that suits them; weights rounded for the
        samples, if there are any.
    """
    config = options.resolved_quantization
    stated = graph.metadata.get("input_scale_exp")
    if config.input_scale_exp is None and isinstance(stated, int):  # in a quantized network of ours
        config = replace(config, input_scale_exp=stated)
    if options.synapse_budget is not None and config.layer_bits:
        raise InputError("synapse budget: chooses every layer's width; leave out the widths by layer, or the budget")
    if samples is None:
        if options.synapse_budget is not None:
            raise InputError("synapse budget: widths by layer are measured on images; give --calibration")
        if source.module is None:
            ranges, seen = estimated_ranges(graph, config.input_range), None
        else:
            ranges = example_ranges(graph, source.module.example, config.input_range)
            seen = input_data(source.module.example, "the example")
        return ranges, seen, Calibrated(choose_plan(graph, ranges, config, measured=False, seen=seen), {})
    ranges, seen = measured_ranges(graph, samples), input_data(samples, "the calibration data")
    plan = choose_plan(graph, ranges, config, measured=True, seen=seen)
    if options.synapse_budget is not None:
        index_bits = (options.chip or load_chip(DEFAULT)).synapse_index_bits
        measured = sensitivities(
            moments(graph, samples, plan),
            plan,
            config.default_bits,
            per_channel=config.per_channel,
            index_bits=index_bits,
        )
        widths = choose_widths(measured, config.default_bits, options.synapse_budget)
        plan = choose_plan(graph, ranges, replace(config, layer_bits=widths), measured=True, seen=seen)
    return ranges, seen, calibrate(graph, samples, plan, progress=progress, per_channel=config.per_channel)


def _with_input_notices(
    source: Source,
    graph: Graph[nir.NIRNode],
    plan: QuantizationPlan,
    seen: InputData | None,
    samples: npt.NDArray[np.float64] | None,
    options: CompileOptions,
) -> Source:
    """A source with what its reader should know of the input: its range, and what rounding costs calibration data."""
    if options.quantization.input_range is not None:
        sentence = describe_input(graph, plan, ", as --input-range says")
    elif seen is not None:
        sentence = describe_input(graph, plan, f", as {seen.source} reaches {seen.largest:.4g}")
    else:
        why = "; what lies beyond is clipped, unless --input-range or --calibration says more"
        return replace(source, assumptions=(*source.assumptions, describe_input(graph, plan, why)))
    source = replace(source, notes=(*source.notes, sentence))
    if samples is None:
        return source
    cost = rounding_cost(ArraySamples(samples, counts=True), plan.scale_exps[graph.input.name])
    warning = rounding_warning(cost, "calibration", SCALE_EXP_MAX)
    return source if warning is None else replace(source, warnings=(*source.warnings, warning))


def _checked(plan: QuantizationPlan, graph: Graph[nir.NIRNode], path: Path | None) -> QuantizationPlan:
    """The plan that a checkpoint brought, if it is one for its network.

    Raises:
        FileFormatError: It is not.
    """
    try:
        plan.check_fits(graph)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from error
    return plan


class _Step:
    """Runs passes; verifies and shows what each returns."""

    def __init__(self, observe: Observer | None) -> None:
        self._observe = observe

    def run(self, transform: Callable[[GraphT], MadeT], graph: GraphT) -> MadeT:
        """Apply one pass; an error that it raises names it."""
        try:
            return self.done(transform.__name__, transform(graph))
        except ResformerError as error:
            error.add_note(f"in the pass {transform.__name__}") if hasattr(error, "add_note") else None
            raise

    def done(self, name: str, graph: GraphT) -> GraphT:
        """Verify what a pass made, and show it."""
        if isinstance(graph, Program):
            verify_program(graph)
        else:
            verify_graph(graph)
        if self._observe is not None:
            self._observe(name, graph)
        return graph
