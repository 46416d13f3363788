"""Put a synapse of weight one where spikes reach neurons, or a sum of currents, without a synapse."""

from __future__ import annotations

import nir
import numpy as np

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.messages import message_names
from resformer.compiler.ir.primitives import NEURONS, Add


def weigh_spikes(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """Give spikes the scale of the currents that they are added to, as in the shortcuts of residual networks.

    A sum of spikes alone stays as it is: relays send the count on.
    """
    messages = message_names(graph)
    edit = graph.edit()
    for node in graph:
        if not isinstance(node.op, (Add, *NEURONS)) or (isinstance(node.op, Add) and node.name in messages):
            continue
        unweighted = [name for name in dict.fromkeys(node.inputs) if name in messages]
        for index, source in enumerate(unweighted):
            name = f"{node.name}.synapse{index}" if len(unweighted) > 1 else f"{node.name}.synapse"
            channels = graph[source].shape[0]
            synapse = nir.Conv2d(
                input_shape=graph[source].shape[1:],
                weight=np.ones((channels, 1, 1, 1)),
                stride=(1, 1),
                padding=(0, 0),
                dilation=(1, 1),
                groups=channels,
                bias=np.zeros(channels),
            )
            edit.insert_after(source, Node(name, synapse, (source,), graph[source].shape), readers=(node.name,))
    return edit.finish()
