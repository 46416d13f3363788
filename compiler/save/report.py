"""The content of ``report.json``: what was compiled, with which choices, and what became of each node."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import platform
from typing import TYPE_CHECKING, Any

import numpy as np

from resformer._version import __version__
from resformer.compiler.chips.chip import DEFAULT, load_chip
from resformer.compiler.files.digest import sha256, state_sha256
from resformer.compiler.files.report import FORMAT, FORMAT_VERSION, Report, check_report
from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.ops import (
    Conv2d,
    Dense,
    Op,
    RecurrentCubaLIF,
    Relay,
    SpikeAttention,
    SpikeMatMul,
)
from resformer.compiler.ir.program import (
    Program,
    connections,
    is_stack,
    layer_synapses,
    may_clip,
    real_weight,
    stacked_parts,
)
from resformer.compiler.ir.storage import mantissa_bits, stored_bits
from resformer.compiler.samples import preprocessing
from resformer.compiler.samples.arrays import PIXEL_MAX
from resformer.errors import FileFormatError

if TYPE_CHECKING:
    from resformer.compiler.pipeline import Compilation, CompileOptions, Source
    from resformer.compiler.placement.place import Placement

DEPENDENCIES = ("numpy", "torch", "spikingjelly", "nir", "safetensors", "h5py", "onnx", "lava-nc")


def describe(compilation: Compilation, options: CompileOptions, targets: tuple[str, ...]) -> Report:
    """The report of a compilation, as JSON can hold it; its ``files`` are filled in once they are written.

    Raises:
        OSError: The checkpoint can no longer be read.
    """
    program, source = compilation.program, compilation.source
    index_bits = (options.chip or load_chip(DEFAULT)).synapse_index_bits
    nodes = [_node(compilation, node, index_bits) for node in program]
    report = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": versions(),
        "source": _source(source),
        "targets": list(targets),
        "options": {
            "timesteps": options.timesteps,
            "input_size": options.image_size,
            **dataclasses.asdict(options.quantization),
            "weight_bits": None if source.plan is not None else options.resolved_quantization.default_bits,
            "dt": options.dt,
            "input_kind": options.input_kind,
            "reset": options.reset,
            "synapse_budget": options.synapse_budget,
            "calibration_samples": compilation.calibration_samples,
            "weights_key": options.weights_key,
            "neuron": options.neuron,
            "stem_stride": options.stem_stride,
            "stem_pool": options.stem_pool,
            "feature_rounding": options.feature_rounding,
            "architecture": dict(options.architecture),
        },
        "preprocessing": preprocessing.as_json(compilation.preprocessing),
        "classes": None if compilation.classes is None else list(compilation.classes),
        "architecture": _architecture(source),
        # the plan of a fine-tuned network replaces the options of quantization, and no default width exists
        "fine_tuned": source.plan is not None and source.architecture is not None,
        "timesteps": program.timesteps,
        "input": _input(program),
        "latency_steps": program.latency,
        "is_dyadic": program.is_dyadic,
        "totals": {
            "parameters": source.parameters,
            "neurons": sum(math.prod(program[name].shape) for name in program.spiking_names),
            "graded_neurons": sum(
                math.prod(node.shape) for node in program if isinstance(node.op, Relay | SpikeMatMul | SpikeAttention)
            ),
            "synapses": sum(node.get("synapses", 0) for node in nodes),
            "weight_memory_bits": weight_memory_bits(program, index_bits),
        },
        "placement": None if compilation.placement is None else _placement(compilation.placement),
        "warnings": list(compilation.warnings),
        "notes": [*source.notes, *compilation.sample_notes],
        "assumptions": list(source.assumptions),
        "may_saturate": [node["name"] for node in nodes if node.get("may_saturate")],
        "nodes": nodes,
        "files": {},
    }
    try:
        return check_report(report)
    except FileFormatError as error:
        raise AssertionError(f"report: {error}") from error


def weight_memory_bits(program: Program, index_bits: int) -> int:
    """The bits that all weights take, those of recurrent synapses too.

    Args:
        program: The program that has the weights.
        index_bits: Bits that a synapse takes beside its weight where it is stored by itself.
    """
    total = 0
    for node in program:
        if isinstance(node.op, Conv2d | Dense):
            total += stored_bits(node.op.weight, index_bits)
        elif isinstance(node.op, RecurrentCubaLIF):
            total += sum(stored_bits(part.weight, index_bits) for part in node.op.parts())
    return total


def _architecture(source: Source) -> dict[str, Any] | None:
    """The architecture of a checkpoint's network, as far as it is known; None for other sources."""
    known = source.recognition
    if known is not None:
        return {"family": known.family, "fields": dataclasses.asdict(known.architecture)}
    return None if source.architecture is None else dataclasses.asdict(source.architecture)


def _source(source: Source) -> dict[str, Any]:
    """The name of what was compiled, and its hash, by which the same source is recognised."""
    if source.module is not None and source.path is None:
        return {"module": source.module.name, "sha256": state_sha256(source.module.module.state_dict())}
    assert source.path is not None
    return {"file": source.path.name, "sha256": sha256(source.path)}


def _placement(placement: Placement) -> dict[str, Any]:
    """The cores and chips that the network takes; ``placement.json`` says which core holds which neurons."""
    return {
        "chip": placement.chip.name,
        "cores": placement.cores,
        "chips": placement.chips,
        "layers": [
            {
                "name": layer.population.name,
                "cores": layer.cores,
                "tile": list(layer.tiling.tile),
                "bound": layer.tiling.bound(placement.chip),
            }
            for layer in placement.layers
        ],
    }


def versions() -> dict[str, str | None]:
    """The versions of resformer, Python and the packages that matter; None for those not installed."""
    own = {"resformer": __version__, "python": platform.python_version()}
    return own | {name: _version(name) for name in DEPENDENCIES}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _input(program: Program) -> dict[str, Any]:
    """The input's shape, and how real numbers become its integers."""
    signal = program.input.op.signal
    assert signal.low is not None
    assert signal.high is not None
    step = 2.0**-signal.scale_exp
    return {
        "shape": list(program.input.shape),
        "kind": program.metadata.get("input", "static"),
        "encoding": "rint(x * 2^scale_exp), clipped to low..high",
        "uint8_divisor": 1 if program.metadata.get("input") == "frames" else PIXEL_MAX,
        "scale_exp": signal.scale_exp,
        "low": signal.low,
        "high": signal.high,
        "real_range": [signal.low * step, signal.high * step],
    }


def _node(compilation: Compilation, node: Node[Op], index_bits: int) -> dict[str, Any]:
    """What became of one node."""
    program, op, signal = compilation.program, node.op, node.op.signal
    assert program.offsets is not None
    facts: dict[str, Any] = {
        "name": node.name,
        "op": type(op).__name__,
        "shape": list(node.shape),
        "inputs": list(node.inputs),
        "offset": program.offsets[node.name],
        "signal": {
            "kind": signal.kind.value,
            "bits": signal.bits,
            "scale_exp": signal.scale_exp,
            "low": signal.low,
            "high": signal.high,
        },
    }
    parts = stacked_parts(program)
    if node.name in parts:
        assert isinstance(op, Conv2d)
        facts |= {"part_of": parts[node.name], "stored_bits": mantissa_bits(op.weight)}
    elif isinstance(op, Conv2d | Dense) or is_stack(program, node.name):
        facts |= _layer(compilation, node.name, index_bits)
    else:
        facts |= op.facts()
        pairs = connections(program, node.name, index_bits)
        if pairs is not None:
            facts["synapses"] = pairs
    if op.clips:
        facts["may_saturate"] = may_clip(program, node.name)
    return facts


def _layer(compilation: Compilation, name: str, index_bits: int) -> dict[str, Any]:
    """What became of a layer's weights; both parts of stacked synapses are taken together."""
    program = compilation.program
    found = layer_synapses(program, name)
    ops = [each.op for each in found if isinstance(each.op, Conv2d | Dense)]
    low = ops[-1]
    mantissas = sum(fixedpoint.scale_weight(op.weight, op.weight_exp - low.weight_exp) for op in ops)
    exponents = np.atleast_1d(low.weight_exp)
    return {
        "weight_bits": mantissa_bits(np.asarray(mantissas)),
        "weight_exp": [int(exponents.min()), int(exponents.max())],
        "synapses": sum(connections(program, each.name, index_bits) or 0 for each in found),
        "sqnr_db": _rounded(sqnr_db(compilation.folded, program, name)),
    }


def _rounded(decibels: float | None) -> float | None:
    return None if decibels is None else round(decibels, 2)


def sqnr_db(folded: Graph[Any], program: Program, name: str) -> float | None:
    """The ratio of a layer's weights to their rounding errors, in decibels; None if either is zero throughout."""
    weight = folded[name].op.weight
    error = float(((real_weight(program, name) - weight) ** 2).sum())
    power = float((weight**2).sum())
    return 10 * math.log10(power / error) if error and power else None
