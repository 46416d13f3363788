"""What nodes send: spikes, counts of them, or neither."""

from __future__ import annotations

import nir
import numpy as np
import pytest

from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.messages import sends_counts, sends_spikes
from resformer.compiler.ir.primitives import MultiSpikeIF, SampleDelay

ONE = np.ones(1)
SENDERS = {
    "spikes": (nir.IF(r=ONE, v_threshold=ONE), True, True),
    "counts": (MultiSpikeIF(v_threshold=ONE, v_floor=-ONE, max_spikes=3), False, True),
    "currents": (nir.Linear(weight=np.ones((1, 1))), False, False),
}


@pytest.mark.parametrize("sent", SENDERS)
def test_behind_more_nodes_than_python_calls_may_nest(sent: str) -> None:
    sender, spikes, counts = SENDERS[sent]
    nodes = [Node("0", sender, (), (1,))]
    nodes += [Node(str(index), SampleDelay(steps=np.zeros(1)), (str(index - 1),), (1,)) for index in range(1, 3000)]
    graph = Graph(tuple(nodes), timesteps=1)
    for name in ("0", "2999"):
        assert (sends_spikes(graph, name), sends_counts(graph, name)) == (spikes, counts)
