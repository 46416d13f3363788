"""Imports a SpikingResformer as a float graph, with one function for each type of module.

A node has the path of its module in the state dict as its name. A node without a module of its own is named after what
it does (``scale1``, ``add``, ``add_inner``, ``flatten``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import nir
import numpy as np
import numpy.typing as npt
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from resformer.compiler.frontend.module.neurons import (
    DT,
    Draft,
    average_pool,
    batch_norm,
    flatten,
    float64,
    linear,
    neurons,
    pair,
)
from resformer.compiler.ir.arrays import Shape
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import Add, InputKind, MaxPool2d, SpikeMatMul
from resformer.errors import UnsupportedError
from resformer.models.checkpoint import check_rates
from resformer.models.layers import DSSA, GWFFN, BatchNorm, Downsample
from resformer.models.spikingresformer import SpikingResformer


def import_model(model: SpikingResformer, *, input_kind: InputKind | None = None) -> Graph[nir.NIRNode]:
    """The float graph of a network, its weights widened to float64.

    Args:
        model: The network, of any floating-point type and in any mode; the graph is what it computes in eval mode.
        input_kind: "static" for one image in all steps, "frames" for one frame per step; None: "frames" for a network
            of PLIF neurons, else "static".

    Raises:
        UnsupportedError: The network holds what the compiler cannot lower; the message names it.
    """
    net = model.architecture
    if input_kind is None:
        input_kind = "frames" if net.neuron == "PLIF" else "static"
    draft = Draft((net.in_channels, model.image_size, model.image_size))
    value = draft.input
    for name in ("prologue", "layers", "avgpool"):
        value = _import(draft, name, getattr(model, name), value)
    value = draft.add("flatten", flatten(draft.shape(value)), value)
    value = _import(draft, "classifier", model.classifier, value)
    draft.add("output", nir.Output({"output": np.array(draft.shape(value))}), value)
    return Graph(tuple(draft.nodes.values()), model.timesteps, {"dt": DT, "input": input_kind})


def _import(draft: Draft, name: str, module: nn.Module, source: str) -> str:
    """Append the nodes of a module that reads ``source``, and return the name of the value that the module makes."""
    importer = IMPORTERS.get(type(module))
    if importer is None:
        known = ", ".join(sorted(kind.__name__ for kind in IMPORTERS))
        raise UnsupportedError(f"{name}: no importer for a {type(module).__name__}; there are importers for {known}")
    return importer(draft, name, module, source)


def _sequential(draft: Draft, name: str, modules: nn.Sequential, source: str) -> str:
    for index, module in enumerate(modules):
        source = _import(draft, f"{name}.{index}", module, source)
    return source


def _dssa(draft: Draft, name: str, dssa: DSSA, source: str) -> str:
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
    return float64(1.0 / torch.sqrt(rate.double() * terms)).reshape(-1)


def _per_leading(values: npt.NDArray[np.float64], shape: Shape) -> npt.NDArray[np.float64]:
    """One value for each index of the first axis, broadcast over the other axes without a copy."""
    return np.broadcast_to(values.reshape(-1, *(1,) * (len(shape) - 1)), shape)


def _gwffn(draft: Draft, name: str, gwffn: GWFFN, source: str) -> str:
    widened = _import(draft, f"{name}.up", gwffn.up, source)
    mixed = widened
    for index, conv in enumerate(gwffn.conv):
        mixed = _import(draft, f"{name}.conv.{index}", conv, mixed)
    mixed = draft.add(f"{name}.add_inner", Add(), mixed, widened)
    narrowed = _import(draft, f"{name}.down", gwffn.down, mixed)
    return draft.add(f"{name}.add", Add(), narrowed, source)


def _downsample(draft: Draft, name: str, downsample: Downsample, source: str) -> str:
    for part in ("activation", "conv", "norm"):
        source = _import(draft, f"{name}.{part}", getattr(downsample, part), source)
    return source


def _conv2d(draft: Draft, name: str, conv: layer.Conv2d, source: str) -> str:
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise UnsupportedError(
            f"{name}: padding {conv.padding!r} of mode {conv.padding_mode!r}; "
            "a convolution must pad by a number of zeros, as Loihi's synapses do"
        )
    bias = np.zeros(conv.out_channels) if conv.bias is None else float64(conv.bias)
    op = nir.Conv2d(
        input_shape=draft.shape(source)[1:],
        weight=float64(conv.weight),
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=bias,
    )
    return draft.add(name, op, source)


def _batch_norm(draft: Draft, name: str, norm: BatchNorm, source: str) -> str:
    bn = norm.bn
    if bn.running_mean is None or bn.running_var is None:
        raise UnsupportedError(
            f"{name}: no running statistics; set track_running_stats, or the batch decides the spikes"
        )
    return draft.add(name, batch_norm(bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.eps), source)


def _max_pool(draft: Draft, name: str, pool: layer.MaxPool2d, source: str) -> str:
    if pool.ceil_mode or pair(pool.dilation) != (1, 1):
        raise UnsupportedError(
            f"{name}: ceil_mode={pool.ceil_mode}, dilation={pool.dilation}; "
            "a max-pool must have whole windows and no dilation"
        )
    kernel_size, stride, padding = (np.array(pair(each)) for each in (pool.kernel_size, pool.stride, pool.padding))
    return draft.add(name, MaxPool2d(kernel_size=kernel_size, stride=stride, padding=padding), source)


def _average_pool(draft: Draft, name: str, pool: layer.AdaptiveAvgPool2d, source: str) -> str:
    if pair(pool.output_size) != (1, 1):
        raise UnsupportedError(
            f"{name}: averages to {pool.output_size}; only a global average, to (1, 1), is supported"
        )
    _, rows, columns = draft.shape(source)
    return draft.add(name, average_pool((rows, columns), (rows, columns)), source)


def _linear(draft: Draft, name: str, module: layer.Linear, source: str) -> str:
    return draft.add(name, linear(module.weight, module.bias), source)


def _neurons(draft: Draft, name: str, node: neuron.BaseNode, source: str) -> str:
    """SpikingJelly's neurons with a hard reset to 0; neurons that leak must decay their input, too."""
    decay_input = type(node) is neuron.IFNode or node.decay_input
    if node.v_reset != 0 or not decay_input:
        raise UnsupportedError(
            f"{name}: v_reset={node.v_reset}, decay_input={decay_input}; "
            "neurons must reset to 0 and decay their input, as SpikingResformer's do"
        )
    return draft.add(name, neurons(name, node, draft.shape(source)), source)


Importer: TypeAlias = Callable[[Draft, str, Any, str], str]

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
        neuron.IFNode: _neurons,
        neuron.LIFNode: _neurons,
        neuron.ParametricLIFNode: _neurons,
    }
)
"""How each type of module is imported. Types are matched exactly: a subclass may compute something else."""
