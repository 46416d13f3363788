"""The layout that a build's ``placement.json`` describes, for the program that lies beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

import numpy as np

from resformer.compiler.chips.chip import Chip
from resformer.compiler.files.placement import Layer, PlacementFile
from resformer.compiler.ir.program import Program
from resformer.compiler.placement.mapping import Population, Shape3, map_program
from resformer.compiler.placement.place import Placement, lay_out
from resformer.compiler.placement.tiling import Reader, Tiling, candidates
from resformer.errors import FileFormatError


def restore(program: Program, content: PlacementFile) -> Placement:
    """Restore the placement of a program from a file.

    Args:
        program: The scheduled program that was placed.
        content: The file's content, as ``Build.placement`` reads it.

    Raises:
        FileFormatError: The file belongs to another program, or was changed.
    """
    chip, populations = Chip.from_json(content["chip"]), map_program(program)
    names = [population.name for population in populations]
    if [layer["name"] for layer in content["layers"]] != names:
        _refuse("its layers are not the program's")
    by_name = {layer["name"]: layer for layer in content["layers"]}
    shapes = {population.name: population.shape for population in populations}
    readers: dict[str, list[Reader]] = {name: [] for name in names}
    tilings: dict[str, Tiling] = {}
    for population in reversed(populations):
        tiling = _tiling(population, by_name[population.name], shapes, readers[population.name], chip)
        tilings[population.name] = tiling
        for edge in population.edges:
            if edge.source != population.name:
                readers[edge.source].append(Reader(edge, tiling))
    sites = [
        core["chip"] * chip.cores_per_chip + core["core"] for layer in content["layers"] for core in layer["placed"]
    ]
    cores = sum(tiling.cores for tiling in tilings.values())
    chips = -(-cores // chip.cores_per_chip)
    if len(sites) != cores or len(set(sites)) != cores or max(sites) >= chips * chip.cores_per_chip:
        _refuse(f"its {cores:,} cores are not each on a place of their own on {chips:,} chips")
    ordered = [tilings[name] for name in names]
    in_order = sites == list(range(cores))
    return replace(lay_out(ordered, chip, None if in_order else tuple(sites)), layout=content["layout"])


def _tiling(
    population: Population, layer: Layer, shapes: dict[str, Shape3], readers: list[Reader], chip: Chip
) -> Tiling:
    tile, shape = layer["tile"], population.shape
    if len(tile) != len(shape) or any(size > most for size, most in zip(tile, _largest(shape), strict=True)):
        _refuse(f"{population.name} is cut into tiles of {tile}, and has {list(shape)} neurons")
    channels, rows, columns = tile
    # all ways are judged, since Tiling.needed, which decides a layer's bound, depends on all of them
    found = candidates(population, shapes, chip, (channels, rows, columns)).read_by(readers)
    (chosen, *_) = np.flatnonzero((found.tiles == tile).all(axis=1))
    tiling = found.tiling(int(chosen))
    if tiling.cores != layer["cores"] or len(layer["placed"]) != tiling.cores:
        _refuse(f"{population.name} takes {tiling.cores:,} cores in tiles of {tile}, and is said to take others")
    return tiling


def _largest(shape: Shape3) -> Shape3:
    """An upper limit on the tile's size: its width may be a power of two above the population's."""
    channels, rows, columns = shape
    return channels, rows, 2 * columns


def _refuse(what: str) -> NoReturn:
    raise FileFormatError(f"placement.json: {what}; compile the model again")
