"""What constants of traced code are computed from."""

from __future__ import annotations

import torch
from torch import fx

from resformer.compiler.frontend.module.constants import Constants


def test_what_is_read_twice_is_followed_once() -> None:
    """Sixty values, each read by two of the next, have 2^60 ways back to their buffer."""
    graph, constants = fx.Graph(), Constants()
    held, unnamed = graph.placeholder("held"), graph.placeholder("unnamed")
    constants.tensors.update({held: torch.tensor(2.0), unnamed: torch.tensor(3.0)})
    constants.paths[held] = "held"
    node = graph.call_function(torch.ops.aten.add.Tensor, (held, unnamed))
    assert constants.takes(node)
    for _ in range(60):
        less = graph.call_function(torch.ops.aten.mul.Tensor, (node, -1.0))
        assert constants.takes(less)
        node = graph.call_function(torch.ops.aten.sub.Tensor, (node, less))
        assert constants.takes(node)
    assert constants.sources(node) == {held}
    assert float(constants.value(node)) == 5.0 * 2**60
