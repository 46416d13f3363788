"""The interpreter of float graphs, in PyTorch: what SpikingJelly computes, bit for bit, before any pass.

Stateless operations see steps and samples merged into one batch, as SpikingJelly merges them, so that they run the very
kernels that the network itself would; neurons step over T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import singledispatch
from typing import Any, TypeAlias

import nir
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from resformer.compiler.ir.arrays import InvariantError, require
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.neurons import HARD, LATE, PROMPT, SOFT, dt_over_tau
from resformer.compiler.ir.primitives import (
    NEURONS,
    AdaptiveAvgPool2d,
    Add,
    BatchNorm2d,
    CeilMaxPool2d,
    DiscreteCubaLI,
    DiscreteCubaLIF,
    EdgeAvgPool2d,
    IntegerLIF,
    MaxPool2d,
    MultiSpikeIF,
    Neurons,
    RecurrentCubaLIF,
    SampleDelay,
    SingleSpike,
    SpikeAttention,
    SpikeGate,
    SpikeMatMul,
    collapse,
    pair,
)
from resformer.compiler.ir.window import Window

Observer: TypeAlias = Callable[[str, torch.Tensor], None]
"""Called with a node's name and its output, (T, N, ...), which it must not change."""


@torch.no_grad()
def run(
    graph: Graph[nir.NIRNode],
    samples: torch.Tensor | npt.NDArray[Any],
    *,
    observe: Observer | None = None,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """Run samples through a float graph.

    Args:
        graph: A float graph, before or after any float pass.
        samples: (N, C, H, W), the same frame for all T steps, or (N, T, C, H, W).
        observe: Called with each node's output.
        dtype: The type of every value and weight; the equivalences hold in float64.

    Returns:
        The logits of each step, (T, N, classes).
    """
    value: torch.Tensor | None = None
    for node, _, value in trace(graph, samples, dtype=dtype):
        if observe is not None:
            observe(node.name, value)
    assert value is not None
    return value


def trace(
    graph: Graph[nir.NIRNode], samples: torch.Tensor | npt.NDArray[Any], *, dtype: torch.dtype = torch.float64
) -> Iterator[tuple[Node[nir.NIRNode], tuple[torch.Tensor, ...], torch.Tensor]]:
    """Run samples as :func:`run` does; yield each node with its inputs and its output, which must not be changed.

    A value is dropped after its last reader, so that memory holds only what is still needed.
    """
    dt = float(graph.metadata["dt"])
    last_reads = graph.last_reads
    values: dict[str, torch.Tensor] = {}
    for node in graph:
        inputs = tuple(values[name] for name in node.inputs)
        with torch.no_grad():
            if isinstance(node.op, nir.Input):
                value = _frames(torch.as_tensor(samples).to(dtype), graph.timesteps)
            elif isinstance(node.op, NEURONS):
                value = fire(node.op, inputs[0], dt)
            else:
                value = evaluate(node.op, *inputs)
                value = value.reshape(*value.shape[:2], *node.shape)
        values[node.name] = value
        yield node, inputs, value
        del inputs
        for source in last_reads[node.name]:
            del values[source]


def _frames(samples: torch.Tensor, timesteps: int) -> torch.Tensor:
    """Samples as (T, N, C, H, W)."""
    if samples.dim() == 4:
        return samples.expand(timesteps, *samples.shape)
    require(samples.shape[1] == timesteps, f"{samples.shape[1]} frames for {timesteps} steps")
    return samples.transpose(0, 1)


def fire(neurons: Neurons, current: torch.Tensor, dt: float) -> torch.Tensor:
    """The spikes (0 or 1) or spike counts of neurons that are given a current, both (T, N, ...).

    Args:
        neurons: The neurons; their metadata may hold ``tau_steps`` or ``dt_over_tau`` (``ir.verify``).
        current: Their input.
        dt: Seconds a step, for neurons without these metadata.
    """
    spikes = torch.empty_like(current)
    for step, (_, fired) in enumerate(charge(neurons, current, dt)):
        spikes[step] = fired
    return spikes


def charge(neurons: Neurons, current: torch.Tensor, dt: float) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For each step, the potentials before the reset, and where they fire.

    From ``v = v_reset``, each step computes ``v += ((v_leak - v) + r * I) * dt / tau`` (IF: ``v += r * I * dt``), fires
    where ``v >= v_threshold`` (or ``>``: the metadata say which) and resets as the metadata say (``ir.neurons``). I is
    the input; in a CubaLIF, each step first computes ``I = I * (1 - dt / tau_syn) + input * (w_in * dt / tau_syn)``.
    How ``dt / tau`` is applied decides the last bit: SpikingJelly's ``LIFNode`` divides by tau in steps, its
    ``ParametricLIFNode`` multiplies by 1 / tau, and the node's metadata say which.
    """
    if isinstance(neurons, MultiSpikeIF):
        yield from _count(neurons, current)
        return
    update = _update(neurons, current, dt)
    v_threshold = _constant(neurons.v_threshold, current)
    crosses = torch.gt if neurons.metadata.get("fires_at") == ">" else torch.ge
    reset, late = _reset(neurons, current)
    prompt = neurons.metadata.get("reset") == PROMPT
    drop = _constant(neurons.v_drop if isinstance(neurons, DiscreteCubaLIF) else neurons.v_threshold, current)
    v = torch.zeros_like(current[0])
    if not isinstance(neurons, DiscreteCubaLIF):
        v = v + _constant(neurons.v_reset, current)
    owed: torch.Tensor | None = None
    fired = torch.zeros_like(v, dtype=torch.bool)
    feed_back = _feedback(neurons, current) if isinstance(neurons, RecurrentCubaLIF) else None
    for now in current:
        if feed_back is not None:
            now = now + feed_back(fired)
        above = crosses(v, v_threshold) if prompt else None
        v = update(v, now) if owed is None else update(v, now) - owed
        if above is not None:  # snnTorch's order: the threshold is subtracted first, and added back without a spike
            v = v - drop * above
            fired = crosses(v, v_threshold)
            yield v, fired
            v = v - drop * (fired.to(v.dtype) - above.to(v.dtype))
            continue
        fired = crosses(v, v_threshold)
        yield v, fired
        if late:
            owed = v_threshold * fired
        else:
            v = torch.where(fired, reset(v), v)


def _count(neurons: MultiSpikeIF, current: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For each step, the potentials before the reset, and how often each neuron fires; it may fire several times."""
    v_threshold, v_floor = _constant(neurons.v_threshold, current), _constant(neurons.v_floor, current)
    v = torch.zeros_like(current[0])
    keep, half, even = 1.0, 0.0, False
    if isinstance(neurons, IntegerLIF):
        keep, half, even = 1 - neurons.mem_decay, 0.5, neurons.even
    for now in current:
        v = v * keep + now
        levels = (v / v_threshold).clamp(0, neurons.max_spikes)
        counts = torch.round(levels) if even else torch.floor(levels + half)
        yield v, counts
        v = torch.maximum(v - counts * v_threshold, v_floor)


def step_ago(spikes: torch.Tensor) -> torch.Tensor:
    """What recurrent synapses read at each step: what their neurons fired one step ago, (T, N, ...)."""
    return torch.cat([torch.zeros_like(spikes[:1]), spikes[:-1]])


def _feedback(neurons: RecurrentCubaLIF, current: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from a population's spikes in one step, (N, ...), to what they add to its input in the next step."""
    weight, bias = _whole(neurons.weight, current), _whole(neurons.bias, current)
    _, batch, *shape = current.shape
    image = (batch, *(*shape, 1, 1)[:3])

    def feed_back(fired: torch.Tensor) -> torch.Tensor:
        spikes = fired.to(current.dtype).reshape(image)
        sums = F.conv2d(spikes, weight, bias, 1, neurons.padding, neurons.dilation, neurons.groups)
        return sums.reshape(fired.shape)

    return feed_back


def _reset(neurons: SingleSpike, current: torch.Tensor) -> tuple[Callable[[torch.Tensor], torch.Tensor], bool]:
    """A function from potentials that fire to what the reset leaves; and whether the reset comes one step late."""
    if isinstance(neurons, DiscreteCubaLIF):
        mode = SOFT if neurons.soft_reset else HARD
        drop, rest = _constant(neurons.v_drop, current), torch.zeros((), dtype=current.dtype, device=current.device)
    else:
        mode = neurons.metadata.get("reset", HARD)
        drop, rest = _constant(neurons.v_threshold, current), _constant(neurons.v_reset, current)
    return (lambda _v: rest) if mode == HARD else (lambda v: v - drop), mode == LATE


def _update(
    neurons: SingleSpike, current: torch.Tensor, dt: float
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A function from the potential and a step's input to the potential after that step, before any reset."""
    if isinstance(neurons, DiscreteCubaLIF):
        arrive = _arrive(neurons.syn_decay, 1.0, current)
        keep, bias = 1 - _constant(neurons.mem_decay, current), _constant(neurons.v_bias, current)
        return lambda v, now: v * keep + (arrive(now) + bias)
    r = _constant(neurons.r, current)
    if isinstance(neurons, nir.IF):
        return lambda v, now: v + (r * dt) * now
    v_leak = _constant(neurons.v_leak, current)
    if isinstance(neurons, nir.CubaLIF):
        syn_decay = dt / collapse(neurons.tau_syn)
        arrive = _arrive(syn_decay, _constant(collapse(neurons.w_in) * syn_decay, current), current)
        factor = _constant(dt / collapse(neurons.tau_mem), current)
        return lambda v, now: v + ((v_leak - v) + r * arrive(now)) * factor
    if "tau_steps" in neurons.metadata and "dt_over_tau" not in neurons.metadata:
        steps = _constant(np.asarray(neurons.metadata["tau_steps"]), current)
        return lambda v, now: v + ((v_leak - v) + r * now) / steps
    factor = _constant(dt_over_tau(neurons, dt), current)
    return lambda v, now: v + ((v_leak - v) + r * now) * factor


def _arrive(
    decay: npt.NDArray[np.float64], gain: torch.Tensor | float, current: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that leaks a current, adds a step's input and returns it; it is called once per step, in order."""
    keep, state = 1 - _constant(decay, current), torch.zeros_like(current[0])

    def arrive(now: torch.Tensor) -> torch.Tensor:
        nonlocal state
        state = state * keep + now * gain
        return state

    return arrive


@singledispatch
def evaluate(op: nir.NIRNode, *inputs: torch.Tensor) -> torch.Tensor:
    """Evaluate an operation that does not fire on values (T, N, ...).

    The result has the elements of the node's shape in their order, but may have another shape.
    """
    raise AssertionError(f"no definition for {type(op).__name__}")


@evaluate.register
def _(op: nir.Output, x: torch.Tensor) -> torch.Tensor:
    return x


@evaluate.register
def _(op: nir.Conv2d, x: torch.Tensor) -> torch.Tensor:
    bias = _whole(op.bias, x) if np.any(op.bias) else None
    stride, padding, dilation = pair(op.stride), pair(op.padding), pair(op.dilation)
    return _split(F.conv2d(_merge(x), _whole(op.weight, x), bias, stride, padding, dilation, int(op.groups)), x)


@evaluate.register
def _(op: BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    mean, var, weight, bias = (_whole(each, x) for each in (op.running_mean, op.running_var, op.weight, op.bias))
    return _split(F.batch_norm(_merge(x), mean, var, weight, bias, eps=float(op.eps)), x)


@evaluate.register
def _(op: MaxPool2d, x: torch.Tensor) -> torch.Tensor:
    ceil = isinstance(op, CeilMaxPool2d)
    pooled = F.max_pool2d(_merge(x), pair(op.kernel_size), pair(op.stride), pair(op.padding), ceil_mode=ceil)
    return _split(pooled, x)


@evaluate.register
def _(op: nir.AvgPool2d, x: torch.Tensor) -> torch.Tensor:
    if pair(op.kernel_size) == tuple(x.shape[3:]) and not np.any(op.padding):
        return x.mean((-2, -1), keepdim=True)  # as PyTorch's AdaptiveAvgPool2d(1) sums; avg_pool2d rounds differently
    return _split(F.avg_pool2d(_merge(x), pair(op.kernel_size), pair(op.stride), pair(op.padding)), x)


@evaluate.register
def _(op: AdaptiveAvgPool2d, x: torch.Tensor) -> torch.Tensor:
    return _split(F.adaptive_avg_pool2d(_merge(x), op.size), x)


@evaluate.register
def _(op: EdgeAvgPool2d, x: torch.Tensor) -> torch.Tensor:
    windows = op.kernel_size, op.stride, op.padding
    ceil = Window(*windows).targets(tuple(x.shape[3:])) != op.size
    return _split(F.avg_pool2d(_merge(x), *windows, ceil_mode=ceil, count_include_pad=op.counts_padding), x)


@evaluate.register
def _(op: nir.SumPool2d, x: torch.Tensor) -> torch.Tensor:
    windows = pair(op.kernel_size), pair(op.stride), pair(op.padding)
    return _split(F.avg_pool2d(_merge(x), *windows, divisor_override=1), x)


@evaluate.register
def _(op: nir.Linear, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, _whole(op.weight, x))


@evaluate.register
def _(op: nir.Affine, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, _whole(op.weight, x), _whole(op.bias, x))


@evaluate.register
def _(op: nir.Scale, x: torch.Tensor) -> torch.Tensor:
    return x * _constant(op.scale, x)


@evaluate.register
def _(op: nir.Flatten, x: torch.Tensor) -> torch.Tensor:
    end = int(op.end_dim) % (x.dim() - 2)
    return x.flatten(2 + int(op.start_dim), 2 + end)


@evaluate.register
def _(op: Add, *inputs: torch.Tensor) -> torch.Tensor:
    total = inputs[0]
    for each in inputs[1:]:
        total = total + each
    return total


@evaluate.register
def _(op: DiscreteCubaLI, x: torch.Tensor) -> torch.Tensor:
    arrive = _arrive(op.syn_decay, _constant(op.gain, x), x)
    keep, v_leak = 1 - _constant(op.mem_decay, x), _constant(op.v_leak, x)
    v = torch.zeros_like(x[0])
    potentials = torch.empty_like(x)
    for step, now in enumerate(x):
        v = v * keep + arrive(now)
        potentials[step] = v + v_leak
    return potentials


@evaluate.register
def _(op: SampleDelay, x: torch.Tensor) -> torch.Tensor:
    since = torch.arange(len(x)).reshape(-1, *(1,) * op.steps.ndim) - torch.from_numpy(np.ascontiguousarray(op.steps))
    sent = x.gather(0, since.clamp(min=0)[:, None].expand(x.shape).to(x.device))
    return torch.where((since >= 0)[:, None].to(x.device), sent, torch.zeros((), dtype=x.dtype, device=x.device))


@evaluate.register
def _(op: SpikeMatMul, y: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
    heads = op.num_heads
    y = y.reshape(*y.shape[:2], heads, y.shape[2] // heads, -1)
    if op.part != "all":
        half = y.shape[3] // 2
        y = y[:, :, :, :half] if op.part == "y1" else y[:, :, :, half:]
    if op.transpose:
        return y.transpose(-1, -2) @ spikes.reshape(*spikes.shape[:2], heads, y.shape[3], -1)
    return y @ spikes


@evaluate.register
def _(op: SpikeGate, *inputs: torch.Tensor) -> torch.Tensor:
    channels = max(each.shape[2] for each in inputs)
    # repeat the channels of smaller inputs; rows and columns broadcast
    made, *others = (each.repeat_interleave(channels // each.shape[2], dim=2) for each in inputs)
    for each in others:
        match op.kind:
            case "and":
                made = made * each
            case "or":
                made = 1 - (1 - made) * (1 - each)
            case "iand":
                made = made * (1 - each)
            case other:
                raise InvariantError(f"no definition for a gate of kind {other!r}")
    return made


@evaluate.register
def _(op: SpikeAttention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    # (T, N, heads, channels of a head, tokens); whole numbers, so the sums are exact in any order
    q, k, v = (each.reshape(*each.shape[:2], op.num_heads, each.shape[2] // op.num_heads, -1) for each in (q, k, v))
    made = v @ (k.transpose(-1, -2) @ q) if k.shape[-1] <= q.shape[-2] else (v @ k.transpose(-1, -2)) @ q
    return made * 2.0**-op.shift


def _merge(x: torch.Tensor) -> torch.Tensor:
    """(T, N, ...) as a batch (T * N, ...)."""
    return x.flatten(0, 1)


def _split(merged: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A batch (T * N, ...) as (T, N, ...)."""
    return merged.reshape(*like.shape[:2], *merged.shape[1:])


def _constant(array: npt.NDArray[np.float64], like: torch.Tensor) -> torch.Tensor:
    """A parameter as a tensor, with its broadcast axes left at length one."""
    return torch.tensor(collapse(np.asarray(array)), dtype=like.dtype, device=like.device)


def _whole(array: npt.NDArray[np.float64], like: torch.Tensor) -> torch.Tensor:
    """A parameter as a tensor of its full shape; the array may be one value that is broadcast."""
    return torch.tensor(np.asarray(array), dtype=like.dtype, device=like.device)
