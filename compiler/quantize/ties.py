"""Ties: which neurons fire at their threshold, as SpikingJelly's do, although Loihi's fire only above it.

A surplus makes them fire: a small amount that changes only what happens when a potential meets its threshold exactly.
Whether one exists follows from decay, reset, bias and T (``Spiking.settling_surplus``). Where none exists, a neuron
whose potential meets its threshold does not fire, and this is counted; the quantized checkpoint instead takes a little
from the biases before the neurons (``resformer.compiler.export.checkpoint``). One bias may reach several populations,
so these must agree, channel by channel.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from resformer.compiler.ir.arrays import Int8Array, Int64Array
from resformer.compiler.ir.biases import follow_biases
from resformer.compiler.ir.ops import Spiking
from resformer.compiler.ir.program import Unscheduled
from resformer.compiler.ir.ties import reachable_settled
from resformer.errors import RangeError


def settle_ties(program: Unscheduled, populations: Collection[str]) -> Unscheduled:
    """Let populations fire at their thresholds, on all channels on which that is exact.

    Args:
        program: The program before biases are placed; no neuron has a surplus.
        populations: The names of the populations that are to fire at their thresholds.
    """
    if not populations:
        return program
    try:
        biases = {step.node.name: step.given[0] for step in follow_biases(program) if step.node.name in populations}
    except RangeError:
        return program  # place_biases says why
    lowered = dict.fromkeys(biases, True)
    chosen = {name: _surplus(program, name, bias, lower=True) for name, bias in biases.items()}
    while True:
        made = _with_surplus(program, chosen)
        allowed = reachable_settled(made)
        agreed: dict[str, Int8Array] = {}
        for name, surplus in chosen.items():
            mine = allowed[program[name].inputs[0]] & (surplus > 0)
            if lowered[name] and not mine.all():
                lowered[name] = False
                surplus = _surplus(program, name, biases[name], lower=False)
            if not mine.all() and getattr(program[name].op, "soft_reset", False):
                mine = np.zeros_like(mine)  # NIR has one number for the threshold and for what a spike takes
            agreed[name] = np.where(mine, surplus, 0).astype(np.int8)
        if all(np.array_equal(agreed[name], surplus) for name, surplus in chosen.items()):
            return made
        chosen = agreed


def _surplus(program: Unscheduled, name: str, bias: Int64Array, *, lower: bool) -> Int8Array:
    op = program[name].op
    assert isinstance(op, Spiking)
    return op.settling_surplus(bias, program.timesteps, lower=lower)


def _with_surplus(program: Unscheduled, chosen: Mapping[str, Int8Array]) -> Unscheduled:
    """The program with a surplus for each population that has one on some channel."""
    nodes = []
    for node in program:
        surplus = chosen.get(node.name)
        if surplus is not None and surplus.any():
            assert isinstance(node.op, Spiking)
            same = surplus[:1] if (surplus == surplus[0]).all() else surplus
            node = replace(node, op=node.op.with_surplus(same))
        nodes.append(node)
    return Unscheduled(tuple(nodes), program.timesteps, program.metadata)
