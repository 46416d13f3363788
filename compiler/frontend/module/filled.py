"""Results of a loop that the code writes into a tensor made before the loop, ``out[t] = y``, as ``torch.stack``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import fx

MADE_EMPTY = frozenset(
    {
        *("aten.zeros_like.default", "aten.empty_like.default", "aten.zeros.default", "aten.empty.memory_format"),
        *("aten.new_zeros.default", "aten.new_empty.default"),
    }
)
"""The operations that make a tensor whose numbers are to be overwritten."""


def stack_what_fills(exported: torch.export.ExportedProgram) -> None:
    """If the code fills a tensor index by index, each index once, let its readers read a stack of the parts instead.

    Args:
        exported: The traced module, whose operations are changed.
    """
    graph = exported.graph
    places = {node: index for index, node in enumerate(graph.nodes)}
    for made in [each for each in graph.nodes if str(each.target) in MADE_EMPTY]:
        writes = {place: found for place in made.users if (found := _written(place)) is not None}
        parts = {each.step: each for each in writes.values()}
        shape = made.meta["val"].shape
        readers = [each for each in made.users if each not in writes]
        if len(parts) < len(writes) or not parts or sorted(parts) != list(range(shape[0])) or not readers:
            continue
        if min(places[each] for each in readers) < max(places[each.copy] for each in writes.values()):
            continue
        with graph.inserting_before(min(readers, key=places.__getitem__)):
            whole = [_held(graph, parts[index]) for index in range(shape[0])]
            stacked = graph.call_function(torch.ops.aten.stack.default, (whole,))
        stacked.meta = {**made.meta, "stack_trace": readers[0].meta.get("stack_trace")}
        made.replace_all_uses_with(stacked, delete_user_cb=lambda user, readers=readers: user in readers)
        for place, found in writes.items():
            graph.erase_node(found.copy)
            graph.erase_node(place)


class _Write(NamedTuple):
    """A value that is written to an index of the first axis, and the operations that take the index and write it."""

    step: int
    value: fx.Node
    place: fx.Node
    copy: fx.Node


def _held(graph: fx.Graph, write: _Write) -> fx.Node:
    """What a tensor holds after a write: the value as it is at that moment, in the tensor's type."""
    made = write.place.meta["val"]
    with graph.inserting_before(write.copy):
        held = graph.call_function(torch.ops.aten.to.dtype, (write.value, made.dtype))
    held.meta = {**write.copy.meta, "val": made}
    return held


def _written(place: fx.Node) -> _Write | None:
    """The write to the index that an operation takes; None if the code does anything else with the index."""
    if str(place.target) != "aten.select.int" or place.args[1] != 0 or len(place.users) != 1:
        return None
    (copy,), step = place.users, place.args[2]
    if str(copy.target) != "aten.copy_.default" or copy.args[0] is not place or copy.users:
        return None
    value = copy.args[1]
    if not isinstance(value, fx.Node) or not isinstance(step, int):
        return None
    return _Write(step, value, place, copy) if value.meta["val"].shape == place.meta["val"].shape else None
