"""Prove by interval analysis where no integer can leave its format, and saturate where the proof fails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from resformer.compiler.ir.bounds import interval_of
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.interval import Interval
from resformer.compiler.ir.ops import Conv2d, Flatten, Op, Relay
from resformer.compiler.ir.ops.neurons import sums_too_large
from resformer.compiler.ir.program import Program, Unscheduled, is_stack, layer_weight
from resformer.compiler.ir.signal import Signal, SignalKind
from resformer.compiler.passes.integer.place_biases import relay
from resformer.compiler.target import LOIHI
from resformer.errors import RangeError


def bound_ranges(program: Unscheduled) -> Unscheduled:
    """Write the proven bounds into every signal, and insert a saturating relay wherever a bound is too large.

    A relay goes in front of each neuron whose input is not proved to be within the limit that the neuron takes, and
    between a current and the synapses of a next layer, because synapses read only what neurons send.

    Raises:
        RangeError: Sums may leave their accumulator, or something leaves its format, where no relay can help.
    """
    edit = program.edit()
    intervals: dict[str, Interval] = {}
    kinds: dict[str, SignalKind] = {}
    for node in program:
        interval = interval_of(program, node, [intervals[name] for name in node.inputs])
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


def _bounded(signal: Signal, interval: Interval) -> Signal:
    return replace(signal, low=int(interval.low.min()), high=int(interval.high.max()))


def _check_accumulator(node: Node[Op], interval: Interval) -> None:
    """Refuse sums that may leave their accumulator."""
    limit = node.op.accumulator
    if limit is not None and interval.magnitude > limit:
        raise RangeError(sums_too_large(f"{node.name}: its sums", interval.magnitude, limit))


def _required_limit(program: Program, node: Node[Op], kind: SignalKind) -> int | None:
    """The largest magnitude that all readers of a node's output can take, or None if they take any."""
    found = [_whole_layer(program, reader).input_limit() for reader in _readers(program, node)]
    limits = [limit for limit in found if limit is not None]
    return min([*limits, LOIHI.graded_max]) if limits and kind is not SignalKind.SPIKE else None


def _readers(program: Program, node: Node[Op]) -> list[Node[Op]]:
    """The nodes that read a node's values, directly or reshaped."""
    found = []
    for reader in program.consumers[node.name]:
        found += _readers(program, reader) if reader.op.is_view else [reader]
    return found


def _lacks_relay(program: Program, node: Node[Op], kind: SignalKind, interval: Interval, limit: int) -> bool:
    """Whether a node needs a relay between itself and its readers."""
    if node.op.holds_bounds:
        return False
    feeds_synapses = any(reader.op.is_synapse for reader in _readers(program, node))
    return interval.magnitude > limit or (kind is SignalKind.CURRENT and feeds_synapses)


def _whole_layer(program: Program, node: Node[Op]) -> Op:
    """A node's operation; for a part of stacked synapses the whole layer, whose sum must not leave its accumulator."""
    stacks = [each.name for each in program.consumers[node.name] if is_stack(program, each.name)]
    if not stacks or not isinstance(node.op, Conv2d):
        return node.op
    weight = layer_weight(program, stacks[0])
    # this operation is never run, so its weights may have a type that no synapse holds
    return replace(node.op, weight=weight, weight_exp=np.zeros_like(node.op.weight_exp))  # type: ignore[arg-type]
