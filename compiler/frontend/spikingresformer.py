"""SpikingResformer in, float graph out: one function a module type.

Every node bears the path of its module in the state dict; what has no module of its own is named after what it does
(``scale1``, ``add``, ``add_inner``, ``flatten``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import nir
import numpy as np
import numpy.typing as npt
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.primitives import Add, BatchNorm2d, MaxPool2d, SpikeMatMul, constant
from resformer.compiler.ir.shapes import Shape, output_shape
from resformer.errors import UnsupportedError
from resformer.models.checkpoint import check_rates
from resformer.models.layers import DSSA, GWFFN, BatchNorm, Downsample
from resformer.models.spikingresformer import SpikingResformer

InputKind: TypeAlias = Literal["static", "frames"]

DT = 1e-4
"""Seconds a step. NIR's neurons live in continuous time; this makes dt / tau exactly 1/2 for tau = 2 steps."""


def import_model(model: SpikingResformer, *, input_kind: InputKind | None = None) -> Graph[nir.NIRNode]:
    """The float graph of a network, its weights widened to float64.

    Args:
        model: Of any floating-point type, whatever its mode: what it computes in eval mode is imported.
        input_kind: One image for all steps, or one frame a step; frames for a network of PLIF neurons if not given.

    Raises:
        UnsupportedError: The network holds what the compiler cannot lower; the message names it.
    """
    net = model.architecture
    if input_kind is None:
        input_kind = "frames" if net.neuron == "PLIF" else "static"
    draft = _Draft((net.in_channels, model.image_size, model.image_size))
    value = draft.input
    for name in ("prologue", "layers", "avgpool"):
        value = _import(draft, name, getattr(model, name), value)
    value = draft.add("flatten", nir.Flatten({"input": np.array(draft.shape(value))}, start_dim=0), value)
    value = _import(draft, "classifier", model.classifier, value)
    draft.add("output", nir.Output({"output": np.array(draft.shape(value))}), value)
    return Graph(tuple(draft.nodes.values()), model.timesteps, {"dt": DT, "input": input_kind})


class _Draft:
    """The nodes so far; a value is the name of the node that makes it."""

    def __init__(self, input_shape: Shape) -> None:
        self.nodes: dict[str, Node[nir.NIRNode]] = {}
        self.input = self.add("input", nir.Input({"input": np.array(input_shape)}))

    def add(self, name: str, op: nir.NIRNode, *inputs: str, shape: Shape | None = None) -> str:
        """Append a node, of the shape that its operation makes unless another is given, and return its name."""
        if shape is None:
            shape = output_shape(op, [self.shape(source) for source in inputs])
        self.nodes[name] = Node(name, op, inputs, shape)
        return name

    def shape(self, name: str) -> Shape:
        return self.nodes[name].shape


def _import(draft: _Draft, name: str, module: nn.Module, source: str) -> str:
    """Append what a module computes from a value, and return the value that it makes."""
    importer = IMPORTERS.get(type(module))
    if importer is None:
        known = ", ".join(sorted(kind.__name__ for kind in IMPORTERS))
        raise UnsupportedError(f"{name}: no importer for a {type(module).__name__}; there are importers for {known}")
    return importer(draft, name, module, source)


def _sequential(draft: _Draft, name: str, modules: nn.Sequential, source: str) -> str:
    for index, module in enumerate(modules):
        source = _import(draft, f"{name}.{index}", module, source)
    return source


def _dssa(draft: _Draft, name: str, dssa: DSSA, source: str) -> str:
    heads, patches = dssa.num_heads, dssa.num_patches
    channels, rows, columns = draft.shape(source)
    rates = {f"{name}.{each}": getattr(dssa, each) for each in ("firing_rate_x", "firing_rate_attn")}
    check_rates(rates)
    x = _import(draft, f"{name}.activation_in", dssa.activation_in, source)
    y = _import(draft, f"{name}.norm", dssa.norm, _import(draft, f"{name}.W", dssa.W, x))

    product = SpikeMatMul(num_heads=heads, transpose=True, part="y1")
    value = draft.add(f"{name}.matmul1", product, y, x)
    c1 = _attention_scale(dssa.firing_rate_x, channels // heads)
    value = draft.add(f"{name}.scale1", nir.Scale(_per_leading(c1, draft.shape(value))), value)
    attention = _import(draft, f"{name}.activation_attn", dssa.activation_attn, value)

    product = SpikeMatMul(num_heads=heads, transpose=False, part="y2")
    value = draft.add(f"{name}.matmul2", product, y, attention, shape=(channels, rows, columns))
    c2 = np.repeat(_attention_scale(dssa.firing_rate_attn, patches), channels // heads)
    value = draft.add(f"{name}.scale2", nir.Scale(_per_leading(c2, draft.shape(value))), value)
    value = _import(draft, f"{name}.activation_out", dssa.activation_out, value)

    value = _import(draft, f"{name}.norm_proj", dssa.norm_proj, _import(draft, f"{name}.Wproj", dssa.Wproj, value))
    return draft.add(f"{name}.add", Add(), value, source)


def _attention_scale(rate: torch.Tensor, terms: int) -> npt.NDArray[np.float64]:
    """DSSA's c1 or c2, (heads,): 1 / sqrt(rate * terms), computed as the network does so that no bit differs."""
    return _float64(1.0 / torch.sqrt(rate.double() * terms)).reshape(-1)


def _per_leading(values: npt.NDArray[np.float64], shape: Shape) -> npt.NDArray[np.float64]:
    """Values of the first axis, spread over the others without memory."""
    return np.broadcast_to(values.reshape(-1, *(1,) * (len(shape) - 1)), shape)


def _gwffn(draft: _Draft, name: str, gwffn: GWFFN, source: str) -> str:
    widened = _import(draft, f"{name}.up", gwffn.up, source)
    mixed = widened
    for index, conv in enumerate(gwffn.conv):
        mixed = _import(draft, f"{name}.conv.{index}", conv, mixed)
    mixed = draft.add(f"{name}.add_inner", Add(), mixed, widened)
    narrowed = _import(draft, f"{name}.down", gwffn.down, mixed)
    return draft.add(f"{name}.add", Add(), narrowed, source)


def _downsample(draft: _Draft, name: str, downsample: Downsample, source: str) -> str:
    for part in ("activation", "conv", "norm"):
        source = _import(draft, f"{name}.{part}", getattr(downsample, part), source)
    return source


def _conv2d(draft: _Draft, name: str, conv: layer.Conv2d, source: str) -> str:
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise UnsupportedError(
            f"{name}: padding {conv.padding!r} of mode {conv.padding_mode!r}; "
            "a convolution must pad by a number of zeros, as Loihi's synapses do"
        )
    bias = np.zeros(conv.out_channels) if conv.bias is None else _float64(conv.bias)
    op = nir.Conv2d(
        input_shape=draft.shape(source)[1:],
        weight=_float64(conv.weight),
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=bias,
    )
    return draft.add(name, op, source)


def _batch_norm(draft: _Draft, name: str, norm: BatchNorm, source: str) -> str:
    bn = norm.bn
    if bn.running_mean is None or bn.running_var is None:
        raise UnsupportedError(
            f"{name}: no running statistics; set track_running_stats, or the batch decides the spikes"
        )
    ones = torch.ones_like(bn.running_mean)
    op = BatchNorm2d(
        weight=_float64(ones if bn.weight is None else bn.weight),
        bias=_float64(0 * ones if bn.bias is None else bn.bias),
        running_mean=_float64(bn.running_mean),
        running_var=_float64(bn.running_var),
        eps=bn.eps,
    )
    return draft.add(name, op, source)


def _max_pool(draft: _Draft, name: str, pool: layer.MaxPool2d, source: str) -> str:
    if pool.ceil_mode or _pair(pool.dilation) != (1, 1):
        raise UnsupportedError(
            f"{name}: ceil_mode={pool.ceil_mode}, dilation={pool.dilation}; "
            "a max-pool must have whole windows and no dilation"
        )
    kernel_size, stride, padding = (np.array(_pair(each)) for each in (pool.kernel_size, pool.stride, pool.padding))
    return draft.add(name, MaxPool2d(kernel_size=kernel_size, stride=stride, padding=padding), source)


def _average_pool(draft: _Draft, name: str, pool: layer.AdaptiveAvgPool2d, source: str) -> str:
    if _pair(pool.output_size) != (1, 1):
        raise UnsupportedError(
            f"{name}: averages to {pool.output_size}; only a global average, to (1, 1), is supported"
        )
    size = np.array(draft.shape(source)[1:])
    return draft.add(name, nir.AvgPool2d(kernel_size=size, stride=size, padding=np.zeros(2, dtype=np.int64)), source)


def _linear(draft: _Draft, name: str, linear: layer.Linear, source: str) -> str:
    weight = _float64(linear.weight)
    op = nir.Linear(weight) if linear.bias is None else nir.Affine(weight, _float64(linear.bias))
    return draft.add(name, op, source)


def _lif(draft: _Draft, name: str, lif: neuron.LIFNode, source: str) -> str:
    return draft.add(name, _neurons(name, lif, draft.shape(source), tau_steps=float(lif.tau)), source)


def _parametric_lif(draft: _Draft, name: str, lif: neuron.ParametricLIFNode, source: str) -> str:
    # PLIF multiplies by sigmoid(w), which 1 / tau need not equal in its last bit.
    w = lif.w.detach().double()
    dt_over_tau = float(torch.sigmoid(w))
    if not dt_over_tau > 0:
        raise UnsupportedError(f"{name}: w is {w:g}, so these neurons never charge; train them to a larger w")
    op = _neurons(name, lif, draft.shape(source), tau_steps=1 / dt_over_tau)
    op.metadata["dt_over_tau"] = dt_over_tau
    return draft.add(name, op, source)


def _neurons(name: str, node: neuron.BaseNode, shape: Shape, *, tau_steps: float) -> nir.LIF:
    """SpikingJelly's neurons with hard reset and decayed input in NIR's terms, with tau in seconds."""
    if node.v_reset != 0 or not node.decay_input:
        raise UnsupportedError(
            f"{name}: v_reset={node.v_reset}, decay_input={node.decay_input}; "
            "neurons must reset to 0 and decay their input, as SpikingResformer's do"
        )
    return nir.LIF(
        tau=constant(tau_steps * DT, shape),
        r=constant(1.0, shape),
        v_leak=constant(0.0, shape),
        v_threshold=constant(float(node.v_threshold), shape),
        v_reset=constant(0.0, shape),
        metadata={"reset": "hard", "fires_at": ">=", "tau_steps": tau_steps},
    )


def _float64(tensor: torch.Tensor) -> npt.NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy().copy()


def _pair(value: Any) -> tuple[int, int]:
    """(rows, columns) of an argument that PyTorch takes as one number or two."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


Importer: TypeAlias = Callable[[_Draft, str, Any, str], str]

IMPORTERS: Mapping[type[nn.Module], Importer] = MappingProxyType(
    {
        nn.Sequential: _sequential,
        DSSA: _dssa,
        GWFFN: _gwffn,
        Downsample: _downsample,
        BatchNorm: _batch_norm,
        layer.Conv2d: _conv2d,
        layer.MaxPool2d: _max_pool,
        layer.AdaptiveAvgPool2d: _average_pool,
        layer.Linear: _linear,
        neuron.LIFNode: _lif,
        neuron.ParametricLIFNode: _parametric_lif,
    }
)
"""How each type of module is imported. Types are matched exactly: a subclass may compute something else."""
