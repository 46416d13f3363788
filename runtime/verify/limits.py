"""What a user demands of accuracy: a verification that falls short of it does not pass."""

from __future__ import annotations

from dataclasses import dataclass

from resformer.errors import InputError


@dataclass(frozen=True)
class Limits:
    """What is demanded of accuracy; a limit that is None demands nothing.

    Attributes:
        min_agreement: The least share of samples whose class the quantized network must predict as the original does,
            0 to 1.
        max_accuracy_drop: By how much the share of samples that the quantized network gets right may be lower than the
            original's, from 0 to less than 1: 0.01 is one percentage point.

    Raises:
        InputError: A number is out of its range.
    """

    min_agreement: float | None = None
    max_accuracy_drop: float | None = None

    def __post_init__(self) -> None:
        least, drop = self.min_agreement, self.max_accuracy_drop
        if least is not None and not 0 <= least <= 1:
            raise InputError(f"min_agreement: {least:g} is no share of the samples; give 0 to 1, such as 0.9 for 90 %")
        # a drop of 1 can never be exceeded, so a user who gives it means one percentage point
        if drop is not None and not 0 <= drop < 1:
            raise InputError(
                f"max_accuracy_drop: {drop:g} is no share of the samples; give 0 to less than 1, such as 0.01 for one "
                "percentage point"
            )


NO_LIMITS = Limits()
