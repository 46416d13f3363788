"""Synaptic operations of a running network, with a gradient, so that training can weigh their cost against accuracy."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import torch
from torch import nn

from resformer.models.layers import SpikeMatMul

STEM = "prologue"
"""The part of a SpikingResformer that reads pixels; its products are not synaptic operations."""


Hook = Callable[[nn.Module, tuple[torch.Tensor, ...]], None]
"""A function that is called before a module, with the module and the module's inputs."""


class SynapticOperations:
    """Counts synaptic operations inside its ``with`` block: for each spike, the synapses that it reaches.

    They are counted as the authors' ``SOPMonitor`` does, in every convolution except the stem's and in both products of
    attention. A synapse that falls into the padding does not count, and a bias costs nothing. Where spikes have a
    gradient, as they do when neurons are in training, the count has one too::

        with SynapticOperations(model) as operations:
            loss = criterion(model(images).mean(0), labels)
        loss = loss + price * operations.total() / len(images)

    Attributes:
        counts: the operations of each module in the last call of the network, a number each, by the module's name.
        spikes: the spikes that entered each module in the last call, a number each, by the module's name.
    """

    def __init__(self, model: nn.Module) -> None:
        self.counts: dict[str, torch.Tensor] = {}
        self.spikes: dict[str, torch.Tensor] = {}
        self._model = model
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._reached: dict[tuple[str, torch.Size], torch.Tensor] = {}

    def __enter__(self) -> SynapticOperations:
        for name, module in self._model.named_modules():
            if isinstance(module, nn.Conv2d) and STEM not in name.split("."):
                self._handles.append(module.register_forward_pre_hook(self._convolution(name)))
            elif isinstance(module, SpikeMatMul):
                self._handles.append(module.register_forward_pre_hook(self._product(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def total(self) -> torch.Tensor:
        """The operations of all modules, over all samples and steps of the last call."""
        return torch.stack(list(self.counts.values())).sum()

    def energy_pj(self, *, operation_pj: float, spike_pj: float) -> torch.Tensor:
        """The energy of the operations and of the spikes that cause them, in pJ; a spike counts once for each reader.

        Args:
            operation_pj: energy of one operation, such as a chip's ``synaptic_op_pj``.
            spike_pj: energy of one spike beyond what its neuron takes at rest, such as the difference between a chip's
                ``neuron_update_active_pj`` and ``neuron_update_inactive_pj``.
        """
        return operation_pj * self.total() + spike_pj * torch.stack(list(self.spikes.values())).sum()

    def _convolution(self, name: str) -> Hook:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            assert isinstance(module, nn.Conv2d)
            (spikes,) = inputs
            at = spikes.sum(tuple(range(spikes.dim() - 2)), dtype=torch.float32)
            key = (name, at.shape)
            if key not in self._reached:
                self._reached[key] = _reached(module, at)
            self.counts[name] = (at * self._reached[key]).sum()
            self.spikes[name] = at.sum()

        return hook

    def _product(self, name: str) -> Hook:
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            real, spikes = inputs
            self.spikes[name] = spikes.sum(dtype=torch.float32)
            self.counts[name] = self.spikes[name] * real.shape[-2]

        return hook


def _reached(conv: nn.Conv2d, at: torch.Tensor) -> torch.Tensor:
    """The number of synapses that a spike of any channel reaches from each position of the input, (H, W)."""
    with torch.enable_grad():
        spikes = torch.ones(1, 1, *at.shape, device=at.device, requires_grad=True)
        kernel = torch.ones(1, 1, *conv.kernel_size, device=at.device)
        sums = torch.nn.functional.conv2d(spikes, kernel, None, conv.stride, conv.padding, conv.dilation).sum()
    # the gradient is what one more spike would add to all sums
    (reached,) = torch.autograd.grad(sums, spikes)
    return reached[0, 0] * (conv.out_channels // conv.groups)
