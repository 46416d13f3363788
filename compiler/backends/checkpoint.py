"""The quantized network as an ordinary checkpoint: what it computes in SpikingJelly is what the program computes.

Weights and biases are dyadic, batch normalisation is reduced to a bias, and DSSA's rates make both of its scales one.
The tensors are float64: load them after ``model.double()``.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.primitives import half_rows
from resformer.compiler.ir.program import LIF, Conv2d, Dense, Program, SpikeMatMul
from resformer.compiler.target import LOIHI

Float64Array = npt.NDArray[np.float64]

TIE_SHIFT = 2.0**-30
"""Taken from every bias: SpikingJelly fires at v >= 1 and Lava above its threshold, so ties must fall below."""
BN_EPS = 1e-5
"""Epsilon of the authors' batch normalisations."""

_NORMS = {"W": "norm", "Wproj": "norm_proj", "conv": "norm"}
"""The batch normalisation behind a convolution that has a name; one with an index is followed by the next index."""


def quantized_state(program: Program) -> dict[str, torch.Tensor]:
    """The state dict of the quantized network, under the names of the authors' code.

    Args:
        program: As ``quantize`` returns it: each synapse still holds its own bias.
    """
    halving = LOIHI.decay_unity // 2
    learned_decay = any(node.op.dv != halving for node in program if isinstance(node.op, LIF))
    state: dict[str, Float64Array] = {}
    for node in program:
        match node.op:
            case Conv2d():
                weight, bias = _real_weight(program, node.name), _real_bias(program, node.name)
                if node.name.endswith((".y1", ".y2")):
                    name, part = node.name.rsplit(".", 1)
                    (product,) = program.consumers[node.name]
                    assert isinstance(product.op, SpikeMatMul)
                    rows = half_rows(2 * len(weight), product.op.num_heads, part)
                    weight = _scatter(state.get(f"{name}.weight"), rows, weight)
                    bias = _scatter(state.get(f"{_norm_name(name)}.bn.bias"), rows, bias)
                else:
                    name = node.name
                state[f"{name}.weight"] = weight
                state |= _norm(_norm_name(name), bias)
            case Dense():
                state[f"{node.name}.weight"] = _real_weight(program, node.name)
            case SpikeMatMul(num_heads=heads, transpose=transpose):
                block = node.name.rpartition(".")[0]
                y_shape = program[node.inputs[0]].shape
                count = y_shape[0] // heads if transpose else math.prod(y_shape[1:])
                buffer = "firing_rate_x" if transpose else "firing_rate_attn"
                state[f"{block}.{buffer}"] = np.full((1, 1, heads, 1, 1), _reciprocal(count))
            case LIF(dv=dv) if learned_decay:
                decay = dv / LOIHI.decay_unity
                state[f"{node.name}.w"] = np.array(math.log(decay / (1 - decay)))
            case _:
                pass
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


def _real_weight(program: Program, name: str) -> Float64Array:
    """The real weights that a synapse's integers stand for."""
    node = program[name]
    assert isinstance(node.op, (Conv2d, Dense))
    exp = node.op.signal.scale_exp - program[node.inputs[0]].op.signal.scale_exp
    return fixedpoint.scale_weight(node.op.weight, node.op.weight_exp).astype(np.float64) * 2.0**-exp


def _real_bias(program: Program, name: str) -> Float64Array:
    op = program[name].op
    assert isinstance(op, Conv2d)
    return op.bias.astype(np.float64) * 2.0**-op.signal.scale_exp - TIE_SHIFT


def _scatter(whole: Float64Array | None, rows: npt.NDArray[np.int64], values: Float64Array) -> Float64Array:
    """Write the rows of one half into the whole, made on first use."""
    whole = np.zeros((2 * len(values), *values.shape[1:])) if whole is None else whole
    whole[rows] = values
    return whole


def _norm_name(conv: str) -> str:
    prefix, _, last = conv.rpartition(".")
    return f"{prefix}.{int(last) + 1}" if last.isdigit() else f"{prefix}.{_NORMS[last]}"


def _norm(name: str, bias: Float64Array) -> dict[str, Float64Array]:
    """A batch normalisation that adds a bias and does nothing else."""
    variance = next(each for each in _neighbours(1.0 - BN_EPS) if each + BN_EPS == 1.0)
    return {
        f"{name}.bn.weight": np.ones_like(bias),
        f"{name}.bn.bias": bias,
        f"{name}.bn.running_mean": np.zeros_like(bias),
        f"{name}.bn.running_var": np.full_like(bias, variance),
        f"{name}.bn.num_batches_tracked": np.array(0),
    }


def _reciprocal(count: int) -> float:
    """The rate whose product with a count is exactly one, so that DSSA's scale is, whatever the machine's square root.

    1 / 49 is not, but its neighbour is. A few counts, such as 237, have none; the shift of ties covers the 2^-52 that
    the scale then is from one.
    """
    return next((rate for rate in _neighbours(1 / count) if rate * count == 1.0), 1 / count)


def _neighbours(value: float) -> tuple[float, float, float]:
    """A float64, the next one above and the next one below."""
    return value, math.nextafter(value, math.inf), math.nextafter(value, -math.inf)
