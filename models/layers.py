"""The blocks of SpikingResformer in SpikingJelly, named so that the authors' state dicts load.

Source: Shi, Hao, Yu, "SpikingResformer: Bridging ResNet and Vision Transformer in Spiking Neural Networks",
CVPR 2024 (arXiv 2403.14302), and the authors' code, ``models/spikingresformer.py`` and
``models/submodules/layers.py`` in github.com/xyshi2000/SpikingResformer.

Every tensor inside the network is (T, N, C, H, W): steps, samples, channels, height, width. Only the outputs of neurons
are binary; the residual stream and all other values between neurons are real.
"""

from typing import Literal

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

NeuronKind = Literal["IF", "LIF", "PLIF"]

RATE_MOMENTUM = 0.999
"""How much of a running firing rate survives one training step (authors' ``DSSA.momentum``)."""


def spiking_neuron(kind: NeuronKind) -> nn.Module:
    """Return the neuron of all populations of a network: hard reset to 0, threshold 1, decayed input.

    Each step computes ``v += (x - v) / tau`` and fires where ``v >= 1``. An ``LIF`` has tau = 2. A ``PLIF`` learns one
    scalar ``w`` for each layer; ``tau = 1 / sigmoid(w)`` starts at 2. An ``IF`` computes ``v += x``. All keep ``v``
    between calls: ``spikingjelly.activation_based.functional.reset_net`` must be called before each batch.
    """
    # No backend is named: SpikingJelly 0.0.0.0.14 defaults to plain torch, and 2.0.0 has no such argument.
    common = {
        "v_threshold": 1.0,
        "v_reset": 0.0,
        "surrogate_function": surrogate.ATan(),
        "detach_reset": True,
        "step_mode": "m",
    }
    made: nn.Module
    if kind == "IF":
        made = neuron.IFNode(**common)
    elif kind == "LIF":
        made = neuron.LIFNode(tau=2.0, decay_input=True, **common)
    else:
        made = neuron.ParametricLIFNode(init_tau=2.0, decay_input=True, **common)
    return made


def conv1x1(in_channels: int, out_channels: int) -> nn.Module:
    """Return a 1x1 convolution over (T, N, C, H, W), without bias."""
    return layer.Conv2d(in_channels, out_channels, kernel_size=1, bias=False, step_mode="m")  # type: ignore[no-any-return]


def conv3x3(in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1) -> nn.Module:
    """Return a 3x3 convolution over (T, N, C, H, W) that pads by 1, without bias."""
    return layer.Conv2d(  # type: ignore[no-any-return]
        in_channels, out_channels, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False, step_mode="m"
    )


class BatchNorm(nn.Module):
    """Batch normalisation over channels, with T and N taken together as the batch (authors' ``BN``)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x, (T, N, C, H, W)."""
        normalised: torch.Tensor = functional.seq_to_ann_forward(x, self.bn)
        return normalised


class SpikeMatMul(nn.Module):
    """The product of a real matrix and a binary one: on neuromorphic hardware, a spike-gated sum.

    It holds no parameters. It is a module so that a compiler, or a hook that counts operations, can find it.
    """

    def forward(self, real: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
        """Return real @ spikes: (..., I, K) times (..., K, J) with spikes in {0, 1} gives (..., I, J)."""
        return torch.matmul(real, spikes)


class DSSA(nn.Module):
    """Dual Spike Self-Attention (paper section 4.2, authors' ``DSSA``).

    With x the spikes of the input and W a p x p convolution of stride p to 2C channels, each head computes::

        y1, y2 = split(BN(W * x))
        attention = LIF(y1^T x / sqrt(rate_x C / heads))
        result    = LIF(y2 attention / sqrt(rate_attn L))

    and ``BN(Wproj * result)`` is added to the input. L is the number of patches, (H / p)^2. The rates are the firing
    rates of x and of the attention spikes, one a head: running means that only training changes, so at inference both
    scales are constants.

    Args:
        channels: C, divisible by num_heads.
        num_heads: number of attention heads.
        num_patches: L.
        patch_size: p, which divides H and W.
        neuron_kind: which neuron all three populations are.
    """

    firing_rate_x: torch.Tensor
    firing_rate_attn: torch.Tensor

    def __init__(
        self, channels: int, *, num_heads: int, num_patches: int, patch_size: int, neuron_kind: NeuronKind
    ) -> None:
        super().__init__()
        self.channels = channels
        self.num_heads = num_heads
        self.num_patches = num_patches
        self.patch_size = patch_size
        self.register_buffer("firing_rate_x", torch.zeros(1, 1, num_heads, 1, 1))
        self.register_buffer("firing_rate_attn", torch.zeros(1, 1, num_heads, 1, 1))
        self._rates_started = False

        self.activation_in = spiking_neuron(neuron_kind)
        self.W = layer.Conv2d(channels, 2 * channels, patch_size, patch_size, bias=False, step_mode="m")
        self.norm = BatchNorm(2 * channels)
        self.matmul1 = SpikeMatMul()
        self.matmul2 = SpikeMatMul()
        self.activation_attn = spiking_neuron(neuron_kind)
        self.activation_out = spiking_neuron(neuron_kind)
        self.Wproj = conv1x1(channels, channels)
        self.norm_proj = BatchNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over x, (T, N, C, H, W); the result has the same shape."""
        steps, samples, channels, height, width = x.shape
        head_channels = channels // self.num_heads
        spikes = self.activation_in(x)

        y = self.norm(self.W(spikes)).reshape(steps, samples, self.num_heads, 2 * head_channels, -1)
        y1, y2 = y[:, :, :, :head_channels, :], y[:, :, :, head_channels:, :]
        spikes = spikes.reshape(steps, samples, self.num_heads, head_channels, -1)

        if self.training:
            self.firing_rate_x = self._running_rate(self.firing_rate_x, spikes)
        scale1 = 1.0 / torch.sqrt(self.firing_rate_x * head_channels)
        attention = self.activation_attn(self.matmul1(y1.transpose(-1, -2), spikes) * scale1)

        if self.training:
            self.firing_rate_attn = self._running_rate(self.firing_rate_attn, attention)
            self._rates_started = True
        scale2 = 1.0 / torch.sqrt(self.firing_rate_attn * self.num_patches)
        result = (self.matmul2(y2, attention) * scale2).reshape(steps, samples, channels, height, width)

        projected: torch.Tensor = self.norm_proj(self.Wproj(self.activation_out(result)))
        return projected + x

    def _running_rate(self, running: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
        """Move a running rate, (1, 1, heads, 1, 1), towards that of spikes, (T, N, heads, rows, columns)."""
        # autocast makes spikes of 16 bits; in 16 bits, a mean could not move by a thousandth
        rate = spikes.detach().mean((0, 1, 3, 4), keepdim=True, dtype=running.dtype)
        if not self._rates_started and torch.all(running == 0):
            running = rate
        return running * RATE_MOMENTUM + rate * (1 - RATE_MOMENTUM)


class GWFFN(nn.Module):
    """Group-Wise Spiking Feed-Forward Network (paper section 4.3, authors' ``GWFFN``).

    A 1x1 convolution widens by ``ratio``; grouped 3x3 convolutions, with one residual around all of them, mix each
    group; a 1x1 convolution narrows; the input is added. Each convolution has a neuron before it and a batch
    normalisation after it.

    Args:
        channels: C of the input and the result.
        ratio: inner channels divided by C.
        num_convs: the number of grouped 3x3 convolutions, one after the other.
        group_size: channels in a group, which divides the inner channels.
        neuron_kind: which neuron all populations are.
    """

    def __init__(self, channels: int, *, ratio: int, num_convs: int, group_size: int, neuron_kind: NeuronKind) -> None:
        super().__init__()
        inner = channels * ratio
        self.up = nn.Sequential(spiking_neuron(neuron_kind), conv1x1(channels, inner), BatchNorm(inner))
        self.conv = nn.ModuleList(
            nn.Sequential(
                spiking_neuron(neuron_kind), conv3x3(inner, inner, groups=inner // group_size), BatchNorm(inner)
            )
            for _ in range(num_convs)
        )
        self.down = nn.Sequential(spiking_neuron(neuron_kind), conv1x1(inner, channels), BatchNorm(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform x, (T, N, C, H, W); the result has the same shape."""
        widened = self.up(x)
        mixed = widened
        for conv in self.conv:
            mixed = conv(mixed)
        narrowed: torch.Tensor = self.down(mixed + widened)
        return narrowed + x


class Downsample(nn.Module):
    """The step from one stage to the next: neuron, 3x3 convolution of stride 2, batch normalisation."""

    def __init__(self, in_channels: int, out_channels: int, *, neuron_kind: NeuronKind) -> None:
        super().__init__()
        self.conv = conv3x3(in_channels, out_channels, stride=2)
        self.norm = BatchNorm(out_channels)
        self.activation = spiking_neuron(neuron_kind)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Halve x: (T, N, C, H, W) gives (T, N, out_channels, ceil(H / 2), ceil(W / 2))."""
        halved: torch.Tensor = self.norm(self.conv(self.activation(x)))
        return halved
