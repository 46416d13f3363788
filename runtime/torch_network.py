"""A SpikingResformer in SpikingJelly whose populations can be listened to."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from spikingjelly.activation_based import functional, neuron

from resformer.models.checkpoint import build_model, load_checkpoint
from resformer.models.spikingresformer import SpikingResformer

Float64Array = npt.NDArray[np.float64]

Observer: TypeAlias = Callable[[str, torch.Tensor, torch.Tensor], None]
"""Called with a population's name, its input currents and its spikes, both (T, N, ...), which it must not change."""


class TorchNetwork:
    """A network in float64, and the names of its populations.

    Args:
        model: In eval mode.
    """

    def __init__(self, model: SpikingResformer) -> None:
        self.model = model
        self.neurons: dict[str, neuron.BaseNode] = {
            name: module for name, module in model.named_modules() if isinstance(module, neuron.BaseNode)
        }

    def copy(self) -> TorchNetwork:
        """Another one like it: networks keep potentials, so each thread needs its own."""
        return TorchNetwork(copy.deepcopy(self.model))

    @torch.no_grad()
    def run(self, samples: Float64Array, observe: Observer) -> Float64Array:
        """The logits, (T, N, classes), of samples (N, C, H, W) or (N, T, C, H, W)."""
        hooks = [
            module.register_forward_hook(lambda _module, inputs, spikes, name=name: observe(name, inputs[0], spikes))
            for name, module in self.neurons.items()
        ]
        try:
            functional.reset_net(self.model)
            logits: Float64Array = self.model(torch.from_numpy(samples)).numpy()
        finally:
            for hook in hooks:
                hook.remove()
        return logits

    @torch.no_grad()
    def potentials(self, name: str, neuron: int, currents: Float64Array) -> Float64Array:
        """The membrane potential of one neuron before it fires or not, at each step, (T,), in units of its threshold.

        Args:
            name: Its population.
            neuron: Its index in the flattened population; all have the same parameters.
            currents: What the population is given by one sample, (T, ...).
        """
        node = copy.deepcopy(self.neurons[name])
        node.reset()
        values = []
        for current in torch.from_numpy(currents.reshape(len(currents), -1)[:, neuron]):
            node.v_float_to_tensor(current)
            node.neuronal_charge(current)
            values.append(float(node.v) / node.v_threshold)
            node.neuronal_reset(node.neuronal_fire())
        return np.array(values)


def open_checkpoint(path: Path, *, timesteps: int, image_size: int) -> TorchNetwork:
    """A checkpoint's network in float64.

    Raises:
        ResformerError: The file is no checkpoint of a SpikingResformer, or not one for such images.
    """
    return TorchNetwork(build_model(load_checkpoint(path), timesteps=timesteps, image_size=image_size))
