"""Turn average pools of currents into sums, and move their division into the thresholds of neurons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import nir
import numpy as np

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.messages import message_names, names_before_neurons
from resformer.compiler.ir.primitives import POOL_AREA, DiscreteCubaLIF, MultiSpikeIF
from resformer.errors import UnsupportedError

PER_UNIT: Mapping[type[nir.NIRNode], tuple[str, ...]] = MappingProxyType(
    {
        nir.LIF: ("v_threshold", "v_leak"),
        nir.IF: ("v_threshold",),
        DiscreteCubaLIF: ("v_threshold", "v_bias", "v_drop"),
        MultiSpikeIF: ("v_threshold", "v_floor"),
    }
)
"""The parameters of neurons that are measured in the unit of their input, their reset potential being 0."""


def sum_streams(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """Replace each average pool of currents that only neurons read.

    Relays send the currents on as graded values, and synapses of weight one sum them. Neurons that read a sum in place
    of a mean have thresholds multiplied by the window's area, so nothing is rounded. Such streams hold max-pools, or
    are sums of many layers, so that no single convolution does what pool and layers do.

    Raises:
        UnsupportedError: A sum pool of currents has padding, or something other than neurons reads it.
    """
    messages, before = message_names(graph), names_before_neurons(graph)
    edit = graph.edit()
    for node in graph:
        pool = node.op
        if not isinstance(pool, nir.AvgPool2d | nir.SumPool2d) or node.name in messages or node.name not in before:
            continue
        readers = graph.consumers[node.name]
        alone = all(type(reader.op) in PER_UNIT for reader in readers) and not np.any(pool.padding)
        if isinstance(pool, nir.SumPool2d):
            if not alone:
                others = ", ".join(f"{reader.name} ({type(reader.op).__name__})" for reader in readers)
                raise UnsupportedError(
                    f"{node.name}: sums currents over windows, and is read by {others}; put neurons behind it"
                )
            continue
        if not alone:
            continue
        area = math.prod(int(size) for size in pool.kernel_size)
        edit.set_op(node.name, nir.SumPool2d(kernel_size=pool.kernel_size, stride=pool.stride, padding=pool.padding))
        for reader in readers:
            edit.set_op(reader.name, _of_sum(reader, area))
    return edit.finish()


def _of_sum(node: Node[nir.NIRNode], area: int) -> nir.NIRNode:
    """Neurons that read a sum of ``area`` values in place of their mean."""
    larger = {name: getattr(node.op, name) * area for name in PER_UNIT[type(node.op)]}
    return replace(node.op, **larger, metadata={**node.op.metadata, POOL_AREA: area})
