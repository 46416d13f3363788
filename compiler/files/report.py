"""``report.json``: what was compiled, from what, with which choices, and what became of each node."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import resformer
from resformer.compiler.chips.chip import DEFAULT, load_chip
from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.ops import (
    Conv2d,
    Dense,
    Op,
    Relay,
    SpikeMatMul,
    Spiking,
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
from resformer.compiler.samples.arrays import PIXEL_MAX

if TYPE_CHECKING:
    import torch

    from resformer.compiler.pipeline import Compilation, CompileOptions, Source
    from resformer.compiler.placement.place import Placement

FORMAT = "resformer-build"
FORMAT_VERSION = 1

DEPENDENCIES = ("numpy", "torch", "spikingjelly", "nir", "safetensors", "h5py", "onnx", "lava-nc")

_KEYS = (
    *("format", "format_version", "versions", "source", "targets", "options", "architecture", "fine_tuned"),
    *("timesteps", "input", "latency_steps", "is_dyadic", "totals", "placement", "warnings", "may_saturate", "nodes"),
)
_KEYS_BELOW = {
    "source": ("sha256",),
    "options": (
        *("timesteps", "input_size", "weight_bits", "layer_bits", "per_channel", "clip_weights", "input_scale_exp"),
        *("dt", "input_kind", "reset", "synapse_budget", "calibration_samples"),
    ),
    "architecture": ("neuron", "planes", "num_heads", "stem"),
    "input": ("shape", "kind", "encoding", "uint8_divisor", "scale_exp", "low", "high", "real_range"),
    "totals": ("parameters", "neurons", "graded_neurons", "synapses", "weight_memory_bits"),
    "placement": ("chip", "cores", "chips", "layers"),
}
_NODE_KEYS = ("name", "op", "shape", "inputs", "offset", "signal")
_SIGNAL_KEYS = ("kind", "bits", "scale_exp", "low", "high")
_LAYER_KEYS = ("weight_bits", "weight_exp", "synapses", "sqnr_db")
"""What a report holds, so that its readers need not ask; all but the nodes' further facts."""


def describe(compilation: Compilation, options: CompileOptions, targets: tuple[str, ...]) -> dict[str, Any]:
    """The report of a compilation, as JSON can hold it.

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
        },
        "architecture": None if source.architecture is None else dataclasses.asdict(source.architecture),
        # then its own plan says what the options of quantization would, and there is no width that all start from
        "fine_tuned": source.plan is not None,
        "timesteps": program.timesteps,
        "input": _input(program),
        "latency_steps": program.latency,
        "is_dyadic": program.is_dyadic,
        "totals": {
            "parameters": source.parameters,
            "neurons": sum(math.prod(node.shape) for node in program if isinstance(node.op, Spiking)),
            "graded_neurons": sum(
                math.prod(node.shape) for node in program if isinstance(node.op, Relay | SpikeMatMul)
            ),
            "synapses": sum(node.get("synapses", 0) for node in nodes),
            "weight_memory_bits": sum(
                stored_bits(node.op.weight, index_bits) for node in program if isinstance(node.op, Conv2d | Dense)
            ),
        },
        "placement": None if compilation.placement is None else _placement(compilation.placement),
        "warnings": list(source.warnings),
        "may_saturate": [node["name"] for node in nodes if node.get("may_saturate")],
        "nodes": nodes,
    }
    assert missing_key(report) is None, missing_key(report)
    return report


def missing_key(report: Mapping[str, Any]) -> str | None:
    """The first key that :func:`describe` writes and a report that was read lacks, with its place; None if none."""
    for place, owner, keys in _owners(report):
        if not isinstance(owner, Mapping):
            return place
        for key in keys:
            if key not in owner:
                return f"{place}.{key}" if place else key
    return None


def _owners(report: Mapping[str, Any]) -> Iterator[tuple[str, object, Sequence[str]]]:
    """The objects of a report, each with its place and the keys it must have; what holds an object comes before it."""
    yield "", report, _KEYS
    for place, keys in _KEYS_BELOW.items():
        if report[place] is not None or place not in ("architecture", "placement"):
            yield place, report[place], keys
    if "module" not in report["source"]:
        yield "source", report["source"], ("file",)
    nodes = report["nodes"]
    for index, node in enumerate(nodes if isinstance(nodes, list) else [nodes]):
        place = f"nodes[{index}]"
        yield place, node, _NODE_KEYS
        yield f"{place}.signal", node["signal"], _SIGNAL_KEYS
        if "part_of" in node:
            yield place, node, ("stored_bits",)
        elif node["op"] in (Conv2d.__name__, Dense.__name__) or "weight_bits" in node:
            yield place, node, _LAYER_KEYS


def _source(source: Source) -> dict[str, Any]:
    """What was compiled, and a hash that tells whether something else is the same."""
    if source.module is not None:
        return {"module": source.module.name, "sha256": state_sha256(source.module.module.state_dict())}
    assert source.path is not None
    return {"file": source.path.name, "sha256": sha256(source.path)}


def state_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """The SHA-256 of a state dict's names, shapes and values, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def _placement(placement: Placement) -> dict[str, Any]:
    """What the chip is asked for; ``placement.json`` says which core holds what."""
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
    own = {"resformer": resformer.__version__, "python": platform.python_version()}
    return own | {name: _version(name) for name in DEPENDENCIES}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


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
    """What became of a layer's weights; of stacked synapses, both parts together."""
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
    """The ratio of a layer's weights to their rounding errors, in decibels; None where nothing was rounded."""
    weight = folded[name].op.weight
    error = float(((real_weight(program, name) - weight) ** 2).sum())
    power = float((weight**2).sum())
    return 10 * math.log10(power / error) if error and power else None
