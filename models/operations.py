"""What a network's spikes cost, counted as it runs, with a gradient: so that training can weigh it against accuracy."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import torch
from torch import nn

from resformer.models.layers import SpikeMatMul

STEM = "prologue"
"""The part of a SpikingResformer that reads pixels, whose products are no synaptic operations."""


Hook = Callable[[nn.Module, tuple[torch.Tensor, ...]], None]
"""What is called before a module is, with what the module is given."""


class SynapticOperations:
    """Counts synaptic operations while it is entered: for each spike, the synapses that it reaches.

    They are counted as the authors' ``SOPMonitor`` does, in every convolution but the stem's and in both products of
    attention: a synapse that falls into the padding is none, a bias costs nothing. Where spikes have a gradient, as
    neurons in training give them, the count has one::

        with SynapticOperations(model) as operations:
            loss = criterion(model(images).mean(0), labels)
        loss = loss + price * operations.total() / len(images)

    Attributes:
        counts: of each module by its name, a number each, of the last call of the network.
        spikes: that entered it, likewise.
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
        """All of them, of all samples and steps of the last call."""
        return torch.stack(list(self.counts.values())).sum()

    def energy_pj(self, *, operation_pj: float, spike_pj: float) -> torch.Tensor:
        """What they and the spikes that cause them take, in pJ, the spikes counted once for each reader.

        Args:
            operation_pj: of one operation, such as a chip's ``synaptic_op_pj``.
            spike_pj: of one spike beyond what its neuron takes at rest, such as the difference between a chip's
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
    """How many synapses a spike of any one channel reaches from each place of an input, (H, W)."""
    with torch.enable_grad():
        spikes = torch.ones(1, 1, *at.shape, device=at.device, requires_grad=True)
        kernel = torch.ones(1, 1, *conv.kernel_size, device=at.device)
        sums = torch.nn.functional.conv2d(spikes, kernel, None, conv.stride, conv.padding, conv.dilation).sum()
    # what one spike more would add to all sums
    (reached,) = torch.autograd.grad(sums, spikes)
    return reached[0, 0] * (conv.out_channels // conv.groups)
