"""Give each node its step, and insert a Delay into the shorter of two paths that meet."""

from __future__ import annotations

from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.ops import Delay, Op
from resformer.compiler.ir.program import Scheduled, Unscheduled


def balance_delays(program: Unscheduled) -> Scheduled:
    """Schedule a program so that samples stream through it, T steps each, back to back.

    Every synapse sends the result of what it received one step ago. Where a node's inputs would arrive at different
    steps of a sample, the early ones get a ``Delay``, named after the node that reads it.
    """
    offsets: dict[str, int] = {}
    edit = program.edit()
    for node in program:
        meet = max((offsets[source] for source in node.inputs), default=0)
        early = [source for source in dict.fromkeys(node.inputs) if offsets[source] < meet]
        for index, source in enumerate(early):
            name = f"{node.name}.delay{index}" if len(early) > 1 else f"{node.name}.delay"
            delay: Node[Op] = Node(
                name,
                Delay(signal=program[source].op.signal, steps=meet - offsets[source]),
                inputs=(source,),
                shape=program[source].shape,
            )
            edit.insert_after(source, delay, readers=(node.name,))
            offsets[name] = meet
        offsets[node.name] = meet + node.op.hop
    balanced = edit.finish()
    return Scheduled(balanced.nodes, balanced.timesteps, balanced.metadata, offsets)
