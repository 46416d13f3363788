"""A faster layout: more cores for the layers that a run found slow."""

from __future__ import annotations

import math

from resformer.compiler.ir.program import Scheduled
from resformer.compiler.placement.activity import Activity
from resformer.compiler.placement.place import Placement, place
from resformer.errors import CapacityError
from resformer.runtime.cost.cost import Cost, estimate

ROUNDS = 16
"""The most rounds of the bisection."""
PRECISION = 0.01
"""The relative precision of the step's length at which the bisection ends."""


def chips_to_use(fewest: Placement, wanted: int | None) -> int:
    """How many chips a layout may use.

    Args:
        fewest: The layout with the fewest cores.
        wanted: The number of chips that the user wants; None: as many as ``fewest`` uses.

    Raises:
        CapacityError: ``wanted`` is less than the network takes, or more than a system has.
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
    """Give the slowest layers the idle cores of some chips, to make the slowest step as short as possible.

    A layer's work is divided by its cores (``docs/placement.md``). So each length of a step tells how many cores each
    layer needs, and bisection finds the shortest length whose layout still fits.

    Args:
        program: The scheduled program.
        activity: The activity of its run.
        cost: The cost of the layout with the fewest cores.
        chips: How many chips to use; None: as many as that layout uses.

    Returns:
        The cost of the new layout, or ``cost`` if no layout is faster.

    Raises:
        CapacityError: See ``chips_to_use``.
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
    if fast == 0:  # no layer's work takes time, so more cores save none
        return best
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
