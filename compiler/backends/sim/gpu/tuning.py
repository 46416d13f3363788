"""Chooses the tiles of a kernel: the fastest of a few candidates on this device, once for each kind of layer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from resformer.compiler.backends.sim.frame import is_out_of_memory
from resformer.compiler.backends.sim.gpu.launch import NARROWEST, Tiles

SECONDS = 90.0
"""Seconds a process may spend on trying tiles, with compiling; then the first candidate of each list is taken."""
LAUNCHES = 5
"""Launches that are timed for each candidate, after one that compiles it. They run in one CUDA graph, since launching a
small kernel takes longer than running it."""
FEWER = 168
"""Registers for each thread at which three programs of four warps run side by side, rather than two."""

Key = tuple[object, ...]

CHOSEN: dict[Key, Tiles] = {}
"""The tiles that were chosen in this process, by device and kind of layer."""


@dataclass
class Budget:
    """The seconds that are left for trying tiles."""

    left: float = SECONDS


BUDGET = Budget()


def layer_tiles(group_outputs: int, group_channels: int, rows: int, *, light: bool) -> list[Tiles]:
    """Candidate tiles for synapses; the tiles that are likely to be best come first.

    Args:
        group_outputs: The outputs of a group.
        group_channels: The input channels of a group.
        rows: The output positions of all images.
        light: Whether little work follows the product; if much work follows, tiles must be smaller, so that the
            registers suffice.
    """
    widest, tall = _power_of_2(group_outputs, 128), _power_of_2(rows, 128)
    narrow, short, low = min(widest, 64), min(tall, 64), min(tall, 32)
    depth = 64 if group_channels % 64 == 0 else 32
    if light:
        tiles = [
            Tiles(tall, narrow, depth, 4, 3), Tiles(short, narrow, depth, 4, 3, FEWER), Tiles(low, narrow, depth, 4, 4),
            Tiles(tall, narrow, depth, 8, 3, FEWER),
        ]  # fmt: skip
    else:
        tiles = [
            Tiles(short, narrow, depth, 4, 4, FEWER), Tiles(low, narrow, depth, 4, 4), Tiles(short, narrow, depth, 4,
            3),
        ]  # fmt: skip
        if group_channels % 128 == 0:
            tiles.append(Tiles(short, narrow, 128, 4, 3, FEWER))
    return list(dict.fromkeys(tiles))


def attention_tiles(patches: int) -> list[Tiles]:
    """Candidate tiles for attention, which keeps the potentials of all patches in registers."""
    if patches > 256:
        return [Tiles(32, 256, 0, 8, 1)]
    return [Tiles(64, 128, 0, 4, 1), Tiles(32, 128, 0, 4, 1), Tiles(32, 256, 0, 8, 1), Tiles(64, 256, 0, 4, 1)]


def choose(key: Key, candidates: Sequence[Tiles], launch: Callable[[Tiles], None], device: torch.device) -> Tiles:
    """The fastest tiles that the device can run.

    Args:
        key: The kind of layer.
        candidates: One or more tiles, the likely best first.
        launch: Launches the kernel with given tiles.
        device: The device to run on; only a GPU is timed, otherwise the first candidate is taken.
    """
    if device.type != "cuda" or len(candidates) == 1:
        return candidates[0]
    key = (torch.cuda.get_device_name(device), *key)
    if key not in CHOSEN:
        if BUDGET.left <= 0:
            return candidates[0]
        began = time.perf_counter()
        CHOSEN[key] = min(candidates, key=lambda tiles: _milliseconds(launch, tiles))
        BUDGET.left -= time.perf_counter() - began
    return CHOSEN[key]


def _milliseconds(launch: Callable[[Tiles], None], tiles: Tiles) -> float:
    """How long ``LAUNCHES`` launches take; infinite if the device cannot run the kernel."""
    try:
        launch(tiles)
        torch.cuda.synchronize()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return math.inf
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(LAUNCHES):
            launch(tiles)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    graph.replay()
    begin.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end))


def _power_of_2(count: int, most: int) -> int:
    """The least power of two that is at least ``count``, but at most ``most`` and at least ``NARROWEST``."""
    return max(min(1 << (count - 1).bit_length(), most), NARROWEST)
