"""Write a convolutional network of Sinabs' ``IAF`` neurons as a NIR file, with an input and the spikes that it gives.

    python examples/nir/sinabs_network.py OUT

Sinabs counts time in steps: compile with ``--dt 1``. NIR's reset is hard, hence ``MembraneReset``, and its neurons
fire once a step, hence ``SingleSpike``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from files import named_folder, save

try:
    import sinabs.activation as activation
    import sinabs.layers as layers
    from sinabs.nir import to_nir
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}; no extra holds Sinabs: pip install sinabs") from None

DT = 1.0
TIMESTEPS, SAMPLES, SIZE = 9, 4, (2, 8, 8)


def main(folder: Path) -> None:
    """Write ``network.nir`` and ``spikes.npz`` (input (N, T, C, H, W), output (N, T, F), dt)."""
    torch.manual_seed(4)
    options = {
        "batch_size": SAMPLES,
        "reset_fn": activation.MembraneReset(),
        "spike_fn": activation.SingleSpike,
        "min_v_mem": None,
    }
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1, bias=False),
        layers.IAFSqueeze(spike_threshold=torch.tensor(1.0), **options),
        layers.SumPool2d(2),
        torch.nn.Conv2d(4, 8, 4, bias=False),
        layers.IAFSqueeze(spike_threshold=torch.tensor(1.5), **options),
    )
    for each in (network[0], network[3]):
        torch.nn.init.normal_(each.weight, 0.05, 0.3)
    inputs = (torch.rand(SAMPLES, TIMESTEPS, *SIZE) < 0.3).float()
    with torch.no_grad():
        outputs = network(inputs.flatten(0, 1)).reshape(SAMPLES, TIMESTEPS, -1)
    save(folder, to_nir(network, inputs.flatten(0, 1)), inputs, outputs, DT)


if __name__ == "__main__":
    main(named_folder(__doc__))
