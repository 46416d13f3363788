"""A faster layout: more cores for the layers that a run found slow."""

from __future__ import annotations

import math

from resformer.compiler.ir.program import Scheduled
from resformer.compiler.placement.activity import Activity
from resformer.compiler.placement.place import Placement, place
from resformer.errors import CapacityError
from resformer.runtime.cost.cost import Cost, estimate

ROUNDS = 16
"""Of the bisection, at most."""
PRECISION = 0.01
"""It ends where the step's length is known as well as this."""


def chips_to_use(fewest: Placement, wanted: int | None) -> int:
    """On how many chips a layout may spread.

    Args:
        fewest: The layout with the fewest cores.
        wanted: How many; None for those in use already.

    Raises:
        CapacityError: There are fewer chips than the network takes, or more than a system has.
    """
    chip = fewest.chip
    chips = fewest.chips if wanted is None else wanted
    if not fewest.chips <= chips <= max(chip.chips_per_system, fewest.chips):
        raise CapacityError(
            f"--spread: {chips:,} chips, the network takes {fewest.chips:,} at least, and {chip.name}'s largest system "
            f"has {chip.chips_per_system:,}"
        )
    return chips


def spread(program: Scheduled, activity: Activity, cost: Cost, chips: int | None = None) -> Cost:
    """Give the slowest layers the idle cores of some chips, such that the slowest step is as short as it can be.

    A layer's work is divided by its cores (``docs/placement.md``), so for each length of a step it is known how many
    cores each layer needs; the shortest length whose layout still fits is found by bisection.

    Args:
        program: Scheduled.
        activity: Of its run.
        cost: Of the layout with the fewest cores.
        chips: How many to use; None for those in use already.

    Returns:
        The cost of the new layout, or ``cost`` if none is faster.

    Raises:
        CapacityError: As ``chips_to_use``.
    """
    fewest, chip = cost.placement, cost.placement.chip
    chips = chips_to_use(fewest, chips)
    work = {layer.name: layer.work_ns for layer in cost.layers}

    def layout(step_ns: float) -> Placement | None:
        wanted = {name: math.ceil(each / step_ns) for name, each in work.items()}
        try:
            found = place(program, chip, wanted)
        except CapacityError:
            return None
        fits = found.cores <= chips * chip.cores_per_chip and len(found.violations) <= len(fewest.violations)
        return found if fits else None

    slow = max(layer.step_ns for layer in cost.layers)
    fast = sum(work.values()) / (chips * chip.cores_per_chip)
    best = cost
    for _ in range(ROUNDS):
        if slow - fast <= PRECISION * slow:
            break
        middle = math.sqrt(slow * fast)
        found = layout(middle)
        if found is None:
            fast = middle
            continue
        slow = middle
        tried = estimate(program, activity, found)
        if tried.step_ns < best.step_ns:
            best = tried
    return best
