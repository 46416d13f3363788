"""Kernels of convolutions behind checks of their arguments: oneDNN does not check shapes itself."""

from __future__ import annotations

import torch

from resformer.compiler.backends.sim.products import Compute, Synapses
from resformer.compiler.ir.arrays import InvariantError, require


def guarded(synapses: Synapses, compute: Compute) -> Compute:
    """A convolution's kernel that refuses images whose shape or type is not the one it was bound for.

    Raises:
        InvariantError: At once if the weights, the window and the outputs do not fit each other; at a call of the
            kernel if the image or the result has a wrong shape or the image a wrong type.
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
        if image.shape != wanted or image.dtype != dtype:  # the message is made only here: it costs more than the check
            shape = tuple(image.shape)
            raise InvariantError(f"{synapses.name}: reads {shape} of {image.dtype}, not {wanted} of {dtype}")
        sums = compute(image)
        if sums.shape != result:
            raise InvariantError(f"{synapses.name}: makes {tuple(sums.shape)}, not {result}")
        return sums

    return checked
