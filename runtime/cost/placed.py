"""On which cores a build's program is: those that it was laid out on, or those of the fewest on another chip."""

from __future__ import annotations

from resformer.compiler.chips.chip import DEFAULT, Chip, load_chip
from resformer.compiler.files.build import Build
from resformer.compiler.ir.program import Scheduled
from resformer.compiler.placement.place import Placement, place
from resformer.compiler.placement.restore import restore


def placed(build: Build, program: Scheduled, chip: Chip | None = None) -> Placement:
    """The placement of a build's program.

    Args:
        build: Where it lies.
        program: The build's.
        chip: Another chip than it was placed on; None: that one, with the layout that was chosen for it.

    Raises:
        FileFormatError: The file that tells is damaged.
        CapacityError: It takes more cores than anybody has.
    """
    content = build.placement()
    if chip is None and content is not None and content["layout"] is not None:
        return restore(program, content)
    return place(program, chip or build.chip() or load_chip(DEFAULT))
