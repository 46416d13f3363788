"""A network from a NIR file, run unchanged by the float interpreter, whose populations can be observed."""

from __future__ import annotations

import nir
import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import NEURONS, as_neurons
from resformer.runtime.verify.torch_network import PopulationObserver

Float64Array = npt.NDArray[np.float64]


class NirNetwork:
    """A network in float64, and its populations.

    Args:
        graph: The float graph as imported, before any pass.
    """

    source = "file"
    """The kind of source that the network came from, as messages name it."""

    def __init__(self, graph: Graph[nir.NIRNode]) -> None:
        self.graph = graph
        self.neurons = {node.name: node for node in graph if isinstance(node.op, NEURONS)}

    def copy(self) -> NirNetwork:
        """A network for another thread: this one, since the interpreter keeps no state."""
        return self

    def run(self, samples: Float64Array, observe: PopulationObserver) -> Float64Array:
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
            currents: The population's input currents for one sample, (T, ...).
        """
        return potentials(self.graph, name, neuron, torch.from_numpy(currents))


def potentials(graph: Graph[nir.NIRNode], name: str, neuron: int, currents: torch.Tensor) -> Float64Array:
    """As ``NirNetwork.potentials``: the potential of a neuron of a float graph, (T,), in units of its threshold."""
    node, dt = graph[name], float(graph.metadata["dt"])
    given = currents.reshape(len(currents), 1, *node.shape)
    neurons = as_neurons(node.op)
    charged = torch.stack([v.reshape(-1)[neuron] for v, _ in float_interpreter.charge(neurons, given, dt)])
    threshold = float(np.asarray(neurons.v_threshold).reshape(-1)[neuron])
    values: Float64Array = charged.numpy() / (threshold or 1.0)
    return values
