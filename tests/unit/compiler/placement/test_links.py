"""What the mesh's links carry: each message walked by hand, row first."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from resformer.compiler.chips.chip import load_chip
from resformer.compiler.placement.links import Loads, Mesh
from resformer.compiler.placement.place import place, tile_positions
from support.program_builder import ProgramBuilder

LOIHI2 = load_chip("loihi2")
Tile = tuple[int, int]


def walk(start: Tile, end: Tile) -> list[tuple[Tile, Tile]]:
    """The links of a message's path, from (column, row) to (column, row)."""
    links, (x, y) = [], start
    while (x, y) != end:
        towards = (x + np.sign(end[0] - x), y) if x != end[0] else (x, y + np.sign(end[1] - y))
        links.append(((x, y), (int(towards[0]), int(towards[1]))))
        x, y = links[-1][1]
    return links


def by_link(loads: Loads) -> dict[tuple[Tile, Tile], float]:
    """The load of each link, by the tiles that it leads from and to."""
    found = {}
    for (direction, row, column), load in np.ndenumerate(loads.along_rows):
        ends = (column, row), (column + 1, row)
        found[ends if direction == 0 else ends[::-1]] = load
    for (direction, column, row), load in np.ndenumerate(loads.along_columns):
        ends = (column, row), (column, row + 1)
        found[ends if direction == 0 else ends[::-1]] = load
    return {link: load for link, load in found.items() if load}


@pytest.mark.parametrize("kind", ["convolution", "dense"])
def test_links_carry_what_walking_each_message_gives(kind: str) -> None:
    net = ProgramBuilder((1, 6, 6))
    first = net.lif("first", net.conv("stem", "input", 4))
    if kind == "dense":
        net.lif("second", net.dense("layer", net.flatten("flat", first), 12))
    else:
        net.lif("second", net.conv("layer", first, 6, (3, 3), padding=(1, 1)))
    # four rows of cores on two chips beside each other
    chip = replace(LOIHI2, cores_per_tile=1, cores_per_chip=12, mesh_columns=3, chip_columns=2, neurons_per_core=9)
    placement = place(net.finish(), chip)
    first, second = (placement.by_name[name] for name in ("first", "second"))
    expected: Counter[tuple[Tile, Tile]] = Counter()
    for sender, box in first.boxes():
        for reader, read in second.boxes():
            shared = np.prod([high - low for low, high in box])
            if kind == "convolution":
                near = [(max(low - 1, 0), min(high + 1, 6)) for low, high in read[1:]]
                both = [
                    max(min(high, end) - max(low, start), 0)
                    for (low, high), (start, end) in zip(box[1:], near, strict=True)
                ]
                shared = (box[0][1] - box[0][0]) * both[0] * both[1]
            start, end = (tuple(tile_positions(chip, np.array(core)).tolist()) for core in (sender, reader))
            for link in walk(start, end):
                expected[link] += int(shared)
    (edge,) = second.population.edges
    found = by_link(Mesh.of(placement).carry(edge, second))
    assert len(expected) > 20
    assert found == {link: pytest.approx(load) for link, load in expected.items() if load}


def test_a_mesh_of_few_cores_that_lie_far_apart_takes_little_memory() -> None:
    net = ProgramBuilder((1, 8, 8))
    net.lif("first", net.conv("stem", "input", 4))
    chip = replace(LOIHI2, cores_per_tile=1, cores_per_chip=1, mesh_columns=2**31 - 1, neurons_per_core=64)
    mesh = Mesh.of(place(net.finish(), chip))
    assert (mesh.rows, mesh.columns) == (1, len(mesh.places))
