"""The whole compiler, read top to bottom: checkpoint, float graph, float passes, integers, schedule, build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import nir
import numpy.typing as npt

from resformer.compiler.chips.chip import Chip
from resformer.compiler.frontend.spikingresformer import import_model
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.verify import verify_graph, verify_program
from resformer.compiler.passes.balance_delays import balance_delays
from resformer.compiler.passes.bound_ranges import bound_ranges
from resformer.compiler.passes.fold_attention_scale import fold_attention_scale
from resformer.compiler.passes.fold_average_pool import fold_average_pool
from resformer.compiler.passes.fold_batchnorm import fold_batchnorm
from resformer.compiler.passes.fold_input_gain import fold_input_gain
from resformer.compiler.passes.place_biases import place_biases
from resformer.compiler.passes.quantize import QuantizationConfig, quantize
from resformer.compiler.passes.ranges import estimated_ranges, measured_ranges
from resformer.compiler.passes.split_attention_projection import split_attention_projection
from resformer.compiler.placement.place import Placement, place
from resformer.compiler.samples import check_samples
from resformer.errors import ResformerError
from resformer.models.checkpoint import build_model, check_rates, load_checkpoint
from resformer.models.spikingresformer import Architecture

Observer: TypeAlias = Callable[[str, "Graph[Any]"], None]
"""Told each pass's name and result, the import's included."""
GraphT = TypeVar("GraphT", bound="Graph[Any]")

FLOAT_PASSES: tuple[Callable[[Graph[nir.NIRNode]], Graph[nir.NIRNode]], ...] = (
    fold_batchnorm,
    split_attention_projection,
    fold_attention_scale,
    fold_input_gain,
    fold_average_pool,
)
INTEGER_PASSES: tuple[Callable[[Program], Program], ...] = (place_biases, bound_ranges, balance_delays)

PASS_NAMES = (
    "import",
    *(each.__name__ for each in FLOAT_PASSES),
    "quantize",
    *(each.__name__ for each in INTEGER_PASSES),
)


@dataclass(frozen=True)
class CompileOptions:
    """What a user chooses about a compilation.

    Attributes:
        timesteps: T; None for what the checkpoint says or its kind of network is trained with.
        image_size: Edge of the square input; likewise.
        quantization: Widths and granularity.
        calibration: Samples to measure ranges on, as ``check_samples`` takes them; None to estimate the ranges.
        chip: Where to place the program; None to leave that out.
    """

    timesteps: int | None = None
    image_size: int | None = None
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    calibration: npt.NDArray[Any] | None = None
    chip: Chip | None = None


@dataclass(frozen=True)
class Source:
    """What was compiled.

    Attributes:
        path: The checkpoint.
        architecture: What its tensors' shapes tell.
        image_size: Edge of the square input, in pixels.
        parameters: How many numbers were trained.
    """

    path: Path
    architecture: Architecture
    image_size: int
    parameters: int


@dataclass(frozen=True)
class Compilation:
    """All that compiling yields.

    Attributes:
        source: What was compiled.
        folded: The float graph after all float passes.
        quantized: The integers, each synapse with its own bias: what ``quantized.pt`` is written from.
        program: The integers, scheduled: what runs.
        ranges: The magnitudes that scales were chosen from, by node.
        placement: The program on neurocores, which it may exceed (``Placement.require``); None if no chip was named.
    """

    source: Source
    folded: Graph[nir.NIRNode]
    quantized: Program
    program: Program
    ranges: dict[str, float]
    placement: Placement | None = None


def compile_checkpoint(
    path: Path, options: CompileOptions | None = None, observe: Observer | None = None
) -> Compilation:
    """Compile a SpikingResformer checkpoint to a scheduled integer program.

    Args:
        path: A checkpoint (``resformer.models.checkpoint``).
        options: Choices; the defaults where None.
        observe: Told each pass's name and result.

    Raises:
        ResformerError: The checkpoint, the network or a choice cannot be compiled; the message says what to do.
    """
    options = options or CompileOptions()
    step = _Step(observe)

    source, graph = _import_checkpoint(path, options)
    step.done("import", graph)
    for float_pass in FLOAT_PASSES:
        graph = step.run(float_pass, graph)

    measured = options.calibration is not None
    if options.calibration is None:
        ranges = estimated_ranges(graph)
    else:
        ranges = measured_ranges(graph, check_samples(options.calibration, graph, "calibration").real())
    quantized = step.done("quantize", quantize(graph, ranges, options.quantization, measured=measured))
    program = quantized
    for integer_pass in INTEGER_PASSES:
        program = step.run(integer_pass, program)
    placement = None if options.chip is None else place(program, options.chip)
    return Compilation(source, graph, quantized, program, ranges, placement)


def _import_checkpoint(path: Path, options: CompileOptions) -> tuple[Source, Graph[nir.NIRNode]]:
    """Read a checkpoint into a float graph; its tensors and its network go when this returns, and their memory too."""
    checkpoint = load_checkpoint(path)
    check_rates(checkpoint.state)
    model = build_model(checkpoint, timesteps=options.timesteps, image_size=options.image_size)
    parameters = sum(each.numel() for each in model.parameters())
    return Source(path, model.architecture, model.image_size, parameters), import_model(model)


class _Step:
    """Runs passes; verifies and shows what each returns."""

    def __init__(self, observe: Observer | None) -> None:
        self._observe = observe

    def run(self, transform: Callable[[GraphT], GraphT], graph: GraphT) -> GraphT:
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
