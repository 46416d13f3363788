"""Fold each LIF's input gain r * dt / tau into its threshold, so that a weight of one is a current of one."""

from __future__ import annotations

import nir
import numpy as np

from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.neurons import HARD, discrete
from resformer.compiler.ir.primitives import collapse


def fold_input_gain(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """Measure each membrane potential from v_reset, in units in which one step of input I adds exactly I.

    With g = r * dt / tau (for an IF, r * dt), V = (v - v_reset) / g follows
    V' = V * (1 - dt / tau) + I + (v_leak - v_reset) * dt / tau / g, fires at (v_threshold - v_reset) / g and resets to
    0. For SpikingJelly's LIF with tau = 2 steps, g = 1/2 and the threshold becomes 2; nothing is rounded. Neurons that
    reset by subtraction become neurons in steps, measured in the same units (``ir.neurons``).
    """
    dt = float(graph.metadata["dt"])
    edit = graph.edit()
    for node in graph:
        neurons = node.op
        if not isinstance(neurons, nir.LIF | nir.IF):
            continue
        if neurons.metadata["reset"] != HARD:
            edit.set_op(node.name, discrete(node.name, neurons, dt, node.shape))
            continue
        rate = dt / collapse(neurons.tau) if isinstance(neurons, nir.LIF) else np.asarray(dt)
        v_reset = collapse(neurons.v_reset)
        gain = collapse(neurons.r) * rate
        values = {
            "r": collapse(neurons.tau) / dt if isinstance(neurons, nir.LIF) else 1 / rate,
            "v_threshold": (collapse(neurons.v_threshold) - v_reset) / gain,
            "v_reset": 0 * v_reset,
        }
        if isinstance(neurons, nir.LIF):
            values["v_leak"] = (collapse(neurons.v_leak) - v_reset) / gain
        fields = {name: np.broadcast_to(value, node.shape) for name, value in values.items()}
        if isinstance(neurons, nir.LIF):
            fields["tau"] = neurons.tau
        edit.set_op(node.name, type(neurons)(**fields, metadata=dict(neurons.metadata)))
    return edit.finish()
