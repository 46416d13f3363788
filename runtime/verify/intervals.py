"""How sure an accuracy is that was measured on some samples: 95 % confidence intervals."""

from __future__ import annotations

import math

NORMAL = 1.959963984540054
"""The number of standard deviations around its mean within which 95 % of a normal distribution lies."""


def share_interval(right: int, samples: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share: Wilson's, which also holds for few samples and at 0 and 1.

    Args:
        right: The number of samples that count toward the share, such as those predicted rightly.
        samples: The number of all samples, at least one.
    """
    share, weight = right / samples, NORMAL**2 / samples
    middle = (share + weight / 2) / (1 + weight)
    half = NORMAL / (1 + weight) * math.sqrt(share * (1 - share) / samples + weight / (4 * samples))
    # exact at the ends, where the square root rounds
    return (0.0 if right == 0 else middle - half), (1.0 if right == samples else middle + half)


def drop_interval(lost: int, gained: int, samples: int) -> tuple[float, float]:
    """The 95 % confidence interval of the drop of accuracy from one network to another, on the same samples.

    Samples that both get right, or both get wrong, say nothing of the drop. So the drop is known far better than either
    accuracy. The formula is Agresti's and Min's (Statistics in Medicine 24, 2005): it adds half a sample to each of the
    four kinds.

    Args:
        lost: The number of samples that only the first network gets right.
        gained: The number of samples that only the second network gets right.
        samples: The number of all samples, at least one.
    """
    count, more, less = samples + 2, lost + 0.5, gained + 0.5
    middle = (more - less) / count
    half = NORMAL * math.sqrt(more + less - (more - less) ** 2 / count) / count
    return max(middle - half, -1.0), min(middle + half, 1.0)
