"""Write a recurrent network of snnTorch's ``RSynaptic`` neurons as a NIR file, with an input and snnTorch's spikes.

    python examples/nir/snntorch_recurrent_network.py OUT

A spike of snnTorch's takes the threshold from the potential a step late, which NIR cannot say: the metadata of the
neurons do. snnTorch's steps are 0.1 ms in NIR.
"""

from __future__ import annotations

from pathlib import Path

import nir
import torch
from files import named_folder, save

try:
    import snntorch as snn
    from snntorch.export_nir import export_to_nir
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}; pip install 'resformer[frameworks]' installs it") from None

DT = 1e-4
TIMESTEPS, SAMPLES, FEATURES, HIDDEN, CLASSES = 16, 4, 14, 20, 6


class Network(torch.nn.Module):
    """Linear, recurrent current-based neurons, linear, leaky neurons; each layer of neurons keeps its own state."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = torch.nn.Linear(FEATURES, HIDDEN)
        self.recurrent = snn.RSynaptic(
            alpha=torch.linspace(0.5, 0.9, HIDDEN),
            beta=torch.linspace(0.95, 0.6, HIDDEN),
            threshold=torch.linspace(1.0, 2.0, HIDDEN),
            linear_features=HIDDEN,
            init_hidden=True,
        )
        self.fc2 = torch.nn.Linear(HIDDEN, CLASSES)
        self.out = snn.Leaky(
            beta=torch.full((CLASSES,), 0.75), threshold=torch.ones(CLASSES), init_hidden=True, output=True
        )

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        """The spikes of one step."""
        spikes: torch.Tensor = self.out(self.fc2(self.recurrent(self.fc1(frame))))[0]
        return spikes


def main(folder: Path) -> None:
    """Write ``network.nir`` and ``spikes.npz`` (input (N, T, F), output (N, T, F), dt)."""
    torch.manual_seed(3)
    network = Network()
    torch.nn.init.uniform_(network.fc1.weight, -0.3, 0.5)
    torch.nn.init.uniform_(network.recurrent.recurrent.weight, -0.6, 0.4)
    torch.nn.init.uniform_(network.fc2.weight, -0.3, 0.5)
    inputs = (torch.rand(SAMPLES, TIMESTEPS, FEATURES) < 0.3).float()
    outputs = []
    for sample in inputs:
        network.recurrent.reset_mem()
        network.out.reset_mem()
        with torch.no_grad():
            outputs.append(torch.stack([network(frame[None])[0] for frame in sample]))
    graph = export_to_nir(network, inputs[0, 0])
    for node in graph.nodes.values():
        if isinstance(node, nir.CubaLIF | nir.LIF):
            node.metadata["reset"] = "late"
    save(folder, graph, inputs, torch.stack(outputs), DT)


if __name__ == "__main__":
    main(named_folder(__doc__))
