"""Fold each LIF's input gain r * dt / tau into its threshold, so that a weight of one is a current of one."""

from __future__ import annotations

import nir

from resformer.compiler.ir.graph import Graph


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
            gain = lif.r * (dt / lif.tau)
            edit.set_op(
                node.name,
                nir.LIF(
                    tau=lif.tau,
                    r=lif.tau / dt,
                    v_leak=lif.v_leak / gain,
                    v_threshold=lif.v_threshold / gain,
                    v_reset=lif.v_reset / gain,
                    metadata=dict(lif.metadata),
                ),
            )
    return edit.finish()
