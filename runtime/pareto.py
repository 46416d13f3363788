"""Which of several ways are worth a choice: those that none other beats."""

from __future__ import annotations

from collections.abc import Sequence


def front(gains: Sequence[float | None], costs: Sequence[float | None]) -> list[int]:
    """The ways that no other beats, which would gain as much at no more cost, and be better in one of the two.

    Args:
        gains: Of each way, what should be large; None if it is no choice.
        costs: What should be small, likewise.

    Returns:
        Their indices, from the cheapest to the dearest; ways that are alike in both are all there.
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
