"""Prove by interval analysis where no integer can leave its format, and saturate where the proof fails."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.program import (
    LIF,
    Add,
    Conv2d,
    CubaLI,
    CubaLIF,
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
    Signal,
    SignalKind,
    SpikeMatMul,
    SumPool2d,
    is_stack,
    layer_weight,
)
from resformer.compiler.passes.integer.place_biases import relay
from resformer.compiler.target import LOIHI
from resformer.errors import RangeError

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Interval:
    """What a node's output lies between, per channel or (1,) for all; zero always included."""

    low: Int64Array
    high: Int64Array

    @property
    def magnitude(self) -> int:
        return int(max(-self.low.min(), self.high.max()))

    def clip(self, limit: int) -> _Interval:
        return _Interval(np.clip(self.low, -limit, limit), np.clip(self.high, -limit, limit))


def bound_ranges(program: Program) -> Program:
    """Write the proven bounds into every signal, and insert a saturating relay wherever a bound is too large.

    A relay goes in front of each neuron whose input is not proved within ``a_max``, and between a current and the
    synapses of a next layer, which read only what neurons send.

    Raises:
        RangeError: A convolution's sums, or a sum of currents, may leave 24 bits, where no relay can help.
    """
    edit = program.edit()
    intervals: dict[str, _Interval] = {}
    kinds: dict[str, SignalKind] = {}
    for node in program:
        positions = math.prod(program[node.inputs[0]].shape[1:]) if node.inputs else 1
        interval = _output_interval(node, [intervals[name] for name in node.inputs], positions)
        kind = kinds[node.inputs[0]] if isinstance(node.op, Flatten) else node.op.signal.kind
        _check_accumulator(node, interval)
        limit = _required_limit(program, node, kind)
        op = node.op
        if limit is not None and isinstance(op, Relay):
            op = replace(op, limit=min(op.limit, limit))
            interval = interval.clip(op.limit)
        edit.set_op(node.name, replace(op, signal=_bounded(replace(op.signal, kind=kind), interval)))
        if limit is not None and _lacks_relay(program, node, kind, interval, limit):
            saturating = relay(node, bias=np.zeros(node.shape[0], dtype=np.int32), limit=limit)
            kind, interval = SignalKind.GRADED, interval.clip(limit)
            signal = _bounded(saturating.op.signal, interval)
            edit.insert_after(node.name, replace(saturating, op=replace(saturating.op, signal=signal)))
        intervals[node.name], kinds[node.name] = interval, kind
    return edit.finish()


def _bounded(signal: Signal, interval: _Interval) -> Signal:
    return replace(signal, low=int(interval.low.min()), high=int(interval.high.max()))


def _output_interval(node: Node[Op], inputs: list[_Interval], positions: int) -> _Interval:
    """What a node's output lies between, given what its inputs do and at how many positions the first is."""
    op = node.op
    assert not isinstance(op, (Conv2d, Dense)) or not op.bias.any(), f"{node.name}: place_biases has not run"
    match op:
        case Input():
            assert op.signal.low is not None
            assert op.signal.high is not None
            return _interval(op.signal.low, op.signal.high)
        case LIF() | CubaLIF():
            if isinstance(op, RecurrentCubaLIF):
                _check_sums(f"{node.name}: its recurrent sums", _largest_row(op.weight, op.weight_exp))
            return _interval(0, 1)
        case CubaLI():
            return _interval(-LOIHI.v_max, LOIHI.v_max)
        case Conv2d():
            weight = fixedpoint.scale_weight(op.weight, op.weight_exp).astype(np.int64)
            outputs, inputs_per_group = weight.shape[:2]
            group = np.arange(outputs) // (outputs // op.groups)
            channels = group[:, None] * inputs_per_group + np.arange(inputs_per_group)
            low, high = (
                np.broadcast_to(bound, op.groups * inputs_per_group)[channels][:, :, None, None]
                for bound in (inputs[0].low, inputs[0].high)
            )
            return _weighted(weight, low, high, axes=(1, 2, 3))
        case Dense():
            weight = fixedpoint.scale_weight(op.weight, op.weight_exp).astype(np.int64)
            low, high = (np.broadcast_to(bound, weight.shape[1]) for bound in (inputs[0].low, inputs[0].high))
            return _weighted(weight, low, high, axes=(1,))
        case Add():
            return _Interval(sum(each.low for each in inputs), sum(each.high for each in inputs))  # type: ignore[arg-type]
        case Relay():
            low, high = (fixedpoint.shift_right(bound + op.bias, op.shift) for bound in (inputs[0].low, inputs[0].high))
            return _Interval(np.minimum(low, 0), np.maximum(high, 0)).clip(op.limit)
        case SpikeMatMul():
            y = _Interval(np.minimum(inputs[0].low + op.bias, 0), np.maximum(inputs[0].high + op.bias, 0))
            if y.magnitude > LOIHI.graded_max:
                raise RangeError(
                    f"{node.name}: y may reach {y.magnitude}, the limit of a graded value is {LOIHI.graded_max}; "
                    "normalise the layer"
                )
            if op.transpose:
                low, high = y.low.reshape(op.num_heads, -1).sum(1), y.high.reshape(op.num_heads, -1).sum(1)
            else:
                low, high = y.low * positions, y.high * positions
            return _Interval(low, high).clip(op.limit)
        case SumPool2d():
            area = math.prod(op.kernel_size)
            return _Interval(inputs[0].low * area, inputs[0].high * area)
        case Flatten():
            repeat = node.shape[0] // inputs[0].low.size
            return _Interval(np.repeat(inputs[0].low, repeat), np.repeat(inputs[0].high, repeat))
        case MaxPool2d() | Output() | SampleDelay():
            return inputs[0]
        case _:
            raise AssertionError(f"{node.name}: no interval for {type(op).__name__}")


def _interval(low: int, high: int) -> _Interval:
    return _Interval(np.array([min(low, 0)]), np.array([max(high, 0)]))


def _weighted(weight: Int64Array, low: Int64Array, high: Int64Array, *, axes: tuple[int, ...]) -> _Interval:
    """Bounds on sums of weight * x for any x between low and high, zero (padding) included."""
    positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
    return _Interval((positive * low + negative * high).sum(axes), (positive * high + negative * low).sum(axes))


def _check_accumulator(node: Node[Op], interval: _Interval) -> None:
    """Refuse sums that leave the accumulator they are made in."""
    if isinstance(node.op, Dense):
        limit = LOIHI.dense_sum_max
    elif isinstance(node.op, (Conv2d, SumPool2d, Add)):
        limit = LOIHI.accumulator_max
    else:
        return
    _check_sums(f"{node.name}: its sums", interval.magnitude, limit)


def _check_sums(what: str, reach: int, limit: int = LOIHI.accumulator_max) -> None:
    if reach > limit:
        raise RangeError(
            f"{what} may reach {reach}, the limit of its accumulator is {limit}; lower --input-scale-exp or normalise "
            "the layer"
        )


def _required_limit(program: Program, node: Node[Op], kind: SignalKind) -> int | None:
    """The magnitude that the readers of a node's output can take, or None if any value will do."""
    limits: list[int] = []
    for reader in _readers(program, node):
        match reader.op:
            case LIF():
                limits.append(LOIHI.a_max)
            case Conv2d():
                limits.append(LOIHI.accumulator_max // _largest_row(layer_weight(program, _layer(program, reader)), 0))
            case Dense(weight=weight, weight_exp=exp):
                limits.append(LOIHI.dense_sum_max // _largest_row(weight, exp))
            case SumPool2d(kernel_size=kernel):
                limits.append(LOIHI.accumulator_max // math.prod(kernel))
            case _:
                pass
    return min([*limits, LOIHI.graded_max]) if limits and kind is not SignalKind.SPIKE else None


def _readers(program: Program, node: Node[Op]) -> list[Node[Op]]:
    """Who reads a node's values, seen through reshaping."""
    found = []
    for reader in program.consumers[node.name]:
        found += _readers(program, reader) if isinstance(reader.op, Flatten) else [reader]
    return found


def _lacks_relay(program: Program, node: Node[Op], kind: SignalKind, interval: _Interval, limit: int) -> bool:
    """Whether neurons of ours must stand between a node and its readers."""
    if isinstance(node.op, (Input, Relay, Flatten, SpikeMatMul, CubaLI)):
        return False
    feeds_synapses = any(isinstance(reader.op, (Conv2d, Dense, SumPool2d)) for reader in _readers(program, node))
    return interval.magnitude > limit or (kind is SignalKind.CURRENT and feeds_synapses)


def _layer(program: Program, synapses: Node[Op]) -> str:
    """The layer that synapses are of: of a part of stacked ones the sum, which must not leave its accumulator."""
    sums = [each.name for each in program.consumers[synapses.name] if is_stack(program, each.name)]
    return sums[0] if sums else synapses.name


def _largest_row(weight: npt.NDArray[np.int8 | np.int16 | np.int32], exp: npt.NDArray[np.int8] | int) -> int:
    """The largest sum of weights' magnitudes that meets in one output, at least one."""
    scaled = np.abs(fixedpoint.scale_weight(weight, exp).astype(np.int64))
    return max(int(scaled.reshape(len(scaled), -1).sum(axis=1).max()), 1)
