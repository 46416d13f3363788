"""What ``report.json`` says of a compilation: from what, with which choices, and what became of each node."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import platform
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import resformer
from resformer.compiler.chips.chip import DEFAULT, load_chip
from resformer.compiler.files.digest import sha256, state_sha256
from resformer.compiler.files.report import FORMAT, FORMAT_VERSION, Report, check_report
from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.program import (
    COUNTING,
    CUBA_ARRAYS,
    LIF,
    NEURONS,
    Add,
    Conv2d,
    CubaLI,
    CubaLIF,
    Dense,
    Op,
    Program,
    RecurrentCubaLIF,
    Relay,
    Signal,
    SpikeMatMul,
    SumPool2d,
    is_stack,
    layer_synapses,
    real_weight,
    stacked_parts,
)
from resformer.compiler.ir.storage import mantissa_bits, stored_bits, stored_share
from resformer.compiler.samples.arrays import PIXEL_MAX
from resformer.compiler.target import LOIHI
from resformer.errors import FileFormatError

if TYPE_CHECKING:
    from resformer.compiler.pipeline import Compilation, CompileOptions, Source
    from resformer.compiler.placement.place import Placement

DEPENDENCIES = ("numpy", "torch", "spikingjelly", "nir", "safetensors", "h5py", "onnx", "lava-nc")


def describe(compilation: Compilation, options: CompileOptions, targets: tuple[str, ...]) -> Report:
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
            "neurons": sum(math.prod(node.shape) for node in program if isinstance(node.op, NEURONS)),
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
    try:
        return check_report(report)
    except FileFormatError as error:
        raise AssertionError(f"report: {error}") from error


def _source(source: Source) -> dict[str, Any]:
    """What was compiled, and a hash that tells whether something else is the same."""
    if source.module is not None:
        return {"module": source.module.name, "sha256": state_sha256(source.module.module.state_dict())}
    assert source.path is not None
    return {"file": source.path.name, "sha256": sha256(source.path)}


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
    match op:
        case Conv2d() | Dense() if node.name in (parts := stacked_parts(program)):
            facts |= {"part_of": parts[node.name], "stored_bits": mantissa_bits(op.weight)}
        case Conv2d() | Dense():
            facts |= _layer(compilation, node.name, index_bits)
        case Add() if is_stack(program, node.name):
            facts |= _layer(compilation, node.name, index_bits)
        case SumPool2d():
            facts["synapses"] = math.prod(node.shape) * math.prod(op.kernel_size)
        case LIF():
            bias = fixedpoint.scale_bias(op.bias_mant, op.bias_exp)
            facts |= {"vth": op.vth, "du": op.du, "dv": op.dv, "bias": [int(bias.min()), int(bias.max())]}
        case CubaLI():
            facts |= {name: [int(values.min()), int(values.max())] for name, values in (("du", op.du), ("dv", op.dv))}
        case CubaLIF():
            facts |= {
                name: [int(values.min()), int(values.max())]
                for name, values in ((each, getattr(op, each)) for each in CUBA_ARRAYS)
            }
            facts["reset"] = "soft" if op.soft_reset else "hard"
            if isinstance(op, RecurrentCubaLIF):
                facts["recurrent"] = {
                    "weight_bits": mantissa_bits(op.weight),
                    "weight_exp": [int(op.weight_exp.min()), int(op.weight_exp.max())],
                    "kernel": list(op.weight.shape[2:]),
                }
                facts["synapses"] = convolution_synapses(op.synapses(), node.shape, node.shape, index_bits)
        case Relay() | SpikeMatMul():
            facts |= {"limit": op.limit, "bias": [int(op.bias.min()), int(op.bias.max())]}
        case _:
            pass
    if isinstance(op, COUNTING):
        facts["may_saturate"] = may_saturate(program, node)
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
        "synapses": sum(synapses(program, each, index_bits) for each in found),
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


def synapses(program: Program, node: Node[Op], index_bits: int) -> int:
    """How many pairs of neurons a layer connects; what falls into the padding connects nothing.

    Nor do weights of zero where a chip, whose indices have so many bits, does not store them.
    """
    op = node.op
    if isinstance(op, Dense):
        return op.weight.size
    assert isinstance(op, Conv2d)
    return convolution_synapses(op, program[node.inputs[0]].shape, node.shape, index_bits)


def convolution_synapses(op: Conv2d, source: tuple[int, ...], target: tuple[int, ...], index_bits: int) -> int:
    """How many pairs of neurons a convolution connects, as :func:`synapses` counts them."""
    stored = op.weight != 0 if stored_share(op.weight, index_bits) < 1 else np.ones_like(op.weight, dtype=np.bool_)
    rows, columns = (_taps_inside(op, axis, source[1 + axis], target[1 + axis]) for axis in range(2))
    return int(np.einsum("oirc,r,c->", stored, rows, columns, dtype=np.int64))


def _taps_inside(op: Conv2d, axis: int, source: int, target: int) -> npt.NDArray[np.int64]:
    """For each tap along an axis, how many rows (or columns) of targets read through it what is no padding."""
    start = np.arange(target)[:, None] * op.stride[axis] - op.padding[axis]
    read = start + np.arange(op.weight.shape[2 + axis]) * op.dilation[axis]
    inside: npt.NDArray[np.int64] = np.count_nonzero((read >= 0) & (read < source), axis=0)
    return inside


def may_saturate(program: Program, node: Node[Op]) -> bool:
    """Whether the proven bounds leave it open that a node clips a value."""
    op, source = node.op, program[node.inputs[0]].op.signal
    match op:
        case Relay():
            assert source.low is not None
            assert source.high is not None
            sums = np.array([source.low + int(op.bias.min()), source.high + int(op.bias.max())])
            return bool((np.abs(fixedpoint.shift_right(sums, op.shift)) > op.limit).any())
        case SpikeMatMul():
            return op.signal.low == -op.limit or op.signal.high == op.limit
        case LIF():
            # clipped from above a neuron fires either way, so only the most negative potential matters
            assert source.low is not None
            push = (source.low << LOIHI.a_shift) + int(fixedpoint.scale_bias(op.bias_mant, op.bias_exp).min())
            keep = 1 - op.dv / LOIHI.decay_unity
            return sum(push * keep**step for step in range(program.timesteps)) < -LOIHI.v_max
        case CubaLI():
            return _may_gather(op, source, program.timesteps)
        case CubaLIF():
            return _cuba_may_saturate(op, source, program.timesteps)
        case _:
            raise AssertionError(f"{node.name}: a {type(op).__name__} never saturates")


def _may_gather(op: CubaLI, source: Signal, timesteps: int) -> bool:
    """Whether the current or the potential of neurons that do not fire may leave its range: all inputs add to both."""
    assert source.low is not None
    assert source.high is not None
    own = op.parameters()
    for bound in (source.low, source.high):
        u = v = np.zeros((), dtype=np.int64)
        for _ in range(timesteps):
            u, v, clipped = fixedpoint.cuba_li_step(u, v, np.asarray(bound), own)
            if clipped:
                return True
    return False


def _cuba_may_saturate(op: CubaLIF, source: Signal, timesteps: int) -> bool:
    """Whether a current or a potential may leave its range, given bounds on the input; rounding toward zero helps."""
    assert source.low is not None
    assert source.high is not None
    own, threshold = op.parameters(), op.vth.astype(np.int64) << LOIHI.a_shift
    low, high = source.low, source.high
    if isinstance(op, RecurrentCubaLIF):
        weight = fixedpoint.scale_weight(op.weight, op.weight_exp).reshape(len(op.weight), -1)
        low += int(np.minimum(weight, 0).sum(axis=1).min())
        high += int(np.maximum(weight, 0).sum(axis=1).max())
    u_low = u_high = v_low = v_high = np.zeros(op.vth.ndim * (1,), dtype=np.int64)
    for _ in range(timesteps):
        u_low, u_high = (
            fixedpoint.decay(u, own.du + 1) + (a << LOIHI.a_shift) + own.u_bias
            for u, a in ((u_low, low), (u_high, high))
        )
        v_low, v_high = (fixedpoint.decay(v, own.dv) + u + own.v_bias for v, u in ((v_low, u_low), (v_high, u_high)))
        highest = max(int(u_high.max()), int(v_high.max()) if op.soft_reset else 0)
        if max(highest, -int(u_low.min()), -int(v_low.min())) > LOIHI.v_max:
            return True
        # a reset leaves nothing; a soft one anything from the threshold or the highest potential, less what it takes
        v_low = np.minimum(v_low, np.minimum(threshold - own.v_drop, 0))
        v_high = np.minimum(v_high, np.maximum(threshold, v_high - own.v_drop))
    return False
