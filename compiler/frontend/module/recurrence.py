"""Neurons that read what they fired one step ago, in SpikingJelly's recurrent containers.

While a module is traced, a node of its own stands for what a container reads from the step before. Once the neurons
that fire these spikes are known, all layers between must be linear. They then become synapses that lead from the
population back to itself, as in NIR.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

import nir
import numpy as np
import numpy.typing as npt
from torch import fx, nn

from resformer.compiler.frontend.module.layout import BATCH, TIME, Layout, atoms
from resformer.compiler.frontend.module.neurons import DT, linear
from resformer.compiler.frontend.module.values import IMAGES, Tracing, Value
from resformer.compiler.ir.arrays import Shape
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.neurons import discrete
from resformer.compiler.ir.primitives import (
    COLUMNS,
    NEURONS,
    PER_NEURON,
    SHARED,
    Add,
    BatchNorm2d,
    RecurrentCubaLIF,
    columns_name,
    pair,
    undilated,
)
from resformer.errors import UnsupportedError

Float64Array = npt.NDArray[np.float64]

REMEDY = (
    "let a convolution, linear layer or normalisation, and sums, lead from neurons back to themselves, or compile a "
    "recurrent network from a NIR file"
)


@dataclass(eq=False)
class StepAgo(nir.NIRNode):
    """Stands for what a container made one step ago; no finished graph contains it."""

    def __post_init__(self) -> None:
        self.input_type, self.output_type = {"input": None}, {"output": None}


@dataclass(frozen=True, eq=False)
class Feedback:
    """The synapses, of stride one, that the layers on the way back from some neurons amount to.

    Attributes:
        weight: (C_out, C_in / groups, K_h, K_w).
        bias: (C_out,).
        padding: (rows, columns).
        groups: The number of blocks of channels that do not mix.
        layers: The names of the layers whose weights these synapses are made of.
    """

    weight: Float64Array
    bias: Float64Array
    padding: tuple[int, int]
    groups: int
    layers: tuple[str, ...] = ()

    @property
    def by_channel(self) -> bool:
        """Whether the synapses only multiply each channel by a number."""
        return self.groups == len(self.weight) and self.weight.shape[1:] == (1, 1, 1)

    @property
    def dense(self) -> Float64Array:
        """The weights of a 1x1 kernel as a matrix, (C_out, C_in), with zeros between groups."""
        rows, taken = self.weight.shape[:2]
        wide = np.zeros((rows, taken * self.groups))
        for group, own in enumerate(np.split(np.arange(rows), self.groups)):
            wide[own, group * taken : (group + 1) * taken] = self.weight[own, :, 0, 0]
        return wide

    def scaled(self, gain: Float64Array, bias: Float64Array, *layers: str) -> Feedback:
        """The same synapses, with each output channel multiplied by ``gain`` and ``bias`` added."""
        weight = self.weight * gain[:, None, None, None]
        return replace(self, weight=weight, bias=self.bias * gain + bias, layers=(*self.layers, *layers))


def unchanged(shape: Shape) -> Feedback:
    """Synapses that pass on values of a shape unchanged."""
    return Feedback(np.ones((shape[0], 1, 1, 1)), np.zeros(shape[0]), (0, 0), shape[0])


def step_ago(tracing: Tracing, node: fx.Node, x: object, name: str, features: int) -> Value:
    """What a container made one step ago: of the shape of ``x``, or with ``features`` features if not 0."""
    value = tracing.value(node, x)
    made = f"{name}.step_ago"
    if features:
        value = tracing.plain(node, x, *IMAGES)
    shape = (features,) if features else value.shape
    if made not in tracing.draft.nodes:
        tracing.draft.add(made, StepAgo(), shape=shape)
        tracing.recurrent.add(name)
    if not features:
        return value.of(made)
    layout = Layout((*value.lead, atoms(0, features)))
    return replace(value, node=made, shape=shape, layout=layout, made_by=None)


def recurrent_linear(tracing: Tracing, node: fx.Node, x: object, before: object, name: str, _outputs: int) -> Value:
    """A LinearRecurrentContainer's layer: some columns weigh its input, the others what it made one step ago."""
    given, fed = tracing.plain(node, x, *IMAGES), tracing.plain(node, before, *IMAGES)
    if len(given.shape) != 1:
        raise tracing.refusal(
            node, f"{name}: reads values of shape {given.shape} for each sample", "flatten them to vectors before it"
        )
    layer = tracing.module.get_submodule(f"{name}.rc")
    assert isinstance(layer, nn.Linear)
    weight, start = layer.weight.detach(), given.shape[0]
    parts = []
    for value, first, size, bias in ((given, 0, start, layer.bias), (fed, start, fed.shape[0], None)):
        part = columns_name(f"{name}.rc", first, size)
        op = linear(weight[:, first : first + size], bias)
        parts.append(tracing.draft.add(part, op, value.node))
    total = tracing.draft.add(f"{name}.rc", Add(), *parts)
    return replace(given, node=total, shape=(len(weight),), layout=Layout((*given.lead, atoms(0, len(weight)))))


def returned(tracing: Tracing, node: fx.Node, x: object, name: str) -> Value:
    """What a container makes; the first call gives the container's neurons the synapses that lead back to them."""
    value = tracing.value(node, x)
    before = f"{name}.step_ago"
    closed = tracing.closed
    if name not in closed:
        closed.add(name)
        close(tracing, node, value.node, before)
    return value


def close(tracing: Tracing, node: fx.Node, made: str, before: str) -> None:
    """Make neurons recurrent that read, one step later, what is made of their own spikes.

    Args:
        tracing: The traced module.
        node: The operation, for errors.
        made: The name of the node whose value leads back.
        before: The name of the node that stands for this value one step later.

    Raises:
        UnsupportedError: There are no such neurons, or a layer on the way back has no lowering.
    """
    name, behind = made, list[Node[nir.NIRNode]]()
    while not isinstance(tracing.draft.nodes[name].op, NEURONS):
        each = tracing.draft.nodes[name]
        if len(each.inputs) != 1 or isinstance(each.op, StepAgo):
            raise _refusal(tracing, node, each, "leads back, and is made of more than what neurons fire")
        behind.insert(0, each)
        name = each.inputs[0]
    population = tracing.draft.nodes[name]
    feedback = unchanged(population.shape)
    for each in behind:
        feedback = _behind(tracing, node, feedback, each)
    if feedback.bias.any():
        raise _refusal(tracing, node, behind[-1], "leads back, and its bias is not there in the first step")
    dependent = {before}
    for each in tracing.draft.nodes.values():
        if dependent.intersection(each.inputs):
            dependent.add(each.name)
    known: dict[str, Parts] = {before: (None, feedback)}
    source, led_back = split(tracing, node, population.inputs[0], dependent, known)
    if led_back is None:
        return
    tracing.parted.update(dict.fromkeys(known, name))
    if source is None:
        raise _refusal(tracing, node, population, "is given what it fired one step ago, and nothing else")
    tracing.draft.nodes[name] = replace(population, op=recurrent(population, led_back), inputs=(source,))


def check_parted(tracing: Tracing, needed: Iterable[Node[nir.NIRNode]]) -> None:
    """Check that only the neurons themselves read a value that depended on what they fired one step ago.

    Raises:
        UnsupportedError: Another node reads such a value, which no longer holds this feedback.
    """
    for node in needed:
        for source in node.inputs:
            neurons = tracing.parted.get(source)
            if neurons is not None and node.name not in tracing.parted and node.name != neurons:
                raise UnsupportedError(
                    f"{node.name}: reads {source}, which holds what {neurons} fired one step ago, and which no other "
                    "layer may read; read only what the container returns"
                )


def recurrent(population: Node[nir.NIRNode], led_back: Feedback) -> RecurrentCubaLIF:
    """A population with the synapses ``led_back`` onto itself."""
    assert isinstance(population.op, nir.LIF | nir.IF)
    neurons = discrete(population.name, population.op, DT, population.shape)
    whose: dict[str, str | int] = {}
    if len(led_back.layers) == 1 and columns_of_linear(led_back.layers[0]):
        whose[COLUMNS] = led_back.layers[0]
    elif led_back.layers:
        whose[SHARED] = ", ".join(led_back.layers)
    return RecurrentCubaLIF(
        **{key: getattr(neurons, key) for key in (*PER_NEURON, "soft_reset")},
        weight=led_back.weight,
        bias=led_back.bias,
        padding=led_back.padding,
        dilation=(1, 1),
        groups=led_back.groups,
        metadata=dict(neurons.metadata) | whose,
    )


def columns_of_linear(layer: str) -> bool:
    """Whether a layer is some columns of a container's linear layer, as ``columns_name`` names them."""
    return ".columns" in layer


Parts: TypeAlias = tuple[str | None, Feedback | None]
"""The parts of what neurons read: the node that makes the input, and the feedback as synapses; either may be None."""


def split(tracing: Tracing, node: fx.Node, name: str, dependent: set[str], known: dict[str, Parts]) -> Parts:
    """Split what neurons read into input and feedback; a node that made both makes only the input from then on.

    Args:
        tracing: The traced module.
        node: The operation, for errors.
        name: The name of the node whose value is split.
        dependent: The nodes that depend, directly or not, on what the neurons fired one step ago.
        known: The parts of the dependent nodes that are split already, since several nodes may read one; new parts are
            added.
    """
    if name not in dependent:
        return name, None
    if name not in known:
        known[name] = _split(tracing, node, name, dependent, known)
    return known[name]


def _split(tracing: Tracing, node: fx.Node, name: str, dependent: set[str], known: dict[str, Parts]) -> Parts:
    """As ``split``, for a dependent node that is not split yet."""
    each = tracing.draft.nodes[name]
    if isinstance(each.op, NEURONS):
        raise _refusal(tracing, node, each, "fires between, so that two populations lead back to each other")
    if isinstance(each.op, Add):
        parts = [split(tracing, node, source, dependent, known) for source in each.inputs]
        sources = [source for source, _ in parts if source is not None]
        led_back = [found for _, found in parts if found is not None]
        total = led_back[0]
        for other in led_back[1:]:
            total = _sum(tracing, node, each, total, other)
        if len(sources) > 1:
            tracing.draft.nodes[name] = replace(each, inputs=tuple(sources))
            return name, total
        return (sources[0] if sources else None), total
    if len(each.inputs) != 1:
        raise _refusal(tracing, node, each, f"is a {type(each.op).__name__}, which is not linear")
    source, found = split(tracing, node, each.inputs[0], dependent, known)
    assert found is not None
    if source is None:
        return None, _behind(tracing, node, found, each)
    made = _behind(tracing, node, replace(found, bias=0 * found.bias), each)
    # the bias is added once: it belongs to the input, not to the feedback
    tracing.draft.nodes[name] = replace(each, inputs=(source,))
    return name, replace(made, bias=0 * made.bias)


def _sum(tracing: Tracing, node: fx.Node, each: Node[nir.NIRNode], one: Feedback, other: Feedback) -> Feedback:
    alike = (one.weight.shape, one.padding, one.groups) == (other.weight.shape, other.padding, other.groups)
    if not alike:
        raise _refusal(tracing, node, each, "adds what comes back in two ways, by kernels of two sizes")
    layers = (*one.layers, *other.layers)
    return replace(one, weight=one.weight + other.weight, bias=one.bias + other.bias, layers=layers)


def _behind(tracing: Tracing, node: fx.Node, first: Feedback, each: Node[nir.NIRNode]) -> Feedback:
    """The synapses that some synapses and the layer behind them amount to together."""
    op, layers = each.op, (*first.layers, each.name)
    if isinstance(op, nir.Linear | nir.Affine) and first.weight.shape[2:] == (1, 1):
        bias = op.bias if isinstance(op, nir.Affine) else np.zeros(len(op.weight))
        weight = op.weight @ first.dense
        return Feedback(weight[..., None, None], op.weight @ first.bias + bias, (0, 0), 1, layers)
    if isinstance(op, BatchNorm2d):
        gain = op.weight / np.sqrt(op.running_var + op.eps)
        return first.scaled(gain, op.bias - op.running_mean * gain, each.name)
    if isinstance(op, nir.Scale):
        gain = np.broadcast_to(op.scale, each.shape).reshape(each.shape[0], -1)
        if (gain == gain[:, :1]).all():
            return first.scaled(gain[:, 0], np.zeros(len(gain)), *(() if (np.abs(gain) == 1).all() else (each.name,)))
    if isinstance(op, nir.Conv2d) and pair(op.stride) == (1, 1) and not first.bias.any():
        weight, taken = undilated(op.weight, pair(op.dilation)), op.weight.shape[1]
        if first.by_channel:
            gain = first.weight.reshape(int(op.groups), taken)
            per_row = np.repeat(gain, len(weight) // int(op.groups), axis=0)
            return Feedback(
                weight * per_row[:, :, None, None], op.bias.copy(), pair(op.padding), int(op.groups), layers
            )
        if weight.shape[2:] == (1, 1) and pair(op.padding) == (0, 0) and int(op.groups) == first.groups == 1:
            mixed = np.einsum("oi,iujk->oujk", weight[:, :, 0, 0], first.weight)
            return Feedback(mixed, op.bias.copy(), first.padding, 1, layers)
    raise _refusal(tracing, node, each, f"is a {type(op).__name__} on the way back")


def _refusal(tracing: Tracing, node: fx.Node, each: Node[nir.NIRNode], problem: str) -> UnsupportedError:
    return tracing.refusal(node, f"{each.name} {problem}", REMEDY)


def is_inside(tracing: Tracing, name: str, value: Value) -> bool:
    """Whether neurons run in a recurrent container that is traced with all steps and samples on one axis."""
    merged = any({TIME, BATCH} <= {atom.dim for atom in axis} for axis in value.layout.axes[:1])
    return merged and any(name.startswith(f"{each}.") for each in tracing.recurrent)
