"""Kernels of convolutions behind a check of what they are given: oneDNN itself trusts shapes."""

from __future__ import annotations

import torch

from resformer.compiler.backends.sim.products import Compute, Synapses
from resformer.compiler.ir.arrays import InvariantError, require


def guarded(synapses: Synapses, compute: Compute) -> Compute:
    """A kernel of a convolution that refuses images of another shape or type than it was bound for.

    Raises:
        InvariantError: At once where the weights, the window and the outputs do not fit each other, and at each call
            where an image does not fit them.
    """
    outputs, groups = len(synapses.weight), synapses.groups
    require(synapses.weight.ndim == 4, f"{synapses.name}: weights of {synapses.weight.ndim} axes, not 4")
    require(groups >= 1 and outputs % groups == 0, f"{synapses.name}: {outputs} outputs in {groups} groups")
    for array in (synapses.weight_exp, synapses.bias):
        require(array.shape == (outputs,), f"{synapses.name}: {array.shape} values for {outputs} outputs")
    made = synapses.window.targets(synapses.size)
    wanted = (synapses.images, *synapses.size, synapses.channels)
    dtype = synapses.dtype
    result = (synapses.images * made[0] * made[1], outputs)

    def checked(image: torch.Tensor) -> torch.Tensor:
        if image.shape != wanted or image.dtype != dtype:  # the sentence costs more than the look
            shape = tuple(image.shape)
            raise InvariantError(f"{synapses.name}: reads {shape} of {image.dtype}, not {wanted} of {dtype}")
        sums = compute(image)
        if sums.shape != result:
            raise InvariantError(f"{synapses.name}: makes {tuple(sums.shape)}, not {result}")
        return sums

    return checked
