"""Borders that code writes around a padded image: what a normalisation makes of zeros, as in RepConv.

Re-parameterised convolutions pad an image behind a normalisation, and write into the border what the normalisation
makes of zero. This equals a normalisation of the padded image, so padding and normalisation change places. Any other
border has no lowering.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from resformer.compiler.frontend.module.layout import plain
from resformer.compiler.frontend.module.values import Tracing, Value
from resformer.compiler.frontend.module.windows import PADDED
from resformer.compiler.ir.graph import Node
from resformer.compiler.ir.primitives import BatchNorm2d

BORDER_TOLERANCE = 1e-12
"""Relative and absolute: code may compute what a normalisation makes of zero in another order of operations."""

REMEDY = "pad with zeros, or write all of the border, and into it what the normalisation before it makes of zero"


def copied(tracing: Tracing, node: fx.Node, x: fx.Node, _constant: object, _non_blocking: bool = False) -> Value:
    """A constant that is written into a part of an image's border; the first such call handles all parts."""
    base = x
    while str(base.target).startswith("aten.slice") and isinstance(base.args[0], fx.Node):
        base = base.args[0]
    if base in tracing.bordered:
        return tracing.value(node, x)
    value = tracing.value(node, base)
    pad = tracing.draft.nodes[value.node]
    norm = tracing.draft.nodes[pad.inputs[0]] if PADDED in pad.op.metadata else pad
    if not isinstance(norm.op, BatchNorm2d) or norm is pad or not value.is_plain:
        raise tracing.refusal(node, f"writes into {value.node}", REMEDY)
    readers = [name for name, each in tracing.draft.nodes.items() if norm.name in each.inputs]
    if readers != [pad.name]:
        raise tracing.refusal(node, f"writes around what {norm.name} makes, which is read without it too", REMEDY)
    written = _written(tracing, node, base, value, norm.op)
    top, bottom, left, right = (int(each) for each in str(pad.op.metadata[PADDED]).split(","))
    border = np.ones(value.shape[1:], dtype=np.bool_)
    border[top : border.shape[0] - bottom, left : border.shape[1] - right] = False
    if (border != written).any():
        raise tracing.refusal(node, f"writes into a part of {value.node} that is not its border", REMEDY)
    tracing.draft.nodes[pad.name] = replace(pad, inputs=norm.inputs)
    tracing.draft.nodes[norm.name] = Node(norm.name, norm.op, (pad.name,), value.shape)
    tracing.bordered.add(base)
    tracing.values[base] = replace(value, node=norm.name, layout=plain(value.lead, value.shape))
    return tracing.value(node, x)


def _written(tracing: Tracing, node: fx.Node, base: fx.Node, value: Value, norm: BatchNorm2d) -> npt.NDArray[np.bool_]:
    """A mask, (H, W), of the pixels of an image into which the code writes constants.

    Raises:
        UnsupportedError: The code writes something other than what the normalisation makes of zero, or reads the image
            before it has written all of the border.
    """
    shift = norm.bias - norm.running_mean * norm.weight / np.sqrt(norm.running_var + norm.eps)
    order = {each: place for place, each in enumerate(base.graph.nodes)}
    marked = torch.zeros(tuple(value.layout.sizes), dtype=torch.bool)
    views, copies = {base: marked}, list[fx.Node]()
    for each in list(order)[order[base] + 1 :]:
        source = each.args[0] if each.args else None
        if each.op == "call_function" and each.all_input_nodes and each not in tracing.constants:
            tracing.constants.takes(each)
        if not isinstance(source, fx.Node) or source not in views:
            continue
        if str(each.target) == "aten.slice.Tensor":
            first, last = (*each.args[2:4], None, None)[:2]
            axes = [slice(None)] * marked.dim()
            axes[int(each.args[1]) if len(each.args) > 1 else 0] = slice(first, last)
            views[each] = views[source][tuple(axes)]
        elif str(each.target) == "aten.copy_.default":
            if each.args[1] not in tracing.constants:
                raise tracing.refusal(node, "writes into an image what is no constant", REMEDY)
            held = tracing.constants.value(each.args[1]).double()
            wanted = torch.from_numpy(np.broadcast_to(shift[:, None, None], value.shape).copy())
            wanted = wanted[None].expand(marked.shape[0], *value.shape) if marked.dim() > wanted.dim() else wanted
            wanted = wanted[..., :1, :1].expand_as(views[source])
            if not torch.allclose(held.expand_as(wanted), wanted, rtol=BORDER_TOLERANCE, atol=BORDER_TOLERANCE):
                raise tracing.refusal(node, "writes into a border other values than normalised zeros", REMEDY)
            views[source].fill_(True)
            copies.append(each)
    last_copy = max(order[each] for each in copies)
    early = [each for each in base.users if order[each] < last_copy and each not in views]
    if early:
        raise tracing.refusal(node, f"reads {value.node} before all of its border is written", REMEDY)
    everywhere: npt.NDArray[np.bool_] = marked.reshape(-1, *value.shape[1:]).all(dim=0).numpy()
    return everywhere
