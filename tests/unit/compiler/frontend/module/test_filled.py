"""Tensors that a loop fills step by step hold the written values, even if their source changes later."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn

from resformer.compiler.frontend.module.importer import import_module, in_float64
from resformer.errors import UnsupportedError

FRAMES = torch.zeros(3, 2, 4)


class Fills(nn.Module):
    """Fills a tensor of a type with its logits, and then doubles the logits of each step in place."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.hidden, self.sn, self.fc, self.kind = nn.Linear(4, 6), neuron.IFNode(), nn.Linear(6, 3), kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        filled = torch.zeros(*x.shape[:2], 3, dtype=self.kind)
        for step in range(len(x)):
            logits = self.fc(self.sn(self.hidden(x[step])))
            filled[step] = logits
            logits.mul_(2)
        return filled.double().mean(0)


@pytest.mark.parametrize("steps", [1, 3])
def test_what_is_written_is_what_it_was_then(steps: int) -> None:
    graph = import_module(in_float64(Fills(torch.float64)), FRAMES[:steps]).graph
    assert [node.name for node in graph] == ["input", "input.flatten", "hidden", "sn", "fc", "output"]


def test_a_tensor_of_whole_numbers_cuts_what_is_written() -> None:
    with pytest.raises(UnsupportedError, match="makes int64 of fc, which is no spike; leave it a float"):
        import_module(in_float64(Fills(torch.int64)), FRAMES)
