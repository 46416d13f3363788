"""Holds a plan's values while it runs: slabs of channels, the blocks that a segment works on, and reused memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from resformer.compiler.backends.sim.plan import Plan, Segment

Work = Callable[["Frame"], None]
"""One step, bound to its weights and its block: a function that reads and writes a frame."""


Counted = tuple[str, "int | torch.Tensor"]
"""A node's name and a count of its values; the count may be a tensor that is still on a device."""


@dataclass(frozen=True, eq=False)
class Slab:
    """Some channels of a value.

    Attributes:
        data: (T or 1, N * positions, all channels), contiguous.
        first: The first channel.
        width: The number of channels.
    """

    data: torch.Tensor
    first: int
    width: int

    @property
    def view(self) -> torch.Tensor:
        """The channels themselves, (T or 1, N * positions, width)."""
        return self.data[:, :, self.first : self.first + self.width]


@dataclass(frozen=True)
class Block:
    """One of ``count`` equal shares of the channels."""

    index: int
    count: int

    def of(self, channels: int) -> tuple[int, int]:
        """The first channel and the number of channels of this share."""
        width = channels // self.count
        return self.index * width, width


class Arena:
    """Memory of one thread, handed out again as soon as it is given back, while it is still in the cache."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: dict[tuple[int, torch.dtype], list[torch.Tensor]] = {}

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Memory with arbitrary content."""
        free = self._free.get((math.prod(shape), dtype))
        return free.pop().view(shape) if free else torch.empty(shape, dtype=dtype, device=self._device)

    def give(self, tensor: torch.Tensor) -> None:
        """Take memory back."""
        self._free.setdefault((tensor.numel(), tensor.dtype), []).append(tensor)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch or Python says that memory ran out."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "can't allocate memory" in str(error)


class Frame:
    """The values of one tile of samples, as one block of one segment sees them.

    Attributes:
        plan: The plan that runs.
        full: The values that outlive their segment, with all their channels.
        arena: The memory of the thread that runs the block.
        clips: How often values of each node saturated.
        ties: How often potentials of each node met their threshold exactly and did not fire.
    """

    def __init__(self, plan: Plan, full: dict[str, Slab], arena: Arena, segment: Segment, block: Block) -> None:
        self.plan = plan
        self.full = full
        self.arena = arena
        self.clips: list[Counted] = []
        self.ties: list[Counted] = []
        self._segment = segment
        self._block = block
        self._local: dict[str, Slab] = {}
        self._taken: list[torch.Tensor] = []

    def read(self, name: str) -> Slab:
        """This block's channels of a value."""
        if name in self._local:
            return self._local[name]
        slab = self.full[name]
        return Slab(slab.data, *self._block.of(slab.width))

    def read_all(self, name: str) -> torch.Tensor:
        """All channels of a value, which an earlier segment made."""
        return self.full[name].data

    def write(self, name: str, dtype: torch.dtype) -> Slab:
        """Where to write this block's channels of a value."""
        if name not in self._segment.exports:
            value = self.plan.values[name]
            _, width = self._block.of(value.channels)
            shape = (1 if value.static else self.plan.timesteps, self.plan.samples * value.positions, width)
            self._local[name] = Slab(self.scratch(shape, dtype), 0, width)
        return self.read(name)

    def put(self, name: str, data: torch.Tensor) -> None:
        """Store a value that a kernel made in memory of its own, (T or 1, N * positions, width)."""
        if name in self._segment.exports:
            self.read(name).view.copy_(data)
        else:
            self._local[name] = Slab(data, 0, data.shape[2])

    def scratch(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Memory that is kept until the block is done."""
        tensor = self.arena.take(shape, dtype)
        self._taken.append(tensor)
        return tensor

    def clipped(self, name: str, count: int | torch.Tensor) -> None:
        """Note how many of a node's values saturated."""
        self.clips.append((name, count))

    def tied(self, name: str, count: int | torch.Tensor) -> None:
        """Note how many ties of a population did not fire."""
        self.ties.append((name, count))

    def done(self) -> None:
        """Give back the block's memory."""
        for tensor in self._taken:
            self.arena.give(tensor)
        self._taken.clear()
        self._local.clear()
