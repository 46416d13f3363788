"""Fold each LIF's input gain r * dt / tau into its threshold, so that a weight of one is a current of one."""

from __future__ import annotations

import nir
import numpy as np

from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import collapse


def fold_input_gain(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """Measure each membrane potential in units in which one step of input I adds exactly I.

    With g = r * dt / tau, V = v / g follows V' = V * (1 - dt / tau) + I + v_leak * dt / tau / g, fires at
    v_threshold / g and resets to v_reset / g. For SpikingJelly's LIF with tau = 2 steps, g = 1/2 and the threshold
    becomes 2; nothing is rounded.
    """
    dt = float(graph.metadata["dt"])
    edit = graph.edit()
    for node in graph:
        lif = node.op
        if isinstance(lif, nir.LIF):
            tau, r, v_leak, v_threshold, v_reset = (
                collapse(each) for each in (lif.tau, lif.r, lif.v_leak, lif.v_threshold, lif.v_reset)
            )
            gain = r * (dt / tau)
            edit.set_op(
                node.name,
                nir.LIF(
                    tau=lif.tau,
                    r=np.broadcast_to(tau / dt, node.shape),
                    v_leak=np.broadcast_to(v_leak / gain, node.shape),
                    v_threshold=np.broadcast_to(v_threshold / gain, node.shape),
                    v_reset=np.broadcast_to(v_reset / gain, node.shape),
                    metadata=dict(lif.metadata),
                ),
            )
    return edit.finish()
