"""Operations in place: nothing may later read what they write by another name, since views are separate values here."""

from __future__ import annotations

import torch
from torch import fx

from resformer.compiler.frontend.module.values import Importer, Tracing, Value


def check_unread(tracing: Tracing, node: fx.Node, written: fx.Node) -> None:
    """Check that what an operation writes in place is later read only as the operation's result.

    Args:
        tracing: The traced module, for the error.
        node: The operation.
        written: The operation's first operand, whose memory it writes.

    Raises:
        UnsupportedError: A view of the operand, or the tensor that the operand is a view of, is read later.
    """
    place = {each: index for index, each in enumerate(node.graph.nodes)}
    memory, family, found = _memory(written), {node, written}, [*written.all_input_nodes, *written.users]
    while found:
        other = found.pop()
        if other in family or not memory & _memory(other):
            continue
        family.add(other)
        found += [*other.all_input_nodes, *other.users]
        later = place[other] < place[node] and any(place[user] > place[node] for user in other.users)
        if later and _overlap(written.meta["val"], other.meta["val"]):
            raise tracing.refusal(
                node,
                f"changes in place what {other.name} shows too, which is read later",
                "write x = x + y in place of x += y or x.add_(y)",
            )


def _tensors(node: fx.Node) -> list[torch.Tensor]:
    """The tensors that an operation makes."""
    made = node.meta.get("val")
    return [each for each in (made if isinstance(made, list | tuple) else [made]) if isinstance(each, torch.Tensor)]


def _memory(node: fx.Node) -> set[int]:
    """The identities of the storages of an operation's tensors."""
    return {each.untyped_storage()._cdata for each in _tensors(node)}


def _overlap(written: torch.Tensor, read: torch.Tensor) -> bool:
    """Whether two views of one storage have an element in common; two chunks of a tensor, for example, have none."""
    last = max(
        each.storage_offset() + sum((size - 1) * step for size, step in zip(each.shape, each.stride(), strict=True))
        for each in (written, read)
    )
    changed = torch.zeros(last + 1, dtype=torch.bool)
    changed.as_strided(written.shape, written.stride(), written.storage_offset()).fill_(True)
    return bool(changed.as_strided(read.shape, read.stride(), read.storage_offset()).any())


def in_place(importer: Importer) -> Importer:
    """An importer for the in-place form of an operation; the first operand has the operation's result afterwards.

    Raises:
        UnsupportedError: What the operation writes is read later by another name.
    """

    def imported(tracing: Tracing, node: fx.Node, x: fx.Node, *others: object, **more: object) -> Value:
        check_unread(tracing, node, x)
        value = importer(tracing, node, x, *others, **more)
        assert isinstance(value, Value)
        tracing.values[x] = value
        return value

    return imported


def viewed_in_place(importer: Importer) -> Importer:
    """An importer for a view in place, such as ``unsqueeze_``; it writes no number, so other views stay valid."""

    def imported(tracing: Tracing, node: fx.Node, x: fx.Node, *others: object, **more: object) -> Value:
        value = importer(tracing, node, x, *others, **more)
        assert isinstance(value, Value)
        tracing.values[x] = value
        return value

    return imported
