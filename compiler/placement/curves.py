"""Orders in which the cores of some chips can be filled: strips of the whole mesh, back and forth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from resformer.compiler.chips.chip import Chip
from resformer.compiler.placement.place import tile_positions

LARGEST_MESH = 2**22
"""Cores of a mesh whose order is worked out; the largest system has 138 thousand."""


def curves(chip: Chip, cores: int) -> Iterator[tuple[int, ...] | None]:
    """The numbers of the first ``cores`` cores of each order, on as few chips as they need.

    The first is None, the order of the chips themselves. The others go along strips of the mesh of all those chips, of
    each width that is a power of two: down one strip and up the next, or from west to east and back. Meshes of more
    than :data:`LARGEST_MESH` cores have no others.
    """
    yield None
    chips = -(-cores // chip.cores_per_chip)
    if chips * chip.cores_per_chip > LARGEST_MESH:
        return
    numbers = np.arange(chips * chip.cores_per_chip)
    places = tile_positions(chip, numbers)
    for across, along in ((places[:, 0], places[:, 1]), (places[:, 1], places[:, 0])):
        width, extent = 1, int(across.max()) + 1
        while width < 2 * extent:
            strip = across // width
            step = np.where(strip % 2, -along, along)
            within = np.where(step % 2, -across, across)
            order = np.lexsort((numbers, within, step, strip))
            yield tuple(order[:cores].tolist())
            width *= 2
