"""SEW-ResNet: its architecture as plain data, and the network that the data describes.

Source: Fang et al., "Deep Residual Learning in Spiking Neural Networks", NeurIPS 2021 (arXiv 2102.04159), and the
authors' code, ``imagenet/sew_resnet.py`` in github.com/fangwei123456/Spike-Element-Wise-ResNet. Names are those of
their published checkpoints, in which SpikingJelly's container holds its layers as ``module``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from resformer.errors import UnsupportedError
from resformer.models.zoo.parts import Classifier, batch_norm, check_choice, check_positive, convolution, max_pool

Connect = Literal["ADD", "AND", "IAND"]
BlockKind = Literal["basic", "bottleneck"]

EXPANSION: Mapping[BlockKind, int] = MappingProxyType({"basic": 1, "bottleneck": 4})
"""A block's output channels divided by its stage's."""


@dataclass(frozen=True, kw_only=True)
class SEWResNetArchitecture:
    """Everything about a SEW-ResNet but T and the image size.

    No tensor tells the function that connects a block's spikes to those of its input.

    Attributes:
        block: ``basic`` is two 3x3 convolutions, ``bottleneck`` a 3x3 convolution between two of 1x1.
        depths: number of blocks of each of the four stages.
        connect: ADD sums both; AND fires where both fire; IAND fires where the input fires and the block does not.
        width: channels of the stem and of the first stage; 64 in the authors' networks.
        in_channels: channels of the input.
        num_classes: number of logits.

    Raises:
        UnsupportedError: where the fields contradict each other.
    """

    block: BlockKind
    depths: tuple[int, int, int, int]
    connect: Connect = "ADD"
    width: int = 64
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        check_choice(BlockKind, block=self.block)
        check_choice(Connect, connect=self.connect)
        if len(self.depths) != 4:
            raise UnsupportedError(f"depths are {self.depths}: a SEW-ResNet has four stages")
        for depth in self.depths:
            check_positive(depth=depth)
        check_positive(width=self.width, in_channels=self.in_channels, num_classes=self.num_classes)


def integrate_and_fire() -> nn.Module:
    """Return the neuron of all populations: no leak, hard reset to 0, threshold 1, fires at >=."""
    made: nn.Module = neuron.IFNode(v_threshold=1.0, v_reset=0.0, detach_reset=True, step_mode="m")
    return made


class ConvNorm(nn.Module):
    """A convolution and its batch normalisation, held as ``module``, as SpikingJelly's container once held them."""

    def __init__(self, in_channels: int, out_channels: int, edge: int, *, stride: int = 1) -> None:
        super().__init__()
        self.module = nn.Sequential(
            convolution(in_channels, out_channels, edge, stride=stride), batch_norm(out_channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return currents for x, (T, N, C, H, W)."""
        currents: torch.Tensor = self.module(x)
        return currents


class SEWBlock(nn.Module):
    """Two or three spiking units, connected to the input element by element (authors' ``BasicBlock``, ``Bottleneck``).

    Args:
        kind: the kind of block, which decides the units.
        in_channels: channels of the input.
        channels: channels of the stage; the result has ``EXPANSION[kind]`` times as many.
        stride: stride of the first 3x3 convolution.
        connect: how the input is connected to the units' spikes.
    """

    def __init__(self, kind: BlockKind, in_channels: int, channels: int, *, stride: int, connect: Connect) -> None:
        super().__init__()
        self.connect = connect
        out_channels = channels * EXPANSION[kind]
        edges: tuple[int, ...] = (3, 3)
        if kind == "bottleneck":
            edges = (1, 3, 1)
        strided = edges.index(3)
        widths = [channels] * (len(edges) - 1) + [out_channels]
        self.units = len(edges)
        before = in_channels
        for index, (edge, width) in enumerate(zip(edges, widths, strict=True)):
            step = stride if index == strided else 1
            self.add_module(f"conv{index + 1}", ConvNorm(before, width, edge, stride=step))
            self.add_module(f"sn{index + 1}", integrate_and_fire())
            before = width
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(ConvNorm(in_channels, out_channels, 1, stride=stride), integrate_and_fire())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform x, (T, N, C, H, W): spikes, or with ADD sums of spikes."""
        fired = x
        for index in range(1, self.units + 1):
            fired = getattr(self, f"sn{index}")(getattr(self, f"conv{index}")(fired))
        identity = x if self.downsample is None else self.downsample(x)
        if self.connect == "ADD":
            return fired + identity
        return fired * identity if self.connect == "AND" else identity * (1.0 - fired)


class SEWResNet(Classifier):
    """A SEW-ResNet whose state dict has the authors' names and shapes; see ``Classifier`` for input and result."""

    def __init__(self, architecture: SEWResNetArchitecture, *, timesteps: int = 4) -> None:
        super().__init__(timesteps=timesteps)
        self.architecture = net = architecture
        self.conv1 = convolution(net.in_channels, net.width, 7, stride=2)
        self.bn1 = batch_norm(net.width)
        self.sn1 = integrate_and_fire()
        self.maxpool = max_pool()
        channels = net.width
        for stage, depth in enumerate(net.depths):
            width = net.width << stage
            blocks: list[nn.Module] = []
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(SEWBlock(net.block, channels, width, stride=stride, connect=net.connect))
                channels = width * EXPANSION[net.block]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = layer.AdaptiveAvgPool2d((1, 1), step_mode="m")
        self.fc = nn.Linear(channels, net.num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return spikes or sums of spikes, (T, N, C', 1, 1), for x, (T, N, C, H, W)."""
        x = self.maxpool(self.sn1(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        pooled: torch.Tensor = self.avgpool(x)
        return pooled

    def readout(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the logits, (N, classes), for the mean over T of (T, N, C')."""
        logits: torch.Tensor = self.fc(pooled.mean(0))
        return logits
