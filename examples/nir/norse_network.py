"""Write a convolutional network of Norse's ``LIFBoxCell`` neurons as a NIR file, with an input and Norse's spikes.

    python examples/nir/norse_network.py OUT

Norse's exporter multiplies the time constants by its ``dt``; with ``dt=1`` they are seconds, as NIR has them. A step of
Norse is 1 ms.
"""

from __future__ import annotations

from pathlib import Path

import torch
from files import named_folder, save

try:
    import norse.torch as norse
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}; pip install 'resformer[frameworks]' installs it") from None

DT = 1e-3
TIMESTEPS, SAMPLES, SIZE = 10, 4, (2, 7, 7)


def main(folder: Path) -> None:
    """Write ``network.nir`` and ``spikes.npz`` (input (N, T, C, H, W), output (N, T, F), dt)."""
    torch.manual_seed(2)
    parameters = [
        norse.LIFBoxParameters(tau_mem_inv=torch.tensor(rate), v_th=torch.tensor(0.3)) for rate in (250.0, 100.0)
    ]
    network = norse.SequentialState(
        torch.nn.Conv2d(2, 4, 3, padding=1),
        norse.LIFBoxCell(p=parameters[0], dt=DT),
        torch.nn.Conv2d(4, 3, 3, stride=2),
        norse.LIFBoxCell(p=parameters[1], dt=DT),
    ).double()
    for layer in (network[0], network[2]):
        torch.nn.init.normal_(layer.weight, 0.1, 0.4)
    inputs = (torch.rand(SAMPLES, TIMESTEPS, *SIZE) < 0.3).double()
    outputs, state = [], None
    with torch.no_grad():
        for step in range(TIMESTEPS):
            spikes, state = network(inputs[:, step], state)
            outputs.append(spikes.flatten(1))
    save(folder, norse.to_nir(network, inputs[:1, 0], dt=1.0), inputs, torch.stack(outputs, dim=1), DT)


if __name__ == "__main__":
    main(named_folder(__doc__))
