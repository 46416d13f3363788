"""Write a network of snnTorch's ``Leaky`` neurons as a NIR file, with an input and the spikes that snnTorch gives.

    python examples/nir/snntorch_network.py OUT

snnTorch's steps are 0.1 ms in NIR. NIR's reset is hard and immediate: ``reset_mechanism="zero", reset_delay=False``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from files import named_folder, save

try:
    import snntorch as snn
    from snntorch.export_nir import export_to_nir
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}; pip install 'resformer[frameworks]' installs it") from None

DT = 1e-4
TIMESTEPS, SAMPLES, FEATURES = 12, 4, 14


def main(folder: Path) -> None:
    """Write ``network.nir`` and ``spikes.npz`` (input (N, T, F), output (N, T, F), dt)."""
    torch.manual_seed(1)
    options = {"reset_mechanism": "zero", "reset_delay": False, "init_hidden": True}
    network = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 20),
        snn.Leaky(beta=torch.full((20,), 0.9), threshold=torch.ones(20), **options),
        torch.nn.Linear(20, 6),
        snn.Leaky(beta=torch.full((6,), 0.75), threshold=torch.ones(6), output=True, **options),
    )
    for layer in (network[0], network[2]):
        torch.nn.init.uniform_(layer.weight, -0.2, 0.6)

    inputs = (torch.rand(SAMPLES, TIMESTEPS, FEATURES) < 0.3).float()
    outputs = []
    for sample in inputs:
        for module in network:
            if isinstance(module, snn.Leaky):
                module.reset_mem()
        with torch.no_grad():
            outputs.append(torch.stack([network(frame[None])[0][0] for frame in sample]))
    save(folder, export_to_nir(network, inputs[0, 0]), inputs, torch.stack(outputs), DT)


if __name__ == "__main__":
    main(named_folder(__doc__))
