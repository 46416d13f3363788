"""Which tiles a kernel is cut into: the fastest of a few on this device, chosen once for each kind of layer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from resformer.compiler.backends.sim.frame import is_out_of_memory
from resformer.compiler.backends.sim.gpu.launch import NARROWEST, Tiles

SECONDS = 90.0
"""What a process may spend on trying tiles, the compiling included; after that the first of each list is taken."""
LAUNCHES = 5
"""Timed for each candidate, after one that compiles it; in one graph, for a small one is over before it is launched."""
FEWER = 168
"""Registers of a thread with which three programs of four warps run side by side, not two."""

Key = tuple[object, ...]

CHOSEN: dict[Key, Tiles] = {}
"""What was found in this process, by device and kind of layer."""


@dataclass
class Budget:
    """What is left of the seconds that trying may take."""

    left: float = SECONDS


BUDGET = Budget()


def layer_tiles(group_outputs: int, group_channels: int, rows: int, *, light: bool) -> list[Tiles]:
    """Candidates for synapses, what is likely to be best first.

    Args:
        group_outputs: Outputs of a group.
        group_channels: Channels that each reads of a position.
        rows: Positions made.
        light: Whether little follows the product: else a tile must be smaller, for its registers to suffice.
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
    """Candidates for attention: the potentials of all patches are in registers."""
    if patches > 256:
        return [Tiles(32, 256, 0, 8, 1)]
    return [Tiles(64, 128, 0, 4, 1), Tiles(32, 128, 0, 4, 1), Tiles(32, 256, 0, 8, 1), Tiles(64, 256, 0, 4, 1)]


def choose(key: Key, candidates: Sequence[Tiles], launch: Callable[[Tiles], None], device: torch.device) -> Tiles:
    """The fastest tiles that the device can run.

    Args:
        key: The kind of layer.
        candidates: One or more.
        launch: Runs the kernel with some tiles.
        device: Where; only a GPU is timed.
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
    """How long a launch takes; infinite where the device cannot."""
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
    """The least power of two that is not below a count, within the tiles that are possible."""
    return max(min(1 << (count - 1).bit_length(), most), NARROWEST)
