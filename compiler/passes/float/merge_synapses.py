"""Bring a network of NIR's nodes into the form that Loihi has: neurons, and one convolution for each path between them.

Everything between what is sent (the input, spikes) and the neurons that receive it is linear, so each path from a
sender to a receiver is one convolution: pools, scales, linear layers and convolutions are multiplied out, in float64.
Vectors become images of one pixel, and a linear layer becomes a convolution as large as its input. What differs between
the channels of a population (r, v_threshold, v_leak, v_reset) becomes part of its weights and biases.

Lava's ``LIFReset`` cannot be a population whose current has a memory, which resets by subtraction, in which tau differs
between neurons, or in which another parameter differs within a channel. Such a population becomes neurons in steps
(``ir.neurons``), and its synapses stay as they are.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.arrays import Shape
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.neurons import HARD, discrete, reshaped
from resformer.compiler.ir.primitives import (
    PER_INTEGRATOR,
    PER_MULTI_SPIKE,
    PER_NEURON,
    Add,
    DiscreteCubaLI,
    DiscreteCubaLIF,
    IntArray,
    MultiSpikeIF,
    RecurrentCubaLIF,
    SampleDelay,
    collapse,
    constant,
    undilated,
)
from resformer.compiler.passes.float.synapse import Synapse, after, of_windows, passing_on, per_channel
from resformer.errors import UnsupportedError

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Value:
    """A node's output: the synapses whose sum it is, and its shape as an image, whatever shape the node states."""

    terms: tuple[Synapse, ...]
    shape: Shape


def merge_synapses(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """Make each population read a convolution, or a sum of convolutions, of the input or of spikes.

    Raises:
        UnsupportedError: A path is no single convolution, or a population has no form on Loihi; the message names it.
    """
    values: dict[str, _Value] = {}
    made: dict[str, Node[nir.NIRNode]] = {}
    for node in graph:
        match node.op:
            case nir.Input():
                made[node.name] = node
                values[node.name] = _sent(node.name, node.shape)
            case nir.LIF() | nir.IF() | nir.CubaLIF() | DiscreteCubaLIF():
                merge = _merge_population if _is_stock(node, values[node.inputs[0]].shape) else _merge_discrete
                merge(node, values[node.inputs[0]], graph, made)
                values[node.name] = _sent(node.name, made[node.name].shape)
            case MultiSpikeIF():
                _merge_multi_spike(node, node.op, values[node.inputs[0]], graph, made)
                values[node.name] = _sent(node.name, made[node.name].shape)
            case SampleDelay(steps=steps):
                _merge_delay(node, steps, values[node.inputs[0]], made)
                values[node.name] = _sent(node.name, made[node.name].shape)
            case DiscreteCubaLI():
                _merge_integrator(node, node.op, values[node.inputs[0]], graph, made)
                values[node.name] = _sent(node.name, made[node.name].shape)
            case nir.Output():
                _merge_output(node, values[node.inputs[0]], graph, made)
            case _:
                values[node.name] = _apply(node, [values[name] for name in node.inputs], graph)
    return replace(graph, nodes=tuple(made.values()))


def _sent(name: str, shape: Shape) -> _Value:
    """What a node sends, passed on unchanged."""
    return _Value((passing_on(name, shape),), shape)


def _apply(node: Node[nir.NIRNode], inputs: list[_Value], graph: Graph[nir.NIRNode]) -> _Value:
    """The output of a node without memory."""
    x, op = inputs[0], node.op
    channels, *size = x.shape
    match op:
        case Add():
            return _Value(tuple(itertools.chain.from_iterable(each.terms for each in inputs)), _common(node, inputs))
        case nir.Flatten():
            return x
        case nir.Linear() | nir.Affine():
            weight = op.weight.reshape(len(op.weight), *x.shape)
            bias = op.bias if isinstance(op, nir.Affine) else np.zeros(len(weight))
            layer = Synapse("", weight, bias, (1, 1), (0, 0), 1, (size[0], size[1]), node.name)
        case nir.Scale():
            gain = _of_channels(node, "scale", op.scale, x.shape)
            layer = per_channel("", gain, np.zeros(channels), x.shape)
        case _:
            windowed = of_windows(node, x.shape)
            if windowed is None:
                raise UnsupportedError(f"{node.name}: no lowering for a {type(op).__name__}; leave it out")
            _require_image(node, x, graph)
            layer = windowed
    # the layer's bias is added once, however many terms its input has
    without = replace(layer, bias=np.zeros_like(layer.bias))
    terms = tuple(after(node.name, term, without if index else layer) for index, term in enumerate(x.terms))
    return _Value(terms, terms[0].shape)


def _common(node: Node[nir.NIRNode], inputs: list[_Value]) -> Shape:
    shapes = {each.shape for each in inputs}
    if len(shapes) > 1:
        raise UnsupportedError(
            f"{node.name}: adds vectors made of images of shapes {', '.join(map(str, sorted(shapes)))}; "
            "put a linear layer or neurons behind each flatten"
        )
    return inputs[0].shape


def _require_image(node: Node[nir.NIRNode], x: _Value, graph: Graph[nir.NIRNode]) -> None:
    given = graph[node.inputs[0]].shape
    if given != x.shape:
        raise UnsupportedError(
            f"{node.name}: reads an image of shape {given} that was reshaped from {x.shape}; keep its axes"
        )


def _is_stock(node: Node[nir.NIRNode], shape: Shape) -> bool:
    """Whether Lava's LIFReset can be these neurons: one decay for all, a hard reset, no difference within a channel."""
    neurons = node.op
    if isinstance(neurons, nir.CubaLIF | DiscreteCubaLIF) or neurons.metadata["reset"] != HARD:
        return False
    if isinstance(neurons, nir.LIF) and np.ptp(collapse(neurons.tau)):
        return False
    leaks = ("v_leak",) if isinstance(neurons, nir.LIF) else ()
    return all(_same_in_channels(getattr(neurons, key), shape) for key in ("r", "v_threshold", "v_reset", *leaks))


def _merge_discrete(
    node: Node[nir.NIRNode], value: _Value, graph: Graph[nir.NIRNode], made: dict[str, Node[nir.NIRNode]]
) -> None:
    """Write a population of our own neurons, and the synapses in front of it.

    Raises:
        UnsupportedError: It has no form in steps, or its recurrent synapses are for a population of another shape.
    """
    neurons = node.op
    if isinstance(neurons, RecurrentCubaLIF):
        if value.shape != (*node.shape, 1, 1)[:3]:
            raise UnsupportedError(
                f"{node.name}: its recurrent layer is for a vector of {node.shape[0]}, but it reads an image of shape "
                f"{value.shape}, flattened; put a linear layer between"
            )
        weight = undilated(neurons.weight, neurons.dilation)
        neurons = replace(neurons, weight=weight, dilation=(1, 1))
    if isinstance(neurons, DiscreteCubaLIF):
        arrays: dict[str, Any] = {key: reshaped(getattr(neurons, key), value.shape) for key in PER_NEURON}
        neurons = replace(neurons, **arrays)
    else:
        assert isinstance(neurons, nir.LIF | nir.IF | nir.CubaLIF)
        neurons = discrete(node.name, neurons, float(graph.metadata["dt"]), value.shape)
    current = _write_sum(node.name, value, passing_on("", value.shape), graph, made)
    made[node.name] = Node(node.name, neurons, (current,), value.shape)


def _merge_multi_spike(
    node: Node[nir.NIRNode],
    neurons: MultiSpikeIF,
    value: _Value,
    graph: Graph[nir.NIRNode],
    made: dict[str, Node[nir.NIRNode]],
) -> None:
    """Write a population that may fire several spikes a step, and the synapses in front of it."""
    arrays: dict[str, Any] = {key: reshaped(getattr(neurons, key), value.shape) for key in PER_MULTI_SPIKE}
    current = _write_sum(node.name, value, passing_on("", value.shape), graph, made)
    made[node.name] = Node(node.name, replace(neurons, **arrays), (current,), value.shape)


def _merge_delay(node: Node[nir.NIRNode], steps: IntArray, value: _Value, made: dict[str, Node[nir.NIRNode]]) -> None:
    """Write a delay of what neurons send.

    Raises:
        UnsupportedError: It delays a current.
    """
    term = value.terms[0]
    if len(value.terms) > 1 or not term.identity:
        raise UnsupportedError(
            f"{node.name}: delays what {term.name or term.source} makes, a current; on Loihi what neurons send can "
            "wait, so put the delay behind neurons or the input"
        )
    delay = SampleDelay(np.ascontiguousarray(steps).reshape(value.shape))
    made[node.name] = Node(node.name, delay, (term.source,), value.shape)


def _merge_integrator(
    node: Node[nir.NIRNode],
    neurons: DiscreteCubaLI,
    value: _Value,
    graph: Graph[nir.NIRNode],
    made: dict[str, Node[nir.NIRNode]],
) -> None:
    """Write neurons that do not fire, with their gain moved into the synapses in front of them.

    Raises:
        UnsupportedError: Something other than the output reads their potential.
    """
    reader = node
    while not isinstance(reader.op, nir.Output):
        readers = graph.consumers[reader.name]
        strangers = [each for each in readers if not isinstance(each.op, nir.Flatten | nir.Output)]
        if strangers or len(readers) > 1:
            raise UnsupportedError(
                f"{node.name}: {(strangers or readers)[0].name} reads its potential, which is no spike; only the "
                "network's output can, so leave it out or put it last"
            )
        (reader,) = readers
    shape = value.shape
    last = per_channel("", _of_channels(node, "gain", neurons.gain, shape), np.zeros(shape[0]), shape)
    arrays: dict[str, Any] = {key: reshaped(getattr(neurons, key), shape) for key in PER_INTEGRATOR}
    op = DiscreteCubaLI(**{**arrays, "gain": constant(1.0, shape)})
    made[node.name] = Node(node.name, op, (_write_sum(node.name, value, last, graph, made),), shape)


def _merge_population(
    node: Node[nir.NIRNode], value: _Value, graph: Graph[nir.NIRNode], made: dict[str, Node[nir.NIRNode]]
) -> None:
    """Write a population with one threshold, no leak and a reset to 0, and the synapses in front of it.

    The potential v - v_reset is scaled by a factor for each channel, so that all channels have one threshold and a
    current of one adds one. What is left of r and v_leak becomes a weight and a bias of each channel.

    Raises:
        UnsupportedError: v_threshold is not above v_reset, or r is 0 in all channels.
    """
    neurons, dt, shape = node.op, float(graph.metadata["dt"]), value.shape
    fields = {key: _of_channels(node, key, getattr(neurons, key), shape) for key in ("r", "v_threshold", "v_reset")}
    height = fields["v_threshold"] - fields["v_reset"]
    if (height <= 0).any():
        raise UnsupportedError(
            f"{node.name}: v_threshold must be above v_reset; the least difference is {height.min():.4g}"
        )
    if isinstance(neurons, nir.LIF):
        tau = _of_channels(node, "tau", neurons.tau, shape)
        decay = dt / float(tau[0])
        gain = fields["r"] * decay
        leak = decay * (_of_channels(node, "v_leak", neurons.v_leak, shape) - fields["v_reset"])
    else:
        gain, leak = fields["r"] * dt, np.zeros(shape[0])
    if not gain.any():
        raise UnsupportedError(f"{node.name}: r is 0, so its neurons never charge; leave them out")
    # the median of the channels' thresholds, so that most weights stay as they are
    ratios = height[gain != 0] / np.abs(gain[gain != 0])
    threshold = float(np.sort(ratios)[len(ratios) // 2])
    last = per_channel("", threshold * gain / height, threshold * leak / height, shape)
    common = constant(threshold, shape), constant(0.0, shape)
    op: nir.NIRNode
    if isinstance(neurons, nir.LIF):
        op = nir.LIF(
            tau=constant(float(tau[0]), shape),
            r=constant(float(tau[0]) / dt, shape),
            v_leak=common[1],
            v_threshold=common[0],
            v_reset=common[1],
            metadata=dict(neurons.metadata),
        )
    else:
        op = nir.IF(
            r=constant(1.0 / dt, shape), v_threshold=common[0], v_reset=common[1], metadata=dict(neurons.metadata)
        )
    current = _write_sum(node.name, value, last, graph, made)
    made[node.name] = Node(node.name, op, (current,), shape)


def _write_sum(
    name: str, value: _Value, last: Synapse, graph: Graph[nir.NIRNode], made: dict[str, Node[nir.NIRNode]]
) -> str:
    """Write the synapses that meet at a node, and their sum; return the name of the node that makes the sum."""
    written = []
    for index, term in enumerate(value.terms):
        own = last if index == 0 else replace(last, bias=np.zeros_like(last.bias))
        synapse = term if own.identity else after(name, term, own)
        written.append(_unused(synapse.name or f"{name}.synapse", graph, made, owned=bool(synapse.name)))
        made[written[-1]] = Node(written[-1], synapse.op(), (synapse.source,), synapse.shape)
    if len(written) == 1:
        return written[0]
    total = _unused(f"{name}.add", graph, made, owned=False)
    made[total] = Node(total, Add(), tuple(written), value.shape)
    return total


def _unused(wanted: str, graph: Graph[nir.NIRNode], made: dict[str, Node[nir.NIRNode]], *, owned: bool) -> str:
    """A name that no other node has; with ``owned``, the layer ``wanted`` keeps its name if it is not written yet."""
    names = itertools.chain([wanted], (f"{wanted}.{count}" for count in itertools.count(1)))
    return next(name for name in names if name not in made and (name not in graph or (owned and name == wanted)))


def _merge_output(
    node: Node[nir.NIRNode], value: _Value, graph: Graph[nir.NIRNode], made: dict[str, Node[nir.NIRNode]]
) -> None:
    """Write the network's output: spikes as they are, one linear layer of them, or a sum of convolutions."""
    term, features = value.terms[0], (math.prod(value.shape),)

    def flatten(source: str) -> str:
        name = _unused(f"{source}.flatten", graph, made, owned=True)
        shape = made[source].shape
        made[name] = Node(name, nir.Flatten({"input": np.array(shape)}, start_dim=0), (source,), (math.prod(shape),))
        return name

    whole = term.weight.shape[2:] == term.size and not any(term.padding) and term.groups == 1
    if len(value.terms) == 1 and term.identity:
        result = flatten(term.source)
    elif len(value.terms) == 1 and whole:
        source = flatten(term.source)
        weight = np.ascontiguousarray(term.weight.reshape(features[0], -1))
        result = _unused(term.name or f"{node.name}.synapse", graph, made, owned=bool(term.name))
        op = nir.Affine(weight, term.bias) if term.bias.any() else nir.Linear(weight)
        made[result] = Node(result, op, (source,), features)
    else:
        result = flatten(_write_sum(node.name, value, passing_on("", value.shape), graph, made))
    made[node.name] = replace(node, inputs=(result,), shape=features)


def _of_channels(node: Node[nir.NIRNode], key: str, array: Float64Array, shape: Shape) -> Float64Array:
    """A parameter of each channel, (C,).

    Raises:
        UnsupportedError: It varies within a channel.
    """
    channels = np.asarray(array).reshape(shape[0], -1)
    if not _same_in_channels(array, shape):
        raise UnsupportedError(
            f"{node.name}: {key} varies within a channel (from {channels.min():.4g} to {channels.max():.4g}), and a "
            "convolution's weights are the same all over it; use one value a channel"
        )
    return channels[:, 0]


def _same_in_channels(array: Float64Array, shape: Shape) -> bool:
    channels = np.asarray(array).reshape(shape[0], -1)
    return not (channels != channels[:, :1]).any()
