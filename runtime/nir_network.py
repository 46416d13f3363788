"""A network from a NIR file, run by the float interpreter as the file has it, whose populations can be listened to."""

from __future__ import annotations

from collections.abc import Sequence

import nir
import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import NEURONS
from resformer.runtime.torch_network import Observer

Float64Array = npt.NDArray[np.float64]


class NirNetwork:
    """A network in float64, and its populations.

    Args:
        graph: As imported.
    """

    def __init__(self, graph: Graph[nir.NIRNode]) -> None:
        self.graph = graph
        self.neurons = {node.name: node for node in graph if isinstance(node.op, NEURONS)}

    def copy(self) -> NirNetwork:
        """One for another thread: the interpreter keeps no state."""
        return self

    def run(self, samples: Float64Array, observe: Observer) -> Float64Array:
        """The logits, (T, N, classes), of samples (N, C, H, W) or (N, T, C, H, W)."""
        read = {node.inputs[0] for node in self.neurons.values()}
        currents: dict[str, torch.Tensor] = {}

        def note(name: str, value: torch.Tensor) -> None:
            if name in read:
                currents[name] = value
            if name in self.neurons:
                observe(name, currents[self.neurons[name].inputs[0]], value)

        logits: Float64Array = float_interpreter.run(self.graph, samples, observe=note).numpy()
        return logits

    def potentials(self, name: str, neuron: int, currents: Float64Array) -> Float64Array:
        """The membrane potential of one neuron before it fires or not, at each step, (T,), in units of its threshold.

        Args:
            name: Its population.
            neuron: Its index in the flattened population.
            currents: What it is given, (T,).
        """
        return potentials(self.graph, name, neuron, currents)


def potentials(
    graph: Graph[nir.NIRNode], name: str, neuron: int, currents: Sequence[float] | Float64Array
) -> Float64Array:
    """The membrane potential of one of a float graph's neurons at each step, (T,), in units of its threshold."""
    op, dt = graph[name].op, float(graph.metadata["dt"])
    fields = ("r", "v_threshold", "v_reset", *(("tau", "v_leak") if isinstance(op, nir.LIF) else ()))
    own = {key: float(np.asarray(getattr(op, key)).reshape(-1)[neuron]) for key in fields}
    v, values = own["v_reset"], []
    for current in currents:
        drive = own["r"] * float(current)
        v += ((own["v_leak"] - v) + drive) * (dt / own["tau"]) if isinstance(op, nir.LIF) else drive * dt
        values.append(v / own["v_threshold"] if own["v_threshold"] else v)
        above = v > own["v_threshold"] if op.metadata.get("fires_at") == ">" else v >= own["v_threshold"]
        v = own["v_reset"] if above else v
    return np.array(values)
