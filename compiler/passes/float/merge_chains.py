"""Merge layers that follow each other without neurons between them.

Everything between the messages that neurons send and the currents that they receive is linear, so a convolution of a
convolution is one convolution, as for NIR files (``merge_synapses``). All other layers of a module stay as they are.
"""

from __future__ import annotations

import math
from dataclasses import replace

import nir
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from resformer.compiler.ir.arrays import Shape
from resformer.compiler.ir.graph import Graph, Node, needed
from resformer.compiler.ir.messages import message_names, names_before_neurons
from resformer.compiler.ir.primitives import (
    CONCATENATED,
    MERGED,
    AdaptiveAvgPool2d,
    Add,
    columns_name,
    with_weight,
)
from resformer.compiler.passes.float.synapse import Synapse, after, of_windows, passing_on
from resformer.errors import UnsupportedError

Float64Array = npt.NDArray[np.float64]

POOLS = (nir.AvgPool2d, nir.SumPool2d)
WINDOWED = (*POOLS, AdaptiveAvgPool2d)
LAYERS = (nir.Conv2d, nir.Linear, nir.Affine)


def merge_chains(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """Make one layer of each chain of layers before neurons, and of a readout that pools or sums.

    A pool of spikes stays a pool where possible (``sum_pools``, ``fold_average_pool``). A merged layer has the name of
    the last layer of its chain with ".merged" behind it, and its metadata name the layers that it was made of.

    Raises:
        UnsupportedError: A chain is no single convolution; the message names the chain.
    """
    merge = _Merge(graph)
    for node in graph:
        merge.take(node)
    nodes = needed(merge.made, first=graph.input.name, last=graph.output.name)
    for node in nodes:
        if isinstance(node.op, AdaptiveAvgPool2d):
            raise _several_sizes(node, merge.made[node.inputs[0]].shape)
    return replace(graph, nodes=nodes)


class _Merge:
    """The merge of one graph, with the nodes that have been written so far."""

    def __init__(self, graph: Graph[nir.NIRNode]) -> None:
        self.graph = graph
        self.messages = message_names(graph)
        self.before = names_before_neurons(graph)
        self.made: dict[str, Node[nir.NIRNode]] = {}
        self.renamed: dict[str, str] = {}

    def take(self, node: Node[nir.NIRNode]) -> None:
        """Write a node; if it must be merged with what it reads, write the merged layer instead."""
        node = replace(node, inputs=tuple(self.renamed.get(name, name) for name in node.inputs))
        self.made[node.name] = node
        if node.name not in self.before and not self._is_second(node):
            self._take_readout(node)
        elif self._must_merge(node):
            if len(node.shape) == 1:
                self._merge_vector(node)
            else:
                self._merge_image(node)

    def _is_second(self, node: Node[nir.NIRNode]) -> bool:
        """Whether a node is a convolution that reads another convolution; no synapse can do so, even in a readout."""
        return isinstance(node.op, nir.Conv2d) and isinstance(self.made[node.inputs[0]].op, nir.Conv2d)

    def _must_merge(self, node: Node[nir.NIRNode]) -> bool:
        """Whether a layer or pool must be merged, because it reads a current, or a pool that may not stay a pool."""
        if not isinstance(node.op, (*LAYERS, *POOLS)):
            return False
        source = self._unflattened(node.inputs[0])
        if isinstance(source.op, POOLS) and source.name in self.messages:
            return isinstance(node.op, POOLS) or not self._stays_pool(source)
        return source.name not in self.messages and self._is_linear(source)

    def _stays_pool(self, pool: Node[nir.NIRNode]) -> bool:
        """Whether relays can send a pool's sum on: it does not pad, and only layers with weights read it."""
        readers = self._readers(pool.name)
        return not np.any(getattr(pool.op, "padding", 0)) and all(isinstance(each.op, LAYERS) for each in readers)

    def _readers(self, name: str) -> list[Node[nir.NIRNode]]:
        """The nodes that read a value, directly or flattened."""
        found: list[Node[nir.NIRNode]] = []
        for each in self.graph.consumers[name] if name in self.graph else ():
            found += self._readers(each.name) if isinstance(each.op, nir.Flatten) else [each]
        return found

    def _unflattened(self, name: str) -> Node[nir.NIRNode]:
        node = self.made[name]
        return self._unflattened(node.inputs[0]) if isinstance(node.op, nir.Flatten) else node

    def _is_linear(self, node: Node[nir.NIRNode]) -> bool:
        """Whether a value is made of messages by layers, pools and sums alone."""
        if node.name in self.messages:
            return True
        if isinstance(node.op, (*LAYERS, *WINDOWED, nir.Flatten, Add)):
            return all(self._is_linear(self.made[each]) for each in node.inputs)
        return False

    def _merge_image(self, node: Node[nir.NIRNode]) -> None:
        """Write a convolution or pool of currents as a sum of convolutions of messages."""
        parts = self._parts(node)
        if parts:
            self._write_parts(node, parts)
            return
        last = _synapse(node, self.made[node.inputs[0]].shape)
        terms, layers = self._terms(self.made[node.inputs[0]])
        kept = replace(last, bias=np.zeros_like(last.bias))
        merged = [after(node.name, term, kept if index else last) for index, term in enumerate(terms)]
        self._write(node, [(each.source, each.op(), each.shape) for each in merged], [*layers, node.name])

    def _parts(self, node: Node[nir.NIRNode]) -> list[tuple[str, int]]:
        """The messages whose concatenation a convolution reads, each with its first channel; else an empty list."""
        source, parts = self.made[node.inputs[0]], []
        if not isinstance(node.op, nir.Conv2d) or int(node.op.groups) > 1 or CONCATENATED not in source.op.metadata:
            return []
        for name in source.inputs:
            place = self.made[name]
            if (
                CONCATENATED not in place.op.metadata
                or place.inputs[0] not in self.messages
                or isinstance(self.made[place.inputs[0]].op, POOLS)
            ):
                return []
            parts.append((place.inputs[0], int(place.op.metadata[CONCATENATED])))
        return parts

    def _write_parts(self, node: Node[nir.NIRNode], parts: list[tuple[str, int]]) -> None:
        """Write a convolution of concatenated messages as a sum of convolutions, one for each message's channels."""
        assert isinstance(node.op, nir.Conv2d)
        del self.made[node.name]
        names = []
        for index, (source, start) in enumerate(parts):
            size = self.made[source].shape[0]
            bias = 0 * node.op.bias if index else node.op.bias
            op = with_weight(node.op, weight=node.op.weight[:, start : start + size].copy(), bias=bias)
            names.append(columns_name(node.name, start, size))
            self.made[names[-1]] = Node(names[-1], op, (source,), node.shape)
        self.made[f"{node.name}.sum"] = Node(f"{node.name}.sum", Add(), tuple(names), node.shape)
        self.renamed[node.name] = f"{node.name}.sum"

    def _terms(self, node: Node[nir.NIRNode]) -> tuple[list[Synapse], list[str]]:
        """A current as convolutions of messages, and the names of the layers that make it."""
        if node.name in self.messages and not isinstance(node.op, POOLS):
            return [passing_on(node.name, node.shape)], []
        if isinstance(node.op, Add):
            parts = [self._terms(self.made[name]) for name in node.inputs]
            return [term for terms, _ in parts for term in terms], [name for _, names in parts for name in names]
        source = self.made[node.inputs[0]]
        last = _synapse(node, source.shape)
        kept = replace(last, bias=np.zeros_like(last.bias))
        terms, layers = self._terms(source)
        made = [after(node.name, term, kept if index else last) for index, term in enumerate(terms)]
        return made, [*layers, *_merged_of(node)]

    def _merge_vector(self, node: Node[nir.NIRNode]) -> None:
        """Write a linear layer of currents as a sum of linear layers of messages."""
        weight, bias = _affine(node)
        parts, layers = self._matrices(weight, node.inputs[0])
        bias = bias + sum((offset for _, _, offset in parts), np.zeros(len(bias)))
        made: list[tuple[str, nir.NIRNode, Shape]] = []
        for index, (source, rows, _) in enumerate(parts):
            flat = self._flat(source)
            made.append((flat, nir.Affine(rows, 0 * bias if index else bias), node.shape))
        self._write(node, made, [*layers, node.name])

    def _matrices(
        self, rows: Float64Array, name: str
    ) -> tuple[list[tuple[str, Float64Array, Float64Array]], list[str]]:
        """The weights of a current as weights of messages.

        Args:
            rows: The weights, a row for each output.
            name: The node that makes the current.

        Returns:
            For each message its name, its weights and the bias that comes with it; and the names of the layers between.
        """
        node = self.made[name]
        is_pool = isinstance(node.op, POOLS)
        if isinstance(node.op, nir.Flatten):
            return self._matrices(rows, node.inputs[0])
        if node.name in self.messages and not (is_pool and self._is_merged_pool(node)):
            return [(name, rows, np.zeros(len(rows)))], []
        if isinstance(node.op, Add):
            found, layers = [], []
            for source in node.inputs:
                parts, names = self._matrices(rows, source)
                found += parts
                layers += names
            return found, layers
        if not isinstance(node.op, (*LAYERS, *WINDOWED)):
            raise UnsupportedError(
                f"{node.name}: a layer reads what a {type(node.op).__name__} makes without neurons between; put "
                "neurons between them"
            )
        weight, offset = _back(rows, node, self.made[node.inputs[0]].shape)
        parts, layers = self._matrices(weight, node.inputs[0])
        source, first, added = parts[0]
        return [(source, first, added + offset), *parts[1:]], [*layers, *_merged_of(node)]

    def _flat(self, name: str) -> str:
        """The name of a value as a vector, which is flattened if it is not one."""
        node = self.made[name]
        if len(node.shape) == 1:
            return name
        flat = f"{name}.flatten"
        if flat not in self.made:
            op = nir.Flatten({"input": np.array(node.shape)}, start_dim=0)
            self.made[flat] = Node(flat, op, (name,), (math.prod(node.shape),))
        return flat

    def _take_readout(self, node: Node[nir.NIRNode]) -> None:
        """Merge a pool behind all neurons with what follows it, if ``_needs_one_layer``, into one linear layer.

        A sum of linear layers, such as the sum of two classifiers, is merged too.
        """
        if not isinstance(node.op, nir.Output):
            return
        chain = [self.made[node.inputs[0]]]
        while isinstance(chain[0].op, (*LAYERS, *WINDOWED, nir.Flatten)):
            chain.insert(0, self.made[chain[0].inputs[0]])
        pools = [each for each in chain if isinstance(each.op, WINDOWED)]
        if not self._is_sum_of_vectors(chain[0]) and not (pools and self._needs_one_layer(chain, pools)):
            return
        last = chain[-1]
        rows, bias = np.eye(math.prod(last.shape)), np.zeros(math.prod(last.shape))
        parts, layers = self._matrices(rows, last.name)
        parts = _by_source(parts)
        bias = bias + parts[0][2]
        if len(parts) > 1:
            self._join_readout(node, parts, bias + sum(added for _, _, added in parts[1:]), layers)
            return
        ((source, weight, _),) = parts
        own = [each for each in chain if each.name in layers and isinstance(each.op, LAYERS)]
        alone = len(layers) == 1 and len(own) == 1 and (math.prod(self.made[source].shape[1:]) == 1)
        name = own[0].name if alone else f"{last.name}.merged"
        metadata = dict(own[0].op.metadata) if alone else {MERGED: ", ".join(layers)}
        flat = self._flat(source)
        op = nir.Affine(weight, bias, metadata=metadata)
        self.made.pop(name, None)
        self.made[name] = Node(name, op, (flat,), (len(weight),))
        self.made[node.name] = replace(node, inputs=(name,))

    def _is_sum_of_vectors(self, node: Node[nir.NIRNode]) -> bool:
        """Whether a node adds vectors of currents, such as the outputs of two classifiers; no neuron sums these.

        A sum that a former run of this pass has written stays as it is.
        """
        written = all(MERGED in self.made[name].op.metadata for name in node.inputs)
        return isinstance(node.op, Add) and len(node.shape) == 1 and node.name not in self.messages and not written

    def _join_readout(
        self,
        node: Node[nir.NIRNode],
        parts: list[tuple[str, Float64Array, Float64Array]],
        bias: Float64Array,
        layers: list[str],
    ) -> None:
        """Write a readout of several messages as a sum of layers, one of each message.

        Images are read by convolutions as large as they are; if any message is a vector, all layers are linear.
        """
        of_images = all(len(self.made[source].shape) == 3 for source, _, _ in parts)
        shape: Shape = (len(bias), 1, 1) if of_images else (len(bias),)
        names = []
        op: nir.NIRNode
        for index, (source, rows, _) in enumerate(parts):
            names.append(f"{node.inputs[0]}.merged{index or ''}")
            offset = 0 * bias if index else bias
            if of_images:
                image = self.made[source].shape
                weight = rows.reshape(len(rows), *image)
                read, op = source, Synapse(source, weight, offset, (1, 1), (0, 0), 1, (image[1], image[2]), "").op()
            else:
                read, op = self._flat(source), nir.Affine(rows, offset)
            op.metadata[MERGED] = ", ".join(layers)
            self.made[names[-1]] = Node(names[-1], op, (read,), shape)
        total = f"{node.inputs[0]}.sum"
        self.made[total] = Node(total, Add(), tuple(names), shape)
        self.made[node.name] = replace(node, inputs=(self._flat(total),))

    def _needs_one_layer(self, chain: list[Node[nir.NIRNode]], pools: list[Node[nir.NIRNode]]) -> bool:
        """Whether a readout is anything but a pool without padding, a flattening, and perhaps a linear layer."""
        behind = chain[chain.index(pools[0]) + 1 :]
        kinds = [type(each.op) for each in behind]
        plain = kinds in ([nir.Flatten], [nir.Flatten, nir.Linear], [nir.Flatten, nir.Affine])
        plain = plain and not isinstance(pools[0].op, AdaptiveAvgPool2d)
        return not plain or CONCATENATED in chain[0].op.metadata or bool(np.any(getattr(pools[0].op, "padding", 0)))

    def _is_merged_pool(self, node: Node[nir.NIRNode]) -> bool:
        """Whether a pool becomes part of its reader; behind all neurons, a pool of spikes over all pixels does not."""
        if node.name in self.before:
            return not self._stays_pool(node)
        return math.prod(node.shape[1:]) > 1 or isinstance(self.made[node.inputs[0]].op, POOLS)

    def _write(self, node: Node[nir.NIRNode], parts: list[tuple[str, nir.NIRNode, Shape]], layers: list[str]) -> None:
        """Write a sum of layers in place of a node."""
        del self.made[node.name]
        names = []
        for index, (source, op, shape) in enumerate(parts):
            op.metadata[MERGED] = ", ".join(dict.fromkeys(layers))
            names.append(f"{node.name}.merged{index or ''}")
            self.made[names[-1]] = Node(names[-1], op, (source,), shape)
        if len(names) > 1:
            self.made[f"{node.name}.sum"] = Node(f"{node.name}.sum", Add(), tuple(names), node.shape)
            names = [f"{node.name}.sum"]
        self.renamed[node.name] = names[0]


def _by_source(
    parts: list[tuple[str, Float64Array, Float64Array]],
) -> list[tuple[str, Float64Array, Float64Array]]:
    """The weights of messages, added up so that each message has one matrix."""
    found: dict[str, tuple[Float64Array, Float64Array]] = {}
    for source, rows, added in parts:
        before = found.get(source)
        found[source] = (rows, added) if before is None else (before[0] + rows, before[1] + added)
    return [(source, rows, added) for source, (rows, added) in found.items()]


def _merged_of(node: Node[nir.NIRNode]) -> list[str]:
    """The names of the layers that a node was made of."""
    merged = node.op.metadata.get(MERGED)
    return [node.name] if merged is None else str(merged).split(", ")


def _synapse(node: Node[nir.NIRNode], shape: Shape) -> Synapse:
    """A convolution or a pool as a convolution of a value of shape ``shape``."""
    if isinstance(node.op, AdaptiveAvgPool2d):
        raise _several_sizes(node, shape)
    made = of_windows(node, shape)
    if made is None:
        raise UnsupportedError(
            f"{node.name}: a {type(node.op).__name__} makes a current that another layer reads; put neurons between"
        )
    return made


def _several_sizes(node: Node[nir.NIRNode], shape: Shape) -> UnsupportedError:
    """The error for averages over windows of several sizes that no linear layer reads."""
    assert isinstance(node.op, AdaptiveAvgPool2d)
    return UnsupportedError(
        f"{node.name}: averages {shape[1:]} to {node.op.size} by windows of several sizes, and what reads it is no "
        "linear layer; choose a size that divides"
    )


def _affine(node: Node[nir.NIRNode]) -> tuple[Float64Array, Float64Array]:
    """The weights and biases of a linear layer."""
    assert isinstance(node.op, nir.Linear | nir.Affine)
    bias = node.op.bias if isinstance(node.op, nir.Affine) else np.zeros(len(node.op.weight))
    return node.op.weight, bias


def _back(rows: Float64Array, node: Node[nir.NIRNode], shape: Shape) -> tuple[Float64Array, Float64Array]:
    """Weights of a layer's output as weights of its input, and what the layer's biases add, (F,)."""
    if isinstance(node.op, nir.Linear | nir.Affine):
        weight, bias = _affine(node)
        return rows @ weight, rows @ bias
    if isinstance(node.op, AdaptiveAvgPool2d):
        down, right = (node.op.shares(axis, shape[1 + axis]) for axis in range(2))
        maps = rows.reshape(len(rows), *node.shape)
        spread = np.einsum("fcij,ih,jw->fchw", maps, down, right, optimize=True)
        return spread.reshape(len(rows), -1), np.zeros(len(rows))
    return _back_of_windows(rows, node, shape)


def _back_of_windows(rows: Float64Array, node: Node[nir.NIRNode], shape: Shape) -> tuple[Float64Array, Float64Array]:
    """What :func:`_back` gives for a convolution or a pool."""
    layer = _synapse(node, shape)
    maps = torch.from_numpy(rows.reshape(len(rows), *node.shape))
    # rows and columns at the far sides that no window reaches
    left = tuple(
        shape[1 + axis]
        + 2 * layer.padding[axis]
        - ((node.shape[1 + axis] - 1) * layer.stride[axis] + layer.weight.shape[2 + axis])
        for axis in range(2)
    )
    kernel = torch.from_numpy(np.ascontiguousarray(layer.weight))
    spread = F.conv_transpose2d(maps, kernel, None, layer.stride, layer.padding, left, layer.groups)
    offset: Float64Array = maps.sum((2, 3)).numpy() @ layer.bias
    return spread.reshape(len(rows), -1).numpy(), offset
