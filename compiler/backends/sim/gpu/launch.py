"""Kernels together with their parameters on the device, ready to be launched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import triton

from resformer.compiler.backends.sim.gpu import loops
from resformer.compiler.backends.sim.products import KernelRefusedError, Synapses, digits_for
from resformer.compiler.ir.interval import largest
from resformer.compiler.ir.ops import LIF, Relay
from resformer.compiler.ir.ops.neurons import THRESHOLD_UNIT
from resformer.compiler.target import LOIHI

DEPTH_MIN = 32
"""The smallest depth of an int8 product on the GPU's tensor cores."""
NARROWEST = 16
"""The smallest number of rows or columns of a tile."""
FEW_CHANNELS = 16
"""With fewer channels than this in a group, a run of one tap's channels would leave most of a product's depth empty."""
SEEN_BITS = 31
"""The most taps for which one number of a kernel holds one bit each: whether the tap lies within the image."""
COUNTS = 3
"""How many counts a step has: sums clipped, potentials clipped from below, ties."""
PLANE_ROWS, PLANE_CHANNELS = 32, 64
"""The size of a tile in kernels without matrix products."""


@contextmanager
def compiling(kernel: str) -> Iterator[None]:
    """Turn Triton's own errors into a ``KernelRefusedError``, which the trials of kernels handle.

    Raises:
        KernelRefusedError: Triton cannot compile the kernel for this device, or cannot launch it.
    """
    try:
        yield
    except triton.TritonError as error:
        raise KernelRefusedError(f"{kernel}: {error}") from error


class Tiles(NamedTuple):
    """How a kernel is cut into tiles: the tile of one program, the depth of each product, and compiler options."""

    rows: int
    outputs: int
    depth: int
    warps: int
    stages: int
    registers: int | None = None
    """The most registers that a thread may use; with fewer registers, more programs run side by side."""


def decay(lif: LIF) -> tuple[int, int]:
    """A decay of potentials as (shift, kept): each step keeps kept / 4096, which is 1 / 2^shift unless shift is -1."""
    kept = LOIHI.decay_unity - lif.dv
    halves = kept > 0 and kept & (kept - 1) == 0
    return (LOIHI.decay_unity // kept).bit_length() - 1 if halves else -1, kept


def may_floor(lif: LIF, reach: int) -> bool:
    """Whether inputs of magnitude ``reach`` or less can bring a potential to its lower limit."""
    push = (reach << LOIHI.a_shift) + largest(lif.bias)
    # a bound on the potential after any number of steps: push * (1 + keep + keep^2 + ...)
    return lif.dv == 0 or push * LOIHI.decay_unity // lif.dv >= LOIHI.v_max


@dataclass(frozen=True, eq=False)
class Tail:
    """A relay and neurons that read a current; both are optional.

    Attributes:
        relay: The relay, which adds a bias, shifts and saturates.
        lif: The neurons.
        channels: The number of channels of the current.
        reach: A bound on the magnitude of what the neurons read.
        may_clip: Whether the relay's result can reach its limit.
    """

    relay: Relay | None
    lif: LIF | None
    channels: int
    reach: int
    may_clip: bool


class TailNumbers:
    """A tail's parameters on a device, as both kernels with a tail take them."""

    def __init__(self, tail: Tail, device: torch.device) -> None:
        relay, lif, channels = tail.relay, tail.lif, tail.channels
        none = np.zeros(1, np.int64)
        self.relay_bias = _int32(none if relay is None else relay.bias, channels, device)
        self.lif_bias = _int32(none if lif is None else lif.bias, channels, device)
        self.tie = _int32(none if lif is None else lif.tie_potentials(1), channels, device)
        self.scalars = (
            0 if relay is None else relay.limit,
            0 if relay is None else relay.shift,
            0 if relay is None else 1 << relay.shift >> 1,
            0 if lif is None else lif.vth << LOIHI.a_shift,
        )
        self.count_clips = int(relay is not None and tail.may_clip)
        shift, keep = (0, 0) if lif is None else decay(lif)
        self.compiled: dict[str, Any] = {
            "RELAY": relay is not None, "FIRE": lif is not None, "SHIFT": shift, "KEEP": keep, "V_MAX": LOIHI.v_max,
            "FLOORS": lif is not None and may_floor(lif, tail.reach), "TIES": lif is not None and lif.counts_ties,
        }  # fmt: skip


def _int32(values: npt.NDArray[np.integer[Any]], channels: int, device: torch.device) -> torch.Tensor:
    """Values as int32 on a device, one for each channel."""
    return torch.from_numpy(np.array(np.broadcast_to(values, channels), np.int32)).to(device)


class Outputs(NamedTuple):
    """What a kernel writes: tensors, (steps or 1, rows, channels), or None if they are not kept, and counts, (3,)."""

    sums: torch.Tensor | None
    stream: torch.Tensor | None
    spikes: torch.Tensor | None
    counts: torch.Tensor


class LayerKernel:
    """The kernel of synapses and the tail that reads them.

    Args:
        synapses: The synapses; ``images`` is the number of images of one step.
        tail: The tail that reads the synapses; its relay and neurons may both be None.
        steps: How many steps a launch runs.
        static: Whether the synapses read the same values at all steps.
    """

    def __init__(self, synapses: Synapses, tail: Tail, steps: int, *, static: bool) -> None:
        device = synapses.device
        self.synapses, self.steps, self.static = synapses, steps, static
        by_tap = np.ascontiguousarray(synapses.weight.transpose(0, 2, 3, 1)).reshape(len(synapses.weight), -1)
        self._weight = torch.from_numpy(by_tap).to(device)
        self._scale = _int32(np.left_shift(1, synapses.weight_exp.astype(np.int64)), len(by_tap), device)
        self._bias = _int32(synapses.bias, len(by_tap), device)
        self._tail = TailNumbers(tail, device)
        self._drive_scale = self._scale * THRESHOLD_UNIT
        # a bias that overflows 32 bits here wraps back when the sum is added, since the total fits
        self._drive_bias = self._bias * THRESHOLD_UNIT + self._tail.lif_bias
        self._nothing = torch.zeros(1, dtype=torch.int32, device=device)
        self._no_spikes = torch.zeros(1, dtype=torch.int8, device=device)
        window = synapses.window
        self._made = window.targets(synapses.size)
        self.rows = synapses.images * self._made[0] * self._made[1]
        self.group_channels, self.outputs = synapses.weight.shape[1], len(by_tap)
        self.group_outputs = self.outputs // synapses.groups
        plain = window.kernel == window.stride == (1, 1) and window.padding == (0, 0)
        self.gather = (
            loops.POINTWISE
            if plain
            else loops.TAPS
            if self.group_channels >= FEW_CHANNELS and window.area <= SEEN_BITS
            else loops.FLAT
        )

    def run(self, x: torch.Tensor, other: torch.Tensor | None, outputs: Outputs, tiles: Tiles) -> None:
        """Launch the kernel.

        Args:
            x: (steps or 1, images * height * width, channels), int8.
            other: (steps or 1, rows, outputs), a second summand; None: there is none.
            outputs: The tensors to write.
            tiles: How the kernel is cut into tiles.
        """
        own, tail = self.synapses, self._tail
        (height, width), (kernel_height, kernel_width) = own.size, own.kernel
        blocks = triton.cdiv(self.group_outputs, tiles.outputs)
        grid = triton.cdiv(self.rows, tiles.rows), own.groups * blocks
        even, whole = self.group_channels % tiles.depth == 0, self.group_outputs % tiles.outputs == 0
        with compiling("synapses"):
            loops.synapses[grid](
                x, self._weight, self._scale, self._bias, self._drive_scale, self._drive_bias, self._or_nothing(other),
                tail.relay_bias, tail.lif_bias,
                tail.tie, self._or_nothing(outputs.sums), self._or_nothing(outputs.stream),
                self._no_spikes if outputs.spikes is None else outputs.spikes, outputs.counts,
                self.rows, *self._made, height, width, self.steps, _step(x), _step(other),
                own.channels, self.group_channels, own.depth, self.outputs, self.group_outputs,
                kernel_height * kernel_width, *own.stride, *own.padding, *own.dilation,
                *tail.scalars, blocks, tail.count_clips,
                ROWS=tiles.rows, OUTPUTS=tiles.outputs, DEPTH=tiles.depth, GATHER=self.gather, EVEN=even,
                CHUNKS=triton.cdiv(self.group_channels, tiles.depth), TAPS_WIDE=kernel_width,
                WHOLE=whole, FULL=whole and self.rows % tiles.rows == 0,
                PADDED=self.gather != loops.POINTWISE and any(own.padding), STATIC=self.static, OTHER=other is not None,
                SUMS=outputs.sums is not None, STREAM=outputs.stream is not None, **tail.compiled,
                num_warps=tiles.warps, num_stages=tiles.stages,
                maxnreg=tiles.registers,
            )  # fmt: skip

    def _or_nothing(self, tensor: torch.Tensor | None) -> torch.Tensor:
        return self._nothing if tensor is None else tensor


def _step(tensor: torch.Tensor | None) -> int:
    """The number of elements from one step to the next; 0 if there is one step, which serves for all."""
    return 0 if tensor is None or len(tensor) == 1 else tensor[0].numel()


class TailKernel:
    """The kernel of a tail without synapses, which reads one summand or the sum of two."""

    def __init__(self, tail: Tail, steps: int, device: torch.device) -> None:
        self._tail, self._channels, self._steps = TailNumbers(tail, device), tail.channels, steps
        self._nothing = torch.zeros(1, dtype=torch.int32, device=device)
        self._no_spikes = torch.zeros(1, dtype=torch.int8, device=device)

    def run(self, x: torch.Tensor, other: torch.Tensor | None, outputs: Outputs) -> None:
        """Launch the kernel on one summand or two, each (steps or 1, rows, channels)."""
        rows, tail = x.shape[1], self._tail
        columns = min(PLANE_CHANNELS, triton.next_power_of_2(self._channels))
        grid = triton.cdiv(rows, PLANE_ROWS), triton.cdiv(self._channels, columns)
        with compiling("neurons"):
            loops.neurons[grid](
                x, self._nothing if other is None else other, tail.relay_bias, tail.lif_bias, tail.tie,
                self._nothing if outputs.stream is None else outputs.stream,
                self._no_spikes if outputs.spikes is None else outputs.spikes, outputs.counts,
                rows, self._steps, _step(x), _step(other), self._channels, *tail.scalars,
                tail.count_clips, ROWS=PLANE_ROWS, CHANNELS=columns, OTHER=other is not None,
                STREAM=outputs.stream is not None, **tail.compiled,
            )  # fmt: skip


class Half(NamedTuple):
    """One of the two products of attention, and the neurons that read it.

    Attributes:
        bias: (channels,), added to y.
        limit: The largest magnitude of the product, to which it is clipped.
        lif: The neurons, which all have the same parameters.
        reach: A bound on the magnitude of y + bias.
    """

    bias: npt.NDArray[np.int32]
    limit: int
    lif: LIF
    reach: int


class Attention(NamedTuple):
    """The sizes of DSSA: ``positions`` are those of x and of the result, ``patches`` those of y1 and y2."""

    samples: int
    steps: int
    heads: int
    channels: int
    positions: int
    patches: int


class AttentionKernel:
    """The kernel of both products of DSSA and their neurons.

    Attributes:
        plane_elements: The number of digits in a plane, which the 32-bit offsets of a kernel must reach.
    """

    def __init__(self, size: Attention, halves: Sequence[Half], device: torch.device) -> None:
        self.size, self.halves, self.device = size, tuple(halves), device
        self._biases = [_int32(half.bias, size.channels, device) for half in halves]
        self._padded = max(triton.next_power_of_2(size.patches), DEPTH_MIN)
        self.plane_elements = size.steps * size.samples * self._padded * size.channels
        self._digits = [digits_for(half.reach) for half in halves]
        self._limits = [half.limit for half in halves]
        self._scalars = [int(half.lif.bias[0]) for half in halves]
        self._scalars += [int(half.lif.tie_potentials(1)[0]) for half in halves]
        self._scalars += [half.lif.vth << LOIHI.a_shift for half in halves]
        terms = size.channels // size.heads, size.patches
        self._compiled: dict[str, Any] = {"V_MAX": LOIHI.v_max}
        for number, (half, each) in enumerate(zip(halves, terms, strict=True), start=1):
            shift, keep = decay(half.lif)
            self._compiled |= {
                f"SHIFT{number}": shift, f"KEEP{number}": keep, f"CLIPS{number}": half.reach * each > half.limit,
                f"FLOORS{number}": may_floor(half.lif, half.limit), f"TIES{number}": half.lif.counts_ties,
            }  # fmt: skip

    def run(
        self, y1: torch.Tensor, x: torch.Tensor, y2: torch.Tensor, spikes: torch.Tensor,
        counts: Sequence[torch.Tensor] | torch.Tensor, tiles: Tiles,
    ) -> None:  # fmt: skip
        """Launch the kernel.

        Args:
            y1: (steps, samples * patches, channels).
            x: (steps, samples * positions, channels), int8.
            y2: (steps, samples * patches, channels).
            spikes: (steps, samples * positions, channels), int8: receives the spikes of the second neurons.
            counts: The counts of each half, (3,).
            tiles: How the kernel is cut; ``outputs`` is the number of patches in a part, which is all or half of them.
        """
        size = self.size
        planes = [self._split(half, y) for half, y in enumerate((y1, y2))]
        width = size.channels // size.heads
        grid = triton.cdiv(size.positions, tiles.rows), size.samples * size.heads
        with compiling("attention"):
            loops.attention[grid](
                x, *planes, spikes, counts[0], counts[1],
                size.positions, size.patches, size.steps, size.samples, size.heads, size.channels,
                *self._limits, *self._scalars,
                ROWS=tiles.rows, PADDED=self._padded, PART=min(tiles.outputs, self._padded), WIDTH=width,
                DEPTH=max(triton.next_power_of_2(width), DEPTH_MIN), DIGITS1=self._digits[0], DIGITS2=self._digits[1],
                **self._compiled, num_warps=tiles.warps, num_stages=tiles.stages,
                maxnreg=tiles.registers,
            )  # fmt: skip

    def _split(self, half: int, y: torch.Tensor) -> torch.Tensor:
        """The digits of y, as the kernel takes them; for the second product, patches are neighbours in memory."""
        size, padded, digits = self.size, self._padded, self._digits[half]
        images = size.steps * size.samples
        planes = torch.empty((digits, images, padded, size.channels), dtype=torch.int8, device=self.device)
        rows = images * padded
        tall = 2 * PLANE_ROWS if half else PLANE_ROWS  # fills whole cache lines along either axis
        columns = min(PLANE_CHANNELS, triton.next_power_of_2(size.channels))
        with compiling("digits"):
            loops.digits[triton.cdiv(rows, tall), triton.cdiv(size.channels, columns)](
                y, self._biases[half], planes, rows, size.patches, size.channels,
                PADDED=padded, DIGITS=digits, BY_CHANNEL=half == 1, ROWS=tall, CHANNELS=columns,
            )  # fmt: skip
        return planes


def pool(
    x: torch.Tensor, made: torch.Tensor, size: tuple[int, int], made_size: tuple[int, int], kernel: tuple[int, int],
    stride: tuple[int, int], first: tuple[int, int], *, largest: bool,
) -> None:  # fmt: skip
    """Maxima or sums over windows.

    Args:
        x: (steps or 1, images * height * width, channels).
        made: (steps or 1, images * made height * made width, channels): receives the result.
        size: (height, width) of an image.
        made_size: (height, width) of its result.
        kernel: (rows, columns) of a window.
        stride: (rows, columns) from one window to the next.
        first: How many rows above and columns left of the image the first window begins.
        largest: Whether to take maxima; if not, sums.
    """
    rows, channels = made.shape[0] * made.shape[1], made.shape[2]
    columns = min(PLANE_CHANNELS, triton.next_power_of_2(channels))
    with compiling("pool"):
        loops.pool[triton.cdiv(rows, PLANE_ROWS), triton.cdiv(channels, columns)](
            x, made, rows, *made_size, *size, channels, *kernel, *stride, *first,
            LARGEST=largest, ROWS=PLANE_ROWS, CHANNELS=columns,
        )  # fmt: skip
