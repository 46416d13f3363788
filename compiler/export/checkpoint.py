"""The quantized network as an ordinary checkpoint, with which SpikingJelly computes what the program computes.

The tensors of a SpikingResformer have the names of the authors' code, and those of a module in memory have the module's
own names. Weights and biases are dyadic, batch normalisation only adds a bias, and DSSA's rates make both of its scales
one. The tensors are float64: load them after ``model.double()``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.ir import ops, primitives
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.ops import (
    LIF,
    Conv2d,
    CubaLI,
    CubaLIF,
    Delay,
    Dense,
    Flatten,
    Input,
    IntegerLIF,
    Output,
    RecurrentCubaLIF,
    Relay,
    SampleDelay,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
    Spiking,
    SumPool2d,
)
from resformer.compiler.ir.primitives import (
    BIAS_SHARES,
    COLUMNS,
    FIXED,
    HELD_BIAS,
    LEVEL_NORM,
    MERGED,
    NEURONS,
    POOL_AREA,
    SCALED_BY,
    SHARED,
    UNIT,
    Add,
    BatchNorm2d,
    DiscreteCubaLIF,
    MaxPool2d,
    as_neurons,
    collapse,
    columns_name,
    columns_of,
    half_rows,
    inside,
    rows_of,
    spread,
)
from resformer.compiler.ir.program import Program, is_stack, real_weight, stacked_parts
from resformer.compiler.ir.ties import settled_currents
from resformer.compiler.target import LOIHI
from resformer.errors import UnsupportedError
from resformer.models.layers import NeuronKind

Float64Array = npt.NDArray[np.float64]

TIE_SHIFT = 2.0**-30
"""What is subtracted from the biases of neurons that fire only above their threshold: SpikingJelly fires at v >= 1, but
these neurons must not fire at a tie.

Nothing is subtracted for neurons that fire at ties. Behind a mean that float64 rounds, the shift is even added for
them, so that rounding the last bit does not bring a tie below the threshold."""
NO_ODDS = 1000.0
"""The magnitude of a learned ``w`` whose sigmoid, the decay, is exactly zero or one."""
BN_EPS = 1e-5
"""Epsilon of the authors' batch normalisations."""

_NORMS = {"W": "norm", "Wproj": "norm_proj", "conv": "norm"}
"""The name of the batch normalisation behind a convolution, by the convolution's own name. Behind a convolution whose
name is an index, the batch normalisation has the next index."""

WITHOUT_WEIGHTS = (
    Input,
    Output,
    ops.Add,
    ops.MaxPool2d,
    Relay,
    Spiking,
    IntegerLIF,
    CubaLI,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
    SumPool2d,
    Flatten,
    Delay,
    SampleDelay,
)
"""Integer operations for which a checkpoint holds no weights; for some of them it holds a decay or a rate."""
FLOAT_WITHOUT_WEIGHTS = (
    nir.Input,
    nir.Output,
    *NEURONS,
    nir.AvgPool2d,
    nir.SumPool2d,
    nir.Flatten,
    nir.Scale,
    Add,
    MaxPool2d,
    primitives.SpikeGate,
    primitives.SpikeAttention,
    primitives.SpikeMatMul,
)
"""Float operations, of a SpikingResformer after all passes, for which a checkpoint holds no weights."""


@dataclass(frozen=True)
class TensorRows:
    """Where the authors' state dict holds the weights and the biases of a layer of synapses.

    Attributes:
        weight: The name of the tensor of weights.
        bias: The name of the tensor of biases; None if the layer has none.
        rows: The rows of both tensors that are the layer's.
    """

    weight: str
    bias: str | None
    rows: slice | npt.NDArray[np.int64]


def tensor_rows(network: Graph[Any]) -> dict[str, TensorRows]:
    """Where the authors' state dict holds each layer of a SpikingResformer.

    Args:
        network: The integer program, or the float graph after all passes.

    Raises:
        UnsupportedError: The network has an operation that no SpikingResformer has.
    """
    found = {}
    for node in network:
        match node.op:
            case Conv2d() | nir.Conv2d() if node.name.endswith((".y1", ".y2")):
                name, part = node.name.rsplit(".", 1)
                (product,) = network.consumers[node.name]
                rows = half_rows(2 * len(node.op.weight), product.op.num_heads, part)
                found[node.name] = TensorRows(f"{name}.weight", f"{_norm_name(name)}.bn.bias", rows)
            case Conv2d() | nir.Conv2d():
                found[node.name] = TensorRows(f"{node.name}.weight", f"{_norm_name(node.name)}.bn.bias", slice(None))
            case Dense() | nir.Linear():
                found[node.name] = TensorRows(f"{node.name}.weight", None, slice(None))
            case op if not isinstance(op, (*WITHOUT_WEIGHTS, *FLOAT_WITHOUT_WEIGHTS)):
                raise _unknown(node)
    return found


def quantized_state(
    program: Program, *, neuron: NeuronKind | None = None, patches: Sequence[int] | None = None
) -> dict[str, torch.Tensor]:
    """The state dict of the quantized network, under the names of the authors' code.

    Args:
        program: The program as ``quantize`` returns it: each layer of synapses still holds its own bias.
        neuron: The neuron of all populations; None: PLIF if any decay is neither that of an LIF nor that of an IF.
        patches: L of each stage, the number of patches by which the network that loads the state dict scales its
            attention (``patch_counts``); None: the number of positions that the program has.
    """
    state: dict[str, Float64Array] = {}
    settled = _settled(program)
    for name, where in tensor_rows(program).items():
        write_rows(state, where.weight, where, real_weight(program, name))
        if where.bias is not None:
            write_rows(state, where.bias, where, _real_bias(program, name, settled[name]))
            state |= _identity_norm(where.bias.removesuffix(".bias"), len(state[where.bias]))
    fixed_decays = (0, LOIHI.decay_unity // 2)
    learned_decay = neuron == "PLIF" or (
        neuron is None and any(node.op.dv not in fixed_decays for node in program if isinstance(node.op, LIF))
    )
    for node in program:
        match node.op:
            case SpikeMatMul(num_heads=heads, transpose=transpose):
                block = node.name.rpartition(".")[0]
                y_shape = program[node.inputs[0]].shape
                if transpose:
                    count = y_shape[0] // heads
                else:
                    count = math.prod(y_shape[1:]) if patches is None else patches[_stage(block)]
                buffer = "firing_rate_x" if transpose else "firing_rate_attn"
                state[f"{block}.{buffer}"] = np.full((1, 1, heads, 1, 1), unit_rate(count))
            case LIF(dv=dv) if learned_decay:
                state[f"{node.name}.w"] = np.array(_log_odds(dv))
            case op if not isinstance(op, (Conv2d, Dense, *WITHOUT_WEIGHTS)):
                raise _unknown(node)
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


def _log_odds(decay: int) -> float:
    """The ``w`` of a PLIF whose decay, sigmoid(w), is ``decay`` / 4096."""
    if decay in (0, LOIHI.decay_unity):
        return NO_ODDS if decay else -NO_ODDS
    return math.log(decay / (LOIHI.decay_unity - decay))


def _stage(block: str) -> int:
    """The stage of a block, from its name in the authors' code, ``layers.STAGE.BLOCK``."""
    return int(block.split(".")[1])


def quantized_module_state(
    program: Program,
    folded: Graph[nir.NIRNode],
    imported: Graph[nir.NIRNode],
    state: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The state dict of a quantized module, to be loaded by its own class; tensors that the program does not use stay.

    Args:
        program: The program as ``quantize`` returns it: each layer of synapses still holds its own bias.
        folded: The float graph that the program was made from.
        imported: The float graph before all passes, which holds the batch normalisations.
        state: The state dict of the module, in float64.
    """
    area = folded_pool_area(program, folded, imported)
    quantized = {name: tensor.clone() for name, tensor in state.items()}

    def put(name: str, values: npt.ArrayLike) -> None:
        if name in quantized:
            quantized[name] = torch.from_numpy(np.array(values, dtype=np.float64)).reshape(state[name].shape)

    def put_norm(norm: Node[nir.NIRNode], bias: Float64Array) -> None:
        assert isinstance(norm.op, BatchNorm2d)
        part = rows_of(norm.name)
        path = norm.name if part is None else part[0]
        put(f"{path}.weight", np.ones_like(bias))
        put(f"{path}.bias", bias)
        put(f"{path}.running_mean", -bias if f"{path}.bias" not in state else np.zeros_like(bias))
        put(f"{path}.running_var", np.full_like(bias, _unit_variance(float(norm.op.eps))))

    for name, (weight, bias, norm) in _module_layers(program, folded, imported, state, _settled(program)).items():
        if norm is not None:
            put_norm(norm, bias)
        elif name in imported and isinstance(imported[name].op, BatchNorm2d):
            put_norm(imported[name], bias)
        put(f"{name}.weight", weight)
        if name not in imported or not isinstance(imported[name].op, BatchNorm2d):
            put(f"{name}.bias", bias if norm is None else np.zeros_like(bias))
    for scale in imported:
        if isinstance(scale.op, nir.Scale) and SCALED_BY in scale.op.metadata:
            buffer = str(scale.op.metadata[SCALED_BY])
            put(buffer, np.full(tuple(state[buffer].shape), float(scale.op.metadata[UNIT])))
    for node in program:
        match node.op:
            case Dense():
                weight = spread(folded[node.name].op, real_weight(program, node.name))
                put(f"{node.name}.weight", weight * level_norm(folded, node.name))
                # the program's bias is multiplied by the area of the pool before the classifier, and its output divided
                shares = float(folded[node.name].op.metadata.get(BIAS_SHARES, 1))
                bias = node.op.bias * 2.0**-node.op.signal.scale_exp * shares / area
                behind = _norm_behind(imported, node.name) if node.name in imported else None
                put(f"{node.name}.bias", bias if behind is None else np.zeros_like(bias))
                if behind is not None:
                    put_norm(behind, bias)
            case LIF(dv=dv) | CubaLIF(dv=dv) if f"{node.name}.w" in state:
                put(f"{node.name}.w", _log_odds(int(np.unique(dv).item())))
            case op if not isinstance(op, (Conv2d, *WITHOUT_WEIGHTS)):
                raise _unknown(node)
    return quantized


def _module_layers(
    program: Program,
    folded: Graph[nir.NIRNode],
    imported: Graph[nir.NIRNode],
    state: Mapping[str, torch.Tensor],
    settled: Mapping[str, npt.NDArray[np.bool_]],
) -> dict[str, tuple[Float64Array, Float64Array, Node[nir.NIRNode] | None]]:
    """The weights, biases and batch normalisation of each convolution of a module; the parts of one are put together.

    A convolution without a batch normalisation has None in its place.
    """
    layers: dict[str, tuple[Float64Array, Float64Array, Node[nir.NIRNode] | None]] = {}

    def put(name: str, shape: tuple[int, ...], rows: Any, *values: Any) -> None:
        weight, bias, norm = values
        whole = layers.setdefault(name, (np.zeros(shape), np.zeros(shape[0]), norm))
        whole[0][rows], whole[1][rows] = weight, bias

    for node in program:
        if isinstance(node.op, RecurrentCubaLIF):
            _put_feedback(layers, program, node.name, node.op, folded[node.name].op.metadata.get(COLUMNS), state)
        if not isinstance(node.op, Conv2d) or MERGED in folded[node.name].op.metadata:
            continue
        factor = weight_factor(program, folded, imported, node.name)
        weight, area = real_weight(program, node.name) * factor, pool_area(folded, node.name)
        bias = _real_bias(program, node.name, settled[node.name])
        if not _is_exact_mean(area):
            bias = bias + TIE_SHIFT * settled[node.name]
        gain = factor / area / level_norm(folded, node.name)
        bias = bias * gain.reshape(-1) * float(folded[node.name].op.metadata.get(BIAS_SHARES, 1))
        weight = spread(folded[node.name].op, weight[(..., *inside(folded[node.name].op))])
        columns = columns_of(node.name)
        if columns is not None and f"{columns[0]}.weight" in state:
            shape = tuple(state[f"{columns[0]}.weight"].shape)
            norm = _norm_behind(imported, columns[0] if columns[0] in imported else node.name)
            layers.setdefault(columns[0], (np.zeros(shape), np.zeros(shape[0]), norm))
            layers[columns[0]][0][:, columns[1]] = weight.reshape(weight.shape[0], -1, *shape[2:])
            if columns[1].start == 0:
                layers[columns[0]][1][:] = bias
            continue
        piece = rows_of(node.name)
        if piece is not None and f"{piece[0]}.weight" in state:
            shape = (len(state[f"{piece[0]}.weight"]), *weight.shape[1:])
            put(piece[0], shape, piece[1], weight, bias, _norm_behind(imported, node.name))
            continue
        if node.name in imported:
            layers[node.name] = weight, bias, _norm_behind(imported, node.name)
            continue
        name, _, part = node.name.rpartition(".")
        if name in imported and part in ("y1", "y2"):
            (product,) = program.consumers[node.name]
            assert isinstance(product.op, SpikeMatMul)
            rows = half_rows(2 * len(weight), product.op.num_heads, part)
            shape = (2 * len(weight), *weight.shape[1:])
            put(name, shape, rows, weight, bias, _norm_behind(imported, name))
    return layers


def _put_feedback(
    layers: dict[str, tuple[Float64Array, Float64Array, Node[nir.NIRNode] | None]],
    program: Program,
    name: str,
    op: RecurrentCubaLIF,
    columns: object,
    state: Mapping[str, torch.Tensor],
) -> None:
    """Write the columns of a layer's weights that are a population's synapses onto itself; the rest weigh its input."""
    found = None if columns is None else columns_of(str(columns))
    if found is None or columns_name(found[0], 0, found[1].start) not in program:
        return
    shape = tuple(state[f"{found[0]}.weight"].shape)
    layers.setdefault(found[0], (np.zeros(shape), np.zeros(shape[0]), None))
    unit = 2.0 ** -program[program[name].inputs[0]].op.signal.scale_exp
    layers[found[0]][0][:, found[1]] = op.synapses().whole_weight.reshape(shape[0], -1) * unit


def weight_factor(
    program: Program, folded: Graph[nir.NIRNode], imported: Graph[nir.NIRNode], name: str
) -> Float64Array:
    """What a layer's weights in the program are multiplied by to get those of the module, (rows or 1, 1, 1, 1).

    It is the product of three factors: the area of the pool, if the layer reads a sum in place of a mean; the number
    that divides levels in the module, if the layer reads levels; and the reciprocal of the number that the code scales
    a product by, if that product reads the layer and no buffer holds the number.
    """
    factor = np.full((1, 1, 1, 1), pool_area(folded, name) * level_norm(folded, name))
    for reader in program.consumers[name]:
        if not isinstance(reader.op, SpikeMatMul) or reader.name not in imported:
            continue
        for scale in imported.consumers[reader.name]:
            if isinstance(scale.op, nir.Scale) and SCALED_BY not in scale.op.metadata:
                heads = reader.op.num_heads
                per_head = np.broadcast_to(scale.op.scale, scale.shape).reshape(heads, -1)[:, 0]
                rows = np.repeat(per_head, program[name].shape[0] // heads)
                factor = factor / rows[:, None, None, None]
    return factor


def pool_area(folded: Graph[nir.NIRNode], name: str) -> int:
    """The area of the pool whose sum a layer or a population reads in place of the mean; 1 if it reads no such sum.

    A layer's weights were divided by the area, or a population's thresholds multiplied by it.
    """
    return int(folded[name].op.metadata.get(POOL_AREA, 1))


def folded_pool_area(program: Program, folded: Graph[nir.NIRNode], imported: Graph[nir.NIRNode]) -> int:
    """The area of the average pool before the readout, by which the output divides; 1 if there is no such pool.

    If the output divides because the module's code divides the logits, the imported graph still does so itself.
    """
    output = program.output.op
    assert isinstance(output, Output)
    return 1 if folded.output.inputs[0] in imported else output.divisor


def level_norm(folded: Graph[nir.NIRNode], name: str) -> float:
    """What a layer's weights were divided by, since it reads whole levels where the module divides them; else 1."""
    return float(folded[name].op.metadata.get(LEVEL_NORM, 1))


def inexact_module_terms(program: Program, folded: Graph[nir.NIRNode], imported: Graph[nir.NIRNode]) -> str:
    """Why the spikes of a quantized module may differ from the program's; "" if they cannot.

    What the integers themselves make differ is left to ``Program.is_dyadic``. Here, each mean, threshold and decay must
    be exactly the module's own, and each population that needs the shift of ties must have a bias on the way to it that
    can hold the shift.
    """
    for each in folded:
        if SHARED in each.op.metadata:
            return f"{each.op.metadata[SHARED]} weigh what {each.name} fires and what it reads, which are two layers"
        if MERGED in each.op.metadata:
            return f"{each.op.metadata[MERGED]} are one layer of the program, whose weights the module has no place for"
    for each in imported:
        if FIXED in each.op.metadata and each.name in folded and not _is_kept(program, each):
            return f"{each.name} has numbers that the module's code computes or states, and no parameter holds"
        if isinstance(each.op, nir.Scale) and not _keeps_factor(program, folded, imported, each):
            return f"{each.name} multiplies by numbers that the program rounds, and the module's code does not"
        if isinstance(each.op, nir.Scale) and isinstance(imported[each.inputs[0]].op, primitives.SpikeMatMul):
            fixed = SCALED_BY not in each.op.metadata
            if fixed and (np.frexp(np.abs(collapse(each.op.scale)))[0] != 0.5).any():
                return f"the code scales {each.inputs[0]} by a constant that is no power of two"
    parts = stacked_parts(program)
    for node in program:
        # the parts of stacked synapses are one layer of the module
        layer = parts.get(node.name, node.name)
        if isinstance(node.op, Conv2d) and layer in imported:
            pool = imported[layer].op
            if isinstance(pool, nir.AvgPool2d):
                means = 1.0 / math.prod(int(size) for size in pool.kernel_size)
                if (real_weight(program, layer) != means).any():
                    return f"the mean of {layer} is rounded"
        before = program[node.inputs[0]].op if node.inputs else None
        if isinstance(node.op, SumPool2d) and isinstance(before, Relay) and before.shift:
            return f"what {node.name} sums is rounded"
        if isinstance(node.op, Conv2d | Dense) and math.frexp(level_norm(folded, layer))[0] != 0.5:
            return f"the levels that {layer} reads are divided by {level_norm(folded, layer):g}, which rounds"
        if isinstance(node.op, IntegerLIF):
            if reason := _inexact_levels(program, folded, node):
                return reason
            continue
        if not isinstance(node.op, Spiking):
            continue
        if not _is_exact_mean(pool_area(folded, node.name)):
            return f"the mean that {node.name} reads is rounded in float64"
        neurons, scale = as_neurons(folded[node.name].op), 2.0 ** program[node.inputs[0]].op.signal.scale_exp
        if (collapse(neurons.v_threshold) * scale != node.op.meant_thresholds).any():
            return f"the threshold of {node.name} is rounded"
        if isinstance(neurons, DiscreteCubaLIF):
            decay = collapse(neurons.mem_decay)
        else:
            decay = np.asarray(1 / neurons.metadata["tau_steps"] if isinstance(neurons, nir.LIF) else 0.0)
        if (decay * LOIHI.decay_unity != node.op.decays).any():
            return f"the decay of {node.name} is rounded"
        needs_shift = not node.op.surplus.all() or _reads_rounded_mean(program, folded, node.inputs[0])
        if needs_shift and not _holds_bias(imported, imported[node.name].inputs[0]):
            return f"no bias on the way to {node.name} can hold the shift of ties"
    return ""


def _is_kept(program: Program, layer: Node[nir.NIRNode]) -> bool:
    """Whether the program holds a layer's numbers exactly as the module's code states them, such as a sum's ones."""
    if not isinstance(layer.op, nir.Conv2d) or layer.name not in program or layer.op.bias.any():
        return False
    return bool((real_weight(program, layer.name) == layer.op.weight).all())


def _keeps_factor(
    program: Program, folded: Graph[nir.NIRNode], imported: Graph[nir.NIRNode], factor: Node[nir.NIRNode]
) -> bool:
    """Whether the program multiplies exactly as the module's code does, if the factor is a layer of the program."""
    assert isinstance(factor.op, nir.Scale)
    name = factor.name
    if name not in folded or not isinstance(folded[name].op, nir.Conv2d | nir.Linear | nir.Affine):
        return True
    if name not in program:
        return False
    weight = real_weight(program, name)
    weight = weight.reshape(len(weight), -1) * weight_factor(program, folded, imported, name).reshape(-1, 1)
    # one factor a channel
    stated = np.broadcast_to(factor.op.scale, factor.shape).reshape(factor.shape[0], -1)[:, 0]
    return np.array_equal(weight, stated[:, None]) or np.array_equal(weight, np.diag(stated))


def _inexact_levels(program: Program, folded: Graph[nir.NIRNode], node: Node[ops.Op]) -> str:
    """Why the levels of a population may differ from the module's; "" if they cannot."""
    neurons, op, scale = folded[node.name].op, node.op, 2.0 ** program[node.inputs[0]].op.signal.scale_exp
    assert isinstance(neurons, primitives.IntegerLIF)
    assert isinstance(op, IntegerLIF)
    if (collapse(neurons.v_threshold) * scale != op.vth).any():
        return f"the threshold of {node.name} is rounded"
    if neurons.mem_decay * LOIHI.decay_unity != op.dv:
        return f"the decay of {node.name} is rounded"
    if _reads_rounded_mean(program, folded, node.inputs[0]):
        return f"a mean on the way to {node.name} is rounded, and none of its levels may be shifted"
    return ""


def _settled(program: Program) -> dict[str, npt.NDArray[np.bool_]]:
    """For each node and channel, whether all neurons that a bias there reaches fire at ties."""
    for node in program:
        if not isinstance(node.op, (Conv2d, Dense, *WITHOUT_WEIGHTS)):
            raise _unknown(node)
    # a bias that reaches no neurons is treated as the others: a fine-tuned network has the shift in every bias
    any_settled = any(node.op.surplus.any() for node in program if isinstance(node.op, Spiking))
    return settled_currents(program, unread=any_settled)


def _is_exact_mean(area: int) -> bool:
    """Whether float64 holds the mean of ``area`` spikes exactly, however many of them fire."""
    return area & (area - 1) == 0


def _reads_rounded_mean(program: Program, folded: Graph[nir.NIRNode], name: str) -> bool:
    """Whether a part of a current is made, in the module, from a mean that float64 rounds."""
    node = program[name]
    if isinstance(node.op, Conv2d) or is_stack(program, name):
        return not _is_exact_mean(pool_area(folded, name))
    if isinstance(node.op, Spiking | IntegerLIF | Input):
        return False
    return any(_reads_rounded_mean(program, folded, source) for source in node.inputs)


def _holds_bias(imported: Graph[nir.NIRNode], name: str) -> bool:
    """Whether a current has a bias that a checkpoint can set."""
    op = imported[name].op
    if isinstance(op, BatchNorm2d | nir.Affine):
        return True
    if isinstance(op, nir.Conv2d):
        return bool(op.metadata.get(HELD_BIAS))
    if isinstance(op, nir.Scale | primitives.SpikeMatMul):
        return _holds_bias(imported, imported[name].inputs[0])
    if isinstance(op, Add | MaxPool2d | nir.AvgPool2d | nir.Flatten):
        return any(_holds_bias(imported, source) for source in imported[name].inputs)
    return False


def _norm_behind(imported: Graph[nir.NIRNode], name: str) -> Node[nir.NIRNode] | None:
    """The batch normalisation behind a layer, which was folded into it; None if there is none."""
    norms = [node for node in imported.consumers[name] if isinstance(node.op, BatchNorm2d)]
    return norms[0] if norms else None


def _real_bias(program: Program, name: str, settled: npt.NDArray[np.bool_]) -> Float64Array:
    """A layer's real biases, (C,); ``TIE_SHIFT`` is subtracted on channels whose neurons do not all fire at ties."""
    op = program[name].op
    assert isinstance(op, Conv2d)
    return op.bias.astype(np.float64) * 2.0**-op.signal.scale_exp - TIE_SHIFT * ~settled


def write_rows(state: dict[str, Float64Array], name: str, where: TensorRows, values: Float64Array) -> None:
    """Write a layer's rows of a tensor, which is made on first use; y1 and y2 are half of its rows each."""
    if isinstance(where.rows, slice):
        state[name] = values
        return
    state.setdefault(name, np.zeros((2 * len(values), *values.shape[1:])))[where.rows] = values


def _unknown(node: Node[Any]) -> UnsupportedError:
    """The error for an operation that has no form in a checkpoint."""
    return UnsupportedError(
        f"{node.name}: a {type(node.op).__name__} has no place in a quantized checkpoint; leave it out of the network"
    )


def _norm_name(conv: str) -> str:
    prefix, _, last = conv.rpartition(".")
    return f"{prefix}.{int(last) + 1}" if last.isdigit() else f"{prefix}.{_NORMS[last]}"


def _identity_norm(name: str, channels: int) -> dict[str, Float64Array]:
    """The tensors, except the bias, of a batch normalisation that only adds its bias."""
    return {
        f"{name}.weight": np.ones(channels),
        f"{name}.running_mean": np.zeros(channels),
        f"{name}.running_var": np.full(channels, _unit_variance(BN_EPS)),
        f"{name}.num_batches_tracked": np.array(0),
    }


def _unit_variance(eps: float) -> float:
    """The running variance whose sum with epsilon is exactly one."""
    return next(each for each in _neighbours(1.0 - eps) if each + eps == 1.0)


def unit_rate(count: int) -> float:
    """The rate whose product with a count is exactly one, so that DSSA's scale is exactly one on every machine.

    1 / 49 is not such a rate, but a neighbouring float64 is. A few counts, such as 237, have no such rate: there the
    product is the next number above one, whose square root rounds to one.
    """
    rates = _neighbours(1 / count)
    return next(rate for wanted in (1.0, 1.0 + 2.0**-52) for rate in rates if rate * count == wanted)


def _neighbours(value: float) -> tuple[float, float, float]:
    """A float64, the next one above and the next one below."""
    return value, math.nextafter(value, math.inf), math.nextafter(value, -math.inf)
