"""What the scripts beside this one write: the network as a NIR file, and what its own framework makes of an input."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import nir
import numpy as np
import torch


def named_folder(description: str | None) -> Path:
    """The folder that the command line names.

    Args:
        description: What the script does.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder for network.nir and spikes.npz")
    folder: Path = parser.parse_args().out
    return folder


def save(folder: Path, graph: nir.NIRGraph, inputs: torch.Tensor, outputs: torch.Tensor, dt: float) -> None:
    """Write ``network.nir`` and ``spikes.npz``.

    Args:
        folder: Made if need be.
        graph: As the framework's exporter returns it.
        inputs: (N, T, ...), zeros and ones.
        outputs: (N, T, F), the framework's spikes.
        dt: A step in the file's unit of time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for node in graph.nodes.values():
        _make_writable(node)
    nir.write(folder / "network.nir", graph)
    np.savez_compressed(
        folder / "spikes.npz",
        input=inputs.numpy().astype(np.uint8),
        output=outputs.numpy().astype(np.bool_),
        dt=dt,
    )


def _make_writable(node: nir.NIRNode) -> None:
    """Some exporters leave tensors, scalars, or an input_shape of None, none of which nir.write can write."""
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if isinstance(value, torch.Tensor):
            value = value.detach().numpy()
        if isinstance(value, np.ndarray):
            setattr(node, field.name, np.atleast_1d(value))
        elif value is None and field.name == "input_shape":
            node.input_shape = ()
