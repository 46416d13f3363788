"""SpikingJelly's layers and neurons as NIR nodes, for both frontends of PyTorch networks."""

from __future__ import annotations

import math
from typing import Any

import nir
import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.frontend.module.kinds import IF, LIF, kind_of
from resformer.compiler.ir.arrays import Shape
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.neurons import HARD, SOFT
from resformer.compiler.ir.primitives import BatchNorm2d, constant
from resformer.compiler.ir.shapes import output_shape
from resformer.errors import UnsupportedError

Float64Array = npt.NDArray[np.float64]

DT = 1e-4
"""Seconds per step, since NIR defines neurons in continuous time; dt / tau is exactly 1/2 for tau = 2 steps."""


class Draft:
    """A float graph under construction; a value is referred to by the name of the node that makes it."""

    def __init__(self, input_shape: Shape, *, name: str = "input") -> None:
        self.nodes: dict[str, Node[nir.NIRNode]] = {}
        self.input = self.add(name, nir.Input({"input": np.array(input_shape)}))

    def add(self, name: str, op: nir.NIRNode, *inputs: str, shape: Shape | None = None) -> str:
        """Append a node and return its name; its shape is that of the operation's output, unless ``shape`` is given."""
        if shape is None:
            shape = output_shape(op, [self.shape(source) for source in inputs])
        self.nodes[name] = Node(name, op, inputs, shape)
        return name

    def shape(self, name: str) -> Shape:
        """The shape of a value."""
        return self.nodes[name].shape


def batch_norm(
    mean: torch.Tensor, variance: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> BatchNorm2d:
    """A batch normalisation by running statistics; the weight is 1 and the bias 0 if the layer has none."""
    ones = torch.ones_like(mean)
    return BatchNorm2d(
        weight=float64(ones if weight is None else weight),
        bias=float64(0 * ones if bias is None else bias),
        running_mean=float64(mean),
        running_var=float64(variance),
        eps=eps,
    )


def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nir.Linear | nir.Affine:
    """A linear layer, with its bias if it has one."""
    return nir.Linear(float64(weight)) if bias is None else nir.Affine(float64(weight), float64(bias))


def flatten(shape: Shape) -> nir.Flatten:
    """A node that makes a vector of a value of ``shape``."""
    return nir.Flatten({"input": np.array(shape)}, start_dim=0)


def average_pool(kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int] = (0, 0)) -> nir.AvgPool2d:
    """A pool that averages over windows and counts the padding."""
    return nir.AvgPool2d(*(np.array(each) for each in (kernel, stride, padding)))


def neurons(name: str, node: Any, shape: Shape) -> nir.LIF | nir.IF:
    """A population as NIR's LIF or IF, with tau in seconds.

    If the input does not decay, SpikingJelly computes ``v - (v - v_reset) / tau + x``, and NIR's form is
    ``v + (v_reset - v + tau * x) / tau``. The two differ in the last bit at most, and not at all if tau is a power of
    two.

    Raises:
        UnsupportedError: The neurons are of another type, fire at rest, or never charge.
    """
    base = 0.0 if node.v_reset is None else float(node.v_reset)
    if node.v_threshold == math.inf:
        raise UnsupportedError(
            f"{name}: its threshold is infinite, so it never fires, and its membrane cannot be read out; leave these "
            "neurons out and return the mean over T of what they are given"
        )
    if not math.isfinite(base):
        raise UnsupportedError(f"{name}: its reset is {base:g}; give it a finite v_reset, or None")
    if not node.v_threshold > base:
        raise UnsupportedError(f"{name}: its threshold {node.v_threshold:g} is not above its reset, {base:g}; raise it")
    threshold, reset = constant(float(node.v_threshold), shape), constant(base, shape)
    metadata: dict[str, str | float] = {"reset": SOFT if node.v_reset is None else HARD, "fires_at": ">="}
    kind, _ = kind_of(name, node)
    if kind == IF:
        return nir.IF(r=constant(1 / DT, shape), v_threshold=threshold, v_reset=reset, metadata=metadata)
    if kind == LIF:
        steps = float(node.tau)
    else:
        # PLIF multiplies by sigmoid(w), which 1 / tau need not equal in its last bit.
        w = node.w.detach().double()
        decay = metadata["dt_over_tau"] = float(torch.sigmoid(w))
        if not decay:
            raise UnsupportedError(f"{name}: w is {w:g}, so these neurons never charge; train them to a larger w")
        steps = 1 / decay
    return nir.LIF(
        tau=constant(steps * DT, shape),
        r=constant(1.0 if node.decay_input else steps, shape),
        v_leak=reset,
        v_threshold=threshold,
        v_reset=reset,
        metadata=metadata | {"tau_steps": steps},
    )


def float64(tensor: torch.Tensor) -> Float64Array:
    """A copy of a tensor's values in float64."""
    return tensor.detach().cpu().double().numpy().copy()


def pair(value: Any) -> tuple[int, int]:
    """(rows, columns) of an argument that PyTorch takes as one number, a list of one, or two."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return int(values[0]), int(values[-1])
