"""Which cores a build's program is on: those of its own layout, or the fewest possible on another chip."""

from __future__ import annotations

from resformer.compiler.chips.chip import DEFAULT, Chip, load_chip
from resformer.compiler.files.build import Build
from resformer.compiler.ir.program import Scheduled
from resformer.compiler.placement.place import Placement, place
from resformer.compiler.placement.restore import restore


def placed(build: Build, program: Scheduled, chip: Chip | None = None) -> Placement:
    """The placement of a build's program.

    Args:
        build: The build.
        program: The build's program.
        chip: The chip to place the program on, with the fewest cores. None: the chip and the layout of the build, or
            loihi2 if it was placed on no chip.

    Raises:
        FileFormatError: The build's placement file is damaged.
        CapacityError: The program takes more cores than ``MOST_CORES`` allows.
    """
    content = build.placement()
    if chip is None and content is not None and content["layout"] is not None:
        return restore(program, content)
    return place(program, chip or build.chip() or load_chip(DEFAULT))
