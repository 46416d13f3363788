"""The reference interpreter: the definition of every integer operation, in numpy.

Samples are independent and schedules only shift them in time, so the interpreter computes node by node over all steps
and samples at once; a ``Delay`` moves a sample's steps and is the identity here. Sums run in float64, where integers
below 2^53 are exact; each operation checks that its own stay there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.arrays import Int64Array, InvariantError, require
from resformer.compiler.ir.ops import Input, Op
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.trace import SpikeTrain, Trace

Observer = Callable[[str, Int64Array], None]
"""Called with a node's name and its output, (T, N, ...), which it must not change."""


class BoundsError(InvariantError):
    """An integer left the range that a program promises: a bug of ours, unless the program's file was changed."""


def run(
    program: Program,
    samples: npt.NDArray[np.integer],
    *,
    record: bool = False,
    overrides: Mapping[str, Int64Array] | None = None,
    observe: Observer | None = None,
) -> Trace:
    """Run encoded samples through a program, scheduled or not.

    Args:
        program: The integer network.
        samples: (N, C, H, W), the same frame for all T steps, or (N, T, C, H, W).
        record: Keep every population's spikes and every graded value.
        overrides: Values (T, N, ...), by node name, that the node's readers get in place of what the node computes.
            What it computes is recorded all the same. So layers are examined with another network's input.
        observe: Called with what each node computes.

    Raises:
        BoundsError: An integer left the range that the program's analysis promised.
        InvariantError: An override fits no node.
    """
    overrides = {} if overrides is None else overrides
    unknown = sorted(overrides.keys() - program.by_name.keys())
    require(not unknown, f"cannot override {', '.join(unknown[:1])}: no node has this name")
    last_reads = program.last_reads
    values: dict[str, Int64Array] = {}
    spikes: dict[str, SpikeTrain] = {}
    graded: dict[str, npt.NDArray[np.int32]] = {}
    saturated: dict[str, int] = {}
    ties: dict[str, int] = {}
    for node in program:
        if isinstance(node.op, Input):
            value, clipped = _frames(samples, program.timesteps), None
        else:
            inputs = [values[name] for name in node.inputs]
            given = overrides.get(node.name)
            if given is None:
                (value, clipped), tied = node.op.evaluate_with_ties(*inputs)
                if node.op.counts_ties:
                    ties[node.name] = tied
            else:
                value, clipped = node.op.evaluate_beside(given, *inputs)
            value = value.reshape(*value.shape[:2], *node.shape)
        _check_bounds(node.name, node.op, value)
        if clipped is not None:
            saturated[node.name] = clipped
        if record and node.op.fires:
            spikes[node.name] = SpikeTrain.pack(value)
        elif record and node.op.recorded:
            graded[node.name] = value.astype(np.int32)
        if observe is not None:
            observe(node.name, value)
        values[node.name] = overrides.get(node.name, value)
        sent = values[node.name].shape
        require(sent == value.shape, f"{node.name}: overridden by values of shape {sent}, not {value.shape}")
        for source in last_reads[node.name]:
            del values[source]
    return Trace(logits=values[program.output.name], spikes=spikes, graded=graded, saturated=saturated, ties=ties)


def _frames(samples: npt.NDArray[np.integer], timesteps: int) -> Int64Array:
    """Samples as (T, N, C, H, W)."""
    wide = samples.astype(np.int64)
    if wide.ndim == 4:
        return np.broadcast_to(wide, (timesteps, *wide.shape))
    require(wide.shape[1] == timesteps, f"{wide.shape[1]} frames for {timesteps} steps")
    return wide.swapaxes(0, 1)


def _check_bounds(name: str, op: Op, value: Int64Array) -> None:
    if op.signal.low is not None and op.signal.high is not None and value.size:
        low, high = int(value.min()), int(value.max())
        if not op.signal.low <= low <= high <= op.signal.high:
            raise BoundsError(f"{name}: [{low}, {high}] leaves the proven [{op.signal.low}, {op.signal.high}]")
