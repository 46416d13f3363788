"""Orders in which the cores of several chips can be filled: along strips of the whole mesh, back and forth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from resformer.compiler.chips.chip import Chip
from resformer.compiler.placement.place import tile_positions

LARGEST_MESH = 2**22
"""The most cores of a mesh for which other orders are computed; the largest system has 138 thousand."""


def curves(chip: Chip, cores: int) -> Iterator[tuple[int, ...] | None]:
    """Yield orders, each as the numbers of its first ``cores`` cores, on as few chips as they need.

    The first order is None: the cores' own numbering. The others go along strips of the mesh of all those chips; the
    width of a strip is a power of two. They go down one strip and up the next, or from west to east and back. For
    meshes of more than :data:`LARGEST_MESH` cores there are no others.
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
