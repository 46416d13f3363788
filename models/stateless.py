"""Neurons for training that compute all T steps in one call and keep no state: SpikingJelly's results, but faster.

SpikingJelly's neurons update their potential in Python, step by step, which costs training on a CPU more time than the
convolutions do. The neurons here compute the same spikes and the same gradients in few passes over memory, and
``torch.compile`` merges them with the normalisation before them.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import nn

from resformer.errors import UnsupportedError

ATAN_ALPHA = 2.0
"""The steepness of SpikingJelly's arctangent, whose derivative replaces that of the step function in training."""


def _spikes(currents: torch.Tensor) -> torch.Tensor:
    """The spikes of LIF neurons of tau 2 for currents (T, M); the potential starts at 0."""
    spikes = []
    potential = torch.zeros_like(currents[0], dtype=_computed_in(currents))
    for current in currents.unbind(0):
        charged = potential + (current - potential) / 2
        spikes.append((charged >= 1).to(currents.dtype))
        potential = torch.where(charged >= 1, 0.0, charged)
    return torch.stack(spikes)


def _gradients(currents: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The gradient of the currents (T, M), from the gradient of their spikes; none passes through the reset."""
    charges = []
    potential = torch.zeros_like(currents[0], dtype=_computed_in(currents))
    for current in currents.unbind(0):
        charged = potential + (current - potential) / 2
        charges.append(charged)
        potential = torch.where(charged >= 1, 0.0, charged)
    carried = torch.zeros_like(potential)
    gradients = []
    for step in reversed(range(len(charges))):
        beyond = charges[step] - 1
        slope = (ATAN_ALPHA / 2) / (1 + (math.pi / 2 * ATAN_ALPHA * beyond).square())
        carried = (wanted[step] * slope + torch.where(beyond >= 0, 0.0, carried)) / 2
        gradients.append(carried.to(currents.dtype))
    return torch.stack(gradients[::-1])


def _computed_in(currents: torch.Tensor) -> torch.dtype:
    """The type to compute in: at least float32, whatever type autocast gave the currents."""
    return torch.promote_types(currents.dtype, torch.float32)


class _LIFOverTime(torch.autograd.Function):
    """LIF neurons for currents (T, M), all T steps in one call, with the gradient of SpikingJelly's neurons."""

    @staticmethod
    def forward(ctx: Any, currents: torch.Tensor, merged: bool) -> torch.Tensor:
        ctx.save_for_backward(currents)
        ctx.merged = merged
        return (_merged(_spikes) if merged else _spikes)(currents)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (currents,) = ctx.saved_tensors
        return (_merged(_gradients) if ctx.merged else _gradients)(currents, gradient), None


class _Merged:
    """A function of currents and gradients, compiled into one pass over memory for each T and type.

    Compiled code is kept in files between processes. Code for another processor computes wrong results on this one,
    without an error. So the first result for each T and type is compared with the function's own.
    """

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        self._function = function
        self._compiled = torch.compile(function, dynamic=True)
        self._holds: dict[tuple[int, torch.dtype, str], bool] = {}

    def __call__(self, *given: torch.Tensor) -> torch.Tensor:
        """Return what the function returns, from compiled code if that is right."""
        # given views, torch.compile would compile again for each shape of their bases, and give up after eight
        given = tuple(each.contiguous().data for each in given)
        kind = (len(given[0]), given[0].dtype, given[0].device.type)
        if kind not in self._holds:
            self._holds[kind] = self._compare(given)
        result: torch.Tensor = (self._compiled if self._holds[kind] else self._function)(*given)
        return result

    def _compare(self, given: tuple[torch.Tensor, ...]) -> bool:
        """Whether compiled code computes what the function does; warn if it does not."""
        found, wanted = self._compiled(*given), self._function(*given)
        # spikes are 0 or 1; a gradient's products may be rounded once where the function rounds twice
        precision = torch.finfo(wanted.dtype).eps
        if torch.allclose(found, wanted, rtol=16 * precision, atol=16 * precision):
            return True
        differ = int((found != wanted).sum())
        warnings.warn(
            f"torch.compile's neurons differ from their definition in {differ:,} of {wanted.numel():,} values; they "
            "are computed without it, correctly and slower. Compiled code may lie there from another processor: set "
            "TORCHINDUCTOR_CACHE_DIR to an empty folder",
            stacklevel=2,
        )
        return False


_merged = functools.cache(_Merged)
"""Return the ``_Merged`` of a function; each function has one."""


class StatelessLIF(nn.Module):
    """An LIF of tau 2, decayed input, threshold 1 and hard reset to 0 that begins each call at rest.

    Args:
        merged: whether ``torch.compile`` merges the neuron into one pass over memory; on a CPU this needs a C++
            compiler.
    """

    def __init__(self, *, merged: bool = False) -> None:
        super().__init__()
        self.merged = merged

    def forward(self, currents: torch.Tensor) -> torch.Tensor:
        """Return the spikes of currents, both (T, ...), in the type of the currents."""
        # if channels come last in memory in the currents, they come last in the spikes
        last = currents.dim() == 5 and currents.stride(2) == 1
        ordered = currents.permute(0, 1, 3, 4, 2) if last else currents
        spikes: torch.Tensor = _LIFOverTime.apply(ordered.flatten(1), self.merged)  # type: ignore[no-untyped-call]
        spikes = spikes.view(ordered.shape)
        return spikes.permute(0, 1, 4, 2, 3) if last else spikes


def _channels_last(images: torch.Tensor) -> torch.Tensor:
    """The same images, (..., C, H, W), with channels last in memory."""
    together = images.flatten(0, -4).contiguous(memory_format=torch.channels_last)
    return together.unflatten(0, images.shape[:-3])  # type: ignore[no-untyped-call,no-any-return]


def _input_channels_last(_module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """The hook before a convolution: it puts channels last in the input, and so they come last in the output too."""
    return (_channels_last(inputs[0]),)


def _gradient_channels_last(_module: nn.Module, _inputs: tuple[torch.Tensor], result: torch.Tensor) -> None:
    """The hook after a normalisation: it puts channels last in the gradient that comes back to the normalisation."""
    if result.requires_grad:
        result.register_hook(_channels_last)  # type: ignore[no-untyped-call]


def make_stateless(model: nn.Module, *, merged: bool = False) -> None:
    """Replace each LIF of a network by a stateless neuron; the network's state dict stays as it is.

    The network's convolutions and normalisations then read values and gradients with channels last: on a CPU, PyTorch's
    normalisation takes five to eight times as long if either of them has another layout.

    Args:
        model: a network whose neurons all are the LIFs of ``resformer.models.layers``.
        merged: see ``StatelessLIF``.

    Raises:
        UnsupportedError: where a neuron is of another kind; the network is unchanged.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, neuron.BaseNode)}
    for name, module in found.items():
        usual = type(module) is neuron.LIFNode and (
            module.tau == 2 and module.decay_input and module.v_threshold == 1 and module.v_reset == 0
        )
        if not usual:
            raise UnsupportedError(
                f"{name}: is a {type(module).__name__} of other constants than an LIF of tau 2, decayed input, "
                "threshold 1 and hard reset to 0; train this network with its own neurons"
            )
    for name in found:
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, StatelessLIF(merged=merged))
    for module in model.modules() if found else ():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(_input_channels_last)
        elif isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(_gradient_channels_last)
