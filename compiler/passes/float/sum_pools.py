"""Turn average pools between neurons into sums, and move their division into the weights of their readers."""

from __future__ import annotations

import math

import nir
import numpy as np

from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.messages import message_names, names_before_neurons
from resformer.compiler.ir.primitives import NEURONS, POOL_AREA, Add, pair, with_weight
from resformer.errors import UnsupportedError


def sum_pools(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """Replace each average pool of spikes.

    A pool that convolutions read becomes a sum, which relays send on as a graded value; the weights of the convolutions
    are divided by the window's area. That takes fewer synapses than merging pool and convolution into one, and is as
    exact. A pool that neurons or sums of currents read becomes a convolution of each channel with itself, of weights
    1 / area.

    Raises:
        UnsupportedError: A pool averages currents, has padding before convolutions, or is read in both ways.
    """
    messages, before = message_names(graph), names_before_neurons(graph)
    edit = graph.edit()
    for node in graph:
        pool = node.op
        if not isinstance(pool, nir.AvgPool2d) or node.name not in before:
            continue
        if node.name not in messages:
            raise UnsupportedError(
                f"{node.name}: averages currents; put neurons between the convolution and the pool, or pool what the "
                "convolution reads"
            )
        readers = graph.consumers[node.name]
        convolutions = {reader.name: reader.op for reader in readers if isinstance(reader.op, nir.Conv2d)}
        area = math.prod(int(size) for size in pool.kernel_size)
        if all(isinstance(reader.op, (Add, *NEURONS)) for reader in readers):
            edit.set_op(node.name, _channel_means(pool, node.shape[0], area))
            continue
        if len(convolutions) < len(readers) or np.any(pool.padding):
            names = ", ".join(f"{reader.name} ({type(reader.op).__name__})" for reader in readers)
            padding = tuple(int(each) for each in pool.padding)
            raise UnsupportedError(
                f"{node.name}: an average pool between neurons must have no padding and be read by layers with "
                f"weights alone, or by neurons and sums alone; it pads by {padding} and is read by {names}"
            )
        edit.set_op(node.name, nir.SumPool2d(kernel_size=pool.kernel_size, stride=pool.stride, padding=pool.padding))
        for name, conv in convolutions.items():
            made = with_weight(conv, weight=conv.weight / area, bias=conv.bias)
            made.metadata[POOL_AREA] = area
            edit.set_op(name, made)
    return edit.finish()


def _channel_means(pool: nir.AvgPool2d, channels: int, area: int) -> nir.Conv2d:
    """An average pool as a convolution."""
    return nir.Conv2d(
        input_shape=None,
        weight=np.full((channels, 1, *pair(pool.kernel_size)), 1.0 / area),
        stride=pair(pool.stride),
        padding=pair(pool.padding),
        dilation=(1, 1),
        groups=channels,
        bias=np.zeros(channels),
    )
