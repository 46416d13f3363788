"""Modules of SpikingJelly's layers, as users write them, with random weights that let every population fire."""

from __future__ import annotations

from collections.abc import Callable

import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

MakeNeuron = Callable[[], neuron.BaseNode]


class SpikingVGG(nn.Module):
    """Convolutions, max-pools of spikes, an average pool between, and a classifier of two linear layers.

    It takes images and repeats them over time itself, and returns the mean of the logits.
    """

    def __init__(self, plan: tuple[int | str, ...], make: MakeNeuron, *, classes: int = 5, hidden: int = 12) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, self.timesteps = 3, 4
        for each in plan:
            if each == "M":
                layers.append(layer.MaxPool2d(2))
            elif each == "A":
                layers.append(layer.AvgPool2d(2))
            else:
                assert isinstance(each, int)
                layers += [layer.Conv2d(channels, each, 3, padding=1, bias=False), layer.BatchNorm2d(each), make()]
                channels = each
        self.features = nn.Sequential(*layers)
        self.avgpool = layer.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            layer.Flatten(),
            layer.Linear(channels * 4, hidden),
            make(),
            layer.Dropout(0.5),
            layer.Linear(hidden, classes),
        )
        functional.set_step_mode(self, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x_seq = x.unsqueeze(0).repeat(self.timesteps, 1, 1, 1, 1)
        return self.classifier(self.avgpool(self.features(x_seq))).mean(0)


class SEWBlock(nn.Module):
    """Spike-element-wise residual block, with ADD."""

    def __init__(self, channels: int, width: int, stride: int, make: MakeNeuron) -> None:
        super().__init__()
        self.conv1 = layer.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = layer.BatchNorm2d(width)
        self.sn1 = make()
        self.conv2 = layer.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = layer.BatchNorm2d(width)
        self.sn2 = make()
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(
                layer.SeqToANNContainer(
                    nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
                ),
                make(),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x
        out = self.sn1(self.bn1(self.conv1(x)))
        out = self.sn2(self.bn2(self.conv2(out)))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return out


class SEWResNet(nn.Module):
    """SEW-ResNet: it takes (T, N, C, H, W) and returns the logits of each step."""

    def __init__(
        self, widths: tuple[int, ...], blocks: tuple[int, ...], make: MakeNeuron, *, classes: int = 5, pool: bool = True
    ) -> None:
        super().__init__()
        self.conv1 = layer.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = layer.BatchNorm2d(widths[0])
        self.sn1 = make()
        self.maxpool = layer.MaxPool2d(3, 2, 1) if pool else nn.Identity()
        channels, stages = widths[0], []
        for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for place in range(count):
                stages.append(SEWBlock(channels, width, 2 if index and not place else 1, make))
                channels = width
        self.layers = nn.Sequential(*stages)
        self.avgpool = layer.AdaptiveAvgPool2d((1, 1))
        self.fc = layer.Linear(channels, classes)
        functional.set_step_mode(self, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.sn1(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layers(x)), 2))


class MembraneBlock(nn.Module):
    """A residual block whose shortcut carries currents, as in MS-ResNet, then one that adds spikes to currents."""

    def __init__(self, channels: int, make: MakeNeuron) -> None:
        super().__init__()
        self.stem = nn.Sequential(layer.Conv2d(3, channels, 3, padding=1), layer.BatchNorm2d(channels))
        self.sn1, self.sn2, self.sn3 = make(), make(), make()
        self.conv1 = nn.Sequential(layer.Conv2d(channels, channels, 3, padding=1), layer.BatchNorm2d(channels))
        self.conv2 = nn.Sequential(layer.Conv2d(channels, channels, 3, padding=1), layer.BatchNorm2d(channels))
        self.fc = layer.Linear(channels, 4)
        functional.set_step_mode(self, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.conv1(self.sn1(x))
        spikes = self.sn2(x)
        return self.fc(self.sn3(self.conv2(spikes) + spikes).mean((3, 4)))


def lif() -> neuron.BaseNode:
    """SpikingJelly's neurons as they are by default."""
    return neuron.LIFNode()


def integrate_and_fire() -> neuron.BaseNode:
    """Neurons that do not leak."""
    return neuron.IFNode()


def calibrated(module: nn.Module, example: torch.Tensor, *, seed: int = 0) -> nn.Module:
    """The module in eval mode, with random weights that let its neurons fire in about 10 to 25 % of the steps.

    A normalisation's running statistics are those of the example, layer after layer; its bias lets a normally
    distributed current reach the threshold now and then.
    """
    torch.manual_seed(seed)
    leaks = not any(isinstance(each, neuron.IFNode) for each in module.modules())
    least, most = (0.3, 0.9) if leaks else (-0.5, 0.1)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
            parameter.data *= 3 if parameter.dim() == 2 else 1  # linear layers have no normalisation behind them
        elif name.endswith("bias"):
            nn.init.uniform_(parameter, min(least, 0.0), max(most, 0.0))
    for norm in (each for each in module.modules() if isinstance(each, nn.BatchNorm2d)):
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        nn.init.uniform_(norm.bias, least, most)
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(example)
            functional.reset_net(module)
    return module.eval()


def coarse(module: nn.Module) -> nn.Module:
    """The module with weights and biases rounded to halves and normalisations that only add a bias, for many ties."""
    for name, parameter in module.named_parameters():
        parameter.data = torch.round(2 * parameter.data.double()) / 2 if not name.endswith(".w") else parameter.data
    for norm in (each for each in module.modules() if isinstance(each, nn.BatchNorm2d)):
        norm.weight.data.fill_(1.0)
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0)
        norm.eps = 0.0
    return module.double()
