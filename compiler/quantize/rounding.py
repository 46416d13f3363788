"""Rounding a layer's weights together, so that later roundings make up for what earlier ones did to the output.

The error of an output is d^T H d, where d is what rounding did to its weights and H the mean of x x^T over what the
layer reads. Two steps lower it, both over all outputs at once: successive rounding, where each weight's error is spread
over those not yet rounded by the Cholesky factor of H's inverse (E. Frantar et al., "GPTQ", arXiv 2210.17323, after
B. Hassibi and D. Stork's optimal brain surgeon), and then coordinate descent over the integers, which never raises it.
"""

from __future__ import annotations

import torch

DAMPING = 0.01
"""Share of H's mean diagonal that is added to the diagonal, so that a tap that is zero in all samples has a cost."""
DESCENTS = 1
"""Sweeps of coordinate descent; more sweeps change next to nothing."""
BLOCK = 128
"""Taps whose effect on the others is applied at once."""


def round_together(weight: torch.Tensor, step: torch.Tensor, largest: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Multiples of each tap's step that lose least of a layer's output.

    Args:
        weight: (G, C, D), what to round: groups, outputs of a group, taps of an output.
        step: (G, C, D), broadcastable.
        largest: (D,), the largest magnitude of each tap's multiples.
        gram: (G, D, D), H, positive semidefinite.

    Returns:
        The multiples, whole numbers, (G, C, D).
    """
    # taps that move the output most are rounded first, while many taps are left to make up for their errors; taps
    # without bounds are rounded last, since they can make up for anything
    diagonal = torch.diagonal(gram, dim1=1, dim2=2)
    order = torch.argsort(diagonal.masked_fill(torch.isinf(largest), -1.0), dim=1, descending=True, stable=True)
    columns = order[:, None, :].expand_as(weight)
    h = gram.gather(1, order[:, :, None].expand_as(gram)).gather(2, order[:, None, :].expand_as(gram))
    damping = DAMPING * diagonal.mean(1).clamp_min(torch.finfo(gram.dtype).tiny)
    h = h + damping[:, None, None] * torch.eye(h.shape[1], dtype=h.dtype)
    wanted, step = weight.gather(2, columns), step.expand_as(weight).gather(2, columns)
    bound = largest[order][:, None, :]
    nearest = _nearest(wanted / step, bound)
    rounded = _round_in_turn(wanted, step, bound, h)
    for _ in range(DESCENTS):
        rounded = _descend(rounded, wanted, step, bound, h)
    worse = _loss(rounded * step - wanted, h) > _loss(nearest * step - wanted, h)
    rounded = torch.where(worse[:, :, None], nearest, rounded)
    return torch.empty_like(rounded).scatter_(2, columns, rounded)


def _nearest(value: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    """Whole numbers within a bound; ties go to the even one."""
    return torch.minimum(torch.maximum(value.round(), -bound), bound)


def _loss(error: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """The loss of each output for these errors of the weights, (G, C)."""
    return ((error @ h) * error).sum(2)


def _round_in_turn(wanted: torch.Tensor, step: torch.Tensor, bound: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Round tap after tap, and let the later ones make up for the earlier ones' errors."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    factor = torch.linalg.cholesky(inverse, upper=True)
    left, rounded = wanted.clone(), torch.empty_like(wanted)
    taps = wanted.shape[2]
    for start in range(0, taps, BLOCK):
        stop = min(start + BLOCK, taps)
        errors = torch.empty_like(left[:, :, start:stop])
        for tap in range(start, stop):
            rounded[:, :, tap] = _nearest(left[:, :, tap] / step[:, :, tap], bound[:, :, tap])
            error = (left[:, :, tap] - rounded[:, :, tap] * step[:, :, tap]) / factor[:, None, tap, tap]
            left[:, :, tap + 1 : stop] -= error[:, :, None] * factor[:, None, tap, tap + 1 : stop]
            errors[:, :, tap - start] = error
        left[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    return rounded


def _descend(
    rounded: torch.Tensor, wanted: torch.Tensor, step: torch.Tensor, bound: torch.Tensor, h: torch.Tensor
) -> torch.Tensor:
    """Give each tap in turn the multiple that loses least while all others stay as they are."""
    rounded = rounded.clone()
    slope = (rounded * step - wanted) @ h
    taps = wanted.shape[2]
    for start in range(0, taps, BLOCK):
        stop = min(start + BLOCK, taps)
        moves = torch.zeros_like(rounded[:, :, start:stop])
        for tap in range(start, stop):
            best = rounded[:, :, tap] - slope[:, :, tap] / (h[:, None, tap, tap] * step[:, :, tap])
            best = _nearest(best, bound[:, :, tap])
            move = (best - rounded[:, :, tap]) * step[:, :, tap]
            rounded[:, :, tap] = best
            slope[:, :, tap:stop] += move[:, :, None] * h[:, None, tap, tap:stop]
            moves[:, :, tap - start] = move
        slope[:, :, stop:] += moves @ h[:, start:stop, stop:]
    return rounded
