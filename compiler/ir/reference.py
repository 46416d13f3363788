"""The reference interpreter: the definition of every integer operation, in numpy.

Samples are independent and schedules only shift them in time, so the interpreter computes node by node over all steps
and samples at once; a ``Delay`` moves a sample's steps and is the identity here. Sums run in float64, where integers
below 2^53 are exact; each operation checks that its own stay there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial, singledispatch
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.program import (
    LIF,
    NEURONS,
    RECORDED,
    Add,
    Conv2d,
    CubaLI,
    CubaLIF,
    Delay,
    Dense,
    Flatten,
    Input,
    MaxPool2d,
    Op,
    Output,
    Program,
    RecurrentCubaLIF,
    Relay,
    SampleDelay,
    SpikeMatMul,
    SumPool2d,
)
from resformer.compiler.ir.trace import SpikeTrain, Trace

IntArray = npt.NDArray[np.int64]
EXACT_IN_FLOAT64 = 2**53
TAPS_AT_ONCE = 2**21
"""Inputs of a convolution's positions that are laid out at once: 16 MiB."""

Step: TypeAlias = Callable[[IntArray, IntArray, IntArray], fixedpoint.LifStep]
"""One step of neurons: of their currents, potentials and inputs."""
Observer = Callable[[str, IntArray], None]
"""Called with a node's name and its output, (T, N, ...), which it must not change."""


class BoundsError(AssertionError):
    """An integer left the range that a program promises: our mistake, unless the program's file was changed since."""


def run(
    program: Program,
    samples: npt.NDArray[np.integer],
    *,
    record: bool = False,
    overrides: Mapping[str, IntArray] | None = None,
    observe: Observer | None = None,
) -> Trace:
    """Run encoded samples through a program, scheduled or not.

    Args:
        program: The integer network.
        samples: (N, C, H, W), the same frame for all T steps, or (N, T, C, H, W).
        record: Keep every LIF's spikes and every graded value.
        overrides: Values (T, N, ...) that the readers of these nodes get in place of what the nodes compute, which is
            recorded all the same: how layers are examined with another network's input.
        observe: Told what each node computes.

    Raises:
        BoundsError: An integer left the range that the program's analysis promised.
        AssertionError: An override fits no node.
    """
    overrides = {} if overrides is None else overrides
    unknown = sorted(overrides.keys() - program.by_name.keys())
    assert not unknown, f"cannot override {unknown[0]}: no node has this name"
    last_reads = program.last_reads
    values: dict[str, IntArray] = {}
    spikes: dict[str, SpikeTrain] = {}
    graded: dict[str, npt.NDArray[np.int32]] = {}
    saturated: dict[str, int] = {}
    for node in program:
        if isinstance(node.op, Input):
            value, clipped = _frames(samples, program.timesteps), None
        else:
            inputs = (values[name] for name in node.inputs)
            if node.name in overrides and isinstance(node.op, RecurrentCubaLIF):  # it is a reader of its own
                arriving = next(inputs) + fed_back(node.op, overrides[node.name])
                value, clipped = evaluate(node.op.without_synapses(), arriving)
            else:
                value, clipped = evaluate(node.op, *inputs)
            value = value.reshape(*value.shape[:2], *node.shape)
        _check_bounds(node.name, node.op, value)
        if clipped is not None:
            saturated[node.name] = clipped
        if record and isinstance(node.op, NEURONS):
            spikes[node.name] = SpikeTrain.pack(value)
        elif record and isinstance(node.op, RECORDED):
            graded[node.name] = value.astype(np.int32)
        if observe is not None:
            observe(node.name, value)
        values[node.name] = overrides.get(node.name, value)
        sent = values[node.name].shape
        assert sent == value.shape, f"{node.name}: overridden by values of shape {sent}, not {value.shape}"
        for source in last_reads[node.name]:
            del values[source]
    return Trace(logits=values[program.output.name], spikes=spikes, graded=graded, saturated=saturated)


def _frames(samples: npt.NDArray[np.integer], timesteps: int) -> IntArray:
    """Samples as (T, N, C, H, W)."""
    wide = samples.astype(np.int64)
    if wide.ndim == 4:
        return np.broadcast_to(wide, (timesteps, *wide.shape))
    assert wide.shape[1] == timesteps, f"{wide.shape[1]} frames for {timesteps} steps"
    return wide.swapaxes(0, 1)


def _check_bounds(name: str, op: Op, value: IntArray) -> None:
    if op.signal.low is not None and op.signal.high is not None and value.size:
        low, high = int(value.min()), int(value.max())
        if not op.signal.low <= low <= high <= op.signal.high:
            raise BoundsError(f"{name}: [{low}, {high}] leaves the proven [{op.signal.low}, {op.signal.high}]")


@singledispatch
def evaluate(op: Op, *inputs: IntArray) -> tuple[IntArray, int | None]:
    """One operation on values (T, N, ...): its output, and how many values it clipped (None if it never clips).

    The output's elements are in the order of the node's shape; the shape itself may be another.
    """
    raise AssertionError(f"no definition for {type(op).__name__}")


@evaluate.register
def _(op: Conv2d, x: IntArray) -> tuple[IntArray, int | None]:
    frames = _pad(x.reshape(-1, *x.shape[2:]), op.padding, 0)
    span = [dilation * (kernel - 1) + 1 for dilation, kernel in zip(op.dilation, op.weight.shape[2:], strict=True)]
    windows = sliding_window_view(frames, span, axis=(2, 3))
    windows = windows[:, :, :: op.stride[0], :: op.stride[1], :: op.dilation[0], :: op.dilation[1]]
    rows, columns = windows.shape[2:4]
    outputs, inputs_per_group, *kernel = op.weight.shape
    taps = inputs_per_group * math.prod(kernel)
    weight = fixedpoint.scale_weight(op.weight, op.weight_exp).reshape(op.groups, outputs // op.groups, taps)
    result = np.empty((len(frames), op.groups, outputs // op.groups, rows * columns), dtype=np.int64)
    # few frames at a time, as their taps take kernel times the memory that they do
    count = max(TAPS_AT_ONCE // (taps * rows * columns), 1)
    for start, group in itertools.product(range(0, len(frames), count), range(op.groups)):
        part = windows[start : start + count, group * inputs_per_group : (group + 1) * inputs_per_group]
        # (M, C, R, S, K, L) to a matrix of the taps of each position, (M, C * K * L, R * S)
        matrix = part.transpose(0, 1, 4, 5, 2, 3).reshape(-1, taps, rows * columns)
        result[start : start + count, group] = _matmul(weight[group], matrix)
    result = result.reshape(*x.shape[:2], outputs, rows, columns)
    result += op.bias[:, None, None]
    return result, None


@evaluate.register
def _(op: Dense, x: IntArray) -> tuple[IntArray, int | None]:
    return _matmul(x, fixedpoint.scale_weight(op.weight, op.weight_exp).T) + op.bias, None


@evaluate.register
def _(op: SumPool2d, x: IntArray) -> tuple[IntArray, int | None]:
    return _windows(x, op.kernel_size, op.stride).sum(axis=(-2, -1)), None


@evaluate.register
def _(op: MaxPool2d, x: IntArray) -> tuple[IntArray, int | None]:
    padded = _pad(x, op.padding, np.iinfo(np.int64).min)
    return _windows(padded, op.kernel_size, op.stride).max(axis=(-2, -1)), None


@evaluate.register
def _(op: Add, *inputs: IntArray) -> tuple[IntArray, int | None]:
    return sum(inputs[1:], start=inputs[0]), None


@evaluate.register
def _(op: Relay, x: IntArray) -> tuple[IntArray, int | None]:
    total = x + _per_channel(op.bias, x.ndim - 2)
    return fixedpoint.saturate(fixedpoint.shift_right(total, op.shift), op.limit)


@evaluate.register(LIF)
@evaluate.register(CubaLIF)
def _(op: LIF | CubaLIF, a: IntArray) -> tuple[IntArray, int | None]:
    spikes = np.empty(a.shape, dtype=np.int64)
    clipped = 0
    for step, state in enumerate(fire(op, a)):
        spikes[step] = state.spikes
        clipped += state.clipped
    return spikes, clipped


@evaluate.register
def _(op: CubaLI, a: IntArray) -> tuple[IntArray, int | None]:
    own = op.parameters()
    u = v = np.zeros(a.shape[1:], dtype=np.int64)
    potentials = np.empty_like(a)
    clipped = 0
    for step, now in enumerate(a):
        u, v, lost = fixedpoint.cuba_li_step(u, v, now, own)
        potentials[step] = v
        clipped += lost
    return potentials, clipped


def fed_back(op: RecurrentCubaLIF, spikes: IntArray) -> IntArray:
    """What recurrent synapses add to each step's input if their neurons fire ``spikes``, both (T, N, ...)."""
    read = np.concatenate([np.zeros_like(spikes[:1]), spikes[:-1]])
    return evaluate(op.synapses(), read)[0]


def fire(op: LIF | CubaLIF, a: IntArray) -> Iterator[fixedpoint.LifStep]:
    """The steps of neurons that begin at rest and are given ``a``, (T, N, ...)."""
    u = v = np.zeros(a.shape[1:], dtype=np.int64)
    step = _cuba_step(op) if isinstance(op, CubaLIF) else _lif_step(op, a.ndim - 2)
    synapses = op.synapses() if isinstance(op, RecurrentCubaLIF) else None
    fired = np.zeros(a.shape[1:], dtype=np.bool_)
    for now in a:
        if synapses is not None:
            fed_back, _ = evaluate(synapses, fired[None].astype(np.int64))
            now = now + fed_back[0]
        state = step(u, v, now)
        u, v, fired = state.u, state.v, state.spikes
        yield state


def _lif_step(op: LIF, axes: int) -> Step:
    bias = _per_channel(fixedpoint.scale_bias(op.bias_mant, op.bias_exp), axes)
    return partial(fixedpoint.lif_step, bias=bias, vth=op.vth, du=op.du, dv=op.dv)


def _cuba_step(op: CubaLIF) -> Step:
    return partial(fixedpoint.cuba_lif_step, neurons=op.parameters())


@evaluate.register
def _(op: SpikeMatMul, y: IntArray, spikes: IntArray) -> tuple[IntArray, int | None]:
    steps, batch, channels, *_ = y.shape
    y = y + _per_channel(op.bias, y.ndim - 2)
    per_head = y.reshape(steps, batch, op.num_heads, channels // op.num_heads, -1)
    if op.transpose:
        gates = spikes.reshape(steps, batch, op.num_heads, channels // op.num_heads, -1)
        return fixedpoint.saturate(_matmul(per_head.swapaxes(-1, -2), gates), op.limit)
    return fixedpoint.saturate(_matmul(per_head, spikes), op.limit)


@evaluate.register
def _(op: SampleDelay, x: IntArray) -> tuple[IntArray, int | None]:
    delayed = np.zeros_like(x)
    for steps in np.unique(op.steps).tolist():
        if steps < len(x):
            late = delayed[steps:]
            np.copyto(late, x[: len(x) - steps], where=op.steps == steps)
    return delayed, None


@evaluate.register
def _(op: Delay, x: IntArray) -> tuple[IntArray, int | None]:
    return x, None


@evaluate.register
def _(op: Flatten, x: IntArray) -> tuple[IntArray, int | None]:
    return x.reshape(*x.shape[:2], -1), None


@evaluate.register
def _(op: Output, x: IntArray) -> tuple[IntArray, int | None]:
    return x, None


def _matmul(left: IntArray, right: npt.NDArray[np.integer]) -> IntArray:
    """An exact product of integers through float64's matrix product."""
    bound = int(np.abs(left).max(initial=0)) * int(np.abs(right).max(initial=0)) * left.shape[-1]
    assert bound < EXACT_IN_FLOAT64, f"sums may reach {bound}, beyond what float64 holds exactly"
    product: npt.NDArray[np.float64] = np.matmul(left.astype(np.float64), right.astype(np.float64))
    return product.astype(np.int64)


def _pad(x: IntArray, padding: tuple[int, int], fill: int) -> IntArray:
    """Pad the last two axes."""
    rows, columns = padding
    return np.pad(x, [(0, 0)] * (x.ndim - 2) + [(rows, rows), (columns, columns)], constant_values=fill)


def _windows(x: IntArray, kernel_size: tuple[int, int], stride: tuple[int, int]) -> IntArray:
    """Windows over the last two axes: (..., H, W) to (..., rows, columns, K_h, K_w)."""
    return sliding_window_view(x, kernel_size, axis=(-2, -1))[..., :: stride[0], :: stride[1], :, :]


def _per_channel(values: npt.NDArray[np.integer], axes: int) -> IntArray:
    """Values (C,), or (1,) for all, shaped to broadcast against a population of so many axes, channels first."""
    return values.astype(np.int64).reshape(-1, *(1,) * (axes - 1))
