"""The Pareto front: which of several alternatives are worth choosing, because no other one beats them."""

from __future__ import annotations

from collections.abc import Sequence


def front(gains: Sequence[float | None], costs: Sequence[float | None]) -> list[int]:
    """The alternatives that no other one beats.

    One alternative beats another if it gains as much or more, costs as much or less, and is better in one of the two.

    Args:
        gains: What should be large, for each alternative; None leaves the alternative out.
        costs: What should be small, for each alternative; None leaves the alternative out.

    Returns:
        The indices of these alternatives, from the cheapest to the dearest. Several that are equal in gain and cost are
        all included.
    """
    known = [
        (cost, -gain, index)
        for index, (gain, cost) in enumerate(zip(gains, costs, strict=True))
        if gain is not None and cost is not None
    ]
    found: list[int] = []
    best: tuple[float, float] | None = None
    for cost, loss, index in sorted(known):
        if best is None or loss < best[1] or (cost, loss) == best:
            best = (cost, loss)
            found.append(index)
    return found
