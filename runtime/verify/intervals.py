"""How sure an accuracy is that was measured on some samples: intervals that hold with 95 %."""

from __future__ import annotations

import math

NORMAL = 1.959963984540054
"""Of a normal distribution, 95 % lies within so many standard deviations."""


def share_interval(right: int, samples: int) -> tuple[float, float]:
    """Between which shares a share lies: Wilson's interval, which is right for few samples and at 0 and 1 too.

    Args:
        right: Of how many samples something was found.
        samples: How many there were, at least one.
    """
    share, weight = right / samples, NORMAL**2 / samples
    middle = (share + weight / 2) / (1 + weight)
    half = NORMAL / (1 + weight) * math.sqrt(share * (1 - share) / samples + weight / (4 * samples))
    # exact at the ends, where the square root rounds
    return (0.0 if right == 0 else middle - half), (1.0 if right == samples else middle + half)


def drop_interval(lost: int, gained: int, samples: int) -> tuple[float, float]:
    """Between which values the drop of accuracy from one network to another lies, both given the same samples.

    What both get right, or both wrong, says nothing of the drop, so it is known far better than either accuracy. The
    formula is Agresti's and Min's (Statistics in Medicine 24, 2005): half a sample more of each of the four kinds.

    Args:
        lost: Samples that only the first network gets right.
        gained: Samples that only the second does.
        samples: All of them, at least one.
    """
    count, more, less = samples + 2, lost + 0.5, gained + 0.5
    middle = (more - less) / count
    half = NORMAL * math.sqrt(more + less - (more - less) ** 2 / count) / count
    return max(middle - half, -1.0), min(middle + half, 1.0)
