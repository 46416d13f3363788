"""The whole compiler, read top to bottom: network, float graph, float passes, integers, schedule, build."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, get_args

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.backends import open_backend
from resformer.compiler.chips.chip import DEFAULT, Chip, load_chip
from resformer.compiler.files.placement import ASSUMED_RATE, FEWEST_PERCENT
from resformer.compiler.files.report import NET_SUFFIX
from resformer.compiler.frontend.nir.own import is_modules, read_own
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.overflow import overflow_refused
from resformer.compiler.ir.program import Program, Scheduled, Unscheduled
from resformer.compiler.ir.reach import reach_warnings, time_warnings
from resformer.compiler.ir.summary import counted
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
from resformer.compiler.passes.float.sum_streams import sum_streams
from resformer.compiler.passes.float.weigh_factors import weigh_factors
from resformer.compiler.passes.float.weigh_spikes import weigh_spikes
from resformer.compiler.passes.integer.balance_delays import balance_delays
from resformer.compiler.passes.integer.bound_ranges import bound_ranges
from resformer.compiler.passes.integer.place_biases import place_biases
from resformer.compiler.passes.integer.stack_synapses import stack_synapses
from resformer.compiler.placement.activity import assumed, measure, sent_spikes
from resformer.compiler.placement.optimize import optimize
from resformer.compiler.placement.place import Placement, place
from resformer.compiler.progress import Progress
from resformer.compiler.quantize.calibrate import Calibrated, calibrate, moments
from resformer.compiler.quantize.choose import choose_plan
from resformer.compiler.quantize.input_range import InputData, describe_input, example_ranges, input_data
from resformer.compiler.quantize.lower import quantize
from resformer.compiler.quantize.plan import SCALE_EXP_MAX, QuantizationPlan
from resformer.compiler.quantize.precision import choose_widths, sensitivities
from resformer.compiler.quantize.ranges import estimated_ranges, measured_ranges
from resformer.compiler.quantize.resolution import resolution_warnings
from resformer.compiler.samples.arrays import ArraySamples, as_array
from resformer.compiler.samples.classes import check_classes
from resformer.compiler.samples.files import CalibrationSamples, SampleFiles, open_array
from resformer.compiler.samples.preprocessing import NO_PREPROCESSING, Preprocessing
from resformer.compiler.samples.rounding import rounding_cost, rounding_warning
from resformer.compiler.sources.checkpoint import check_for_checkpoints, from_checkpoint
from resformer.compiler.sources.module import from_module
from resformer.compiler.sources.net import from_netx
from resformer.compiler.sources.nir import from_nir, from_own_nir
from resformer.compiler.sources.options import NIR_SUFFIX, Aim, CompileOptions
from resformer.compiler.sources.source import Imported, ModuleInput, Source
from resformer.compiler.sources.zoo import from_zoo
from resformer.errors import FileFormatError, InputError, ResformerError
from resformer.models.limits import LONGEST_SAMPLE, allowed
from resformer.models.zoo.checkpoint import family_in

__all__ = [
    "CHECKPOINT",
    "INTEGER_PASSES",
    "MODULE",
    "NET",
    "NIR",
    "OWN",
    "OWN_MODULE",
    "ZOO",
    "Compilation",
    "CompileOptions",
    "FloatPass",
    "ModuleInput",
    "Observer",
    "Route",
    "Source",
    "checkpoint_route",
    "compile_checkpoint",
    "compile_network",
    "compile_nir",
    "nir_route",
    "route_of",
]

Observer: TypeAlias = Callable[[str, "Graph[Any]"], None]
"""Called with the name and the result of each pass, the import included."""
GraphT = TypeVar("GraphT", bound="Graph[Any]")
MadeT = TypeVar("MadeT", bound="Graph[Any]")
InputT = TypeVar("InputT")

FloatPass: TypeAlias = Callable[[Graph[nir.NIRNode]], Graph[nir.NIRNode]]

LAYER_PASSES: tuple[FloatPass, ...] = (fold_level_norms, weigh_factors, fold_batchnorm, merge_chains)
"""The first passes over a module's graph, after which the graph still holds the module's own layers."""

LAYOUT_SAMPLES = 4
"""The most calibration samples that are run to see which neurons are active."""

INTEGER_PASSES: tuple[Callable[[Unscheduled], Unscheduled], ...] = (stack_synapses, place_biases, bound_ranges)
"""The passes over the integers of every network; then ``balance_delays`` schedules them."""


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
        placement: The program on neurocores, which may not fit (``Placement.require``); None if no chip was named.
        calibration_samples: The number of samples that ranges were measured on; None if ranges were estimated.
        preprocessing: What must be done to samples before the program runs on them.
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
        """The float graph for other tools; a module's has the module's own layers, with batch normalisations folded."""
        if self.source.module is None:
            return self.folded
        graph = self.source.module.traced.graph
        for float_pass in LAYER_PASSES:
            graph = float_pass(graph)
        return graph


@dataclass(frozen=True)
class Route(Generic[InputT]):
    """What is particular to networks of one kind; all that follows is the same for every network.

    Attributes:
        name: The kind of network, in words.
        importer: Makes the float graph of a network.
        float_passes: The passes over that graph before it is quantized, in this order.
    """

    name: str
    importer: Callable[[InputT, CompileOptions], Imported]
    float_passes: tuple[FloatPass, ...]

    @property
    def pass_names(self) -> tuple[str, ...]:
        """The names of the steps of compiling, as an observer is told them."""
        floats, integers = ([each.__name__ for each in passes] for passes in (self.float_passes, INTEGER_PASSES))
        return ("import", *floats, "quantize", *integers, balance_delays.__name__)


CHECKPOINT: Route[Path] = Route(
    "checkpoint",
    from_checkpoint,
    (
        fold_batchnorm,
        split_attention_projection,
        fold_attention_scale,
        fold_input_gain,
        fold_average_pool,
    ),
)
"""A SpikingResformer's checkpoint (``resformer.models.checkpoint``)."""
NIR: Route[Path] = Route("NIR file", from_nir, (merge_synapses,))
"""A NIR file of any framework, of the nodes that ``resformer.compiler.frontend.nir.importer`` imports."""
OWN: Route[Path] = Route("NIR file", from_own_nir, ())
"""A ``network.nir`` of ours whose float passes have run: a checkpoint's or a NIR file's."""
MODULE: Route[ModuleInput] = Route(
    "module",
    from_module,
    (
        *LAYER_PASSES,
        convolve_linear,
        split_attention_projection,
        fold_attention_scale,
        fold_input_gain,
        sum_streams,
        sum_pools,
        weigh_spikes,
        fold_average_pool,
    ),
)
"""A SpikingJelly module in memory."""
ZOO: Route[Path] = Route("checkpoint", from_zoo, MODULE.float_passes)
"""A checkpoint of one of the zoo's families (``resformer.models.zoo``), whose network is traced as a module is."""
OWN_MODULE: Route[Path] = Route("NIR file", from_own_nir, MODULE.float_passes)
"""A ``network.nir`` of ours that holds a module's own layers."""
NET: Route[Path] = Route("netx network", from_netx, ())
"""A ``.net`` of lava-dl, of the layers that ``resformer.compiler.frontend.net`` reads."""


def nir_route(path: Path) -> Route[Path]:
    """The route of a NIR file, by who wrote it.

    Raises:
        FileFormatError: It cannot be read, or holds nodes of ours that were changed.
    """
    own = read_own(path)
    if own is None:
        return NIR
    return OWN_MODULE if is_modules(own) else OWN


def checkpoint_route(path: Path, options: CompileOptions | None = None) -> Route[Path]:
    """The route of a checkpoint, by the family that its tensors are of.

    Raises:
        InputError: An option is for sources of other kinds; this is checked before the file is read.
        FileFormatError: It cannot be read.
    """
    if options is not None:
        check_for_checkpoints(path, options)
    return CHECKPOINT if family_in(path) is None else ZOO


def route_of(source: Path | ModuleInput, options: CompileOptions | None = None) -> Route[Any]:
    """The route of a network: NIR files and netx networks are known by their suffixes; other files are checkpoints.

    Raises:
        InputError: The file is a checkpoint, and an option is for sources of other kinds.
        FileFormatError: The file cannot be read.
    """
    if isinstance(source, ModuleInput):
        return MODULE
    if source.suffix == NET_SUFFIX:
        return NET
    return nir_route(source) if source.suffix == NIR_SUFFIX else checkpoint_route(source, options)


def compile_network(
    source: Path | ModuleInput,
    options: CompileOptions | None = None,
    observe: Observer | None = None,
    progress: Progress | None = None,
) -> Compilation:
    """Compile a network to a scheduled integer program, by the route of its kind.

    Args:
        source: A checkpoint, a NIR file, a netx network, or a module in memory.
        options: Choices; the defaults where None.
        observe: Called with each pass's name and result.
        progress: Called for each layer that is calibrated.

    Raises:
        ResformerError: The network or a choice cannot be compiled; the message says what to do.
    """
    options = options or CompileOptions()
    return _compile(route_of(source, options), source, options, observe, progress)


def compile_checkpoint(
    path: Path, options: CompileOptions | None = None, observe: Observer | None = None, progress: Progress | None = None
) -> Compilation:
    """Compile a checkpoint, whatever its name; see :func:`compile_network`."""
    options = options or CompileOptions()
    return _compile(checkpoint_route(path, options), path, options, observe, progress)


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
    _check_layout_options(options)
    step = _Step(observe)
    source, graph = route.importer(given, options)
    if graph.timesteps > allowed(LONGEST_SAMPLE):
        raise InputError(f"timesteps: {graph.timesteps} a sample, the limit is {allowed(LONGEST_SAMPLE)}; choose fewer")
    step.done("import", graph)
    of_time = time_warnings(graph)
    with _own_files_refused(route, given), overflow_refused(graph):
        for float_pass in route.float_passes:
            graph = step.run(float_pass, graph)

    preprocessing = source.preprocessing or options.preprocessing
    preprocessing.check(graph.input.shape[0])
    classes = None
    if options.classes is not None:
        classes = check_classes(options.classes, graph.output.shape[0], "--classes")
    opened = _calibration_samples(graph, options)
    samples = None
    if opened is not None:
        samples, classes = opened.samples.real(), classes or opened.classes
    with _own_files_refused(route, given), overflow_refused(graph):
        if source.plan is not None:
            ranges: Mapping[str, float] = {}
            calibrated = Calibrated(_checked(source.plan, graph, source.path), {})
        else:
            ranges, seen, calibrated = _calibrate(graph, source, samples, options, progress)
            source = _with_input_notices(source, graph, calibrated.plan, seen, samples, options)
        quantized = step.done(
            "quantize", quantize(graph, calibrated.plan, calibrated.rounded, ties=source.plan is None)
        )
    integers = quantized
    for integer_pass in INTEGER_PASSES:
        integers = step.run(integer_pass, integers)
    program = step.run(balance_delays, integers)
    placement = None if options.chip is None else _placed(program, options.chip, options, samples, progress)
    return Compilation(
        source,
        graph,
        quantized,
        program,
        ranges,
        calibrated.plan,
        placement,
        calibration_samples=None if samples is None else len(samples),
        preprocessing=preprocessing,
        classes=classes,
        sample_notes=() if opened is None else opened.notes,
        warnings=(
            *source.warnings,
            *of_time,
            *resolution_warnings(graph, calibrated.plan, quantized),
            *reach_warnings(program),
        ),
    )


def _check_layout_options(options: CompileOptions) -> None:
    """Refuse options with which no layout can be searched for, before anything is compiled.

    Raises:
        InputError: The aim is unknown, or needs a chip and none is given; the seed is negative; or the layout may only
            take fewer cores than the network needs.
    """
    if options.optimize not in get_args(Aim):
        raise InputError(f"optimize: {options.optimize!r} is unknown; choose one of {', '.join(get_args(Aim))}")
    if options.optimize != "cores" and options.chip is None:
        raise InputError(
            f"optimize: {options.optimize!r} lays a program out on a chip, and none was given; "
            "give chip=load_chip('loihi2') or another"
        )
    if options.seed < 0:
        raise InputError(f"seed: {options.seed} is negative; give 0 or more")
    if options.cores_percent < FEWEST_PERCENT:
        raise InputError(
            f"cores_percent: {options.cores_percent} percent of the fewest cores are fewer than the network takes; "
            f"give {FEWEST_PERCENT} or more"
        )


def _placed(
    program: Scheduled,
    chip: Chip,
    options: CompileOptions,
    samples: npt.NDArray[np.float64] | None,
    progress: Progress | None,
) -> Placement:
    """The program on a chip, laid out for the user's aim, or for the fewest cores if it does not fit."""
    fewest = place(program, chip)
    if options.optimize == "cores" or fewest.violations:
        return fewest
    if progress is not None:
        progress(f"looking for a layout for {options.optimize}", 0, 0)
    if samples is None:
        activity, told = assumed(program), f"assumed: {ASSUMED_RATE:.0%} of the neurons fire at each step"
    else:
        values, _ = program.input.op.signal.integers(samples[:LAYOUT_SAMPLES])
        trace = open_backend("sim")(program, values, record=True)
        activity = measure(program, sent_spikes(program, trace))
        told = f"measured on {counted(activity.samples, 'calibration sample')}"
    return optimize(fewest, activity, told, options.optimize, cores_percent=options.cores_percent, seed=options.seed)


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
    """Choose the plan of a network, and round its weights for the samples, if there are any.

    Returns:
        The magnitudes of currents; what data say of the input, None if there are none; and the plan, with the weights
        that were rounded for the samples.
    """
    config = options.resolved_quantization
    stated = graph.metadata.get("input_scale_exp")
    if config.input_scale_exp is None and isinstance(stated, int):  # stated by a quantized network of ours
        config = replace(config, input_scale_exp=stated)
    if options.synapse_budget is not None and config.layer_bits:
        raise InputError("synapse budget: chooses every layer's width; leave out the widths by layer, or the budget")
    if samples is None:
        if options.synapse_budget is not None:
            raise InputError("synapse budget: widths by layer are measured on images; give --calibration")
        if source.module is None or source.module.example is None:
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
    """A source with notices about the input: its range, and how much rounding changes the calibration data."""
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
    """The plan that a checkpoint brought, checked to belong to its network.

    Raises:
        FileFormatError: The plan does not belong to the network.
    """
    try:
        plan.check_fits(graph)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from error
    return plan


@contextlib.contextmanager
def _own_files_refused(route: Route[InputT], given: InputT) -> Iterator[None]:
    """Refuse a float graph of ours that was changed so that its metadata no longer say which passes are to come.

    Raises:
        FileFormatError: What a pass assumes does not hold, and the graph came from a file of ours.
    """
    try:
        yield
    except AssertionError as error:
        if route not in (OWN, OWN_MODULE):
            raise
        raise FileFormatError(
            f"{given}: its nodes and its metadata do not fit each other ({error}); compile the network again"
        ) from error


class _Step:
    """Runs passes; verifies and shows what each returns."""

    def __init__(self, observe: Observer | None) -> None:
        self._observe = observe

    def run(self, transform: Callable[[GraphT], MadeT], graph: GraphT) -> MadeT:
        """Apply one pass; an error that the pass raises gets a note with the pass's name."""
        try:
            return self.done(transform.__name__, transform(graph))
        except ResformerError as error:
            error.add_note(f"in the pass {transform.__name__}") if hasattr(error, "add_note") else None
            raise

    def done(self, name: str, graph: GraphT) -> GraphT:
        """Verify the result of a pass, and show it to the observer."""
        if isinstance(graph, Program):
            verify_program(graph)
        else:
            verify_graph(graph)
        if self._observe is not None:
            self._observe(name, graph)
        return graph
