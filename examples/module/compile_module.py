"""Compile a spiking residual network from memory, and verify it in Lava, spike for spike.

    python examples/module/compile_module.py [BUILD]

The network is written as any user of SpikingJelly writes one; its weights are random, its normalisations those of
random images. With BUILD, the build is kept for resformer-run.
"""

from __future__ import annotations

import argparse

import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import resformer
from resformer.runtime.verify.tables import check_rows

TIMESTEPS, SAMPLES, SIZE, CLASSES = 4, 4, 32, 10


class Block(nn.Module):
    """Two convolutions whose spikes are added to those that came in (SEW-ResNet)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = layer.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = layer.BatchNorm2d(channels)
        self.sn1 = neuron.IFNode()
        self.conv2 = layer.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = layer.BatchNorm2d(channels)
        self.sn2 = neuron.IFNode()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes (T, N, C, H, W) in, sums of spikes out."""
        out = self.sn1(self.bn1(self.conv1(x)))
        return self.sn2(self.bn2(self.conv2(out))) + x


class Network(nn.Module):
    """Images (N, 3, H, W) to the mean logits (N, classes)."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            layer.Conv2d(3, channels, 3, padding=1, bias=False),
            layer.BatchNorm2d(channels),
            neuron.IFNode(),
            layer.MaxPool2d(2),
        )
        self.blocks = nn.Sequential(Block(channels), Block(channels))
        self.pool = layer.AdaptiveAvgPool2d((1, 1))
        self.fc = layer.Linear(channels, CLASSES)
        functional.set_step_mode(self, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same image at each step."""
        x_seq = x.unsqueeze(0).repeat(TIMESTEPS, 1, 1, 1, 1)
        return self.fc(self.pool(self.blocks(self.stem(x_seq))).flatten(2)).mean(0)


def main(build: str | None = None) -> int:
    """Compile, verify, and say what was compared."""
    torch.manual_seed(0)
    network, images = Network(), torch.rand(SAMPLES, 3, SIZE, SIZE)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # one batch sets the running statistics
    with torch.no_grad():
        network(images)
    functional.reset_net(network)
    network.eval()

    compiled = resformer.compile(network, images, target="lava", output=build)
    result = compiled.verify(images)
    for row in check_rows(result)[1]:
        print(" | ".join(row))
    return 0 if result.equivalent else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?", metavar="BUILD", help="a folder to keep the build in")
    raise SystemExit(main(parser.parse_args().build))
