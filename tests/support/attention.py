"""Modules with spiking attention, as people write it by hand: heads, patches and tokens as views of maps."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import layer, neuron
from torch import nn


class Fires(neuron.LIFNode):
    """LIF neurons in a subclass that changes only the constructor and the printed form."""

    def __init__(self) -> None:
        super().__init__(tau=2.0, step_mode="m")

    def extra_repr(self) -> str:
        return "ours"


class Norm(nn.Module):
    """Batch normalisation of (T, N, C, H, W), by hand."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(x.flatten(0, 1)).view(x.shape)


class Attention(nn.Module):
    """Dual Spike Self-Attention; ``how`` says in which of several ways it is written."""

    def __init__(self, channels: int, heads: int, patch: int, patches: int, how: str) -> None:
        super().__init__()
        self.heads, self.how, self.patches = heads, how, patches
        self.register_buffer("rate_x", torch.full((heads,), 0.2))
        self.register_buffer("rate_attn", torch.full((1, 1, heads, 1, 1), 0.3))
        self.fire_in, self.fire_attn, self.fire_out = Fires(), Fires(), Fires()
        both = 1 if how == "two layers" else 2
        self.project = layer.Conv2d(channels, both * channels, patch, patch, bias=False, step_mode="m")
        self.norm = Norm(both * channels)
        if how == "two layers":
            self.other = layer.Conv2d(channels, channels, patch, patch, bias=False, step_mode="m")
            self.other_norm = Norm(channels)
        self.out = layer.Conv2d(channels, channels, 1, bias=False, step_mode="m")
        self.out_norm = Norm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, batch, channels, rows, columns = x.shape
        per_head = channels // self.heads
        spikes = self.fire_in(x)
        y = self.norm(self.project(spikes))
        gate = spikes.reshape(steps, batch, self.heads, per_head, rows * columns)
        if self.how == "two layers":
            y1 = y.reshape(steps, batch, self.heads, per_head, -1)
            y2 = self.other_norm(self.other(spikes)).reshape(steps, batch, self.heads, per_head, -1)
        elif self.how == "halves":
            y1, y2 = (each.reshape(steps, batch, self.heads, per_head, -1) for each in y.chunk(2, dim=2))
        elif self.how == "split":
            y1, y2 = y.view(steps, batch, self.heads, 2, per_head, -1).unbind(3)
        else:
            y1, y2 = y.reshape(steps, batch, self.heads, 2 * per_head, -1).chunk(2, dim=3)
        scale = torch.rsqrt(self.rate_x.view(self.heads, 1, 1) * per_head)
        if self.how == "transposed":
            attention = self.fire_attn((gate.transpose(-1, -2) @ y1) * scale)
            out = (attention @ y2.mT).transpose(-1, -2)
        elif self.how == "einsum":
            attention = self.fire_attn(torch.einsum("tbhdn,tbhdm->tbhnm", y1, gate) * scale)
            out = torch.einsum("tbhnm, tbhdn -> tbhdm", attention, y2)
        elif self.how == "batched":
            products = torch.bmm(gate.flatten(0, 2).mT, y1.flatten(0, 2)).mT
            attention = self.fire_attn(products.view(steps, batch, self.heads, -1, rows * columns) * scale)
            out = torch.bmm(y2.flatten(0, 2), attention.flatten(0, 2))
        elif self.how == "constant":
            attention = self.fire_attn((y1.mT @ gate) * (2 / math.sqrt(per_head)))
            out = y2 @ attention
        else:
            attention = self.fire_attn(torch.matmul(y1.transpose(-2, -1), gate) * scale)
            out = torch.matmul(y2, attention) / torch.sqrt(self.rate_attn * self.patches)
        if self.how == "constant":
            out = 0.5 * out
        out = self.fire_out(out.reshape(steps, batch, channels, rows, columns))
        return self.out_norm(self.out(out)) + x


class AttentiveNet(nn.Module):
    """A stem, two blocks of attention, and a classifier; it takes images and repeats them, or (N, T, C, H, W)."""

    def __init__(self, how: str, *, heads: int = 2, steps: int = 4) -> None:
        super().__init__()
        self.steps = steps
        self.stem = layer.Conv2d(3, 8, 3, padding=1, bias=False, step_mode="m")
        self.norm = Norm(8)
        self.blocks = nn.Sequential(Attention(8, heads, 2, 9, how), Attention(8, heads, 3, 4, how))
        self.fire = Fires()
        self.fc = layer.Linear(8, 5, bias=False, step_mode="m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unsqueeze(0).repeat(self.steps, 1, 1, 1, 1) if x.dim() == 4 else x.transpose(0, 1)
        x = self.blocks(self.norm(self.stem(x)))
        return self.fc(self.fire(x).mean((-1, -2)))


class Projections(nn.Module):
    """Neurons behind parts of one layer, as queries, keys and values are made of one projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = layer.Conv2d(3, 12, 3, padding=1, step_mode="m")
        self.norm = Norm(12)
        self.query, self.key, self.value = Fires(), Fires(), Fires()
        self.fc = layer.Linear(4, 5, step_mode="m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.norm(self.stem(x)).chunk(3, dim=2)
        return self.fc((self.query(q) + self.key(k) + self.value(v)).mean((3, 4)))


class TokenNet(nn.Module):
    """Layers on tokens, (T, N, H * W, C), and as Conv1d reads them, (T * N, C, H * W)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = layer.Conv2d(3, 6, 2, 2, step_mode="m")
        self.first, self.second, self.third = Fires(), Fires(), Fires()
        self.mix = nn.Linear(6, 10)
        self.norm = nn.BatchNorm1d(10)
        self.taps = nn.Conv1d(10, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.stem(x).flatten(3).permute(0, 1, 3, 2)
        spikes = self.first(tokens)
        mixed = self.mix(spikes)
        steps, batch, count, channels = mixed.shape
        mixed = self.norm(mixed.reshape(-1, channels)).reshape(steps, batch, count, channels)
        mixed = self.second(mixed).transpose(2, 3)
        back = self.taps(mixed.flatten(0, 1)).reshape(steps, batch, 6, count).transpose(-1, -2)
        return F.linear(self.third(back + tokens).mean(2), self.fc.weight, self.fc.bias)
