"""Write a convolutional network of SpikingJelly 2.0 as a NIR file, with an input and the spikes that it gives.

    python examples/nir/spikingjelly_network.py OUT

SpikingJelly fires at its threshold, NIR above it; weights that make no ties, as trained ones do, make no difference.
"""

from __future__ import annotations

from pathlib import Path

import torch
from files import named_folder, save
from spikingjelly.activation_based import functional, layer, neuron

try:
    from spikingjelly.activation_based.nir_exchange import export_to_nir
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}; SpikingJelly has it since version 2: pip install 'spikingjelly>=2'") from None

DT = 1e-4
TIMESTEPS, SAMPLES, SIZE = 8, 4, (2, 8, 8)


def main(folder: Path) -> None:
    """Write ``network.nir`` and ``spikes.npz`` (input (N, T, C, H, W), output (N, T, F), dt)."""
    torch.manual_seed(3)
    network = torch.nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1),
        neuron.IFNode(),
        layer.AvgPool2d(2),
        layer.Conv2d(4, 6, 3, padding=1),
        neuron.LIFNode(tau=3.0),
        layer.Flatten(),
        layer.Linear(96, 10),
        neuron.LIFNode(tau=2.0),
    ).double()
    for each in (network[0], network[3], network[6]):
        torch.nn.init.normal_(each.weight, 0.1, 0.4)
    inputs = (torch.rand(SAMPLES, TIMESTEPS, *SIZE) < 0.3).double()
    functional.reset_net(network)
    with torch.no_grad():
        outputs = torch.stack([network(inputs[:, step]) for step in range(TIMESTEPS)], dim=1)
    functional.reset_net(network)
    save(folder, export_to_nir(network, inputs[:1, 0], dt=DT), inputs, outputs, DT)


if __name__ == "__main__":
    main(named_folder(__doc__))
